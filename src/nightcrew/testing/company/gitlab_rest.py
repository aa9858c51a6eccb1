"""How the GitLab stand-in takes requests, and its operations on accounts, projects and issues."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from multidict import MultiMapping

from nightcrew.testing.company.gitlab_state import DEVELOPER, REPORTER, Issue, Merge, Place, Said, State, Thread
from nightcrew.testing.company.gitlab_views import Json, Views
from nightcrew.testing.company.standin import Answered, said

T = TypeVar("T")
I = TypeVar("I", bound=Issue)  # noqa: E741
R = "/projects/{id}"
HANDLERS: dict[tuple[str, str], Callable[[Asked], Any]] = {}


@dataclass
class Asked:
    """One request: who asks, for what."""

    state: State
    views: Views
    login: str
    token: str
    variables: Mapping[str, str]
    query: MultiMapping[str]
    raw: bytes
    found: Place | None
    address: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        return need(self.found)

    @property
    def body(self) -> Json:
        return said(self.raw) or {}

    def number(self, name: str) -> int:
        return int(self.variables[name])

    def issue(self) -> Issue:
        return need(self.place.issues.get(self.number("issue_iid")))

    def merge(self) -> Merge:
        return need(self.place.merges.get(self.number("merge_request_iid")))

    def may(self, level: int) -> None:
        if self.state.access[self.login] < level:
            raise Answered(403, {"message": "403 Forbidden"})

    def page(self, rows: Iterable[T], show: Callable[[T], Json]) -> list[Json]:
        """One page, with the Link header to the next."""
        rows, size = list(rows), min(int(self.query.get("per_page", 20)), 100)
        page = int(self.query.get("page", 1))
        if len(rows) > page * size:
            kept = [(key, value) for key, value in self.query.items() if key != "page"]
            self.headers["Link"] = f'<{self.address}?{urlencode([*kept, ("page", page + 1)])}>; rel="next"'
        return [show(row) for row in rows[(page - 1) * size : page * size]]

    def chosen(self, rows: Iterable[I]) -> list[I]:
        """Those rows that the query asks for, in its order."""
        query = self.query
        labels = [name for name in query.get("labels", "").split(",") if name]
        numbers = {int(number) for number in query.getall("iids[]", [])}
        found = [
            row for row in rows
            if query.get("state", "all") in ("all", row.state) and set(labels) <= set(row.labels)
            and row.changed >= query.get("updated_after", "") and (not numbers or row.iid in numbers)
        ]  # fmt: skip
        by = query.get("order_by", "created_at") == "updated_at"
        found.sort(key=lambda r: (r.changed, r.moved) if by else (r.at, r.iid), reverse=query.get("sort") != "asc")
        return found


def on(method: str, path: str) -> Callable[[Callable[[Asked], Any]], Callable[[Asked], Any]]:
    def keep(handler: Callable[[Asked], Any]) -> Callable[[Asked], Any]:
        HANDLERS[method, path] = handler
        return handler

    return keep


def need(found: T | None) -> T:
    if found is None:
        raise Answered(404, {"message": "404 Not found"})
    return found


# -- accounts and projects ---------------------------------------------------------------------------------------------
@on("GET", "/user")
def me(a: Asked) -> Json:
    return a.views.account(a.login)


@on("GET", "/users")
def users(a: Asked) -> list[Json]:
    return a.page([name for name in a.state.people if name == a.query.get("username", name)], a.views.user)


@on("GET", "/users/{user_id}")
def user(a: Asked) -> Json:
    return a.views.account(_name(a))


def _name(a: Asked) -> str:
    return need(next((name for name, number in a.state.people.items() if number == a.number("user_id")), None))


@on("GET", "/personal_access_tokens/self")
def token(a: Asked) -> Json:
    return {"id": 1, "name": "nightcrew", "scopes": a.state.scopes[a.token], "active": True, "revoked": False,
            "user_id": a.state.people[a.login], "expires_at": "2027-01-01"}  # fmt: skip


@on("GET", "/projects")
def projects(a: Asked) -> list[Json]:
    seen = [place for place in a.state.places.values() if a.state.access[a.login]]
    return a.page(seen, lambda place: a.views.project(place, a.login))


@on("GET", R)
def project(a: Asked) -> Json:
    return a.views.project(a.place, a.login)


@on("GET", f"{R}/members/all/{{user_id}}")
def member(a: Asked) -> Json:
    level = a.state.access[_name(a)]
    return a.views.user(_name(a)) | {"access_level": need(level or None), "expires_at": None}


@on("GET", f"{R}/milestones")
def milestones(a: Asked) -> list[Json]:
    wanted = [title for title in a.place.milestones if title == a.query.get("title", title)]
    return a.page(wanted, lambda title: need(a.views.milestone(a.place, title)))


@on("GET", f"{R}/repository/branches/{{branch}}")
def branch(a: Asked) -> Json:
    name = a.variables["branch"]
    sha = need(a.place.bare.sha(f"refs/heads/{name}") or None)
    return {"name": name, "protected": name == "main", "commit": {"id": sha, "short_id": sha[:8], "title": ""}}


# -- issues ------------------------------------------------------------------------------------------------------------
@on("GET", f"{R}/issues")
def issues(a: Asked) -> list[Json]:
    return a.page(a.chosen(a.place.issues.values()), lambda issue: a.views.issue(a.place, issue))


@on("POST", f"{R}/issues")
def write_issue(a: Asked) -> tuple[int, Json]:
    body = a.body
    labels = tuple(name for name in body.get("labels", "").split(",") if name)
    made = a.state.issue(a.place.name, body["title"], body.get("description", ""), labels, a.login)
    made.assignees = [n for n, number in a.state.people.items() if number in body.get("assignee_ids", ())]
    made.milestone = next((t for t, n in a.place.milestones.items() if n == body.get("milestone_id")), "")
    return 201, a.views.issue(a.place, made)


@on("GET", f"{R}/issues/{{issue_iid}}")
def issue(a: Asked) -> Json:
    return a.views.issue(a.place, a.issue())


@on("PUT", f"{R}/issues/{{issue_iid}}")
def change_issue(a: Asked) -> Json:
    a.may(REPORTER)
    change(a, a.issue())
    return a.views.issue(a.place, a.issue())


def change(a: Asked, issue: Issue) -> None:
    """What issues and merge requests let change."""
    body = a.body
    issue.title = body.get("title", issue.title)
    if "description" in body:
        issue.body = a.state.obey(a.place, issue, a.login, body["description"])
    add, remove = (tuple(n for n in body.get(key, "").split(",") if n) for key in ("add_labels", "remove_labels"))
    if add or remove:
        a.state.relabel(a.place, issue, add, remove)
    match body.get("state_event"):
        case "close" if issue.state == "opened":
            a.state.close(issue, a.login)
        case "reopen" if issue.state == "closed":
            a.state.reopen(issue, a.login)
    a.state.touch(issue)


@on("GET", f"{R}/issues/{{issue_iid}}/links")
def links(a: Asked) -> list[Json]:
    if not a.place.licensed:
        raise Answered(403, {"message": "403 Forbidden"})
    rows = [(a.state.places[name], a.state.places[name].issues[number]) for name, number in a.issue().blocked_by]
    more = {"issue_link_id": 1, "link_type": "is_blocked_by", "link_created_at": a.state.now()}
    return a.page(rows, lambda row: a.views.issue(*row) | more)


@on("GET", f"{R}/issues/{{issue_iid}}/closed_by")
def closed_by(a: Asked) -> list[Json]:
    return a.page(a.views.closing(a.place, a.issue()), lambda row: a.views.merge(*row))


# -- comments, of issues and merge requests alike ----------------------------------------------------------------------
def notes(a: Asked, issue: Issue) -> list[Json]:
    rows = [(thread, note) for thread in issue.threads for note in thread.notes]
    if a.query.get("activity_filter") == "only_comments":
        rows = [(thread, note) for thread, note in rows if not note.system]
    rows.sort(key=lambda row: row[1].id, reverse=a.query.get("sort", "desc") == "desc")
    return a.page(rows, lambda row: a.views.note(a.place, issue, *row))


def write(a: Asked, issue: Issue, thread: Thread | None = None) -> tuple[int, Json]:
    """A comment; of one that is nothing but commands nothing stays."""
    text = a.state.obey(a.place, issue, a.login, a.body["body"])
    if not text:
        return 202, {"commands_changes": {}, "summary": ["Done."]}
    note = a.state.note(issue, a.login, text, thread=thread)
    where = thread or issue.threads[-1]
    return 201, a.views.note(a.place, issue, where, note)


def rewrite(a: Asked, issue: Issue) -> Json:
    thread, note = need(next(((t, n) for t in issue.threads for n in t.notes if n.id == a.number("note_id")), None))
    _own(a, note)
    note.body, note.changed = a.state.obey(a.place, issue, a.login, a.body["body"]), a.state.now()
    a.state.touch(issue)
    return a.views.note(a.place, issue, thread, note)


def _own(a: Asked, note: Said) -> None:
    if note.author != a.login and a.state.access[a.login] <= DEVELOPER:
        raise Answered(403, {"message": "403 Forbidden"})


@on("GET", f"{R}/issues/{{issue_iid}}/notes")
def issue_notes(a: Asked) -> list[Json]:
    return notes(a, a.issue())


@on("POST", f"{R}/issues/{{issue_iid}}/notes")
def write_issue_note(a: Asked) -> tuple[int, Json]:
    return write(a, a.issue())


@on("PUT", f"{R}/issues/{{issue_iid}}/notes/{{note_id}}")
def rewrite_issue_note(a: Asked) -> Json:
    return rewrite(a, a.issue())
