"""What every board promises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from nightcrew.core.model import Ticket, TicketState
from nightcrew.errors import BoardError
from nightcrew.ports import Board

T = TypeVar("T")
Do = Callable[[Ticket], bool]
NOTE, LINK = "Attempt 1: tests pass", "https://forge.example/pulls/1"
RACERS = 20


class BoardContract:
    """Fixtures: `board`, an empty board. May be overridden: `again`, `spoil`, `crash`, and what people may do.

    For a board that is a service: `trouble` and `picture`.
    """

    @pytest.fixture
    def again(self, board: Board) -> Board:
        """The same board as another process sees it, with nothing remembered."""
        return board

    @pytest.fixture
    def spoil(self) -> Callable[[], bool]:
        """Puts something unreadable on the board, as a person might; False where there is no such thing."""
        return lambda: False

    @pytest.fixture
    def crash(self) -> Callable[[], None]:
        """Leaves what a kill -9 in the middle of a write may leave behind."""
        return lambda: None

    @pytest.fixture
    def deselect(self) -> Do:
        """A person changes the ticket so that the selection takes it no more; False where there is no selection."""
        return lambda ticket: False

    @pytest.fixture
    def says_stop(self) -> Do:
        """A person who may says "stop" in a comment; False where there are no comments."""
        return lambda ticket: False

    @pytest.fixture
    def stranger_says_stop(self) -> Do:
        """A person who may not says "stop" in a comment; False where nobody can tell."""
        return lambda ticket: False

    @pytest.fixture
    def trouble(self) -> Callable[[float], None] | None:
        """From now on this share of requests goes wrong, in every way; None for a board that is no service."""
        return None

    @pytest.fixture
    def picture(self) -> Callable[[], object]:
        """Everything that people see on the board (states, labels, comments, links), without times and ids."""
        return lambda: None

    async def test_no_ids_no_tickets(self, board: Board) -> None:
        await board.add("One")
        assert await board.fetch([]) == []

    async def test_a_new_ticket_is_open_on_the_board_as_it_was_given(self, board: Board, again: Board) -> None:
        ticket = await board.add("Fix the login", "It fails.\n\n- always", {"labels": ["bug"], "priority": 2})
        assert (ticket.board, ticket.title, ticket.state) == (board.name, "Fix the login", TicketState.OPEN)
        assert (ticket.body, ticket.labels, ticket.priority) == ("It fails.\n\n- always", ("bug",), 2)
        assert ticket.id
        assert ticket.key
        assert await again.fetch([ticket.id]) == list((await again.scan()).tickets) == [ticket]

    async def test_tickets_that_left_the_board_are_left_out(self, board: Board) -> None:
        ticket = await board.add("One")
        found = await board.fetch(["no-such-ticket", ticket.id, ticket.id])
        assert [t.id for t in found] == [ticket.id]

    async def test_adding_never_overwrites(self, board: Board) -> None:
        first, second = await board.add("Same title", "first"), await board.add("Same title", "second")
        assert first.id != second.id
        assert [t.body for t in await board.fetch([first.id, second.id])] == ["first", "second"]

    async def test_an_id_that_is_taken_is_refused(self, board: Board) -> None:
        ticket = await board.add("One", "kept")
        with pytest.raises(BoardError):
            await board.add("Two", "lost", {"id": ticket.id})
        assert [t.body for t in await board.fetch([ticket.id])] == ["kept"]

    async def test_many_adds_at_once_make_as_many_tickets(self, board: Board) -> None:
        made = await asyncio.gather(*(board.add("Same title", str(n)) for n in range(RACERS)))
        assert len({t.id for t in made}) == RACERS
        assert {t.body for t in (await board.scan()).tickets} == {str(n) for n in range(RACERS)}

    @pytest.mark.parametrize("state", [s for s in TicketState if s is not TicketState.OTHER])
    async def test_a_move_is_seen_and_changes_nothing_else(
        self, board: Board, again: Board, state: TicketState
    ) -> None:
        before = await board.add("One", "text", {"labels": ["bug"]})
        await board.move(before.id, state, NOTE, LINK)
        (after,) = await again.fetch([before.id])
        assert after.state is state
        kept = ("id", "key", "title", "body", "labels", "priority", "created_at")
        assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]

    async def test_moving_twice_is_moving_once(self, board: Board, again: Board) -> None:
        ticket = await board.add("One")
        await board.move(ticket.id, TicketState.REVIEW, NOTE, LINK)
        once = await again.fetch([ticket.id])
        await board.move(ticket.id, TicketState.REVIEW, NOTE, LINK)
        await again.move(ticket.id, TicketState.REVIEW, NOTE, LINK)
        assert await again.fetch([ticket.id]) == once

    async def test_a_done_ticket_is_fetched_but_not_scanned(self, board: Board) -> None:
        done, left = await board.add("Done"), await board.add("Left")
        await board.move(done.id, TicketState.DONE, NOTE, LINK)
        assert [t.id for t in (await board.scan()).tickets] == [left.id]
        assert [t.state for t in await board.fetch([done.id])] == [TicketState.DONE]

    @pytest.mark.parametrize("ended", [TicketState.DONE, TicketState.CLOSED])
    async def test_what_was_ended_meanwhile_stays_so_until_it_is_opened_again(
        self, board: Board, again: Board, ended: TicketState
    ) -> None:
        ticket = await board.add("One")
        await again.move(ticket.id, ended)
        for state in (TicketState.WORKING, TicketState.REVIEW, TicketState.BLOCKED, TicketState.FAILED):
            await board.move(ticket.id, state, NOTE)
            assert [t.state for t in await again.fetch([ticket.id])] == [ended]
        await board.move(ticket.id, TicketState.OPEN)
        assert [t.state for t in await again.fetch([ticket.id])] == [TicketState.OPEN]

    async def test_a_ticket_that_is_not_there_cannot_be_moved(self, board: Board) -> None:
        with pytest.raises(BoardError):
            await board.move("no-such-ticket", TicketState.DONE)

    async def test_what_cannot_be_read_is_told_and_stops_nothing_else(
        self, board: Board, spoil: Callable[[], bool]
    ) -> None:
        ticket = await board.add("Good")
        spoiled = spoil()
        scan = await board.scan()
        assert [t.id for t in scan.tickets] == [ticket.id]
        assert len(scan.problems) == spoiled
        assert all(p.where and p.message for p in scan.problems)

    async def test_a_crash_leaves_a_board_that_works(
        self, board: Board, again: Board, crash: Callable[[], None]
    ) -> None:
        ticket = await board.add("One")
        crash()
        assert [t.id for t in (await again.scan()).tickets] == [ticket.id]
        await again.move(ticket.id, TicketState.WORKING, NOTE)
        assert (await again.add("Two")).id != ticket.id

    async def test_what_is_watched_is_there(self, board: Board) -> None:
        assert all(isinstance(path, Path) and path.exists() for path in board.watched())

    async def test_a_ticket_that_the_selection_takes_no_more_is_not_scanned_and_says_why(
        self, board: Board, again: Board, deselect: Do
    ) -> None:
        kept, lost = await board.add("Kept"), await board.add("Lost")
        await board.scan()
        if not deselect(lost):
            return
        for one in (board, again):
            assert [t.id for t in (await one.scan()).tickets] == [kept.id]
            left = {t.id: t.left for t in await one.fetch([kept.id, lost.id])}
            assert not left[kept.id]
            assert left[lost.id]

    async def test_stop_is_heard_from_those_who_may_say_it_each_time_anew(
        self, board: Board, again: Board, says_stop: Do, stranger_says_stop: Do
    ) -> None:
        ticket = await board.add("One")
        await board.move(ticket.id, TicketState.WORKING, NOTE)
        stranger_says_stop(ticket)
        assert [t.stop for t in (await board.scan()).tickets] == [""]
        if not says_stop(ticket):
            return
        heard = [t.stop for t in (await board.scan()).tickets]
        assert heard == [t.stop for t in (await again.scan()).tickets] != [""]
        await board.move(ticket.id, TicketState.BLOCKED, "stopped")
        says_stop(ticket)
        assert [t.stop for t in (await board.scan()).tickets] not in (heard, [""])

    async def test_with_requests_going_wrong_the_board_looks_the_same_in_the_end(
        self, board: Board, trouble: Callable[[float], None] | None, picture: Callable[[], object]
    ) -> None:
        tickets = [await board.add(f"Ticket {n}") for n in range(6)]
        if trouble is None:
            return

        async def work(prefix: str) -> object:
            for state in (TicketState.WORKING, TicketState.REVIEW, TicketState.BLOCKED):
                for ticket in tickets:
                    await _till_it_works(lambda t=ticket, s=state: board.move(t.id, s, f"{prefix}{s}", LINK))  # type: ignore[misc]
            scan = await _till_it_works(board.scan)
            assert {t.state for t in scan.tickets} == {TicketState.BLOCKED}
            return picture()

        trouble(0)
        calm = await work("")
        trouble(0.2)
        assert await work("") == calm


async def _till_it_works(call: Callable[[], Awaitable[T]]) -> T:
    for _ in range(50):
        try:
            return await call()
        except BoardError:
            continue
    raise AssertionError("it never works")
