"""Reading a repository an agent could write to. Nothing in it is trusted: not its config, hooks, refs or links.

The host asks only `upload-pack` (by ls-remote and fetch, run in the hub): it reads objects and refs and runs nothing of
the repository's. No other git command may ever run with an agent's `.git`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nightcrew.errors import GitError
from nightcrew.git.command import ALONE, encode, git, run


@dataclass(frozen=True)
class Tips:
    """What an agent's repository has: `head` is where HEAD is (None: nothing committed), `on` the branch it names.

    `refs` holds branches and the stash, by full name.
    """

    head: str | None = None
    on: str = ""  # "" when HEAD is detached
    refs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Taken:
    """What was brought into the hub: the commit that is the work, where HEAD was, and every tip there was."""

    work: str | None
    head: str | None
    tips: tuple[str, ...]


def check(hub: Path, tree: Path) -> bool:
    """Whether `tree` is a linked worktree of the hub; False for a private clone.

    Raises GitError when its `.git` leads anywhere else: through a link, a `commondir`, or borrowed objects that are not
    the hub's. Otherwise work of another repository could leave the machine under this ticket's name.
    """
    git_dir = tree / ".git"
    if git_dir.is_symlink() or not git_dir.exists():
        raise _refused(tree, "its .git is missing or a link")
    if git_dir.is_file():
        target = (tree / git_dir.read_text(errors="replace").removeprefix("gitdir:").strip()).resolve()
        if target.parent != (hub / "worktrees").resolve():
            raise _refused(tree, "its .git points to another repository")
        return True
    for folder in (git_dir, git_dir / "objects", git_dir / "objects/info", git_dir / "objects/pack"):
        if not folder.is_dir() or any(entry.is_symlink() for entry in folder.iterdir()):
            raise _refused(tree, f"{folder.relative_to(tree)} is missing or holds links")
    if (git_dir / "commondir").exists() or not _borrows_only(git_dir, hub):
        raise _refused(tree, "it shares the objects of another repository")
    return False


def _borrows_only(git_dir: Path, hub: Path) -> bool:
    alternates = git_dir / "objects/info/alternates"
    if not alternates.exists():
        return True
    lines = alternates.read_text(errors="replace").splitlines()
    return all(Path(line).resolve() == (hub / "objects").resolve() for line in lines if line and line[0] != "#")


def _refused(tree: Path, why: str) -> GitError:
    hint = "Nothing was read or deleted; look at the folder, then remove it by hand."
    return GitError("fetch", 1, f"the repository in {tree} is not read: {why}", hint=hint)


async def tips(hub: Path, tree: Path) -> Tips:
    """What `tree` has committed, on all its branches."""
    out = await git("ls-remote", "--symref", "--", str(tree), git_dir=hub, env=ALONE)
    head, on, refs = None, "", {}
    for line in out.split("\n"):
        value, _, name = line.partition("\t")
        if name == "HEAD" and value.startswith("ref: "):
            on = value.removeprefix("ref: ")
        elif name == "HEAD":
            head = value
        elif name.startswith("refs/heads/") or name == "refs/stash":
            refs[name] = value
    return Tips(head, on, refs)


async def bring(hub: Path, tree: Path, names: Iterable[str], *, strict: bool = True) -> None:
    """Fetch the objects of these refs of `tree` into the hub, which is never pruned. No ref of the hub changes.

    With `strict`, malformed objects are refused.
    """
    wanted = list(names)
    if not wanted:
        return  # else git would ask for HEAD
    await git(
        "-c", f"fetch.fsckObjects={strict}", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--stdin", "--",
        str(tree), git_dir=hub, env=ALONE, input=encode("".join(f"{name}\n" for name in wanted)),
    )  # fmt: skip


async def chosen(hub: Path, found: Tips, branch: str) -> str | None:
    """The commit that is the agent's work, once brought into the hub.

    The ticket's branch, unless HEAD went on from it, or is on another branch the agent made, which does not lie behind
    it. A detached HEAD beside the branch (a rebase that was cut short) does not count.
    """
    tip = found.refs.get(f"refs/heads/{branch}")
    if tip is None or found.head is None or tip == found.head:
        return tip or found.head
    if await _is_ancestor(hub, tip, found.head):
        return found.head
    aside = found.on and not await _is_ancestor(hub, found.head, tip)
    return found.head if aside else tip


async def _is_ancestor(hub: Path, old: str, new: str) -> bool:
    return (await run("merge-base", "--is-ancestor", old, new, git_dir=hub, env=ALONE)).code == 0
