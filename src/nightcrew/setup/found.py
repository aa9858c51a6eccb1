"""What is here: the repository, its remote, its tests, and the agents on the PATH."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from nightcrew.errors import ConfigError

AGENTS = ("claude", "codex")
PATIENCE = 10.0  # seconds for one program to answer; a cold start of a Node program takes two
TICKETS = "tickets"


class Installed(NamedTuple):
    """An agent on the PATH; `version` is "" when the program did not answer."""

    name: str
    version: str


@dataclass(frozen=True)
class Survey:
    """What was found."""

    root: Path  # top of the git repository
    base: str  # the branch to start from
    remote: str = ""  # address of `origin` without a password, "" when there is none
    dirty: bool = False  # uncommitted changes: agents do not see them
    language: str = ""
    test_command: str = ""
    agents: tuple[Installed, ...] = ()
    tickets: Path | None = None  # the tickets folder that is there already

    @property
    def named(self) -> str:
        """The agents, as a person is told of them."""
        return ", ".join(" ".join(agent) for agent in self.agents) or "no agent on the PATH"


def survey(cwd: Path, environ: Mapping[str, str], patience: float = PATIENCE) -> Survey:
    """Look at the repository around `cwd` and at the agents on the PATH; changes nothing.

    Each agent has `patience` seconds to answer. Raises ConfigError when there is no git, repository, commit or branch.
    """
    if not shutil.which("git", path=environ.get("PATH")):
        raise ConfigError("git is not on the PATH.", hint="Install git, then run `nightcrew init` again.")

    def git(*args: str) -> str | None:
        return _answer(("git", *args), cwd, {**environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}, PATIENCE)

    top = git("rev-parse", "--show-toplevel")
    if not top:
        raise ConfigError(f"{cwd} is not in a git repository with a work tree.", hint="Go to yours, or run `git init`.")
    if git("rev-parse", "--verify", "--quiet", "HEAD^{commit}") is None:
        raise ConfigError(f"{top} has no commits yet, so there is nothing to start from.",
                          hint="Commit something first: `git add -A && git commit -m start`.")  # fmt: skip
    root = Path(top)
    language, test = _guess(root)
    remote = re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", git("remote", "get-url", "origin") or "")
    tickets = root / TICKETS
    return Survey(root, _base(git, root), remote, bool(git("status", "--porcelain")), language, test,
                  _installed(environ, root, patience), tickets if tickets.is_dir() else None)  # fmt: skip


def _base(git: Callable[..., str | None], root: Path) -> str:
    """The branch to start from: the remote's default where it is here too, else the one checked out."""
    default = (git("symbolic-ref", "--short", "refs/remotes/origin/HEAD") or "").removeprefix("origin/")
    current = git("symbolic-ref", "--short", "HEAD") or ""
    for branch in (default, current, "main", "master"):
        if branch and git("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}") is not None:
            return branch
    raise ConfigError(f"{root} is on no branch.", hint="Check one out: `git switch main`, or `git switch -c main`.")


def _installed(environ: Mapping[str, str], root: Path, patience: float) -> tuple[Installed, ...]:
    """The agents on the PATH, asked at the same time."""
    programs = {name: found for name in AGENTS if (found := shutil.which(name, path=environ.get("PATH")))}
    with ThreadPoolExecutor(len(AGENTS)) as pool:
        said = pool.map(lambda program: _answer((program, "--version"), root, environ, patience), programs.values())
        return tuple(Installed(name, _version(text or "")) for name, text in zip(programs, said, strict=True))


def _version(said: str) -> str:
    """The number in what `--version` says, else the beginning of its first line."""
    number = re.search(r"\d+\.\d+[\w.+-]*", said)
    return number[0] if number else "".join(char for char in said.partition("\n")[0][:40] if char.isprintable())


def _answer(argv: tuple[str, ...], cwd: Path, environ: Mapping[str, str], patience: float) -> str | None:
    """What a program prints, stripped; None when it fails, cannot be started or is too slow: then it is ended."""
    # A file and not a pipe: a grandchild that holds a pipe open would keep us waiting for ever.
    with TemporaryFile() as out:
        try:
            child = subprocess.Popen(argv, cwd=cwd, env=dict(environ), stdin=subprocess.DEVNULL, stdout=out,
                                     stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        except OSError:
            return None
        code: int | None = None
        try:
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(patience)
        finally:
            if child.poll() is None:
                with suppress(PermissionError):  # macOS says so when it has just ended
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        out.seek(0)
        return None if code != 0 else out.read(1 << 20).decode(errors="replace").strip()


def _guess(root: Path) -> tuple[str, str]:
    """Language and test command, told from the files at the top; "" where nothing says so."""
    for language, name, command in (
        ("Python", "pyproject.toml", _python), ("JavaScript", "package.json", _javascript),
        ("Rust", "Cargo.toml", lambda _: "cargo test"), ("Go", "go.mod", lambda _: "go test ./..."),
    ):  # fmt: skip
        if (root / name).is_file():
            return language, command(root) or _make(root)
    return "", _make(root)


def _python(root: Path) -> str:
    if "pytest" not in _text(root / "pyproject.toml") and not (root / "tests").is_dir():
        return ""
    for lock, runner in (("uv.lock", "uv run pytest"), ("poetry.lock", "poetry run pytest")):
        if (root / lock).is_file():
            return runner
    return "python3 -m pytest"


def _javascript(root: Path) -> str:
    try:
        script = json.loads(_text(root / "package.json"))["scripts"]["test"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    if not isinstance(script, str) or "no test specified" in script:  # what `npm init` writes
        return ""
    locks = {"pnpm-lock.yaml": "pnpm test", "yarn.lock": "yarn test"}
    return next((command for lock, command in locks.items() if (root / lock).is_file()), "npm test")


def _make(root: Path) -> str:
    makefiles = (_text(root / name) for name in ("GNUmakefile", "makefile", "Makefile"))
    return "make test" if any(re.search(r"^test\s*:(?!=)", text, re.M) for text in makefiles) else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
