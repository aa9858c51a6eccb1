"""The stand-ins, each with a little in it; none of them may have seen a request that its schema forbids."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nightcrew import transport
from nightcrew.testing.company.gitea import Gitea
from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.gitlab import GitLab
from nightcrew.testing.company.jira import Jira
from nightcrew.testing.company.linear import Linear

FILES = {"README.md": "#\n"}


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_nightcrew")
    with GitHub(tmp_path / "github") as running:
        for name in ("acme/web", "acme/api"):
            running.state.repository(name, FILES)
        yield running
    assert running.violations == []


@pytest.fixture
def gitlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitLab]:
    monkeypatch.setenv("GITLAB_TOKEN", "glpat-nightcrew")
    with GitLab(tmp_path / "gitlab") as running:
        for name in ("acme/web", "acme/crew/web", "acme/crew/api"):
            running.state.project(name, FILES)
        yield running
    assert running.violations == []


@pytest.fixture
def gitea(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gitea]:
    monkeypatch.setenv("GITEA_TOKEN", "gta_nightcrew")
    with Gitea(tmp_path / "gitea") as running:
        running.state.repository("acme/web", FILES)
        yield running
    assert running.violations == []


@pytest.fixture
def jira(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jira]:
    monkeypatch.setenv("JIRA_TOKEN", "jira-nightcrew")
    with Jira() as running:
        running.state.project("ENG", name="Engineering")
        yield running
    assert running.violations == []


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> Iterator[Linear]:
    monkeypatch.setenv("LINEAR_API_KEY", "lin_api_nightcrew")
    with Linear() as running:
        yield running
    assert running.violations == []


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    yield
    await transport.close()
