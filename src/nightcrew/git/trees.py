"""How a work tree comes to be, and goes: five ways to put one commit's files into a folder of their own.

A template is a plain folder with the files of one commit and the index that fits them; it is never written again. Its
files carry an old time, so that an agent's edit in the first second is never taken for the template's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from nightcrew import proc
from nightcrew.errors import NightcrewError
from nightcrew.git.command import ALONE, git
from nightcrew.git.hub import Hub
from nightcrew.git.uncommitted import COPIED

KINDS = ("overlay", "reflink", "copy", "checkout", "worktree")  # fastest first; worktree only for who asks for it
FROM_TEMPLATE = ("overlay", "reflink", "copy")
OLD = 951827463  # early in 2000, and no round number: nothing an agent writes has this time
_MINUTES = 1800.0  # seconds one copy or checkout may take


class CannotMake(NightcrewError):
    """This kind of workspace does not work here; the message has the system's reason."""

    hint = 'Set `workspace = "checkout"`, which works everywhere.'


@dataclass(frozen=True)
class Plan:
    """What to make: `tree` from `base_sha`, its branch at `start`. `home` is our folder for it, `templates` for all."""

    tree: Path
    home: Path
    templates: Path
    kind: str
    branch: str
    base_sha: str
    start: str


async def make(hub: Hub, plan: Plan) -> None:
    """Make the work tree with its branch checked out, where nothing is yet. Raises CannotMake or GitError."""
    plan.tree.parent.mkdir(parents=True, exist_ok=True)
    if plan.kind == "worktree":
        await _worktree(hub, plan)
        return
    if plan.kind in FROM_TEMPLATE:
        template = await ensure_template(hub, plan)
        await _fill(hub, plan, template)
        await _private_git(hub, plan)
        await asyncio.to_thread(shutil.copyfile, template / "index", plan.tree / ".git/index")
        if plan.start != plan.base_sha:
            await git("read-tree", "-m", "-u", plan.base_sha, plan.start, cwd=plan.tree, env=ALONE)
        return
    await _private_git(hub, plan)
    async with hub.checkouts:
        await git("read-tree", "-m", "-u", plan.start, cwd=plan.tree, env=ALONE, timeout=_MINUTES)


async def reopen(hub: Hub, plan: Plan) -> None:
    """Make an overlay's files visible again after a restart of the machine. Other kinds need nothing."""
    if plan.kind != "overlay" or plan.tree.is_mount():
        return
    plan.tree.mkdir(parents=True, exist_ok=True)
    try:
        await _mount(plan, await ensure_template(hub, plan))
    except CannotMake as error:
        hint = f"Run nightcrew with the rights it had; the work lies in {plan.home}/upper."
        raise CannotMake(f"{plan.tree} cannot be mounted again: {error}", hint=hint) from error


async def unmake(hub: Hub, plan: Plan, trash: Path) -> None:
    """Take the work tree out of sight at once; what is left of it lies in `trash`."""
    trash.mkdir(parents=True, exist_ok=True)
    if plan.kind == "overlay":
        await unmount(plan.tree)
    if plan.kind == "worktree":
        async with hub.lock:
            forget_worktree(hub, plan.tree)
            await hub.delete_ref(f"refs/heads/{plan.branch}")
    for folder in (plan.tree, plan.home):
        with suppress(FileNotFoundError):
            folder.rename(trash / uuid4().hex)


async def ensure_template(hub: Hub, plan: Plan) -> Path:
    """The template of `plan.base_sha`: a folder with `tree/` and `index`. Made once, whoever asks."""
    place = plan.templates / template_name(hub, plan.base_sha)
    async with hub.turn(place.name):
        if not place.exists():
            fresh = plan.templates / f"new-{uuid4().hex}"
            (fresh / "tree").mkdir(parents=True)
            async with hub.checkouts:
                await _checkout_template(hub, fresh, plan.base_sha)
            fresh.rename(place)
    return place


def template_name(hub: Hub, sha: str) -> str:
    """The folder name of a commit's template; different for each hub."""
    return f"{sha256(str(hub.path).encode()).hexdigest()[:8]}-{sha}"


async def _checkout_template(hub: Hub, fresh: Path, sha: str) -> None:
    env = ALONE | {"GIT_INDEX_FILE": str(fresh / "index"), "GIT_WORK_TREE": str(fresh / "tree")}
    where = fresh / "tree"
    await git("read-tree", "-m", "-u", sha, git_dir=hub.path, cwd=where, env=env, timeout=_MINUTES)
    await asyncio.to_thread(_backdate, where)
    refresh = ("update-index", "-q", "--refresh")
    await git(*COPIED, *refresh, git_dir=hub.path, cwd=where, env=env, timeout=_MINUTES, ok=(0, 1))


def _backdate(tree: Path) -> None:
    for folder, _, names in os.walk(tree):
        for name in names:
            os.utime(os.path.join(folder, name), (OLD, OLD), follow_symlinks=False)  # noqa: PTH118 - 50,000 of them


async def _fill(hub: Hub, plan: Plan, template: Path) -> None:
    plan.tree.mkdir()
    if plan.kind == "overlay":
        await _mount(plan, template)
        return
    clone = ("-c",) if sys.platform == "darwin" else (f"--reflink={'always' if plan.kind == 'reflink' else 'auto'}",)
    how = () if plan.kind == "copy" and sys.platform == "darwin" else clone
    async with hub.checkouts:
        await _tool("cp", "-pPR", *how, f"{template}/tree/.", f"{plan.tree}/")


async def _mount(plan: Plan, template: Path) -> None:
    """Paths are given from `home`, so that nothing in them needs an escape the mount program might read otherwise."""
    for name in ("upper", "work"):
        (plan.home / name).mkdir(parents=True, exist_ok=True)
    lower = os.path.relpath(template / "tree", plan.home)
    # redirect_dir: without it `git mv` of a folder fails.
    options = f"lowerdir={lower},upperdir=upper,workdir=work,redirect_dir=on"
    await _tool("mount", "-t", "overlay", "nightcrew", "-o", options, str(plan.tree), cwd=plan.home)


async def unmount(tree: Path) -> None:
    """Unmount an overlay, if one is there."""
    if tree.is_mount():
        try:
            await _tool("umount", str(tree))
        except CannotMake:  # somebody looks at it
            await _tool("umount", "-l", str(tree))


async def _tool(*argv: str, cwd: Path | None = None) -> None:
    done = await proc.run(argv, cwd=cwd, env=proc.base_env() | {"LC_ALL": "C"}, timeout=_MINUTES)
    if done.code:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.code}"]
        raise CannotMake(f"{argv[0]}: {said[0]}")


async def _private_git(hub: Hub, plan: Plan) -> None:
    """A repository of the tree's own, which only borrows the hub's objects: no remote, nothing shared to write."""
    git_dir = plan.tree / ".git"
    await asyncio.to_thread(shutil.copytree, await hub.skeleton(), git_dir)
    (git_dir / "HEAD").write_text(f"ref: refs/heads/{plan.branch}\n")
    for folder in ("info", "objects/info"):
        (git_dir / folder).mkdir(parents=True, exist_ok=True)
    (git_dir / "objects/info/alternates").write_text(f"{hub.path}/objects\n")
    with (git_dir / "config").open("a") as config:
        config.write(_config(hub.identity))
    bases = dict.fromkeys(hub.fetched(plan.base_sha), plan.base_sha)
    refs = sorted({f"refs/heads/{plan.branch}": plan.start, **bases}.items())
    (git_dir / "packed-refs").write_text("".join(f"{sha} {name}\n" for name, sha in refs))
    if (hub.path / "shallow").exists():
        shutil.copyfile(hub.path / "shallow", git_dir / "shallow")


async def show_base(hub: Hub, tree: Path, base_sha: str) -> None:
    """Let a tree made earlier see the base of now: a repository of its own does not see what was fetched since."""
    if (tree / ".git").is_dir():
        for ref in hub.fetched(base_sha):
            await git("update-ref", ref, base_sha, cwd=tree, env=ALONE)


def _config(identity: tuple[str, str]) -> str:
    name, email = (value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") for value in identity)
    lines = ("[core]", "checkStat = minimal", "trustctime = false", "[gc]", "auto = 0",
             "[user]", f'name = "{name}"', f'email = "{email}"')  # fmt: skip
    return "".join(f"{line}\n" for line in lines)


async def _worktree(hub: Hub, plan: Plan) -> None:
    """The linked kind: only the few milliseconds that write shared files hold the hub's lock."""
    async with hub.lock:
        forget_worktree(hub, plan.tree)
        for key, value in zip(("user.name", "user.email"), hub.identity, strict=True):
            await git("config", key, value, git_dir=hub.path, env=ALONE)
        add = ("worktree", "add", "--quiet", "--no-checkout", "--no-track", "--lock", "--force", "-B", plan.branch)
        await git(*add, "--", str(plan.tree), plan.start, git_dir=hub.path, env=ALONE)
    async with hub.checkouts:
        await git("read-tree", "-m", "-u", plan.start, cwd=plan.tree, env=ALONE, timeout=_MINUTES)


def forget_worktree(hub: Hub, tree: Path) -> None:
    """Remove the hub's entry for a linked worktree. Never `worktree prune`: it takes those of others with it."""
    for entry in (hub.path / "worktrees").glob("*/gitdir"):
        if Path(entry.read_text().strip()).parent == tree:
            shutil.rmtree(entry.parent)


async def delete(folders: Iterable[Path]) -> None:
    """Delete folders whatever their modes; what cannot be deleted is left for the next time."""
    for folder in folders:
        await asyncio.to_thread(_delete, folder)


def _delete(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        return
    for here, names, _ in os.walk(folder):  # module caches are read-only
        for path in (Path(here, name) for name in names):
            with suppress(OSError):
                if not path.is_symlink():
                    path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
