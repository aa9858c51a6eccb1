"""The files of a work tree as a git tree, read without its `.git`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from nightcrew.git.command import ALONE, encode, git

# What makes an index valid for a copy of the files it was made for: only size and time of change count.
COPIED = ("-c", "core.checkStat=minimal", "-c", "core.trustctime=false")
MAX_DEPTH = 20  # of repositories nested in one another


async def write_tree(hub: Path, tree: Path, parent: str, seed: Path | None) -> str | None:
    """The tree object of `tree`'s files, for a work tree that began as `parent`; None when nothing differs from it.

    Plumbing only: unlike `git add` and `git status`, ls-files and update-index run nothing in nested repositories, and
    filters do not exist where the hub's configuration names none.
    """
    with TemporaryDirectory(prefix="nightcrew-index-") as scratch:
        index = Path(scratch) / "index"
        if seed and seed.exists():
            await asyncio.to_thread(shutil.copy2, seed, index)
        at = _At(hub, tree, index)
        await at.git("read-tree", "-m", "-i", parent)
        paths = await at.changed()
        if not paths:
            return None
        there, gone = await asyncio.to_thread(_sorted_out, tree, paths)
        await at.git("update-index", "--force-remove", "-z", "--stdin", input=_listed(gone))
        await at.git("update-index", "--add", "--replace", "-z", "--stdin", input=_listed(there))
        return (await at.git("write-tree")).strip()


class _At:
    """git with the hub's repository, somebody's work tree, and an index of ours."""

    def __init__(self, hub: Path, tree: Path, index: Path) -> None:
        self.hub, self.tree, self.index = hub, tree, index

    async def git(self, *args: str, input: bytes = b"") -> str:  # noqa: A002 - as in `git`
        env = ALONE | {"GIT_INDEX_FILE": str(self.index), "GIT_WORK_TREE": str(self.tree)}
        return await git(*COPIED, *args, git_dir=self.hub, cwd=self.tree, env=env, input=input)

    async def changed(self) -> list[str]:
        """Paths that are not as in the index, and new ones that are not ignored; nested repositories looked into."""
        exclude = self.tree / ".git/info/exclude"
        ours = (f"--exclude-from={exclude}",) if exclude.is_file() and not exclude.is_symlink() else ()
        out = await self.git("ls-files", "-z", "-m", "-d", "-o", "--exclude-standard", *ours)
        return await self._looked_into(out, MAX_DEPTH)

    async def _looked_into(self, out: str, depth: int) -> list[str]:
        paths = []
        for path in filter(None, out.split("\0")):
            if not path.endswith("/"):
                paths.append(path)
            elif depth:
                inner = _At(self.hub, self.tree / path, self.index.with_name("none"))
                listed = await inner.git("ls-files", "-z", "-o", "--exclude-standard")
                paths += [path + name for name in await inner._looked_into(listed, depth - 1)]
        return paths


def _sorted_out(tree: Path, paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths that are files or links now, and paths that are not (any more): what lies behind a link is not ours."""

    @cache
    def inside(folder: Path) -> bool:
        return folder == tree or (not folder.is_symlink() and inside(folder.parent))

    there, gone = [], []
    for path in dict.fromkeys(paths):
        full = tree / path
        if inside(full.parent) and (full.is_symlink() or full.is_file()):
            there.append(path)
        elif not (inside(full.parent) and (full / ".git").exists()):
            gone.append(path)
    return there, gone


def _listed(paths: Sequence[str]) -> bytes:
    return encode("".join(f"{path}\0" for path in paths))
