"""The one decision: what should happen next. Frozen values in, a list of actions out; no one is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from nightcrew.core import turns
from nightcrew.core.dispatch import agents_for, plan, spent_out, turns_of_lanes
from nightcrew.core.followup import Cause, Did, Reaction, react
from nightcrew.core.lanes import provider_lane
from nightcrew.core.lifecycle import ENDED
from nightcrew.core.model import OUT, Policy, Repo, Run, RunState, Ticket, TicketState
from nightcrew.core.route import route
from nightcrew.core.view import (
    Action,
    Adopt,
    Clean,
    Fail,
    Follow,
    Park,
    React,
    Refresh,
    Reopen,
    Settle,
    Show,
    Start,
    Stop,
    Up,
    View,
)

__all__ = [
    "SHOWN", "WORKABLE", "Action", "Adopt", "Clean", "Fail", "Follow", "Park", "React", "Refresh", "Reopen", "Settle",
    "Show", "Start", "Stop", "Up", "View", "decide", "held", "idle", "run_id", "should_show",
]  # fmt: skip

SHOWN: dict[RunState, TicketState] = {
    RunState.WORKING: TicketState.WORKING,
    RunState.IN_REVIEW: TicketState.REVIEW,
    RunState.BLOCKED: TicketState.BLOCKED,
    RunState.FAILED: TicketState.FAILED,
    RunState.DUPLICATE: TicketState.BLOCKED,  # nothing is merged yet: it is a person's to close
    RunState.MERGED: TicketState.DONE,
    RunState.CLOSED: TicketState.CLOSED,
}
WORKABLE = frozenset({TicketState.OPEN, TicketState.WORKING, TicketState.REVIEW})
OPEN_PULL = frozenset({RunState.IN_REVIEW, RunState.QUEUED, RunState.FAILED, RunState.BLOCKED, RunState.CANCELLED})
FOLLOWED = frozenset({RunState.IN_REVIEW, RunState.FAILED, RunState.BLOCKED})
UNHEARD = frozenset(Cause) - {Cause.REVIEW}  # where agents gave up: only what people ask for sends another one
AT_WORK = frozenset({"session", "gates", "publish"})
UNSHOWN = frozenset({"", TicketState.OPEN, TicketState.WORKING})


def decide(view: View, now: datetime, policy: Policy) -> list[Action]:
    """Say what should happen next. Same view, same answer; reconcile before dispatch."""
    runs = {run.id: run for run in view.runs}
    changes: list[Action] = [
        *(Settle(runs[a.run_id], a) for a in view.attempts if a.phase == "ended" and a.run_id in runs),
        *_stops(view),
        *_follows(view),
        *_intake(view, runs, now),
        *spent_out(view, policy),
    ]
    turns = turns_of_lanes(view, now, policy)
    changes += _reacts(view, now)
    reconciled = [*turns, *_one_each(changes), *_shows(view), *(Clean(r) for r in view.runs if _cleanable(r, view))]
    # What has just ended may close a lane: it is folded in first, and the next round, which comes at once, dispatches.
    told = any(isinstance(action, Settle | Up | Park) for action in reconciled)
    touched = {a.run.id for a in reconciled if isinstance(a, Stop | Reopen | Follow | React | Fail)}
    touched |= {run_id(a.ticket) for a in reconciled if isinstance(a, Adopt)}
    return reconciled if told else [*reconciled, *plan(view, touched, now, policy).starts]


def held(view: View, now: datetime, policy: Policy) -> Mapping[str, str]:
    """Why each queued run that does not start now does not, by run id: what `status` tells."""
    return plan(view, (), now, policy).held


def _one_each(changes: Sequence[Action]) -> list[Action]:
    """The first change of each run: a second one would write over it what was seen before it. It comes next time."""
    first: dict[str, Action] = {}
    for change in changes:
        if not isinstance(change, Park | Up):
            first.setdefault(run_id(change.ticket) if isinstance(change, Adopt) else change.run.id, change)
    return list(first.values())


def _cleanable(run: Run, view: View) -> bool:
    """Nobody needs its workspace, and the repository that its work is rescued into is known."""
    settled = run.state in ENDED or run.state is RunState.IN_REVIEW
    return bool(run.workspace) and settled and run.id not in view.busy and run.repo in {r.name for r in view.repos}


def _stops(view: View) -> list[Action]:
    state = {t.id: t.state for t in view.tickets}
    stop = {t.id: t.stop for t in view.tickets if t.stop}
    stops: list[Action] = []
    for run in view.runs:
        if run.stopping or run.state not in (RunState.QUEUED, RunState.WORKING, RunState.UNROUTED):
            continue
        if run.ticket_id in view.gone:
            stops.append(Stop(run, view.gone[run.ticket_id]))
        elif (said := stop.get(run.ticket_id)) and said != run.heard:
            stops.append(Stop(run, said))
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


def _reacts(view: View, now: datetime) -> Iterator[React]:
    """What is to be done about pull requests: first what was begun and not done, then what is new."""
    policies = {repo.name: repo.followup for repo in view.repos}
    asked, wanted = dict[str, Callable[..., Reaction | None]](), dict[str, Reaction]()
    for run in view.runs:
        standing = view.standings.get(run.id)
        if standing is None or run.state not in FOLLOWED or run.id in view.busy or run.repo not in policies:
            continue
        past = tuple(one for one in view.past.get(run.id, ()) if one.pull == standing.pull.number)
        if run.state is not RunState.IN_REVIEW:  # no agent got it done: what people say since then is heard, no more
            past = tuple(replace(one, done=one.done or one.did is Did.AGENT) for one in past)
        begun = next((one for one in past if not one.done and one.did is not Did.AGENT), None)
        ours, flaky = view.ours.get(run.id, frozenset()), view.flaky.get(run.repo, frozenset())
        if begun:
            yield React(run, standing, past=begun)
            continue
        asked[run.id] = partial(react, standing, ours, past, policies[run.repo], now, flaky)
        if reaction := asked[run.id](not_now=UNHEARD if run.state is not RunState.IN_REVIEW else ()):
            wanted[run.id] = reaction
    held = turns.not_now(view, wanted)
    for run in (run for run in view.runs if run.id in wanted):
        again = run.id in held and run.state is RunState.IN_REVIEW
        if reaction := asked[run.id](not_now=held[run.id]) if again else wanted[run.id]:
            yield React(run, view.standings[run.id], reaction)


def _intake(view: View, runs: Mapping[str, Run], now: datetime) -> list[Action]:
    actions: list[Action] = []
    for ticket in view.tickets:
        run = runs.get(run_id(ticket))
        if run is None or (run.state is RunState.UNROUTED and not run.stopping) or _rerouted(run, ticket, view.repos):
            if ticket.state is TicketState.OPEN or run is not None:
                actions += _adopt(ticket, run, view.repos)
        elif run.state in ENDED and not (run.not_before and run.not_before > now) and _reopened(run, ticket):
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


def _rerouted(run: Run, ticket: Ticket, repos: Sequence[Repo]) -> bool:
    """Nothing was begun for it yet, and the ticket now leads elsewhere."""
    if run.state is not RunState.QUEUED or run.attempts or run.stopping or all(r.name != run.repo for r in repos):
        return False  # a repository that left the configuration is waited for, not guessed anew
    found = route(ticket, repos)
    return (found.repo.name if found.repo else "") != run.repo


def _reopened(run: Run, ticket: Ticket) -> bool:
    """The board shows `open` although we showed the end: only a person does that."""
    if run.state is RunState.CANCELLED:
        return ticket.state is TicketState.OPEN and run.shown not in UNSHOWN
    return ticket.state is TicketState.OPEN and run.shown == SHOWN[run.state]


def _edited(run: Run, ticket: Ticket) -> bool:
    was = (run.title, run.priority, run.labels, run.blocked_by)
    return was != (ticket.title, ticket.priority, ticket.labels, ticket.blocked_by) and run.state not in ENDED


def _shows(view: View) -> list[Action]:
    # Before its claim is won, the ticket may be another crew's: nothing is said of it.
    at_work = {a.run_id for a in view.attempts if a.phase in AT_WORK}
    return [
        Show(run, word)
        for run in view.runs
        if (word := should_show(run)) and run.shown != word and run.id not in view.busy
        and (run.state is not RunState.WORKING or run.id in at_work)
    ]  # fmt: skip


def should_show(run: Run) -> TicketState | None:
    """What the board should show of it, None when that may stay as it is."""
    if run.state is RunState.CANCELLED and run.shown in UNSHOWN:
        return TicketState.BLOCKED  # stopped by hand: the board must not go on saying that it is worked
    return SHOWN.get(run.state)


def run_id(ticket: Ticket) -> str:
    """One run per ticket, the same name on every node."""
    return f"{ticket.board}:{ticket.id}"


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
    if any(b not in view.finished for b in run.blocked_by) or view.lacks(run):
        return False
    repo = next((repo for repo in view.repos if repo.name == run.repo), None)
    if repo is None:
        return False
    if run.pending_head:
        return not (repo.gates.review and _out(repo.gates.review, view))
    return any(not _out(agent, view) for agent in agents_for(run, view))


def _out(agent: str, view: View) -> bool:
    seat = view.seat(agent)
    return any(view.lane(name).state in OUT for name in (seat.lane, provider_lane(seat)))
