"""Vitals: whether a program's tree of processes works, as far as the system shows it, and cheaply for 35 of them.

One look at all processes is shared by all who ask within a second. Where there is no /proc (macOS), bytes, sockets and
stopped processes cannot be seen: there a zombie is found only where the agent itself is one.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nightcrew.proc import cgroup, shim, table, traffic
from nightcrew.proc.child import Handle

FRESH = 0.9
"""Seconds for which a look at all processes serves everybody."""
IDLE_CPU, LEAST_CPU = 0.03, 0.1
"""What an idle CLI may tick: this share of a core, and this many CPU seconds in one burst (its garbage collector)."""
IDLE_IO, LEAST_IO = 512.0, 16384.0
"""The same in bytes: a stream of pings is no more than that."""
EARLY = 5.0
"""Seconds after the start within which a wrapper starts its agent; what begins later is a tool of the agent."""
NAMED = 5


@dataclass(frozen=True)
class Seen:
    """What one look showed. `cpu` and `io`: it used more than idle ticking since the look before."""

    cpu: bool = False
    io: bool = False
    processes: int = 0  # running ones
    programs: tuple[str, ...] = ()  # those below the agent, the busiest first
    dead: str = ""  # the agent's program, when it is a zombie and nothing but what should wait for it lives on
    stopped: bool = False  # none of it may run (SIGSTOP)
    gone: bool = False  # the main program is no more


class Bucket:
    """Tells work from idle ticking: what comes in leaks out at the rate of idling; when enough is in it, it worked."""

    def __init__(self, leak: float, enough: float) -> None:
        self._leak, self._enough = leak, enough
        self._level = 0.0

    def add(self, amount: float, seconds: float) -> bool:
        """Whether that is work: `amount` more, over the last `seconds`."""
        self._level = max(self._level + amount - self._leak * seconds, 0.0)
        if worked := self._level >= self._enough:
            self._level = 0.0
        return worked


@dataclass(frozen=True)
class Look:
    """All processes at one moment, by what ties them together."""

    at: float = 0.0
    rows: Mapping[int, table.Row] = field(default_factory=dict)
    marks: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)  # only where there is no /proc
    below: Mapping[int, list[int]] = field(default_factory=dict)
    groups: Mapping[int, list[int]] = field(default_factory=dict)
    bearing: Mapping[str, list[int]] = field(default_factory=dict)
    traffic: Mapping[int, int] = field(default_factory=dict)  # bytes by connection

    def tree(self, handle: Handle) -> set[int]:
        """Everything of this program: its group, its session, what bears its mark, and their children; also zombies."""
        found, new = set[int](), [handle.pid, *self.groups.get(handle.pid, ()), *self.bearing.get(handle.mark, ())]
        while new:
            pid = new.pop()
            if pid in self.rows and pid not in found:
                found.add(pid)
                new += self.below.get(pid, ())
        return found

    def above(self, pid: int) -> Iterator[int]:
        """Its parent, that one's parent, and so on."""
        seen = {pid}
        while (row := self.rows.get(pid)) and row.parent not in seen:
            pid = row.parent
            seen.add(pid)
            yield pid


_lock = threading.Lock()
_last = Look()
_known: dict[tuple[int, str], str] = {}  # the mark of each process by pid and start: an environment never changes


def look() -> Look:
    """All processes as they were less than a second ago. Safe to call from any thread."""
    global _last  # noqa: PLW0603
    with _lock:
        if time.monotonic() - _last.at > FRESH:
            _last = _taken() or _last
        return _last


def _taken() -> Look | None:
    """A look now; None when the system said nothing, as `ps` may on a machine that is too busy."""
    at = time.monotonic()  # what began later may not be in it
    if table.has_proc():
        rows, names = {row.pid: row for row in table.rows()}, dict[int, str]()
        marks = _marks(rows.values())
    else:
        listed = table.ps_rows(table._ps("ax"))
        rows = {row.pid: row for row, _ in listed}
        names = {row.pid: os.path.basename(command.split(" ", 1)[0]) for row, command in listed}  # noqa: PTH119
        marks = {row.pid: table.mark_in(command.replace(" ", "\0").encode()) for row, command in listed}
    if os.getpid() not in rows:
        return None
    below, groups, bearing = defaultdict[int, list[int]](list), defaultdict[int, list[int]](list), _by_mark(marks)
    for row in rows.values():
        below[row.parent].append(row.pid)
        for number in {row.group, row.session}:
            groups[number].append(row.pid)
    return Look(at, rows, marks, names, below, groups, bearing, traffic.connections())


def _marks(rows: Iterable[table.Row]) -> dict[int, str]:
    """The mark of each; an environment is read once for each process."""
    found = {}
    for row in rows:
        key = (row.pid, row.started)
        if key not in _known and not row.zombie:
            _known[key] = table.mark_of(row.pid)
        found[row.pid] = _known.get(key, "")
    for key in _known.keys() - {(row.pid, row.started) for row in rows}:
        del _known[key]
    return found


def _by_mark(marks: Mapping[int, str]) -> dict[str, list[int]]:
    found = defaultdict[str, list[int]](list)
    for pid, mark in marks.items():
        if mark and pid != os.getpid():
            found[mark].append(pid)
    return found


class Vitals:
    """The tree of one program, looked at again and again. One thread at a time."""

    def __init__(self, handle: Handle) -> None:
        self._handle, self._born, self._missed, self._at = handle, time.monotonic(), 0.0, 0.0
        self._cpu, self._io = Bucket(IDLE_CPU, LEAST_CPU), Bucket(IDLE_IO, LEAST_IO)
        self._seconds, self._bytes = dict[int, float](), dict[int, float]()
        self._busy, self._talkers = dict[int, float](), set[int]()
        self._looked, self._corpses, self._still = 0.0, set[int](), set[int]()

    def forget(self) -> None:
        """The next look only says what was used up to then: it has shown otherwise meanwhile that it is alive."""
        self._at = 0.0

    def look(self, now: float) -> Seen:
        """Look at it; `now` is in seconds on any clock that only goes forward. Takes some milliseconds."""
        taken = look()
        tree = taken.tree(self._handle) | (_members(taken, self._handle) if self._handle.cgroup else set())
        runs = {pid for pid in tree if not taken.rows[pid].zombie or _threads(pid) > 1}
        worked, moved = self._used(taken, runs, now)
        below, idle = runs - {self._handle.pid}, not (worked or moved)
        return Seen(
            worked, moved, len(runs), self._programs(taken, below), self._dead(taken, tree, runs, idle=idle),
            stopped=bool(below) and all(_state(pid) in "Tt" for pid in below),
            gone=self._is_gone(taken),
        )  # fmt: skip

    def _is_gone(self, taken: Look) -> bool:
        """Whether it was not there in two looks."""
        if self._handle.pid in taken.rows or taken.at <= self._born:
            self._missed = 0.0
            return False
        self._missed = self._missed or taken.at
        return taken.at > self._missed

    def _used(self, taken: Look, runs: set[int], now: float) -> tuple[bool, bool]:
        """Whether it computed, and whether it read or wrote, since the look before."""
        known, elapsed, self._at = bool(self._at), now - self._at, now
        used, moved = {pid: taken.rows[pid].cpu_seconds for pid in runs}, self._moved(taken, runs)
        if self._handle.cgroup and (whole := cgroup.cpu_seconds(self._handle.cgroup)) is not None:
            used[0] = whole  # no process has this number
        more, bytes_more = _more(self._seconds, used), _more(self._bytes, moved)
        self._seconds, self._bytes = used, moved
        if not known:
            return False, False
        total = more.pop(0) if 0 in used else sum(more.values())
        self._busy = {pid: self._busy.get(pid, 0.0) / 2 + seconds for pid, seconds in more.items()}
        return self._cpu.add(total, elapsed), self._io.add(sum(bytes_more.values()), elapsed)

    def _moved(self, taken: Look, runs: set[int]) -> dict[int, float]:
        """Bytes read and written, by process. What talks over the network is judged by what goes over it, by connection
        (negative keys): a CLI that waits for its model keeps writing to logs and databases of its own."""
        found = dict[int, float]()
        for pid in runs:
            if open_ones := (traffic.sockets_of(pid) or set()) & taken.traffic.keys():
                self._talkers.add(pid)
                found.update({-inode: taken.traffic[inode] for inode in open_ones})
            if pid not in self._talkers:
                found[pid] = table.io_bytes(pid)
        self._talkers &= runs
        return found

    def _programs(self, taken: Look, below: set[int]) -> tuple[str, ...]:
        """The busiest first, and before those that only wait for their children."""
        tools = below - {self._agent(taken)}
        parents = {taken.rows[pid].parent for pid in tools}
        order = sorted(tools, key=lambda pid: (pid in parents, -self._busy.get(pid, 0.0), pid))
        return tuple(dict.fromkeys(name for pid in order if (name := _name(taken, pid))))[:NAMED]

    def _dead(self, taken: Look, tree: set[int], runs: set[int], *, idle: bool) -> str:
        """The agent's program, when it ended and what should have waited for it did not, in two looks.

        In one look, any child is a zombie for the moment until it is waited for, and a busy parent lets it wait.
        """
        if taken.at > self._looked:
            agent = self._agent(taken) if self._has_shim() else 0
            found = {p for p in tree - runs if p == agent or (idle and self._left_alone(taken, taken.rows[p], runs))}
            self._looked, self._corpses, self._still = taken.at, found, found & self._corpses
        return _name(taken, min(self._still)) or "the agent" if self._still else ""

    def _agent(self, taken: Look) -> int:
        """The eldest child of the shim; later ones are orphans that it adopted."""
        children = [taken.rows[pid] for pid in taken.below.get(self._handle.pid, ())]
        return min(children, key=lambda row: (len(row.started), row.started, row.pid)).pid if children else 0

    def _has_shim(self) -> bool:
        return shim.is_shim(table.arguments_of(self._handle.pid))

    def _left_alone(self, taken: Look, dead: table.Row, runs: set[int]) -> bool:
        """Whether it was the agent, and only wrappers are left: a CLI that waits for its model talks to somebody.

        Its own tools are zombies too when it does not wait for them; but those begin later, and are small beside it.
        """
        above = set(taken.above(dead.pid))
        if not table.has_proc() or not runs <= above or self._handle.pid not in above:
            return False
        early = int(dead.started) - int(self._handle.started or 0) < EARLY * os.sysconf("SC_CLK_TCK")
        large = dead.cpu_seconds > sum(taken.rows[pid].cpu_seconds for pid in runs)
        return (early or large) and not any(_talks(taken, pid) for pid in runs)


def _more(before: Mapping[int, float], now: Mapping[int, float]) -> dict[int, float]:
    return {pid: max(value - before.get(pid, 0.0), 0.0) for pid, value in now.items()}


def _members(taken: Look, handle: Handle) -> set[int]:
    return {pid for pid in cgroup.members(handle.cgroup) if pid in taken.rows}


def _fields(pid: int) -> list[bytes]:
    """What /proc/PID/stat says behind the name, which may hold anything."""
    data = table.read(f"/proc/{pid}/stat")
    return data[data.rfind(b")") + 2 :].split()


def _state(pid: int) -> str:
    return fields[0].decode() if (fields := _fields(pid)) else "?"


def _threads(pid: int) -> int:
    """A program whose main thread ended looks like a zombie while its others work."""
    return int(fields[17]) if len(fields := _fields(pid)) > 17 else 1


def _name(taken: Look, pid: int) -> str:
    return taken.names.get(pid) or table.read(f"/proc/{pid}/comm").decode(errors="replace").strip()


def _talks(taken: Look, pid: int) -> bool:
    """Whether it has a connection over the network, or may not be asked."""
    held = traffic.sockets_of(pid)
    if held is None or held & taken.traffic.keys():
        return True
    listed = (table.read(f"/proc/{pid}/net/{kind}").splitlines()[1:] for kind in ("tcp", "tcp6", "udp", "udp6"))
    lines = (line.split() for kind in listed for line in kind) if held else iter(())  # a network namespace of its own
    return any(len(line) > 9 and line[3] in (b"01", b"02") and int(line[9]) in held for line in lines)


def traces(root: Path, most: int) -> Iterator[int]:
    """When each file of a workspace was last changed, renamed or given other rights: nanoseconds, `most` of them.

    Folders near the root come first, links are not followed, and no git is run: it would execute what an agent planted.
    Of `.git` only what a commit writes is looked at.
    """
    left, folders = most, [str(root)]
    for name in (".git/HEAD", ".git/logs/HEAD"):
        with suppress(OSError):
            yield (root / name).lstat().st_ctime_ns
    for folder in folders:  # grows while we go
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if left <= 0:
                    return
                if entry.name == ".git":
                    continue
                left -= 1
                with suppress(OSError):
                    yield entry.stat(follow_symlinks=False).st_ctime_ns
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)


def tail(path: Path, size: int = 4096) -> str:
    """The end of a growing file; "" when there is none."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - size, 0))
        return file.read(size).decode(errors="replace")
    return ""


def stamp(path: str | Path) -> tuple[int, int]:
    """Size and time of a file, to tell whether it changed; zeros when there is none."""
    with suppress(OSError, ValueError):
        seen = os.stat(path)  # noqa: PTH116
        return seen.st_size, seen.st_mtime_ns
    return 0, 0
