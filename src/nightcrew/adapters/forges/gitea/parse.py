"""What Gitea's answers mean, in our words: the one place that knows its shapes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urljoin

from nightcrew.core.model import Check, PullRequest, Remark

Raw = Mapping[str, Any]
STATES = {"success": "passed", "warning": "passed", "skipped": "passed", "pending": "running"}
VERDICTS = {"APPROVED": "approved", "REQUEST_CHANGES": "changes"}
DRAFT = "WIP: "
_DRAFT = re.compile(r"\s*(?:WIP:|\[WIP\])\s*", re.I)  # what a server takes for a draft unless it was told otherwise
_MARK = re.compile(r"<!-- nightcrew:[A-Za-z0-9._-]* -->\n?")
_ROBOT = re.compile(r"(?:^|[-_.])bot\d*$|\[bot\]$|^(?:gitea|forgejo)-actions$", re.I)
_JOB = re.compile(r"(/actions/runs/\d+)/jobs/\d+$")


# -- pull requests -----------------------------------------------------------------------------------------------------
def parse_pull(raw: Raw, repo: str) -> PullRequest:
    """One of a list or alone: both are whole."""
    merged = bool(raw["merged"])
    return PullRequest(
        repo=repo, number=raw["number"], branch=_branch(raw), base=raw["base"]["ref"], title=plain_title(raw["title"]),
        body=raw["body"] or "", state="merged" if merged else raw["state"], head=raw["head"]["sha"],
        url=raw["html_url"], created_at=when(raw["created_at"]),
        merged_sha=(raw.get("merge_commit_sha") or "") if merged else "",
    )  # fmt: skip


def _branch(raw: Raw) -> str:
    """Its head branch: `label`, for `ref` is refs/pull/N/head once it was deleted. A fork's as `owner:branch`."""
    head = raw["head"]
    name: str = head["label"] or head["ref"]
    if head["repo_id"] == raw["base"]["repo_id"]:
        return name
    owner = ((head.get("repo") or {}).get("owner") or {}).get("login", "?")
    return f"{owner}:{name}"


def plain_title(title: str) -> str:
    """A title without what makes it a draft.

    >>> [plain_title(t) for t in ("WIP: Add a map", "[wip] WIP: x", "WIPe the table")]
    ['Add a map', 'x', 'WIPe the table']
    """
    while found := _DRAFT.match(title):
        title = title[found.end() :]
    return title


def is_draft(raw: Raw) -> bool:
    """Whether it is one; an older server leaves that to its title."""
    return bool(raw.get("draft", _DRAFT.match(raw["title"])))


def titled(title: str, draft: bool) -> str:
    """A title that makes it a draft, or surely none."""
    return f"{DRAFT * draft}{plain_title(title)}"


def when(text: str) -> str:
    """A moment as the forge writes it, in the server's own time zone, in UTC.

    >>> when("2026-11-27T04:12:00+01:00")
    '2026-11-27T03:12:00Z'
    """
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def style(raw: Raw, wanted: str) -> str:
    """How it is merged: as wanted where the repository allows that, else as the repository likes best."""
    allowed = {"merge": "allow_merge_commits", "squash": "allow_squash_merge", "rebase": "allow_rebase"}
    where = raw["base"].get("repo") or {}
    return wanted if where.get(allowed[wanted], True) else where.get("default_merge_style") or "merge"


# -- checks ------------------------------------------------------------------------------------------------------------
def parse_checks(statuses: Iterable[Raw], head: str, required: Sequence[str], origin: str) -> tuple[Check, ...]:
    """Commit statuses, the newest of each context. `required` are globs of contexts; `origin` completes addresses."""
    newest: dict[str, Raw] = {}
    for raw in statuses:
        if raw["id"] >= newest.get(raw["context"], raw)["id"]:
            newest[raw["context"]] = raw
    return tuple(
        Check(raw["context"], STATES.get(raw["status"], "failed"), f"{head}/{raw['id']}",
              urljoin(origin, raw["target_url"] or ""), any(fnmatchcase(raw["context"], glob) for glob in required))
        for raw in newest.values()
    )  # fmt: skip


def run_of(check: Check, runs: Iterable[Raw]) -> Raw | None:
    """The run of Actions that a check is of: their addresses say so."""
    found = _JOB.search(check.url)
    return next((run for run in runs if found and run["html_url"].endswith(found[1])), None)


def job_of(check: Check, jobs: Iterable[Raw]) -> Raw | None:
    """Its job in that run: by its address, else by its name, as the check is named `WORKFLOW / JOB (EVENT)`."""
    known, found = list(jobs), _JOB.search(check.url)
    named = re.sub(r"^.*? / | \([a-z_]+\)$", "", check.name)
    by_address = (job for job in known if found and (job.get("html_url") or "").endswith(found[0]))
    return next(by_address, None) or next((job for job in known if job["name"] == named), None)


# -- what is said ------------------------------------------------------------------------------------------------------
def mark(key: str) -> str:
    """What is hidden in what we write, so that it is found again. A key is a word."""
    return f"<!-- nightcrew:{re.sub(r'[^A-Za-z0-9._-]', '-', key)} -->"


RESOLVED = mark("resolved")
"""Hidden in an answer of ours: its thread is closed, on a forge that has no way to say so."""


def said_by(raw: Raw, login: str) -> bool:
    """Whether that login wrote it; logins are the same in any case."""
    return bool(raw["user"]) and raw["user"]["login"].lower() == login.lower()


@dataclass
class Thread:
    """A conversation about a line: what one review says there, what was answered to it, and what we answered to it."""

    comments: list[Raw] = field(default_factory=list)

    @property
    def id(self) -> str:
        """That of its first comment."""
        return str(self.comments[0]["id"])

    def resolved(self, me: str) -> bool:
        """Closed by somebody, or, where a forge has no way to say so, by us and then said nothing to."""
        last = self.comments[-1]
        return any(c.get("resolver") for c in self.comments) or (said_by(last, me) and RESOLVED in last["body"])


def threads(comments: Iterable[Raw], me: str) -> list[Thread]:
    """Comments of reviews as threads. Gitea has none: a thread is a review, a file and a line.

    Our answer is in a review of its own where a forge knows no other way; it then says whose thread it belongs to.
    """
    found: dict[tuple[object, ...], Thread] = {}
    firsts: dict[str, Thread] = {}
    for raw in sorted(comments, key=lambda c: c["id"]):
        answers = re.search(r"<!-- nightcrew:re-(\d+) -->", raw["body"]) if said_by(raw, me) else None
        thread = firsts.get(answers[1]) if answers else None
        if thread is None:
            place = (raw["pull_request_review_id"], raw["path"], raw["position"], raw["original_position"])
            thread = found.setdefault(place, Thread())
        thread.comments.append(raw)
        firsts.setdefault(thread.id, thread)
    return list(found.values())


def parse_remarks(comments: Iterable[Raw], reviews: Iterable[Raw], lines: Iterable[Thread], me: str,
                  writers: Collection[str], robots: Collection[str]) -> tuple[Remark, ...]:  # fmt: skip
    """Everything said, oldest first. `writers` and `robots` are logins in lower case."""
    found: list[tuple[str, int, int, Raw, dict[str, Any]]] = [
        (when(raw["created_at"]), 0, raw["id"], raw, {}) for raw in comments
    ]
    for thread in lines:
        place = {"thread": thread.id, "resolved": thread.resolved(me)}
        found += [(when(raw["created_at"]), 0, raw["id"], raw, {**place, **_line(raw)}) for raw in thread.comments]
    for raw in reviews:
        verdict = "" if raw["dismissed"] else VERDICTS.get(raw["state"], "")
        if verdict or (raw["body"] and raw["state"] not in ("PENDING", "REQUEST_REVIEW")):
            given = {"verdict": verdict, "head": raw.get("commit_id") or ""}
            found.append((when(raw["submitted_at"]), 1, raw["id"], raw, given))
    return tuple(
        _remark(f"{'r' * kind}{number}", at, raw, place, me, writers, robots)
        for at, kind, number, raw, place in sorted(found, key=lambda row: row[:3])
    )


def _line(raw: Raw) -> dict[str, Any]:
    return {"path": raw["path"], "line": raw["position"] or raw["original_position"] or 0}


def _remark(id_: str, at: str, raw: Raw, place: Mapping[str, Any], me: str, writers: Collection[str],
            robots: Collection[str]) -> Remark:  # fmt: skip
    user = raw["user"] or {"login": "Ghost", "id": -1}
    name = user["login"]
    return Remark(
        id=id_, author=name, text=_MARK.sub("", raw["body"]), at=at, trusted=name.lower() in writers,
        bot=user["id"] < -1 or bool(_ROBOT.search(name)) or name.lower() in robots, mine=said_by(raw, me), **place,
    )  # fmt: skip


def authors(*lists: Iterable[Raw]) -> set[str]:
    """The logins of who wrote these, as they are written."""
    return {raw["user"]["login"] for some in lists for raw in some if raw["user"]}


def approved(remarks: Iterable[Remark], needed: int) -> bool:
    """By as many as the rules want, with nobody trusted whose last word is that changes are needed."""
    last = {r.author: r.verdict for r in remarks if r.trusted and r.verdict}
    return "changes" not in last.values() and list(last.values()).count("approved") >= needed > 0


def merging(timeline: Iterable[Raw]) -> bool:
    """Whether it is to be merged by the forge once all is green: its timeline tells when that was ordered."""
    kinds = ("pull_scheduled_merge", "pull_cancel_scheduled_merge")
    orders = [row["type"] for row in timeline if row and row["type"] in kinds]
    return orders[-1:] == [kinds[0]]


# -- the list ----------------------------------------------------------------------------------------------------------
@dataclass
class Pulls:
    """The pull requests of one repository, taken over page by page, the last changed first."""

    known: dict[int, PullRequest] = field(default_factory=dict)
    stamps: dict[int, str] = field(default_factory=dict)
    partial: bool = False  # there are more than one reads
    reads: int = 0

    def took(self, rows: Iterable[Raw], repo: str) -> bool:
        """Take a page over; True when some of it was known as it is, so that all that follows is."""
        old = False
        for raw in rows:
            old = old or self.stamps.get(raw["number"]) == raw["updated_at"]
            self.known[raw["number"]] = parse_pull(raw, repo)
            self.stamps[raw["number"]] = raw["updated_at"]
        return old

    def copy(self) -> Pulls:
        return Pulls(dict(self.known), dict(self.stamps), self.partial, self.reads)

    def open(self) -> set[int]:
        return {number for number, pull in self.known.items() if pull.state == "open"}

    def newest_first(self) -> list[PullRequest]:
        return [self.known[number] for number in sorted(self.known, reverse=True)]
