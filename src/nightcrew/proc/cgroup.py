"""A cgroup for each program, where one may be written: it limits a tree, and nothing in it escapes its end (Linux).

NIGHTCREW_CGROUPS=off turns it off.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from nightcrew.proc import hierarchies, table
from nightcrew.proc.limits import Limits

_LONGEST = 160
_FREE = Limits()


def make(mark: str, limits: Limits = _FREE) -> tuple[str, tuple[str, ...]]:
    """The cgroups of `mark`, made now and limited: the v2 one ("" where none may be made), and v1 ones beside it.

    With limits there is a v1 one for each controller that v2 does not have here, so that the kernel holds them.
    """
    if not usable():
        return "", ()
    home = hierarchies.unified()
    folder = _made(home.folder, mark)
    lacking = [name for name in hierarchies.CONTROLLERS if limits and not (folder and name in home.controllers)]
    homes = dict.fromkeys(hierarchies.beside(name) for name in lacking)
    beside = tuple(made for place in homes if (made := _made(place, mark)))
    for each in filter(None, (folder, *beside)):
        for file, value in limits.files():
            hierarchies.write(f"{each}/{file}", str(value))
    return folder, beside


def usable() -> bool:
    """Whether cgroups are wanted and there at all."""
    return os.environ.get("NIGHTCREW_CGROUPS") != "off" and bool(hierarchies.mounts())


def members(folder: str) -> set[int]:
    """The running processes in it and in those below it; zombies are not listed there."""
    listed = (table.read(f"{below}/cgroup.procs") for below in _tree(folder))
    return {int(pid) for text in listed for pid in text.split()} - {os.getpid(), 0}


def cpu_seconds(folder: str) -> float | None:
    """CPU time of all that ever ran in it, None where the system does not say."""
    used = _entry(f"{folder}/cpu.stat", b"usage_usec")
    return None if used is None else used / 1e6


def memory(folders: Iterable[str]) -> int | None:
    """Bytes held that cannot be given back: what is charged to it without the page cache. None = nobody counts."""
    folders = list(folders)
    used = _number(folders, "memory.current", "memory.usage_in_bytes")
    return None if used is None else max(used - _cache(folders), 0)


def peak(folders: Iterable[str]) -> int | None:
    """The most that was charged to it, without the page cache it has now. None = nobody counts."""
    folders = list(folders)
    most = _number(folders, "memory.peak", "memory.max_usage_in_bytes")
    return None if most is None else max(most - _cache(folders), 0)


def oom_kills(folders: Iterable[str]) -> int:
    """How many of its processes the kernel killed because memory ran out."""
    files = [f"{folder}/{name}" for folder in folders for name in ("memory.events", "memory.oom_control")]
    return sum(_entry(file, b"oom_kill") or 0 for file in files)


def limited(folders: Iterable[str]) -> tuple[bool, bool]:
    """Whether the kernel itself holds a memory limit, and one of processes."""
    folders = list(folders)
    memory = _number(folders, "memory.max", "memory.limit_in_bytes")
    return memory is not None and memory < 1 << 60, _number(folders, "pids.max") is not None


def kill(folder: str) -> set[int]:
    """SIGKILL for everything in it; the processes that were there."""
    found = members(folder) if folder else set()
    if found and not hierarchies.write(f"{folder}/cgroup.kill", "1"):  # v1, and v2 before Linux 5.14
        hierarchies.write(f"{folder}/cgroup.freeze", "1")  # what is frozen forks no more, and can be killed
    # One whose main thread ended and whose others go on is spared by cgroup.kill (seen on Linux 6.18).
    for pid in members(folder) if found else ():
        table.kill_if(pid, lambda pid: pid in members(folder))
    return found


def discard(folders: Iterable[str]) -> None:
    """Remove cgroups that nothing entered."""
    for folder in filter(None, folders):
        with suppress(OSError):
            Path(folder).rmdir()


async def remove(folder: str) -> None:
    """Remove an empty cgroup and those below it; one that cannot be removed is left to the next sweep."""
    for below in reversed(list(_tree(folder))) if folder else ():
        for _ in range(100):
            try:
                Path(below).rmdir()
            except FileNotFoundError:
                break
            except OSError:  # the last process is not quite gone
                await asyncio.sleep(0.01)
            else:
                break


def belonging(mark_prefix: str) -> list[str]:
    """The cgroups of marks that start so, v2 ones first, also those an earlier nightcrew made from another cgroup."""
    start = _name(mark_prefix)[: _LONGEST + 2]
    walked = (folder for base in hierarchies.mounts() for folder in _tree(base))
    homes = (folder for folder in walked if folder.endswith(f"/{hierarchies.HOME}"))
    return [str(found) for home in homes for found in Path(home).iterdir() if found.name.startswith(start)]


def _made(home: str, mark: str) -> str:
    folder = Path(home, _name(mark))
    with suppress(OSError):
        if home:
            folder.mkdir(parents=True, exist_ok=True)
            return str(folder)
    return ""


def _name(mark: str) -> str:
    """A name whose beginning tells the beginning of the mark.

    >>> _name("home/run:1")
    'm-home%2Frun%3A1'
    """
    name = "m-" + quote(mark, safe="")
    return name if len(name) <= _LONGEST + 2 else name[: _LONGEST + 2] + sha256(mark.encode()).hexdigest()[:16]


def _tree(folder: str) -> Iterator[str]:
    for below, _, _ in os.walk(folder):
        yield below


def _number(folders: Iterable[str], *names: str) -> int | None:
    """What the first of these files says that has a number."""
    texts = (table.read(f"{folder}/{name}").strip() for folder in folders for name in names)
    return next((int(text) for text in texts if text.isdigit()), None)


def _cache(folders: Iterable[str]) -> int:
    """Bytes of files in memory; v1 says `total_` of what a cgroup holds with those below it."""
    for folder in folders:
        if text := table.read(f"{folder}/memory.stat"):
            said = dict(line.rsplit(b" ", 1) for line in text.splitlines() if b" " in line)
            return sum(
                int(said.get(b"total_" + name, said.get(name, 0))) for name in (b"inactive_file", b"active_file")
            )
    return 0


def _entry(file: str, name: bytes) -> int | None:
    fields = table.read(file).split()
    return int(fields[fields.index(name) + 1]) if name in fields else None
