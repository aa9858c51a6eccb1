"""How much memory a program and all it started hold, and whether they use more than they may."""

from __future__ import annotations

import subprocess
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from os import sysconf

from nightcrew.proc import cgroup, table, tree
from nightcrew.proc.child import Handle
from nightcrew.proc.limits import Limits

_REMEMBERED = 1000


@dataclass(frozen=True)
class _Used:
    peak: int = 0
    oom: bool = False


_used: OrderedDict[Handle, _Used] = OrderedDict()
_ps: tuple[float, dict[int, int]] = (0.0, {})


def memory(handle: Handle) -> int:
    """Bytes its whole tree holds now: what the kernel charges it, without the file cache.

    Without a cgroup: what its processes hold alone, and what they share once. 0 when it is gone.
    """
    held = cgroup.memory(handle.cgroups)
    held = _resident([row.pid for row in tree.lately(handle)]) if held is None else held
    _note(handle, held)
    return held


def peak(handle: Handle) -> int:
    """The most bytes it ever held. Without a cgroup: the most that `memory` has seen.

    Ask after `end`, or before; `end` takes the last look itself. Known for the last 1,000 programs of this process.
    """
    return _noted(handle).peak


def oom(handle: Handle) -> bool:
    """Whether the kernel killed something of it because memory ran out, as `peak`. Without a cgroup nobody knows."""
    return _noted(handle).oom


def over(handle: Handle, limits: Limits) -> str:
    """One sentence on how it is over a limit that the kernel does not hold for us, "" when it is not."""
    by_kernel = cgroup.limited(handle.cgroups)
    if limits.memory and not by_kernel[0] and (held := memory(handle)) > limits.memory:
        return f"It holds {held >> 20} MB of memory, its limit is {limits.memory >> 20} MB."
    if limits.processes and not by_kernel[1] and (count := tree.signs(handle).processes) > limits.processes:
        return f"It runs {count} processes, its limit is {limits.processes}."
    return ""


def _noted(handle: Handle) -> _Used:
    """What is known of it, with what its cgroups say as long as they are there."""
    _note(handle, cgroup.peak(handle.cgroups) or 0)
    return _used.get(handle, _Used())


def _note(handle: Handle, held: int) -> None:
    before = _used.get(handle, _Used())
    after = _Used(max(before.peak, held), before.oom or cgroup.oom_kills(handle.cgroups) > 0)
    if after != before:
        _used[handle] = after
    while len(_used) > _REMEMBERED:
        _used.popitem(last=False)


def _resident(pids: list[int]) -> int:
    if not table.has_proc():
        found = _by_ps()
        return sum(found.get(pid, 0) for pid in pids)
    pages = [[int(field) for field in table.read(f"/proc/{pid}/statm").split()[1:3]] for pid in pids]
    whole = [page for page in pages if len(page) == 2]
    alone, shared = sum(size - common for size, common in whole), max((common for _, common in whole), default=0)
    return (alone + shared) * sysconf("SC_PAGESIZE")


def _by_ps() -> dict[int, int]:
    """pid -> resident bytes of all processes, at most a second old (macOS)."""
    global _ps  # noqa: PLW0603
    if time.monotonic() - _ps[0] > 1.0:
        text = ""
        with suppress(OSError, subprocess.SubprocessError):
            text = subprocess.run(
                ["ps", "ax", "-o", "pid=,rss="], capture_output=True, text=True, timeout=10, check=False
            ).stdout
        lines = (line.split() for line in text.splitlines())
        _ps = (time.monotonic(), {int(line[0]): int(line[1]) << 10 for line in lines if len(line) == 2})
    return _ps[1]
