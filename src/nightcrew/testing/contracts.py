"""What boards, forges and agents promise, as tests that every adapter inherits.

    class TestMyBoard(BoardContract):
        @pytest.fixture
        def board(self) -> Board:
            return MyBoard(...)

Needs pytest, pytest-asyncio (`asyncio_mode = "auto"`) and hypothesis. Each class says which fixtures it asks for; those
it defines itself may be overridden.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightcrew.core.model import Repo, TicketState
from nightcrew.core.outcome import Outcome
from nightcrew.errors import BoardError, ForgeError
from nightcrew.ports import Agent, Board, Forge, Reviewing, Task

__all__ = ["AgentContract", "BoardContract", "ForgeContract", "Push", "ReviewingContract", "ReviewingForge"]

NOTE, LINK = "Attempt 1: tests pass", "https://forge.example/pulls/1"
RACERS = 20
NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


class BoardContract:
    """Fixtures: `board`, an empty board. May be overridden: `again`, `spoil`, `crash`."""

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

    async def test_no_ids_no_tickets(self, board: Board) -> None:
        await board.add("One")
        assert await board.fetch([]) == []

    async def test_a_new_ticket_is_open_on_the_board_as_it_was_given(self, board: Board, again: Board) -> None:
        ticket = await board.add("Fix the login", "It fails.\n\n- always", {"labels": ["bug"], "priority": 2})
        assert (ticket.board, ticket.title, ticket.state) == (board.name, "Fix the login", TicketState.OPEN)
        assert (ticket.body, ticket.labels, ticket.priority) == ("It fails.\n\n- always", ("bug",), 2)
        assert ticket.id and ticket.key
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


class Push(Protocol):
    """Puts a commit with these files on top of a branch of the forge's repository, made from the base; its sha."""

    def __call__(self, branch: str, **files: str) -> str: ...


class ForgeContract:
    """Fixtures: `forge`; `repo`, a `Repo` on it whose base has a commit; `push`, a `Push`.

    May be overridden: `again`, `crash`, and `titled`, texts that a title may be.
    """

    @pytest.fixture
    def again(self, forge: Forge) -> Forge:
        """The same forge as another process sees it, with nothing remembered."""
        return forge

    @pytest.fixture
    def crash(self) -> Callable[[], None]:
        """Leaves what a kill -9 in the middle of a write may leave behind."""
        return lambda: None

    async def test_a_branch_without_pull_request_has_none(self, forge: Forge, repo: Repo, push: Push) -> None:
        push("a", one="1")
        assert await forge.find(repo, "a") is None
        assert await forge.find(repo, "no-such-branch") is None
        assert await forge.list(repo) == []

    async def test_an_opened_one_is_found_as_it_was_opened(
        self, forge: Forge, again: Forge, repo: Repo, push: Push
    ) -> None:
        head = push("a", one="1")
        opened = await forge.open(repo, "a", "Title: ü", "Body\n\n$(x) `y` é 🌙\n")
        assert (opened.repo, opened.branch, opened.base, opened.state) == (repo.name, "a", repo.base, "open")
        assert (opened.title, opened.head, opened.changes_requested) == ("Title: ü", head, "")
        assert opened.body.strip() == "Body\n\n$(x) `y` é 🌙"
        assert opened.number > 0
        assert await again.find(repo, "a") == opened
        assert await again.list(repo) == [opened]

    async def test_a_second_one_for_the_same_branch_is_refused(self, forge: Forge, repo: Repo, push: Push) -> None:
        push("a", one="1")
        opened = await forge.open(repo, "a", "first", "")
        with pytest.raises(ForgeError):
            await forge.open(repo, "a", "second", "")
        assert await forge.list(repo) == [opened]

    async def test_many_opens_at_once_make_one(self, forge: Forge, again: Forge, repo: Repo, push: Push) -> None:
        push("a", one="1")
        calls = (({0: forge, 1: again}[n % 2]).open(repo, "a", f"title {n}", "") for n in range(RACERS))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(r) for r in results if isinstance(r, BaseException)] == [ForgeError] * (RACERS - 1)
        assert len(await forge.list(repo)) == 1

    async def test_a_branch_that_was_not_pushed_is_refused(self, forge: Forge, repo: Repo) -> None:
        with pytest.raises(ForgeError):
            await forge.open(repo, "no-such-branch", "title", "")
        assert await forge.list(repo) == []

    async def test_title_and_body_can_be_changed(self, forge: Forge, again: Forge, repo: Repo, push: Push) -> None:
        push("a", one="1")
        opened = await forge.open(repo, "a", "old", "old")
        changed = await forge.update(repo, opened.number, "new", "new body")
        assert (changed.title, changed.body.strip(), changed.number) == ("new", "new body", opened.number)
        assert await again.find(repo, "a") == changed

    async def test_the_newest_is_listed_first(self, forge: Forge, repo: Repo, push: Push) -> None:
        numbers = []
        for branch in ("a", "b", "c"):
            push(branch, **{branch: branch})
            numbers.append((await forge.open(repo, branch, branch, "")).number)
        assert len(set(numbers)) == 3
        assert [p.number for p in await forge.list(repo)] == numbers[::-1]

    async def test_the_head_follows_the_branch(self, forge: Forge, repo: Repo, push: Push) -> None:
        push("a", one="1")
        await forge.open(repo, "a", "title", "")
        head = push("a", one="2")
        found = await forge.find(repo, "a")
        assert found is not None
        assert found.head == head

    async def test_one_that_is_not_there_cannot_be_changed(self, forge: Forge, repo: Repo) -> None:
        with pytest.raises(ForgeError):
            await forge.update(repo, 99, "title", "")

    async def test_a_crash_leaves_a_forge_that_works(
        self, forge: Forge, again: Forge, repo: Repo, push: Push, crash: Callable[[], None]
    ) -> None:
        push("a", one="1")
        push("b", two="2")
        opened = await forge.open(repo, "a", "title", "")
        crash()
        assert await again.list(repo) == [opened]
        second = await again.open(repo, "b", "title", "")
        assert [p.number for p in await again.list(repo)] == [second.number, opened.number]

    def test_the_environment_of_git_is_text(self, forge: Forge, repo: Repo) -> None:
        assert all(isinstance(part, str) for pair in forge.git_env(repo).items() for part in pair)


@runtime_checkable
class ReviewingForge(Forge, Reviewing, Protocol):
    """A forge on which a person can act through nightcrew."""


class ReviewingContract(ForgeContract):
    """Fixtures as for ForgeContract; `forge` also does what `Reviewing` asks."""

    async def test_the_change_is_shown_as_a_patch(self, forge: ReviewingForge, repo: Repo, push: Push) -> None:
        push("a", one="added line\n")
        opened = await forge.open(repo, "a", "title", "")
        patch = await forge.diff(repo, opened.number)
        assert patch.startswith("diff --git ")
        assert "+added line" in patch.splitlines()

    async def test_comments_are_kept_in_order(
        self, forge: ReviewingForge, again: ReviewingForge, repo: Repo, push: Push
    ) -> None:
        push("a", one="1")
        number = (await forge.open(repo, "a", "title", "")).number
        await forge.comment(repo, number, "Ada", "first")
        shown = await forge.comment(repo, number, "Bob", "second")
        assert [(who, text) for _, who, text in shown.comments] == [("Ada", "first"), ("Bob", "second")]
        assert all(datetime.fromisoformat(at) for at, _, _ in shown.comments)
        assert await again.find(repo, "a") == shown

    async def test_a_new_head_answers_a_request_for_changes(
        self, forge: ReviewingForge, repo: Repo, push: Push
    ) -> None:
        push("a", one="1")
        number = (await forge.open(repo, "a", "title", "")).number
        await forge.request_changes(repo, number, "Ada", "older")
        asked = await forge.request_changes(repo, number, "Ada", "use two")
        assert asked.changes_requested == "use two"
        assert [p.changes_requested for p in await forge.list(repo)] == ["use two"]
        push("a", one="2")
        assert [p.changes_requested for p in await forge.list(repo)] == [""]
        assert (await forge.request_changes(repo, number, "Ada", "no, three")).changes_requested == "no, three"

    async def test_a_merged_one_is_found_and_merging_again_changes_nothing(
        self, forge: ReviewingForge, again: ReviewingForge, repo: Repo, push: Push
    ) -> None:
        head = push("a", one="1")
        number = (await forge.open(repo, "a", "title", "")).number
        merged = await forge.merge(repo, number)
        assert (merged.state, merged.head) == ("merged", head)
        assert merged.merged_sha
        assert await again.find(repo, "a") == merged == await again.merge(repo, number)
        with pytest.raises(ForgeError):
            await forge.close(repo, number)
        with pytest.raises(ForgeError):
            await forge.request_changes(repo, number, "Ada", "too late")
        assert "+1" in (await forge.diff(repo, number)).splitlines()

    async def test_a_closed_one_is_found_and_makes_room_for_another(
        self, forge: ReviewingForge, again: ReviewingForge, repo: Repo, push: Push
    ) -> None:
        push("a", one="1")
        number = (await forge.open(repo, "a", "title", "")).number
        closed = await forge.close(repo, number)
        assert (closed.state, closed.merged_sha) == ("closed", "")
        assert await again.find(repo, "a") == closed == await again.close(repo, number)
        with pytest.raises(ForgeError):
            await forge.merge(repo, number)
        second = await forge.open(repo, "a", "again", "")
        assert await again.find(repo, "a") == second
        assert second.number > number

    async def test_a_conflict_is_refused_with_the_files_and_changes_nothing(
        self, forge: ReviewingForge, repo: Repo, push: Push
    ) -> None:
        push("a", both="a\n")
        push("b", both="b\n")
        first, second = [(await forge.open(repo, branch, branch, "")).number for branch in "ab"]
        await forge.merge(repo, first)
        with pytest.raises(ForgeError, match="both"):
            await forge.merge(repo, second)
        assert [p.state for p in await forge.list(repo)] == ["open", "merged"]

    async def test_one_that_is_not_there_is_refused(self, forge: ReviewingForge, repo: Repo) -> None:
        for call in (forge.merge, forge.close, forge.diff):
            with pytest.raises(ForgeError):
                await call(repo, 99)


GARBAGE = st.lists(
    st.binary(max_size=80)
    | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))
    | st.sampled_from([
        b"{}", b"[]", b"null", b"{", b'"done"', b"1e999", b'{"type": null}', b'{"type": []}', b'{"type": "result"}',
        b'{"type": "system", "subtype": 3}', b'{"type": "assistant", "message": []}', b'{"method": 1, "params": "x"}',
        b'{"type": "result", "result": {}, "is_error": "no", "usage": [], "subtype": {}}', b"[" * 20_000, b"\xff" * 70_000,
        b'{"jsonrpc": "2.0", "id": {}, "error": []}', b'{"type": "usage", "input": -1, "money": "NaN"}',
    ]),
    max_size=12,
)  # fmt: skip
OFTEN = settings(
    max_examples=80,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)
HOSTILE = "$(touch planted) `touch planted`; touch planted\n--help\n' \" \\ %s \x1b é 🌙 </ticket>"


class AgentContract:
    """Fixtures: `agent`, whose program is there; `task`, a Task whose workspace and scratch folders exist.

    Set `prompt_in_argv` for an agent that can take its prompt no other way; `exit_0_is_done` for one whose exit code is
    all that it says; `greeting` to what a two-way agent says before it is told its prompt.
    """

    prompt_in_argv = False
    exit_0_is_done = False
    greeting: ClassVar[tuple[bytes, ...]] = ()

    def test_the_ladder_and_the_name_are_text(self, agent: Agent) -> None:
        assert agent.name
        assert all(isinstance(model, str) and model for model in agent.models)

    def test_a_launch_is_a_program_with_its_arguments(self, agent: Agent, task: Task) -> None:
        launch = agent.launch(task)
        assert Path(launch.argv[0]).is_absolute()
        assert all(isinstance(part, str) and "\0" not in part for part in launch.argv)
        assert all(isinstance(part, str) and "\0" not in part for pair in launch.env.items() for part in pair)

    def test_the_prompt_is_data_and_no_argument(self, agent: Agent, task: Task) -> None:
        launch = agent.launch(_with_prompt(task, HOSTILE))
        holding = [part for part in launch.argv if "touch planted" in part]
        assert holding == ([HOSTILE] if self.prompt_in_argv else [])
        said = [launch.conversation.opening(), *(launch.conversation.hear(line) for line in self.greeting)]
        assert self.prompt_in_argv or b"touch planted" in b"".join(said)

    def test_a_very_long_prompt_does_not_make_the_command_too_long(self, agent: Agent, task: Task) -> None:
        argv = agent.launch(_with_prompt(task, "word " * 200_000)).argv
        assert max(len(part.encode()) for part in argv) < 128 << 10  # what Linux takes for one argument

    def test_launching_twice_is_the_same_launch(self, agent: Agent, task: Task) -> None:
        first, second = agent.launch(task), agent.launch(task)
        assert (first.argv, first.env, first.two_way) == (second.argv, second.env, second.two_way)
        assert first.conversation is not second.conversation

    @OFTEN
    @given(lines=GARBAGE)
    def test_a_conversation_survives_anything(self, agent: Agent, task: Task, lines: Sequence[bytes]) -> None:
        launch = agent.launch(task)
        launch.conversation.opening()
        for line in lines:
            answer = launch.conversation.hear(line)
            assert isinstance(answer, bytes)
            assert launch.two_way or not answer
        progress = launch.conversation.progress
        assert min(progress.lines, progress.usage.tokens, progress.usage.turns) >= 0
        assert progress.usage.money >= 0

    @OFTEN
    @given(lines=GARBAGE, code=st.none() | st.integers(-64, 255), stderr=st.text(max_size=100))
    def test_reading_never_raises_and_garbage_is_never_done(
        self, agent: Agent, lines: Sequence[bytes], code: int | None, stderr: str
    ) -> None:
        ending = agent.read(lines, code, stderr, NOW)
        assert isinstance(ending.outcome, Outcome)
        assert ending.evidence.strip()
        assert (ending.outcome is Outcome.BLOCKED) == bool(ending.claims)
        if not (self.exit_0_is_done and code == 0):
            assert ending.outcome is not Outcome.DONE

    @pytest.mark.parametrize("code", [-9, -11, -15, 1, 127, None])
    def test_silence_with_a_bad_end_is_an_end_that_costs_nothing(self, agent: Agent, code: int | None) -> None:
        outcome = agent.read([], code, "", NOW).outcome
        assert outcome in {Outcome.CRASHED, Outcome.FAST_FAIL, Outcome.MISCONFIGURED}

    @pytest.mark.parametrize("code", [0, 1, -9])
    def test_output_without_end_is_read_line_by_line(self, agent: Agent, code: int) -> None:
        read = 0

        def lines() -> Iterable[bytes]:
            nonlocal read
            for read in range(1, 20_001):  # noqa: B007 - counted for the assertion
                yield b"x" * 500

        ending = agent.read(lines(), code, "y" * 1_000_000, NOW)
        assert read == 20_000
        assert len(ending.evidence) < 20_000
        assert (ending.outcome is Outcome.DONE) <= (self.exit_0_is_done and code == 0)


def _with_prompt(task: Task, prompt: str) -> Task:
    return Task(task.workspace, prompt, task.scratch, task.session_id, model=task.model)
