"""Jira keeps what every board promises, Cloud and Data Center, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nightcrew import transport
from nightcrew.adapters.boards.jira import JiraBoard
from nightcrew.core.model import Ticket
from nightcrew.testing.company.jira import Jira
from nightcrew.testing.company.jira_views import as_text
from nightcrew.testing.contracts import BoardContract

pytestmark = pytest.mark.slow
Do = Callable[[Ticket], bool]


class TestCloud(BoardContract):
    api = "cloud"

    @pytest.fixture
    def jira(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jira]:
        monkeypatch.setenv("JIRA_TOKEN", "jira-nightcrew")
        with Jira() as running:
            running.state.project("ENG")
            yield running
        assert running.violations == []

    def made(self, jira: Jira) -> JiraBoard:
        told = {"url": jira.url, "projects": ["ENG"], "labels": ["nightcrew"], "api": self.api}
        return JiraBoard("board", told | {"email": "nightcrew@acme.example"}, Path("/"))

    @pytest.fixture
    async def board(self, jira: Jira) -> AsyncIterator[JiraBoard]:
        yield self.made(jira)
        await transport.close()

    @pytest.fixture
    def again(self, jira: Jira) -> JiraBoard:  # type: ignore[override]
        return self.made(jira)

    @pytest.fixture
    def deselect(self, jira: Jira) -> Do:
        def act(ticket: Ticket) -> bool:
            jira.state.relabel(ticket.key, remove=["nightcrew"])
            return True

        return act

    @pytest.fixture
    def says_stop(self, jira: Jira) -> Do:
        def act(ticket: Ticket) -> bool:
            jira.state.say(ticket.key, "ada", "@nightcrew stop")
            return True

        return act

    @pytest.fixture
    def stranger_says_stop(self, jira: Jira) -> Do:
        def act(ticket: Ticket) -> bool:
            for who in ("carl", "eve", "lint"):
                jira.state.say(ticket.key, who, "stop")
            return True

        return act

    @pytest.fixture
    def trouble(self, jira: Jira) -> Callable[[float], None]:
        def share(part: float) -> None:
            jira.trouble.share = part

        return share

    @pytest.fixture
    def picture(self, jira: Jira) -> Callable[[], object]:
        def look() -> object:
            with jira.turn:
                return [
                    (
                        issue.summary, issue.status.name, sorted(issue.labels), sorted(issue.links),
                        [as_text(c.body) if isinstance(c.body, dict) else c.body for c in issue.comments],
                    )
                    for issue in jira.state.issues.values()
                ]  # fmt: skip

        return look


class TestDataCenter(TestCloud):
    api = "data-center"
