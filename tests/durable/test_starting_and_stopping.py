"""One nightcrew at a time; a stop in order; a pause of the whole process; an upgrade between two starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from nightcrew.store import Store, engine_for
from tests.durable.test_kill_points import KILLED, assert_as_if_nothing_had_happened
from tests.durable.world import World

pytestmark = pytest.mark.slow
TALKING = [{"stream": {"lines_per_second": 20, "seconds": 60}}]


def half_done(world: World) -> bool:
    return len(world.told()) == 1


def one_sentence(said: subprocess.CompletedProcess[str]) -> str:
    assert said.returncode == 3, said
    assert len(said.stderr.strip().splitlines()) == 1, said.stderr
    return said.stderr


def test_a_second_one_says_so_and_leaves_the_first_at_work(world: World) -> None:
    gate = f"until [ -e '{world.home}/go' ]; do sleep 0.05; done"
    begun = [{"run": "date >>a.txt"}, {"commit": "half"}]
    world.make(script=[*begun, {"run": gate}, {"run": "date >>b.txt"}, {"commit": "whole"}])
    first = world.start("up", "--until-idle")
    world.reach(half_done)
    said = one_sentence(world.run("up"))
    assert f"already up on {world.home / '.nightcrew'} (process {first.pid})" in said
    (world.home / ".nightcrew" / "lock").unlink()  # it only says who; the lock is the directory's
    assert f"already up on {world.home / '.nightcrew'} (process " in one_sentence(world.run("up"))
    (world.home / "go").touch()
    assert first.wait(60) == 0
    assert_as_if_nothing_had_happened(world, "K-1")


def test_looking_at_the_status_all_the_time_keeps_nobody_from_starting(world: World) -> None:
    world.make()
    looks = [world.start("status") for _ in range(4)]
    assert world.up().returncode == 0
    assert [look.wait(30) for look in looks] == [0] * 4
    assert_as_if_nothing_had_happened(world, "K-1")


@pytest.mark.postgres
def test_a_second_one_with_another_state_directory_on_the_same_server_says_so(
    worlds: Callable[[str, str], World], postgres_url: str
) -> None:
    world, other = worlds("one", postgres_url).make(waits=60), worlds("two", postgres_url).make()
    first = world.start("up")
    world.reach(half_done)
    assert "already up on this database" in one_sentence(other.run("up"))
    first.kill()
    first.wait()
    assert world.up().returncode == 0  # the dead one's lock went with it
    assert_as_if_nothing_had_happened(world, "K-1")


@pytest.mark.postgres
def test_one_whose_connection_to_the_server_broke_takes_its_lock_again(
    worlds: Callable[[str, str], World], postgres_url: str
) -> None:
    store = Store(engine_for(postgres_url, worlds("one", postgres_url).make().home))
    with store.alone() as held:
        assert held is not None
        with store.engine.connect() as other:
            other.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        assert held.still()
        with store.alone() as second:
            assert second is None
    store.close()


def test_after_sigterm_the_same_session_goes_on(world: World) -> None:
    world.make(waits=60)
    first = world.start("up")
    world.reach(half_done)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    assert world.verdict().processes_left == []
    waiting = world.runs()["K-1"]
    assert (waiting.state, waiting.not_before, waiting.outages) == ("queued", None, 0)
    assert world.up().returncode == 0
    verdict = world.verdict()
    assert (verdict.pull_requests, verdict.lost, verdict.attempts) == (1, [], {"K-1": (2, 1)})
    first_try, second_try = world.attempts("K-1")
    assert (first_try.outcome, second_try.outcome) == ("infra", "done")
    assert world.sessions() == {first_try.session_id} == {second_try.session_id}


def test_a_second_sigterm_leaves_at_once_and_nothing_is_lost(world: World) -> None:
    world.make(script=[{"deaf": {}}, {"run": "echo one >>a.txt"}, {"commit": "half"}, {"wait": 60}])
    first = world.start("up")
    world.reach(half_done)
    first.send_signal(signal.SIGTERM)
    world.reach(lambda w: "Stopping" in (w.home / "up.log").read_text())
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 128 + signal.SIGTERM
    world.play([{"run": "echo two >>a.txt"}, {"commit": "whole"}])
    assert world.up().returncode == 0
    verdict = world.verdict()
    assert (verdict.pull_requests, verdict.lost, verdict.processes_left) == (1, [], [])


def test_a_stopped_and_continued_nightcrew_calls_nobody_stalled(world: World) -> None:
    world.make(script=TALKING, limits="\n[limits.attempt]\nstall_seconds = 1\n")
    first = world.start("up", "--until-idle")
    world.reach(lambda w: any(path.stat().st_size > 1000 for path in w.tries("stdout")))
    first.send_signal(signal.SIGSTOP)
    world.wait(first, 3)
    first.send_signal(signal.SIGCONT)
    world.wait(first, 2)  # time for a hasty verdict
    assert [a.outcome for a in world.attempts("K-1")] == [""]
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    world.play([{"run": "echo one >>a.txt"}, {"commit": "whole"}])
    assert world.up().returncode == 0
    verdict = world.verdict()
    assert (verdict.pull_requests, verdict.lost, verdict.attempts) == (1, [], {"K-1": (2, 1)})


def as_version_0(world: World, at: str) -> int:
    """Run `up` as a nightcrew of another version; its exit code."""
    older = (
        "import nightcrew.durable as d; d.VERSION = 'attempt-0'; from nightcrew.testing.crashing import main; main()"
    )
    argv = [sys.executable, "-c", older, *world.argv("up", "--until-idle", at=at)[3:]]
    return subprocess.run(argv, capture_output=True, cwd=world.home, check=False, timeout=60).returncode


def test_what_another_version_left_is_given_back_and_done(world: World) -> None:
    world.make()
    assert as_version_0(world, at="gates:before") == KILLED
    assert world.up().returncode == 0
    verdict = world.verdict()
    assert (verdict.pull_requests, verdict.lost, verdict.attempts) == (1, [], {"K-1": (2, 1)})
    assert "version attempt-0" in world.attempts("K-1")[0].evidence
    assert as_version_0(world, at="settle:before") == 0  # it finds nothing to take up
    assert world.verdict().pull_requests == 1


def test_a_workflow_that_the_engine_has_lost_is_started_again(world: World) -> None:
    world.make()
    assert world.up(at="start_workflow:before").returncode == KILLED
    assert world.attempts("K-1")[0].phase == "starting"
    assert world.up().returncode == 0
    assert_as_if_nothing_had_happened(world, "K-1")


def test_an_order_outlives_a_kill(world: World) -> None:
    world.make()
    assert world.up(at="start_attempt:before").returncode == KILLED
    assert world.run("stop", "K-1").returncode == 0
    assert world.up(at="order:before").returncode == KILLED
    assert world.up().returncode == 0
    assert world.verdict().states == {"cancelled": 1}
    assert world.board("K-1") == "blocked"
    assert world.told() == []


def test_a_stop_that_was_ordered_before_a_kill_ends_the_session_it_was_meant_for(world: World) -> None:
    world.make(waits=60)
    first = world.start("up")
    world.reach(half_done)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert world.run("stop", "K-1").returncode == 0
    assert world.up(at="finish_attempt:before").returncode == KILLED
    assert world.up().returncode == 0
    verdict = world.verdict()
    assert (verdict.states, verdict.pull_requests, verdict.lost) == ({"cancelled": 1}, 0, [])
    assert world.board("K-1") == "blocked"


def test_a_person_can_retry_a_failed_ticket(world: World) -> None:
    world.make(script=[{"result": "refused"}])
    assert world.up().returncode == 0
    assert (world.board("K-1"), world.verdict().states) == ("failed", {"failed": 1})
    world.play([{"run": "echo one >>a.txt"}, {"commit": "whole"}])
    assert world.run("retry", "K-1").returncode == 0
    assert world.up().returncode == 0
    assert (world.board("K-1"), world.verdict().states) == ("in review", {"in_review": 1})


def test_a_workspace_of_a_repository_that_left_the_configuration_keeps_nobody_busy(world: World) -> None:
    world.make(tickets=2, repos=("alpha", "beta"))
    assert world.up(at="clean:before").returncode == KILLED
    world.configure("beta")
    before = os.times()
    assert world.up().returncode == 0
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 8
    world.configure("alpha", "beta")
    assert world.up().returncode == 0
    assert_as_if_nothing_had_happened(world, "K-1", "K-2")


def test_a_database_that_was_killed_in_mid_migration_is_made_whole(world: World) -> None:
    world.make()
    assert world.up(at="create_table:after:4").returncode == KILLED
    store = Store(engine_for(world.database_url, world.home / ".nightcrew"))
    assert store.version() == ""
    store.close()
    assert world.up().returncode == 0
    assert_as_if_nothing_had_happened(world, "K-1")


def test_changes_that_were_asked_for_are_made_once(world: World) -> None:
    world.make(waits=1)
    assert world.up().returncode == 0
    assert world.run("pr", "request-changes", "1", "One more line, please.").returncode == 0
    assert world.up().returncode == 0
    verdict = world.verdict()
    assert (verdict.states, verdict.pull_requests, verdict.branches) == ({"in_review": 1}, 1, 1)
    assert verdict.attempts["K-1"][0] == 2
