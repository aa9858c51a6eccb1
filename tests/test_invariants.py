"""What nightcrew must never do (docs/design.md, 1), where no other test holds it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightcrew import proc
from nightcrew.adapters.agents.command import Command
from nightcrew.adapters.forges.local import LocalForge
from nightcrew.core.model import Attempt, Budget, Lane, Repo, Run, RunState
from nightcrew.core.outcome import Outcome
from nightcrew.errors import Fenced
from nightcrew.git import Hub
from nightcrew.ports import Task
from nightcrew.stages import publish
from nightcrew.stages.session import Live, run_session
from nightcrew.store import Store, engine_for
from nightcrew.views import status_rows
from tests.conftest import Repository

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
RUN = Run("folder:T-1", "folder", "T-1", "T-1", "One", repo="app", branch="nightcrew/t-1-0a1b2c3d")
FIRST = Attempt(RUN.id, 1, "claude", "", "", False, 1, outcome="done", evidence="all gates passed")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(engine_for("", tmp_path))
    store.migrate()
    store.add_run(RUN)
    yield store
    store.close()


def taken_over(store: Store) -> Run:
    """The run after its first attempt was given up and a second one began; returns it as the first one knew it."""
    assert store.start_attempt(RUN, FIRST)
    known = store.named(RUN.id)
    assert known
    assert store.save_run(replace(known, state=RunState.QUEUED))
    assert store.start_attempt(replace(known, state=RunState.QUEUED), replace(FIRST, number=2, fence=2))
    return known


def test_a_run_that_was_taken_over_takes_no_late_result(store: Store) -> None:
    known = taken_over(store)
    with pytest.raises(Fenced):
        store.check_fence(RUN.id, FIRST.fence)
    assert not store.save_run(replace(known, state=RunState.IN_REVIEW, pull_request=7))
    store.settle(replace(known, state=RunState.IN_REVIEW, pull_request=7), FIRST, [Lane("claude")])
    now = store.named(RUN.id)
    assert now
    assert (now.state, now.fence, now.pull_request) == (RunState.WORKING, 2, 0)
    assert store.check_fence(RUN.id, 2) == now


async def ready(repo: Repository, tmp_path: Path) -> tuple[Hub, LocalForge, Repo, publish.Publication]:
    """A hub with finished work in it, and where it is to go."""
    base = repo.sha()
    repo.git("switch", "-q", "-c", "work")
    head = repo.commit("Work", new_txt="new\n")
    repo.git("switch", "-q", "main")
    hub = Hub(tmp_path / "hub.git", str(repo.path))
    await hub.ensure()
    assert await hub.fetch_base("main") == base
    assert await hub.fetch_base("work") == head
    repo.git("branch", "-q", "-D", "work")
    await publish.ensure_claim(hub, RUN.branch, "crew")
    return hub, LocalForge("local", {}, tmp_path), Repo("app", str(repo.path)), publish.Publication(
        RUN.branch, head, "Title", "Body"
    )  # fmt: skip


async def test_publishing_twice_opens_one_pull_request(repo: Repository, tmp_path: Path) -> None:
    hub, forge, where, what = await ready(repo, tmp_path)
    first = await publish.publish(hub, forge, where, what, "crew", lambda: None)
    again = await publish.publish(hub, forge, where, replace(what, body="Better"), "crew", lambda: None)
    assert (again.number, again.body.strip()) == (first.number, "Better")
    assert [p.number for p in await forge.list(where)] == [first.number]
    assert repo.sha(RUN.branch) == what.head


async def test_a_fenced_attempt_moves_no_ref_and_opens_nothing(repo: Repository, tmp_path: Path, store: Store) -> None:
    hub, forge, where, what = await ready(repo, tmp_path)
    taken_over(store)
    before = repo.git("show-ref")
    with pytest.raises(Fenced):
        await publish.publish(hub, forge, where, what, "crew", lambda: store.check_fence(RUN.id, FIRST.fence))
    assert repo.git("show-ref") == before
    assert await forge.list(where) == []


async def test_a_session_that_passes_its_token_cap_is_ended(tmp_path: Path) -> None:
    told = json.dumps({"type": "usage", "input": 5000})
    program = f"import time\nprint({told!r}, flush=True)\ntime.sleep(600)\n"
    agent = Command("mine", {"command": [sys.executable, "-c", program]})
    task = Task(tmp_path, "do it", tmp_path, "session")
    mark = f"cap-{os.getpid()}:"
    heard = await run_session(
        agent.launch(task), tmp_path, proc.base_env(), mark, tmp_path / "out", Budget(tokens=1000), Live()
    )
    assert (heard.stop, heard.seconds < 30) == (Outcome.TOKEN_CAP, True)
    assert "5,000 tokens used" in heard.why
    assert proc.leftovers(mark) == []


def test_status_says_when_a_session_was_last_heard() -> None:
    run = replace(RUN, state=RunState.WORKING, attempts=1)
    attempt = replace(FIRST, outcome="", phase="session", last="running the tests", heard_at=NOW - timedelta(seconds=7))
    (row,) = status_rows([run], [attempt], {}, NOW, ["claude"], ["app"])
    assert row["doing"] == "working: running the tests, heard 7 s ago"
    (silent,) = status_rows([run], [replace(attempt, heard_at=None)], {}, NOW, ["claude"], ["app"])
    assert "heard" not in silent["doing"]
