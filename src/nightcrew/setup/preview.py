"""What a night would take from the boards as they are now. Pure; told by the same decisions as the night itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from nightcrew.core.dispatch import agents_for, plan
from nightcrew.core.model import Attempt, Policy, Run, RunState, Ticket, TicketState, branch_for
from nightcrew.core.route import route
from nightcrew.core.schedule import decide, run_id
from nightcrew.core.view import Adopt, Fail, Refresh, Reopen, Start, Stop, View

LAST = datetime.max.replace(tzinfo=UTC)
WORKING, READY, WAITS, STUCK = "working", "ready", "waits", "stuck"
"""At work now; starts at the first look; starts later by itself; waits for a person or for another machine."""
SHOWN = {
    TicketState.WORKING: "somebody works on it already: the board shows it as working",
    TicketState.REVIEW: "the board shows it in review",
    TicketState.DONE: "it is done",
    TicketState.BLOCKED: "the board shows it as blocked: it waits for a person",
    TicketState.FAILED: "the board shows it as failed: move it back to try it again",
    TicketState.CLOSED: "it is closed",
    TicketState.OTHER: "its state on the board is not one that is worked",
    TicketState.OPEN: "the board's scan does not show it",
}
"""Why a ticket that we know nothing else about is left alone."""


@dataclass(frozen=True)
class Taken:
    """A ticket that would be worked: in which repository, told by which rule of the route, and what it waits for."""

    ticket: Ticket
    repo: str
    rule: str
    stage: str  # WORKING, READY, WAITS or STUCK
    waits: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A ticket that would not be worked, and why."""

    ticket: Ticket
    why: str
    unrouted: bool = False  # it is for us, and no repository is


@dataclass(frozen=True)
class Preview:
    """Every ticket once: the taken ones in the order in which they would start, then the others."""

    taken: tuple[Taken, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Known:
    """What is known besides the view: pull requests of others by run, and why a crew that is up holds its runs."""

    twins: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)


def preview(view: View, now: datetime, policy: Policy, known: Known | None = None,
            others: Sequence[Ticket] = ()) -> Preview:  # fmt: skip
    """Say which tickets of the view would be taken, and why each other one, those of `others` too, would not.

    Exact for what is known now; a ticket that waits for others comes behind all that wait for nothing but a slot.
    """
    known = known or Known()
    look = _first_look(view, now, policy)
    for name, url in known.twins.items():
        look.leave(name, f"{url} is open for it already")
    tickets = {run_id(ticket): ticket for ticket in view.tickets}
    taken = tuple(_taken(view, look, now, policy, known.held))
    ended = (run for run in look.runs.values() if run.state not in (RunState.QUEUED, RunState.WORKING))
    left = {run.id: _ended(run) for run in ended} | look.left
    out = {run_id(t): LeftOut(t, why, _unrouted(t, view, look.runs))
           for t in view.tickets if (why := _why(t, left, look.runs))}  # fmt: skip
    out |= {run.id: LeftOut(_ticket_of(run), left[run.id]) for run in view.runs
            if run.id in left and run.id not in tickets and run.ticket_id in view.gone}  # fmt: skip
    seen = out.keys() | tickets.keys()
    more = [LeftOut(t, t.left or SHOWN[t.state]) for t in others if run_id(t) not in seen]
    return Preview(taken, (*out.values(), *more))


@dataclass
class _Look:
    """What the first look of a night does: the runs after it, why some are not to be worked, what it starts."""

    runs: dict[str, Run]
    left: dict[str, str] = field(default_factory=dict)
    starts: dict[str, Start] = field(default_factory=dict)

    def leave(self, name: str, why: str) -> None:
        if self.runs.pop(name, None):
            self.left[name] = why
            self.starts.pop(name, None)


def _first_look(view: View, now: datetime, policy: Policy) -> _Look:
    look = _Look({run.id: run for run in view.runs})
    for action in decide(view, now, policy):
        match action:
            case Adopt(ticket, repo, reason):
                look.runs[run_id(ticket)] = _run(ticket, repo, reason)
            case Refresh(run, t):
                look.runs[run.id] = replace(run, priority=t.priority, labels=t.labels, blocked_by=t.blocked_by)
            case Reopen(run):
                look.runs[run.id] = replace(run, state=RunState.QUEUED, not_before=None)
            case Stop(run, why) | Fail(run, why):
                look.leave(run.id, why)
            case Start(run):
                look.starts[run.id] = action
            case _:
                pass
    return look


def _run(ticket: Ticket, repo: str, reason: str) -> Run:
    return Run(
        run_id(ticket), ticket.board, ticket.id, ticket.key, ticket.title, repo,
        branch_for(ticket.board, ticket.id, ticket.key), reason=reason,
        state=RunState.QUEUED if repo else RunState.UNROUTED,
        priority=ticket.priority, labels=ticket.labels, blocked_by=ticket.blocked_by, created_at=ticket.created_at,
    )  # fmt: skip


def _taken(view: View, look: _Look, now: datetime, policy: Policy, held: Mapping[str, str]) -> Iterator[Taken]:
    after = replace(view, runs=tuple(look.runs.values()))
    told = plan(_begun(after, look), (), now, policy)
    starts = look.starts.keys() | {start.run.id for start in told.starts}
    reasons = {**told.held, **held}
    tickets = {run_id(ticket): ticket for ticket in view.tickets}
    names = {word: run.key for run in after.runs for word in (run.ticket_id, run.key)}
    names |= {ticket.id: ticket.key for ticket in view.tickets}

    def shown(run: Run, stage: str) -> Taken:
        ticket = tickets.get(run.id) or _ticket_of(run)
        return Taken(ticket, run.repo, _rule(ticket, run, view), stage, _waits(run, view, stage, reasons, names))

    working = sorted((run for run in after.runs if run.state is RunState.WORKING), key=_order)
    yield from (shown(run, WORKING) for run in working)
    queue, stuck = _in_order(after, look)
    yield from (shown(run, READY if run.id in starts else WAITS) for run in queue)
    yield from (shown(run, STUCK) for run in stuck)


def _begun(view: View, look: _Look) -> View:
    """The same once what the first look starts is at work: it was queued before, so it is ahead of what is new."""
    runs = (replace(run, state=RunState.WORKING) if run.id in look.starts else run for run in view.runs)
    at_work = (Attempt(s.run.id, s.run.attempts + 1, s.agent, s.model, "", s.resume, 0) for s in look.starts.values())
    return replace(view, runs=tuple(runs), attempts=(*view.attempts, *at_work))


def _rule(ticket: Ticket, run: Run, view: View) -> str:
    """Which rule leads to the run's repository, "" when none does any more."""
    found = route(ticket, view.repos)
    same = found.repo is not None and found.repo.name == run.repo
    return next((step.rule for step in found.steps if step.outcome == "match"), "") if same else ""


def _in_order(view: View, look: _Look) -> tuple[list[Run], list[Run]]:
    """The waiting runs in the order in which they would start one by one, and those that would not by themselves.

    What is behind a blocker comes after all that is not: a pull request is not merged before somebody looked at it.
    """
    waiting = sorted((run for run in view.runs if run.state is RunState.QUEUED), key=_order)
    able = [run for run in waiting if run.id not in look.starts and _able(run, view)]
    wave = [run for run in able if view.finished.issuperset(run.blocked_by)]
    queue = [*(look.runs[name] for name in look.starts), *wave]
    going = [run for run in view.runs if run.state in (RunState.WORKING, RunState.IN_REVIEW)]
    done = {*view.finished, *_names([*queue, *going])}
    while wave := [run for run in able if run not in queue and done.issuperset(run.blocked_by)]:
        queue += wave
        done |= _names(wave)
    return queue, [run for run in waiting if run not in queue]


def _names(runs: Iterable[Run]) -> set[str]:
    """What blockers may be called."""
    return {word for run in runs for word in (run.ticket_id, run.key)}


def _able(run: Run, view: View) -> bool:
    """Whether this machine can do it as it is configured."""
    return not view.lacks(run) and run.repo in {r.name for r in view.repos} and bool(agents_for(run, view))


def _order(run: Run) -> tuple[int, datetime, str]:
    return run.priority, run.created_at or LAST, run.key


def _waits(run: Run, view: View, stage: str, reasons: Mapping[str, str], names: Mapping[str, str]) -> str:
    """What it waits for, "" for nothing."""
    if stage == WORKING:
        return "nothing: it is at work"
    if blockers := [names.get(word, word) for word in run.blocked_by if word not in view.finished]:
        return ", ".join(blockers)
    return reasons.get(run.id, "").removeprefix("waits for ").removeprefix("waits: ")


def _ended(run: Run) -> str:
    """Why nothing more is done for a run by itself."""
    if run.state is RunState.IN_REVIEW:
        return f"its pull request #{run.pull_request} waits for review"
    if run.state is RunState.UNROUTED:
        return run.reason or "no rule names a repository for it"
    return f"{run.state.value}: {run.reason}" if run.reason else run.state.value


def _why(ticket: Ticket, left: Mapping[str, str], runs: Collection[str]) -> str:
    """Why a ticket of the board is left out, "" when it is not."""
    name = run_id(ticket)
    if name in left:
        return left[name]
    return "" if name in runs else ticket.left or SHOWN[ticket.state]


def _unrouted(ticket: Ticket, view: View, runs: Mapping[str, Run]) -> bool:
    run = runs.get(run_id(ticket))
    waiting = run.state is RunState.UNROUTED if run else ticket.state is TicketState.OPEN
    return waiting and route(ticket, view.repos).repo is None


def _ticket_of(run: Run) -> Ticket:
    """What is known of a ticket that the board does not show any more."""
    return Ticket(run.board, run.ticket_id, run.key, run.title, priority=run.priority, url="")
