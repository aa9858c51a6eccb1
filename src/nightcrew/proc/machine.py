"""What this machine has left: memory, cores, load and disks, as the system says. Cheap enough to ask every tick."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from pathlib import Path

from nightcrew.proc import table

AT_MOST_EVERY = 1.0
"""Seconds for which one look is believed."""
UNLIMITED = 1 << 60
"""cgroup v1 spells "no limit" as a number of about this size."""


@dataclass(frozen=True)
class Seen:
    """What a machine was seen to have. Bytes; 0 (or nothing) where the system does not say.

    `load` is the part of the one-minute load average that falls on our `cores`. `disks`: folder -> (in all, free); of
    folders on one disk only the first is there.
    """

    cores: int = 0
    memory_total: int = 0
    memory_free: int = 0
    load: float = 0.0
    disks: Mapping[str, tuple[int, int]] = field(default_factory=dict)


_last: dict[tuple[Path, ...], tuple[float, Seen]] = {}


def machine(folders: Sequence[Path] = ()) -> Seen:
    """This machine now, with the disks of those folders; looked at once a second at most. Never raises."""
    asked, now = tuple(folders), time.monotonic()
    at, seen = _last.get(asked, (-AT_MOST_EVERY, Seen()))
    if now - at >= AT_MOST_EVERY:
        seen = _look(asked)
        _last[asked] = now, seen
    return seen


def _look(folders: Sequence[Path]) -> Seen:
    cores = our_cores()
    total, free = _memory()
    return Seen(cores, total, free, _load() * cores / (os.cpu_count() or cores), disks(folders))


def our_cores() -> int:
    """The cores we may use: those of our affinity, and no more than a cgroup's quota of CPU time."""
    mine = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(min([mine, *map(ceil, quotas(_groups("cpu")))]), 1)


def disks(folders: Sequence[Path]) -> dict[str, tuple[int, int]]:
    """Bytes in all and free of each folder's disk, each disk once; a folder that cannot be asked is left out."""
    found: dict[int, tuple[str, tuple[int, int]]] = {}
    for folder in folders:
        with suppress(OSError):
            stat = os.statvfs(folder)
            size = stat.f_frsize
            found.setdefault(os.stat(folder).st_dev, (str(folder), (stat.f_blocks * size, stat.f_bavail * size)))  # noqa: PTH116
    return dict(found.values())


def meminfo(text: str) -> tuple[int, int]:
    """Memory in all, and available without swapping, as /proc/meminfo says; bytes, 0 for what it does not say.

    >>> meminfo("MemTotal:       2048 kB\\nMemAvailable:   1024 kB\\n")
    (2097152, 1048576)
    """
    lines = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M))
    return int(lines.get("MemTotal", 0)) << 10, int(lines.get("MemAvailable", 0)) << 10


def vm_stat(text: str) -> int:
    """Bytes that macOS can give without swapping, as `vm_stat` says; 0 when it does not say.

    >>> vm_stat("Mach Virtual Memory Statistics: (page size of 16384 bytes)\\nPages free:    2.\\nPages inactive: 1.")
    49152
    """
    size = int((re.findall(r"page size of (\d+) bytes", text) or [0])[0])
    pages = dict(re.findall(r'^"?Pages ([\w ]+?)"?:\s+(\d+)\.', text, re.M))
    return size * sum(int(pages.get(kind, 0)) for kind in ("free", "inactive", "speculative", "purgeable"))


def _memory() -> tuple[int, int]:
    if not table.has_proc():
        return _number(_told("sysctl", "-n", "hw.memsize").encode()), vm_stat(_told("vm_stat"))
    total, free = meminfo(table.read("/proc/meminfo").decode(errors="replace"))
    for limit, used in limits(_groups("memory")):
        total, free = min(total, limit), min(free, max(limit - used, 1))
    return total, free


def _told(*argv: str) -> str:
    with suppress(OSError, subprocess.SubprocessError):
        env = {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin", "LC_ALL": "C"}
        done = subprocess.run(argv, env=env, capture_output=True, timeout=5, check=False, stdin=subprocess.DEVNULL)
        return done.stdout.decode(errors="replace")
    return ""


def _load() -> float:
    with suppress(OSError):
        return os.getloadavg()[0]
    return 0.0


def limits(folders: Iterable[str]) -> Iterator[tuple[int, int]]:
    """(limit, used without what can be dropped) in bytes, of each of these cgroups, v1 or v2, that limits memory."""
    for folder in folders:
        v2 = _number(table.read(f"{folder}/memory.max"))
        limit = v2 or _number(table.read(f"{folder}/memory.limit_in_bytes"))
        if 0 < limit < UNLIMITED:
            used = _number(table.read(f"{folder}/memory.{'current' if v2 else 'usage_in_bytes'}"))
            yield limit, max(used - _cache(table.read(f"{folder}/memory.stat")), 0)


def _cache(stat: bytes) -> int:
    """The file cache in a cgroup: the system drops it before it refuses anybody memory."""
    counts = dict(re.findall(rb"^(?:total_)?(inactive_file|active_file) (\d+)$", stat, re.M))
    return sum(map(int, counts.values()))


def quotas(folders: Iterable[str]) -> Iterator[float]:
    """How many cores' time each of these cgroups, v1 or v2, may use, as far as they are limited."""
    for folder in folders:
        told = table.read(f"{folder}/cpu.max").split() or [
            table.read(f"{folder}/cpu.cfs_{part}_us").strip() for part in ("quota", "period")
        ]
        if len(told) == 2 and told[0].isdigit() and told[1].isdigit() and int(told[1]):
            yield int(told[0]) / int(told[1])


@cache
def _groups(controller: str) -> tuple[str, ...]:
    """The folders of the cgroup that limits us, and of all above it. A container may see none but the mount itself."""
    found: list[str] = []
    for line in table.read("/proc/self/cgroup").decode(errors="replace").splitlines():
        _, names, path = line.split(":", 2)
        for mount in _mounts(controller) if controller in names.split(",") else _mounts("") if not names else ():
            parts = [part for part in path.split("/") if part]
            found += [f"{mount}/{'/'.join(parts[:n])}".rstrip("/") for n in range(len(parts), -1, -1)]
    return tuple(folder for folder in dict.fromkeys(found) if os.path.isdir(folder))  # noqa: PTH112


def _mounts(controller: str) -> list[str]:
    """Where a cgroup v1 controller is mounted; for "", where cgroup v2 is."""
    lines = [line.split() for line in table.read("/proc/self/mounts").decode(errors="replace").splitlines()]
    kinds = [(fields[1], fields[2], fields[3].split(",")) for fields in lines if len(fields) > 3]
    if not controller:
        return [mount for mount, kind, _ in kinds if kind == "cgroup2"]
    return [mount for mount, kind, options in kinds if kind == "cgroup" and controller in options]


def _number(text: bytes) -> int:
    return int(text) if text.strip().isdigit() else 0
