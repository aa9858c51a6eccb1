"""Start a program in a session, group and cgroup of its own, and know when it ended."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from nightcrew.errors import NightcrewError
from nightcrew.proc import cgroup, shim, table
from nightcrew.proc.limits import Limits

_FREE = Limits()


class ProgramNotFound(NightcrewError):
    """The program cannot be found or executed; `program` is its name."""

    hint = "Install it, put it on the PATH, or name it with its whole path."

    def __init__(self, program: str) -> None:
        super().__init__(f"The program {program!r} cannot be found or executed.")
        self.program = program


@dataclass(frozen=True)
class Handle:
    """Enough to find a running program again after nightcrew was killed. `started` and `boot_id` guard the pid.

    `beside` are its v1 cgroups; `reaper` says that the process is a shim which adopts all that the program leaves.
    """

    pid: int
    started: str
    boot_id: str
    mark: str
    cgroup: str
    beside: tuple[str, ...] = ()
    reaper: bool = False

    @property
    def cgroups(self) -> tuple[str, ...]:
        """All its cgroups, the v2 one first."""
        return tuple(filter(None, (self.cgroup, *self.beside)))

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Handle:
        """Read what `to_json` wrote, also an older one. Raises ValueError for anything else."""
        match json.loads(text):
            case {
                "pid": int(pid),
                "started": str(started),
                "boot_id": str(boot),
                "mark": str(mark),
                "cgroup": str(group),
                **newer,
            }:
                beside = newer.get("beside")
                more = tuple(map(str, beside)) if isinstance(beside, list) else ()
                return cls(pid, started, boot, mark, group, more, newer.get("reaper") is True)
        raise ValueError(f"no handle of a process: {text[:80]!r}")


class Process:
    """One running program and everything it started. Made by `start`; belongs to the event loop that made it."""

    def __init__(
        self, popen: subprocess.Popen[bytes], handle: Handle, *, shell_codes: bool = False, told: int = -1
    ) -> None:
        self.handle = handle
        self._popen = popen
        self._shell_codes = shell_codes
        self._told = told  # where a shim that stays says the exit code
        self._said = b""
        self._over = asyncio.Event()
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._unsaid = bytearray()
        self._closing = False
        self._pidfd = _pidfd(popen.pid)
        if told >= 0:
            self._loop.add_reader(told, self._listen)
        if self._pidfd >= 0:
            self._loop.add_reader(self._pidfd, self._look)
        else:
            self._poll(0.005)

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal, None while it runs.

        With an `rc` file or a shim that stays (no cgroup) the code came through a shell, which says 128 + n for
        signal n: 129..159 are read as signals.
        """
        self._listen()
        code = int(self._said) if self._said else self._popen.poll()
        return from_shell(code) if self._shell_codes and code is not None else code

    @property
    def shim_runs(self) -> bool:
        """Whether the process itself is there: the program, or its shim."""
        return self._popen.poll() is None

    async def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the program itself ended (orphans of it may live on): its `returncode`, None after `timeout`."""
        await _within(self._over, timeout)
        return self.returncode

    async def gone(self, timeout: float) -> None:
        """Wait until its shim is gone too, which may stay as long as there are orphans; at most `timeout` seconds."""
        await _within(self._gone, timeout)

    def write(self, data: bytes) -> None:
        """Say this on its stdin (`two_way` only). Never blocks, never raises; what a gone reader missed is dropped."""
        if self._popen.stdin is None or self._closing:
            return
        self._unsaid += data
        self._say()

    def close_stdin(self) -> None:
        """End its stdin, once all that was written has been read."""
        self._closing = True
        self._say()

    def release(self) -> None:
        """Close its stdin, whatever was not read yet; called by `end`. One that cannot be ended is watched on."""
        self._look()
        self._unsaid.clear()
        self.close_stdin()

    def _say(self) -> None:
        pipe = self._popen.stdin
        if pipe is None or pipe.closed:
            return
        try:
            while self._unsaid:
                del self._unsaid[: os.write(pipe.fileno(), self._unsaid[:65536])]
        except BlockingIOError:
            self._loop.add_writer(pipe.fileno(), self._say)
            return
        except OSError:  # the reader is gone
            self._unsaid.clear()
            self._closing = True
        self._loop.remove_writer(pipe.fileno())
        if self._closing:
            pipe.close()

    def _listen(self) -> None:
        """Hear the exit code from a shim that stays. One that goes says nothing: its own code is the same."""
        if self._told < 0:
            return
        try:
            self._said = os.read(self._told, 16).strip()
        except BlockingIOError:
            return
        self._loop.remove_reader(self._told)
        os.close(self._told)
        self._told = -1
        if self._said:
            self._over.set()

    def _look(self) -> None:
        if self._popen.poll() is not None:
            self._listen()
            self._unwatch()
            self._over.set()
            self._gone.set()

    def _poll(self, pause: float) -> None:
        """Without pidfd (macOS, some sandboxes) we look ten times a second: a thread for each child would cost more."""
        self._look()
        if not self._gone.is_set():
            self._loop.call_later(pause, self._poll, min(pause * 1.5, 0.1))

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


async def start(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    mark: str,
    stdout: Path,
    stderr: Path,
    stdin: Path | None = None,
    two_way: bool = False,
    rc: Path | None = None,
    limits: Limits = _FREE,
) -> Process:
    """Start `argv` in `cwd` with exactly `env` and the mark, in its own session, group and (where possible) cgroup.

    Output is appended to the files `stdout` and `stderr`, so nothing blocks and nothing is lost when nightcrew is
    killed. stdin is the file `stdin`, a pipe with `two_way`, else empty. `rc` receives the exit code (see `exit_code`).
    The kernel holds `limits` where it may be asked to (cgroups); elsewhere ask `over` now and then.
    Raises ProgramNotFound when `argv[0]` cannot be executed, NightcrewError when a folder or file cannot be used.
    """
    if rc:
        rc.unlink(missing_ok=True)  # one of an earlier attempt would say that this one is over
    with ExitStack() as opened:
        try:
            out, err = opened.enter_context(stdout.open("ab")), opened.enter_context(stderr.open("ab"))
            given = opened.enter_context(stdin.open("rb")) if stdin else None
        except OSError as error:
            raise NightcrewError(f"{error.filename} cannot be opened: {error.strerror}") from error
        return launch(
            argv, cwd=cwd, env=env, mark=mark, rc=rc, limits=limits, stdout=out, stderr=err,
            stdin=subprocess.PIPE if two_way else given or subprocess.DEVNULL,
        )  # fmt: skip


def launch(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    mark: str,
    stdin: int | IO[bytes],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    rc: Path | None = None,
    limits: Limits = _FREE,
) -> Process:
    """Start a program on open files. Without a mark and `rc` there is no shim and no cgroup: that is the cheap way."""
    program = find(argv[0], cwd, env.get("PATH", os.defpath))
    folder, beside = cgroup.make(mark, limits) if mark else ("", ())
    places = [place for place in (folder, *beside) if place]
    told, tell = _pipe() if mark and not folder and shim.may_stay() else (-1, -1)
    environment = {**env, table.MARK: mark} if mark else dict(env)
    try:
        popen = subprocess.Popen(
            [*shim.before(places, rc, tell), program, *argv[1:]], cwd=cwd, env=environment, bufsize=0,
            start_new_session=True, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=[tell] if tell >= 0 else [],
        )  # fmt: skip
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in an argument
        cgroup.discard(places)
        _close(told)
        raise _why(error, argv[0], cwd) from error
    finally:
        _close(tell)
    if popen.stdin:
        os.set_blocking(popen.stdin.fileno(), False)
    seen = table.row(popen.pid)
    started = seen.started if seen else ""
    handle = Handle(popen.pid, started, table.boot_id(), mark, folder, beside, reaper=tell >= 0)
    return Process(popen, handle, shell_codes=rc is not None or tell >= 0, told=told)


def find(name: str, cwd: Path, path: str) -> str:
    """Where the program is: a name is looked for on `path`, a relative path in `cwd`. Raises ProgramNotFound."""
    if "/" not in name:
        found = shutil.which(name, path=path)
    else:
        whole = cwd.absolute() / name
        found = str(whole) if whole.is_file() and os.access(whole, os.X_OK) else None
    if not found:
        raise ProgramNotFound(name)
    return str(Path(found).absolute())


def exit_code(rc: Path) -> int | None:
    """What the program left in its `rc` file: negative for a signal; None while it runs or when it was killed whole."""
    try:
        text = rc.read_text()
    except (OSError, ValueError):
        return None
    return from_shell(int(text)) if text.endswith("\n") and text.strip().isdecimal() else None


def from_shell(code: int) -> int:
    """A shell says 128 + n for a program that signal n ended.

    >>> from_shell(137), from_shell(1), from_shell(255)
    (-9, 1, 255)
    """
    return 128 - code if 128 < code < 160 else code


def _why(error: OSError | ValueError, program: str, cwd: Path) -> NightcrewError:
    if isinstance(error, ValueError):
        return NightcrewError(f"{program!r} cannot be started: {error}")
    if not cwd.is_dir():
        return NightcrewError(f"{program!r} cannot be started: the folder {cwd} is not there.")
    if isinstance(error, (FileNotFoundError, PermissionError)) or error.errno == 8:  # ENOEXEC
        return ProgramNotFound(program)
    return NightcrewError(f"{program!r} cannot be started: {error.strerror}")


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    return reader, writer


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)


def _pidfd(pid: int) -> int:
    if sys.platform == "linux":
        with suppress(OSError):
            return os.pidfd_open(pid)
    return -1


async def _within(event: asyncio.Event, timeout: float | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()
