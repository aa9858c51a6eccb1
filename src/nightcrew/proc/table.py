"""What the system says about processes: one pass over /proc, or over `ps` where there is no /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MARK = "NIGHTCREW_MARK"
_MARK = MARK.encode() + b"="
_PS_COLUMNS = "pid=,ppid=,pgid=,stat=,time=,lstart=,command="


@dataclass(frozen=True, slots=True)
class Row:
    """One process. `started` says when, in the system's own words: together with the boot id it names the process."""

    pid: int
    parent: int
    group: int
    session: int
    zombie: bool
    cpu_seconds: float
    started: str


@cache
def boot_id() -> str:
    """What tells this boot from the last one; "" when the system does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return _say("sysctl", "-n", "kern.boottime").strip()


def row(pid: int) -> Row | None:
    """The process with this pid, a zombie included; None when there is none or it may not be seen."""
    if not has_proc():
        return next((found for found, _ in ps_rows(_ps("-p", str(pid)))), None)
    return _stat(pid)


def rows() -> list[Row]:
    """All processes that may be seen, the newest pids first."""
    if not has_proc():
        return [found for found, _ in ps_rows(_ps("ax"))]
    return [found for pid in _pids() if (found := _stat(pid))]


def marks() -> dict[int, str]:
    """pid -> mark of all running processes that bear one; never ourselves."""
    if not has_proc():
        found = {seen.pid: mark_in(command.replace(" ", "\0").encode()) for seen, command in ps_rows(_ps("ax"))}
    else:
        found = {pid: mark_of(pid) for pid in _pids()}
    return {pid: mark for pid, mark in found.items() if mark and pid != os.getpid()}


def mark_of(pid: int) -> str:
    """The mark this process bears, "" when none or when it may not be seen (a zombie bears none)."""
    if has_proc():
        return mark_in(read(f"/proc/{pid}/environ"))
    return next((mark_in(command.replace(" ", "\0").encode()) for _, command in ps_rows(_ps("-p", str(pid)))), "")


def mark_in(environment: bytes) -> str:
    """The mark in a NUL-separated environment; the first one counts."""
    if _MARK not in environment:
        return ""
    entries = environment.split(b"\0")
    return next((e[len(_MARK) :].decode(errors="replace") for e in entries if e.startswith(_MARK)), "")


def arguments_of(pid: int) -> list[str]:
    """The command line in words; where only `ps` tells, one word that holds it all. [] when it may not be seen."""
    if has_proc():
        return read(f"/proc/{pid}/cmdline").decode(errors="replace").split("\0")[:-1]
    return [_say("ps", "-o", "command=", "-p", str(pid)).strip()]


def io_bytes(pid: int) -> int:
    """Bytes this process and its reaped children have read and written; 0 where the system does not say."""
    fields = dict(line.split(b": ", 1) for line in read(f"/proc/{pid}/io").splitlines() if b": " in line)
    return int(fields.get(b"rchar", 0)) + int(fields.get(b"wchar", 0))


def kill_if(pid: int, still: Callable[[int], bool]) -> bool:
    """SIGKILL for `pid`, if `still(pid)` holds. True when it was sent.

    The process is pinned before it is looked at, so a pid given out again in between is never hit (Linux).
    """
    if sys.platform == "linux":
        try:
            pinned = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        except OSError:  # a sandbox may forbid it
            return still(pid) and _kill(pid)
        try:
            return still(pid) and _kill_pinned(pinned)
        finally:
            os.close(pinned)
    return still(pid) and _kill(pid)


def _kill(pid: int) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _kill_pinned(pinned: int) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        signal.pidfd_send_signal(pinned, signal.SIGKILL)
        return True
    return False


@cache
def has_proc() -> bool:
    """Whether /proc can be read here (Linux, unless a sandbox closes it)."""
    return bool(read("/proc/self/stat"))


def _pids() -> list[int]:
    """Newest first: a program that keeps starting itself anew is found before it is gone again."""
    with suppress(OSError):
        return sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True)  # noqa: PTH208
    return []


def _stat(pid: int) -> Row | None:
    data = read(f"/proc/{pid}/stat")
    fields = data[data.rfind(b")") + 2 :].split()  # the name before it may hold anything, ")" too
    if len(fields) < 20:
        return None
    return Row(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        zombie=fields[0] in b"ZX",
        cpu_seconds=sum(map(int, fields[11:15])) / _ticks(),
        started=fields[19].decode(),
    )


@cache
def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")


def read(path: str) -> bytes:
    """The whole of a small system file, b"" when it cannot be read. Half the cost of open()."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(fd, 1 << 17):
            parts.append(part)
        return b"".join(parts)
    except OSError:  # it ended while we looked
        return b""
    finally:
        os.close(fd)


def _ps(*which: str) -> str:
    options = "axeww" if which == ("ax",) else "eww"
    return _say("ps", options, "-o", _PS_COLUMNS, *(which if which != ("ax",) else ()))


def _say(*argv: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        done = subprocess.run(argv, env=env, capture_output=True, timeout=10, check=False, stdin=subprocess.DEVNULL)
        return done.stdout.decode(errors="replace")
    return ""


def ps_rows(text: str) -> list[tuple[Row, str]]:
    """What `ps` printed, as rows, each with its command line and environment. `ps` knows no sessions: 0."""
    found = []
    for line in reversed(text.splitlines()):
        fields = line.split(None, 10)
        with suppress(ValueError, IndexError):
            pid, parent, group = (int(field) for field in fields[:3])
            state, cpu, started, command = fields[3], _clock(fields[4]), " ".join(fields[5:10]), fields[10]
            found.append((Row(pid, parent, group, 0, state.startswith("Z"), cpu, started), command))
    return found


def _clock(text: str) -> float:
    """Seconds in `[[days-]hours:]minutes:seconds`.

    >>> _clock("1-00:00:01"), _clock("1:02.50")
    (86401.0, 62.5)
    """
    days, _, rest = text.rpartition("-")
    seconds = 0.0
    for part in rest.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + int(days or 0) * 86400
