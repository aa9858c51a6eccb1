"""What is on the GitHub stand-in: accounts, repositories, issues, pull requests; and what people do there."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from nightcrew.core.model import Repo
from nightcrew.testing.company.git_http import Bare

WRITES = ("OWNER", "MEMBER", "COLLABORATOR")


@dataclass
class Said:
    """A comment, in a thread or not."""

    id: int
    author: str
    body: str
    at: str
    changed: str
    thread: int = 0
    path: str = ""
    head: str = ""


@dataclass
class Review:
    id: int
    author: str
    state: str  # APPROVED | CHANGES_REQUESTED | COMMENTED
    body: str
    at: str
    head: str


@dataclass
class CheckRun:
    id: int
    name: str
    head: str
    status: str
    conclusion: str | None
    log: str
    run: int


@dataclass
class Pull:
    """What an issue that is a pull request has besides."""

    head: str  # the branch
    base: str
    id: int
    head_sha: str
    draft: bool = False
    merged_at: str = ""
    merge_sha: str = ""
    unknown: int = 1  # so often is it still being found out whether it merges
    known: tuple[str, str] = ("", "")  # the commits that was found out for
    auto: str = ""
    queued: bool = False
    reviewers: list[str] = field(default_factory=list)
    fork: str = ""  # whose, "" when its branch is in the repository itself


@dataclass
class Issue:
    number: int
    id: int
    title: str
    body: str
    author: str
    at: str
    changed: str
    labels: list[str] = field(default_factory=list)
    assignees: list[str] = field(default_factory=list)
    state: str = "open"
    reason: str | None = None
    closed_at: str | None = None
    pull: Pull | None = None
    comments: list[Said] = field(default_factory=list)
    threads: dict[int, list[Said]] = field(default_factory=dict)
    resolved: set[int] = field(default_factory=set)
    reviews: list[Review] = field(default_factory=list)
    blocked_by: list[int] = field(default_factory=list)
    moved: int = 0  # orders changes within one second, as the service's finer clock does


@dataclass
class Board:
    """A project (v2): what is in it, and the status of each."""

    id: str
    options: tuple[str, ...]
    cards: dict[str, list[object]] = field(default_factory=dict)  # item id -> [repository, number, status, archived]


@dataclass
class Place:
    """One repository."""

    name: str
    bare: Bare
    issues: dict[int, Issue] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    checks: list[CheckRun] = field(default_factory=list)
    required: tuple[str, ...] = ()
    strict: bool = False  # a pull request must be up to date with its base
    approvals: int = 0
    drafts: bool = True  # its owner's plan has drafts
    archived: bool = False


class State:
    """Everything on the stand-in. Methods are what people do; each takes `turn`, so any thread may call them."""

    def __init__(self, root: Path, turn: threading.RLock, clock: Callable[[], datetime] | None = None) -> None:
        self.root, self.turn = root, turn
        self.clock = clock or (lambda: datetime.now(UTC))
        self.places: dict[str, Place] = {}
        self.boards: dict[tuple[str, int], Board] = {}  # by owner and number
        self.access = {
            "nightcrew": "COLLABORATOR",
            "ada": "MEMBER",
            "lint-bot": "COLLABORATOR",
            "eve": "NONE",
            "nightcrew[bot]": "COLLABORATOR",
        }
        self.readers: set[str] = set()  # members and collaborators who may read and nothing more
        self.tokens = {"ghp_nightcrew": "nightcrew", "ghp_ada": "ada", "ghp_eve": "eve"}
        self.scopes: dict[
            str, str
        ] = {}  # login -> what its token may do; "" for a fine-grained one, which does not say
        self.bots = {"lint-bot", "nightcrew[bot]"}
        self.apps: dict[str, bytes] = {}  # id -> its public key; an installation's tokens are nightcrew[bot]'s
        self.renamed: dict[str, str] = {}  # a repository's old name in lower case -> its new one
        self.transferred: dict[tuple[str, int], tuple[str, int]] = {}  # an issue -> what it is now
        self.installations: dict[str, int] = {}  # owner -> the number of the app's installation there
        self.without_app: set[str] = set()  # owners who have not installed it
        self.limited: dict[str, str] = {}  # an installation's token -> the owner whose repositories it is good for
        self._ids = itertools.count(1001)

    def id(self) -> int:
        return next(self._ids)

    def now(self) -> str:
        return self.clock().strftime("%Y-%m-%dT%H:%M:%SZ")

    def installation(self, owner: str) -> int:
        return self.installations.setdefault(owner, 77 + len(self.installations))

    def association(self, login: str) -> str:
        return self.access.get(login, "NONE")

    def writes(self, login: str) -> bool:
        return self.association(login) in WRITES and login not in self.readers

    # -- repositories --------------------------------------------------------------------------------------------------
    def repository(self, name: str, files: Mapping[str, str]) -> Place:
        """A new repository `owner/name` whose main has these files."""
        with self.turn:
            place = Place(name, Bare.make(self.root / f"{name}.git", files))
            self.places[name] = place
            return place

    def rename(self, name: str, to: str) -> None:
        """A repository gets another name; the old one leads there."""
        with self.turn:
            place = self.places.pop(name)
            place.name, self.places[to], self.renamed[name.lower()] = to, place, to
            (self.root / f"{to}.git").parent.mkdir(exist_ok=True)
            (self.root / f"{name}.git").rename(self.root / f"{to}.git")
            place.bare = replace(place.bare, path=self.root / f"{to}.git")

    def transfer(self, name: str, number: int, to: str) -> Issue:
        """An issue moves to another repository, where it gets another number."""
        with self.turn:
            issue = self.places[name].issues.pop(number)
            issue.number = max(self.places[to].issues, default=0) + 1
            self.places[to].issues[issue.number] = issue
            self.transferred[name, number] = (to, issue.number)
            return issue

    def label(self, place: Place, name: str) -> str:
        """The label as the repository writes it, made when it is not there, as the service does."""
        known = next((label for label in place.labels if label.lower() == name.lower()), "")
        if not known:
            place.labels[name] = self.id()
        return known or name

    # -- projects ------------------------------------------------------------------------------------------------------
    def board(self, owner: str, number: int, options: tuple[str, ...] = ("Todo", "In Progress", "Done")) -> Board:
        """A new project with these statuses."""
        with self.turn:
            self.boards[owner, number] = Board(f"PVT_{number}", options)
            return self.boards[owner, number]

    def card(self, board: Board, name: str, number: int, status: str = "") -> str:
        """The issue's card, put into the project when it is not there; with a status it is moved."""
        with self.turn:
            there = [i for i, (repo, n, *_) in board.cards.items() if (repo, n) == (name, number)]
            item = there[0] if there else f"PVTI_{self.id()}"
            board.cards.setdefault(item, [name, number, "", False])
            if status:
                board.cards[item][2] = status
            return item

    # -- issues --------------------------------------------------------------------------------------------------------
    def issue(self, name: str, title: str, body: str = "", labels: tuple[str, ...] = (), author: str = "ada",
              blocked_by: tuple[int, ...] = ()) -> Issue:  # fmt: skip
        """Somebody writes an issue."""
        with self.turn:
            place, now = self.places[name], self.now()
            number = max(place.issues, default=0) + 1
            made = Issue(number, self.id(), title, body, author, now, now, blocked_by=list(blocked_by), moved=self.id())
            made.labels = [self.label(place, label) for label in labels]
            place.issues[number] = made
            return made

    def touch(self, issue: Issue) -> None:
        issue.changed, issue.moved = self.now(), self.id()

    def say(self, name: str, number: int, author: str, text: str) -> Said:
        """A comment below an issue or pull request."""
        with self.turn:
            issue, now = self.places[name].issues[number], self.now()
            said = Said(self.id(), author, text, now, now)
            issue.comments.append(said)
            self.touch(issue)
            return said

    def relabel(self, name: str, number: int, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> None:
        with self.turn:
            place = self.places[name]
            issue = place.issues[number]
            gone = {label.lower() for label in remove}
            kept = [label for label in issue.labels if label.lower() not in gone]
            issue.labels = kept + [made for one in add if (made := self.label(place, one)) not in kept]
            self.touch(issue)

    def close_issue(self, name: str, number: int, reason: str = "completed") -> None:
        with self.turn:
            issue = self.places[name].issues[number]
            issue.state, issue.reason, issue.closed_at = "closed", reason, self.now()
            self.touch(issue)

    def reopen(self, name: str, number: int) -> None:
        with self.turn:
            issue = self.places[name].issues[number]
            issue.state, issue.reason, issue.closed_at = "open", "reopened", None
            self.touch(issue)

    # -- pull requests -------------------------------------------------------------------------------------------------
    def head(self, place: Place, issue: Issue) -> str:
        """Where the branch is now; a push is seen here, and counts as a change. Closed ones keep their last."""
        pull = issue.pull
        assert pull is not None
        if (
            issue.state == "open"
            and not pull.fork
            and (sha := place.bare.sha(f"refs/heads/{pull.head}"))
            and sha != pull.head_sha
        ):
            pull.head_sha = sha
            self.touch(issue)
        return pull.head_sha

    def base_head(self, place: Place, issue: Issue) -> str:
        assert issue.pull is not None
        return place.bare.sha(f"refs/heads/{issue.pull.base}")

    def mergeable(self, place: Place, issue: Issue) -> bool | None:
        """None the first time after a change: the service computes it in the background."""
        pull = issue.pull
        assert pull is not None
        pair = (self.head(place, issue), self.base_head(place, issue))
        if pull.known != pair:
            pull.known = pair
            return None
        return not place.bare.conflicts(pair[1], pair[0])

    def fork(self, name: str, branch: str, owner: str, body: str = "") -> Issue:
        """A pull request from somebody's fork, of a branch of that name there."""
        with self.turn:
            made, head = self.issue(name, branch, body, author=owner), self.places[name].bare.sha("refs/heads/main")
            made.pull = Pull(branch, "main", self.id(), head, fork=owner)
            return made

    def blocked(self, place: Place, issue: Issue, head: str) -> bool:
        """Whether the rules of its base keep it from being merged."""
        passed = {check.name for check in place.checks if check.head == head and check.conclusion == "success"}
        approvals = sum(review.state == "APPROVED" for review in issue.reviews)
        return not set(place.required) <= passed or approvals < place.approvals

    def thread(self, name: str, number: int, author: str, path: str, text: str) -> Said:
        """Begin a thread at line 1 of a file."""
        with self.turn:
            place = self.places[name]
            issue, now, number_ = place.issues[number], self.now(), self.id()
            said = Said(number_, author, text, now, now, number_, path, self.head(place, issue))
            issue.threads[number_] = [said]
            self.touch(issue)
            return said

    def reply(self, issue: Issue, thread: int, author: str, text: str) -> Said:
        with self.turn:
            first, now = issue.threads[thread][0], self.now()
            said = Said(self.id(), author, text, now, now, thread, first.path, first.head)
            issue.threads[thread].append(said)
            self.touch(issue)
            return said

    def review(self, name: str, number: int, author: str, state: str, text: str = "") -> None:
        with self.turn:
            place = self.places[name]
            issue = place.issues[number]
            issue.reviews.append(Review(self.id(), author, state, text, self.now(), self.head(place, issue)))
            self.touch(issue)

    def check(self, name: str, head: str, what: str, status: str, conclusion: str | None, log: str = "") -> CheckRun:
        """A check run of a commit; a newer one of the same name takes the place of the older."""
        with self.turn:
            place = self.places[name]
            place.checks = [c for c in place.checks if (c.head, c.name) != (head, what)]
            made = CheckRun(self.id(), what, head, status, conclusion, log, self.id())
            place.checks.append(made)
            return made

    def merge(self, name: str, number: int, *, squash: bool = False, at: str = "") -> str:
        """Merge by a person or by us; closes the issues that its text says it closes."""
        with self.turn:
            place = self.places[name]
            issue = place.issues[number]
            pull = issue.pull
            assert pull is not None
            message = f"{issue.title} (#{number})"
            pull.merge_sha = place.bare.merge(pull.base, at or self.head(place, issue), message, squash=squash)
            pull.merged_at = self.now()
            issue.state, issue.closed_at = "closed", pull.merged_at
            self.touch(issue)
            for other in closes(issue.body, name):
                if other in place.issues and place.issues[other].state == "open":
                    self.close_issue(name, other)
            return pull.merge_sha


def closes(text: str, name: str) -> list[int]:
    """The issues of this repository that a pull request's text closes when it is merged."""
    import re  # noqa: PLC0415 - the only use

    found = re.findall(r"\b(?:close[sd]?|fix(?:e[sd])?|resolve[sd]?):?\s+(?:([\w.-]+/[\w.-]+))?#(\d+)", text, re.I)
    return [int(number) for where, number in found if where in ("", name)]


class GitHubPeople:
    """What people and robots do, as the forge contracts ask for it; see contracts.People."""

    def __init__(self, state: State) -> None:
        self.state = state

    def _name(self, repo: Repo) -> str:
        return repo.url.removesuffix(".git").split("/", 3)[3]

    def check(self, repo: Repo, head: str, name: str, state: str, log: str = "") -> None:
        ended = {"passed": "success", "failed": "failure"}.get(state)
        self.state.check(self._name(repo), head, name, "completed" if ended else "in_progress", ended, log)

    def comment(self, repo: Repo, number: int, author: str, text: str) -> None:
        self.state.say(self._name(repo), number, author, text)

    def thread(self, repo: Repo, number: int, author: str, path: str, text: str) -> None:
        self.state.thread(self._name(repo), number, author, path, text)

    def review(self, repo: Repo, number: int, author: str, verdict: str, text: str) -> None:
        said = {"approved": "APPROVED", "changes": "CHANGES_REQUESTED"}[verdict]
        self.state.review(self._name(repo), number, author, said, text)

    def change_base(self, repo: Repo, **files: str) -> str:
        place = self.state.places[self._name(repo)]
        with self.state.turn:
            return place.bare.commit(repo.base, "change the base", {f"{k}.txt": v for k, v in files.items()})

    def merge(self, repo: Repo, number: int) -> None:
        self.state.merge(self._name(repo), number)

    def close(self, repo: Repo, number: int) -> None:
        self.state.close_issue(self._name(repo), number)
