"""Following a merge request up on GitLab: what the answers of its REST mean together. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from nightcrew.adapters.forges.gitlab.parse import parse_pull
from nightcrew.adapters.gitlab_api import Json, utc
from nightcrew.core.followup import approvals
from nightcrew.core.model import Check, Remark, Standing

UNKNOWN = frozenset({"unchecked", "checking", "preparing", "cannot_be_merged_recheck"})
"""Words of `merge_status` and `detailed_merge_status` while GitLab finds out whether it merges."""
STRICT = frozenset({"ff", "rebase_merge"})
"""Merge methods of a project for which the branch has to be up to date with its base."""
PASSED = frozenset({"success", "skipped"})
FAILED = frozenset({"failed", "canceled", "canceling"})
WAITS = "manual"  # until a person starts it, such a job says nothing
SAID = {"approved": "approved this merge request", "changes": "requested changes"}
"""How GitLab's own notes word a verdict; when it was given is told there alone."""
NEAR = timedelta(seconds=60)  # a review's verdict and its text are two things, written one after the other
_NOISE = re.compile(r"section_(?:start|end):\d+:[^\r\n]*\r|\x1b\[[0-9;]*[A-Za-z]|\r(?=\n)")
STAMPED = ("state", "sha", "draft", "updated_at", "merge_status", "detailed_merge_status", "has_conflicts",
           "user_notes_count", "blocking_discussions_resolved", "merge_when_pipeline_succeeds",
           "target_branch")  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What GitLab answered about one merge request. `writers` and `robots` are user names."""

    raw: Json
    discussions: Sequence[Json] = ()
    approvals: Json = field(default_factory=dict)
    reviewers: Sequence[Json] = ()
    versions: Sequence[Json] = ()  # what was pushed, where an approval must be told from one of an older head
    pipeline: Json | None = None
    jobs: Sequence[Json] = ()
    base_head: str = ""
    project: Json = field(default_factory=dict)
    writers: frozenset[str] = frozenset()
    robots: frozenset[str] = frozenset()
    me: str = ""


def parse_standing(told: Told, repo: str) -> Standing:
    """All of it as one word on how the merge request stands."""
    raw, remarks = told.raw, remarks_of(told)
    behind = told.project.get("merge_method") in STRICT and (raw.get("diverged_commits_count") or 0) > 0
    return Standing(
        pull=parse_pull(raw, repo), base_head=told.base_head, draft=bool(raw["draft"]), mergeable=mergeable(raw),
        behind=behind, checks=checks_of(told), remarks=remarks,
        approved=ruled(told.approvals) and not told.approvals.get("approvals_left"),
        approvals=() if ruled(told.approvals) else approvals(remarks),
        merging=bool(raw.get("merge_when_pipeline_succeeds")),
    )  # fmt: skip


def mergeable(raw: Mapping[str, Any]) -> bool | None:
    """`detailed_merge_status` names one reason of several, so a conflict is looked for where it is always told."""
    if raw.get("has_conflicts"):
        return False
    if {raw.get("merge_status"), raw.get("detailed_merge_status")} & UNKNOWN:
        return None
    return raw.get("merge_status") != "cannot_be_merged"


# -- checks ------------------------------------------------------------------------------------------------------------
def head_pipeline(raw: Mapping[str, Any]) -> Json | None:
    """The pipeline of its head. An older server goes on showing that of an earlier head.

    One of merged results or of a merge train runs on a commit of its own.
    """
    found: Json | None = raw.get("head_pipeline")
    return found if found and is_of(found, raw["iid"], raw["sha"]) else None


def is_of(pipeline: Mapping[str, Any], number: int, head: str) -> bool:
    """Whether a pipeline says something about that merge request at that head."""
    trials = {f"refs/merge-requests/{number}/{kind}" for kind in ("merge", "train")}
    return pipeline["sha"] == head or pipeline.get("ref") in trials


def checks_of(told: Told) -> tuple[Check, ...]:
    """The jobs, and the pipeline itself where it failed for a reason that no job tells (a child pipeline, a status)."""
    if told.pipeline is None:
        return ()
    required = bool(told.project.get("only_allow_merge_if_pipeline_succeeds"))
    found = [_check(job, required) for job in told.jobs if job["status"] != WAITS]
    state, states = _state(told.pipeline["status"]), {check.state for check in found}
    if told.pipeline["status"] != WAITS and state not in states and (state != "passed" or not found):
        url = told.pipeline.get("web_url") or ""
        found.append(Check("pipeline", state, f"pipeline/{told.pipeline['id']}", url, required))
    return tuple(found)


def _check(job: Mapping[str, Any], required: bool) -> Check:
    forgiven = bool(job.get("allow_failure"))
    state = "passed" if forgiven and job["status"] in FAILED else _state(job["status"])
    return Check(job["name"], state, str(job["id"]), job.get("web_url") or "", required and not forgiven)


def _state(status: str) -> str:
    return "passed" if status in PASSED else "failed" if status in FAILED else "running"


# -- what was said -----------------------------------------------------------------------------------------------------
def authors_of(told: Told) -> dict[int, Json]:
    """Everybody whose word may count, by number."""
    notes = [note["author"] for thread in told.discussions for note in thread["notes"]]
    verdicts = [one["user"] for one in (*(told.approvals.get("approved_by") or ()), *told.reviewers)]
    return {one["id"]: one for one in (*notes, *verdicts) if one}


def remarks_of(told: Told) -> tuple[Remark, ...]:
    """What people and robots said, with the verdicts of reviews; GitLab's own notes are no remarks."""
    found = [r for thread in told.discussions for r in _thread(thread, told)]
    for name, verdict in _verdicts(told):
        found = _judged(found, name, verdict, told)
    return tuple(sorted(found, key=lambda remark: (remark.at, remark.id.zfill(20))))


def _thread(raw: Mapping[str, Any], told: Told) -> Iterable[Remark]:
    first = raw["notes"][0]
    thread = "" if raw["individual_note"] else raw["id"]
    place = first.get("position") or {}
    closed = [note["resolved"] for note in raw["notes"] if note.get("resolvable")]
    for note in raw["notes"]:
        if note["system"]:
            continue
        yield _remark(note, told, thread=thread, path=place.get("new_path") or place.get("old_path") or "",
                      line=place.get("new_line") or place.get("old_line") or 0,
                      resolved=bool(thread and closed and all(closed)))  # fmt: skip


def _remark(note: Mapping[str, Any], told: Told, **place: Any) -> Remark:
    name = _name(note)
    return Remark(id=str(note["id"]), author=name, text=_plain(note["body"]), at=utc(note["created_at"]),
                  trusted=name in told.writers, bot=name in told.robots, mine=name == told.me, **place)  # fmt: skip


def _name(note: Mapping[str, Any]) -> str:
    """Its author; an account that was deleted is GitLab's ghost."""
    return str((note.get("author") or {}).get("username") or "ghost")


def _verdicts(told: Told) -> Iterable[tuple[str, str]]:
    """Who approves now, and who asks for changes now: what was taken back counts no more."""
    for one in told.approvals.get("approved_by") or ():
        yield one["user"]["username"], "approved"
    for one in told.reviewers:
        if one["state"] == "requested_changes":
            yield one["user"]["username"], "changes"


def _judged(found: list[Remark], name: str, verdict: str, told: Told) -> list[Remark]:
    """With that verdict: on the text that was written with it, else as a remark without a text."""
    system = [n for t in told.discussions for n in t["notes"] if n["system"] and _name(n) == name]
    said = [note for note in system if note["body"].startswith(SAID[verdict])]
    at = utc(said[-1]["created_at"]) if said else utc(told.raw["updated_at"])
    head = _head_at(told, at) if said else ""
    near = [r for r in found if r.author == name and not r.thread and not r.verdict and said and _near(r.at, at)]
    if near:
        return [replace(r, verdict=verdict, head=head) if r is near[-1] else r for r in found]
    number = str(said[-1]["id"]) if said else f"{verdict}-{name}"
    alone = Remark(number, name, "", at, verdict=verdict, trusted=name in told.writers, bot=name in told.robots,
                   mine=name == told.me, head=head)  # fmt: skip
    return [*found, alone]


def _near(one: str, other: str) -> bool:
    return abs(datetime.fromisoformat(one) - datetime.fromisoformat(other)) <= NEAR


def ruled(approvals: Mapping[str, Any]) -> bool:
    """Whether the project's rules ask for an approval."""
    return (approvals.get("approvals_required") or 0) > 0


def _head_at(told: Told, at: str) -> str:
    """Where its branch was then, "" when that is not told. Without a rule an approval outlives every push."""
    then = datetime.fromisoformat(at)
    pushed = [one for one in told.versions if datetime.fromisoformat(one["created_at"]) <= then]
    return str(max(pushed, key=lambda one: int(one["id"]))["head_commit_sha"]) if pushed else ""


# -- what we say -------------------------------------------------------------------------------------------------------
def mark(key: str) -> str:
    """What is hidden in what we write, so that it is found again. A key is a word."""
    return f"<!-- nightcrew:{re.sub(r'[^A-Za-z0-9._-]', '-', key)} -->"


def _plain(body: str) -> str:
    return re.sub(r"<!-- nightcrew:[A-Za-z0-9._-]* -->\n?", "", body)


def ours(note: Mapping[str, Any], key: str, me: str) -> bool:
    """Whether this is what we said under that key."""
    return bool(note["body"].startswith(mark(key)) and _name(note) == me)


# -- stamps ------------------------------------------------------------------------------------------------------------
@dataclass
class Pipelines:
    """The pipelines of one project that changed lately, by number."""

    known: dict[int, Json] = field(default_factory=dict)
    newest: str = ""

    def take(self, rows: Iterable[Json], most: int = 1000) -> None:
        for row in rows:
            self.known[row["id"]] = {key: row.get(key) for key in ("id", "sha", "ref", "status", "updated_at")}
            self.newest = max(self.newest, utc(row["updated_at"] or row["created_at"]))
        self.known = dict(sorted(self.known.items())[-most:])

    def of(self, number: int, head: str) -> Json | None:
        """The newest of a merge request."""
        return max((p for p in self.known.values() if is_of(p, number, head)), key=lambda p: int(p["id"]), default=None)


def stamp(raw: Mapping[str, Any], pipeline: Json | None, base_head: str) -> str:
    """A word that is another one when anything in it changed."""
    told = [raw.get(key) for key in STAMPED]
    return sha256(repr((told, pipeline, base_head)).encode()).hexdigest()[:16]


def readable(trace: str) -> str:
    """A job's trace without the colours and the section marks that its runner puts in.

    >>> readable("section_start:1:run\\r\\x1b[0K\\x1b[32;1m$ make\\x1b[0;m\\nok\\n")
    '$ make\\nok\\n'
    """
    return _NOISE.sub("", trace)
