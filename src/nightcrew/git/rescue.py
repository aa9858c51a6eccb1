"""Keeping work that exists nowhere else (I2), and giving it back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nightcrew.errors import UsageError
from nightcrew.git.command import ALONE, git
from nightcrew.git.hub import Hub
from nightcrew.git.values import Push

RESCUED = "refs/nightcrew/rescue"


@dataclass(frozen=True)
class Rescue:
    """Work that was kept. `date` is ISO 8601, when it was kept or committed."""

    ref: str
    ticket: str
    attempt: str
    sha: str
    subject: str
    date: str


def rescue_ref(ticket: str, attempt: int | str) -> str:
    """Where an attempt's unfinished work is kept. `ticket` must be a safe name."""
    return f"{RESCUED}/{ticket}/{attempt}"


async def rescue(
    hub: Hub, tree: Path, branch: str, into_ref: str, known: Collection[str], *, seed: Path | None = None
) -> str | None:
    """Keep all of `tree`'s work that no commit in `known` contains under `into_ref`; its sha, None when there is none.

    Kept are commits on every branch, on a detached HEAD and in the stash, and changed and untracked files (not ignored
    ones). A rescue that is there already is never overwritten: the next free `<into_ref>-<n>` is used. `seed` as in
    `Hub.snapshot`. Raises GitError when anything could not be kept.
    """
    taken = await hub.take_all(tree, branch)
    safe = [sha for sha in known if await hub.sha(sha)]
    parent = taken.head or taken.work or next(iter(safe))
    left = await hub.snapshot(tree, parent, "nightcrew: files that were not committed\n", seed)
    if left and await _tree(hub, left) in [await _tree(hub, sha) for sha in safe]:
        left = None  # they were committed for the agent, and that commit is known
    main = left or taken.work or parent
    lost = [tip for tip in taken.tips if not await _contained(hub, tip, [*safe, main])]
    if lost:
        main = await hub.commit_tree(await _tree(hub, main), [main, *lost], "nightcrew: all branches that were left\n")
    if await _contained(hub, main, safe):
        return None
    return await _keep(hub, into_ref, main)


async def rescue_rest(hub: Hub, tree: Path, branch: str, into_ref: str, base_sha: str) -> str | None:
    """Like `rescue`, for a tree whose own repository cannot be read or is gone: the files there are, and the hub's
    branch, if it was a linked worktree."""
    parent = await hub.sha(f"refs/heads/{branch}") or base_sha
    left = None
    if tree.exists():
        left = await hub.snapshot(tree, parent, "nightcrew: files of a workspace that lost its history\n")
    main = left or parent
    return None if await _contained(hub, main, [base_sha]) else await _keep(hub, into_ref, main)


async def rescues(hub: Hub) -> list[Rescue]:
    """All work that was kept, newest first."""
    shape = "%(refname)%00%(objectname)%00%(contents:subject)%00%(committerdate:iso-strict)"
    asked = ("for-each-ref", "--sort=-committerdate", f"--format={shape}", RESCUED)
    lines = (await git(*asked, git_dir=hub.path, env=ALONE)).split("\n")
    return [_rescue(*line.split("\0")) for line in lines if line]


async def restore(hub: Hub, ref: str) -> str:
    """Give kept work back as a branch `rescue/<ticket>-<attempt>` of the owner's repository; the branch's name.

    Doing it twice is doing it once. Raises UsageError when there is no such rescue, PushRejected when the branch
    exists and is something else.
    """
    found = next((rescue for rescue in await rescues(hub) if rescue.ref == ref), None)
    if not found:
        raise UsageError(f"There is no rescue {ref}.", hint="`nightcrew rescue` lists what there is.")
    branch = f"rescue/{found.ticket}-{found.attempt}"
    await hub.push([Push(f"refs/heads/{branch}", found.sha, "")])
    return branch


def _rescue(ref: str, sha: str, subject: str, date: str) -> Rescue:
    ticket, _, attempt = ref.removeprefix(f"{RESCUED}/").rpartition("/")
    return Rescue(ref, ticket, attempt, sha, subject, date)


async def _keep(hub: Hub, ref: str, sha: str) -> str:
    names = [ref, *(f"{ref}-{n}" for n in range(2, 1000))]
    for name in names:
        if await hub.set_ref(name, sha, ""):
            return sha
        there = await hub.sha(name)
        if there and await _content(hub, there) == await _content(hub, sha):
            return there  # kept before a crash
    raise UsageError(f"{ref}: a thousand rescues of one attempt.", hint="Delete some of them.")


async def _contained(hub: Hub, tip: str, known: Collection[str]) -> bool:
    asked = ("rev-list", "--max-count=1", tip, "--not", *known)
    return not (await hub.questions.ask(*asked, revs=(tip, *known))).stdout


async def _content(hub: Hub, sha: str) -> str:
    """All of a commit but its dates."""
    return await git("show", "--no-patch", "--format=%T %P%n%an %ae%n%B", sha, git_dir=hub.path, env=ALONE)


async def _tree(hub: Hub, sha: str) -> str:
    return await hub.tree(sha)
