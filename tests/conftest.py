"""Real git repositories for tests."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from nightcrew.testing.plugin import postgres_server, postgres_url  # noqa: F401

AUTHOR = {
    "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com", "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.com", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Repository:
    """A work tree somebody uses git in, without our settings: an owner's checkout, or an agent's workspace."""

    path: Path

    def git(self, *args: str) -> str:
        """What `git ARGS` prints there, stripped. Raises CalledProcessError when it fails."""
        argv = ["git", "-C", str(self.path), *args]
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin", "HOME": "/nonexistent", **AUTHOR}
        return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout.strip()

    def write(self, name: str, text: str) -> Path:
        """Write a file, with the folders it needs."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def commit(self, message: str = "change", **files: str) -> str:
        """Write files (`__` in a name is `/`, a last `_` is `.`), commit everything; returns the sha."""
        for name, text in files.items():
            stem, _, suffix = name.replace("__", "/").rpartition("_")
            self.write(f"{stem}.{suffix}" if stem else name, text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.sha()

    def sha(self, rev: str = "HEAD") -> str:
        return self.git("rev-parse", rev)


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    """The owner's repository: a checkout on `main` with a few files and two commits."""
    path = tmp_path / "upstream"
    path.mkdir()
    made = Repository(path)
    made.git("init", "-q", "-b", "main")
    made.write(".gitignore", "*.log\nbuild/\n")
    made.write("run.sh", "#!/bin/sh\necho hi\n").chmod(0o755)
    made.write("docs/läs mig.md", "# Läs mig\n")
    made.commit("first", calc_py="def add(a, b):\n    return a + b\n")
    made.commit("second", src__data_txt="one\ntwo\n")
    return made
