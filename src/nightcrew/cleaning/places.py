"""Cleaning workspaces: those nobody needs, rescued before they are removed (I2), and what kills left behind."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from nightcrew.cleaning.files import size_of
from nightcrew.cleaning.house import Facts, Go, House, Thing
from nightcrew.core.model import Run
from nightcrew.crew import Crew
from nightcrew.git import Hub, rescue_ref, trees
from nightcrew.node import clean
from nightcrew.stages import workspace
from nightcrew.store.keeping import in_use

GATE = "-gate"
"""What a gate's own tree is called behind its ticket's."""


async def look_at_places(house: House, facts: Facts) -> list[Thing]:
    """Workspaces, templates, trash and mounts that nobody needs, and folders that stay because they may hold work."""
    return await asyncio.to_thread(lambda: list(_look(house, facts)))


def _look(house: House, facts: Facts) -> Iterator[Thing]:
    root = house.workspaces.resolve()
    ours = root / workspace.OURS
    records = {file.stem: found for file in sorted((ours / "records").glob("*.json")) if (found := _read(file))}
    mounts = list(_mounts(root, records))
    yield from mounts
    owned = {Path(thing.what).name for thing in mounts}
    for run in dict.fromkeys(facts.runs.values()) if not house.directed else ():
        if run.workspace and facts.settled(run) and run.repo in house.hubs:
            owned.add(Path(run.workspace).name)
            yield Thing("workspace", run.workspace, f"{run.key} is {run.state}", size_of(Path(run.workspace)), run.id,
                        _finished(house, run))  # fmt: skip
    there = {path.name for path in root.iterdir() if path.name != workspace.OURS} if root.is_dir() else set()
    for key in sorted(there | records.keys()):
        if key not in owned and not _in_use(house, facts, key):
            yield _left(house, facts, root, key, records.get(key))
    yield from _forgotten(ours, records)


def _in_use(house: House, facts: Facts, key: str) -> bool:
    """By a run that is not finished; or a finished one's that the director is about to remove."""
    name = key.removesuffix(GATE)
    run = facts.runs.get(name)
    mine = run is not None and bool(run.workspace) and Path(run.workspace).name == name
    return facts.needed(name) or (house.directed and mine)


def _finished(house: House, run: Run) -> Go:
    async def go(crew: Crew) -> None:
        if (now := house.store.named(run.id)) and now.workspace == run.workspace and now.state is run.state:
            await clean(crew, now)

    return go


def _left(house: House, facts: Facts, root: Path, key: str, record: dict[str, Any] | None) -> Thing:
    """A workspace that belongs to no run any more."""
    path = root / key
    if record is None:
        return Thing("workspace", str(path), "nightcrew did not make it", size_of(path))
    hub = next((hub for hub in house.hubs.values() if str(hub.path) == record.get("hub")), None)
    if hub is None:
        return Thing("workspace", str(path), "its repository is not configured any more", size_of(path))
    name = key.removesuffix(GATE)
    run = facts.runs.get(name)
    why = f"{run.key} is {run.state}" if run else "it belongs to no run"
    return Thing("workspace", str(path), why, size_of(path), run.id if run else "", _orphan(house, hub, path, key))


def _orphan(house: House, hub: Hub, path: Path, key: str) -> Go:
    async def go(crew: Crew) -> None:
        ref, saved = rescue_ref(key, "left"), None
        async with crew.cleaning:
            if in_use(house.store, key.removesuffix(GATE)):
                return
            if key.endswith(GATE):  # no agent ever worked in it
                await workspace.discard(hub, house.workspaces, path)
            else:
                saved = await workspace.remove(hub, house.workspaces, path, ref)
        if saved:
            house.store.event("rescued", "", ref=ref, sha=saved)

    return go


def _forgotten(ours: Path, records: dict[str, dict[str, Any]]) -> Iterator[Thing]:
    """What lies beside the workspaces: trash of a removal that was killed, templates, work without a record."""
    needed = {record.get("template") for record in records.values()}
    for folder in _in(ours / "trash"):
        yield Thing("trash", str(folder), "a removal was cut short", size_of(folder), go=_deleted(folder))
    for folder in _in(ours / "templates"):
        if folder.name not in needed and _unused(folder):
            yield Thing(
                "template", str(folder), "no workspace needs it", size_of(folder), go=_untemplated(ours, folder)
            )
    for folder in _in(ours / "made"):
        if folder.name not in records:
            yield Thing("workspace", str(folder), "its record is lost; look at `upper` in it, then delete it yourself",
                        size_of(folder))  # fmt: skip
    for folder in _in(ours / "aside"):
        why = "it could not be read when it was replaced; look at it, then delete it yourself"
        yield Thing("workspace", str(folder), why, size_of(folder))


def _in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _unused(folder: Path) -> bool:
    return time.time() - folder.stat().st_mtime > workspace.UNUSED_FOR


def _deleted(folder: Path) -> Go:
    async def go(_: Crew) -> None:
        await trees.delete([folder])

    return go


def _untemplated(ours: Path, folder: Path) -> Go:
    async def go(_: Crew) -> None:
        # Nothing is awaited between the look and the rename, so no workspace can begin to need it in between.
        records = (_read(file) or {} for file in (ours / "records").glob("*.json"))
        if not folder.exists() or folder.name in {record.get("template") for record in records}:
            return
        trash = ours / "trash" / uuid4().hex
        trash.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(trash)
        await trees.delete([trash])

    return go


def _mounts(root: Path, records: dict[str, dict[str, Any]]) -> Iterator[Thing]:
    """Overlays of workspaces that no record knows. What was written there stays, in `made`."""
    if sys.platform != "linux":
        return
    for line in Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines():
        source, place, kind = line.split(" ", 3)[:3]
        path = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place))
        if (source, kind) == ("nightcrew", "overlay") and path.parent == root and path.name not in records:
            yield Thing("mount", str(path), "no record knows this workspace", go=_unmounted(path))


def _unmounted(path: Path) -> Go:
    async def go(_: Crew) -> None:
        await trees.unmount(path)
        with suppress(OSError):  # not empty: it stays
            path.rmdir()

    return go


def _read(file: Path) -> dict[str, Any] | None:
    """A workspace's record; None for what is none."""
    with suppress(OSError, ValueError):
        found = json.loads(file.read_text())
        return found if isinstance(found, dict) else None
    return None
