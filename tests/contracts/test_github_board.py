"""GitHub Issues keep what every board promises, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nightcrew import transport
from nightcrew.adapters.boards.github import GitHubBoard
from nightcrew.core.model import Ticket
from nightcrew.testing.company.github import GitHub
from nightcrew.testing.contracts import BoardContract

pytestmark = pytest.mark.slow

NAME = "acme/web"
Do = Callable[[Ticket], bool]


class TestGitHub(BoardContract):
    @pytest.fixture
    def github(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
        monkeypatch.setenv("GITHUB_TOKEN", "ghp_nightcrew")
        with GitHub(tmp_path / "github") as running:
            running.state.repository(NAME, {"README.md": "# Web\n"})
            yield running
        assert running.violations == []

    @pytest.fixture
    async def board(self, github: GitHub, tmp_path: Path) -> AsyncIterator[GitHubBoard]:
        yield made(github, tmp_path)
        await transport.close()

    @pytest.fixture
    def again(self, github: GitHub, tmp_path: Path) -> GitHubBoard:  # type: ignore[override]
        return made(github, tmp_path)

    @pytest.fixture
    def deselect(self, github: GitHub) -> Do:
        def act(ticket: Ticket) -> bool:
            github.state.relabel(NAME, number(ticket), remove=("nightcrew",))
            return True

        return act

    @pytest.fixture
    def says_stop(self, github: GitHub) -> Do:
        def act(ticket: Ticket) -> bool:
            github.state.say(NAME, number(ticket), "ada", "@nightcrew stop")
            return True

        return act

    @pytest.fixture
    def stranger_says_stop(self, github: GitHub) -> Do:
        def act(ticket: Ticket) -> bool:
            github.state.say(NAME, number(ticket), "eve", "stop")
            return True

        return act

    @pytest.fixture
    def trouble(self, github: GitHub) -> Callable[[float], None]:
        def share(part: float) -> None:
            github.trouble.share = part

        return share

    @pytest.fixture
    def picture(self, github: GitHub) -> Callable[[], object]:
        def look() -> object:
            with github.turn:
                issues = github.state.places[NAME].issues.values()
                return [(i.title, i.state, sorted(i.labels), [c.body for c in i.comments]) for i in issues]

        return look


def number(ticket: Ticket) -> int:
    return int(ticket.id.rpartition("#")[2])


def made(github: GitHub, home: Path) -> GitHubBoard:
    board = GitHubBoard("board", {"url": github.url, "repos": [NAME], "labels": ["nightcrew"]}, home)
    board.service.pace = None
    return board
