"""What is remembered of open pull requests between two looks, so that an unchanged one costs next to nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from nightcrew.adapters.forges.gitea.parse import is_draft

SETTLES = 10.0  # seconds: a conflict that was told for so long is none that the forge is still looking for
TICK = 2.0  # seconds: the forge's clock of changes counts whole ones, so what is that young may change unseen
SELDOM = 8  # looks: so often at least are checks read that have ended
RUNNING = "pending"


@dataclass
class Seen:
    """One pull request at its last look."""

    commits: tuple[str, str] = ("", "")  # its head and its base
    clashes_since: float = 0.0
    changed: str = ""  # when the reviews were last counted
    reviews: int = -1  # how many there were, -1 when that must be asked
    head: str = ""  # whose checks these are
    statuses: tuple[tuple[str, str], ...] | None = None  # context and state, None when they must be read
    same: int = 0  # so often were they read and the same
    skip: int = 0  # so many looks do without


@dataclass
class Watch:
    """Every pull request that was looked at. Times are epoch seconds."""

    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)

    def of(self, repo: str, number: int) -> Seen:
        return self.seen.setdefault((repo, number), Seen())

    def keep(self, repo: str, numbers: set[int]) -> None:
        """Forget those that are not asked for any more."""
        self.seen = {key: one for key, one in self.seen.items() if key[0] != repo or key[1] in numbers}


def merges(seen: Seen, raw: Mapping[str, Any], now: float) -> bool | None:
    """Whether it merges; None while that cannot be known.

    Gitea says "not mergeable" for a conflict, while it is still looking for one, and for every draft. So it is a
    conflict once that was said of the same two commits for 10 s, and never of a draft.
    """
    commits = (raw["head"]["sha"], raw["base"]["sha"])
    if raw["mergeable"] or is_draft(raw) or commits != seen.commits:
        seen.clashes_since = 0.0
    seen.commits = commits
    if raw["mergeable"]:
        return True
    if is_draft(raw):
        return None
    seen.clashes_since = seen.clashes_since or now
    return False if now - seen.clashes_since >= SETTLES else None


def count_reviews(seen: Seen, raw: Mapping[str, Any]) -> bool:
    """Whether its reviews must be counted: they are not in the row, which only tells that something changed."""
    return seen.reviews < 0 or seen.changed != raw["updated_at"]


def counted(seen: Seen, raw: Mapping[str, Any], reviews: int, at: float) -> None:
    """They were, at the forge's time `at`. What changed just then may change again and show the same time."""
    seen.reviews = reviews
    young = at - datetime.fromisoformat(raw["updated_at"]).timestamp() < TICK
    seen.changed = "" if young else raw["updated_at"]


def read_statuses(seen: Seen, raw: Mapping[str, Any]) -> bool:
    """Whether its checks must be read: always while one runs, ever more seldom while they stay the same."""
    if seen.head == raw["head"]["sha"] and seen.statuses is not None and seen.skip > 0:
        seen.skip -= 1
        return False
    return True


def had_statuses(seen: Seen, number: int, head: str, statuses: tuple[tuple[str, str], ...]) -> None:
    """They were read. By their number, not all that were opened together are read together."""
    seen.same = seen.same + 1 if (head, statuses) == (seen.head, seen.statuses) else 0
    seen.head, seen.statuses = head, statuses
    runs = any(state == RUNNING for _, state in statuses)
    early = number % SELDOM if 2**seen.same == SELDOM else 0
    seen.skip = 0 if runs else min(2**seen.same, SELDOM) - 1 - early


def stamp(seen: Seen, raw: Mapping[str, Any], merges_: bool | None) -> str:
    """A word that is another one when anything in it changed."""
    told = (
        raw["state"], raw["merged"], is_draft(raw), raw["updated_at"], raw["comments"], raw.get("review_comments"),
        raw["head"]["sha"], raw["base"]["sha"], merges_, seen.reviews, seen.statuses,
    )  # fmt: skip
    return sha256(repr(told).encode()).hexdigest()[:16]
