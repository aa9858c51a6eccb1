"""End a program and everything it started, and find what an earlier nightcrew left behind (I5)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from nightcrew.proc import cgroup, shim, table, tree
from nightcrew.proc.child import Handle, Process
from nightcrew.proc.reaper import hunter
from nightcrew.proc.tree import alive
from nightcrew.proc.usage import peak

_AT_ONCE = 20  # looks in a row where there is no time to wait
_PATIENCE = 5.0  # seconds for SIGKILL to do its work: a process may hang in the kernel
_QUIET = 2  # looks in a row that must find nothing; twice that after a find: it may start itself anew all the time


@dataclass(frozen=True)
class Leftover:
    """A running process that bears a mark of ours. `command` is for people: one line, at most 300 characters."""

    pid: int
    mark: str
    command: str


async def end(target: Process | Handle, grace: float = 2.0) -> int:
    """End a program and all it started: SIGTERM to its group, up to `grace` seconds, then SIGKILL for everything.

    What belongs to it is told by its cgroup, its group (guarded by start time and boot), its mark, and by descent; its
    shim is ended last. Returns how many processes could not be ended: 0. `peak` and `oom` are known afterwards too.
    Doing it twice, or to a dead one, is fine. Cancelled, it kills at once.
    """
    process, handle = (target, target.handle) if isinstance(target, Process) else (None, target)
    hunt = hunter(handle.pid) if handle.reaper and alive(handle) else set[int]
    strike = partial(_strike, handle, process)
    try:
        if grace > 0 and _ask(handle, process):
            await _gone(handle, process, grace)
        await _until_quiet(hunt)
        # Nothing forks away from cgroup.kill, so one quiet look is proof enough where there is one.
        _, left = await _until_quiet(strike, 1 if handle.cgroup else _QUIET)
        if process:
            await process.gone(0.5 if left else _PATIENCE)
    except asyncio.CancelledError:
        next((None for _ in range(_AT_ONCE) if not hunt()), None)
        strike()
        raise
    if process:
        process.release()
    peak(handle)  # its last look, while the cgroups are there
    for folder in handle.cgroups:
        await cgroup.remove(folder)
    if not left:
        tree.forget(handle)
    return left


def leftovers(mark_prefix: str) -> list[Leftover]:
    """The running processes whose mark starts so, what is below those, and what is in their cgroups; never ourselves.

    One look; those that may not be read are left out.
    """
    found = {pid: mark for pid, mark in table.marks().items() if mark.startswith(mark_prefix)}
    rows = table.rows()
    parents = {row.pid: row.parent for row in rows}
    for pid in sorted(tree.descendants(rows, found)):
        above = parents[pid]
        while above not in found:
            above = parents[above]
        found.setdefault(pid, found[above])
    for folder in cgroup.belonging(mark_prefix):
        found = {**dict.fromkeys(cgroup.members(folder), mark_prefix), **found}
    return _listed(found)


def left_behind(handle: Handle) -> list[Leftover]:
    """What runs of this program's tree now, without our own shim: after the program ended by itself, what it left."""
    rows = tree.now(handle)
    own = handle.pid if shim.is_shim(table.arguments_of(handle.pid)) else 0
    return _listed({row.pid: handle.mark for row in rows if row.pid != own and not (row.parent == own and _waits(row))})


async def sweep(mark_prefix: str, handles: Iterable[Handle] = ()) -> int:
    """End every process whose mark starts so, all below it, everything in the cgroups of such marks, and `handles`.

    Returns how many were ended. A prefix is taken literally: end it with your separator, or `run-1` takes `run-10`
    along. Each way of looking has its own limited time: the whole takes at most about 15 seconds.
    """
    await asyncio.gather(*(end(handle, 0) for handle in handles))
    folders = cgroup.belonging(mark_prefix)
    staying = {pid for pid in _marked(mark_prefix) if shim.stays(table.arguments_of(pid))}
    hunts = [hunter(pid) for pid in staying]

    def strike(spare: set[int]) -> set[int]:
        inside = set[int]().union(*map(cgroup.kill, folders), *(hunt() for hunt in hunts if spare))
        return inside | _kill_below(lambda mark: mark.startswith(mark_prefix), spare)

    ended = (await _until_quiet(partial(strike, staying)))[0] if staying else set[int]()
    more, left = await _until_quiet(partial(strike, set()))
    for folder in folders:
        await cgroup.remove(folder)
    return len(ended | more) - left


def _marked(mark_prefix: str) -> set[int]:
    return {pid for pid, mark in table.marks().items() if mark.startswith(mark_prefix)}


def _listed(found: dict[int, str]) -> list[Leftover]:
    words = {pid: table.arguments_of(pid) for pid in found}
    return [
        Leftover(pid, found[pid], " ".join(" ".join(shim.runs(words[pid])).split())[:300])
        for pid in sorted(found)
        if not shim.is_nap(words[pid])
    ]


def _waits(row: table.Row) -> bool:
    """Whether a child of a shim is how it waits, or about to become that."""
    words = table.arguments_of(row.pid)
    return shim.is_nap(words) or shim.is_shim(words)


def _ask(handle: Handle, process: Process | None) -> bool:
    """SIGTERM to the group, when the main program still runs to heed it."""
    runs = process.returncode is None if process else alive(handle)
    if runs and tree.owns_group(handle, process):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(handle.pid, signal.SIGTERM)
            return True
    return False


async def _gone(handle: Handle, process: Process | None, grace: float) -> None:
    if process:
        await process.wait(grace)
        return
    for _ in range(int(grace / 0.02)):
        if not alive(handle):
            return
        await asyncio.sleep(0.02)


async def _until_quiet(strike: Callable[[], set[int]], looks: int = _QUIET) -> tuple[set[int], int]:
    """Strike until nothing is found any more: the pids that were, and how many are left when patience runs out."""
    seen, found, quiet = set[int](), set[int](), 0
    until = time.monotonic() + _PATIENCE
    while quiet < (2 * looks if seen else looks) and time.monotonic() < until:
        found = strike()
        seen |= found
        quiet = 0 if found else quiet + 1
        await asyncio.sleep(0.002)
    return seen, len(found)


def _strike(handle: Handle, process: Process | None) -> set[int]:
    """Kill what can be seen of it now; the pids that were still there."""
    found = cgroup.kill(handle.cgroup) if handle.cgroup else _kill_rows(tree.now(handle))
    return found | _kill_group(handle, process) | _kill_marked(lambda mark: mark == handle.mark)


def _kill_group(handle: Handle, process: Process | None) -> set[int]:
    if not tree.owns_group(handle, process):
        return set()
    try:
        os.killpg(handle.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nobody there; macOS says the second for zombies
        return set()
    return {row.pid for row in table.rows() if row.group == handle.pid and not row.zombie}


def _kill_marked(ours: Callable[[str], bool], spare: Collection[int] = ()) -> set[int]:
    found = {pid for pid, mark in table.marks().items() if pid not in spare and ours(mark)}
    return {pid for pid in found if table.kill_if(pid, lambda pid: ours(table.mark_of(pid)))}


def _kill_below(ours: Callable[[str], bool], spare: Collection[int]) -> set[int]:
    """Kill what bears such a mark, after a look at what is below it and bears none."""
    rows = {row.pid: row for row in table.rows()}
    marked = {pid for pid, mark in table.marks().items() if ours(mark)}
    below = tree.descendants(rows.values(), marked)
    return _kill_marked(ours, spare) | _kill_rows(rows[pid] for pid in below)


def _kill_rows(rows: Iterable[table.Row]) -> set[int]:
    """Kill each, unless its pid was given to another since we looked; those that were still there."""
    return {row.pid for row in rows if table.kill_if(row.pid, partial(_same, row))}


def _same(row: table.Row, pid: int) -> bool:
    seen = table.row(pid)
    return seen is not None and seen.started == row.started and not seen.zombie
