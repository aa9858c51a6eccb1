"""What `nightcrew board preview` promises: what a night would do, told by what a night does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nightcrew.core.model import Policy, Repo, Run, RunState, Ticket, TicketState
from nightcrew.core.schedule import decide, run_id
from nightcrew.core.view import Adopt, Refresh, Reopen, Start, Stop, View
from nightcrew.setup.preview import READY, STUCK, WAITS, WORKING, Known, preview

NOW = datetime(2026, 11, 27, 3, tzinfo=UTC)
ONE = Policy(max_running=1)
WEB = Repo("web", "https://github.com/acme/web.git", projects=("acme",))
NAMES = tuple(f"T-{number}" for number in range(7))
STATES = st.sampled_from([TicketState.OPEN] * 6 + [*TicketState])
BLOCKERS = st.lists(st.sampled_from([*(f"id-{name}" for name in NAMES), "T-9"]), max_size=2, unique=True)
ENDED = st.sampled_from([state for state in RunState if state is not RunState.WORKING])


def seldom(usual: object, odd: object) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * 6 + [odd])


def ticket(name: str, **more: object) -> Ticket:
    made = Ticket("board", f"id-{name}", name, f"Do {name}", project="acme", created_at=NOW)
    return replace(made, **more)  # type: ignore[arg-type]


def view(*tickets: Ticket, **more: object) -> View:
    made = View(tickets=tickets, repos=(WEB,), agents=("claude",), ladders={"claude": ()},
                capabilities=frozenset({"linux"}))  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def run(of: Ticket, state: RunState, **more: object) -> Run:
    made = Run(run_id(of), of.board, of.id, of.key, of.title, "web", "b", state=state, created_at=NOW)
    return replace(made, **more)  # type: ignore[arg-type]


@st.composite
def boards(draw: st.DrawFn) -> View:
    """Some tickets in any state, with blockers here and elsewhere; some were begun on an earlier night."""
    tickets, runs = [], []
    for name in NAMES[: draw(st.integers(0, len(NAMES)))]:
        made = ticket(
            name, priority=draw(st.integers(1, 5)), created_at=NOW + timedelta(hours=draw(st.integers(0, 3))),
            state=draw(STATES), project=draw(seldom("acme", "")), blocked_by=tuple(draw(BLOCKERS)),
            requires=draw(seldom((), ("gpu",))), labels=draw(seldom((), ("agent:nobody",))),
        )  # fmt: skip
        tickets.append(made)
        if draw(st.integers(0, 3)) == 0:
            begun = run(made, draw(ENDED), shown=draw(st.sampled_from(["", made.state.value])), pull_request=1)
            was = draw(st.sampled_from([made.priority, 3]))  # it was edited since
            runs.append(replace(begun, priority=was, blocked_by=made.blocked_by, labels=made.labels,
                                created_at=made.created_at))  # fmt: skip
    finished = frozenset(draw(st.sets(st.sampled_from(["T-9"]), max_size=1)))
    return view(*tickets, runs=tuple(runs), finished=finished)


def night(seen: View) -> list[str]:
    """The tickets that start, one by one; when nothing starts any more, all pull requests are merged."""
    runs: dict[str, Run] = {one.id: one for one in seen.runs}
    tickets, finished, started = seen.tickets, set(seen.finished), list[str]()
    open_pulls = {word for one in seen.runs if one.state is RunState.IN_REVIEW for word in (one.ticket_id, one.key)}
    for _ in range(200):
        now = replace(seen, tickets=tickets, runs=tuple(runs.values()), finished=frozenset(finished))
        actions = decide(now, NOW, ONE)
        for action in actions:
            match action:
                case Adopt(found, repo, reason):
                    state = RunState.QUEUED if repo else RunState.UNROUTED
                    runs[run_id(found)] = run(found, state, repo=repo, reason=reason, priority=found.priority,
                                              labels=found.labels, blocked_by=found.blocked_by,
                                              created_at=found.created_at, shown=found.state.value)  # fmt: skip
                case Reopen(of):
                    runs[of.id] = replace(of, state=RunState.QUEUED, shown="open")
                case Refresh(of, t):
                    runs[of.id] = replace(of, title=t.title, priority=t.priority, labels=t.labels,
                                          blocked_by=t.blocked_by)  # fmt: skip
                case Stop(of, why):
                    runs[of.id] = replace(of, state=RunState.CANCELLED, reason=why, shown="blocked")
                case _:
                    pass
        start = next((action for action in actions if isinstance(action, Start)), None)
        if start:
            started.append(start.run.key)
            runs.pop(start.run.id)
            open_pulls |= {start.run.ticket_id, start.run.key}
            tickets = tuple(one for one in tickets if one.id != start.run.ticket_id)
        elif not any(isinstance(action, Adopt | Refresh | Reopen | Stop) for action in actions):
            if not open_pulls:
                return started
            finished, open_pulls = finished | open_pulls, set()
    raise AssertionError("the night does not come to rest")


@given(boards())
def test_what_is_foreseen_is_what_a_night_starts_and_in_that_order(seen: View) -> None:
    told = preview(seen, NOW, ONE)
    assert [one.ticket.key for one in told.taken if one.stage in (READY, WAITS)] == night(seen)


@given(boards(), st.integers(1, 4))
def test_every_ticket_is_told_once_with_a_reason_where_it_does_not_start(seen: View, slots: int) -> None:
    told = preview(seen, NOW, Policy(max_running=slots))
    keys = [one.ticket.key for one in (*told.taken, *told.left_out)]
    assert sorted(keys) == sorted(one.key for one in seen.tickets)
    assert all(one.why for one in told.left_out)
    assert all(bool(one.waits) == (one.stage != READY) for one in told.taken)
    assert sum(one.stage == READY for one in told.taken) <= slots


def reasons(seen: View, others: tuple[Ticket, ...] = (), known: Known | None = None) -> Mapping[str, str]:
    told = preview(seen, NOW, ONE, known, others)
    return {one.ticket.key: one.why for one in told.left_out}


def test_what_is_left_out_says_why() -> None:
    seen = view(
        ticket("A", state=TicketState.WORKING), ticket("B", project=""), ticket("C", state=TicketState.OTHER),
        ticket("D"), ticket("E"),
        runs=(run(ticket("D"), RunState.IN_REVIEW, pull_request=7),),
    )  # fmt: skip
    others = (ticket("F", left="it has not the label 'nightcrew'"), ticket("E"), ticket("G"))
    told = reasons(seen, others, Known({"board:id-E": "https://github.com/acme/web/pull/3"}))
    assert told == {
        "A": "somebody works on it already: the board shows it as working",
        "B": "No rule names a repository for it.",
        "C": "its state on the board is not one that is worked",
        "D": "its pull request #7 waits for review",
        "E": "https://github.com/acme/web/pull/3 is open for it already",
        "F": "it has not the label 'nightcrew'",
        "G": "the board's scan does not show it",
    }


def test_what_is_waited_for_is_named_as_people_do() -> None:
    seen = view(
        ticket("A"), ticket("B", blocked_by=("id-A",), priority=1), ticket("C", requires=("gpu",)),
        ticket("D", blocked_by=("X-1",)), ticket("E"), ticket("F", state=TicketState.WORKING),
        runs=(run(ticket("F"), RunState.WORKING),),
    )  # fmt: skip
    told = [(one.ticket.key, one.stage, one.waits) for one in preview(seen, NOW, ONE).taken]
    assert told == [
        ("F", WORKING, "nothing: it is at work"), ("A", READY, ""), 
        ("E", WAITS, "a free slot: 1 of 1 are taken"), ("B", WAITS, "A"),
        ("C", STUCK, "needs a node with gpu; this one has linux"), ("D", STUCK, "X-1"),
    ]  # fmt: skip


def test_a_ticket_that_left_the_board_is_told_with_the_reason() -> None:
    gone = ticket("A")
    seen = view(runs=(run(gone, RunState.QUEUED),), gone={"id-A": "the ticket left the board"})
    assert reasons(seen) == {"A": "the ticket left the board"}
