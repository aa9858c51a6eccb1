"""The one decision: what should happen next. Frozen values in, a list of actions out; no one is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from nightcrew.core.lifecycle import ENDED
from nightcrew.core.model import (
    Attempt,
    Lane,
    LaneState,
    Policy,
    PullRequest,
    Repo,
    Run,
    RunState,
    Ticket,
    TicketState,
)
from nightcrew.core.route import route, wish


@dataclass(frozen=True)
class View:
    """All that is known at one moment. `gone` are ids of tickets that left the board for certain."""

    tickets: tuple[Ticket, ...] = ()
    runs: tuple[Run, ...] = ()
    attempts: tuple[Attempt, ...] = ()  # not settled yet
    pulls: Mapping[tuple[str, str], PullRequest] = field(default_factory=dict)  # (repo, branch)
    lanes: Mapping[str, Lane] = field(default_factory=dict)
    ladders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    repos: tuple[Repo, ...] = ()
    agents: tuple[str, ...] = ()  # the crew's order of preference
    finished: frozenset[str] = frozenset()  # ids and keys of blockers that are done
    gone: frozenset[str] = frozenset()
    paused: bool = False
    busy: frozenset[str] = frozenset()  # runs being cleaned or shown right now
    cleaning: frozenset[str] = frozenset()  # runs whose workspace is being removed


@dataclass(frozen=True)
class Adopt:
    """Make a run for a ticket that has none, or route one again."""

    ticket: Ticket
    repo: str
    reason: str


@dataclass(frozen=True)
class Refresh:
    """The ticket was edited: take over what scheduling needs."""

    run: Run
    ticket: Ticket


@dataclass(frozen=True)
class Start:
    """Start the next attempt."""

    run: Run
    agent: str
    model: str
    resume: bool


@dataclass(frozen=True)
class Settle:
    """Fold an ended attempt into its run."""

    run: Run
    attempt: Attempt


@dataclass(frozen=True)
class Stop:
    """Stop a run; a working one is ended first and its work rescued."""

    run: Run
    why: str


@dataclass(frozen=True)
class Reopen:
    """A person moved the ticket back: start over, on a new branch when there was a pull request."""

    run: Run


@dataclass(frozen=True)
class Follow:
    """The pull request changed: merged, closed, or changes were asked for."""

    run: Run
    pull: PullRequest


@dataclass(frozen=True)
class Show:
    """Show the run's state on the board."""

    run: Run
    state: TicketState


@dataclass(frozen=True)
class Clean:
    """The run needs its workspace no more: rescue what is only there, then remove it."""

    run: Run


Action = Adopt | Refresh | Start | Settle | Stop | Reopen | Follow | Show | Clean

SHOWN: dict[RunState, TicketState] = {
    RunState.WORKING: TicketState.WORKING,
    RunState.IN_REVIEW: TicketState.REVIEW,
    RunState.BLOCKED: TicketState.BLOCKED,
    RunState.FAILED: TicketState.FAILED,
    RunState.DUPLICATE: TicketState.CLOSED,
    RunState.MERGED: TicketState.DONE,
    RunState.CLOSED: TicketState.CLOSED,
}
WORKABLE = frozenset({TicketState.OPEN, TicketState.WORKING, TicketState.REVIEW})
OPEN_PULL = frozenset({RunState.IN_REVIEW, RunState.QUEUED, RunState.FAILED, RunState.BLOCKED, RunState.CANCELLED})
UNSHOWN = frozenset({"", TicketState.OPEN, TicketState.WORKING})
IN_SESSION = frozenset({"starting", "preparing", "session"})
"""Phases that hold a slot; gates and publishing do not keep the next agent waiting."""
LAST = datetime.max.replace(tzinfo=UTC)


def decide(view: View, now: datetime, policy: Policy) -> list[Action]:
    """Say what should happen next. Same view, same answer; reconcile before dispatch."""
    runs = {run.id: run for run in view.runs}
    changes: list[Action] = [
        *(Settle(runs[a.run_id], a) for a in view.attempts if a.phase == "ended" and a.run_id in runs),
        *_stops(view),
        *_follows(view),
        *_intake(view, runs),
    ]
    reconciled = [*_one_each(changes), *_shows(view), *(Clean(r) for r in view.runs if _cleanable(r, view))]
    # What has just ended may close a lane: it is folded in first, and the next round, which comes at once, dispatches.
    told = not any(isinstance(action, Settle) for action in reconciled)
    return reconciled + (_dispatch(view, reconciled, now, policy) if told and not view.paused else [])


def _one_each(changes: Sequence[Action]) -> list[Action]:
    """The first change of each run: a second one would write over it what was seen before it. It comes next time."""
    first: dict[str, Action] = {}
    for change in changes:
        first.setdefault(run_id(change.ticket) if isinstance(change, Adopt) else change.run.id, change)
    return list(first.values())


def _cleanable(run: Run, view: View) -> bool:
    """Nobody needs its workspace, and the repository that its work is rescued into is known."""
    settled = run.state in ENDED or run.state is RunState.IN_REVIEW
    return bool(run.workspace) and settled and run.id not in view.busy and run.repo in {r.name for r in view.repos}


def _stops(view: View) -> list[Action]:
    state = {t.id: t.state for t in view.tickets}
    stops: list[Action] = []
    for run in view.runs:
        if run.stopping or run.state not in (RunState.QUEUED, RunState.WORKING, RunState.UNROUTED):
            continue
        if run.ticket_id in view.gone:
            stops.append(Stop(run, "the ticket left the board"))
        elif (now_is := state.get(run.ticket_id)) and now_is not in WORKABLE and now_is != run.shown:
            stops.append(Stop(run, f"a person moved the ticket to {now_is}"))
    return stops


def _follows(view: View) -> list[Action]:
    follows: list[Action] = []
    for run in view.runs:
        pull = view.pulls.get((run.repo, run.branch))
        if pull is None or not run.pull_request or run.state not in OPEN_PULL:
            continue
        if pull.state in ("merged", "closed") or (pull.changes_requested and run.state is RunState.IN_REVIEW):
            follows.append(Follow(run, pull))
    return follows


def _intake(view: View, runs: Mapping[str, Run]) -> list[Action]:
    actions: list[Action] = []
    for ticket in view.tickets:
        run = runs.get(run_id(ticket))
        if run is None or (run.state is RunState.UNROUTED and not run.stopping):
            if ticket.state is TicketState.OPEN or run is not None:
                actions += _adopt(ticket, run, view.repos)
        elif run.state in ENDED and _reopened(run, ticket):
            actions.append(Reopen(run))
        elif _edited(run, ticket):
            actions.append(Refresh(run, ticket))
    return actions


def _adopt(ticket: Ticket, run: Run | None, repos: Sequence[Repo]) -> list[Action]:
    found = route(ticket, repos)
    repo = found.repo.name if found.repo else ""
    if run is not None and not repo and run.reason == found.reason:
        return []
    return [Adopt(ticket, repo, found.reason)]


def _reopened(run: Run, ticket: Ticket) -> bool:
    """The board shows `open` although we showed the end: only a person does that."""
    if run.state is RunState.CANCELLED:
        return ticket.state is TicketState.OPEN and run.shown not in UNSHOWN
    return ticket.state is TicketState.OPEN and run.shown == SHOWN[run.state]


def _edited(run: Run, ticket: Ticket) -> bool:
    was = (run.title, run.priority, run.labels, run.blocked_by)
    return was != (ticket.title, ticket.priority, ticket.labels, ticket.blocked_by) and run.state not in ENDED


def _shows(view: View) -> list[Action]:
    return [
        Show(run, wanted)
        for run in view.runs
        if (wanted := _wanted(run)) and run.shown != wanted and run.id not in view.busy
    ]


def _wanted(run: Run) -> TicketState | None:
    if run.state is RunState.CANCELLED and run.shown in UNSHOWN:
        return TicketState.BLOCKED  # stopped by hand: the board must not go on saying that it is worked
    return SHOWN.get(run.state)


def run_id(ticket: Ticket) -> str:
    """One run per ticket, the same name on every node."""
    return f"{ticket.board}:{ticket.id}"


def _dispatch(view: View, reconciled: Sequence[Action], now: datetime, policy: Policy) -> list[Action]:
    touched = {a.run.id for a in reconciled if isinstance(a, Stop | Settle | Reopen | Follow)}
    holding = [a for a in view.attempts if a.phase in IN_SESSION]
    per_repo = Counter(run.repo for run in view.runs if any(a.run_id == run.id for a in holding))
    per_lane = Counter(a.agent for a in holding)
    limits = {repo.name: repo.max_running for repo in view.repos}
    free = policy.max_running - len(holding)
    starts: list[Action] = []
    for run in sorted(view.runs, key=_order):
        if len(starts) >= free:
            break
        if run.id in touched or run.id in view.cleaning or waits(run, view, now):
            continue
        if limits.get(run.repo) and per_repo[run.repo] >= limits[run.repo]:
            continue
        if chosen := _lane_for(run, view, now, per_lane):
            per_repo[run.repo] += 1
            per_lane[chosen] += 1
            starts.append(_start(run, chosen, view))
    return starts


def _order(run: Run) -> tuple[int, datetime, str]:
    return run.priority, run.created_at or LAST, run.key


def waits(run: Run, view: View, now: datetime) -> str:
    """Why a run cannot start now, "" when it can (lanes and limits aside)."""
    if run.state is not RunState.QUEUED or run.stopping:
        return run.state.value
    if run.not_before and run.not_before > now:
        return f"until {run.not_before:%H:%M:%S}"
    if open_blockers := [b for b in run.blocked_by if b not in view.finished]:
        return f"waits for {', '.join(open_blockers)}"
    if run.repo not in {repo.name for repo in view.repos}:
        return f"repository {run.repo} is not configured"
    return ""


def agents_for(run: Run, view: View) -> tuple[str, ...]:
    """The lanes this run may use, best first: its label, its repository's list, the crew's list."""
    if wished := wish(run.labels, "agent"):
        return (wished,) if wished in view.ladders else ()
    own = next((repo.agents for repo in view.repos if repo.name == run.repo), ())
    return tuple(a for a in own or view.agents if a in view.ladders)


def lane_ready(lane: Lane, now: datetime, running: int) -> bool:
    """May one more attempt start on this lane? After an overload one attempt goes first (half-open)."""
    match lane.state:
        case LaneState.UP:
            return True
        case LaneState.LIMITED:
            return lane.until is None or lane.until <= now
        case LaneState.OVERLOADED:
            return running == 0 and (lane.until is None or lane.until <= now)
        case LaneState.OUT:
            return False


def _lane_for(run: Run, view: View, now: datetime, per_lane: Mapping[str, int]) -> str:
    ready = [a for a in agents_for(run, view) if lane_ready(view.lanes.get(a, Lane(a)), now, per_lane.get(a, 0))]
    return run.agent if run.session_id and run.agent in ready else next(iter(ready), "")


def _start(run: Run, agent: str, view: View) -> Start:
    ladder = view.ladders[agent]
    model = wish(run.labels, "model") or (ladder[min(run.level, len(ladder) - 1)] if ladder else "")
    return Start(run, agent, model, bool(run.session_id) and run.agent == agent)


def idle(view: View) -> bool:
    """Nothing is going on and nothing will happen by itself: what is left waits for a person."""
    if view.attempts or "fault" in view.busy:
        return False
    return not any(_will_go_on(run, view) for run in view.runs)


def _will_go_on(run: Run, view: View) -> bool:
    if _cleanable(run, view):
        return True
    if run.state is not RunState.QUEUED or view.paused:
        return False
    if any(b not in view.finished for b in run.blocked_by):
        return False
    lanes = [view.lanes.get(a, Lane(a)) for a in agents_for(run, view)]
    return any(lane.state is not LaneState.OUT for lane in lanes) and run.repo in {r.name for r in view.repos}
