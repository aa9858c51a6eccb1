"""The GitLab forge keeps what every forge promises, over HTTP, with real git pushes to the stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nightcrew import transport
from nightcrew.adapters.forges.gitlab import GitLabForge
from nightcrew.core.model import Repo
from nightcrew.testing.company.gitlab import GitLab
from nightcrew.testing.contracts import FollowingContract, FollowingForge, People, Push
from tests.clones import Clone

pytestmark = pytest.mark.slow


class TestGitLab(FollowingContract):
    @pytest.fixture
    def gitlab(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitLab]:
        monkeypatch.setenv("GITLAB_TOKEN", "glpat-nightcrew")
        with GitLab(tmp_path / "gitlab") as running:
            running.state.project("acme/web", {"README.md": "# Web\n"})
            yield running
        assert running.violations == []

    @pytest.fixture
    async def forge(self, gitlab: GitLab, tmp_path: Path) -> AsyncIterator[FollowingForge]:
        yield made(gitlab, tmp_path)
        await transport.close()

    @pytest.fixture
    def again(self, gitlab: GitLab, tmp_path: Path) -> FollowingForge:
        return made(gitlab, tmp_path)

    @pytest.fixture
    def repo(self, gitlab: GitLab) -> Repo:
        return Repo("web", gitlab.clone_url("acme/web"), forge="gitlab")

    @pytest.fixture
    def push(self, forge: FollowingForge, repo: Repo, tmp_path: Path) -> Push:
        return Clone(tmp_path / "clone", repo.url, forge.git_env(repo)).push

    @pytest.fixture
    def people(self, gitlab: GitLab) -> People:
        return gitlab.people

    @pytest.fixture
    def trouble(self, gitlab: GitLab) -> Callable[[float], None]:
        def share(part: float) -> None:
            gitlab.trouble.share = part

        return share


def made(gitlab: GitLab, home: Path) -> GitLabForge:
    return GitLabForge("gitlab", {"url": gitlab.url, "pace": 10_000}, home)
