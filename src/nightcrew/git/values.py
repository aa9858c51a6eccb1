"""What git tells us and what we ask of it, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from nightcrew.errors import GitError


@dataclass(frozen=True)
class Change:
    """One changed file. `added` and `deleted` count lines; both are 0 for a binary file."""

    path: str
    added: int
    deleted: int


@dataclass(frozen=True)
class Merge:
    """What merging two commits gives: the tree, and the paths in conflict (() when it merges cleanly)."""

    tree: str
    conflicts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Push:
    """One ref to be moved at the remote. `sha` "" deletes it.

    `expect` is what the remote must have now: a sha, "" for absent, None for no lease (only a fast-forward passes).
    """

    ref: str
    sha: str
    expect: str | None = None


class PushRejected(GitError):
    """The remote did not have what was expected, or refused the update: nothing was changed there."""

    hint = "Someone else moved the branch; the next attempt starts from what is there now."
