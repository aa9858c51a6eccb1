"""kill -9 of nightcrew at one point, start again, and look: as if nothing had happened."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from nightcrew.stages import workspace
from nightcrew.testing.crashing import POINTS, STEPS
from tests.durable.world import World

pytestmark = pytest.mark.slow
KILLED = -signal.SIGKILL
WRITES = [point for point in POINTS if point not in ("create_table", "order", "rename", "rescue", "unmake")]


def assert_as_if_nothing_had_happened(world: World, *keys: str) -> None:
    verdict = world.verdict()
    assert verdict.lost == []
    assert verdict.processes_left == []
    assert (verdict.pull_requests, verdict.duplicates, verdict.branches) == (len(keys), 0, len(keys))
    assert verdict.states == {"in_review": len(keys)}
    assert verdict.attempts == dict.fromkeys(keys, (1, 1))
    assert [world.board(key) for key in keys] == ["in review"] * len(keys)
    assert all(not run.workspace for run in world.runs().values())


@pytest.mark.parametrize("point", [*STEPS, *WRITES])
def test_killed_before_and_after_a_write_and_started_again(world: World, point: str) -> None:
    world.make()
    for when in ("before", "after"):
        died = world.up(at=f"{point}:{when}")
        assert died.returncode == KILLED, died.stderr
    last = world.up()
    assert last.returncode == 0, last.stderr
    assert_as_if_nothing_had_happened(world, "K-1")


@pytest.mark.parametrize("point", ["clean", "rescue", "unmake"])
def test_killed_while_the_workspace_of_an_unpublished_ticket_is_removed(world: World, point: str) -> None:
    world.make(
        script=[{"run": "echo one >>a.txt"}, {"commit": "half"}, {"run": "echo two >>b.txt"}, {"result": "refused"}]
    )
    for when in ("before", "after"):
        died = world.up(at=f"{point}:{when}")
        assert died.returncode == KILLED, died.stderr
    assert world.up().returncode == 0
    verdict = world.verdict()
    assert (verdict.states, verdict.pull_requests, verdict.branches) == ({"failed": 1}, 0, 0)
    assert verdict.lost == []
    assert verdict.processes_left == []
    rescues = world.run("rescue", "list", "--json").stdout
    assert rescues.count("refs/nightcrew/rescue/") == 1
    assert not world.runs()["K-1"].workspace


@pytest.mark.parametrize("kind", ["the fastest", "checkout", "worktree"])
def test_killed_after_every_rename_in_turn_it_gets_there(world: World, tmp_path: Path, kind: str) -> None:
    """Hubs, templates, trees and trash are put in place and away by renames; between two of them all is half done."""
    kind = asyncio.run(workspace.choose(tmp_path / "proof")) if kind == "the fastest" else kind
    world.make(workspace=kind)
    lives = 1
    while (life := world.up(at="rename:after")).returncode == KILLED and lives < 30:
        lives += 1
    assert life.returncode == 0, life.stderr
    assert lives > 2
    assert_as_if_nothing_had_happened(world, "K-1")
    assert world.mounts() == []
    assert list((world.home / ".nightcrew/workspaces/.nightcrew/records").iterdir()) == []


def test_killed_in_mid_session_the_same_session_goes_on_and_no_commit_is_lost(world: World) -> None:
    world.make(waits=60)
    first = world.start("up", "--until-idle")
    world.reach(lambda w: len(w.told()) == 1)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == KILLED
    assert world.up().returncode == 0
    assert_as_if_nothing_had_happened(world, "K-1")
    assert len(world.told()) == 3  # one before the kill, two after
    assert world.sessions() == {world.attempts("K-1")[0].session_id}


def test_an_agent_that_ended_while_nightcrew_was_dead_is_not_asked_again(world: World) -> None:
    world.make(waits=0.6)
    first = world.start("up", "--until-idle")
    world.reach(lambda w: len(w.told()) == 1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    world.reach(lambda w: any(w.tries("rc")))
    assert world.up().returncode == 0
    assert_as_if_nothing_had_happened(world, "K-1")
    assert len(world.told()) == 2
    assert len(world.tries("stdout")) == 1


@pytest.mark.parametrize("milliseconds", [100, 250, 400, 550, 700, 850, 1000, 1300])
def test_killed_in_the_first_second_of_its_life_it_starts_the_next_time(world: World, milliseconds: int) -> None:
    world.make()
    first = world.start("up", "--until-idle")
    world.wait(first, milliseconds / 1000)
    first.kill()
    first.wait()
    last = world.up()
    assert last.returncode == 0, last.stderr
    assert_as_if_nothing_had_happened(world, "K-1")
