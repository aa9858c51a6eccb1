"""Where cgroups of ours may be made: in the v2 hierarchy, and in v1 hierarchies for what v2 does not control here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nightcrew.proc import table

HOME = "nightcrew"
CONTROLLERS = ("memory", "pids", "cpu")
_V1_LIMIT = {"memory": "memory.limit_in_bytes", "pids": "pids.max", "cpu": ""}


@dataclass(frozen=True)
class Home:
    """A folder our cgroups are made in, and what can be limited there ("" = none may be made)."""

    folder: str = ""
    controllers: frozenset[str] = frozenset()


def mounts() -> list[str]:
    """Where the hierarchies are mounted that we use, v2 first."""
    return list(dict.fromkeys([*_mounts("cgroup2"), *(m for name in CONTROLLERS for m in _mounts("cgroup", name))]))


@cache
def unified() -> Home:
    """Where our v2 cgroups go: the nearest place at or above our own where most can be limited.

    Not simply below our own: a v2 cgroup that holds processes, such as us, can limit nothing below it.
    """
    homes = [_home(base) for mount in _mounts("cgroup2") for base in _bases(mount, _own(""), "memory.max")]
    best = max(homes, key=lambda home: (bool(home.folder), len(home.controllers)), default=Home())
    for other in homes:
        if other.folder not in ("", best.folder):
            with suppress(OSError):
                Path(other.folder).rmdir()
    return best


@cache
def beside(controller: str) -> str:
    """Where our v1 cgroups of this controller go, "" where there is no such hierarchy or it may not be written.

    As far up as no limit on ourselves is lost, so that it is in the way of nobody who ends our own cgroup.
    """
    bases = [
        base
        for mount in _mounts("cgroup", controller)
        for base in _bases(mount, _own(controller), _V1_LIMIT[controller])
    ]
    return next((f"{base}/{HOME}" for base in reversed(bases) if _may_write(Path(base))), "")


def _home(base: str) -> Home:
    if not _may_write(Path(base)):
        return Home()
    _enable(base)
    return Home(f"{base}/{HOME}", _enable(f"{base}/{HOME}"))


def _enable(folder: str) -> frozenset[str]:
    """Let the cgroups in `folder` be limited, as far as that is allowed; what can be limited in them."""
    offered = table.read(f"{folder}/cgroup.controllers").decode().split()
    for name in CONTROLLERS:
        if name in offered:
            write(f"{folder}/cgroup.subtree_control", f"+{name}")
    return frozenset(table.read(f"{folder}/cgroup.subtree_control").decode().split()) & frozenset(CONTROLLERS)


def _bases(mount: str, own: str, limit: str) -> Iterator[str]:
    """Our own cgroup and those above it, up to the first whose limit we would leave."""
    path = own.rstrip("/")
    while path:
        yield mount + path
        if limit and _limited(f"{mount}{path}/{limit}"):
            return
        path = path.rpartition("/")[0]
    yield mount


def _limited(file: str) -> bool:
    text = table.read(file).strip()
    return text.isdigit() and int(text) < 1 << 60


def _may_write(base: Path) -> bool:
    """A process moves only where the common parent may be written too, so that is asked, and then tried."""
    if not os.access(base / "cgroup.procs", os.W_OK):
        return False
    with suppress(OSError):
        (base / HOME).mkdir(exist_ok=True)
        return os.access(base / HOME / "cgroup.procs", os.W_OK)
    return False


def write(file: str, text: str) -> bool:
    """Write a control file; whether that was taken."""
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.write(fd, text.encode()) > 0
    except OSError:
        return False
    finally:
        os.close(fd)


def _own(controller: str) -> str:
    """Our own cgroup's path in the hierarchy of this v1 controller, or in v2 for ""."""
    for line in table.read("/proc/self/cgroup").decode(errors="replace").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return path
    return ""


def _mounts(kind: str, controller: str = "") -> list[str]:
    lines = (line.split() for line in table.read("/proc/self/mounts").decode(errors="replace").splitlines())
    return [f[1] for f in lines if len(f) > 3 and f[2] == kind and (not controller or controller in f[3].split(","))]
