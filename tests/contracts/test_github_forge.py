"""The GitHub forge keeps what every forge promises, over HTTP, with real git pushes to the stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nightcrew import transport
from nightcrew.adapters.forges.github import GitHubForge
from nightcrew.core.model import Repo
from nightcrew.testing.company.github import GitHub
from nightcrew.testing.contracts import FollowingContract, FollowingForge, People, Push
from tests.clones import Clone

pytestmark = pytest.mark.slow


class TestGitHub(FollowingContract):
    @pytest.fixture
    def github(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
        monkeypatch.setenv("GITHUB_TOKEN", "ghp_nightcrew")
        with GitHub(tmp_path / "github") as running:
            running.state.repository("acme/web", {"README.md": "# Web\n"})
            yield running
        assert running.violations == []

    @pytest.fixture
    async def forge(self, github: GitHub, tmp_path: Path) -> AsyncIterator[FollowingForge]:
        yield made(github, tmp_path)
        await transport.close()

    @pytest.fixture
    def again(self, github: GitHub, tmp_path: Path) -> FollowingForge:
        return made(github, tmp_path)

    @pytest.fixture
    def repo(self, github: GitHub) -> Repo:
        return Repo("web", github.clone_url("acme/web"), forge="github")

    @pytest.fixture
    def push(self, forge: FollowingForge, repo: Repo, tmp_path: Path) -> Push:
        return Clone(tmp_path / "clone", repo.url, forge.git_env(repo)).push

    @pytest.fixture
    def people(self, github: GitHub) -> People:
        return github.people

    @pytest.fixture
    def trouble(self, github: GitHub) -> Callable[[float], None]:
        def share(part: float) -> None:
            github.trouble.share = part

        return share


def made(github: GitHub, home: Path) -> GitHubForge:
    forge = GitHubForge("github", {"url": github.url}, home)
    forge.service.pace = None  # the stand-in has no such limit, and the tests no minute
    return forge
