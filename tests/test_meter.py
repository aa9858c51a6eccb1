"""The meter over real rows: no cap is passed by more than what was under way, whatever comes, ends or starts again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.pool import StaticPool

from nightcrew.core.budget import over, scopes
from nightcrew.core.model import Attempt, Budget, Cap, Caps, Policy, Run, RunState, Usage
from nightcrew.core.outcome import Ending, Outcome, Stop
from nightcrew.core.pacing import Load
from nightcrew.meter import Meter, began
from nightcrew.ports import Progress
from nightcrew.store import Store, StoreError
from nightcrew.tables import metadata

NIGHT = datetime(2026, 11, 21, 23, tzinfo=UTC)
NOTHING = Usage()
SONNET = "claude-sonnet-4-5-20250929"


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    """Midnight is where the test says."""
    yield from in_zone("UTC")


def in_zone(name: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


def memory() -> Store:
    """Real rows that are gone with the test."""
    engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    metadata.create_all(engine)
    return Store(engine)


@dataclass
class Crew:
    """A meter and its rows, on a clock that is set by hand."""

    policy: Policy = Policy()
    ladders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    now: datetime = NIGHT
    store: Store = field(default_factory=memory)
    used: dict[str, Usage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The process is another: nothing is left but the rows."""
        self.meter = Meter(self.store, self.policy, self.ladders, lambda: self.now)

    def start(self, key: str, *, repo: str = "alpha", agent: str = "claude", model: str = "") -> str:
        """Start the next attempt of that ticket, as the director and the pipeline do."""
        run_id = f"folder:{key}"
        branch = f"nightcrew/{key}"
        self.store.add_run(Run(run_id, "folder", key, key, key, repo=repo, branch=branch))
        run = self.run(run_id)
        number = run.attempts + 1
        one = Attempt(run_id, number, agent, model, "s", False, run.fence + 1, lane=agent, started_at=self.now)
        assert self.store.start_attempt(run, one)
        self.meter.open(run, one)
        self.used[run_id] = Usage()
        return run_id

    def run(self, run_id: str) -> Run:
        found = self.store.named(run_id)
        assert found
        return found

    def hear(self, run_id: str, usage: Usage = NOTHING, **progress: object) -> Stop | None:
        """The session tells that it used this more."""
        self.used[run_id] += usage
        return self.meter.hear(run_id, Progress(usage=self.used[run_id], **progress))  # type: ignore[arg-type]

    def finish(self, run_id: str, outcome: Outcome = Outcome.DONE, **more: object) -> Attempt:
        """The session ends, then its attempt; the run may start again."""
        self.meter.close(run_id)
        one = self.store.attempts_of(run_id)[-1]
        ended = replace(one, usage=self.used[run_id], outcome=outcome.value, ended_at=self.now, **more)
        self.store.finish_attempt(self.meter.priced(ended))
        self.store.set_run(run_id, state=RunState.QUEUED.value)
        return self.store.attempt(run_id, one.number)

    def spent(self, scope: str) -> int:
        return self.meter.spend().by.get(scope, (0, 0.0))[0]


def tokens(number: int) -> Usage:
    return Usage(input=number, turns=1)


def caps(**named: Cap) -> Policy:
    return Policy(caps=Caps(**named))


# -- thirty-five sessions against one cap ------------------------------------------------------------------------------
CREW = 35
EVENTS = st.lists(
    st.tuples(
        st.integers(0, CREW - 1),
        st.integers(0, 30),  # a thousand tokens a turn
        st.sampled_from(["turn"] * 12 + ["end", "restart", "slow"]),
    ),
    min_size=60,
    max_size=160,
)


class Killed(Crew):
    """A crew whose attempts know what their earlier tries used."""

    def __post_init__(self) -> None:
        self.earlier: dict[str, Usage] = {}
        super().__post_init__()

    def finish(self, run_id: str, outcome: Outcome = Outcome.DONE, **more: object) -> Attempt:
        self.used[run_id] += self.earlier.pop(run_id, Usage())
        return super().finish(run_id, outcome, **more)


@dataclass
class Night:
    """Thirty-five sessions that spend as they like, and what each has spent since the cap was reached."""

    crew: Killed
    limit: int
    total: int = 0
    running: set[str] = field(default_factory=set)
    turns_after: dict[str, int] = field(default_factory=dict)
    starts_after: int = 0

    def may_start(self, key: str) -> bool:
        spend = self.crew.meter.spend()
        return not over(spend, scopes(f"folder:{key}", "alpha", "claude"), self.crew.policy.caps)

    def play(self, who: int, thousands: int, what: str) -> None:
        key = f"K-{who}"
        run_id = f"folder:{key}"
        if what == "restart":
            self.restart()
        elif run_id not in self.running:
            self.start(key)
        elif what == "end":
            self.end(run_id, Outcome.DONE)
        else:
            self.turn(run_id, thousands * 1000)
        self.crew.now += timedelta(seconds=40 if what == "slow" else 0.1)

    def start(self, key: str) -> None:
        if self.may_start(key):
            self.starts_after += self.total >= self.limit
            self.running.add(self.crew.start(key))

    def turn(self, run_id: str, used: int) -> None:
        if self.total >= self.limit:
            self.turns_after[run_id] = self.turns_after.get(run_id, 0) + 1
        self.total += used
        if stop := self.crew.hear(run_id, tokens(used)):
            assert (stop.outcome, stop.cap) == (Outcome.TOKEN_CAP, "day")
            self.end(run_id, stop.outcome)
        else:
            assert self.total < self.limit

    def end(self, run_id: str, outcome: Outcome) -> None:
        self.crew.finish(run_id, outcome)
        self.running.discard(run_id)

    def restart(self) -> None:
        """Killed and started again: every session goes on, its earlier try is read from its output."""
        self.crew.restart()
        for run_id in sorted(self.running):
            run, earlier = self.crew.run(run_id), self.crew.earlier
            earlier[run_id] = earlier.get(run_id, Usage()) + self.crew.used[run_id]
            self.crew.used[run_id] = Usage()
            self.crew.meter.open(run, self.crew.store.attempt(run_id, run.attempts), earlier[run_id])


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(EVENTS, st.integers(20, 400))
def test_no_session_takes_more_than_one_turn_beyond_a_cap_of_the_day_and_none_starts(
    events: list[tuple[int, int, str]], thousands: int
) -> None:
    limit = thousands * 1000
    night = Night(Killed(caps(day=Cap(tokens=limit))), limit)
    for event in events:
        night.play(*event)
    assert night.starts_after == 0
    assert all(turns == 1 for turns in night.turns_after.values())
    assert len(night.turns_after) < CREW
    assert night.crew.spent("day") == night.total  # nothing is lost or counted twice, by restarts or otherwise
    night.crew.store.close()


def test_all_thirty_five_stop_at_their_next_word_once_one_has_reached_the_cap() -> None:
    crew = Crew(caps(day=Cap(tokens=1_000_000)))
    running = [crew.start(f"K-{n}", repo=f"repo-{n}", agent=f"agent-{n}") for n in range(CREW)]
    assert [crew.hear(run_id, tokens(28_000)) for run_id in running] == [None] * CREW
    stops = [crew.hear(run_id, tokens(28_000)) for run_id in running]
    assert all(stop and stop.cap == "day" for stop in stops)
    assert crew.spent("day") == 2 * CREW * 28_000
    assert 1_000_000 < crew.spent("day") <= 1_000_000 + CREW * 28_000


# -- what counts for what ----------------------------------------------------------------------------------------------
def test_a_repositorys_cap_stops_its_own_sessions_alone() -> None:
    crew = Crew(caps(repo=Cap(tokens=1000)))
    mine, other = crew.start("K-1"), crew.start("K-2", repo="beta")
    stop = crew.hear(mine, tokens(1000))
    assert stop
    assert (stop.outcome, stop.cap) == (Outcome.TOKEN_CAP, "repo")
    assert "repository alpha has used 1,000 tokens today" in stop.why
    assert crew.hear(other, tokens(10)) is None


def test_a_tickets_cap_counts_all_its_attempts_ever() -> None:
    crew = Crew(caps(ticket=Cap(tokens=1000)))
    crew.start("K-1")
    crew.hear("folder:K-1", tokens(600))
    crew.finish("folder:K-1", Outcome.GATE_FAILED)
    crew.now += timedelta(days=40)
    crew.restart()
    crew.start("K-1")
    assert crew.hear("folder:K-1", tokens(399)) is None
    stop = crew.hear("folder:K-1", tokens(1))
    assert stop
    assert (stop.cap, stop.why) == (
        "ticket",
        "this ticket has used 1,000 tokens, [limits.ticket] tokens is 1,000 tokens",
    )


def test_an_ended_session_counts_until_its_row_is_written_and_then_once() -> None:
    crew = Crew()
    crew.start("K-1")
    crew.hear("folder:K-1", tokens(500))
    crew.meter.close("folder:K-1")
    assert crew.spent("day") == 500  # its gates run for ten minutes, and nothing is written yet
    assert crew.meter.loads()["claude"].running == ()
    crew.finish("folder:K-1")
    assert crew.spent("day") == 500
    assert crew.spent("ticket:folder:K-1") == 500


def test_what_another_process_writes_down_counts_too() -> None:
    crew = Crew(caps(lane=Cap(tokens=1000)))
    mine = crew.start("K-1")
    other = Crew(store=crew.store)
    other.start("K-2")
    other.hear("folder:K-2", tokens(990))
    crew.store.update_attempt("folder:K-2", 1, usage=other.used["folder:K-2"])
    crew.now += timedelta(seconds=2)
    assert crew.hear(mine, tokens(9)) is None
    assert crew.hear(mine, tokens(1))
    other.finish("folder:K-2")
    assert crew.spent("lane:claude") == 1000


def test_after_a_kill_what_was_written_down_counts_before_the_session_goes_on() -> None:
    crew = Crew()
    crew.start("K-1")
    crew.hear("folder:K-1", tokens(700))
    crew.store.update_attempt("folder:K-1", 1, usage=tokens(650), reported_model=SONNET)
    crew.restart()
    assert crew.spent("day") == 650
    crew.meter.open(crew.run("folder:K-1"), crew.store.attempt("folder:K-1", 1))
    assert crew.spent("day") == 650
    crew.meter.open(crew.run("folder:K-1"), crew.store.attempt("folder:K-1", 1), earlier=tokens(700))
    assert crew.spent("day") == 700


def test_at_midnight_the_day_is_new_at_noon_the_night() -> None:
    crew = Crew()
    crew.start("K-1")
    crew.hear("folder:K-1", tokens(100))
    crew.finish("folder:K-1")
    assert (crew.spent("day"), crew.spent("night"), crew.spent("repo:alpha")) == (100, 100, 100)
    crew.now = datetime(2026, 11, 22, 0, 0, 1, tzinfo=UTC)
    assert (crew.spent("day"), crew.spent("night"), crew.spent("repo:alpha")) == (0, 100, 0)
    crew.now = datetime(2026, 11, 22, 12, 0, 1, tzinfo=UTC)
    assert (crew.spent("day"), crew.spent("night"), crew.spent("ticket:folder:K-1")) == (0, 0, 100)
    assert crew.meter.tokens("claude") == 100
    crew.now = NIGHT  # the clock was set back
    assert (crew.spent("day"), crew.spent("night")) == (100, 100)


@pytest.mark.parametrize(
    ("zone", "now", "day", "night"),
    [
        ("UTC", "2026-11-21T23:00", "2026-11-21T00:00", "2026-11-21T12:00"),
        ("UTC", "2026-11-22T11:59", "2026-11-22T00:00", "2026-11-21T12:00"),
        ("UTC", "2026-11-22T12:00", "2026-11-22T00:00", "2026-11-22T12:00"),
        ("America/Los_Angeles", "2026-11-22T09:00", "2026-11-22T08:00", "2026-11-21T20:00"),
        ("Europe/Berlin", "2026-10-25T05:00", "2026-10-24T22:00", "2026-10-24T10:00"),  # the night of the 25th hour
        ("Asia/Kathmandu", "2026-11-22T00:00", "2026-11-21T18:15", "2026-11-21T06:15"),
    ],
)
def test_day_and_night_begin_where_the_machine_stands(zone: str, now: str, day: str, night: str) -> None:
    for _ in in_zone(zone):
        found = began(datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert [at.astimezone(UTC).isoformat()[:16] for at in found] == [day, night]


# -- money -------------------------------------------------------------------------------------------------------------
def test_a_cap_on_money_holds_for_an_agent_that_reports_none() -> None:
    crew = Crew(caps(day=Cap(money=3.0)))
    run_id = crew.start("K-1")
    assert crew.hear(run_id, Usage(input=100_000, turns=1), model=SONNET) is None  # 3 dollars a million
    stop = crew.hear(run_id, Usage(input=900_000, turns=9), model=SONNET)
    assert stop
    assert (stop.outcome, stop.cap) == (Outcome.MONEY_CAP, "day")
    assert "$3.00" in stop.why
    ended = crew.finish(run_id, Outcome.MONEY_CAP, reported_model=SONNET)
    assert (ended.usage.money, round(ended.cost, 2), ended.prices.split()[0]) == (0.0, 3.0, "genai-prices")


def test_what_no_table_has_a_price_for_costs_what_the_agent_reports() -> None:
    crew = Crew(Policy(budget=Budget(money=2.0)))
    run_id = crew.start("K-1", model="my-own")
    assert crew.hear(run_id, Usage(input=10**9, money=1.9), model="my-own") is None
    stop = crew.hear(run_id, Usage(money=0.1), model="my-own")
    assert stop
    assert (stop.outcome, stop.cap) == (Outcome.MONEY_CAP, "attempt")
    ended = crew.finish(run_id, Outcome.MONEY_CAP)
    assert (ended.cost, ended.prices) == (2.0, "")


# -- breakers ----------------------------------------------------------------------------------------------------------
def test_a_model_outside_the_ladder_ends_the_session_as_misconfigured() -> None:
    crew = Crew(ladders={"claude": ("sonnet",)})
    run_id = crew.start("K-1", model="sonnet")
    assert crew.hear(run_id, model=SONNET) is None
    stop = crew.hear(run_id, model="claude-opus-4-1-20250805", over=True)
    assert stop
    assert stop.outcome is Outcome.MISCONFIGURED
    assert "[agents.claude] models names sonnet" in stop.why
    attempt = crew.store.attempt(run_id, 1)
    done = Ending(Outcome.DONE, "exit code 0", model="claude-opus-4-1-20250805")
    assert crew.meter.judged(attempt, done).outcome is Outcome.MISCONFIGURED
    for kept in (Outcome.RATE_LIMITED, Outcome.INFRA, Outcome.CANCELLED):
        assert crew.meter.judged(attempt, replace(done, outcome=kept)).outcome is kept
    assert crew.meter.judged(attempt, replace(done, model=SONNET)).outcome is Outcome.DONE


def test_a_session_that_is_over_is_not_ended_for_what_it_spent() -> None:
    crew = Crew(caps(day=Cap(tokens=10)))
    run_id = crew.start("K-1")
    assert crew.hear(run_id, tokens(1000), over=True) is None


def test_the_same_call_over_and_over_ends_the_session() -> None:
    crew = Crew()
    run_id = crew.start("K-1")
    assert crew.hear(run_id, same_calls=19, last="Bash ls") is None
    stop = crew.hear(run_id, same_calls=20, last="Bash ls")
    assert stop == Stop(Outcome.AGENT_ERROR, "the same tool call 20 times in a row: Bash ls")


def ended(crew: Crew, number: int, used: int, minutes: float) -> None:
    run_id = crew.start(f"OLD-{number}")
    crew.hear(run_id, tokens(used))
    crew.now += timedelta(minutes=minutes)
    crew.finish(run_id)


def test_sessions_that_spend_many_times_the_usual_are_ended_and_the_third_closes_the_lane() -> None:
    crew = Crew()
    for number in range(10):
        ended(crew, number, 100_000, 2)
    stops = []
    for number in range(3):
        run_id = crew.start(f"K-{number}")
        for _ in range(2):
            crew.now += timedelta(seconds=30)
            stop = crew.hear(run_id, tokens(300_000))
        stops.append(stop)
        assert crew.hear(run_id, tokens(1)) == stop  # asked again, it is the same
    assert [s and (s.outcome, s.cap) for s in stops] == [
        (Outcome.TOKEN_CAP, "rate"), (Outcome.TOKEN_CAP, "rate"), (Outcome.MISCONFIGURED, ""),
    ]  # fmt: skip


def test_nobody_is_too_fast_while_it_is_not_known_what_is_usual() -> None:
    crew = Crew()
    for number in range(9):
        ended(crew, number, 1000, 2)
    run_id = crew.start("K-1")
    crew.now += timedelta(minutes=1)
    assert crew.hear(run_id, tokens(10**9)) is None


# -- for pacing --------------------------------------------------------------------------------------------------------
def test_a_lanes_load_is_what_its_sessions_have_used_and_what_is_typical() -> None:
    crew = Crew()
    assert crew.meter.loads() == {}
    for number, used in enumerate((100, 900, 200)):
        run_id = crew.start(f"OLD-{number}")
        crew.hear(run_id, Usage(input=used, turns=4))
        crew.finish(run_id)
    failed = crew.start("OLD-9")
    crew.hear(failed, tokens(10**6))
    crew.finish(failed, Outcome.CRASHED)
    for key in ("K-1", "K-2"):
        crew.hear(crew.start(key), tokens(50))
    assert crew.meter.loads() == {"claude": Load((50, 50), 200, 100, before=(0, 0), ended=(200, 900, 100))}
    assert crew.meter.tokens("claude") == 1200 + 10**6 + 100
    assert crew.meter.tokens("codex") == 0


def test_a_ticket_that_has_nothing_left_is_not_tried_again() -> None:
    crew = Crew(caps(ticket=Cap(tokens=1000)))
    run_id = crew.start("K-1")
    crew.hear(run_id, tokens(400))
    assert crew.finish(run_id, Outcome.GATE_FAILED, evidence="2 tests fail").outcome == Outcome.GATE_FAILED
    crew.start("K-1")
    crew.hear(run_id, tokens(600), over=True)
    last = crew.finish(run_id, Outcome.GATE_FAILED, evidence="1 test fails")
    assert (last.outcome, last.cap) == (Outcome.TOKEN_CAP, "ticket")
    assert last.evidence.startswith("this ticket has used 1,000 tokens")
    assert last.evidence.endswith("(1 test fails)")
    for kept in (Outcome.DONE, Outcome.RATE_LIMITED, Outcome.INFRA, Outcome.CANCELLED, Outcome.BLOCKED):
        assert crew.meter.priced(replace(last, outcome=kept.value, cap="")).outcome == kept


# -- faults ------------------------------------------------------------------------------------------------------------
def test_no_session_begins_while_nobody_knows_what_is_spent() -> None:
    crew = Crew(caps(day=Cap(tokens=10)))
    run_id = crew.start("K-1")
    break_rows(crew)
    run = Run("folder:K-2", "folder", "K-2", "K-2", "K-2")
    with pytest.raises(StoreError):
        crew.meter.open(run, Attempt(run.id, 1, "claude", "", "s", False, 1))
    crew.now += timedelta(minutes=1)
    assert crew.hear(run_id, tokens(9)) is None  # one that runs goes on by what was known
    assert crew.hear(run_id, tokens(1))


def break_rows(crew: Crew) -> None:
    with crew.store.begin() as c:
        c.execute(sa.text("ALTER TABLE spend RENAME TO elsewhere"))


def test_a_session_whose_end_could_not_be_read_is_paid_for_as_it_was_heard() -> None:
    crew = Crew()
    run_id = crew.start("K-1")
    crew.hear(run_id, tokens(500))
    crew.used[run_id] = Usage()  # the disk was full, and nothing could be read back
    assert crew.finish(run_id, Outcome.INFRA).usage.tokens == 500
    assert crew.spent("day") == 500


def test_nothing_is_decided_about_a_session_that_is_not_known() -> None:
    crew = Crew()
    assert crew.meter.hear("nobody", Progress(usage=tokens(10**12))) is None
    crew.meter.close("nobody")
