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

    def __init__(self, branch: str) -> None:
        give = f"git push <repository> :{claim_ref(branch)}"
        super().__init__(f"{branch} is claimed by another crew.", hint="Stop one of the two. If the other one is gone "
                         f"for good, `{give}` and `nightcrew retry` give it to this one.")  # fmt: skip


class Over(NightcrewError):
    """A person merged or closed the pull request meanwhile: nothing is pushed after that, nothing is opened again."""


class BranchMoved(NightcrewError):
    """Somebody else pushed to the ticket's branch; their work is not overwritten. `to` is in the hub."""

    def __init__(self, branch: str, to: str) -> None:
        super().__init__(f"{branch} was moved by someone else to {to[:12]}.")
        self.to = to

    def told(self, since: str) -> str:
        """What an agent is to do about it; `since` is where its own work began."""
        return (f"{self} Put what you did since {since[:12]} on top of that, and keep what they did: "
                f"git rebase --onto {self.to} {since}; then run the tests and commit.")  # fmt: skip


def claim_ref(branch: str) -> str:
    """The ref by which a crew says that it works this branch."""
    return f"refs/nightcrew/claims/{sha256(branch.encode()).hexdigest()[:16]}"


async def ensure_claim(hub: Hub, branch: str, crew: str) -> str:
    """Claim the branch at the remote by compare-and-set; returns the claim's object. Exactly one crew wins."""
    try:
        return await hub.place(claim_ref(branch), f"nightcrew {crew} {branch}\n".encode())
    except PushRejected as lost:
        raise ClaimedElsewhere(branch) from lost


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
    """The branch pushed and its one pull request open, title and body up to date.

    Raises Over when a person ended it without this very head; with it, it is returned as it ended.
    """
    fence()
    found = await forge.find(repo, what.branch)
    if found and found.state != "open":
        if found.head != what.head:
            raise Over(f"A person {'merged' if found.state == 'merged' else 'closed'} pull request #{found.number}.")
        return found
    await _ensure_branch(hub, what, crew)
    fence()
    if found:
        return await forge.update(repo, found.number, what.title, what.body)
    return await _ensure_open(forge, repo, what)


async def _ensure_branch(hub: Hub, what: Publication, crew: str) -> None:
    ref = f"refs/heads/{what.branch}"
    there = await hub.remote_ref(ref) or ""
    if there == what.head:
        return
    if there and there != what.before and not await _ours(hub, there, what.head):
        await hub.fetch_branches([what.branch])
        raise BranchMoved(what.branch, there)
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
