"""The Gitea forge keeps what every forge promises, on Gitea and on Forgejo."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nightcrew import transport
from nightcrew.adapters.forges.gitea import GiteaForge
from nightcrew.core.model import Repo
from nightcrew.testing.company.gitea import Gitea
from nightcrew.testing.contracts import FollowingContract, FollowingForge, People, Push
from tests.clones import Clone

pytestmark = pytest.mark.slow


class TestGitea(FollowingContract):
    forgejo = False

    @pytest.fixture
    def gitea(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gitea]:
        monkeypatch.setenv("GITEA_TOKEN", "gta_nightcrew")
        with Gitea(tmp_path / "gitea", forgejo=self.forgejo, most=3) as running:
            running.state.repository("acme/web", {"README.md": "# Web\n"})
            yield running
        assert running.violations == []

    @pytest.fixture
    async def forge(self, gitea: Gitea, tmp_path: Path) -> AsyncIterator[FollowingForge]:
        yield made(gitea, tmp_path)
        await transport.close()

    @pytest.fixture
    def again(self, gitea: Gitea, tmp_path: Path) -> FollowingForge:
        return made(gitea, tmp_path)

    @pytest.fixture
    def repo(self, gitea: Gitea) -> Repo:
        return Repo("web", gitea.clone_url("acme/web"), forge="gitea")

    @pytest.fixture
    def push(self, forge: FollowingForge, repo: Repo, tmp_path: Path) -> Push:
        return Clone(tmp_path / "clone", repo.url, forge.git_env(repo)).push

    @pytest.fixture
    def people(self, gitea: Gitea) -> People:
        return gitea.people

    @pytest.fixture
    def trouble(self, gitea: Gitea) -> Callable[[float], None]:
        def share(part: float) -> None:
            gitea.trouble.share = part

        return share


class TestForgejo(TestGitea):
    """Without a way to resolve a thread, or to run a check again."""

    forgejo, reruns = True, False


def made(gitea: Gitea, home: Path) -> GiteaForge:
    forge = GiteaForge("gitea", {"url": gitea.url}, home)
    clock = itertools.count(1_000_000.0, 10.0)  # between two looks lie 10 s
    forge.now = lambda: next(clock)
    return forge
