"""The meter: what every session spends while it runs, added to what is spent already, against every cap (I4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from statistics import median

from nightcrew import prices
from nightcrew.core import budget
from nightcrew.core.budget import Amount, Entry, Spend, plus
from nightcrew.core.model import Attempt, Policy, Run, Usage
from nightcrew.core.outcome import RULES, Ending, LaneEffect, Next, Outcome, Stop
from nightcrew.core.pacing import Load
from nightcrew.errors import NightcrewError
from nightcrew.ports import Progress
from nightcrew.store import Store

LOOK_AGAIN = timedelta(seconds=1)
NOTHING: Amount = (0, 0.0)
OVERLAP = timedelta(minutes=10)
"""How much of the ledger is read again: others write it too, and their clocks differ."""
REMEMBERED = 50
"""So many of the last sessions say what is usual."""


def began(now: datetime) -> tuple[datetime, datetime]:
    """When the day and the night that are now began: at midnight and at noon in this machine's time zone."""
    here = now.astimezone()
    today, noon = datetime.combine(here.date(), time()), datetime.combine(here.date(), time(12))
    if here < noon.astimezone():
        noon -= timedelta(days=1)
    return today.astimezone(), noon.astimezone()


class Meter:
    """One per crew, for calls on one event loop. `ladders` names the models each agent may be reported to use.

    A running session counts from `open` until its row is in the ledger, whoever writes that.
    """

    def __init__(
        self, store: Store, policy: Policy, ladders: Mapping[str, tuple[str, ...]], now: Callable[[], datetime]
    ) -> None:
        self.store, self.policy, self.ladders, self.now = store, policy, ladders, now
        self._settled = _Settled(store)
        self._sessions: dict[str, _Session] = {}
        self._trips: defaultdict[str, list[datetime]] = defaultdict(list)
        self._loads: dict[str, tuple[int, Load]] = {}
        caps = [getattr(policy.caps, name) for name in vars(policy.caps)]
        self._capped = any(cap.tokens or cap.money for cap in caps)
        self._priced = bool(policy.budget.money) or any(cap.money for cap in caps)

    # -- sessions --------------------------------------------------------------------------------------------------
    def open(self, run: Run, attempt: Attempt, earlier: Usage | None = None) -> None:
        """A session begins. `earlier` is what tries of this attempt used before a kill (default: as written down).

        Raises StoreError: where nobody knows what is spent, nothing is spent.
        """
        now = self.now()
        self._look(now)
        usually = budget.usual(self.store.ledger.newest(REMEMBERED, agent=attempt.agent))
        used = attempt.usage if earlier is None else earlier
        self._sessions[run.id] = _Session(run, attempt, used, usually, now)

    def hear(self, run_id: str, progress: Progress) -> Stop | None:
        """Take what a session has used so far; why it must end now, None when it may go on.

        Asked after every batch of lines: a session passes a cap by no more than the turn that was under way.
        """
        session = self._sessions.get(run_id)
        if session is None:
            return None
        now = self.now()
        if session.hear(progress, now):
            session.cost = prices.cost(session.models, session.usage)[0] if self._priced else 0.0
            session.wrong = self._wrong(session.attempt, session.model)
        if session.wrong:
            return Stop(Outcome.MISCONFIGURED, session.wrong)
        if progress.over:
            return None  # it has spent all it will: what it made is worth looking at
        return self._over(session, now) or self._loops(session, progress, now)

    def close(self, run_id: str) -> None:
        """The session is over. What it used counts as before until its attempt's row is written."""
        if session := self._sessions.get(run_id):
            session.closed = True

    def judged(self, attempt: Attempt, ending: Ending) -> Ending:
        """The ending, or `misconfigured` when the model that did the work is none that may be used."""
        ours = ending.outcome in (Outcome.INFRA, Outcome.CANCELLED)
        wrong = self._wrong(attempt, ending.model)
        if not wrong or ours or RULES[ending.outcome].lane is not LaneEffect.NONE:
            return ending  # what closes a lane for its own reason does so
        return replace(ending, outcome=Outcome.MISCONFIGURED, evidence=f"{wrong} ({ending.evidence})", claims=())

    def priced(self, ended: Attempt) -> Attempt:
        """The attempt with its `cost` computed, and the price table that says so; as reported when none does.

        What was heard of its session counts, also when a fault kept the session's end from being read. One that would
        be tried again ends with the cap of its ticket when that is used up: no other try could start.
        """
        usage, session = ended.usage, self._sessions.get(ended.run_id)
        if session and session.attempt.number == ended.number and session.usage.tokens > usage.tokens:
            usage = session.usage
        cost, table = prices.cost((ended.reported_model, ended.model), usage)
        return self._used_up(replace(ended, usage=usage, cost=cost if table else usage.money, prices=table))

    def _used_up(self, ended: Attempt) -> Attempt:
        rule, ticket = RULES[Outcome(ended.outcome)], f"ticket:{ended.run_id}"
        again = rule.lane is LaneEffect.NONE and rule.next in (Next.AGAIN, Next.RESUME)
        mine = ended.usage.tokens, max(ended.usage.money, ended.cost)
        spend = Spend({ticket: plus(self._settled.by.get(ticket, NOTHING), mine)})
        reached = budget.over(spend, [ticket], self.policy.caps) if again and not ended.cap else None
        if not reached:
            return ended
        why = f"{reached.says} ({ended.evidence})"
        return replace(ended, outcome=reached.stop.outcome.value, evidence=why, cap=reached.cap)

    # -- why one has to end ----------------------------------------------------------------------------------------
    def _over(self, session: _Session, now: datetime) -> Stop | None:
        if reached := budget.attempt_over(session.amount, self.policy.budget):
            return reached.stop
        if not self._capped:
            return None
        with suppress(NightcrewError):  # the rows cannot be read for a moment: what was read last is known
            self._look(now, LOOK_AGAIN)
        reached = budget.over(Spend(self._by(session.scopes)), session.scopes, self.policy.caps)
        return reached.stop if reached else None

    def _loops(self, session: _Session, progress: Progress, now: datetime) -> Stop | None:
        if same := budget.repeats(progress.same_calls, progress.last, self.policy.budget):
            return same
        why = budget.too_fast(session.told, session.usually, self.policy.rate_factor)
        if not why or session.tripped:
            return session.tripped
        trips = self._trips[session.attempt.agent]
        trips.append(now)
        session.tripped = budget.tripped(why, session.attempt.agent, trips, now)
        return session.tripped

    def _wrong(self, attempt: Attempt, reported: str) -> str:
        ladder = self.ladders.get(attempt.agent, ())
        return budget.wrong_model(attempt.agent, attempt.model, reported, ladder)

    # -- what is spent ---------------------------------------------------------------------------------------------
    def spend(self) -> Spend:
        """What is spent by now, running sessions included. Raises StoreError."""
        self._look(self.now())
        return Spend(self._by(()))

    def running(self) -> list[Entry]:
        """What attempts that have not ended have used so far, with its price. Raises StoreError."""
        self._look(self.now())
        return [_with_price(entry) for entry in self._running()]

    def loads(self) -> Mapping[str, Load]:
        """What each lane's sessions use, by lane. Raises StoreError."""
        self._look(self.now(), LOOK_AGAIN)
        running: dict[str, list[tuple[int, int]]] = {lane: [] for lane in self._settled.lanes}
        for session in self._sessions.values():
            used = running.setdefault(session.lane, [])
            used += [] if session.closed else [(session.usage.tokens, session.run.usage.tokens)]
        return {
            lane: replace(self._load(lane), running=tuple(now for now, _ in used), before=tuple(b for _, b in used))
            for lane, used in running.items()
        }

    def tokens(self, lane: str) -> int:
        """All tokens that our sessions have ever used on a lane, running ones included."""
        ours = sum(session.usage.tokens for session in self._sessions.values() if session.lane == lane)
        others = sum(entry.usage.tokens for entry in self._others() if entry.lane == lane)
        return self._settled.lanes.get(lane, 0) + ours + others

    def _load(self, lane: str) -> Load:
        """What is typical there, asked again when there are new rows."""
        asked, load = self._loads.get(lane, (-1, Load()))
        if asked != self._settled.turn:
            done = self.store.ledger.newest(REMEMBERED, lane=lane, outcome=Outcome.DONE.value)
            tokens, turns = [e.usage.tokens for e in done], sum(e.usage.turns for e in done)
            ended = tuple({e.run_id: self._settled.by.get(f"ticket:{e.run_id}", NOTHING)[0] for e in done}.values())
            load = Load((), median(tokens) if tokens else 0.0, sum(tokens) / turns if turns else 0.0, ended=ended)
            self._loads[lane] = self._settled.turn, load
        return load

    def _look(self, now: datetime, after: timedelta = timedelta()) -> None:
        """Read what is new in the rows, if that was not done lately."""
        if abs(now - self._settled.looked) < after:
            return
        self._settled.look(now)
        if self._priced:
            self._settled.unwritten = [_with_price(entry) for entry in self._settled.unwritten]
        written = self._settled.rows
        self._sessions = {r: s for r, s in self._sessions.items() if (r, s.attempt.number) not in written}

    def _others(self) -> list[Entry]:
        """Attempts that have not ended and are not ours, or had no session yet, as they are written down."""
        return [entry for entry in self._settled.unwritten if entry.run_id not in self._sessions]

    def _running(self) -> list[Entry]:
        return [*(session.entry(self.now()) for session in self._sessions.values()), *self._others()]

    def _by(self, wanted: tuple[str, ...]) -> dict[str, Amount]:
        """What is spent by scope, running sessions included; () = in every scope."""
        settled = self._settled.by
        by = {scope: settled.get(scope, NOTHING) for scope in wanted or settled}
        running = [(s.scopes, s.amount) for s in self._sessions.values()]
        running += [(budget.scopes(e.run_id, e.repo, e.lane), e.amount) for e in self._others()]
        for scopes, amount in running:
            for scope in scopes:
                if not wanted or scope in by:
                    by[scope] = plus(by.get(scope, NOTHING), amount)
        return by


def _with_price(entry: Entry) -> Entry:
    cost, table = prices.cost((entry.reported_model, entry.model), entry.usage)
    return replace(entry, cost=cost, prices=table) if table else entry


@dataclass
class _Session:
    """One session as it was last heard, with what its attempt had used before."""

    run: Run
    attempt: Attempt
    earlier: Usage
    usually: float  # tokens a minute
    began: datetime
    usage: Usage = Usage()
    model: str = ""
    cost: float = 0.0
    wrong: str = ""  # why the model that answers is none that may be used
    closed: bool = False
    tripped: Stop | None = None
    told: list[tuple[datetime, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.usage, self.told = self.earlier, [(self.began, self.earlier.tokens)]
        self.lane = self.attempt.lane or self.attempt.agent
        self.scopes = budget.scopes(self.run.id, self.run.repo, self.lane)

    @property
    def models(self) -> tuple[str, ...]:
        return self.model, self.attempt.model

    @property
    def amount(self) -> Amount:
        return self.usage.tokens, max(self.usage.money, self.cost)

    def hear(self, progress: Progress, now: datetime) -> bool:
        """Take it in; says whether anything more was used."""
        used, model = self.earlier + progress.usage, progress.model or self.model
        changed = used != self.usage or model != self.model
        if used.tokens != self.usage.tokens:
            self.told.append((now, used.tokens))
            del self.told[: budget.in_window(self.told, now)]
        self.usage, self.model = used, model
        return changed

    def entry(self, now: datetime) -> Entry:
        attempt = self.attempt
        seconds = (now - (attempt.started_at or self.began)).total_seconds()
        return Entry(
            self.run.id, attempt.number, now, self.run.key, self.run.repo, self.lane, attempt.agent,
            attempt.model, self.model, "running", self.usage, self.cost, "", max(seconds, 0.0),
        )  # fmt: skip


class _Settled:
    """What the ledger says, by scope, kept up to date in small steps: rows come, and midnight and noon pass."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.looked = datetime.min.replace(tzinfo=UTC)
        self.since: datetime | None = None
        self.turn = 0  # changes with the rows
        self.before: list[tuple[str, str, Amount]] = []
        self.rows: dict[tuple[str, int], Entry] = {}
        self.unwritten: list[Entry] = []
        self.by: dict[str, Amount] = {}
        self.lanes: dict[str, int] = {}

    def look(self, now: datetime) -> None:
        """Read what is new. Raises StoreError, and then all is as it was."""
        ledger, (day, night) = self.store.ledger, began(now)
        since = min(day, night)
        before, known = self.before, self.rows
        if since != self.since:
            before, known = ledger.before(since), {}
        unwritten = ledger.unwritten(now)  # first: what is written down meanwhile is then seen as a row
        newest = max((entry.at for entry in known.values()), default=since)
        rows = known | {entry.key: entry for entry in ledger.since(max(min(newest, now) - OVERLAP, since))}
        self.unwritten = [entry for entry in unwritten if entry.key not in rows]
        if len(rows) != len(self.rows) or since != self.since or not self.turn:
            self.turn += 1
            self._count(before, rows, day, night)
        self.since, self.before, self.rows, self.looked = since, before, rows, now

    def _count(
        self, before: list[tuple[str, str, Amount]], rows: Mapping[tuple[str, int], Entry], day: datetime,
        night: datetime,
    ) -> None:  # fmt: skip
        by, lanes = budget.tally(rows.values(), day, night), defaultdict[str, int](int)
        for run_id, lane, spent in before:
            by[f"ticket:{run_id}"] = plus(by.get(f"ticket:{run_id}", NOTHING), spent)
            lanes[lane] += spent[0]
        for entry in rows.values():
            lanes[entry.lane] += entry.usage.tokens
        self.by, self.lanes = by, dict(lanes)
