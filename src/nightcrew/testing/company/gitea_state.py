"""What is on the Gitea stand-in: accounts, repositories, pull requests; and what people do there."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from fnmatch import fnmatchcase
from pathlib import Path

from nightcrew.core.model import Repo
from nightcrew.testing.company.git_http import Bare

ZONE = timezone(timedelta(hours=1))  # the server's own: times are shown in it, not in UTC
WRITES = ("write", "admin", "owner")
ALL = frozenset({"write:repository", "write:issue", "read:user"})


@dataclass
class Said:
    """A comment below a pull request, or of a review: then it is about a line of a file."""

    id: int
    author: str
    body: str
    at: str
    changed: str
    review: int = 0
    path: str = ""
    position: int = 0
    resolver: str = ""


@dataclass
class Review:
    id: int
    author: str
    state: str  # APPROVED | REQUEST_CHANGES | COMMENT
    body: str
    at: str
    head: str
    dismissed: bool = False


@dataclass
class Status:
    """A commit status; a newer one of the same context takes the place of the older."""

    id: int
    head: str
    context: str
    state: str
    target: str
    at: str


@dataclass
class Job:
    """The one job of a run of Actions."""

    id: int
    run: int
    number: int  # of the run in its repository, as addresses have it
    head: str
    name: str
    state: str  # pending | success | failure
    log: str


@dataclass
class Rule:
    """The protection of a branch."""

    name: str
    approvals: int = 0
    contexts: tuple[str, ...] = ()
    up_to_date: bool = False


@dataclass
class Pull:
    number: int
    id: int
    title: str
    body: str
    author: str
    head: str  # the branch
    base: str
    at: str
    changed: str
    head_sha: str
    fork: str = ""  # the owner of the fork its head is in
    closed_at: str | None = None
    merged_at: str | None = None
    merge_sha: str | None = None
    moved: int = 0  # orders changes within one second
    checking: int = 1  # so often is it still looked for a conflict
    known: tuple[str, str] = ("", "")  # the commits that was found out for
    asked: int = 0
    scheduled: str = ""  # the style in which it merges itself
    labels: list[int] = field(default_factory=list)
    reviewers: list[str] = field(default_factory=list)
    comments: list[Said] = field(default_factory=list)
    reviews: list[Review] = field(default_factory=list)
    lines: list[Said] = field(default_factory=list)
    events: list[tuple[int, str, str, str]] = field(default_factory=list)  # id, type, who, when

    @property
    def open(self) -> bool:
        return self.closed_at is None

    @property
    def draft(self) -> bool:
        """By its title, as the service has it."""
        return self.title.upper().startswith(("WIP:", "[WIP]"))


@dataclass
class Place:
    """One repository."""

    name: str
    id: int
    bare: Bare
    pulls: dict[int, Pull] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    statuses: list[Status] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    styles: tuple[str, ...] = ("merge", "squash", "rebase")
    default_style: str = "merge"
    refs: dict[str, str] | None = None  # where its branches are, while a request is answered
    bases: dict[tuple[str, str], str] = field(default_factory=dict)  # of two commits, and whether those merge
    clashes: dict[tuple[str, str], bool] = field(default_factory=dict)

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Within the block git is asked but once where the branches are."""
        told = self.bare.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads")
        self.refs = dict(line.split() for line in told.splitlines())
        try:
            yield
        finally:
            self.refs = None

    def branch(self, name: str) -> str:
        """The commit it is at, "" when there is none."""
        return self.bare.sha(f"refs/heads/{name}") if self.refs is None else self.refs.get(name, "")

    def merge_base(self, base: str, head: str) -> str:
        if (base, head) not in self.bases:
            self.bases[base, head] = self.bare.run("merge-base", base, head).stdout.strip()
        return self.bases[base, head]

    def clash(self, base: str, head: str) -> bool:
        if (base, head) not in self.clashes:
            self.clashes[base, head] = self.bare.conflicts(base, head)
        return self.clashes[base, head]

    def rule(self, branch: str) -> Rule | None:
        return next((rule for rule in self.rules if fnmatchcase(branch, rule.name)), None)


class State:
    """Everything on the stand-in. Methods are what people do; each takes `turn`, so any thread may call them."""

    def __init__(self, root: Path, turn: threading.RLock, clock: Callable[[], datetime] | None = None) -> None:
        self.root, self.turn = root, turn
        self.clock = clock or (lambda: datetime.now(UTC))
        self.places: dict[str, Place] = {}
        self.access = {"nightcrew": "write", "ada": "write", "lint-bot": "write", "eve": "read", "boss": "admin"}
        self.tokens = {"gta_nightcrew": "nightcrew", "gta_ada": "ada", "gta_eve": "eve", "gta_boss": "boss"}
        self.scopes: dict[str, frozenset[str]] = {}  # of a token that has not all it needs
        self._ids = itertools.count(1001)
        self._users = {"gitea-actions": -2}

    def id(self) -> int:
        return next(self._ids)

    def user(self, login: str) -> int:
        """Its number."""
        return self._users.setdefault(login, 10 + len(self._users))

    def now(self) -> str:
        return self.clock().astimezone(ZONE).isoformat(timespec="seconds")

    def writes(self, login: str) -> bool:
        return self.access.get(login) in WRITES

    # -- repositories --------------------------------------------------------------------------------------------------
    def repository(self, name: str, files: Mapping[str, str]) -> Place:
        """A new repository `owner/name` whose main has these files."""
        with self.turn:
            place = Place(name, self.id(), Bare.make(self.root / f"{name}.git", files))
            self.places[name] = place
            return place

    def label(self, name: str, label: str) -> int:
        """A new label; its number."""
        with self.turn:
            return self.places[name].labels.setdefault(label, self.id())

    # -- pull requests -------------------------------------------------------------------------------------------------
    def pull(self, name: str, title: str, body: str, head: str, base: str, author: str, fork: str = "") -> Pull:
        """Somebody opens one."""
        with self.turn:
            place, now = self.places[name], self.now()
            number = max(place.pulls, default=0) + 1
            sha = place.branch(head)
            made = Pull(number, self.id(), title, body, author, head, base, now, now, sha, fork, moved=self.id())
            place.pulls[number] = made
            return made

    def touch(self, pull: Pull, event: str = "", who: str = "ada") -> None:
        """It changed, by an event of its timeline if one is named."""
        pull.changed, pull.moved = self.now(), self.id()
        if event:
            pull.events.append((self.id(), event, who, pull.changed))

    def head(self, place: Place, pull: Pull) -> str:
        """Where the branch is now; a push is seen here. Closed ones, and those without branch, keep their last."""
        sha = place.branch(pull.head)
        if pull.open and sha and sha != pull.head_sha:
            pull.head_sha = sha
            self.touch(pull, "pull_push")
        return pull.head_sha

    def base_head(self, place: Place, pull: Pull) -> str:
        return place.branch(pull.base)

    def conflict(self, place: Place, pull: Pull) -> str:
        """ "" when there is none, "checking" the first times it is asked after a change: it is found out later."""
        pair = (self.head(place, pull), self.base_head(place, pull))
        if pull.known != pair:
            pull.known, pull.asked = pair, 0
        pull.asked += 1
        if pull.asked <= pull.checking:
            return "checking"
        return "conflict" if place.clash(pair[1], pair[0]) else ""

    def say(self, name: str, number: int, author: str, text: str) -> Said:
        """A comment below it."""
        with self.turn:
            pull, now = self.places[name].pulls[number], self.now()
            said = Said(self.id(), author, text, now, now)
            pull.comments.append(said)
            self.touch(pull, "comment", author)
            return said

    def review(self, name: str, number: int, author: str, state: str, text: str = "") -> Review:
        with self.turn:
            place = self.places[name]
            pull = place.pulls[number]
            made = Review(self.id(), author, state, text, self.now(), self.head(place, pull))
            pull.reviews.append(made)
            self.touch(pull, "review", author)
            return made

    def line(self, pull: Pull, review: int, author: str, path: str, position: int, text: str) -> Said:
        """A comment of a review about a line."""
        now = self.now()
        said = Said(self.id(), author, text, now, now, review, path, position)
        pull.lines.append(said)
        self.touch(pull, "code", author)
        return said

    def thread(self, name: str, number: int, author: str, path: str, text: str) -> Said:
        """Begin one at line 1 of a file: a review that says only this."""
        with self.turn:
            review = self.review(name, number, author, "COMMENT")
            return self.line(self.places[name].pulls[number], review.id, author, path, 1, text)

    def check(self, name: str, head: str, context: str, state: str, log: str = "") -> Job:
        """A job of Actions is now success, failure or pending; what waits for all to be green then merges."""
        with self.turn:
            place = self.places[name]
            job = next((j for j in place.jobs if (j.head, j.name) == (head, context)), None)
            if job is None:
                job = Job(self.id(), self.id(), len(place.jobs) + 1, head, context, state, log)
                place.jobs.append(job)
            job.state, job.log = state, log or job.log
            target = f"/{name}/actions/runs/{job.number}/jobs/0"  # without a host, as the service has it
            place.statuses.append(Status(self.id(), head, context, state, target, self.now()))
            for pull in place.pulls.values():
                if pull.open and pull.scheduled and pull.head_sha == head and self.green(place, head):
                    self.merge(name, pull.number, pull.scheduled)
            return job

    def statuses(self, place: Place, head: str) -> list[Status]:
        """The newest of each context."""
        return list({status.context: status for status in place.statuses if status.head == head}.values())

    def green(self, place: Place, head: str) -> bool:
        return all(status.state == "success" for status in self.statuses(place, head))

    def merge(self, name: str, number: int, style: str = "merge") -> str:
        """Merge by a person or by us."""
        with self.turn:
            place = self.places[name]
            pull = place.pulls[number]
            head, message = self.head(place, pull), f"{pull.title} (#{number})"
            pull.merge_sha = place.bare.merge(pull.base, head, message, squash=style != "merge")
            pull.merged_at = pull.closed_at = self.now()
            place.refs = None
            self.touch(pull, "merge_pull")
            return pull.merge_sha

    def close(self, name: str, number: int) -> None:
        with self.turn:
            pull = self.places[name].pulls[number]
            pull.closed_at = self.now()
            self.touch(pull, "close")

    def delete_branch(self, name: str, branch: str) -> None:
        """As people do once it is merged."""
        with self.turn:
            self.places[name].bare.git("update-ref", "-d", f"refs/heads/{branch}")


class GiteaPeople:
    """What people and robots do, as the forge contracts ask for it; see contracts.People."""

    def __init__(self, state: State) -> None:
        self.state = state

    def _name(self, repo: Repo) -> str:
        return repo.url.removesuffix(".git").split("/", 3)[3]

    def check(self, repo: Repo, head: str, name: str, state: str, log: str = "") -> None:
        self.state.check(self._name(repo), head, name, {"passed": "success", "failed": "failure"}.get(state, "pending"),
                         log)  # fmt: skip

    def comment(self, repo: Repo, number: int, author: str, text: str) -> None:
        self.state.say(self._name(repo), number, author, text)

    def thread(self, repo: Repo, number: int, author: str, path: str, text: str) -> None:
        self.state.thread(self._name(repo), number, author, path, text)

    def review(self, repo: Repo, number: int, author: str, verdict: str, text: str) -> None:
        said = {"approved": "APPROVED", "changes": "REQUEST_CHANGES"}[verdict]
        self.state.review(self._name(repo), number, author, said, text)

    def change_base(self, repo: Repo, **files: str) -> str:
        place = self.state.places[self._name(repo)]
        with self.state.turn:
            return place.bare.commit(repo.base, "change the base", {f"{k}.txt": v for k, v in files.items()})

    def merge(self, repo: Repo, number: int) -> None:
        self.state.merge(self._name(repo), number)

    def close(self, repo: Repo, number: int) -> None:
        self.state.close(self._name(repo), number)
