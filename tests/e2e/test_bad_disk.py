"""A disk that is full or read-only: one sentence, no attempt is lost, and the work goes on when there is room."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.household import Disk, Night

pytestmark = pytest.mark.slow
ALONE = "the file system of one process can only be changed on Linux"
needs_disk = pytest.mark.skipif(sys.platform != "linux", reason=ALONE)


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """A folder with one good repository."""
    made = Night(tmp_path / "home")
    made.repo("good")
    return made


def read_only(night: Night) -> Iterator[None]:
    """Make the state directory read-only for the command line, by what this user is subject to."""
    if os.geteuid() == 0:
        with Disk(night.state, Disk.READ_ONLY) as night.disk:
            yield
        night.disk = None
    else:
        night.state.chmod(0o500)
        yield
        night.state.chmod(0o700)


@pytest.mark.parametrize(
    "command", [["up", "--once"], ["status"], ["report"], ["stop", "ONE"], ["pause"]], ids=" ".join
)
def test_a_state_directory_that_is_read_only_is_said_with_its_path(night: Night, command: list[str]):
    night.ticket("ONE", "good")
    assert night.run("up", "--once").code == 0
    for _ in read_only(night):
        said = night.run(*command)
    assert said.code == 1
    assert f"The state directory {night.state} is read-only. Make it writable" in said.sentence
    assert night.runs() == {"ONE": "in_review"}


@needs_disk
@pytest.mark.parametrize("command", [["up", "--once"], ["status"]], ids=" ".join)
def test_a_full_disk_at_the_start_is_one_sentence(night: Night, command: list[str]):
    night.ticket("ONE", "good")
    with Disk(night.state, Disk.FULL % "3m") as night.disk:
        filler = night.disk.fill()
        said = night.run(*command)
        assert said.code == 1
        assert "disk is full" in said.sentence or "No space left" in said.sentence
        filler.unlink()
        assert night.run("up", "--once").code == 0
        assert night.runs() == {"ONE": "in_review"}


@needs_disk
def test_a_disk_that_fills_up_in_a_session_costs_no_attempt_and_the_work_goes_on_after_it(night: Night):
    go = night.home / "go"
    waiter = f"while ! test -e {go}; do sleep 0.05; done; echo more; echo $$ > it.txt; git add -A; git commit -qm it; :"
    night.agent("waiter", ["/bin/sh", "-c", waiter])
    night.ticket("ONE", "good", labels=["agent:waiter"])
    with Disk(night.state, Disk.FULL % "12m") as night.disk, night.up() as up:
        night.until(lambda: list(night.seen(night.state).glob("attempts/*/1/try-0/stdout")) != [])
        filler = night.disk.fill()
        go.touch()
        night.until(lambda: "disk is full" in (night.home / "up.err").read_text())
        assert up.poll() is None
        assert night.runs() == {"ONE": "working"}
        filler.unlink()
        night.until(lambda: night.runs() == {"ONE": "in_review"})
        assert night.show("ONE")["consumed"] <= 1
        assert "Traceback" not in (night.home / "up.err").read_text()


@needs_disk
def test_a_crew_whose_disk_is_full_can_be_stopped_and_finishes_at_the_next_start(night: Night):
    go = night.home / "go"
    waiter = f"while ! test -e {go}; do sleep 0.05; done; echo $$ > it.txt; git add -A; git commit -qm it"
    night.agent("waiter", ["/bin/sh", "-c", waiter])
    night.ticket("ONE", "good", labels=["agent:waiter"])
    with Disk(night.state, Disk.FULL % "12m") as night.disk:
        with night.up() as up:
            night.until(lambda: list(night.seen(night.state).glob("attempts/*/1/try-0/stdout")) != [])
            filler = night.disk.fill()
            go.touch()
            night.until(lambda: "disk is full" in (night.home / "up.err").read_text())
            up.send_signal(signal.SIGTERM)
            assert up.wait(20) == 0
        filler.unlink()
        assert night.run("up", "--until-idle").code == 0
        assert night.runs() == {"ONE": "in_review"}


@needs_disk
def test_a_workspace_that_does_not_fit_stops_only_its_own_ticket(night: Night):
    big = night.repo("big")
    (big.path / "big.bin").write_bytes(os.urandom(6 << 20))
    big.commit("big")
    night.crew = 'workspaces_dir = "work"\n'
    night.ticket("BIG-1", "big", priority=1)
    night.ticket("ONE", "good")
    night.ticket("TWO", "good")
    with Disk(night.home / "work", Disk.FULL % "4m") as night.disk:
        assert night.run("up", "--once").code == 0
        rows = {row["ticket"]: row for row in night.status()["tickets"]}
        assert len(night.attempts("BIG-1")) <= 3
    assert (rows["ONE"]["state"], rows["TWO"]["state"], rows["BIG-1"]["state"]) == ("in_review", "in_review", "queued")
    assert "unable to write file big.bin. Make room on the disk" in rows["BIG-1"]["doing"]
