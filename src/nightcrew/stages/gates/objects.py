"""Reading commits and objects of the hub in bulk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nightcrew.core.gate import Entry, entries_in
from nightcrew.errors import GitError
from nightcrew.git import Hub, git
from nightcrew.git.command import encode
from nightcrew.git.hub import PATCH

_RAW = ("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev")
# Nobody's configuration but the hub's own has a say in what is read.
ALONE = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


async def fork(hub: Hub, base_sha: str, head_sha: str) -> str:
    """Where the work left the base, "" for unrelated histories."""
    done = await hub.questions.ask("merge-base", base_sha, head_sha, revs=(base_sha, head_sha), ok=(0, 1))
    return done.stdout.strip()


async def entries(hub: Hub, fork: str, head_sha: str) -> list[Entry]:
    """What differs between two commits."""
    return entries_in((await hub.questions.ask(*_RAW, fork, head_sha, revs=(fork, head_sha))).stdout)


async def landed(hub: Hub, fork: str, base_sha: str, patch_id: str, path: str) -> str:
    """The commit of the base since `fork` that makes this very change, which touches `path`; "" when none does.

    Merged as one commit or by a merge commit, that is. Of the base's last 500 that touch the path.
    """
    shown = ("--first-parent", "-m", "-p", "--full-diff", "--max-count=500", "--binary", "--full-index", *PATCH)
    made = await git("log", *shown, f"{fork}..{base_sha}", "--", f":(top,literal){path}", git_dir=hub.path, env=ALONE)
    found = await git("patch-id", "--stable", git_dir=hub.path, env=ALONE, input=encode(made)) if made else ""
    return dict(line.split() for line in found.splitlines()).get(patch_id, "")


@dataclass(frozen=True)
class Commit:
    """One commit of the work."""

    sha: str
    parents: tuple[str, ...]
    title: str  # abbreviated sha and subject
    message: str


async def commits(hub: Hub, base_sha: str, head_sha: str) -> list[Commit]:
    """The commits of the work, newest first."""
    asked = ("rev-list", "--no-commit-header", "--format=%H%n%P%n%h %s%n%B%x00", head_sha, f"^{base_sha}")
    out = (await hub.questions.ask(*asked, revs=(head_sha, base_sha))).stdout
    found = [part.lstrip("\n").split("\n", 3) for part in out.split("\0") if part.strip()]
    return [Commit(sha, tuple(parents.split()), title, message) for sha, parents, title, message in found]


async def history(hub: Hub, base_sha: str, head_sha: str) -> list[Entry]:
    """What each commit of the work changes (merges aside: what they bring in is in the end result or on the base).

    Nothing for a single commit on top of the base's history: that is the end result itself.
    """
    made = await commits(hub, base_sha, head_sha)
    if len(made) == 1 and made[0].parents == (await fork(hub, base_sha, head_sha),):
        return []
    listed = "".join(f"{commit.sha}\n" for commit in made)
    return entries_in(await git(*_RAW, "--root", "--stdin", git_dir=hub.path, env=ALONE, input=listed.encode()))


async def sizes(hub: Hub, oids: Iterable[str]) -> dict[str, int]:
    """Bytes of each object. Raises GitError when the hub lacks one."""
    out = await _cat(hub, "--batch-check", oids)
    return dict(map(_header, out.splitlines()))


async def read(hub: Hub, oids: Iterable[str]) -> dict[str, bytes]:
    """The content of each object. Raises GitError when the hub lacks one."""
    out = await _cat(hub, "--batch", oids)
    found, at = {}, 0
    while at < len(out):
        end = out.index(b"\n", at)
        oid, size = _header(out[at:end])
        found[oid] = out[end + 1 : end + 1 + size]
        at = end + 2 + size
    return found


async def _cat(hub: Hub, how: str, oids: Iterable[str]) -> bytes:
    asked = "".join(f"{oid}\n" for oid in sorted(set(oids))).encode()
    if not asked:
        return b""
    return (await git("cat-file", how, git_dir=hub.path, env=ALONE, input=asked)).encode("utf-8", "surrogateescape")


def _header(line: bytes) -> tuple[str, int]:
    oid, kind, *size = line.decode().split(" ")
    if kind == "missing":
        raise GitError("cat-file", 128, f"the object {oid} is missing")
    return oid, int(size[0])
