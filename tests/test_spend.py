"""The ledger: one row for each attempt that ended, written with its end; on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from nightcrew.core.model import Attempt, Run, RunState, Usage
from nightcrew.prices import cost, table
from nightcrew.store import Store, StoreError
from tests.test_store import FIRST, NOW, RUN, database, open_store, race, store, working  # noqa: F401 - fixtures

USED = Usage(input=100, output=20, cache_read=3000, cache_write=400, money=0.25, turns=7)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
SONNET = "claude-sonnet-4-5-20250929"


def ended(**more: object) -> Attempt:
    base = replace(FIRST, lane="claude@work", usage=USED, outcome="done", ended_at=NOW + timedelta(minutes=5))
    return replace(base, **more)  # type: ignore[arg-type]


def more_attempts(store: Store, *attempts: Attempt) -> None:  # noqa: F811
    """Attempts 2, 3, ... of the run, each ended."""
    for number, attempt in enumerate(attempts, 2):
        store.set_run(RUN.id, state=RunState.QUEUED.value)
        found = store.named(RUN.id)
        assert found
        one = replace(attempt, number=number, fence=found.fence + 1)
        assert store.start_attempt(found, replace(one, outcome="", ended_at=None))
        store.finish_attempt(one)


def test_the_row_says_who_did_what_with_which_model_and_at_what_price(store: Store) -> None:  # noqa: F811
    working(store)
    store.finish_attempt(ended(reported_model=SONNET, cost=0.5, prices="table 1"))
    (row,) = store.ledger.since(LONG_AGO)
    assert (row.key, row.ticket, row.repo) == ((RUN.id, 1), "K-1", "alpha")
    assert (row.lane, row.agent, row.model, row.reported_model) == ("claude@work", "a", "m", SONNET)
    assert (row.outcome, row.usage, row.cost, row.prices) == ("done", USED, 0.5, "table 1")
    assert (row.at, row.seconds) == (NOW + timedelta(minutes=5), 300)
    assert row.amount == (3520, 0.5)


def test_an_attempt_has_one_row_however_often_its_end_is_written(store: Store) -> None:  # noqa: F811
    working(store)
    store.finish_attempt(ended())
    store.finish_attempt(ended(usage=USED + USED, outcome="infra"))
    (row,) = store.ledger.since(LONG_AGO)
    assert (row.usage, row.outcome) == (USED, "done")


def test_of_eight_who_end_an_attempt_one_writes_its_row(
    store: Store,  # noqa: F811
    open_store: Callable[[], Store],  # noqa: F811
) -> None:
    working(store)
    race(open_store, lambda s, n: s.finish_attempt(ended(usage=Usage(input=n + 1))))
    (row,) = store.ledger.since(LONG_AGO)
    assert row.usage == store.attempt(RUN.id, 1).usage


def test_an_end_that_cannot_be_paid_for_is_no_end(store: Store) -> None:  # noqa: F811
    working(store)
    with store.begin() as c:
        c.execute(sa.text("ALTER TABLE spend RENAME TO elsewhere"))
    with pytest.raises(StoreError):
        store.finish_attempt(ended())
    assert store.attempt(RUN.id, 1).phase != "ended"
    with store.begin() as c:
        c.execute(sa.text("ALTER TABLE elsewhere RENAME TO spend"))
    store.finish_attempt(ended())
    assert len(store.ledger.since(LONG_AGO)) == 1


def test_without_a_price_it_costs_what_was_reported(store: Store) -> None:  # noqa: F811
    working(store)
    store.finish_attempt(ended(lane="", started_at=None))
    (row,) = store.ledger.since(LONG_AGO)
    assert (row.cost, row.prices, row.lane, row.seconds) == (0.25, "", "a", 0)


@pytest.mark.parametrize("micro", [0, 1, 500_000])
def test_a_moment_is_inside_when_it_is_the_first(store: Store, micro: int) -> None:  # noqa: F811
    working(store)
    at = NOW.replace(microsecond=micro)
    store.finish_attempt(ended(ended_at=at))
    assert len(store.ledger.since(at)) == 1
    assert len(store.ledger.since(NOW)) == 1
    assert store.ledger.since(at + timedelta(microseconds=1)) == []
    assert store.ledger.before(at) == []
    assert store.ledger.before(at + timedelta(microseconds=1)) == [(RUN.id, "claude@work", (3520, 0.25))]


def test_what_was_before_is_summed_by_run_and_lane_the_dearer_money_counts(store: Store) -> None:  # noqa: F811
    working(store)
    store.finish_attempt(ended(cost=1.0, prices="table 1"))
    more_attempts(store, ended(cost=0.1, prices="table 1"), ended(lane="codex"))
    assert sorted(store.ledger.before(NOW + timedelta(days=1))) == [
        (RUN.id, "claude@work", (7040, 1.25)), (RUN.id, "codex", (3520, 0.25)),
    ]  # fmt: skip


def test_the_newest_rows_are_of_those_who_used_something(store: Store) -> None:  # noqa: F811
    working(store)
    store.finish_attempt(ended())
    later = [NOW + timedelta(hours=h) for h in range(1, 6)]
    more_attempts(
        store, ended(ended_at=later[0], agent="b"), ended(ended_at=later[1], lane="x"), ended(ended_at=later[2]),
        ended(ended_at=later[3], usage=Usage()), ended(ended_at=later[4], outcome="crashed"),
    )  # fmt: skip
    newest = store.ledger.newest
    assert [e.number for e in newest(9)] == [6, 4, 3, 2, 1]
    assert [e.number for e in newest(2)] == [6, 4]
    assert [e.number for e in newest(9, agent="b")] == [2]
    assert [e.number for e in newest(9, lane="claude@work", outcome="done")] == [4, 2, 1]


def test_what_runs_counts_as_it_is_written_down_and_no_more_once_it_ended(store: Store) -> None:  # noqa: F811
    working(store)
    store.update_attempt(RUN.id, 1, usage=USED, reported_model=SONNET)
    now = NOW + timedelta(minutes=2)
    (one,) = store.ledger.unwritten(now)
    assert (one.key, one.repo, one.usage, one.outcome, one.at, one.seconds) == (
        (RUN.id, 1), "alpha", USED, "running", now, 120,
    )  # fmt: skip
    store.finish_attempt(ended())
    assert store.ledger.unwritten(now) == []


def test_merged_pull_requests_are_counted_by_repository(store: Store) -> None:  # noqa: F811
    began = datetime.now(UTC)
    for number, (repo, state) in enumerate(
        [("alpha", "merged"), ("alpha", "merged"), ("beta", "merged"), ("beta", "failed")]
    ):
        key = f"K-{number}"
        run = Run(key, "folder", key, key, key, repo=repo, branch=key, state=RunState(state))
        store.add_run(run)
    assert store.ledger.merged(began) == {"alpha": 2, "beta": 1}
    assert store.ledger.merged(datetime.now(UTC) + timedelta(seconds=5)) == {}


# -- prices ------------------------------------------------------------------------------------------------------------
def test_tokens_have_a_price_and_the_table_a_version() -> None:
    money, by = cost([SONNET], Usage(input=1_000_000, output=100_000, cache_read=1_000_000, turns=20))
    assert (round(money, 4), by) == (4.8, table())
    assert table().startswith("genai-prices ")


@pytest.mark.parametrize(
    "name",
    ["us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5@20250929", "anthropic/claude-sonnet-4.5"],
)
def test_a_model_costs_the_same_wherever_it_is_served(name: str) -> None:
    assert cost([name], USED) == cost([SONNET], USED)


def test_the_first_model_that_has_a_price_is_taken() -> None:
    assert cost(["", "no-such-model", SONNET], USED) == cost([SONNET], USED)
    assert cost([SONNET], Usage()) == (0.0, "")
    assert cost(["no-such-model", "", "sonnet", "\0", "x" * 10_000], USED) == (0.0, "")
    assert cost([], USED) == (0.0, "")


def test_many_short_prompts_are_not_one_long_prompt() -> None:
    """Beyond 200,000 tokens a prompt costs twice as much by the token."""
    whole = Usage(input=10_000_000, turns=100)
    assert round(cost([SONNET], whole)[0], 2) == 30
    assert round(cost([SONNET], replace(whole, turns=0))[0], 2) == 30
    assert round(cost([SONNET], replace(whole, turns=10))[0], 2) == 60


def test_the_price_table_is_read_when_something_has_a_price_and_starts_no_thread(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", PRICES], capture_output=True, text=True, check=True, cwd=tmp_path, env={"PATH": ""}
    )
    assert said.stdout.split() == ["False", "True", "1"]


PRICES = f"""
import socket, sys, threading
import nightcrew.meter
from nightcrew import prices
from nightcrew.core.model import Usage
print("genai_prices" in sys.modules)
socket.socket.connect = lambda *_: sys.exit("asked the network")
print(prices.cost(["{SONNET}"], Usage(input=1))[0] > 0)
print(threading.active_count())
"""
