"""A merge request as GitLab's REST shows it -> ours; and the list of them, kept up to date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nightcrew.adapters.gitlab_api import plain_title, utc
from nightcrew.core.model import PullRequest

STATES = {"opened": "open", "locked": "open", "merged": "merged", "closed": "closed"}
"""`locked` is one that is being merged just now."""


def parse_pull(raw: Mapping[str, Any], repo: str) -> PullRequest:
    """One of a list or alone: both have what is needed. Its title is without what makes it a draft."""
    merged = raw["state"] == "merged"
    return PullRequest(
        repo=repo, number=raw["iid"], branch=raw["source_branch"], base=raw["target_branch"],
        title=plain_title(raw["title"]), body=raw["description"] or "", state=STATES.get(raw["state"], "open"),
        head=raw["sha"] or "", url=raw["web_url"], created_at=utc(raw["created_at"]),
        merged_sha=merged_sha(raw) if merged else "",
    )  # fmt: skip


def merged_sha(raw: Mapping[str, Any]) -> str:
    """The commit on the base: of the merge, else the squashed one, else (fast forward) its own head."""
    return str(raw.get("merge_commit_sha") or raw.get("squash_commit_sha") or raw["sha"] or "")


def own(raw: Mapping[str, Any]) -> bool:
    """Whether its branch is in the project itself: a fork may have a branch of the same name."""
    return bool(raw["source_project_id"] == raw["target_project_id"])


@dataclass
class Pulls:
    """The merge requests of one project, the last changed first."""

    known: dict[int, PullRequest] = field(default_factory=dict)
    stamps: dict[int, str] = field(default_factory=dict)
    whole: bool = False  # the list was read to its end once
    unread: bool = False  # a fault came in the middle: what is unchanged since then was not taken over

    def reaches(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether all that follows these rows is known already."""
        return self.whole and any(self.stamps.get(row["iid"]) == row["updated_at"] for row in rows)

    def take(self, rows: Sequence[Mapping[str, Any]], repo: str) -> None:
        """Take over what was read to where it is known, or to the end: never a part of it."""
        for row in rows:
            self.known[row["iid"]] = parse_pull(row, repo)
            self.stamps[row["iid"]] = row["updated_at"]
        self.whole, self.unread = True, False

    def newest_first(self) -> list[PullRequest]:
        return [self.known[number] for number in sorted(self.known, reverse=True)]
