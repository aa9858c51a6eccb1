"""A pull request as GitHub's REST shows it -> ours; and the list of them, kept up to date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nightcrew.core.model import PullRequest


def parse_pull(raw: Mapping[str, Any], repo: str) -> PullRequest:
    """One of a list or alone: both have what is needed."""
    merged = bool(raw.get("merged_at"))
    return PullRequest(
        repo=repo, number=raw["number"], branch=_branch(raw), base=raw["base"]["ref"], title=raw["title"],
        body=raw["body"] or "", state="merged" if merged else raw["state"], head=raw["head"]["sha"],
        url=raw["html_url"], created_at=raw["created_at"],
        merged_sha=(raw.get("merge_commit_sha") or "") if merged else "",  # of an open one it is a trial merge
    )  # fmt: skip


def _branch(raw: Mapping[str, Any]) -> str:
    """Its head branch; that of a fork, which may have the name of one of ours, as `owner:branch`."""
    head, here = raw["head"], raw["base"]["repo"]["id"]
    return str(head["ref"] if (head["repo"] or {}).get("id") == here else head["label"] or f"unknown:{head['ref']}")


@dataclass
class Pulls:
    """The pull requests of one repository, the last changed first."""

    known: dict[int, PullRequest] = field(default_factory=dict)
    stamps: dict[int, str] = field(default_factory=dict)
    whole: bool = False  # the list was read to its end once
    unread: bool = False  # a fault came in the middle: what is unchanged since then was not taken over

    def reaches(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether all that follows these rows is known already."""
        return self.whole and any(self.stamps.get(row["number"]) == row["updated_at"] for row in rows)

    def take(self, rows: Sequence[Mapping[str, Any]], repo: str) -> None:
        """Take over what was read to where it is known, or to the end: never a part of it."""
        for row in rows:
            self.known[row["number"]] = parse_pull(row, repo)
            self.stamps[row["number"]] = row["updated_at"]
        self.whole, self.unread = True, False

    def newest_first(self) -> list[PullRequest]:
        return [self.known[number] for number in sorted(self.known, reverse=True)]
