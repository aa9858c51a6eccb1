"""The git side of the local forge: what it reads and moves in a person's repository."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nightcrew.errors import ForgeError, GitError
from nightcrew.git import git
from nightcrew.git.command import encode
from nightcrew.git.upstream import local_path

TRIES = 5  # how often a merge is made anew because the base moved meanwhile
NOBODY = ("nightcrew", "nightcrew@localhost")  # who merges where the repository names no user
DIFF = ("--no-ext-diff", "--no-textconv", "--no-color")


@dataclass(frozen=True)
class Repository:
    """A repository on this machine, bare or not. Methods raise GitError when git fails."""

    git_dir: Path  # the common one, also for a linked work tree

    async def heads(self) -> dict[str, str]:
        """Branch -> sha."""
        out = await self._git("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads")
        pairs = (line.split(" ", 1) for line in out.splitlines())
        return {name.removeprefix("refs/heads/"): sha for sha, name in pairs}

    async def contains(self, tip: str, commit: str) -> bool:
        """Whether `commit` is `tip` or one of its ancestors; False when either is not there any more."""
        try:
            return not await self._git("rev-list", "--max-count=1", commit, f"^{tip}", "--")
        except GitError:
            return False

    async def keep(self, ref: str, sha: str) -> None:
        """Point a ref of ours at a commit, so that git keeps it."""
        await self._git("update-ref", ref, sha)

    async def diff(self, base: str, head: str) -> str:
        """The change from their merge base to `head`, as a patch."""
        return await self._git("diff", *DIFF, f"{base}...{head}", "--")

    async def merged_by(self, base: str, head: str) -> str:
        """The commit that brought `head` into `base`; `head` itself when it was a fast-forward."""
        out = await self._git("rev-list", "--first-parent", "--ancestry-path", "--parents", f"{head}..{base}", "--")
        lines = out.split("\n")[:-1]
        sha, first = lines[-1].split()[:2] if lines else (head, "")
        return head if first == head else sha

    async def merge(self, branch: str, head: str, message: str) -> tuple[str, str]:
        """Merge `head` into `branch`, and into the work trees it is checked out in: (its old head, the merge commit).

        Raises ForgeError, and changes nothing, when there are conflicts or one of those trees is not clean.
        """
        for _ in range(TRIES):
            base = (await self.heads()).get(branch, "")
            if not base:
                raise ForgeError(f"there is no branch {branch}.", hint="Create it, or correct `base`.")
            sha = await self._merge_commit(base, head, message)
            if await self._advance(branch, base, sha, message):
                return base, sha
        raise ForgeError(f"{branch} moves faster than it can be merged into.", hint="Try again.")

    async def _merge_commit(self, base: str, head: str, message: str) -> str:
        args = ("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", base, head)
        tree, *rest = (await self._git(*args, ok=(0, 1))).split("\0")
        if conflicts := [path for path in rest if path]:
            files = ", ".join(conflicts[:20]) + (", ..." if len(conflicts) > 20 else "")
            raise ForgeError(f"there are conflicts in {files}.", hint="Request changes, or merge it by hand.")
        name, email = await self._config("user.name", NOBODY[0]), await self._config("user.email", NOBODY[1])
        who = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": email, "GIT_COMMITTER_NAME": name,
               "GIT_COMMITTER_EMAIL": email}  # fmt: skip
        commit = ("commit-tree", tree.strip(), "-p", base, "-p", head, "-F", "-")
        return (await git(*commit, git_dir=self.git_dir, env=who, input=encode(message))).strip()

    async def _advance(self, branch: str, old: str, new: str, message: str) -> bool:
        """Move the branch and the trees it is checked out in. False, and nothing changed, when the branch moved."""
        trees = await self._trees(branch)
        for tree in trees:
            await _refuse_changes(tree)
        moved: list[Path] = []
        try:
            # Files first: if we die in between, the person sees a staged merge, and not its reverse.
            for tree in trees:
                await git("read-tree", "-m", "-u", old, new, cwd=tree)
                moved.append(tree)
            await self._git("update-ref", "-m", message.partition(":")[0], f"refs/heads/{branch}", new, old)
        except GitError:
            for tree in moved:
                with suppress(GitError):
                    await git("read-tree", "-m", "-u", new, old, cwd=tree)
            if (await self.heads()).get(branch) == old:
                raise
            return False
        return True

    async def _trees(self, branch: str) -> list[Path]:
        """The work trees in which the branch is checked out."""
        out = await self._git("worktree", "list", "--porcelain", "-z")
        trees = [dict(line.partition(" ")[::2] for line in entry.split("\0")) for entry in out.split("\0\0")]
        own = [Path(tree["worktree"]) for tree in trees if tree.get("branch") == f"refs/heads/{branch}"]
        return [tree for tree in own if tree.is_dir()]

    async def _config(self, key: str, default: str) -> str:
        return (await self._git("config", "--get", key, ok=(0, 1))).strip() or default

    async def _git(self, *args: str, ok: tuple[int, ...] = (0,)) -> str:
        return await git(*args, git_dir=self.git_dir, ok=ok)


async def repository(name: str, url: str, home: Path) -> Repository:
    """The repository at a path, which starts at `home`. Raises ForgeError when there is none."""
    path = local_path(url)
    if path is None:
        raise ForgeError(
            f"{name}: the local forge keeps pull requests in a folder on this machine, and {url} is none.",
            hint="Clone it and give that path, or set `forge` to the one it lies on.",
        )
    path = (home / path).resolve()
    if not path.is_dir():
        raise ForgeError(f"{name}: there is no repository at {path}.", hint="Correct its path.")
    # A folder inside another repository is not that repository.
    only_here = {"GIT_CEILING_DIRECTORIES": str(path.parent)}
    try:
        out = await git("rev-parse", "--path-format=absolute", "--git-common-dir", cwd=path, env=only_here)
    except GitError as error:
        hint = "Run `git init` there." if "not a git repository" in error.stderr else error.hint
        raise ForgeError(f"{name}: {path} cannot be used: {error}", hint=hint) from error
    return Repository(Path(out.removesuffix("\n")))


async def _refuse_changes(tree: Path) -> None:
    await git("update-index", "-q", "--ignore-submodules", "--refresh", cwd=tree, ok=(0, 1))
    out = await git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules", "-z", cwd=tree)
    if names := [entry[3:] for entry in out.split("\0") if entry[2:3] == " "]:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise ForgeError(f"{tree} has uncommitted changes ({shown}).", hint="Commit or stash them, then merge again.")
