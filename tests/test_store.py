"""The rows: taken once, claimed once, settled once, fenced; on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import pytest
import sqlalchemy as sa

from nightcrew.core.model import Attempt, Lane, LaneState, Run, RunState
from nightcrew.errors import Fenced
from nightcrew.store import Store, engine_for
from nightcrew.tables import attempts, events, metadata, runs
from tests.conftest import Repository

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
RUN = Run(
    id="folder:K-1", board="folder", ticket_id="K-1", key="K-1", title="Do it", repo="alpha", branch="nightcrew/k-1"
)
FIRST = Attempt(run_id=RUN.id, number=1, agent="a", model="m", session_id="s", resume=False, fence=1, started_at=NOW)
RACERS = 8
T = TypeVar("T")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """What `engine_for` takes: a URL and a state directory."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres_url"), tmp_path


@pytest.fixture
def open_store(database: tuple[str, Path]) -> Iterator[Callable[[], Store]]:
    """Opens the same database again and again, as other processes would."""
    opened: list[Store] = []

    def make() -> Store:
        opened.append(Store(engine_for(*database)))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    """One with its tables."""
    made = open_store()
    made.migrate()
    return made


def race(open_store: Callable[[], Store], work: Callable[[Store, int], T]) -> list[T]:
    """What `work` says to each of those who do it at the same moment, each with a connection of its own."""
    start = Barrier(RACERS)
    stores = [open_store() for _ in range(RACERS)]

    def one(number: int) -> T:
        stores[number].counts()  # connected
        start.wait()
        return work(stores[number], number)

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(one, range(RACERS)))


def working(store: Store) -> Run:
    """The run with its first attempt under way."""
    store.add_run(RUN)
    assert store.start_attempt(RUN, FIRST)
    found = store.named("k-1")
    assert found
    return found


def test_of_eight_who_start_an_attempt_one_does(store: Store, open_store: Callable[[], Store]) -> None:
    store.add_run(RUN)
    assert sorted(race(open_store, lambda s, _: s.start_attempt(RUN, FIRST))) == [False] * 7 + [True]
    assert [a.number for a in store.attempts_of(RUN.id)] == [1]
    found = store.named(RUN.id)
    assert found
    assert (found.state, found.attempts, found.fence) == (RunState.WORKING, 1, 1)
    assert [e["kind"] for e in store.events()] == ["run.added", "attempt.started"]


RACING_PROCESS = """
import sys
from pathlib import Path
from nightcrew.store import Store, engine_for
from tests.test_store import FIRST, RUN
store = Store(engine_for(sys.argv[1], Path(sys.argv[2])))
store.counts()
print("ready", flush=True)
sys.stdin.readline()
print(store.start_attempt(RUN, FIRST), store.claim_patch("alpha", "p", f"run-{sys.argv[3]}", sys.argv[3]) or "mine")
store.close()
"""


@pytest.mark.slow
def test_of_eight_processes_one_starts_the_attempt_and_one_claims_the_patch(
    store: Store, database: tuple[str, Path]
) -> None:
    store.add_run(RUN)
    home = Path(__file__).parents[1]
    argv = [sys.executable, "-c", RACING_PROCESS, database[0], str(database[1])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    racers = [subprocess.Popen([*argv, str(n)], text=True, cwd=home, **pipes) for n in range(RACERS)]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("\n")
        racer.stdin.flush()
    said = [racer.communicate()[0].split() for racer in racers]
    assert sorted(word for word, _ in said) == ["False"] * 7 + ["True"]
    winner = next(number for number, (_, word) in enumerate(said) if word == "mine")
    assert [word for _, word in said] == ["mine" if number == winner else str(winner) for number in range(RACERS)]


def test_of_eight_who_claim_a_patch_one_gets_it_and_the_others_learn_who(
    store: Store, open_store: Callable[[], Store]
) -> None:
    owners = race(open_store, lambda s, number: s.claim_patch("alpha", "p1", f"run-{number}", f"K-{number}"))
    assert owners.count("") == 1
    winner = owners.index("")
    assert {owner for owner in owners if owner} == {f"K-{winner}"}
    assert store.claim_patch("alpha", "p1", f"run-{winner}", f"K-{winner}") == ""
    assert store.claim_patch("beta", "p1", "other", "other") == ""


def test_a_result_of_an_attempt_that_was_taken_over_is_refused(store: Store) -> None:
    run = working(store)
    assert store.check_fence(run.id, 1) == run
    assert store.save_run(replace(run, state=RunState.QUEUED))
    assert store.start_attempt(replace(run, state=RunState.QUEUED), replace(FIRST, number=2, fence=2))
    with pytest.raises(Fenced):
        store.check_fence(run.id, 1)
    late = replace(run, state=RunState.IN_REVIEW, pull_request=7)
    assert not store.save_run(late, "run.in_review")
    assert store.settle(late, FIRST, [Lane("a")])  # the attempt is folded, the run is not touched
    found = store.named(run.id)
    assert found
    assert (found.state, found.pull_request, found.fence) == (RunState.WORKING, 0, 2)


@pytest.mark.parametrize("change", [{"stopping": "by hand"}, {"state": RunState.CANCELLED}])
def test_nothing_is_published_for_a_run_that_is_being_stopped(store: Store, change: dict[str, object]) -> None:
    run = working(store)
    store.save_run(replace(run, **change))  # type: ignore[arg-type]
    with pytest.raises(Fenced):
        store.check_fence(run.id, 1)


def test_of_eight_who_name_the_crew_all_get_the_same_name(store: Store, open_store: Callable[[], Store]) -> None:
    names = race(open_store, lambda s, number: s.once("crew", f"crew-{number}"))
    assert set(names) == {store.get("crew")}
    assert store.once("crew", "later") == names[0]


def test_of_eight_who_settle_an_attempt_one_does(store: Store, open_store: Callable[[], Store]) -> None:
    run = working(store)
    store.finish_attempt(replace(FIRST, outcome="rate_limited", evidence="the limit is reached"))
    folded = replace(run, state=RunState.QUEUED, outages=run.outages + 1)
    lane = Lane("a", LaneState.LIMITED, until=NOW)
    assert sorted(race(open_store, lambda s, _: s.settle(folded, FIRST, [lane]))) == [False] * 7 + [True]
    assert store.open_attempts() == []
    assert [e["kind"] for e in store.events()].count("run.queued") == 1
    assert store.lanes() == {"a": lane}


def test_an_attempt_ends_once_and_keeps_its_first_end(store: Store) -> None:
    working(store)
    store.finish_attempt(replace(FIRST, outcome="done", pull_request=3))
    store.finish_attempt(replace(FIRST, outcome="infra"))
    store.update_attempt(RUN.id, 1, phase="session")
    ended = store.attempt(RUN.id, 1)
    assert (ended.outcome, ended.pull_request, ended.phase) == ("done", 3, "ended")
    assert [e["kind"] for e in store.events()].count("attempt.ended") == 1


@pytest.mark.parametrize(
    ("ended", "kept"),
    [
        ({"state": RunState.IN_REVIEW, "pull_request": 1}, True),
        ({"state": RunState.QUEUED, "pending_head": "abc"}, True),  # perhaps it is published: only the answer was lost
        ({"state": RunState.QUEUED}, False),
    ],
)
def test_a_patch_stays_claimed_as_long_as_it_may_be_published(
    store: Store, ended: dict[str, object], kept: bool
) -> None:
    run = working(store)
    store.claim_patch("alpha", "p1", run.id, "K-1")
    store.settle(replace(run, **ended), FIRST, [Lane("a")])  # type: ignore[arg-type]
    assert store.patch_owner("alpha", "p1", "other") == ("K-1" if kept else "")


def test_events_are_only_ever_added(store: Store, open_store: Callable[[], Store]) -> None:
    race(open_store, lambda s, number: [s.event("said", f"run-{number}", n=n) for n in range(5)])
    before = store.events()
    assert len(before) == RACERS * 5
    store.event("one more", RUN.id)
    assert store.events(limit=100)[:-1] == before
    assert [e["id"] for e in before] == sorted({e["id"] for e in before})
    statements = [name for name in dir(Store) if "event" in name]
    assert statements == ["event", "events"]  # nothing there changes or removes one


def test_an_order_stays_until_it_was_obeyed(store: Store, open_store: Callable[[], Store]) -> None:
    store.order("stop", RUN.id)
    store.order("pause")
    (first, *what), (second, *_) = open_store().orders()
    assert what == ["stop", RUN.id]
    store.obeyed(first)
    assert [number for number, _, _ in open_store().orders()] == [second]


def test_what_the_board_shows_is_written_with_the_decision_or_not_at_all(store: Store) -> None:
    run = working(store)
    assert store.save_run(replace(run, state=RunState.CANCELLED), "run.cancelled", shown="done", why="moved")
    assert not store.save_run(replace(run, fence=9), "late", shown="open")
    found = store.named(run.id)
    assert found
    assert (found.shown, found.state) == ("done", RunState.CANCELLED)


def test_eight_who_find_an_empty_database_make_it_once(open_store: Callable[[], Store]) -> None:
    race_versions = race_migrating(open_store)
    assert race_versions == [race_versions[0]] * RACERS
    store = open_store()
    names = set(sa.inspect(store.engine).get_table_names())
    assert names == {*metadata.tables, "alembic_version"}
    store.migrate()
    assert store.version() == race_versions[0] != ""


def race_migrating(open_store: Callable[[], Store]) -> list[str]:
    start = Barrier(RACERS)
    stores = [open_store() for _ in range(RACERS)]

    def one(number: int) -> str:
        start.wait()
        stores[number].migrate()
        return stores[number].version()

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(one, range(RACERS)))


def test_the_tables_are_those_the_migrations_make(store: Store) -> None:
    inspected = sa.inspect(store.engine)
    for name, table in metadata.tables.items():
        assert {c["name"] for c in inspected.get_columns(name)} == set(table.columns.keys()), name


def test_every_value_comes_back_as_it_was_written(store: Store) -> None:
    run = replace(RUN, labels=("a:b", "ü"), blocked_by=("K-2",), not_before=NOW, created_at=NOW, reason="läs 'mig'")
    store.add_run(run)
    found = store.named(run.id)
    assert found
    assert found == replace(run, updated_at=found.updated_at)
    attempt = replace(FIRST, resets_at=1.5, evidence="x" * 10_000, heard_at=NOW)
    store.start_attempt(run, attempt)
    assert store.attempt(run.id, 1) == attempt


def _past(number: int) -> dict[str, object]:
    name, (state, shown) = f"H-{number}", ("merged", "done") if number % 50 else ("in_review", "review")
    return {
        "id": f"folder:{name}", "board": "folder", "ticket_id": name, "key": name, "title": "t", "repo": "alpha",
        "state": state, "shown": shown, "labels": [], "blocked_by": [], "attempts": 2,
        "updated_at": f"2026-11-01T00:{number % 60:02}:00Z",
    }  # fmt: skip


def test_6500_runs_of_history_are_looked_at(store: Store, repo: Repository, database: tuple[str, Path]) -> None:
    many = [_past(number) for number in range(6500)]
    tries = [
        {"run_id": row["id"], "number": number, "agent": "a", "settled": True, "phase": "ended"}
        for row in many
        for number in (1, 2)
    ]
    with store.begin() as c:
        c.execute(runs.insert(), many)
        c.execute(attempts.insert(), tries)
        c.execute(events.insert(), [{"at": "", "run_id": row["id"], "kind": "run.added", "data": {}} for row in many])
    home = repo.path
    (home / "tickets").mkdir(parents=True)
    url = f'database_url = "{database[0]}"\n' if database[0] else ""
    (home / "nightcrew.toml").write_text(
        f'[crew]\nstate_dir = "{database[1]}"\n{url}[board]\nkind = "folder"\npath = "tickets"\n'
        '[agents.a]\nkind = "command"\ncommand = ["true"]\n[[repos]]\nname = "alpha"\npath = "."\nbase = "main"\n'
    )
    began = time.monotonic()
    argv = [sys.executable, "-m", "nightcrew", "-c", str(home / "nightcrew.toml"), "status", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    print(f"status --json with 6,500 runs: {time.monotonic() - began:.2f} s")
    assert done.returncode == 0, done.stderr
    assert '"merged": 6370' in done.stdout
