"""What rows of attempts tell about memory, asked of a real database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightcrew.core.model import Attempt, Run
from nightcrew.core.outcome import Outcome
from nightcrew.store import Store, engine_for, memory

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
MB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(engine_for("", tmp_path))
    made.migrate()
    yield made
    made.close()


def attempt(
    store: Store, key: str, began: int, ended: int | None = None, outcome: str = "done", **more: object
) -> None:
    """One attempt of a run of its own, times in minutes from now."""
    run = Run(f"b:{key}", "b", key, key, key)
    store.add_run(run)
    at = NOW + timedelta(minutes=began)
    one = Attempt(run.id, 1, "claude", "", "", resume=False, fence=1, phase="session", started_at=at)
    assert store.start_attempt(run, one)
    if ended is not None:
        fields = {"outcome": outcome, "ended_at": NOW + timedelta(minutes=ended), **more}
        store.finish_attempt(Attempt(run.id, 1, "claude", "", "", resume=False, fence=1, started_at=at, **fields))


def test_those_at_work_hold_a_slot_and_those_in_gates_do_not(store: Store):
    attempt(store, "1", -5)
    attempt(store, "2", -4)
    store.update_attempt("b:2", 1, phase="gates")
    attempt(store, "3", -9, -8)
    assert memory.at_work(store) == [("b:1", "claude")]


def test_only_sessions_that_worked_are_measured_the_newest_first(store: Store):
    for n, outcome in enumerate(Outcome):
        attempt(store, str(n), n - 100, n - 99, outcome.value, peak_memory=(n + 1) * MB)
    attempt(store, "unmeasured", -2, -1)
    peaks = memory.measured(store, ("claude", "codex"), limit=50)
    order = list(Outcome)
    assert [order[peak // MB - 1] for peak in peaks["claude"]][::-1] == [
        Outcome.DONE, Outcome.GATE_FAILED, Outcome.NO_CHANGE, Outcome.BLOCKED, Outcome.TURN_LIMIT, Outcome.CONTEXT_FULL,
        Outcome.TOKEN_CAP, Outcome.MONEY_CAP, Outcome.STALLED, Outcome.TIMED_OUT, Outcome.CRASHED,
    ]  # fmt: skip
    assert peaks["codex"] == []
    assert len(memory.measured(store, ("claude",), limit=3)["claude"]) == 3


def test_a_kill_for_memory_tells_how_many_ran_then(store: Store):
    attempt(store, "early", -60, -50)
    attempt(store, "beside", -40, -5)
    attempt(store, "killed", -30, -10, "crashed", oom=True, peak_memory=700 * MB)
    attempt(store, "still", -20)
    attempt(store, "late", -2)
    kills = memory.killed_since(store, NOW - timedelta(hours=1))
    assert kills == [memory.Killed("claude", NOW - timedelta(minutes=10), 700 * MB, 3)]
    assert memory.killed_since(store, NOW) == []
