"""The local forge keeps what every forge promises, for bare repositories and for checkouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nightcrew.adapters.forges.local import LocalForge
from nightcrew.core.model import Repo
from nightcrew.testing.contracts import Push, ReviewingContract, ReviewingForge
from tests.conftest import Repository


class TestCheckout(ReviewingContract):
    """The pull requests are in a person's checkout, where the base is checked out."""

    @pytest.fixture
    def forge(self, tmp_path: Path) -> ReviewingForge:
        return LocalForge("local", {}, tmp_path)

    @pytest.fixture
    def again(self, tmp_path: Path) -> ReviewingForge:
        return LocalForge("local", {}, tmp_path)

    @pytest.fixture
    def repo(self, repo: Repository) -> Repo:
        return Repo("web", str(repo.path))

    @pytest.fixture
    def hub(self, repo: Repo, tmp_path: Path) -> Repository:
        """Where the pull requests are."""
        return Repository(tmp_path / repo.url)

    @pytest.fixture
    def push(self, hub: Repository, tmp_path: Path) -> Push:
        """From a clone, as nightcrew does; the files are `NAME.txt`."""
        clone = Repository(tmp_path / "clone")
        clone.path.mkdir()
        clone.git("clone", "-q", str(hub.path), ".")

        def commit(branch: str, **files: str) -> str:
            clone.git("fetch", "-q")
            there = clone.git("for-each-ref", f"refs/remotes/origin/{branch}")
            clone.git("checkout", "-q", "-B", branch, f"origin/{branch}" if there else "origin/main")
            sha = clone.commit("change", **{f"{name}_txt": text for name, text in files.items()})
            clone.git("push", "-q", "origin", branch)
            return sha

        return commit

    @pytest.fixture
    def crash(self, hub: Repository) -> Callable[[], None]:
        """A kill -9 in `open`, after the ref and in the middle of the file."""

        def leave() -> None:
            hub.git("update-ref", "refs/pull/2/head", "main")
            git_dir = Path(hub.git("rev-parse", "--path-format=absolute", "--git-common-dir"))
            (git_dir / "nightcrew/pulls/.new").write_text('{"number": 2, "bra')

        return leave


class TestBare(TestCheckout):
    """The pull requests are in a bare repository, named by a path from the configuration's folder."""

    @pytest.fixture
    def repo(self, repo: Repository, tmp_path: Path) -> Repo:
        repo.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
        return Repo("web", "bare.git")
