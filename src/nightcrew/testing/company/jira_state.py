"""What is on the Jira stand-in, and what people do there. Its search answers from an index that may lag."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Row = dict[str, Any]
CATEGORIES = {"new": (2, "To Do", "blue-gray"), "indeterminate": (4, "In Progress", "yellow"),
              "done": (3, "Done", "green")}  # fmt: skip
PRIORITIES = ("Highest", "High", "Medium", "Low", "Lowest")
RESOLUTIONS = ("Done", "Won't Do", "Duplicate")
TYPES = ("Task", "Bug", "Story")
PERMISSIONS = ("BROWSE_PROJECTS", "ADD_COMMENTS", "EDIT_OWN_COMMENTS", "EDIT_ISSUES", "TRANSITION_ISSUES",
               "LINK_ISSUES", "CREATE_ISSUES", "ASSIGN_ISSUES")  # fmt: skip


class Wrong(Exception):
    """Raised where Jira would refuse: the status, what it says, and which field is meant."""

    def __init__(self, status: int, message: str, name: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.name = status, message, name


@dataclass(frozen=True)
class Status:
    """One status of a workflow."""

    id: str
    name: str
    category: str


@dataclass(frozen=True)
class Transition:
    """A way into a status, from some statuses (ids) or from all.

    `asks`: a screen wants a resolution; `needs`: it wants a field of that name, too.
    """

    id: str
    name: str
    to: Status
    sources: tuple[str, ...] = ()
    asks: bool = False
    needs: str = ""

    def open_from(self, status: Status) -> bool:
        return not self.sources or status.id in self.sources


class Workflow:
    """Statuses in order, and the ways between them: `ways` are (from, to) by name; without, all lead everywhere."""

    def __init__(self, statuses: Sequence[tuple[str, str]], ways: Sequence[tuple[str, str]] = (), first: int = 10_000,
                 asks: bool = False) -> None:  # fmt: skip
        self.statuses = [Status(str(first + n), name, kind) for n, (name, kind) in enumerate(statuses)]
        self.transitions = []
        for n, status in enumerate(self.statuses):
            sources = tuple(self.named(a).id for a, b in ways if b == status.name)
            if sources or not ways:
                ask = asks and status.category == "done"
                self.transitions.append(Transition(str(11 + 10 * n), f"To {status.name}", status, sources, ask))

    def named(self, name: str) -> Status:
        return next(status for status in self.statuses if status.name.lower() == name.lower())


SIMPLE = (("To Do", "new"), ("In Progress", "indeterminate"), ("Done", "done"))


@dataclass
class Person:
    """An account. `kind` is atlassian, app or customer."""

    login: str
    display: str
    kind: str = "atlassian"
    active: bool = True

    @property
    def account(self) -> str:
        return f"5b10ac8d82e05b22cc7d4{self.login}"

    @property
    def email(self) -> str:
        return f"{self.login}@acme.example"

    def names(self) -> set[str]:
        return {one.lower() for one in (self.login, self.display, self.account, self.email)}


@dataclass
class Project:
    """A project. `members` are those to whom issues can be assigned."""

    id: str
    key: str
    name: str
    workflow: Workflow
    members: set[str]
    last: int = 0


@dataclass
class Comment:
    """`body` is text or a document, as it was written."""

    id: str
    author: str
    body: Any
    created: datetime
    updated: datetime
    properties: Row = field(default_factory=dict)


@dataclass
class Issue:
    """`blocked_by` are ids of issues, `links` remote links by their global id."""

    id: str
    key: str
    project: str
    summary: str
    description: Any
    status: Status
    reporter: str
    created: datetime
    updated: datetime
    type: str = "Task"
    priority: str = "Medium"
    labels: list[str] = field(default_factory=list)
    components: list[str] = field(default_factory=list)
    assignee: str = ""
    resolution: str = ""
    blocked_by: list[tuple[str, str]] = field(default_factory=list)  # (type of link, id)
    comments: list[Comment] = field(default_factory=list)
    links: dict[str, Row] = field(default_factory=dict)
    properties: Row = field(default_factory=dict)


class State:
    """One Jira site. `lag`: for so many searches after a change, search shows an issue as it was before."""

    def __init__(self, turn: threading.RLock) -> None:
        self.turn = turn
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.people = {p.login: p for p in (
            Person("nightcrew", "Night Crew"), Person("ada", "Ada Lovelace"), Person("bob", "Bob Noyce"),
            Person("carl", "Carl Customer", "customer"), Person("eve", "Eve"),
            Person("lint", "Lint Bot", "app"))}  # fmt: skip
        self.tokens = {f"jira-{login}": login for login in self.people}
        self.denied: dict[str, set[str]] = {}  # login -> permissions it has not
        self.projects: dict[str, Project] = {}
        self.issues: dict[str, Issue] = {}
        self.indexed: dict[str, Issue] = {}
        self.late: dict[str, int] = {}  # issue -> searches until the index shows it as it is
        self.lag = 0
        self.most_comments = 5000
        self._ids = itertools.count(10_001)

    # -- what people do ------------------------------------------------------------------------------------------------
    def project(self, key: str, workflow: Workflow | None = None, members: Sequence[str] = ("ada", "bob", "nightcrew"),
                name: str = "") -> Project:  # fmt: skip
        """A new project; without a workflow, the one with To Do, In Progress and Done."""
        with self.turn:
            flow = workflow or Workflow(SIMPLE, first=10_000 + 100 * len(self.projects))
            made = Project(str(10_000 + len(self.projects)), key, name or key.title(), flow, set(members))
            self.projects[key] = made
            return made

    def issue(self, project: str, summary: str, body: Any = None, *, by: str = "ada", labels: Sequence[str] = (),
              status: str = "", **more: Any) -> Issue:  # fmt: skip
        """Somebody makes an issue."""
        with self.turn:
            place, now = self.projects[project], self.clock()
            place.last += 1
            first = place.workflow.named(status) if status else place.workflow.statuses[0]
            made = Issue(str(next(self._ids)), f"{project}-{place.last}", project, summary, body, first, by, now, now,
                         labels=list(labels), **more)  # fmt: skip
            self.issues[made.id] = made
            self._changed(made)
            return made

    def find(self, name: str) -> Issue:
        """By id or key. Raises Wrong."""
        found = self.issues.get(name) or next((i for i in self.issues.values() if i.key == name.upper()), None)
        if found is None:
            raise Wrong(404, "Issue does not exist or you do not have permission to see it.")
        return found

    def say(self, name: str, by: str, body: Any, properties: Row | None = None) -> Comment:
        with self.turn:
            issue, now = self.find(name), self.clock()
            if len(issue.comments) >= self.most_comments:
                raise Wrong(413, "The issue has as many comments as it may have.")
            made = Comment(str(next(self._ids)), by, body, now, now, properties or {})
            issue.comments.append(made)
            self.touch(issue)
            return made

    def say_anew(self, issue: Issue, comment: Comment, body: Any, properties: Row) -> None:
        with self.turn:
            comment.body, comment.updated = body, self.clock()
            comment.properties |= properties
            self.touch(issue)

    def relabel(self, name: str, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        with self.turn:
            issue, old = self.find(name), list(self.find(name).labels)
            kept = [label for label in old if label not in remove]
            issue.labels = [*kept, *(label for label in add if label not in kept)]
            if issue.labels != old:
                self.touch(issue)

    def put(self, name: str, status: str, resolution: str = "") -> None:
        """Somebody drags the card there, whatever the workflow says."""
        with self.turn:
            issue = self.find(name)
            self._enter(issue, self.projects[issue.project].workflow.named(status), resolution)

    def transit(self, issue: Issue, number: str, resolution: str) -> None:
        """Take a transition. Raises Wrong where the workflow has none."""
        with self.turn:
            ways = self.projects[issue.project].workflow.transitions
            found = next((t for t in ways if t.id == number and t.open_from(issue.status)), None)
            if found is None:
                raise Wrong(400, f"The action {number} is invalid in the status {issue.status.name}.")
            if found.needs:
                raise Wrong(400, f"{found.needs} is required.", "customfield_10100")
            if found.asks and not resolution:
                raise Wrong(400, "Resolution is required.", "resolution")
            if resolution and not found.asks:
                raise Wrong(400, "Field 'resolution' cannot be set. It is not on the appropriate screen.", "resolution")
            self._enter(issue, found.to, resolution)

    def _enter(self, issue: Issue, status: Status, resolution: str) -> None:
        issue.status = status
        issue.resolution = (resolution or "Done") if status.category == "done" else ""
        self.touch(issue)

    def assign(self, name: str, login: str) -> None:
        with self.turn:
            issue = self.find(name)
            issue.assignee = login
            self.touch(issue)

    def blocks(self, blocker: str, name: str, kind: str = "Blocks") -> None:
        """The first issue blocks the second."""
        with self.turn:
            one, other = self.find(blocker), self.find(name)
            other.blocked_by.append((kind, one.id))
            self.touch(one)
            self.touch(other)

    def remote(self, issue: Issue, link: Row) -> tuple[int, bool]:
        """Write a remote link; its number, and whether it is new."""
        with self.turn:
            name = link.get("globalId") or f"none-{next(self._ids)}"
            old = issue.links.get(name)
            number = old["id"] if old else next(self._ids)
            issue.links[name] = {**link, "id": number}
            if issue.links[name] != old:
                self.touch(issue)
            return number, old is None

    def transfer(self, name: str, project: str) -> None:
        """An issue moves to another project: it keeps its id and has another key."""
        with self.turn:
            issue, place = self.find(name), self.projects[project]
            place.last += 1
            issue.project, issue.key, issue.status = project, f"{project}-{place.last}", place.workflow.statuses[0]
            self.touch(issue)

    def delete(self, name: str) -> None:
        with self.turn:
            gone = self.find(name).id
            self.late.pop(gone, None)
            self.indexed.pop(gone, None)
            del self.issues[gone]

    # -- time and the index --------------------------------------------------------------------------------------------
    def touch(self, issue: Issue) -> None:
        """It changed now."""
        issue.updated = self.clock()
        self._changed(issue)

    def _changed(self, issue: Issue) -> None:
        if self.lag:
            self.late[issue.id] = self.lag
        else:
            self._index(issue.id)

    def _index(self, name: str) -> None:
        self.late.pop(name, None)
        self.indexed[name] = copy.copy(self.issues[name])
        self.indexed[name].labels = list(self.issues[name].labels)

    def searched(self) -> None:
        """One search later."""
        self.late = {name: left - 1 for name, left in self.late.items()}
        for name in [name for name, left in self.late.items() if left <= 0]:
            self._index(name)

    def shown(self, fresh: Sequence[str]) -> list[Issue]:
        """The issues as search sees them; those of `fresh` as they are."""
        now = {name: self.issues[name] for name in fresh if name in self.issues}
        return list((self.indexed | now).values())
