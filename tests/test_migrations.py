"""A database of the first version, with a night under way in it, taken over by this program; SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import nightcrew.migrations
from nightcrew import views
from nightcrew.core.model import Lane, Policy, RunState, Usage, Window
from nightcrew.meter import Meter
from nightcrew.store import HEAD, Store, engine_for, keeping, memory
from nightcrew.tables import metadata

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
AT = NOW.isoformat()
LANES = {"claude": "out", "codex": "limited", "provider:openai": "overloaded", "other": "up"}
RUN = {
    "id": "b:1", "board": "b", "ticket_id": "1", "key": "K-1", "title": "t", "repo": "one", "branch": "nightcrew/k-1",
    "state": "working", "priority": 5, "labels": ["small"], "blocked_by": [], "attempts": 2, "consumed": 1,
    "agent": "claude", "session_id": "s", "fence": 1, "shown": "working", "stopping": "", "workspace": "",
    "pull_request": 0, "usage": {"input": 7, "turns": 1}, "created_at": AT, "updated_at": AT,
}  # fmt: skip
ATTEMPT = {
    "run_id": "b:1", "agent": "claude", "model": "", "session_id": "s", "fence": 1, "gates": [], "started_at": AT,
}  # fmt: skip
ENDED = {"number": 1, "phase": "ended", "outcome": "crashed", "settled": True, "resume": False,
         "usage": {"input": 7}, "ended_at": AT}  # fmt: skip
OPEN = {"number": 2, "phase": "session", "outcome": "", "settled": False, "resume": True, "usage": {"input": 5}}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = engine_for(url, tmp_path)
    yield made
    made.dispose()


@pytest.fixture
def old(engine: sa.Engine) -> sa.Engine:
    """A database as the first version left it."""
    config = Config()
    config.set_main_option("script_location", str(Path(nightcrew.migrations.__file__).parent))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for name, state in LANES.items():
            row = {"name": name, "state": state, "until": AT, "evidence": "as told", "told_at": AT, "failures": 1}
            insert(connection, "lanes", row)
        insert(connection, "runs", RUN)
        for attempt in (ENDED, OPEN):
            insert(connection, "attempts", ATTEMPT | attempt)
    return engine


@pytest.fixture
def store(old: sa.Engine) -> Store:
    """The same, brought to this version."""
    made = Store(old)
    made.migrate()
    return made


def insert(connection: sa.Connection, table: str, row: dict[str, object]) -> None:
    """As the first version did: this program's own tables have more columns."""
    there = sa.Table(table, sa.MetaData(), autoload_with=connection)
    connection.execute(there.insert().values(row))


def test_an_old_database_gets_every_column_this_program_knows_and_no_other(store: Store) -> None:
    assert store.version() == HEAD
    there = sa.inspect(store.engine)
    for table in metadata.tables.values():
        assert {column["name"] for column in there.get_columns(table.name)} == set(table.columns.keys())


def test_what_an_old_database_says_of_its_lanes_still_holds(store: Store) -> None:
    found = store.lanes()
    assert {name: lane.state.value for name, lane in found.items()} == LANES | {"claude": "misconfigured"}
    for name in LANES:
        assert found[name] == Lane(name, found[name].state, NOW, "as told", NOW, 1, probe=False, windows=())
    heard = replace(found["codex"], windows=(Window("five_hour", 0.5, 1.0),))
    store.save_lane(heard)
    assert store.lanes()["codex"] == heard


def test_an_attempt_that_was_under_way_in_an_old_database_ends_and_is_settled_and_its_spend_counts(
    store: Store,
) -> None:
    (under_way,) = store.open_attempts()
    assert (under_way.number, under_way.usage, under_way.cost, under_way.cap) == (2, Usage(input=5), 0.0, "")
    run = store.named("K-1")
    assert run
    assert (run.usage, run.labels, run.consumed) == (Usage(input=7, turns=1), ("small",), 1)
    meter = Meter(store, Policy(), {}, lambda: NOW)
    assert [entry.usage.tokens for entry in meter.running()] == [5]
    ended = meter.priced(replace(under_way, outcome="infra", evidence="stopped"))
    store.finish_attempt(ended)
    assert store.settle(replace(run, state=RunState.QUEUED), ended, [])
    settled = store.named("K-1")
    assert settled
    assert (settled.state, store.open_attempts()) == (RunState.QUEUED, [])
    assert [(entry.ticket, entry.lane, entry.usage.tokens) for entry in store.ledger.newest(9)] == [
        ("K-1", "claude", 5)
    ]


def test_old_rows_say_nothing_of_what_was_not_measured_then_and_are_shown(store: Store) -> None:
    assert memory.measured(store, ["claude"]) == {"claude": []}
    assert memory.killed_since(store, datetime.min.replace(tzinfo=UTC)) == []
    assert keeping.unsettled(store) == {"b:1": {2}}
    assert [views.attempt_row(attempt)["outcome"] for attempt in store.attempts_of("b:1")] == [
        "crashed",
        "session",
    ]  # while it is under way, its phase
    assert {views.lane_row(lane)["lane"] for lane in store.lanes().values()} == set(LANES)


def test_bringing_a_database_to_this_version_again_changes_nothing(store: Store) -> None:
    def rows() -> dict[str, list[object]]:
        with store.engine.connect() as connection:
            return {
                name: [*map(tuple, connection.execute(sa.select(table)))] for name, table in metadata.tables.items()
            }

    before = rows()
    Store(store.engine).migrate()
    nightcrew.migrations.upgrade(store.engine)
    assert rows() == before
