"""End what is below a shim that adopts orphans: where no cgroup may be made (Linux), nothing gets lost all the same.

A daemon that forked twice and emptied its environment bears no mark and has left its group and session; but it is
below the shim. So the shim is ended last: without it the others could no longer be told from anybody's.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from nightcrew.proc import table
from nightcrew.proc.tree import descendants

_ROUNDS = 50


def hunter(root: int) -> Callable[[], set[int]]:
    """Something to call until it finds nothing: it kills all below the shim `root`, but not the shim.

    Stopped, the group of the shim forks no more; a group that is not the shim's is killed whole, which no fork escapes;
    whoever is left is the shim's own child once its parent is dead, and those are looked at faster than one can fork.
    """
    buried: set[int] = set()  # a stopped shim buries nobody, so these pids are not given out again

    def hunt() -> set[int]:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(root, signal.SIGSTOP)
        found: set[int] = set()
        for _ in range(_ROUNDS):
            new = [pid for pid in children(root) if pid not in buried]
            for pid in reversed(new):
                (found if _struck(pid, root) else buried).add(pid)
            if not new:
                break
        # Below a zombie whose other threads live on, and where the system lists no children.
        return found | {pid for pid in descendants(table.rows(), {root}) if _struck(pid, root)}

    return hunt


def children(pid: int) -> list[int]:
    """Its children in the order they came, zombies included; [] where the system does not list them."""
    return [int(word) for word in table.read(f"/proc/{pid}/task/{pid}/children").split()]


def _struck(pid: int, root: int) -> bool:
    """Kill one that is below `root`, with its whole group where that is not the shim's. False when it is dead."""
    row = table.row(pid)
    if row is None:
        return False
    if row.group in (0, 1, root, os.getpgrp()) or not _killed_group(pid, row.group):
        table.kill_if(pid, lambda pid: (seen := table.row(pid)) is not None and seen.started == row.started)
    return not row.zombie


def _killed_group(pid: int, group: int) -> bool:
    seen = table.row(pid)  # again, right before: a group whose member it still is has not been given to another
    if seen is None or seen.group != group:
        return False
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
        return True
    return False
