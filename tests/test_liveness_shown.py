"""Status says how a session is, and the evidence it rests on (I8)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightcrew.core.liveness import Life, Verdict
from nightcrew.core.model import Attempt, Run, RunState
from nightcrew.stages.session import TELL_EVERY, Live
from nightcrew.views import status_rows
from tests.e2e.household import Night

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
RUN = Run("folder:A-1", "folder", "A-1", "A-1", "Do it", "app", state=RunState.WORKING, attempts=1, created_at=NOW)
ATTEMPT = Attempt(RUN.id, 1, "claude", "", "s", False, 1, phase="session", last="make test",
                  heard_at=NOW - timedelta(seconds=340))  # fmt: skip


def doing(attempt: Attempt) -> str:
    (row,) = status_rows([RUN], [attempt], {}, NOW, ["claude"], ["app"])
    return str(row["doing"])


def test_a_session_that_does_not_speak_is_shown_with_what_shows_that_it_lives() -> None:
    signs = "no event for 338 s, but its tree used CPU 2 s ago: cc1plus"
    assert doing(replace(ATTEMPT, liveness="waiting_on_tool", signs=signs)) == (
        f"waits for a tool: make test, heard 6 min ago ({signs})"
    )
    assert doing(replace(ATTEMPT, liveness="working")) == "working: make test, heard 6 min ago"


@pytest.mark.parametrize(
    ("life", "words"),
    [("silent", "silent: "), ("zombie", "dead: "), ("waiting_on_prompt", "waits at a dialog: "), ("?", "working: ")],
)
def test_a_session_that_never_spoke_is_shown_too_and_signs_draw_nothing_on_a_terminal(life: str, words: str) -> None:
    shown = doing(replace(ATTEMPT, heard_at=None, liveness=life, signs="running: \x1b[2Jx"))
    assert shown.startswith(words + "no event yet (running: ")
    assert "\x1b" not in shown


def test_evidence_is_written_down_when_it_is_news_and_then_rarely() -> None:
    live = Live()
    assert live.tells(0) == {}
    live.verdict = Verdict(Life.WORKING, "an event 0 s ago")
    assert live.tells(1) == {"liveness": "working", "signs": ""}
    assert live.tells(1000) == {}
    live.verdict = Verdict(Life.SILENT, "no event for 500 s")
    assert live.tells(1001) == {"liveness": "silent", "signs": "no event for 500 s"}
    assert live.tells(1001 + TELL_EVERY / 2) == {}
    assert live.tells(1001 + TELL_EVERY) == {"liveness": "silent", "signs": "no event for 500 s"}


@pytest.mark.slow
def test_a_night_shows_what_a_silent_agent_does_and_ends_a_dialog_nobody_answers(tmp_path: Path) -> None:
    night = Night(tmp_path / "night", attempt="prompt_seconds = 20\n")
    night.repo("shop")
    night.agent("asker", ["/bin/sh", "-c", "printf 'Continue? [y/N] ' >&2; sleep 1000"])
    night.ticket("QUIET-1", "shop", labels=["agent:asker"])
    night.ticket("WORK-1", "shop", {"run": "while :; do :; done"})
    with night.up():
        night.until(lambda: bool(night.sql("SELECT 1 FROM attempts WHERE liveness = 'waiting_on_prompt'")))
        night.until(lambda: any("used CPU" in row[0] for row in night.sql("SELECT signs FROM attempts")))
        said = {row["ticket"]: row["doing"] for row in night.status()["tickets"]}
        assert "but its tree used CPU" in said["WORK-1"]
        night.until(lambda: night.attempts("QUIET-1") != [""])
    assert night.attempts("QUIET-1") == ["prompt_wait"]
    assert "Continue? [y/N]" in night.show("QUIET-1")["attempts_list"][0]["evidence"]
