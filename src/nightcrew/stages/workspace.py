"""The private tree and branch of one ticket: made so that nothing is shared, removed so that nothing is lost (I2)."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from uuid import uuid4

from nightcrew import proc
from nightcrew.errors import GitError, HookFailed, NightcrewError, last_line
from nightcrew.git import Hub, git, rescue_ref, trees
from nightcrew.git.rescue import Rescue, rescue, rescue_rest, rescues, restore

__all__ = [
    "Proof", "Rescue", "Workspace", "choose", "discard", "ensure", "prove", "remove", "rescue", "rescues", "restore",
    "run_hook", "seed", "sweep",
]  # fmt: skip

OURS = ".nightcrew"  # our folder below the workspaces: records, overlay layers, templates, trash
SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
UNUSED_FOR = 3600.0  # seconds until a template nobody uses is deleted


@dataclass(frozen=True)
class Workspace:
    """Where an agent works: `path` has `branch` checked out, which began at `base_sha` (as it was then)."""

    path: Path
    branch: str
    base_sha: str
    kind: str  # overlay | reflink | copy | checkout | worktree


@dataclass(frozen=True)
class Proof:
    """Whether one kind of workspace works here, tried for real. `evidence` is what was seen."""

    kind: str
    works: bool
    evidence: str
    milliseconds: float


@dataclass(frozen=True)
class _Record:
    """What we know of a workspace. Written before anything is made, and with `ready` before an agent may enter."""

    hub: str
    kind: str
    branch: str
    base_sha: str
    start: str
    template: str
    ready: bool = False
    kept: bool = True  # a ref keeps its base: not needed for a gate's tree, which lives for minutes


@dataclass(frozen=True)
class _Place:
    """Where one workspace and what belongs to it lie."""

    root: Path
    key: str

    @property
    def tree(self) -> Path:
        return self.root / self.key

    @property
    def ours(self) -> Path:
        return self.root / OURS

    @property
    def home(self) -> Path:
        return self.ours / "made" / self.key

    @property
    def record(self) -> Path:
        return self.ours / "records" / f"{self.key}.json"

    def plan(self, record: _Record) -> trees.Plan:
        known = (record.kind, record.branch, record.base_sha, record.start)
        return trees.Plan(self.tree, self.home, self.ours / "templates", *known)


async def ensure(
    hub: Hub,
    root: Path,
    key_dir: str,
    branch: str,
    base_sha: str,
    *,
    kind: str,
    start: str = "",
    created: Callable[[Path], Awaitable[object]] | None = None,
    rescue_into: str = "",
    keep: bool = True,
) -> Workspace:
    """The workspace of one ticket at `root/key_dir`; the one that is there is kept, with the agent's work in it.

    A new one has `branch` at `start` (default `base_sha`); `created` is called once, before anything else may use it. A
    half-made one is made again. One that is broken, or was made for another branch or repository, is first rescued to
    `rescue_into`; what cannot be read is put aside, never deleted. Raises NightcrewError when `key_dir` leads out of
    `root`, CannotMake when `kind` does not work here, GitError.
    """
    place = _place(root, key_dir)
    async with hub.turn(f"workspace {place.tree}"):
        record = _read(place)
        if record and record.ready and (record.hub, record.branch) == (str(hub.path), branch):
            with suppress(GitError):
                return await _reopened(hub, place, record, base_sha)
        if record and record.ready:
            await _give_up(hub, place, record, rescue_into or rescue_ref(place.key, "broken"))
        elif record:
            await _unmade(hub, place, record)
        elif place.tree.exists():
            _set_aside(place)  # whoever made it, it was not us
        sha = start or base_sha
        fresh = _Record(str(hub.path), kind, branch, base_sha, sha, trees.template_name(hub, base_sha), kept=keep)
        return await _made(hub, place, fresh, created)


async def remove(
    hub: Hub,
    root: Path,
    path: Path,
    into_ref: str,
    known: Collection[str] = (),
) -> str | None:
    """Remove the workspace at `path`, after keeping what is only there under `into_ref`; the sha that keeps it.

    None when nothing was lost by removing it: all is in its base or in `known` (commits safe elsewhere, as the pushed
    head). When the rescue fails nothing is removed and GitError is raised. What is not ours is left alone.
    """
    place = _place(root, _key(root, path))
    async with hub.turn(f"workspace {place.tree}"):
        record = _read(place)
        if record is None:
            return None
        own = _hub_of(hub, record)
        kept = None
        if record.ready:
            await trees.reopen(own, place.plan(record))
            kept = await _rescued(own, place, record, into_ref, known)
            _write(place, replace(record, ready=False))  # killed from here on, it is removed without a second look
        await _unmade(own, place, record)
    await sweep(place.root)
    return kept


def seed(root: Path, path: Path) -> Path | None:
    """The index made with the workspace's files, None when there is none: with it, unchanged files need no reading."""
    place = _place(root, _key(root, path))
    record = _read(place)
    if record is None or record.kind not in trees.FROM_TEMPLATE:
        return None
    return place.ours / "templates" / record.template / "index"


async def discard(hub: Hub, root: Path, path: Path) -> None:
    """Remove a tree that no agent ever worked in (a gate's): what lies in it is nobody's work and is not rescued."""
    place = _place(root, _key(root, path))
    async with hub.turn(f"workspace {place.tree}"):
        if record := _read(place):
            await _unmade(_hub_of(hub, record), place, record)
    await sweep(place.root)


async def run_hook(
    script: str, tree: Path, env: Mapping[str, str], timeout: float, *, name: str, ticket: str, mark: str = ""
) -> str:
    """Run a hook of the owner's with `sh -c` in the workspace; what it printed. `timeout` in seconds.

    `env` is added to the allow-listed environment. Raises HookFailed naming hook, ticket and the hook's last line.
    """
    argv = ("sh", "-c", script)
    done = await proc.run(argv, cwd=tree, env=proc.base_env(extra=env), timeout=timeout, mark=mark)
    output = (done.stdout + done.stderr).decode(errors="replace")
    if done.timed_out:
        raise HookFailed(f"{ticket}: the hook {name} did not end within {timeout:g} s.", hint="Raise `hooks.timeout`.")
    if done.code:
        raise HookFailed(f"{ticket}: the hook {name} failed ({done.code}): {last_line(output)}", hint="Mend the hook.")
    return output


async def choose(root: Path) -> str:
    """The fastest kind that works on the disk of `root`, tried for real."""
    for scratch in (root / OURS).glob("proof-*-*"):
        if not _running(scratch.name.split("-")[1]):  # killed while it tried
            await _clear(scratch)
    for kind in trees.FROM_TEMPLATE:
        if (await _try(root, kind)).works:
            return kind
    return "checkout"


async def prove(root: Path) -> list[Proof]:
    """Try every kind below `root` on a scratch repository, as `ensure` and `remove` do it."""
    return [await _try(root, kind) for kind in trees.KINDS]


async def sweep(root: Path) -> None:
    """Delete the trash, also that of a killed process, and templates no workspace needs."""
    ours = root.resolve() / OURS
    trash = ours / "trash"
    trash.mkdir(parents=True, exist_ok=True)
    needed = {record.template for file in (ours / "records").rglob("*.json") if (record := _load(file))}
    for template in (ours / "templates").glob("*"):
        # Nothing is awaited between the look and the rename, so no workspace can begin to need it in between.
        if template.name not in needed and time.time() - template.stat().st_mtime > UNUSED_FOR:
            template.rename(trash / uuid4().hex)
    await trees.delete(trash.iterdir())


async def _made(
    hub: Hub, place: _Place, record: _Record, created: Callable[[Path], Awaitable[object]] | None
) -> Workspace:
    _write(place, record)
    if record.kept:
        await hub.set_ref(_base_ref(place), record.base_sha)  # the clone borrows these objects as long as it lives
    await trees.make(hub, place.plan(record))
    if created:
        await created(place.tree)
    _write(place, replace(record, ready=True))
    return _workspace(place, record)


async def _reopened(hub: Hub, place: _Place, record: _Record, base_sha: str) -> Workspace:
    """The workspace as the agent left it, with the base of now. Raises GitError when its repository cannot be read."""
    await trees.reopen(hub, place.plan(record))
    await hub.tips(place.tree)
    _break_locks(place.tree / ".git")
    await trees.show_base(hub, place.tree, base_sha)
    return _workspace(place, record)


def _break_locks(git_dir: Path) -> None:
    """Of a git that was killed with its agent: the next agent's git would refuse to work."""
    if git_dir.is_dir():
        for folder, _, names in os.walk(git_dir):
            for name in names:
                if name.endswith(".lock"):
                    Path(folder, name).unlink(missing_ok=True)


async def _give_up(hub: Hub, place: _Place, record: _Record, into_ref: str) -> None:
    """Rescue and remove a workspace that cannot be used; what cannot be read goes aside with all that is in it."""
    own, plan = _hub_of(hub, record), place.plan(record)
    await trees.reopen(own, plan)
    try:
        await _rescued(own, place, record, into_ref, ())
    except GitError:
        await rescue_rest(own, place.tree, record.branch, into_ref, record.base_sha)
        await trees.unmake(own, plan, place.ours / "aside")
    _write(place, replace(record, ready=False))
    await _unmade(own, place, record)


async def _rescued(hub: Hub, place: _Place, record: _Record, into_ref: str, known: Collection[str]) -> str | None:
    if not place.tree.exists():
        return await rescue_rest(hub, place.tree, record.branch, into_ref, record.base_sha)
    safe = {record.base_sha, record.start, *known}
    index = seed(place.root, place.tree)
    return await rescue(hub, place.tree, record.branch, into_ref, safe, seed=index)


async def _unmade(hub: Hub, place: _Place, record: _Record) -> None:
    await trees.unmake(hub, place.plan(record), place.ours / "trash")
    if record.kept:
        await hub.delete_ref(_base_ref(place))
    place.record.unlink(missing_ok=True)


def _set_aside(place: _Place) -> None:
    aside = place.ours / "aside"
    aside.mkdir(parents=True, exist_ok=True)
    place.tree.rename(aside / uuid4().hex)


async def _try(root: Path, kind: str) -> Proof:
    scratch = root / OURS / f"proof-{os.getpid()}-{uuid4().hex[:8]}"
    began = time.monotonic()
    try:
        evidence = await _tried(scratch, kind)
        works = True
    except (NightcrewError, OSError) as error:
        evidence, works = str(error), False
    took = (time.monotonic() - began) * 1000
    await _clear(scratch)
    return Proof(kind, works, evidence, took)


async def _clear(scratch: Path) -> None:
    for tree in (scratch / "at").glob("t*"):
        await trees.unmount(tree)
    await trees.delete([scratch])


def _running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


async def _tried(scratch: Path, kind: str) -> str:
    """Make two workspaces, change one, remove both. Raises what goes wrong."""
    hub = Hub(scratch / "hub.git", str(scratch))
    await hub.ensure()
    line = f"100644 blob {await hub.blob(b'one')}\tfile\n"
    tree = (await git("mktree", git_dir=hub.path, input=line.encode())).strip()
    base = await hub.commit_tree(tree, (), "proof")
    spaces = [await ensure(hub, scratch / "at", f"t{n}", f"proof-{n}", base, kind=kind) for n in (1, 2)]
    (spaces[0].path / "file").write_text("changed")
    if (spaces[1].path / "file").read_text() != "one":
        raise NightcrewError("a change in one workspace shows in another")
    kept = [await remove(hub, scratch / "at", space.path, f"refs/proof/{space.branch}") for space in spaces]
    if not kept[0] or kept[1] or await hub.show(kept[0], "file") != b"changed":
        raise NightcrewError("a change was not rescued")
    return "made two, changed one, rescued it, removed both"


def _place(root: Path, key_dir: str) -> _Place:
    """Where `key_dir` lies. Raises NightcrewError unless it is plain names that stay below `root`, links resolved."""
    top = root.resolve()
    plain = all(SEGMENT.fullmatch(name) and not name.endswith((".lock", ".")) for name in key_dir.split("/"))
    if (
        not plain
        or ".." in key_dir
        or not (top / key_dir).parent.resolve().is_relative_to(top)
        or _linked(top, key_dir)
    ):
        raise NightcrewError(f"{key_dir!r} is no folder inside {root}.", hint="Choose another key for the ticket.")
    return _Place(top, key_dir)


def _linked(top: Path, key_dir: str) -> bool:
    return (top / key_dir).resolve() != top / key_dir


def _key(root: Path, path: Path) -> str:
    with suppress(ValueError):
        return str(path.absolute().relative_to(root.resolve()))
    with suppress(ValueError):
        return str(path.absolute().relative_to(root.absolute()))
    raise NightcrewError(f"{path} is no workspace inside {root}.")


def _hub_of(hub: Hub, record: _Record) -> Hub:
    """The hub a workspace was made from: its ticket may have moved to another repository."""
    return hub if record.hub == str(hub.path) else Hub(Path(record.hub), hub.url, identity=hub.identity)


def _workspace(place: _Place, record: _Record) -> Workspace:
    return Workspace(place.tree, record.branch, record.base_sha, record.kind)


def _base_ref(place: _Place) -> str:
    return f"refs/nightcrew/base/{place.key}"


def _read(place: _Place) -> _Record | None:
    return _load(place.record)


def _load(file: Path) -> _Record | None:
    with suppress(FileNotFoundError, ValueError, TypeError):
        return _Record(**json.loads(file.read_text()))
    return None


def _write(place: _Place, record: _Record) -> None:
    place.record.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.record.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(record)))
    fresh.replace(place.record)
