"""Cleaning files: agents' logs, compressed and then deleted, and the workpads of runs that are over."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from nightcrew.cleaning.house import Facts, Go, House, Thing
from nightcrew.core import keeping
from nightcrew.core.keeping import Logs
from nightcrew.crew import Crew
from nightcrew.git import trees

OUTPUT = ("stdout", "stderr")
"""What an agent printed: worth compressing. Gates leave `.log` files."""


async def look_at_files(house: House, facts: Facts) -> list[Thing]:
    """Logs to compress or to delete, and workpads to delete."""
    return await asyncio.to_thread(_look, house, facts)


def _look(house: House, facts: Facts) -> list[Thing]:
    logs = list(_logs(house.home / "attempts", facts))
    goes = keeping.logs_to_delete(logs, house.keep, house.epoch)
    packed = keeping.logs_to_compress((one for one in logs if one.folder not in goes), house.keep, house.epoch)
    return [*(_deleted(one, goes[one.folder], facts) for one in logs if one.folder in goes),
            *(_compressed(one, facts, house.epoch) for one in packed), *_workpads(house, facts)]  # fmt: skip


def size_of(folder: Path) -> int:
    """Bytes of all files below it; links are not followed."""
    return sum(stat.st_size for _, stat in files(folder))


def files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every plain file below a folder."""
    for here, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                path = Path(here, name)
                if S_ISREG((stat := path.lstat()).st_mode):
                    yield path, stat


def _logs(root: Path, facts: Facts) -> Iterator[Logs]:
    """The folder of every attempt that is not under way."""
    for ticket in _folders(root):
        for folder in _folders(ticket):
            name = ticket.name
            if (run := facts.runs.get(name)) and run.id in facts.at_work and folder.name == str(run.attempts):
                continue
            found = list(files(folder))
            last = max((stat.st_mtime for _, stat in found), default=folder.lstat().st_mtime)
            plain = sum(stat.st_size for path, stat in found if _compressible(path))
            yield Logs(str(folder), sum(stat.st_size for _, stat in found), last, plain, facts.over(name))


def _folders(root: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in root.iterdir() if S_ISDIR(path.lstat().st_mode))
    return []


def _compressible(path: Path) -> bool:
    return path.name in OUTPUT or path.suffix == ".log"


def _deleted(logs: Logs, why: str, facts: Facts) -> Thing:
    folder = Path(logs.folder)

    async def go(_: Crew) -> None:
        await trees.delete([folder])
        with suppress(OSError):  # others are in it
            folder.parent.rmdir()

    return Thing("logs", logs.folder, why, logs.bytes, _run_id(facts, folder.parent.name), go)


def _compressed(logs: Logs, facts: Facts, now: float) -> Thing:
    folder = Path(logs.folder)

    async def go(_: Crew) -> None:
        for path, stat in list(files(folder)):
            if stat.st_size and _compressible(path):
                await asyncio.to_thread(compress, path)

    why = f"{keeping.age(logs.at, now)}, will be compressed"
    return Thing("compress", logs.folder, why, logs.plain, _run_id(facts, folder.parent.name), go)


def compress(path: Path) -> None:
    """Put `<path>.gz` in the place of a file, with its time; a kill leaves one of the two whole, or both."""
    fresh = path.with_name(f".{path.name}.gz.new")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as plain, fresh.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw) as packed:
        shutil.copyfileobj(plain, packed, 1 << 20)
        stat = os.fstat(descriptor)
    os.utime(fresh, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    fresh.replace(path.with_name(f"{path.name}.gz"))
    path.unlink()


def _workpads(house: House, facts: Facts) -> Iterator[Thing]:
    for pad in sorted((house.home / "workpads").glob("*.md")):
        stat, run = pad.lstat(), facts.runs.get(pad.stem)
        last = max(stat.st_mtime, facts.ended_at(run) if run else 0.0)
        if facts.over(pad.stem) and keeping.past(last, house.keep.logs_days, house.epoch):
            why = keeping.age(last, house.epoch)
            yield Thing("workpad", str(pad), why, stat.st_size, _run_id(facts, pad.stem), _unlink(pad))


def _unlink(path: Path) -> Go:
    async def go(_: Crew) -> None:
        path.unlink(missing_ok=True)

    return go


def _run_id(facts: Facts, name: str) -> str:
    return facts.runs[name].id if name in facts.runs else ""
