"""End a program and everything it started, and find what an earlier nightcrew left behind (I5)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from nightcrew.proc import cgroup, table
from nightcrew.proc.child import SHIM, Handle, Process

_PATIENCE = 5.0  # seconds for SIGKILL to do its work: a process may hang in the kernel
_QUIET = 2  # looks in a row that must find nothing; twice that after a find: it may start itself anew all the time


@dataclass(frozen=True)
class Leftover:
    """A running process that bears a mark of ours. `command` is for people: one line, at most 300 characters."""

    pid: int
    mark: str
    command: str


@dataclass(frozen=True)
class Signs:
    """Signs of life of a whole tree; they grow while it works. Zombies are not counted, the shim of an `rc` file is."""

    cpu_seconds: float
    processes: int
    io_bytes: int


def alive(handle: Handle) -> bool:
    """Whether the main program still runs: the same process, not another one with its pid, and no zombie."""
    seen = table.row(handle.pid)
    return seen is not None and not seen.zombie and _is(seen, handle)


async def end(target: Process | Handle, grace: float = 2.0) -> int:
    """End a program and all it started: SIGTERM to its group, up to `grace` seconds, then SIGKILL for everything.

    What belongs to it is told by its cgroup, its group (guarded by start time and boot) and its mark. Returns how many
    processes could not be ended: 0. Doing it twice, or to a dead one, is fine. Cancelled, it kills at once.
    """
    process, handle = (target, target.handle) if isinstance(target, Process) else (None, target)
    strike = partial(_strike, handle, process)
    try:
        if grace > 0 and _ask(handle, process):
            await _gone(handle, process, grace)
        # Nothing forks away from cgroup.kill, so one quiet look is proof enough where there is one.
        _, left = await _until_quiet(strike, 1 if handle.cgroup else _QUIET)
        if process:
            await process.wait(0.5 if left else _PATIENCE)
    except asyncio.CancelledError:
        strike()
        raise
    if process:
        process.release()
    await cgroup.remove(handle.cgroup)
    return left


def leftovers(mark_prefix: str) -> list[Leftover]:
    """The running processes whose mark starts so, ours excepted. One look; those that may not be read are left out."""
    found = {pid: mark for pid, mark in table.marks().items() if mark.startswith(mark_prefix)}
    return [Leftover(pid, mark, _command(pid)) for pid, mark in sorted(found.items())]


async def sweep(mark_prefix: str) -> int:
    """End every process whose mark starts so and everything in the cgroups of such marks; how many were ended.

    A prefix is taken literally: end it with your separator, or `run-1` takes `run-10` along.
    """
    folders = cgroup.belonging(mark_prefix)

    def strike() -> set[int]:
        return set().union(*map(cgroup.kill, folders), _kill_marked(lambda mark: mark.startswith(mark_prefix)))

    ended, left = await _until_quiet(strike)
    for folder in folders:
        await cgroup.remove(folder)
    return len(ended) - left


def signs(handle: Handle) -> Signs:
    """How alive the tree is: CPU seconds used, running processes, bytes read and written. All 0 when it is gone.

    Without a cgroup it rests on a look at all processes that is at most a second old, shared by all who ask.
    """
    inside = cgroup.members(handle.cgroup) if handle.cgroup else set()
    if inside and (cpu := cgroup.cpu_seconds(handle.cgroup)) is not None:
        return Signs(cpu, len(inside), sum(map(table.io_bytes, inside)))
    tree = _tree(handle)
    return Signs(sum(row.cpu_seconds for row in tree), len(tree), sum(table.io_bytes(row.pid) for row in tree))


def _command(pid: int) -> str:
    words = table.arguments_of(pid)
    shown = words[6:] if SHIM in words[:3] else words  # what the shim runs, not the shim
    return " ".join(" ".join(shown).split())[:300]


def _is(seen: table.Row, handle: Handle) -> bool:
    return bool(handle.started) and seen.started == handle.started and handle.boot_id == table.boot_id()


def _owns_group(handle: Handle, process: Process | None) -> bool:
    """Whether the group with this number is still ours.

    It is while its leader is; and when there is no such pid any more, for a pid is not given out again while a group
    bears its number. (A child of ours is ours until it is reaped, even where /proc is closed.)
    """
    if handle.pid <= 1 or handle.pid == os.getpgrp():
        return False
    if process and process.returncode is None:
        return True
    seen = table.row(handle.pid)
    return _is(seen, handle) if seen else bool(handle.started) and handle.boot_id == table.boot_id()


def _ask(handle: Handle, process: Process | None) -> bool:
    """SIGTERM to the group, when the main program still runs to heed it."""
    runs = process.returncode is None if process else alive(handle)
    if runs and _owns_group(handle, process):
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
    return cgroup.kill(handle.cgroup) | _kill_group(handle, process) | _kill_marked(lambda mark: mark == handle.mark)


def _kill_group(handle: Handle, process: Process | None) -> set[int]:
    if not _owns_group(handle, process):
        return set()
    try:
        os.killpg(handle.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nobody there; macOS says the second for zombies
        return set()
    return {row.pid for row in table.rows() if row.group == handle.pid and not row.zombie}


def _kill_marked(ours: Callable[[str], bool]) -> set[int]:
    found = {pid for pid, mark in table.marks().items() if ours(mark)}
    return {pid for pid in found if table.kill_if(pid, lambda pid: ours(table.mark_of(pid)))}


_look: tuple[float, dict[int, table.Row], dict[int, str]] = (0.0, {}, {})


def _tree(handle: Handle) -> list[table.Row]:
    """Everything of this program that runs: its group, its session, what bears its mark, and their children."""
    if not handle.started:
        return []
    rows, marks = _seen_lately(handle)
    ours = {
        pid for pid, row in rows.items() if handle.pid in (row.group, row.session) or marks.get(pid) == handle.mark
    }  # fmt: skip
    size = 0
    while size < len(ours):
        size = len(ours)
        ours |= {pid for pid, row in rows.items() if row.parent in ours}
    return [rows[pid] for pid in ours if not rows[pid].zombie]


def _seen_lately(handle: Handle) -> tuple[dict[int, table.Row], dict[int, str]]:
    """One look serves 35 agents for a second, unless this one is younger than the look."""
    global _look  # noqa: PLW0603
    if time.monotonic() - _look[0] > 1.0 or (handle.pid not in _look[1] and alive(handle)):
        _look = (time.monotonic(), {row.pid: row for row in table.rows()}, table.marks())
    return _look[1], _look[2]
