"""What one decision may not do to another, and a loop that may not spin."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from nightcrew import director
from nightcrew.app import App
from nightcrew.core.model import Attempt, Policy, PullRequest, Repo, Run, RunState, Ticket, TicketState
from nightcrew.core.schedule import Action, Clean, Refresh, Settle, Stop, View, decide, idle
from tests.durable.world import World

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)
TICKET = Ticket(board="folder", id="K-1", key="K-1", title="Do it")
RUN = Run(id="folder:K-1", board="folder", ticket_id="K-1", key="K-1", title="Do it", repo="alpha", branch="b/k-1",
          state=RunState.WORKING, shown="working", attempts=1, fence=1, pull_request=1)  # fmt: skip
ENDED = Attempt(run_id=RUN.id, number=1, agent="a", model="m", session_id="s", resume=False, fence=1, phase="ended",
                outcome="done")  # fmt: skip
ALPHA = Repo("alpha", "alpha")


def changes(view: View) -> list[type[Action]]:
    return [type(action) for action in decide(view, NOW, Policy()) if getattr(action, "run", RUN).id == RUN.id]


@pytest.mark.parametrize(
    "ticket",
    [replace(TICKET, state=TicketState.DONE), replace(TICKET, title="Do more", state=TicketState.WORKING)],
    ids=["moved", "edited"],
)
def test_a_run_that_is_settled_is_not_overwritten_by_what_was_seen_before(ticket: Ticket) -> None:
    view = View(tickets=(ticket,), runs=(RUN,), attempts=(ENDED,), repos=(ALPHA,))
    assert changes(view) == [Settle]


def test_a_run_that_is_stopped_is_not_brought_back_by_an_edit_of_its_ticket() -> None:
    ticket = replace(TICKET, title="Never mind", state=TicketState.DONE)
    view = View(tickets=(ticket,), runs=(RUN,), repos=(ALPHA,))
    assert changes(view) == [Stop]
    assert changes(replace(view, runs=(replace(RUN, stopping="a person moved the ticket to done"),))) == [Refresh]


def test_a_followed_run_is_not_refreshed_at_the_same_time() -> None:
    pull = PullRequest("alpha", 1, "b/k-1", "main", "t", "b", state="merged")
    reviewed = replace(RUN, state=RunState.IN_REVIEW, shown="review")
    ticket = replace(TICKET, title="Do more", state=TicketState.REVIEW)
    view = View(tickets=(ticket,), runs=(reviewed,), pulls={("alpha", "b/k-1"): pull}, repos=(ALPHA,))
    assert len(changes(view)) == 1


def test_a_workspace_whose_repository_is_unknown_is_left_alone_and_keeps_nobody_waiting() -> None:
    failed = replace(RUN, state=RunState.FAILED, shown="failed", workspace="/somewhere", pull_request=0)
    assert changes(View(runs=(failed,))) == []
    assert idle(View(runs=(failed,)))
    assert changes(View(runs=(failed,), repos=(ALPHA,))) == [Clean]
    assert not idle(View(runs=(failed,), repos=(ALPHA,)))
    assert idle(View(runs=(failed,), repos=(ALPHA,), busy=frozenset({RUN.id})))  # it went wrong: later, or next time


async def test_an_action_that_never_takes_effect_does_not_make_the_loop_spin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(world.make)
    rounds: list[View] = []

    def stubborn(view: View, now: datetime, policy: Policy) -> list[Action]:
        rounds.append(view)
        return [Refresh(replace(RUN, fence=99), TICKET)]  # nobody's fence: nothing is written

    monkeypatch.setattr(director, "decide", stubborn)
    app = App.load(world.config)
    async with app.crew() as crew:
        with suppress(TimeoutError):
            await asyncio.wait_for(director.Director(crew).run(lambda _: False), 1.5)
        await crew.durable.close()
    app.store.close()
    assert director.SPINNING <= len(rounds) <= director.SPINNING + 3
