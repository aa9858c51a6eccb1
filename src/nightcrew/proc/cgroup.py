"""A cgroup for each program, where one may be written: the one way to end a tree that nothing escapes (Linux).

NIGHTCREW_CGROUPS=off turns it off.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from nightcrew.proc import table

_HOME = "nightcrew"
_LONGEST = 160


def make(mark: str) -> str:
    """The folder of a cgroup for `mark`, made now; "" where none may be made."""
    if not (home := _home()):
        return ""
    folder = Path(home, _name(mark))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ""
    return str(folder)


def members(folder: str) -> set[int]:
    """The running processes in it and in those below it; zombies are not listed there."""
    listed = (table.read(f"{below}/cgroup.procs") for below in _tree(folder))
    return {int(pid) for text in listed for pid in text.split()} - {os.getpid(), 0}


def cpu_seconds(folder: str) -> float | None:
    """CPU time of all that ever ran in it, None where the system does not say."""
    fields = table.read(f"{folder}/cpu.stat").split()
    return int(fields[fields.index(b"usage_usec") + 1]) / 1e6 if b"usage_usec" in fields else None


def kill(folder: str) -> set[int]:
    """SIGKILL for everything in it; the processes that were there."""
    found = members(folder) if folder else set()
    if found and not _write(Path(folder, "cgroup.kill")):  # before Linux 5.14
        for pid in found:
            table.kill_if(pid, lambda pid: pid in members(folder))
    return found


def discard(folder: str) -> None:
    """Remove a cgroup that nothing entered."""
    if folder:
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
    """The cgroups of marks that start so, also those an earlier nightcrew made from another cgroup."""
    start = _name(mark_prefix)[: _LONGEST + 2]
    homes = (folder for base in _mounts() for folder, _, _ in os.walk(base) if os.path.basename(folder) == _HOME)  # noqa: PTH119
    return [str(found) for home in homes for found in Path(home).iterdir() if found.name.startswith(start)]


def _name(mark: str) -> str:
    """A name whose beginning tells the beginning of the mark.

    >>> _name("home/run:1")
    'm-home%2Frun%3A1'
    """
    name = "m-" + quote(mark, safe="")
    return name if len(name) <= _LONGEST + 2 else name[: _LONGEST + 2] + sha256(mark.encode()).hexdigest()[:16]


def _home() -> str:
    return "" if os.environ.get("NIGHTCREW_CGROUPS") == "off" else _writable_home()


@cache
def _writable_home() -> str:
    """Where our cgroups go: below our own, else below the root. "" where neither may be written."""
    own = [
        line[3:] for line in table.read("/proc/self/cgroup").decode(errors="replace").splitlines() if line[:3] == "0::"
    ]
    bases = [mount + path.rstrip("/") for mount in _mounts() for path in [*own, ""]]
    return next((f"{base}/{_HOME}" for base in bases if _may_write(Path(base))), "")


def _may_write(base: Path) -> bool:
    """A process moves only where the common parent may be written too, so that is asked, and then tried."""
    if not os.access(base / "cgroup.procs", os.W_OK):
        return False
    with suppress(OSError):
        (base / _HOME).mkdir(exist_ok=True)
        return os.access(base / _HOME / "cgroup.procs", os.W_OK)
    return False


@cache
def _mounts() -> tuple[str, ...]:
    """Where cgroup v2 is mounted: alone, or beside v1."""
    text = table.read("/proc/self/mounts").decode(errors="replace")
    return tuple(fields[1] for line in text.splitlines() if len(fields := line.split()) > 2 and fields[2] == "cgroup2")


def _tree(folder: str) -> Iterator[str]:
    for below, _, _ in os.walk(folder):
        yield below


def _write(file: Path) -> bool:
    try:
        file.write_text("1")
    except OSError:
        return False
    return True
