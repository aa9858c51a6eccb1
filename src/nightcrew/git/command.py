"""Running git: one function, with settings that let nothing from outside run or wait for a person."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from nightcrew import proc
from nightcrew.errors import MAKE_ROOM, GitError

MAX_OUTPUT = 256 << 20  # bytes; a diff or a listing must be whole or an error
ZERO = "0" * 40  # how update-ref spells "must be absent"

# Hooks and the file system monitor are code; `ext::` addresses are commands. Maintenance is ours (never gc: private
# clones borrow the hub's objects). A lock held by another git is worth waiting for.
SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.quotePath": "false",
    "core.filesRefLockTimeout": "10000",
    "core.packedRefsTimeout": "10000",
    "commit.gpgSign": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "protocol.ext.allow": "never",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
}

# Where no remote is asked, nobody's configuration but ours has a say.
ALONE = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}

# git with the owner's configuration (credential helpers, insteadOf) and login agent: only to reach the remote.
OWNER = ("XDG_CONFIG_HOME", "SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "GIT_SSH", "GIT_ASKPASS", "SSH_ASKPASS")


@dataclass(frozen=True)
class Completed:
    """How one git command ended. `code` is negative for a signal."""

    code: int
    stdout: str
    stderr: str


async def git(
    *args: str,
    git_dir: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes = b"",  # noqa: A002 - what it is
    timeout: float = 300,
    ok: Collection[int] = (0,),
) -> str:
    """What `git ARGS` prints, as utf-8 with surrogate escapes.

    Runs with nightcrew's own settings: no hooks, no prompt, no maintenance. `timeout` in seconds. Raises GitError when
    the exit code is not in `ok`, when it takes too long, or when there is no git.
    """
    done = await run(*args, git_dir=git_dir, cwd=cwd, env=env, input=input, timeout=timeout)
    if done.code not in ok:
        raise failure(args, done)
    return done.stdout


def failure(args: tuple[str, ...], done: Completed) -> GitError:
    """The error of a command that ended badly."""
    full = re.search(r"No space left|unable to write|Disk quota", done.stderr)
    return GitError(name_of(args), done.code, done.stderr, hint=MAKE_ROOM if full else "")


def name_of(args: tuple[str, ...]) -> str:
    """The subcommand, behind any `-c key=value`."""
    return name_of(args[2:]) if args[0] == "-c" else args[0]


async def run(
    *args: str,
    git_dir: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes = b"",  # noqa: A002 - what it is
    timeout: float = 300,
) -> Completed:
    """Like `git`, for callers that read the exit code themselves. Raises GitError only when git could not run."""
    where = (f"--git-dir={git_dir}",) if git_dir else ()
    argv = ("git", *(part for pair in SETTINGS.items() for part in ("-c", "=".join(pair))), *where, *args)
    try:
        done = await proc.run(argv, cwd=cwd, env=environment(env or {}), timeout=timeout, input=input, limit=MAX_OUTPUT)
    except proc.ProgramNotFound as error:
        raise GitError(name_of(args), 127, str(error), hint="Install git 2.38 or newer.") from error
    if done.timed_out:
        raise GitError(name_of(args), done.code, f"no end after {timeout:g} s", hint="Is the disk or the network slow?")
    if done.cut:
        raise GitError(name_of(args), done.code, f"more than {MAX_OUTPUT >> 20} MiB of output")
    return Completed(done.code, decode(done.stdout), redact(decode(done.stderr)))


def decode(raw: bytes) -> str:
    """Bytes of git as text; what is no utf-8 comes back unchanged with `encode`."""
    return raw.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes `decode` came from."""
    return text.encode("utf-8", "surrogateescape")


def redact(text: str) -> str:
    """Without the credentials of addresses, for messages people see."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Our own git's whole environment: nothing of `GIT_*` is inherited but how to reach a remote."""
    kept = proc.base_env(OWNER)
    fixed = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
    return {**kept, **fixed, **extra}
