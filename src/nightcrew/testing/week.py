"""A simulated week: the real decisions (core) on a virtual clock, against a provider's windows of 5 hours and 7 days.

Everything follows from `Shape` and the seed: the same two give the same week, and the same tickets under every policy.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random
from statistics import median

from nightcrew.core import lanes, pacing
from nightcrew.core.lifecycle import settle
from nightcrew.core.model import Attempt, Lane, LaneState, Policy, Repo, Run, RunState, Usage, Window
from nightcrew.core.outcome import Outcome
from nightcrew.core.schedule import Action, Park, Settle, Show, Start, Up, View, decide

HOUR, DAY = 3600.0, 86400.0
MONDAY = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
INPUT, OUTPUT, CACHE_READ, CACHE_WRITE = 1.0, 5.0, 0.1, 1.25
"""What a token of each kind weighs: the ratios of the price tables. That plans are metered so is assumed."""

BACKLOG = 4
"""Tickets that wait on the board at any time: there is always more to do."""


@dataclass(frozen=True)
class Shape:
    """What a week is like. Tokens of a context are plain ones; what fills a window is weighted. Shares are 0..1."""

    slots: int = 35
    night_starts: float = 22.0  # hour of the day
    night_hours: float = 9.0  # 24 = around the clock
    days: float = 7.0
    five_hour: float = 14e6  # weighted tokens that fill the window
    seven_day: float = 140e6
    turns: float = 60.0  # of the median ticket
    spread: float = 0.5  # of its logarithm
    base: int = 18_000  # the context a session begins with: system prompt, tools, instructions, ticket
    growth: float = 1_500.0  # tokens that a turn adds, on average, beside what the model said
    said: float = 400.0  # tokens that the model says in a turn, on average
    full: int = 180_000  # the context grows no further: the CLI compacts it
    cache_seconds: float = 300.0
    seconds: tuple[float, float] = (10.0, 60.0)  # of a turn, its tools included
    owner: float = 0.0  # the share of a 5-hour window that the owner uses in each hour from 9 to 18
    tick: float = 5.0  # seconds until the director looks at what was told
    plain: bool = False  # the meter tells nothing of `pacing.Load` that is optional


@dataclass(frozen=True)
class Week:
    """What came of it. Tokens are weighted; `rewritten` is what was paid only because a context was forgotten, `lost`
    what was paid for turns that were ended. `peaks` is the highest share of each window that was used by us."""

    finished: int = 0
    used: float = 0.0
    rewritten: float = 0.0
    lost: float = 0.0
    cuts: int = 0
    rejected: int = 0
    half_done: int = 0
    peaks: tuple[tuple[str, float], ...] = ()


@dataclass
class Quota:
    """One window as its provider keeps it: it begins with the first use."""

    name: str
    seconds: float
    capacity: float
    ours: float = 0.0
    owners: float = 0.0
    resets_at: float = 0.0
    peak: float = 0.0

    def open(self, now: float) -> None:
        if now >= self.resets_at:
            self.ours = self.owners = 0.0

    def bill(self, now: float, tokens: float, ours: bool = True) -> None:
        self.open(now)
        if now >= self.resets_at:
            self.resets_at = now + self.seconds
        if ours:
            self.ours += tokens
            self.peak = max(self.peak, self.ours / self.capacity)
        else:
            self.owners += tokens

    @property
    def used(self) -> float:
        return (self.ours + self.owners) / self.capacity


@dataclass
class Provider:
    """Two windows. A request is let in while neither is full, and billed in full when it is answered."""

    quotas: tuple[Quota, ...]

    def refuses(self, now: float) -> float:
        """When the last of the full windows is over; 0 when none is full."""
        for quota in self.quotas:
            quota.open(now)
        return max((m.resets_at for m in self.quotas if m.used >= 1 and m.resets_at > now), default=0.0)

    def told(self, now: float) -> tuple[Window, ...]:
        """What an answer tells: shares in hundredths."""
        return tuple(
            Window(m.name, min(round(m.used, 2), 1.0), m.resets_at, m.seconds, now, m.used >= 0.8)
            for m in self.quotas
            if m.resets_at > now
        )


@dataclass(frozen=True)
class Turn:
    """What a turn costs, how long it takes, what it adds to the context, what of its cost is for a forgotten one."""

    usage: Usage
    seconds: float
    adds: int
    forgotten: float

    @property
    def weight(self) -> float:
        """Its tokens as a plan's windows count them."""
        of = self.usage
        return INPUT * of.input + OUTPUT * of.output + CACHE_READ * of.cache_read + CACHE_WRITE * of.cache_write


class Work:
    """One ticket's conversation: as long and as large as its number and the seed say, whoever works it."""

    def __init__(self, shape: Shape, seed: str) -> None:
        self.shape, self.random = shape, Random(seed)  # noqa: S311 - a simulation, no secret
        self.turns_left = max(8, min(int(shape.turns * self.random.lognormvariate(0.0, shape.spread)), 300))
        self.context, self.warm_until = shape.base, 0.0

    def turn(self, now: float) -> Turn:
        """The next turn, begun now; it counts when it is `taken`."""
        said = max(20, int(self.random.expovariate(1 / self.shape.said)))
        read = int(self.random.expovariate(1 / self.shape.growth))
        warm = now <= self.warm_until
        cached, written = (self.context, read) if warm else (0, self.context + read)
        forgotten = self.context * (CACHE_WRITE - CACHE_READ) if self.warm_until and not warm else 0.0
        usage = Usage(output=said, cache_read=cached, cache_write=written, turns=1)
        return Turn(usage, self.random.uniform(*self.shape.seconds), read + said, forgotten)

    def taken(self, turn: Turn, now: float) -> None:
        self.turns_left -= 1
        self.context = min(self.context + turn.adds, self.shape.full)
        self.warm_until = now + self.shape.cache_seconds


@dataclass
class Session:
    """A running attempt and the turn it is in."""

    attempt: Attempt
    work: Work
    turn: Turn | None = None
    ends: float = 0.0
    used: float = 0.0


@dataclass
class Clock:
    """What happens when; things of one moment in the order they were asked for."""

    now: float = MONDAY
    number: int = 0
    due: list[tuple[float, int, str, str]] = field(default_factory=list)

    def at(self, when: float, what: str, about: str = "") -> None:
        self.number += 1
        heapq.heappush(self.due, (when, self.number, what, about))

    def until(self, end: float) -> Iterator[tuple[str, str]]:
        while self.due and self.due[0][0] < end:
            self.now, _, what, about = heapq.heappop(self.due)
            yield what, about


class World:
    """A crew of one lane with more tickets than it can work, for one week."""

    def __init__(self, shape: Shape, policy: Policy, seed: int) -> None:
        self.shape, self.seed, self.clock = shape, seed, Clock()
        self.policy = replace(policy, max_running=shape.slots, starting=shape.slots)
        quotas = Quota("five_hour", 5 * HOUR, shape.five_hour), Quota("seven_day", 7 * DAY, shape.seven_day)
        self.provider = Provider(quotas)
        self.runs: dict[str, Run] = {}
        self.work: dict[str, Work] = {}
        self.sessions: dict[str, Session] = {}
        self.ended: list[Attempt] = []
        self.lanes: dict[str, Lane] = {}
        self.sizes: list[float] = []
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.turns, self.total, self.most = 0, 0.0, 0.0
        self.heard: tuple[object, ...] = ()
        self.looks_at = 0.0
        self.week = Week()

    # -- the loop --------------------------------------------------------------------------------------------------
    def run(self) -> Week:
        """The whole week."""
        self._plan_days()
        for what, about in self.clock.until(MONDAY + self.shape.days * DAY):
            if what == "turn":
                self._answered(self.sessions.get(about))
            elif what == "owner":
                self._owner()
            elif what == "tick":
                self._tick()
        peaks = tuple((m.name, m.peak) for m in self.provider.quotas)
        half_done = sum(1 for w in self.work.values() if w.warm_until and w.turns_left)
        return replace(self.week, used=self.total, peaks=peaks, half_done=half_done)

    def _plan_days(self) -> None:
        for day in range(int(self.shape.days) + 1):
            midnight = MONDAY + day * DAY
            self.clock.at(midnight + self.shape.night_starts * HOUR, "tick")
            for minute in range(9 * 60, 18 * 60, 5) if self.shape.owner else ():
                self.clock.at(midnight + minute * 60, "owner")
        self.clock.at(MONDAY, "tick")

    def _awake(self) -> bool:
        hour = (self.clock.now - MONDAY) / HOUR % 24
        return (hour - self.shape.night_starts) % 24 < self.shape.night_hours

    def _owner(self) -> None:
        for quota in self.provider.quotas:
            quota.bill(self.clock.now, self.shape.owner * self.shape.five_hour / 12, ours=False)

    def _look(self, when: float) -> None:
        """The director looks then, unless it does so before."""
        if not self.clock.now < self.looks_at <= when:
            self.looks_at = when
            self.clock.at(when, "tick")

    # -- sessions --------------------------------------------------------------------------------------------------
    def _ask(self, session: Session) -> None:
        """The session's next request; where it is refused, the session is over."""
        resets = self.provider.refuses(self.clock.now)
        if resets:
            self.week = replace(self.week, rejected=self.week.rejected + 1, cuts=self.week.cuts + 1)
            return self._end(session, Outcome.RATE_LIMITED, "You've hit your limit", resets)
        session.turn = session.work.turn(self.clock.now)
        session.ends = self.clock.now + session.turn.seconds
        return self.clock.at(session.ends, "turn", session.attempt.run_id)

    def _answered(self, session: Session | None) -> None:
        if session is None or session.turn is None or session.ends != self.clock.now:
            return  # it was ended meanwhile
        turn = session.turn
        self._bill(session, turn)
        session.work.taken(turn, self.clock.now)
        self.week = replace(self.week, rewritten=self.week.rewritten + turn.forgotten)
        self._hear()
        if session.work.turns_left:
            self._ask(session)
        else:
            self._end(session, Outcome.DONE, "done", None)

    def _bill(self, session: Session, turn: Turn) -> None:
        for quota in self.provider.quotas:
            quota.bill(self.clock.now, turn.weight)
        session.used += turn.weight
        self.spent[session.attempt.run_id] += turn.weight
        session.attempt = replace(session.attempt, usage=session.attempt.usage + turn.usage)
        self.total, self.turns, self.most = self.total + turn.weight, self.turns + 1, max(self.most, turn.weight)

    def _hear(self) -> None:
        told = self.provider.told(self.clock.now)
        lane = self.lanes.get("claude", Lane("claude"))
        self.lanes["claude"] = pacing.hear(lane, told, int(self.total))
        heard = tuple((w.name, w.used, w.resets_at) for w in told)
        if heard != self.heard:
            self.heard = heard
            self._look(self.clock.now + self.shape.tick)
            for window in told:
                self._later(window.resets_at)

    def _later(self, when: float) -> None:
        """The director naps no longer than until then, and a hundredth: as the real one does."""
        when += 0.01
        if (when, "tick") not in {(at, what) for at, _, what, _ in self.clock.due}:
            self.clock.at(when, "tick")

    def _end(self, session: Session, outcome: Outcome, why: str, resets_at: float | None) -> None:
        del self.sessions[session.attempt.run_id]
        if outcome is Outcome.DONE:
            self.sizes.append(self.spent[session.attempt.run_id])
            self.week = replace(self.week, finished=self.week.finished + 1)
        self.ended.append(
            replace(session.attempt, phase="ended", outcome=outcome.value, evidence=why, resets_at=resets_at)
        )
        self._look(self.clock.now + self.shape.tick)

    # -- the director ----------------------------------------------------------------------------------------------
    def _tick(self) -> None:
        """Look and act, until there is nothing more to do at this moment."""
        for _ in range(100):
            actions = decide(self._view(), self._when(), self.policy)
            for action in actions:
                self._perform(action)
            if not actions:
                return
        raise RuntimeError("the director spins")

    def _when(self) -> datetime:
        return datetime.fromtimestamp(self.clock.now, UTC)

    def _view(self) -> View:
        while sum(r.state is RunState.QUEUED for r in self.runs.values()) < BACKLOG:
            self._adopt()
        running = [replace(s.attempt, phase="session") for s in self.sessions.values()]
        return View(
            runs=tuple(self.runs.values()), attempts=(*running, *self.ended), lanes=self.lanes,
            loads={"claude": self._load()}, ladders={"claude": ()}, agents=("claude",),
            repos=(Repo("app", "/app"),), paused=not self._awake(),
        )  # fmt: skip

    def _adopt(self) -> None:
        number = len(self.work)
        name = f"board:{number}"
        created = datetime.fromtimestamp(MONDAY + number, UTC)
        self.work[name] = Work(self.shape, f"{self.seed}:{number}")
        self.runs[name] = Run(name, "board", str(number), f"T-{number}", "", repo="app", created_at=created)

    def _load(self) -> pacing.Load:
        """What a meter tells: weighted tokens, and earlier attempts count."""
        typical = median(self.sizes[-50:]) if self.sizes else 0.0
        turn = self.total / self.turns if self.turns else 0.0
        running = tuple(int(s.used) for s in self.sessions.values())
        if self.shape.plain:
            return pacing.Load(running, typical, turn)
        before = tuple(int(self.spent[name] - s.used) for name, s in self.sessions.items())
        waiting = tuple(int(self.spent[r.id]) for r in self.runs.values() if r.session_id and r.id not in self.sessions)
        ended = tuple(int(size) for size in self.sizes[-50:])
        return pacing.Load(running, typical, turn, self.most, before, waiting, ended)

    def _perform(self, action: Action) -> None:
        match action:
            case Show(run, state):
                self.runs[run.id] = replace(self.runs[run.id], shown=state)
            case Settle(run, attempt):
                self._settle(run, attempt)
            case Start(run, agent, model, resume):
                self._start(run, agent, model, resume)
            case Park(lane, until, why):
                self._park(lane, until, why)
            case Up(lane, _):
                self.lanes[lane.name] = Lane(lane.name, windows=lane.windows)
            case _:
                raise RuntimeError(f"no such thing happens in this week: {action}")

    def _settle(self, run: Run, attempt: Attempt) -> None:
        self.ended.remove(attempt)
        seat = View().seat(attempt.agent)
        for lane in lanes.after(self.lanes, seat, attempt, self.policy, self._when()):
            self.lanes[lane.name] = lane
            if lane.until:
                self._later(lane.until.timestamp())
        after = settle(run, attempt, self.policy, self._when())
        if after.state is RunState.IN_REVIEW:
            del self.runs[run.id]
        else:
            self.runs[run.id] = after

    def _start(self, run: Run, agent: str, model: str, resume: bool) -> None:
        number = run.attempts + 1
        self.runs[run.id] = replace(run, state=RunState.WORKING, attempts=number, shown="working")
        attempt = Attempt(run.id, number, agent, model, run.session_id or f"s{run.id}", resume, number,
                          lane=agent, started_at=self._when())  # fmt: skip
        session = self.sessions[run.id] = Session(attempt, self.work[run.id])
        self._ask(session)

    def _park(self, lane: Lane, until: datetime, why: str) -> None:
        """As the director does: the lane is closed, its sessions end. What was asked already is billed all the same."""
        self.lanes[lane.name] = replace(lane, state=LaneState.LIMITED, until=until, evidence=why, told_at=self._when())
        self._later(until.timestamp())
        for session in list(self.sessions.values()):
            if session.turn:
                self._bill(session, session.turn)
                lost = self.week.lost + session.turn.weight
                self.week = replace(self.week, lost=lost, cuts=self.week.cuts + 1)
            self._end(session, Outcome.RATE_LIMITED, why, None)


def simulate(shape: Shape, policy: Policy, seed: int) -> Week:
    """One week under that policy. Pure: the same arguments, the same week."""
    return World(shape, policy, seed).run()
