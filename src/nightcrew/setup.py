"""What `nightcrew init` does: look around, and write a nightcrew.toml that works as it is and explains itself."""

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

from nightcrew.config import FILE_NAME
from nightcrew.errors import ConfigError

AGENTS = ("claude", "codex")
PATIENCE = 10.0  # seconds for one program to answer; a cold start of a Node program takes two
TICKETS = "tickets"

EXAMPLE = """\
---
title: Say hello in the README
state: example
repo: {repo}
priority: 3
labels: [docs]
---
This is an example and is not worked: its state is `example`. Set `state: open`, or copy this file, to give the crew
a ticket. Say what is wanted and how one can see that it is done.

- The README begins with one sentence that says what the project is for.
- Nothing else changes.
"""


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


def config_text(found: Survey, home: Path) -> str:
    """A commented nightcrew.toml for this repository, to be put into folder `home`."""
    names = [name for name, _ in found.agents] or ["claude"]
    agents = "\n".join(f"{f'[agents.{name}]':22}# {_about(name, dict(found.agents))}" for name in names)
    tests = f"commands = [{_toml(found.test_command)}]" if found.test_command else '# commands = ["make test"]'
    return _TEMPLATE.format(
        name=_toml(_name(found.root)),
        agents=agents,
        order=", ".join(map(_toml, names)),
        path=_toml(os.path.relpath(found.root, home)),
        base=_toml(found.base),
        commands=f"{tests:40}# each must succeed on the work merged with the base",
        board=_toml(TICKETS),
    )


def write_config(found: Survey, path: Path) -> str:
    """Write `config_text` to `path`, with a tickets folder beside it when there is none. Returns the text.

    Raises ConfigError, changing nothing, when the file exists or cannot be written.
    """
    text = config_text(found, path.parent)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already; nothing was changed.", hint="Edit it, or move it away.") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}).", hint="Choose another folder.") from error
    # The state folder hides itself from git, so that nothing of it is ever committed.
    _new_file(path.parent / ".nightcrew" / ".gitignore", "*\n")
    if not (path.parent / TICKETS).exists():
        _new_file(path.parent / TICKETS / "example.md", EXAMPLE.format(repo=_toml(_name(found.root))))
    return text


def _new_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
        file.write(text)


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


def _about(name: str, versions: Mapping[str, str]) -> str:
    if name not in versions:
        return f"not found on this machine: install {name} and log in"
    return f"found: {versions[name]}" if versions[name] else "found, but it did not tell its version"


def _name(root: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", root.name).strip("._-") or "repo"


def _toml(text: str) -> str:
    """`text` as a TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'


_TEMPLATE = f"""\
# {FILE_NAME}: what nightcrew may do here. It works as it is; a line that begins with "# " and a key shows a default.

[crew]
name = {{name}}
agents = [{{order}}]  # which agent is tried first
# scan_every = 120          # seconds between two looks at the board
# state_dir = ".nightcrew"  # database, logs, workspaces
# workspace = "auto"        # auto | overlay | reflink | copy | checkout | worktree
# identity = ["nightcrew", "nightcrew@localhost"]  # who commits what nightcrew itself commits
# database_url = "$DATABASE_URL"  # PostgreSQL instead of SQLite; a $NAME is read from the environment

[limits]
max_running = 2             # tickets worked at the same time
# max_attempts = 5          # real ones; outages and rate limits do not count
# failures_per_model = 2    # then the agent's next model is tried

[limits.attempt]            # one session of an agent; 0 = no limit
minutes = 60
# stall_minutes = 15        # without any sign of life
# turns = 200
# tokens = 0
# money = 0.0               # US dollars, as the agent reports them

[board]
kind = "folder"             # tickets are Markdown files in a folder
path = {{board}}

# Coding agents. A ladder of models is climbed after real failures; claude's is models = ["sonnet", "opus"].
{{agents}}

[[repos]]
name = {{name}}
path = {{path}}
base = {{base}}
# Which tickets belong here, besides those that say so: by label, project, or words in title and body.
# labels = []
# projects = []
# keywords = []

[repos.gates]               # what a change must pass before a pull request is opened
{{commands}}
# timeout = 900             # seconds for each command
# protected = []            # paths that no change may touch, like ".github/**"
# max_files = 100
# max_lines = 5000
# secrets = true            # refuse changes that hold passwords or keys
# review = ""               # the name of an agent that reviews the change
"""
