"""The operations of the Jira stand-in, by method and path. `HANDLERS` are of both versions, but where one is named."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nightcrew.testing.company.jira_jql import Query
from nightcrew.testing.company.jira_state import (
    PERMISSIONS,
    PRIORITIES,
    RESOLUTIONS,
    TYPES,
    Comment,
    Issue,
    Project,
    Row,
    State,
    Wrong,
)
from nightcrew.testing.company.jira_views import Views, as_text

MOST = 100  # issues of one answer
RECONCILED = 50
LONGEST = 32_767  # characters of a text


@dataclass(frozen=True)
class Asked:
    """One request by `login`."""

    state: State
    views: Views
    login: str
    parts: Mapping[str, str]
    query: Mapping[str, str]
    body: Any
    adf: Callable[[Any], bool]

    def issue(self) -> Issue:
        return self.state.find(self.parts["issueIdOrKey"])

    def may(self, permission: str) -> None:
        if permission in self.state.denied.get(self.login, ()):
            raise Wrong(403, f"You do not have the permission {permission}.")

    def checked(self, body: Any, name: str) -> Any:
        """A body as this version takes it."""
        if self.views.cloud and not (isinstance(body, dict) and self.adf(body)):
            raise Wrong(400, "INVALID_INPUT: the operation value must be an Atlassian Document.", name)
        if not self.views.cloud and not isinstance(body, str):
            raise Wrong(400, "Operation value must be a string", name)
        if len(body if isinstance(body, str) else as_text(body)) > LONGEST:
            raise Wrong(
                400, f"The entered text is too long. It exceeds the allowed limit of {LONGEST} characters.", name
            )
        return body

    def person(self, told: Row | None) -> str:
        """The login of a user as this version names it."""
        key = "accountId" if self.views.cloud else "name"
        word = (told or {}).get(key)
        found = [p.login for p in self.state.people.values() if word in (p.account if self.views.cloud else p.login,)]
        if word and not found:
            raise Wrong(400, f"Account '{word}' does not exist.", "assignee")
        return found[0] if word else ""


Handler = Callable[[Asked], tuple[int, Any]]


# -- search and read ---------------------------------------------------------------------------------------------------
def search(asked: Asked) -> tuple[int, Row]:
    """Cloud's search: bounded, token by token, no field unless asked for, from an index that may lag."""
    told = asked.body
    query = Query(asked.state, asked.login, told["jql"])
    if not query.bounded:
        why = "Unbounded JQL queries are not allowed here. Please add a search restriction to your query."
        raise Wrong(400, why)
    fresh = [str(one) for one in told.get("reconcileIssues") or []]
    if len(fresh) > RECONCILED:
        raise Wrong(400, f"At most {RECONCILED} issues can be reconciled.")
    rows = query.among(asked.state.shown(fresh))
    start = int(b64decode(told["nextPageToken"])) if told.get("nextPageToken") else 0
    end = start + min(told.get("maxResults", 50), MOST)
    asked.state.searched()
    fields = told.get("fields") or []
    found: Row = {"issues": [asked.views.issue(row, fields) for row in rows[start:end]], "isLast": end >= len(rows)}
    return 200, found | ({} if found["isLast"] else {"nextPageToken": b64encode(str(end).encode()).decode()})


def old_search(asked: Asked) -> tuple[int, Row]:
    """Data Center's: by offset, with a total, all usual fields unless asked otherwise."""
    told = asked.body
    rows = Query(asked.state, asked.login, told.get("jql", "")).among(asked.state.shown([]))
    start, most = told.get("startAt", 0), min(told.get("maxResults", 50), MOST)
    asked.state.searched()
    fields = told.get("fields") or ["*navigable"]
    issues = [asked.views.issue(row, fields) for row in rows[start : start + most]]
    return 200, {"startAt": start, "maxResults": most, "total": len(rows), "issues": issues}


def bulk(asked: Asked) -> tuple[int, Row]:
    names = asked.body["issueIdsOrKeys"]
    if len(names) > MOST:
        raise Wrong(400, f"The number of issues exceeds {MOST}.")
    found = {i.id: i for i in asked.state.issues.values() if i.id in names or i.key in {n.upper() for n in names}}
    fields, more = asked.body.get("fields") or ["*navigable"], asked.body.get("properties") or ()
    rows = [asked.views.issue(found[name], fields, more) for name in sorted(found, key=int)]
    return 200, {"issues": rows, "issueErrors": []}


def read(asked: Asked) -> tuple[int, Row]:
    fields = asked.query.get("fields", "*all").split(",")
    return 200, asked.views.issue(asked.issue(), fields, _words(asked.query.get("properties", "")))


# -- write -------------------------------------------------------------------------------------------------------------
def create(asked: Asked) -> tuple[int, Row]:
    asked.may("CREATE_ISSUES")
    told = asked.body["fields"]
    key = (told.get("project") or {}).get("key", "")
    if key.upper() not in asked.state.projects:
        raise Wrong(400, "valid project is required", "project")
    kind, level = told["issuetype"]["name"], (told.get("priority") or {}).get("name", "Medium")
    if kind not in TYPES or level not in PRIORITIES:
        raise Wrong(400, "Specify a valid issue type and priority", "issuetype" if kind not in TYPES else "priority")
    body = told.get("description")
    made = asked.state.issue(
        key.upper(), told["summary"], None if body is None else asked.checked(body, "description"), by=asked.login,
        labels=_labels(told.get("labels") or []), type=kind, priority=level,
        assignee=asked.person(told.get("assignee")),
        properties={one["key"]: one["value"] for one in asked.body.get("properties") or []},
    )  # fmt: skip
    return 201, {"id": made.id, "key": made.key, "self": f"{asked.views.root}/issue/{made.id}"}


def edit(asked: Asked) -> tuple[int, None]:
    asked.may("EDIT_ISSUES")
    issue, update = asked.issue(), asked.body.get("update") or {}
    if unknown := set(update) - {"labels", "assignee"} or set(asked.body.get("fields") or {}):
        raise Wrong(400, f"Field '{unknown.pop()}' cannot be set.", "fields")
    words = [(key, value) for one in update.get("labels") or [] for key, value in one.items()]
    add = _labels([value for key, value in words if key == "add"])
    asked.state.relabel(issue.id, add, [value for key, value in words if key == "remove"])
    for one in update.get("assignee") or []:
        asked.may("ASSIGN_ISSUES")
        asked.state.assign(issue.id, asked.person(one["set"]))
    return 204, None


def transitions(asked: Asked) -> tuple[int, Row]:
    issue = asked.issue()
    ways = asked.state.projects[issue.project].workflow.transitions
    fields = "transitions.fields" in asked.query.get("expand", "")
    shown = [asked.views.transition(way, fields, RESOLUTIONS) for way in ways if way.open_from(issue.status)]
    return 200, {"expand": "transitions", "transitions": shown}


def transit(asked: Asked) -> tuple[int, None]:
    asked.may("TRANSITION_ISSUES")
    told = (asked.body.get("fields") or {}).get("resolution") or {}
    asked.state.transit(asked.issue(), asked.body["transition"]["id"], told.get("name", ""))
    return 204, None


# -- comments and links ------------------------------------------------------------------------------------------------
def comments(asked: Asked) -> tuple[int, Row]:
    said = sorted(asked.issue().comments, key=lambda one: one.created, reverse=asked.query.get("orderBy") == "-created")
    start, most = int(asked.query.get("startAt", 0)), min(int(asked.query.get("maxResults", 50)), MOST)
    more = "properties" in asked.query.get("expand", "")
    shown = [asked.views.comment(one, more) for one in said[start : start + most]]
    return 200, {"startAt": start, "maxResults": most, "total": len(said), "comments": shown}


def say(asked: Asked) -> tuple[int, Row]:
    asked.may("ADD_COMMENTS")
    body, marks = asked.checked(asked.body["body"], "comment"), asked.body.get("properties") or []
    made = asked.state.say(asked.issue().id, asked.login, body, {one["key"]: one["value"] for one in marks})
    return 201, asked.views.comment(made)


def say_anew(asked: Asked) -> tuple[int, Row]:
    issue, said = asked.issue(), _comment(asked)
    if said.author != asked.login:
        raise Wrong(400, "You do not have permission to edit the comment.")
    asked.may("EDIT_OWN_COMMENTS")
    marks = {one["key"]: one["value"] for one in asked.body.get("properties") or []}
    asked.state.say_anew(issue, said, asked.checked(asked.body["body"], "comment"), marks)
    return 200, asked.views.comment(said)


def _comment(asked: Asked) -> Comment:
    found = next((one for one in asked.issue().comments if one.id == asked.parts["id"]), None)
    if found is None:
        raise Wrong(404, f"Can not find a comment for the id: {asked.parts['id']}.")
    return found


def link(asked: Asked) -> tuple[int, Row]:
    asked.may("LINK_ISSUES")
    if len(asked.body.get("globalId") or "") > 255:
        raise Wrong(400, "globalId is longer than 255 characters.", "globalId")
    issue = asked.issue()
    number, new = asked.state.remote(issue, asked.body)
    return (201 if new else 200), {"id": number, "self": f"{asked.views.root}/issue/{issue.key}/remotelink/{number}"}


def links(asked: Asked) -> tuple[int, Any]:
    return 200, [{**one, "self": f"{asked.views.root}/remotelink/{one['id']}"} for one in asked.issue().links.values()]


# -- people and projects -----------------------------------------------------------------------------------------------
def myself(asked: Asked) -> tuple[int, Any]:
    return 200, asked.views.user(asked.state.people[asked.login])


def assignable(asked: Asked) -> tuple[int, Any]:
    """Data Center matches the beginning of a name, Cloud an account id exactly."""
    word = asked.query.get("accountId" if asked.views.cloud else "username", "")
    people = [asked.state.people[login] for login in sorted(_project(asked, asked.query["project"]).members)]
    right = [p for p in people if (p.account == word if asked.views.cloud else p.login.startswith(word))]
    return 200, [asked.views.user(person) for person in right]


def users(asked: Asked) -> tuple[int, Any]:
    """Whose address or name begins like that, also those who hide their address."""
    word = asked.query.get("query", "").lower()
    found = [p for p in asked.state.people.values() if p.email.startswith(word) or p.display.lower().startswith(word)]
    return 200, [asked.views.user(person) for person in found[: int(asked.query.get("maxResults", 50))]]


def permissions(asked: Asked) -> tuple[int, Row]:
    _project(asked, asked.query["projectKey"])
    words = _words(asked.query.get("permissions", ""))
    if asked.views.cloud and (not words or set(words) - set(PERMISSIONS)):
        raise Wrong(400, "The permissions to be looked at must be named, and known.")
    denied = asked.state.denied.get(asked.login, set())
    shown = {key: {"id": str(n), "key": key, "name": key.title(), "type": "PROJECT", "description": "",
                   "havePermission": key not in denied} for n, key in enumerate(words or PERMISSIONS, 10)}  # fmt: skip
    return 200, {"permissions": shown}


def statuses(asked: Asked) -> tuple[int, Any]:
    flow = _project(asked, asked.parts["projectIdOrKey"]).workflow
    shown = [asked.views.status(status) for status in flow.statuses]
    return 200, [{"self": f"{asked.views.root}/issuetype/{n}", "id": str(n), "name": kind, "subtask": False,
                  "statuses": shown} for n, kind in enumerate(TYPES, 1)]  # fmt: skip


def projects(asked: Asked) -> tuple[int, Row]:
    start, most = int(asked.query.get("startAt", 0)), int(asked.query.get("maxResults", 50))
    shown = _projects(asked)
    return 200, {"self": f"{asked.views.root}/project/search", "startAt": start, "maxResults": most,
                 "total": len(shown), "isLast": start + most >= len(shown),
                 "values": shown[start : start + most]}  # fmt: skip


def all_projects(asked: Asked) -> tuple[int, Any]:
    return 200, _projects(asked)


def _projects(asked: Asked) -> list[Row]:
    return [{"self": f"{asked.views.root}/project/{p.id}", "id": p.id, "key": p.key, "name": p.name}
            for p in asked.state.projects.values()]  # fmt: skip


def _project(asked: Asked, key: str) -> Project:
    found = asked.state.projects.get(key.upper())
    if found is None:
        raise Wrong(404, f"No project could be found with key '{key}'.")
    return found


def _labels(words: list[str]) -> list[str]:
    if bad := next((word for word in words if re.search(r"\s", word)), None):
        raise Wrong(400, f"The label '{bad}' contains spaces which is invalid.", "labels")
    return words


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


ISSUE = "/issue/{issueIdOrKey}"
HANDLERS: dict[tuple[str, str], Handler] = {
    ("POST", "/issue"): create, ("GET", ISSUE): read, ("PUT", ISSUE): edit,
    ("GET", f"{ISSUE}/transitions"): transitions, ("POST", f"{ISSUE}/transitions"): transit,
    ("GET", f"{ISSUE}/comment"): comments, ("POST", f"{ISSUE}/comment"): say,
    ("PUT", f"{ISSUE}/comment/{{id}}"): say_anew, ("GET", f"{ISSUE}/remotelink"): links,
    ("POST", f"{ISSUE}/remotelink"): link, ("GET", "/myself"): myself, ("GET", "/mypermissions"): permissions,
    ("GET", "/user/assignable/search"): assignable, ("GET", "/project/{projectIdOrKey}/statuses"): statuses,
}  # fmt: skip
CLOUD: dict[tuple[str, str], Handler] = {
    ("POST", "/search/jql"): search, ("POST", "/issue/bulkfetch"): bulk, ("GET", "/project/search"): projects,
    ("GET", "/user/search"): users,
    **HANDLERS,
}  # fmt: skip
DATA_CENTER: dict[tuple[str, str], Handler] = {
    ("POST", "/search"): old_search, ("GET", "/project"): all_projects, **HANDLERS,
}  # fmt: skip
