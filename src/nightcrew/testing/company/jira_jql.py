"""JQL, as much of it as nightcrew and its users are likely to ask: clauses, AND, OR, NOT, ORDER BY."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta

from nightcrew.testing.company.jira_state import CATEGORIES, Issue, State, Wrong

Fits = Callable[[Issue], bool]
TOKEN = re.compile(r"\s*(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|!=|>=|<=|!~|[=<>~(),]|[^\s=<>!~(),\"']+)")
UNITS = {"m": 1, "h": 60, "d": 24 * 60, "w": 7 * 24 * 60}
FIELDS = {"project", "labels", "status", "statuscategory", "assignee", "reporter", "id", "key", "issuekey", "priority",
          "component", "resolution", "issuetype", "type", "created", "updated", "summary"}  # fmt: skip
TIMES: dict[str, Callable[[Issue], datetime]] = {"created": lambda i: i.created, "updated": lambda i: i.updated}


class Query:
    """A query, read once. Raises Wrong (400) as Jira would."""

    def __init__(self, state: State, login: str, text: str) -> None:
        self.state, self.login = state, login
        self.words: list[str] = [word for word in TOKEN.findall(text) if word]
        self.bounded = False
        self.order: list[tuple[str, bool]] = []
        self.fits: Fits = lambda issue: True
        if self.words and self._next() != "order":
            self.fits = self._any()
        if self._next() == "order":
            self._ordered()
        if self.words:
            raise Wrong(400, f"Error in the JQL Query: Expecting 'OR' or 'AND' but got '{self.words[0]}'.")

    def among(self, issues: list[Issue]) -> list[Issue]:
        """Those that fit, in order."""
        found = [issue for issue in issues if self.fits(issue)]
        for name, falling in reversed(self.order):
            found.sort(key=RANKS[name], reverse=falling)
        return found

    # -- reading -------------------------------------------------------------------------------------------------------
    def _next(self) -> str:
        return str(self.words[0]).lower() if self.words else ""

    def _take(self) -> str:
        if not self.words:
            raise Wrong(400, "Error in the JQL Query: the query ends too early.")
        return str(self.words.pop(0))

    def _any(self) -> Fits:
        parts = [self._all()]
        while self._next() == "or":
            self._take()
            parts.append(self._all())
        return lambda issue: any(fits(issue) for fits in parts)

    def _all(self) -> Fits:
        parts = [self._one()]
        while self._next() == "and":
            self._take()
            parts.append(self._one())
        return lambda issue: all(fits(issue) for fits in parts)

    def _one(self) -> Fits:
        if self._next() == "not":
            self._take()
            fits = self._one()
            return lambda issue: not fits(issue)
        if self._next() != "(":
            return self._clause()
        self._take()
        fits = self._any()
        if self._take() != ")":
            raise Wrong(400, "Error in the JQL Query: Expecting ')' before the end of the query.")
        return fits

    def _clause(self) -> Fits:
        name, sign = _bare(self._take()).lower(), self._take().lower()
        if sign == "not":
            sign = f"not {self._take().lower()}"
        if name not in FIELDS:
            raise Wrong(400, f"Field '{name}' does not exist or you do not have permission to view it.")
        self.bounded = True
        if sign == "is":
            negative = self._next() == "not"
            if negative:
                self._take()
            self._take()
            return lambda issue: bool(self._values(issue, name)) is negative
        values = self._list() if sign in ("in", "not in") else [self._value()]
        if name in TIMES:
            return self._time(name, sign, values[0])
        wanted = {self._checked(name, value) for value in values}
        if sign in ("!=", "not in"):
            return lambda issue: not wanted & self._values(issue, name)
        if sign not in ("=", "in", "~"):
            raise Wrong(400, f"The operator '{sign}' is not supported by the '{name}' field.")
        return lambda issue: bool(wanted & self._values(issue, name))

    def _list(self) -> list[str]:
        self._take()
        found = [self._value()]
        while self._take() == ",":
            found.append(self._value())
        return found

    def _value(self) -> str:
        word = self._take()
        if self._next() == "(" and word.lower() == "currentuser":
            self._take()
            self._take()
            return self.login
        return _bare(word)

    def _ordered(self) -> None:
        self._take()
        self._take()
        while self.words:
            name, falling = self._take().lower(), False
            if self._next() in ("asc", "desc"):
                falling = self._take().lower() == "desc"
            self.order.append((name, falling))
            if self._next() == ",":
                self._take()

    # -- meaning -------------------------------------------------------------------------------------------------------
    def _time(self, name: str, sign: str, value: str) -> Fits:
        """Jira knows no finer grain than a minute: what is younger than that by seconds may be left out."""
        found = re.fullmatch(r"-(\d+)([mhdw])", value)
        if not found or sign not in (">=", ">"):
            raise Wrong(400, f"Date value '{value}' for field '{name}' is invalid.")
        since = self.state.clock() - timedelta(minutes=int(found[1]) * UNITS[found[2]])
        since = since.replace(second=0, microsecond=0) + timedelta(minutes=1)
        return lambda issue: TIMES[name](issue) >= since

    def _checked(self, name: str, value: str) -> str:
        """The value in lower case; what is not there is refused, as Jira does."""
        low, state = value.lower(), self.state
        known = {
            "project": {w.lower() for p in state.projects.values() for w in (p.key, p.name, p.id)},
            "status": {w.lower() for p in state.projects.values() for s in p.workflow.statuses for w in (s.name, s.id)},
            "statuscategory": {str(w).lower() for key, (n, said, _) in CATEGORIES.items() for w in (key, n, said)},
            "assignee": {name for p in state.people.values() for name in p.names()},
            "id": {w.lower() for i in state.issues.values() for w in (i.id, i.key)},
        }
        known |= {"reporter": known["assignee"], "key": known["id"], "issuekey": known["id"]}
        if name in known and low not in known[name]:
            raise Wrong(400, f"The value '{value}' does not exist for the field '{name}'.")
        return low

    def _values(self, issue: Issue, name: str) -> set[str]:
        people, place = self.state.people, self.state.projects[issue.project]
        kind = CATEGORIES[issue.status.category]
        found: dict[str, Callable[[], set[str]]] = {
            "project": lambda: {place.key, place.name, place.id}, "labels": lambda: set(issue.labels),
            "status": lambda: {issue.status.name, issue.status.id}, "priority": lambda: {issue.priority},
            "statuscategory": lambda: {issue.status.category, str(kind[0]), kind[1]},
            "assignee": lambda: people[issue.assignee].names() if issue.assignee else set(),
            "reporter": people[issue.reporter].names, "id": lambda: {issue.id, issue.key},
            "component": lambda: set(issue.components), "resolution": lambda: {issue.resolution} - {""},
            "issuetype": lambda: {issue.type}, "summary": lambda: set(issue.summary.split()),
        }  # fmt: skip
        found |= {"key": found["id"], "issuekey": found["id"], "type": found["issuetype"]}
        return {one.lower() for one in found[name]()}


def _bare(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1]) if word[:1] in ("'", '"') else word


RANKS: dict[str, Callable[[Issue], float]] = {
    "created": lambda issue: issue.created.timestamp(), "updated": lambda issue: issue.updated.timestamp(),
    "key": lambda issue: int(issue.key.rpartition("-")[2]),
}  # fmt: skip
