"""GitLab issues keep what every board promises, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nightcrew import transport
from nightcrew.adapters.boards.gitlab import GitLabBoard
from nightcrew.core.model import Ticket
from nightcrew.testing.company.gitlab import GitLab
from nightcrew.testing.contracts import BoardContract

pytestmark = pytest.mark.slow

NAME = "acme/web"
Do = Callable[[Ticket], bool]


class TestGitLab(BoardContract):
    @pytest.fixture
    def gitlab(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitLab]:
        monkeypatch.setenv("GITLAB_TOKEN", "glpat-nightcrew")
        with GitLab(tmp_path / "gitlab") as running:
            running.state.project(NAME, {"README.md": "# Web\n"})
            yield running
        assert running.violations == []

    @pytest.fixture
    async def board(self, gitlab: GitLab, tmp_path: Path) -> AsyncIterator[GitLabBoard]:
        yield made(gitlab, tmp_path)
        await transport.close()

    @pytest.fixture
    def again(self, gitlab: GitLab, tmp_path: Path) -> GitLabBoard:  # type: ignore[override]
        return made(gitlab, tmp_path)

    @pytest.fixture
    def deselect(self, gitlab: GitLab) -> Do:
        def act(ticket: Ticket) -> bool:
            place = gitlab.state.places[NAME]
            gitlab.state.relabel(place, place.issues[number(ticket)], remove=("nightcrew",))
            return True

        return act

    @pytest.fixture
    def says_stop(self, gitlab: GitLab) -> Do:
        def act(ticket: Ticket) -> bool:
            gitlab.state.say(NAME, number(ticket), "ada", "@nightcrew stop")
            return True

        return act

    @pytest.fixture
    def stranger_says_stop(self, gitlab: GitLab) -> Do:
        def act(ticket: Ticket) -> bool:
            gitlab.state.say(NAME, number(ticket), "eve", "stop")
            return True

        return act

    @pytest.fixture
    def trouble(self, gitlab: GitLab) -> Callable[[float], None]:
        def share(part: float) -> None:
            gitlab.trouble.share = part

        return share

    @pytest.fixture
    def picture(self, gitlab: GitLab) -> Callable[[], object]:
        def look() -> object:
            with gitlab.turn:
                issues = gitlab.state.places[NAME].issues.values()
                return [
                    (i.title, i.state, sorted(i.labels), [n.body for n in i.notes() if not n.system]) for i in issues
                ]

        return look


def number(ticket: Ticket) -> int:
    return int(ticket.id.rpartition("#")[2])


def made(gitlab: GitLab, home: Path) -> GitLabBoard:
    return GitLabBoard("board", {"url": gitlab.url, "projects": [NAME], "labels": ["nightcrew"], "pace": 10_000}, home)
