"""What is in the Linear stand-in's workspace, in the schema's own words; and what people do there."""

from __future__ import annotations

import threading
from collections.abc import Sequence
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
    """Everything in the workspace. Methods are what people do; each takes `turn`, so any thread may call them."""

    def __init__(self, turn: threading.RLock) -> None:
        self.turn = turn
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
        self._ticks = 0
        self.team("ENG", "Engineering")

    def _user(self, name: str, app: bool) -> Row:
        return {"__typename": "User", "id": str(uuid4()), "name": name, "email": f"{name}@acme.example", "app": app,
                "isMe": False, "organization": self.organization}  # fmt: skip

    def now(self) -> str:
        """A stamp; no two are the same, as on the service."""
        self._ticks += 1
        at = datetime.now(UTC)
        return stamp(at.replace(microsecond=(at.microsecond // 1000 + self._ticks) % 1000 * 1000))

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
                "labels": [one for one in where["labels"] if one["name"] in labels],
                "blockers": [self.named(word) for word in blocked_by], "branchName": key.lower(),
                "previousIdentifiers": [], "sortOrder": 0.0,
            }  # fmt: skip
            self.issues[made["id"]] = made
            return made

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

    def unlabel(self, word: str, label: str) -> None:
        with self.turn:
            issue = self.named(word)
            issue["labels"] = [one for one in issue["labels"] if one["name"] != label]
            self.touch(issue)

    def say(self, word: str, author: str, text: str, id: str = "") -> Row:  # noqa: A002
        """A comment; one by a person who is not in the workspace comes from outside."""
        with self.turn:
            issue, now = self.named(word), self.now()
            user = self.users.get(author)
            made: Row = {"id": id or str(uuid4()), "body": text, "createdAt": now, "updatedAt": now, "editedAt": None,
                    "parentId": None, "url": f"{issue['url']}#comment", "user": user, "botActor": None,
                    "externalUser": None if user else {"id": str(uuid4()), "name": author}, "issue": issue}  # fmt: skip
            self.comments[made["id"]] = made
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
