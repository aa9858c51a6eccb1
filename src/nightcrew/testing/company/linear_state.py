"""What is in the Linear stand-in's workspace, in the schema's own words; and what people do there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from nightcrew.testing.company.linear_filter import stamp

Row = dict[str, Any]
STATES = (("Triage", "triage"), ("Backlog", "backlog"), ("Todo", "unstarted"), ("In Progress", "started"),
          ("In Review", "started"), ("Done", "completed"), ("Canceled", "canceled"),
          ("Duplicate", "duplicate"))  # fmt: skip
LABELS = ("nightcrew", "nightcrew: blocked", "nightcrew: failed", "bug", "web", "P1")
PEOPLE = {"nightcrew": False, "ada": False, "bob": False, "app": True}


class State:
    """Everything in the workspace. Methods are what people do; each takes `turn`, so any thread may call them.

    `clock` says the time in epoch seconds. `stirs`: a comment changes its issue's `updatedAt` (nobody promises that).
    """

    def __init__(self, turn: threading.RLock, clock: Callable[[], float]) -> None:
        self.turn, self.clock = turn, clock
        self.stirs = True
        self.organization = {"id": str(uuid4()), "urlKey": "acme", "name": "Acme"}
        self.users = {name: self._user(name, app) for name, app in PEOPLE.items()}
        self.tokens = {"lin_api_nightcrew": "nightcrew", "Bearer lin_oauth_app": "app"}
        self.teams: dict[str, Row] = {}
        self.projects: dict[str, Row] = {}
        self.issues: dict[str, Row] = {}
        self.comments: dict[str, Row] = {}
        self.attachments: dict[str, Row] = {}
        self.sessions: dict[str, Row] = {}
        self.activities: dict[str, Row] = {}
        self.labels: list[Row] = []  # of the workspace: in no team's list
        self.deleted: set[str] = set()  # comments: their ids stay taken
        self._last = 0
        self.team("ENG", "Engineering")

    def _user(self, name: str, app: bool) -> Row:
        return {
            "__typename": "User", "id": str(uuid4()), "name": name, "displayName": name, "app": app, "isMe": False,
            "email": f"{name}@acme.example", "organization": self.organization,
        }  # fmt: skip

    def now(self) -> str:
        """A stamp, later than the one before."""
        self._last = max(int(self.clock() * 1000), self._last + 1)
        return stamp(datetime.fromtimestamp(self._last / 1000, UTC))

    def team(self, key: str, name: str) -> Row:
        """A team with the usual workflow."""
        states = [{"id": str(uuid4()), "name": n, "type": t, "position": float(p)} for p, (n, t) in enumerate(STATES)]
        labels = [{"id": str(uuid4()), "name": label} for label in LABELS]
        self.teams[key] = {"id": str(uuid4()), "key": key, "name": name, "states": states, "labels": labels, "last": 0}
        return self.teams[key]

    def project(self, name: str) -> Row:
        """The project of that name, made when it is not there."""
        return self.projects.setdefault(name, {"id": str(uuid4()), "slugId": uuid4().hex[:12], "name": name})

    def issue(self, title: str, body: str = "", labels: Sequence[str] = (), author: str = "ada", team: str = "ENG",
              state: str = "Todo", priority: int = 0, project: str = "", blocked_by: Sequence[str] = (),
              id: str = "") -> Row:  # noqa: A002 # fmt: skip
        """Somebody writes an issue; `blocked_by` are keys."""
        with self.turn:
            where, now = self.teams[team], self.now()
            where["last"] += 1
            key = f"{team}-{where['last']}"
            made: Row = {
                "id": id or str(uuid4()), "identifier": key, "number": float(where["last"]), "title": title,
                "description": body, "priority": float(priority), "url": f"https://linear.example/acme/issue/{key}",
                "createdAt": now, "updatedAt": now, "archivedAt": None, "trashed": None, "team": where,
                "state": self.state(team, state), "project": self.project(project) if project else None,
                "assignee": None, "delegate": None, "creator": self.users[author],
                "labels": [one for one in self.usable(where) if one["name"] in labels],
                "blockers": [self.named(word) for word in blocked_by], "branchName": key.lower(),
                "previousIdentifiers": [], "sortOrder": 0.0,
            }  # fmt: skip
            self.issues[made["id"]] = made
            return made

    def usable(self, team: Row) -> list[Row]:
        """The labels that an issue of a team may have."""
        return [*team["labels"], *self.labels]

    def label(self, name: str) -> Row:
        """A label of the whole workspace."""
        with self.turn:
            self.labels.append({"id": str(uuid4()), "name": name})
            return self.labels[-1]

    def state(self, team: str, name: str) -> Row:
        found: Row = next(one for one in self.teams[team]["states"] if one["name"] == name)
        return found

    def named(self, word: str) -> Row:
        """The issue of that id or key."""
        return next(one for one in self.issues.values() if word in (one["id"], one["identifier"]))

    def touch(self, issue: Row) -> None:
        issue["updatedAt"] = self.now()

    def move(self, word: str, state: str) -> None:
        """A person moves it to a state of the workflow."""
        with self.turn:
            issue = self.named(word)
            issue["state"] = self.state(issue["team"]["key"], state)
            self.touch(issue)

    def relabel(self, word: str, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """A person changes its labels."""
        with self.turn:
            issue = self.named(word)
            issue["labels"] = [one for one in issue["labels"] if one["name"] not in (*add, *remove)]
            issue["labels"] += [one for one in self.usable(issue["team"]) if one["name"] in add]
            self.touch(issue)

    def unlabel(self, word: str, label: str) -> None:
        self.relabel(word, remove=[label])

    def assign(self, word: str, login: str) -> None:
        """A person gives it to somebody, "" to nobody."""
        with self.turn:
            self.named(word)["assignee"] = self.users.get(login)
            self.touch(self.named(word))

    def session(self, word: str, app: str = "app") -> Row:
        """An agent session of an application: it begins one, or a person delegates the issue to it."""
        with self.turn:
            made: Row = {"id": str(uuid4()), "status": "active", "url": None, "issue": self.named(word),
                         "appUser": self.users[app], "createdAt": self.now()}  # fmt: skip
            self.sessions[made["id"]] = made
            return made

    def archive(self, word: str) -> None:
        """A person archives it."""
        with self.turn:
            self.named(word)["archivedAt"] = self.now()
            self.touch(self.named(word))

    def trash(self, word: str) -> None:
        """A person deletes it: it is kept for a while, as it was, outside of all lists."""
        with self.turn:
            self.named(word)["trashed"] = True
            self.archive(word)

    def send(self, word: str, team: str) -> None:
        """A person moves it to another team: its key changes, its id stays."""
        with self.turn:
            issue, where = self.named(word), self.teams[team]
            where["last"] += 1
            issue |= {"team": where, "number": float(where["last"]), "identifier": f"{team}-{where['last']}",
                      "state": self.state(team, issue["state"]["name"])}  # fmt: skip
            self.touch(issue)

    def unsay(self, comment: str) -> None:
        """A person deletes a comment."""
        with self.turn:
            self.comments.pop(comment)
            self.deleted.add(comment)

    def say(self, word: str, author: str, text: str, id: str = "") -> Row:  # noqa: A002
        """A comment; one by a person who is not in the workspace comes from outside."""
        with self.turn:
            issue, now = self.named(word), self.now()
            user = self.users.get(author)
            made: Row = {"id": id or str(uuid4()), "body": text, "createdAt": now, "updatedAt": now, "editedAt": None,
                    "parentId": None, "url": f"{issue['url']}#comment", "user": user, "botActor": None,
                    "externalUser": None if user else {"id": str(uuid4()), "name": author}, "issue": issue}  # fmt: skip
            self.comments[made["id"]] = made
            if self.stirs:
                self.touch(issue)
            return made

    def said(self, word: str) -> list[Row]:
        """The comments of an issue, oldest first."""
        issue = self.named(word)
        return [one for one in self.comments.values() if one["issue"] is issue]

    def links(self, word: str) -> list[str]:
        """The addresses attached to an issue."""
        issue = self.named(word)
        return [one["url"] for one in self.attachments.values() if one["issue"] is issue]
