"""Publish: the branch, the claim and exactly one pull request. Every verb is an `ensure`: twice is once (I1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from nightcrew.core.model import PullRequest, Repo
from nightcrew.errors import ForgeError, NightcrewError
from nightcrew.git import Hub, Push, PushRejected
from nightcrew.ports import Forge

MOST = 100  # open pull requests that are compared
Fence = Callable[[], object]
"""Raises errors.Fenced when this attempt no longer owns the run (I6)."""


class ClaimedElsewhere(NightcrewError):
    """Another crew works this ticket on the same repository."""

    hint = "Stop one of the two crews, or delete the claim ref if the other one is gone for good."


class BranchMoved(NightcrewError):
    """Somebody else pushed to the ticket's branch; their work is not overwritten."""

    hint = "Merge or close that pull request: till then the finished work is kept, then `nightcrew retry` works anew."


def claim_ref(branch: str) -> str:
    """The ref by which a crew says that it works this branch."""
    return f"refs/nightcrew/claims/{sha256(branch.encode()).hexdigest()[:16]}"


async def ensure_claim(hub: Hub, branch: str, crew: str) -> str:
    """Claim the branch at the remote by compare-and-set; returns the claim's object. Exactly one crew wins."""
    try:
        return await hub.place(claim_ref(branch), f"nightcrew {crew} {branch}\n".encode())
    except PushRejected as lost:
        raise ClaimedElsewhere(f"{branch} is claimed by another crew.") from lost


@dataclass(frozen=True)
class Publication:
    """What is to be published. `before` is the head that we pushed last, "" when we never did."""

    branch: str
    head: str
    title: str
    body: str
    before: str = ""


async def same_patch(hub: Hub, forge: Forge, repo: Repo, branch: str, base: str, patch_id: str) -> str:
    """The address of another open pull request that makes this very change, "" when there is none.

    Another crew's, or a person's: what is ours is known by our own rows. Only branches of the same repository are read.
    """
    others = [p for p in await forge.list(repo) if p.state == "open" and p.branch != branch and patch_id][:MOST]
    if unknown := [pull.branch for pull in others if not await hub.sha(pull.head)]:
        await hub.fetch_branches(unknown)
    for pull in others:
        if await hub.sha(pull.head) and await hub.patch_id(base, pull.head) == patch_id:
            return pull.url
    return ""


async def publish(hub: Hub, forge: Forge, repo: Repo, what: Publication, crew: str, fence: Fence) -> PullRequest:
    """The branch pushed and its one pull request open, title and body up to date."""
    fence()
    await _ensure_branch(hub, what, crew)
    fence()
    found = await forge.find(repo, what.branch)
    if found is None or found.state == "closed":
        found = await _ensure_open(forge, repo, what)
    elif found.state == "open":
        found = await forge.update(repo, found.number, what.title, what.body)
    return found


async def _ensure_branch(hub: Hub, what: Publication, crew: str) -> None:
    ref = f"refs/heads/{what.branch}"
    there = await hub.remote_ref(ref) or ""
    if there == what.head:
        return
    if there and there != what.before and not await _ours(hub, there, what.head):
        raise BranchMoved(f"{what.branch} was moved by someone else to {there[:12]}.")
    claim = await hub.blob(f"nightcrew {crew} {what.branch}\n".encode())
    await hub.push([Push(ref, what.head, there), Push(claim_ref(what.branch), claim, claim)])


async def _ours(hub: Hub, there: str, head: str) -> bool:
    return await hub.sha(there) is not None and await hub.is_ancestor(there, head)


async def _ensure_open(forge: Forge, repo: Repo, what: Publication) -> PullRequest:
    try:
        await forge.open(repo, what.branch, what.title, what.body)
    except ForgeError:
        # The answer may be lost although the write happened: the forge itself says what is true.
        found = await forge.find(repo, what.branch)
        if found is None or found.state != "open":
            raise
    found = await forge.find(repo, what.branch)
    if found is None:
        raise ForgeError(f"{forge.name} says it opened a pull request for {what.branch} but does not show it.")
    return found
