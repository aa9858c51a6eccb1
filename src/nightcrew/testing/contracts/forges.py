"""What every forge promises, and those on which a person can act through nightcrew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol, runtime_checkable

import pytest

from nightcrew.core.model import Repo
from nightcrew.errors import ForgeError
from nightcrew.ports import Forge, Reviewing

RACERS = 20


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
