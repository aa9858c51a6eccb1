"""What belongs to a program: its cgroups, its group and session, what bears its mark, and all below those."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nightcrew.proc import cgroup, table, vitals
from nightcrew.proc.child import Handle, Process

_REMEMBERED = 1000


@dataclass(frozen=True)
class Signs:
    """Signs of life of a whole tree; they grow while it works. Zombies are not counted, the shim of an `rc` file is."""

    cpu_seconds: float
    processes: int
    io_bytes: int


def alive(handle: Handle) -> bool:
    """Whether the main program still runs: the same process, not another one with its pid, and no zombie.

    A shim that stays for orphans is alive too.
    """
    seen = table.row(handle.pid)
    return seen is not None and not seen.zombie and is_it(seen, handle)


def signs(handle: Handle) -> Signs:
    """How alive the tree is: CPU seconds used, running processes, bytes read and written. All 0 when it is gone.

    Without a cgroup it rests on a look at all processes that is at most a second old, shared by all who ask.
    """
    inside = cgroup.members(handle.cgroup) if handle.cgroup else set()
    if inside and (cpu := cgroup.cpu_seconds(handle.cgroup)) is not None:
        return Signs(cpu, len(inside), sum(map(table.io_bytes, inside)))
    found = lately(handle)
    return Signs(sum(row.cpu_seconds for row in found), len(found), sum(table.io_bytes(row.pid) for row in found))


def is_it(seen: table.Row, handle: Handle) -> bool:
    """Whether this is the process of the handle."""
    return bool(handle.started) and seen.started == handle.started and handle.boot_id == table.boot_id()


def owns_group(handle: Handle, process: Process | None = None) -> bool:
    """Whether the group with this number is still ours.

    It is while its leader is; and when there is no such pid any more, for a pid is not given out again while a group
    bears its number. (A child of ours is ours until it is reaped, even where /proc is closed.)
    """
    if handle.pid <= 1 or handle.pid == os.getpgrp():
        return False
    if process and process.shim_runs:
        return True
    seen = table.row(handle.pid)
    return is_it(seen, handle) if seen else bool(handle.started) and handle.boot_id == table.boot_id()


def now(handle: Handle) -> list[table.Row]:
    """All of its processes that run at this moment, its shim included."""
    return _found(handle, {row.pid: row for row in table.rows()}, table.marks())


def lately(handle: Handle) -> list[table.Row]:
    """The same, from a look that is about a second old and serves 35 agents, unless this one is younger than it."""
    taken = vitals.look()
    if handle.pid not in taken.rows and alive(handle):
        return now(handle)
    return _found(handle, taken.rows, taken.marks)


def forget(handle: Handle) -> None:
    """It is over: what belonged to it need not be remembered."""
    _known.pop(handle, None)


def descendants(rows: Iterable[table.Row], roots: Iterable[int]) -> set[int]:
    """All that run below `roots`, without them and without ourselves; zombies are looked through, not counted."""
    below: dict[int, list[table.Row]] = {}
    for row in rows:
        below.setdefault(row.parent, []).append(row)
    roots = set(roots)
    seen, ahead, found = {os.getpid(), *roots}, [row for root in roots for row in below.get(root, ())], set[int]()
    while ahead:
        row = ahead.pop()
        if row.pid in seen:
            continue
        seen.add(row.pid)
        ahead += below.get(row.pid, ())
        if not row.zombie:
            found.add(row.pid)
    return found


_known: OrderedDict[Handle, dict[int, str]] = OrderedDict()  # pid -> start of what was seen in a tree


def _found(handle: Handle, rows: Mapping[int, table.Row], marks: Mapping[int, str]) -> list[table.Row]:
    """Also what was seen in the tree before: whoever kills our shim and lets its daemons go does not hide them."""
    if not handle.started:
        return []
    known = _known.get(handle, {})
    ours = {pid for pid, start in known.items() if pid in rows and rows[pid].started == start}
    if owns_group(handle):
        ours |= {pid for pid, row in rows.items() if handle.pid in (row.group, row.session)}
    ours |= {pid for pid, mark in marks.items() if mark and mark == handle.mark}
    ours |= {pid for each in handle.cgroups[:1] for pid in cgroup.members(each)}
    ours |= descendants(rows.values(), ours)
    found = [rows[pid] for pid in ours - {os.getpid()} if pid in rows and not rows[pid].zombie]
    _known[handle] = {row.pid: row.started for row in found}
    while len(_known) > _REMEMBERED:
        _known.popitem(last=False)
    return found
