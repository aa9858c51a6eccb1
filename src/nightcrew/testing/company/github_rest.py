"""The REST operations of the GitHub stand-in, as the official description words them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from subprocess import CalledProcessError
from typing import Any, TypeVar
from urllib.parse import urlencode

from nightcrew.testing.company.github_state import Issue, Place, Pull, Said, State
from nightcrew.testing.company.github_views import Json, Views
from nightcrew.testing.company.standin import Answered, said

T = TypeVar("T")
DOCS = "https://docs.github.com/rest"
R = "/repos/{owner}/{repo}"
HANDLERS: dict[tuple[str, str], Callable[[Asked], Any]] = {}


@dataclass
class Asked:
    """One request: who asks, for what."""

    state: State
    views: Views
    login: str
    variables: Mapping[str, str]
    query: Mapping[str, str]
    raw: bytes
    found: Place | None
    address: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        assert self.found is not None
        return self.found

    @property
    def body(self) -> Json:
        return said(self.raw) or {}

    def issue(self, name: str = "issue_number") -> Issue:
        return need(self.place.issues.get(int(self.variables[name])))

    def pull(self) -> tuple[Issue, Pull]:
        issue = self.issue("pull_number")
        return issue, need(issue.pull)

    def page(self, rows: Iterable[T], show: Callable[[T], Json]) -> list[Json]:
        """One page, with the Link header to the next."""
        rows, size = list(rows), min(int(self.query.get("per_page", 30)), 100)
        page = int(self.query.get("page", 1))
        if len(rows) > page * size:
            more = urlencode({**self.query, "page": page + 1})
            self.headers["Link"] = f'<{self.address}?{more}>; rel="next"'
        return [show(row) for row in rows[(page - 1) * size : page * size]]


def on(method: str, path: str) -> Callable[[Callable[[Asked], Any]], Callable[[Asked], Any]]:
    def keep(handler: Callable[[Asked], Any]) -> Callable[[Asked], Any]:
        HANDLERS[method, path] = handler
        return handler

    return keep


def need(found: T | None) -> T:
    if found is None:
        raise Answered(404, {"message": "Not Found"})
    return found


def invalid(resource: str, **what: str) -> Answered:
    return Answered(
        422, {"message": "Validation Failed", "documentation_url": DOCS, "errors": [{"resource": resource, **what}]}
    )


@on("GET", "/user")
def user(a: Asked) -> Json:
    if a.login.endswith("[bot]"):
        raise Answered(403, {"message": "Resource not accessible by integration"})
    a.headers["X-OAuth-Scopes"] = a.state.scopes.get(a.login, "repo")
    example = a.views.description.example("private-user-response-with-public-profile-information")
    return {**example, **a.views.user(a.login)}


@on("GET", "/user/repos")
def own_repositories(a: Asked) -> list[Json]:
    mine = a.state.places.values() if a.state.writes(a.login) else ()
    return a.page(mine, a.views.repository)


@on("GET", "/installation/repositories")
def repositories_of_the_app(a: Asked) -> Json:
    rows = a.page(a.state.places.values(), a.views.repository)
    return {"total_count": len(a.state.places), "repositories": rows}


@on("GET", R)
def repository(a: Asked) -> Json:
    shown = a.views.repository(a.place)
    shown["permissions"]["push"] = a.state.writes(a.login)
    return shown


@on("GET", f"{R}/collaborators/{{username}}/permission")
def permission(a: Asked) -> Json:
    if not a.state.writes(a.login):
        raise Answered(403, {"message": "Must have push access to view collaborator permission."})
    name = a.variables["username"]
    word = "write" if a.state.writes(name) else "read" if name in a.state.access else "none"
    return {"permission": word, "role_name": word, "user": a.views.user(name)}


# -- apps: the caller is known by a word signed with the app's key -----------------------------------------------------
@on("GET", f"{R}/installation")
def installation(a: Asked) -> Json:
    """Each owner has one of its own, where the app is installed."""
    if a.place.name.partition("/")[0] in a.state.without_app:
        raise Answered(404, {"message": "Not Found"})
    shown: Json = a.views.description.example("installation")
    return shown | {"id": a.state.installation(a.place.name.partition("/")[0])}


@on("POST", "/app/installations/{installation_id}/access_tokens")
def installation_token(a: Asked) -> tuple[int, Json]:
    owner = need(
        {number: owner for owner, number in a.state.installations.items()}.get(int(a.variables["installation_id"]))
    )
    token, until = f"ghs_{a.state.id()}_{'x' * 500}", datetime.now(UTC) + timedelta(hours=1)
    a.state.tokens[token], a.state.limited[token] = "nightcrew[bot]", owner
    return 201, {"token": token, "expires_at": until.strftime("%Y-%m-%dT%H:%M:%SZ"), "permissions": {"issues": "write"}}


# -- issues ------------------------------------------------------------------------------------------------------------
@on("GET", f"{R}/issues")
def issues(a: Asked) -> list[Json]:
    query, wanted = a.query, [label.lower() for label in a.query.get("labels", "").split(",") if label]
    for issue in a.place.issues.values():
        if issue.pull:
            a.state.head(a.place, issue)
    rows = [
        issue for issue in a.place.issues.values()
        if query.get("state", "open") in ("all", issue.state) and issue.changed >= query.get("since", "")
        and set(wanted) <= {label.lower() for label in issue.labels}
        and query.get("assignee", "") in ("", "*", *issue.assignees)
        and query.get("creator", "") in ("", issue.author)
    ]  # fmt: skip
    by = (lambda i: (i.changed, i.moved)) if query.get("sort") == "updated" else (lambda i: (i.at, i.number))
    rows.sort(key=by, reverse=query.get("direction", "desc") == "desc")
    return a.page(rows, lambda issue: a.views.issue(a.place, issue))


@on("POST", f"{R}/issues")
def write_issue(a: Asked) -> tuple[int, Json]:
    body = a.body
    made = a.state.issue(a.place.name, body["title"], body.get("body") or "", tuple(body.get("labels") or ()), a.login)
    return 201, a.views.issue(a.place, made)


@on("GET", f"{R}/issues/{{issue_number}}")
def issue(a: Asked) -> Json:
    return a.views.issue(a.place, a.issue())


@on("PATCH", f"{R}/issues/{{issue_number}}")
def change_issue(a: Asked) -> Json:
    issue, body = a.issue(), a.body
    issue.title, issue.body = body.get("title", issue.title), body.get("body", issue.body)
    if body.get("state") == "closed" and issue.state == "open":
        a.state.close_issue(a.place.name, issue.number, body.get("state_reason") or "completed")
    if body.get("state") == "open" and issue.state == "closed":
        a.state.reopen(a.place.name, issue.number)
    if "labels" in body:
        issue.labels = [a.state.label(a.place, label) for label in body["labels"]]
    a.state.touch(issue)
    return a.views.issue(a.place, issue)


@on("GET", f"{R}/issues/{{issue_number}}/comments")
def comments(a: Asked) -> list[Json]:
    issue = a.issue()
    rows = [one for one in issue.comments if one.changed >= a.query.get("since", "")]
    return a.page(rows, lambda one: a.views.comment(a.place, issue, one))


@on("POST", f"{R}/issues/{{issue_number}}/comments")
def comment(a: Asked) -> tuple[int, Json]:
    issue = a.issue()
    return 201, a.views.comment(a.place, issue, a.state.say(a.place.name, issue.number, a.login, a.body["body"]))


@on("PATCH", f"{R}/issues/comments/{{comment_id}}")
def change_comment(a: Asked) -> Json:
    issue, found = _comment(a)
    if found.author != a.login:
        raise Answered(403, {"message": "Must have admin rights to Repository."})
    found.body, found.changed = a.body["body"], a.state.now()
    a.state.touch(issue)
    return a.views.comment(a.place, issue, found)


def _comment(a: Asked) -> tuple[Issue, Said]:
    both = ((issue, one) for issue in a.place.issues.values() for one in issue.comments)
    return need(next(((i, one) for i, one in both if one.id == int(a.variables["comment_id"])), None))


@on("POST", f"{R}/issues/{{issue_number}}/labels")
def add_labels(a: Asked) -> list[Json]:
    issue = a.issue()
    a.state.relabel(a.place.name, issue.number, add=tuple(a.body["labels"]))
    return [a.views.label(a.place, label) for label in issue.labels]


@on("DELETE", f"{R}/issues/{{issue_number}}/labels/{{name}}")
def remove_label(a: Asked) -> list[Json]:
    issue, name = a.issue(), a.variables["name"]
    if name.lower() not in {label.lower() for label in issue.labels}:
        raise Answered(404, {"message": "Label does not exist"})
    a.state.relabel(a.place.name, issue.number, remove=(name,))
    return [a.views.label(a.place, label) for label in issue.labels]


@on("POST", f"{R}/issues/{{issue_number}}/assignees")
def assign(a: Asked) -> tuple[int, Json]:
    issue = a.issue()
    issue.assignees += [one for one in a.body.get("assignees", []) if one not in issue.assignees]
    a.state.touch(issue)
    return 201, a.views.issue(a.place, issue)


@on("GET", f"{R}/issues/{{issue_number}}/dependencies/blocked_by")
def blocked_by(a: Asked) -> list[Json]:
    rows = [a.place.issues[number] for number in a.issue().blocked_by]
    return a.page(rows, lambda one: a.views.issue(a.place, one))


# -- pull requests -----------------------------------------------------------------------------------------------------
@on("GET", f"{R}/pulls")
def pulls(a: Asked) -> list[Json]:
    query, owner = a.query, a.place.name.partition("/")[0]
    rows = []
    for issue in a.place.issues.values():
        if issue.pull is None:
            continue
        a.state.head(a.place, issue)
        # A head without "owner:" is ignored by the service.
        head = query.get("head", "")
        here = ":" not in head or head == f"{issue.pull.fork or owner}:{issue.pull.head}"
        if here and query.get("state", "open") in ("all", issue.state):
            rows.append(issue)
    by = (lambda i: (i.changed, i.moved)) if query.get("sort") == "updated" else (lambda i: (i.at, i.number))
    rows.sort(key=by, reverse=query.get("direction", "desc") == "desc")
    return a.page(rows, lambda one: a.views.pull(a.place, one, full=False))


@on("POST", f"{R}/pulls")
def open_pull(a: Asked) -> tuple[int, Json]:
    body, owner = a.body, a.place.name.partition("/")[0]
    head, base = body["head"].rpartition(":")[2], body["base"]
    sha, base_sha = a.place.bare.sha(f"refs/heads/{head}"), a.place.bare.sha(f"refs/heads/{base}")
    if not sha or not base_sha:
        raise invalid("PullRequest", field="head" if not sha else "base", code="invalid")
    there = [i.pull for i in a.place.issues.values() if i.state == "open" and i.pull]
    if any((pull.fork, pull.head, pull.base) == ("", head, base) for pull in there):
        why = f"A pull request already exists for {owner}:{head}."
        raise invalid("PullRequest", code="custom", message=why)
    if a.place.bare.contains(base_sha, sha):
        raise invalid("PullRequest", code="custom", message=f"No commits between {base} and {head}")
    if body.get("draft") and not a.place.drafts:
        why = "Draft pull requests are not supported in this repository."
        raise Answered(422, {"message": why, "documentation_url": DOCS})
    issue = a.state.issue(a.place.name, body["title"], body.get("body") or "", author=a.login)
    issue.pull = Pull(head, base, a.state.id(), sha, bool(body.get("draft")))
    return 201, a.views.pull(a.place, issue, full=True)


@on("GET", f"{R}/pulls/{{pull_number}}")
def pull(a: Asked) -> Json:
    return a.views.pull(a.place, a.pull()[0], full=True)


@on("PATCH", f"{R}/pulls/{{pull_number}}")
def change_pull(a: Asked) -> Json:
    issue, body = a.pull()[0], a.body
    issue.title, issue.body = body.get("title", issue.title), body.get("body", issue.body)
    if body.get("state") == "closed":
        a.state.close_issue(a.place.name, issue.number)
    a.state.touch(issue)
    return a.views.pull(a.place, issue, full=True)


@on("PUT", f"{R}/pulls/{{pull_number}}/merge")
def merge(a: Asked) -> Json:
    issue, pull = a.pull()
    head = a.state.head(a.place, issue)
    if a.body.get("sha") not in (None, head):
        raise Answered(409, {"message": "Head branch was modified. Review and try the merge again."})
    if issue.state != "open" or pull.draft or a.state.blocked(a.place, issue, head):
        raise Answered(405, {"message": "Pull Request is not mergeable"})
    try:
        sha = a.state.merge(a.place.name, issue.number, squash=a.body.get("merge_method") == "squash")
    except CalledProcessError as error:
        raise Answered(405, {"message": "Pull Request is not mergeable"}) from error
    return {"sha": sha, "merged": True, "message": "Pull Request successfully merged"}


@on("POST", f"{R}/pulls/{{pull_number}}/requested_reviewers")
def ask_reviewers(a: Asked) -> tuple[int, Json]:
    issue, pull = a.pull()
    for login in a.body.get("reviewers", []):
        if login == issue.author:
            raise Answered(422, {"message": "Review cannot be requested from pull request author."})
        if login not in a.state.access:
            raise Answered(422, {"message": "Reviews may only be requested from collaborators."})
    pull.reviewers += [login for login in a.body.get("reviewers", []) if login not in pull.reviewers]
    a.state.touch(issue)
    return 201, a.views.pull(a.place, issue, full=False)


@on("GET", f"{R}/pulls/{{pull_number}}/reviews")
def reviews(a: Asked) -> list[Json]:
    issue = a.pull()[0]
    return a.page(issue.reviews, lambda one: a.views.review(a.place, issue, one))


@on("GET", f"{R}/pulls/{{pull_number}}/comments")
def remarks(a: Asked) -> list[Json]:
    issue = a.pull()[0]
    rows = sorted((one for thread in issue.threads.values() for one in thread), key=lambda one: one.id)
    return a.page(rows, lambda one: a.views.remark(a.place, issue, one))


# -- checks ------------------------------------------------------------------------------------------------------------
@on("GET", f"{R}/commits/{{ref}}/check-runs")
def checks(a: Asked) -> Json:
    sha = need(a.place.bare.sha(a.variables["ref"]) or None)
    rows = [check for check in a.place.checks if check.head == sha]
    return {"total_count": len(rows), "check_runs": a.page(rows, lambda one: a.views.check(a.place, one))}


@on("GET", f"{R}/actions/jobs/{{job_id}}/logs")
def job_log(a: Asked) -> tuple[int, None]:
    job = need(next((c for c in a.place.checks if c.id == int(a.variables["job_id"])), None))
    a.headers["Location"] = f"{a.views.url()}/logs/{a.place.name}/{job.id}"  # good for a minute, without a login
    return 302, None


@on("POST", f"{R}/actions/runs/{{run_id}}/rerun-failed-jobs")
def rerun(a: Asked) -> tuple[int, Json]:
    run = need(next((c for c in a.place.checks if c.run == int(a.variables["run_id"])), None))
    run.status, run.conclusion = "in_progress", None
    return 201, {}
