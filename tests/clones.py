"""A clone that pushes over HTTP, as nightcrew does: with the credential in the environment alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import AUTHOR


class Clone:
    """A work tree of `url`, made when it is first used; `env` is what a forge gives nightcrew's own git."""

    def __init__(self, path: Path, url: str, env: Mapping[str, str]) -> None:
        self.path, self.url, self.env = path, url, dict(env)

    def git(self, *args: str) -> str:
        """What `git ARGS` prints there. Raises CalledProcessError when it fails."""
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_TERMINAL_PROMPT": "0", **AUTHOR, **self.env}
        argv = ["git", "-C", str(self.path), *args]
        return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout.strip()

    def push(self, branch: str, **files: str) -> str:
        """See `contracts.Push`; the files are `NAME.txt`."""
        if not self.path.exists():
            self.path.mkdir(parents=True)
            self.git("init", "-q", "-b", "main")
            self.git("remote", "add", "origin", self.url)
        self.git("fetch", "-q", "origin")
        there = self.git("for-each-ref", f"refs/remotes/origin/{branch}")
        self.git("checkout", "-q", "-B", branch, f"origin/{branch}" if there else "origin/main")
        for name, text in files.items():
            (self.path / f"{name}.txt").write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "change")
        self.git("push", "-q", "origin", branch)
        return self.git("rev-parse", "HEAD")
