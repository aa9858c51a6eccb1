"""Dispatch: which queued run starts now, on which lane, and why each of the others does not (I8)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from nightcrew.core import admission, budget, lanes, likely, pacing
from nightcrew.core.gate import name as on_one_line
from nightcrew.core.model import Attempt, Lane, LaneState, Policy, Run, RunState
from nightcrew.core.route import wish
from nightcrew.core.view import Fail, Park, Start, Up, View

IN_SESSION = frozenset({"starting", "preparing", "session"})
"""Phases that hold a slot; gates and publishing do not keep the next agent waiting."""
LAST = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Plan:
    """What starts, and why each other queued run does not, by run id."""

    starts: list[Start] = field(default_factory=list)
    held: Mapping[str, str] = field(default_factory=dict)


def plan(view: View, touched: Collection[str], now: datetime, policy: Policy) -> Plan:
    """Say what starts now, the most urgent first. Runs in `touched` change otherwise in this round."""
    tally, starts, held = _Tally(view, now, policy), list[Start](), dict[str, str]()
    later: list[Run] = []

    def place(run: Run, why: str) -> None:
        agent, why = ("", why) if why else tally.choose(run)
        if agent:
            tally.take(run, agent)
            starts.append(_start(run, agent, view))
        if agent or why:
            held[run.id] = why

    for run in sorted(view.runs, key=_order):
        if run.id in touched or run.id in view.cleaning or run.state is not RunState.QUEUED:
            continue
        why = waits(run, view, now) or ("nothing new starts: paused" if view.paused else tally.refuses(run))
        if not why and (crowd := tally.crowds(run)):
            later.append(run)
            held[run.id] = crowd
        else:
            place(run, why)
    for run in later:  # all others had their turn: a slot that is left stays idle for nobody
        if not tally.refuses(run):
            place(run, "")
    return Plan(starts, {run_id: why for run_id, why in held.items() if why})


def _order(run: Run) -> tuple[int, datetime, str]:
    return run.priority, run.created_at or LAST, run.key


def waits(run: Run, view: View, now: datetime) -> str:
    """Why a run cannot start now, "" when it can (lanes and limits aside)."""
    if run.state is not RunState.QUEUED or run.stopping:
        return run.state.value
    if run.not_before and run.not_before > now:
        return f"again at {run.not_before.astimezone():%H:%M:%S}: {run.reason}"
    if open_blockers := [b for b in run.blocked_by if b not in view.finished]:
        return f"waits for {', '.join(open_blockers)}"
    if lacking := view.lacks(run):
        have = ", ".join(sorted(view.capabilities)) or "nothing of the kind"
        return f"needs a node with {', '.join(lacking)}; this one has {have}"
    if run.repo not in {repo.name for repo in view.repos}:
        return f"repository {run.repo} is not configured"
    return ""


def agents_for(run: Run, view: View) -> tuple[str, ...]:
    """The agents this run may use, best first: its label, its repository's list, the crew's list."""
    if wished := wish(run.labels, "agent"):
        return (wished,) if wished in view.ladders else ()
    own = next((repo.agents for repo in view.repos if repo.name == run.repo), ())
    return tuple(a for a in own or view.agents if a in view.ladders)


class _Tally:
    """What is taken already, counted on as runs are chosen."""

    def __init__(self, view: View, now: datetime, policy: Policy) -> None:
        self.view, self.now, self.policy = view, now, policy
        runs = {run.id: run for run in view.runs}
        self.holding = [a for a in view.attempts if a.phase in IN_SESSION]
        self.running, self.started = len(self.holding), list[str]()
        self.repos, self.boards, self.labels = Counter[str](), Counter[str](), Counter[str]()
        for run in (runs[a.run_id] for a in self.holding if a.run_id in runs):
            self._count(run)
        self.lanes = Counter(view.seat(a.agent).lane for a in self.holding)
        self.probes = {name for name, lane in view.lanes.items() if self._tried(lane)}
        self.loads = {name: replace(load, waiting=_waiting(name, view)) for name, load in view.loads.items()}
        self.limits = {repo.name: repo.max_running for repo in view.repos}
        self.reviewers = {repo.name: repo.gates.review for repo in view.repos}
        self.files: defaultdict[str, dict[str, frozenset[str]]] = defaultdict(dict)  # by repository and ticket
        self.behind: set[str] = set()  # tickets among them that wait themselves
        for run in (runs[a.run_id] for a in view.attempts if a.phase != "ended" and a.run_id in runs):
            self._works_on(run)

    def _count(self, run: Run) -> None:
        self.repos[run.repo] += 1
        self.boards[run.board] += 1
        self.labels.update(run.labels)

    def _works_on(self, run: Run) -> None:
        self.files[run.repo][run.key] = self.view.touches.get(run.id, frozenset())

    def crowds(self, run: Run) -> str:
        """Whose files this run will likely change too, "" when nobody's. Who comes after it minds its files then."""
        mine = self.view.touches.get(run.id, frozenset())
        if not self.policy.avoid_conflicts or run.pending_head:
            return ""
        who, files = likely.overlaps(mine, self.files[run.repo])
        if not who:
            return ""
        self._works_on(run)
        self.behind.add(run.key)
        told = on_one_line(", ".join(files[:3])) + (", ..." if len(files) > 3 else "")
        return f"waits: {who} {'is to change' if who in self.behind else 'works on'} the same files ({told})"

    def _tried(self, lane: Lane) -> bool:
        return any(_on(lane, a, self.view) and not _older(a, lane) for a in self.holding)

    def refuses(self, run: Run) -> str:
        """Which limit is reached for this run, whatever agent would do it; "" when none is."""
        if run.pending_head and (why := self._unreviewable(run)):
            return f"its work is done and waits for its review: {why}"
        if self.running >= self.policy.max_running:
            return f"waits for a free slot: {self.running} of {self.policy.max_running} are taken"
        counted = [
            ("repository", run.repo, self.repos, self.limits),
            ("board", run.board, self.boards, self.policy.boards),
        ]
        counted += [("label", label, self.labels, self.policy.labels) for label in run.labels]
        for what, name, count, most in counted:
            if most.get(name) and count[name] >= most[name]:
                return f"{what} {name} has {count[name]} of {most[name]} at work"
        return ""

    def _unreviewable(self, run: Run) -> str:
        if not (reviewer := self.reviewers.get(run.repo)):
            return ""
        lane = self.view.seat(run.agent).lane  # a review is booked where its worker was
        reached = budget.over(self.view.spend, budget.scopes(run.id, run.repo, lane), self.policy.caps)
        return self._closed(reviewer) or (reached.says if reached else "")

    def choose(self, run: Run) -> tuple[str, str]:
        """The agent that takes it now, or "" and why none can. A session goes on where it was, if that lane is up."""
        agents = agents_for(run, self.view)
        order = sorted(agents, key=lambda agent: not (run.session_id and agent == run.agent))
        refusals = {}
        for agent in order:
            if not (why := self._refuses_on(run, agent)):
                return agent, ""
            refusals[agent] = why
            if run.session_id and agent == run.agent and self._momentary(agent):
                break
        return "", "; ".join(dict.fromkeys(refusals.values())) or "no agent is configured for it"

    def _refuses_on(self, run: Run, agent: str) -> str:
        if run.pending_head:  # no agent is called: its work is only checked and published
            return admission.refuses(self.view.room, agent, tuple(self.started), self.policy)
        if why := self._closed(agent):
            return why
        view, lane = self.view, self.view.lane(self.view.seat(agent).lane)
        running, most = self.lanes[lane.name], self.policy.lanes.get(lane.name, 0)
        if most and running >= most:
            return f"lane {lane.name} has {running} of {most} at work"
        if running and lane.name in view.renewing:
            return f"lane {lane.name}: one session renews the login first"
        load = self.loads.get(lane.name, pacing.Load())
        if (paced := pacing.slots(lane, load, self.now, self.policy)) <= running:
            return f"lane {lane.name} is paced: what is left of its window bears {paced} at once"
        if reached := budget.over(view.spend, budget.scopes(run.id, run.repo, lane.name), self.policy.caps):
            return reached.says
        return admission.refuses(view.room, agent, tuple(self.started), self.policy)

    def _momentary(self, agent: str) -> bool:
        """Whether its lane is up and merely full, or its login is being renewed: a session waits for that."""
        name = self.view.seat(agent).lane
        most = self.policy.lanes.get(name, 0)
        full = (most and self.lanes[name] >= most) or (self.lanes[name] and name in self.view.renewing)
        return bool(full) and not self._closed(agent)

    def _closed(self, agent: str) -> str:
        seat = self.view.seat(agent)
        for lane in (self.view.lane(seat.lane), self.view.lane(lanes.provider_lane(seat))):
            if not lanes.opens(lane, self.now, lane.name in self.probes):
                return lanes.says(lane, self.now)
        return ""

    def take(self, run: Run, agent: str) -> None:
        """It starts: what it takes is taken."""
        called = self.reviewers.get(run.repo, "") if run.pending_head else agent
        self._count(run)
        self._works_on(run)
        self.running += 1
        self.started.append(agent)
        if called:
            seat = self.view.seat(called)
            self.lanes[seat.lane] += not run.pending_head
            self.probes |= {seat.lane, lanes.provider_lane(seat)}


def spent_out(view: View, policy: Policy) -> Iterator[Fail]:
    """Queued runs that have used up what one ticket may cost."""
    for run in view.runs:
        waiting = run.state is RunState.QUEUED and not run.stopping and not run.pending_head
        if waiting and (reached := budget.over(view.spend, [f"ticket:{run.id}"], policy.caps)):
            yield Fail(run, reached.says)


def _waiting(lane: str, view: View) -> tuple[int, ...]:
    """What those have used that were cut on this lane and wait to go on."""
    cut = (run for run in view.runs if run.state is RunState.QUEUED and run.session_id)
    return tuple(run.usage.tokens for run in cut if view.seat(run.agent).lane == lane)


def _on(lane: Lane, attempt: Attempt, view: View) -> bool:
    seat = view.seat(attempt.agent)
    return lane.name in (seat.lane, lanes.provider_lane(seat))


def _older(attempt: Attempt, lane: Lane) -> bool:
    return lane.told_at is not None and attempt.started_at is not None and attempt.started_at < lane.told_at


def _start(run: Run, agent: str, view: View) -> Start:
    ladder = view.ladders[agent]
    model = wish(run.labels, "model") or (ladder[min(run.level, len(ladder) - 1)] if ladder else "")
    return Start(run, agent, model, bool(run.session_id) and run.agent == agent)


def turns_of_lanes(view: View, now: datetime, policy: Policy) -> Iterator[Up | Park]:
    """Lanes that answered a first try are up again; those whose share for us is used are parked."""
    holding = [a for a in view.attempts if a.phase in IN_SESSION]
    for lane in view.lanes.values():
        closed = lane.state in (LaneState.OVERLOADED, LaneState.LIMITED) and lane.probe
        if closed and any(_on(lane, a, view) and not _older(a, lane) and a.usage.tokens for a in holding):
            yield Up(lane, "it answers again")
    for name, load in view.loads.items():
        lane = view.lane(name)
        if lane.state is LaneState.UP and (told := pacing.must_end(lane, load, now, policy)):
            yield Park(lane, datetime.fromtimestamp(told[1], UTC), told[0])
