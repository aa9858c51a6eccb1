"""What the Jira stand-in shows: Cloud (3) with documents and account ids, Data Center (2) with text and user names."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from nightcrew.testing.company.jira_state import CATEGORIES, Comment, Issue, Person, Row, State, Status, Transition

ALL = ("*all", "*navigable")


class Views:
    """One for each version of the API. `url` is where it listens."""

    def __init__(self, state: State, version: int, url: str) -> None:
        self.state, self.cloud = state, version == 3
        self.url, self.root = url, f"{url}/rest/api/{version}"

    def user(self, person: Person | None) -> Row | None:
        if person is None:
            return None
        shown: Row = {"displayName": person.display, "active": person.active, "timeZone": "Europe/Berlin"}
        if not self.cloud:
            return shown | {"self": f"{self.root}/user?username={person.login}", "name": person.login,
                            "key": f"JIRAUSER{person.login}", "emailAddress": person.email}  # fmt: skip
        seen = {"emailAddress": person.email} if person.login == "nightcrew" else {}  # others hide theirs
        return shown | seen | {"self": f"{self.root}/user?accountId={person.account}", "accountId": person.account,
                               "accountType": person.kind}  # fmt: skip

    def status(self, status: Status) -> Row:
        number, name, color = CATEGORIES[status.category]
        kind = {"self": f"{self.root}/statuscategory/{number}", "id": number, "key": status.category, "name": name,
                "colorName": color}  # fmt: skip
        return {"self": f"{self.root}/status/{status.id}", "description": "", "iconUrl": f"{self.url}/icon.png",
                "id": status.id, "name": status.name, "statusCategory": kind}  # fmt: skip

    def body(self, said: Any) -> Any:
        if said is None or self.cloud is isinstance(said, dict):
            return said
        return as_document(said) if self.cloud else as_text(said)

    def issue(self, issue: Issue, fields: Collection[str], properties: Collection[str] = ()) -> Row:
        """Only the fields that are asked for; none where none is, as Cloud's search does."""
        people = self.state.people
        shown: Row = {
            "summary": issue.summary, "description": self.body(issue.description), "status": self.status(issue.status),
            "labels": list(issue.labels), "created": stamp(issue.created), "updated": stamp(issue.updated),
            "components": [{"id": "1", "name": name} for name in issue.components],
            "project": {"id": self.state.projects[issue.project].id, "key": issue.project,
                        "name": self.state.projects[issue.project].name},
            "reporter": self.user(people.get(issue.reporter)), "assignee": self.user(people.get(issue.assignee)),
            "priority": {"id": "3", "name": issue.priority}, "issuetype": {"id": "1", "name": issue.type},
            "resolution": {"id": "1", "name": issue.resolution} if issue.resolution else None,
            "issuelinks": self._issuelinks(issue),
        }  # fmt: skip
        wanted = {name: value for name, value in shown.items() if name in fields or set(ALL) & set(fields)}
        row: Row = {"id": issue.id, "key": issue.key, "self": f"{self.root}/issue/{issue.id}", "fields": wanted}
        if properties:
            row["properties"] = {name: issue.properties[name] for name in properties if name in issue.properties}
        return row

    def _issuelinks(self, issue: Issue) -> list[Row]:
        links = [("inwardIssue", kind, self.state.issues.get(name)) for kind, name in issue.blocked_by]
        links += [("outwardIssue", kind, other) for other in self.state.issues.values()
                  for kind, name in other.blocked_by if name == issue.id]  # fmt: skip
        return [
            {"id": str(20_000 + n), "self": f"{self.root}/issueLink/{20_000 + n}", "type": kind_of_link(kind),
             side: {"id": other.id, "key": other.key, "self": f"{self.root}/issue/{other.id}",
                    "fields": {"summary": other.summary, "status": self.status(other.status)}}}
            for n, (side, kind, other) in enumerate(links) if other
        ]  # fmt: skip

    def comment(self, said: Comment, properties: bool = False) -> Row:
        author = self.user(self.state.people[said.author])
        row: Row = {
            "self": f"{self.root}/comment/{said.id}", "id": said.id, "author": author, "updateAuthor": author,
            "body": self.body(said.body), "created": stamp(said.created), "updated": stamp(said.updated),
        }  # fmt: skip
        if self.cloud:
            row["jsdPublic"] = True
        if properties:
            row["properties"] = [{"key": key, "value": value} for key, value in said.properties.items()]
        return row

    def transition(self, way: Transition, fields: bool, names: Collection[str]) -> Row:
        row: Row = {"id": way.id, "name": way.name, "to": self.status(way.to), "hasScreen": way.asks,
                    "isGlobal": not way.sources, "isInitial": False, "isConditional": False}  # fmt: skip
        if self.cloud:
            row |= {"isAvailable": True, "looped": False}
        if fields:
            values = [{"id": str(n), "name": name} for n, name in enumerate(names, 1)]
            asked = {"required": True, "schema": {"type": "resolution", "system": "resolution"}, "name": "Resolution",
                     "key": "resolution", "hasDefaultValue": False, "operations": ["set"],
                     "allowedValues": values}  # fmt: skip
            needed = {"required": True, "schema": {"type": "string", "custom": "textfield", "customId": 10_100},
                      "name": way.needs, "key": "customfield_10100", "hasDefaultValue": False,
                      "operations": ["set"]}  # fmt: skip
            row["fields"] = ({"resolution": asked} if way.asks else {}) | (
                {"customfield_10100": needed} if way.needs else {}
            )
        return row


def kind_of_link(name: str) -> Row:
    return {"id": "10000", "name": name, "inward": "is blocked by", "outward": "blocks"}


def stamp(at: datetime) -> str:
    """As Jira writes times: milliseconds, and an offset without a colon."""
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}+0000"


def as_document(text: str) -> Row:
    """What somebody typed into the editor, paragraph by paragraph."""
    parts = [part for part in str(text).split("\n\n") if part.strip()]
    paragraphs = [{"type": "paragraph", "content": [{"type": "text", "text": part}]} for part in parts]
    return {"version": 1, "type": "doc", "content": paragraphs}


def as_text(document: Any) -> str:
    """The words of a document."""
    if not isinstance(document, dict):
        return ""
    inner = "".join(map(as_text, document.get("content") or []))
    return str(document.get("text") or "") + inner + ("\n\n" if document.get("type") == "paragraph" else "")
