"""What is on the GitLab stand-in: accounts, projects, issues, merge requests; and what people do there."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from nightcrew.testing.company.git_http import Bare

NOBODY, GUEST, REPORTER, DEVELOPER, MAINTAINER = 0, 10, 20, 30, 40
ENDED = ("success", "failed", "canceled", "skipped")
_COMMAND = re.compile(r"^[ \t]*/(close|reopen|merge|approve|label|assign)\b(.*)$", re.M | re.I)
_CLOSES = re.compile(r"\b(?:clos(?:e[sd]?|ing)|fix(?:e[sd]|ing)?|resolv(?:e[sd]?|ing)):?\s+([\w./-]*)#(\d+)", re.I)


@dataclass
class Said:
    """A comment of a person, or (`system`) a note of GitLab's own."""

    id: int
    author: str
    body: str
    at: str
    changed: str
    system: bool = False
    path: str = ""  # of the file it is about
    resolved: str = ""  # by whom


@dataclass
class Thread:
    """One comment, or (not `alone`) a thread of them."""

    id: str
    notes: list[Said]
    alone: bool = True


@dataclass
class Issue:
    iid: int
    id: int
    title: str
    body: str
    author: str
    at: str
    changed: str
    labels: list[str] = field(default_factory=list)
    assignees: list[str] = field(default_factory=list)
    milestone: str = ""
    state: str = "opened"
    closed_at: str | None = None
    duplicate: bool = False
    threads: list[Thread] = field(default_factory=list)
    blocked_by: list[tuple[str, int]] = field(default_factory=list)  # (project, number)
    moved: int = 0  # orders changes within one millisecond, as the service's finer clock does

    def notes(self) -> list[Said]:
        return [note for thread in self.threads for note in thread.notes]


@dataclass
class Merge(Issue):
    """A merge request."""

    source: str = ""
    target: str = "main"
    sha: str = ""
    fork: bool = False  # its branch is in somebody else's project
    approvals: dict[str, str] = field(default_factory=dict)  # who -> when
    reviewers: dict[str, str] = field(default_factory=dict)  # who -> how far
    versions: list[tuple[int, str, str]] = field(default_factory=list)  # number, head, when it was pushed
    prepared: bool = False
    asked: tuple[str, str] = ("", "")  # the commits whether they merge is being found out of
    checked: tuple[str, str] = ("", "")  # and was
    merged_at: str = ""
    merge_sha: str = ""
    squash_sha: str = ""
    auto: bool = False
    train: bool = False

    @property
    def draft(self) -> bool:
        return bool(re.match(r"\s*(?:draft:|\[draft\]|\(draft\))", self.title, re.I))


@dataclass
class Job:
    id: int
    name: str
    status: str
    log: str = ""
    allow_failure: bool = False
    retried: bool = False


@dataclass
class Pipeline:
    id: int
    sha: str
    ref: str
    at: str
    changed: str
    jobs: list[Job] = field(default_factory=list)
    status: str = "created"

    def now(self) -> list[Job]:
        return [job for job in self.jobs if not job.retried]

    def told(self) -> str:
        """What its jobs make of it."""
        states = {j.status for j in self.now() if not (j.allow_failure and j.status == "failed")}
        if states - {*ENDED, "manual"}:
            return "running"
        return "failed" if states & {"failed", "canceled"} else "success"


@dataclass
class Place:
    """One project."""

    name: str
    id: int
    bare: Bare
    issues: dict[int, Issue] = field(default_factory=dict)
    merges: dict[int, Merge] = field(default_factory=dict)
    pipelines: list[Pipeline] = field(default_factory=list)
    milestones: dict[str, int] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    merge_method: str = "merge"
    squash_option: str = "default_off"
    green: bool = False  # only what is green is merged
    approvals: int = 0
    trains: bool = False
    licensed: bool = True  # issues may block one another


class State:
    """Everything on the stand-in. Methods are what people do; each takes `turn`, so any thread may call them."""

    def __init__(self, root: Path, turn: threading.RLock, clock: Callable[[], datetime] | None = None) -> None:
        self.root, self.turn = root, turn
        self.clock = clock or (lambda: datetime.now(UTC))
        self.places: dict[str, Place] = {}
        self.moved: dict[str, Place] = {}  # by their old paths, in lower case
        self.access = {"nightcrew": DEVELOPER, "ada": MAINTAINER, "bob": DEVELOPER, "lint-bot": DEVELOPER,
                       "gil": GUEST, "eve": NOBODY}  # fmt: skip
        self.people = {name: number for number, name in enumerate(self.access, 11)}
        self.tokens = {"glpat-nightcrew": "nightcrew", "glpat-ada": "ada", "glpat-gil": "gil", "glpat-eve": "eve"}
        self.scopes = {token: ["api"] for token in self.tokens}
        self.bots = {"lint-bot"}
        self._ids = itertools.count(1001)

    def id(self) -> int:
        return next(self._ids)

    def now(self) -> str:
        return self.clock().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    # -- projects ------------------------------------------------------------------------------------------------------
    def project(self, name: str, files: Mapping[str, str]) -> Place:
        """A new project `group/name` whose main has these files."""
        with self.turn:
            place = Place(name, self.id(), Bare.make(self.root / f"{name}.git", files))
            self.places[name] = place
            return place

    def rename(self, name: str, to: str) -> None:
        """A project moves to another path; the old one leads there."""
        with self.turn:
            place = self.places.pop(name)
            place.name, self.places[to], self.moved[name.lower()] = to, place, place
            (self.root / f"{to}.git").parent.mkdir(parents=True, exist_ok=True)
            place.bare = replace(place.bare, path=place.bare.path.rename(self.root / f"{to}.git"))

    def label(self, place: Place, name: str) -> str:
        """The label, made when the project has none of that name, as the service does."""
        place.labels += [] if name in place.labels else [name]
        return name

    # -- issues --------------------------------------------------------------------------------------------------------
    def issue(self, name: str, title: str, body: str = "", labels: tuple[str, ...] = (), author: str = "ada",
              blocked_by: tuple[tuple[str, int], ...] = ()) -> Issue:  # fmt: skip
        """Somebody writes an issue."""
        with self.turn:
            place, now = self.places[name], self.now()
            number = max(place.issues, default=0) + 1
            made = Issue(number, self.id(), title, "", author, now, now, blocked_by=list(blocked_by), moved=self.id())
            made.labels = sorted(self.label(place, label) for label in labels)
            place.issues[number] = made
            made.body = self.obey(place, made, author, body)
            return made

    def touch(self, issue: Issue) -> None:
        issue.changed, issue.moved = self.now(), self.id()

    def note(self, issue: Issue, author: str, text: str, *, system: bool = False, thread: Thread | None = None,
             path: str = "") -> Said:  # fmt: skip
        """A comment, in a thread or alone."""
        with self.turn:
            now = self.now()
            said = Said(self.id(), author, text, now, now, system, path)
            if thread is None:
                thread = Thread(f"{said.id:040x}", [], alone=not path)
                issue.threads.append(thread)
            thread.notes.append(said)
            self.touch(issue)
            return said

    def say(self, name: str, number: int, author: str, text: str) -> Said:
        """A comment below an issue."""
        with self.turn:
            return self.note(self.places[name].issues[number], author, text)

    def obey(self, place: Place, issue: Issue, author: str, text: str) -> str:
        """Do what the lines of a text command, with its author's rights; the text without them."""
        for word, rest in _COMMAND.findall(text):
            match word.lower():
                case "close":
                    self.close(issue, author)
                case "reopen":
                    self.reopen(issue, author)
                case "label":
                    self.relabel(place, issue, tuple(re.findall(r'~"?([\w:-]+)"?', rest)))
                case "approve" if isinstance(issue, Merge):
                    self.approve(issue, author)
                case "merge" if isinstance(issue, Merge):
                    self.merge(place, issue)
        return re.sub(r"\n{3,}", "\n\n", _COMMAND.sub("", text)).strip() if _COMMAND.search(text) else text

    def relabel(self, place: Place, issue: Issue, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> None:
        """Labels are added and taken away at once; of a scope (`a::b`) an issue has one alone where it is licensed."""
        with self.turn:
            scopes = {name.rpartition("::")[0] for name in add if "::" in name and place.licensed}
            kept = [n for n in issue.labels if n not in remove and n.rpartition("::")[0] not in scopes - {""}]
            issue.labels = sorted({*kept, *(self.label(place, name) for name in add)})
            self.note(issue, "ada", f"changed labels to {', '.join(issue.labels)}", system=True)

    def close(self, issue: Issue, author: str = "ada") -> None:
        with self.turn:
            issue.state, issue.closed_at = "closed", self.now()
            self.note(issue, author, "closed", system=True)

    def reopen(self, issue: Issue, author: str = "ada") -> None:
        with self.turn:
            issue.state, issue.closed_at = "opened", None
            self.note(issue, author, "reopened", system=True)

    # -- merge requests ------------------------------------------------------------------------------------------------
    def head(self, place: Place, merge: Merge) -> str:
        """Where the branch is now; a push is seen here, and counts as a change. Closed ones keep their last."""
        sha = place.bare.sha(f"refs/heads/{merge.source}")
        if merge.state == "opened" and not merge.fork and sha and sha != merge.sha:
            merge.sha = sha
            merge.versions.append((self.id(), sha, self.now()))
            self.note(merge, merge.author, "added 1 commit", system=True)
        return merge.sha

    def base_head(self, place: Place, merge: Merge) -> str:
        return place.bare.sha(f"refs/heads/{merge.target}")

    def thread(self, place: Place, merge: Merge, author: str, path: str, text: str) -> Thread:
        """Begin a thread at line 1 of a file."""
        with self.turn:
            self.note(merge, author, text, path=path)
            return merge.threads[-1]

    def approve(self, merge: Merge, author: str) -> None:
        with self.turn:
            self.head(next(p for p in self.places.values() if merge in p.merges.values()), merge)
            merge.approvals[author] = self.now()
            merge.reviewers[author] = "approved"
            self.note(merge, author, "approved this merge request", system=True)

    def request_changes(self, merge: Merge, author: str) -> None:
        with self.turn:
            merge.approvals.pop(author, None)
            merge.reviewers[author] = "requested_changes"
            self.note(merge, author, "requested changes", system=True)

    def check(self, place: Place, head: str, name: str, status: str, log: str = "", *,
              allow_failure: bool = False) -> Job:  # fmt: skip
        """A job of that commit's pipeline, made with it when there is none, or changed."""
        with self.turn:
            pipeline = next((p for p in place.pipelines if p.sha == head), None)
            if pipeline is None:
                ref = next((m.source for m in place.merges.values() if self.head(place, m) == head), "main")
                pipeline = Pipeline(self.id(), head, ref, self.now(), self.now())
                place.pipelines.append(pipeline)
            job = next((j for j in pipeline.now() if j.name == name), None)
            if job is None:
                job = Job(self.id(), name, status, log, allow_failure)
                pipeline.jobs.append(job)
            job.status, job.log = status, log or job.log
            self.ran(pipeline)
            return job

    def ran(self, pipeline: Pipeline) -> None:
        pipeline.status, pipeline.changed = pipeline.told(), self.now()

    def merge(self, place: Place, merge: Merge, *, squash: bool = False) -> None:
        """Merge by a person or by us; closes the issues that its text says it closes."""
        with self.turn:
            sha = place.bare.merge(merge.target, self.head(place, merge), merge.title, squash=squash)
            merge.merge_sha, merge.squash_sha = sha, sha if squash else ""
            merge.state, merge.merged_at, merge.auto = "merged", self.now(), False
            self.note(merge, "ada", "merged", system=True)
            for name, number in closes(merge.body, place.name):
                issue = self.places[name].issues.get(number) if name in self.places else None
                if issue and issue.state == "opened":
                    self.close(issue)


def closes(text: str, name: str) -> list[tuple[str, int]]:
    """The issues that a merge request's text closes when it is merged."""
    return [(where or name, int(number)) for where, number in _CLOSES.findall(text)]
