"""Nights in which something is away for a while, nightcrew itself too: nothing is paid twice, lost or blamed."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.household import PATIENCE, WORK, Night

pytestmark = pytest.mark.slow
HANG = ({"say": "thinking"}, "hang")
AN_HOUR = 3600.0


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """A folder with one repository."""
    made = Night(tmp_path / "home")
    made.repo("good")
    return made


def use(tokens: int) -> dict[str, Any]:
    return {"usage": {"input": tokens, "turns": 1}}


def work(ticket: str) -> list[Any]:
    made: list[Any] = json.loads(json.dumps(WORK).replace("{ticket}", ticket))
    return made


def limit() -> dict[str, Any]:
    """The provider says no, and until when."""
    return {"result": {"outcome": "rate_limited", "text": "session limit", "resets_at": time.time() + AN_HOUR}}


def killed(night: Night, point: str) -> None:
    """`nightcrew up`, ended by SIGKILL at that point."""
    argv = [sys.executable, "-m", "nightcrew.testing.crashing", "--at", point, "--", "up", "--until-idle"]
    done = subprocess.run(argv, cwd=night.home, env=night.environ(), capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def started(night: Night, number: int) -> bool:
    """Whether the agent of that attempt was started."""
    return any(night.state.glob(f"attempts/*/{number}/try-0/handle.json"))


def interrupted(night: Night, process: subprocess.Popen[str]) -> None:
    """Ctrl-C, waited for."""
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE)


def test_a_kill_after_the_days_cap_ended_a_session_costs_its_ticket_nothing(night: Night) -> None:
    night.attempt += "[limits.day]\ntokens = 1000\n"
    night.ticket("K-1", "good", use(1200), *HANG)
    killed(night, "collect:before")
    assert night.attempts("K-1") == [""]
    with night.up():
        night.until(lambda: night.attempts("K-1")[:1] != [""] and night.runs()["K-1"] != "working")
    assert night.attempts("K-1") == ["token_cap"]
    assert night.sql("SELECT state, consumed FROM runs") == [("queued", 0)]
    assert night.sql("SELECT count(*), sum(input) FROM spend") == [(1, 1200)]


def test_a_session_that_goes_on_and_says_nothing_is_still_that_session_after_ctrl_c_twice(night: Night) -> None:
    mute, script = night.home / "mute", shlex.quote(str(night.home / "script.json"))
    agent = night.file("agent.sh", (
        f'#!/bin/sh\n[ -n "$NIGHTCREW_RESUME" ] && [ -e {shlex.quote(str(mute))} ] && exec tail -f /dev/null\n'
        f"exec {shlex.quote(sys.executable)} -m nightcrew.testing.scripted_agent {script}\n"
    ))  # fmt: skip
    agent.chmod(0o755)
    night.agent("scripted", [str(agent)])
    night.scenes["K-1"] = {"attempts": [[use(5), *HANG]], "on_resume": {"attempts": [work("K-1")]}}
    night.ticket("K-1", "good")
    with night.up() as up:
        night.until(lambda: "thinking" in str(night.sql("SELECT last FROM attempts")))
        interrupted(night, up)
    ((session,),) = night.sql("SELECT session_id FROM runs")
    assert session
    mute.touch()
    for number in (2, 3):
        with night.up() as up:
            night.until(partial(started, night, number))
            interrupted(night, up)
        assert night.sql("SELECT session_id, consumed FROM runs") == [(session, 0)]
    mute.unlink()
    assert night.run("up", "--until-idle").code == 0
    assert night.runs() == {"K-1": "in_review"}
    assert set(night.sql("SELECT session_id FROM attempts")) == {(session,)}


def test_a_kill_after_a_lane_was_parked_does_not_let_its_session_go_on_in_the_owners_share(night: Night) -> None:
    night.limits += "keep_back = 0.2\n"
    marks = night.home / "went-on"
    windows = [{"window": {"name": "five_hour", "used": used, "resets_in": 2 * AN_HOUR}} for used in (0.5, 0.95)]
    night.scenes["K-1"] = {
        "attempts": [[use(5), *windows, *HANG]],
        "on_resume": {"attempts": [[{"run": f"touch {shlex.quote(str(marks))}"}, *HANG]]},
    }
    night.ticket("K-1", "good")
    killed(night, "start_agent:after")
    assert night.sql("SELECT state FROM lanes") == [("limited",)]
    assert night.attempts("K-1") == [""]
    with night.up():
        night.until(lambda: marks.exists() or (night.runs()["K-1"] == "queued" and night.attempts("K-1") != [""]))
    assert not marks.exists()
    assert night.attempts("K-1") == ["rate_limited"]
    ((kept, consumed),) = night.sql("SELECT session_id, consumed FROM runs")
    assert (bool(kept), consumed) == (True, 0)


def test_what_a_worker_used_is_its_own_lanes_when_its_review_is_limited(night: Night) -> None:
    night.repos["good"] = '[repos.gates]\nreview = "reviewer"\n'
    night.agent("reviewer")
    night.script = {"review": {"attempts": [[limit()]]}}
    night.ticket("K-1", "good", use(5000), *WORK)
    with night.up():
        night.until(lambda: night.runs().get("K-1") == "queued" and night.attempts("K-1") == ["rate_limited"])
    assert night.sql("SELECT lane, input FROM spend") == [("scripted", 5000)]
    assert night.sql("SELECT name, state FROM lanes WHERE state != 'up'") == [("reviewer", "limited")]


def test_resume_by_hand_opens_no_lane_that_is_limited_until_a_stated_reset(night: Night) -> None:
    night.agent("other")
    night.ticket("K-1", "good", limit())
    with night.up():
        night.until(lambda: night.sql("SELECT state FROM lanes WHERE name = 'scripted'") == [("limited",)])
        assert night.run("pause").code == 0
        night.until(lambda: night.sql("SELECT value FROM meta WHERE key = 'paused'") == [("true",)])
        night.ticket("K-2", "good", labels=["agent:other"])
        assert night.run("resume").code == 0
        night.until(lambda: night.runs().get("K-2") == "in_review")  # K-1 would have started before it
    assert (night.attempts("K-1"), night.attempts("K-2")) == (["rate_limited"], ["done"])
    assert night.sql("SELECT state FROM lanes WHERE name = 'scripted'") == [("limited",)]


def test_work_that_was_finished_is_not_done_again_after_its_repository_was_away(night: Night) -> None:
    here, away = night.home / "good", night.home / "away"
    leave = {"run": f"mv {shlex.quote(str(here))} {shlex.quote(str(away))}"}
    night.ticket("K-1", "good", *WORK, leave)
    with night.up():
        night.until(lambda: night.attempts("K-1")[:2] == ["infra", "infra"])  # the second in its preparation
        away.rename(here)
        night.until(lambda: night.runs()["K-1"] == "in_review")
    assert len(list(night.state.glob("attempts/*/*/try-*/stdout"))) == 1
    assert night.sql("SELECT consumed FROM runs") == [(1,)]
