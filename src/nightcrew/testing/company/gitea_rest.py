"""The REST operations of the Gitea stand-in, with the service's own statuses and words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from nightcrew.testing.company.gitea_state import Place, Pull, Said, State, Status
from nightcrew.testing.company.gitea_views import Json, Views
from nightcrew.testing.company.standin import Answered, said

T = TypeVar("T")
R = "/repos/{owner}/{repo}"
REVIEWS = "/pulls/{index}/reviews"
HANDLERS: dict[tuple[str, str], Callable[[Asked], Any]] = {}
WORST = ("error", "failure", "pending")


@dataclass
class Asked:
    """One request: who asks, for what. `most` rows are on a page at most, whatever is asked for."""

    state: State
    views: Views
    login: str
    variables: Mapping[str, str]
    query: Mapping[str, str]
    raw: bytes
    found: Place | None
    address: str
    most: int
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        assert self.found is not None
        return self.found

    @property
    def body(self) -> Json:
        return said(self.raw) or {}

    def pull(self) -> Pull:
        return need(self.place.pulls.get(int(self.variables["index"])))

    def shown(self, pull: Pull) -> Json:
        return self.views.pull(self.place, pull, self.login)

    def page(self, rows: Iterable[T], show: Callable[[T], Json]) -> list[Json]:
        """One page, with the headers that tell of the others."""
        rows, size = list(rows), min(int(self.query.get("limit", 30)), self.most)
        page = int(self.query.get("page", 1))
        self.headers["X-Total-Count"] = str(len(rows))
        if len(rows) > page * size:
            more = urlencode({**self.query, "page": page + 1})
            self.headers["Link"] = f'<{self.address}?{more}>; rel="next"'
        return [show(row) for row in rows[(page - 1) * size : page * size]]


def need(found: T | None) -> T:
    if found is None:
        raise refused(404, "The target couldn't be found.")
    return found


def refused(status: int, message: str) -> Answered:
    return Answered(status, {"message": message, "url": "https://gitea.com/api/swagger"})


def on(method: str, path: str) -> Callable[[Callable[[Asked], Any]], Callable[[Asked], Any]]:
    """Handles that operation; a tuple is a status and an answer."""

    def register(handler: Callable[[Asked], Any]) -> Callable[[Asked], Any]:
        HANDLERS[method, path] = handler
        return handler

    return register


# -- who and where -----------------------------------------------------------------------------------------------------
@on("GET", "/user")
def user(asked: Asked) -> Json:
    return asked.views.user(asked.login)


@on("GET", R)
def repository(asked: Asked) -> Json:
    return asked.views.repository(asked.place, asked.login)


@on("GET", R + "/labels")
def labels(asked: Asked) -> list[Json]:
    return asked.page(asked.place.labels.values(), lambda number: asked.views.label(asked.place, number))


@on("GET", R + "/assignees")
def assignees(asked: Asked) -> list[Json]:
    return [asked.views.user(login) for login in asked.state.access if asked.state.writes(login)]


@on("GET", R + "/collaborators/{collaborator}/permission")
def permission(asked: Asked) -> Json:
    login = asked.variables["collaborator"]
    if asked.state.access.get(asked.login) != "admin" and login != asked.login:
        raise refused(403, "Only admins can query all permissions, repo admins can query all repo permissions")
    role = need(asked.state.access.get(login))
    return {"permission": role, "role_name": role, "user": asked.views.user(login)}


@on("GET", R + "/branches/{branch}")
def branch(asked: Asked) -> Json:
    name = asked.variables["branch"]
    sha, rule = need(asked.place.branch(name) or None), asked.place.rule(name)
    shown: Json = {"name": name, "commit": {"id": sha}, "protected": rule is not None}
    if rule:
        shown |= {"required_approvals": rule.approvals, "enable_status_check": bool(rule.contexts),
                  "status_check_contexts": list(rule.contexts), "user_can_push": False, "user_can_merge": True,
                  "effective_branch_protection_name": _told_admins(asked, rule.name)}  # fmt: skip
    return shown


def _told_admins(asked: Asked, text: str) -> str:
    return text if asked.state.access.get(asked.login) == "admin" else ""


@on("GET", R + "/branch_protections/{name}")
def protection(asked: Asked) -> Json:
    rule = need(next((rule for rule in asked.place.rules if rule.name == asked.variables["name"]), None))
    if not _told_admins(asked, rule.name):
        raise refused(403, "user should be an owner or a collaborator with admin write of a repository")
    return {"rule_name": rule.name, "branch_name": rule.name, "required_approvals": rule.approvals,
            "block_on_outdated_branch": rule.up_to_date}  # fmt: skip


# -- pull requests -----------------------------------------------------------------------------------------------------
@on("GET", R + "/pulls")
def pulls(asked: Asked) -> list[Json]:
    found = list(asked.place.pulls.values())
    for pull in found:
        asked.state.head(asked.place, pull)
    if (state := asked.query.get("state", "open")) != "all":
        found = [pull for pull in found if pull.open == (state == "open")]
    recent = asked.query.get("sort") == "recentupdate"
    found.sort(key=lambda pull: pull.moved if recent else pull.number, reverse=True)
    return asked.page(found, asked.shown)


@on("POST", R + "/pulls")
def open_pull(asked: Asked) -> tuple[int, Json]:
    body, place = asked.body, asked.place
    head, base = body["head"], body["base"]
    for name in (head, base):
        need(place.branch(name) or None)
    same = (p for p in place.pulls.values() if p.open and (p.head, p.base, p.fork) == (head, base, ""))
    if known := next(same, None):
        text = (f"pull request already exists for these targets [id: {known.id}, issue_id: {known.id}, head_repo_id: "
                f"{place.id}, base_repo_id: {place.id}, head_branch: {head}, base_branch: {base}]")  # fmt: skip
        raise refused(409, text)
    return 201, asked.shown(
        asked.state.pull(place.name, body["title"], body.get("body", ""), head, base, asked.login),
    )


@on("GET", R + "/pulls/{index:\\d+}")
def one_pull(asked: Asked) -> Json:
    return asked.shown(asked.pull())


@on("PATCH", R + "/pulls/{index:\\d+}")
def edit_pull(asked: Asked) -> tuple[int, Json]:
    pull, body = asked.pull(), asked.body
    pull.title, pull.body = body.get("title", pull.title), body.get("body", pull.body)
    asked.state.touch(pull, "change_title", asked.login)
    return 201, asked.shown(pull)


@on("POST", R + "/pulls/{index}/requested_reviewers")
def ask_for_review(asked: Asked) -> tuple[int, list[Json]]:
    pull = asked.pull()
    for login in asked.body["reviewers"]:
        if login not in asked.state.access:
            raise refused(404, f"user does not exist [uid: 0, name: {login}]")
    pull.reviewers += [login for login in asked.body["reviewers"] if login not in pull.reviewers]
    asked.state.touch(pull, "review_request", asked.login)
    return 201, []


@on("POST", R + "/issues/{index}/labels")
def add_labels(asked: Asked) -> list[Json]:
    pull, numbers = asked.pull(), asked.body["labels"]
    if not all(isinstance(number, int) and number in asked.place.labels.values() for number in numbers):
        raise refused(404, "label does not exist")
    pull.labels += [number for number in numbers if number not in pull.labels]
    asked.state.touch(pull, "label", asked.login)
    return [asked.views.label(asked.place, number) for number in pull.labels]


@on("POST", R + "/pulls/{index}/merge")
def merge(asked: Asked) -> Any:
    pull, body, place, state = asked.pull(), asked.body, asked.place, asked.state
    if not pull.open:
        raise refused(405, "The PR is already merged" if pull.merged_at else "Not Found")
    if body["do"] not in place.styles:
        raise refused(405, f"{body['do']} is not allowed as a merge style on this repository")
    if body.get("merge_when_checks_succeed") and not state.green(place, state.head(place, pull)):
        if pull.scheduled:
            raise refused(409, f"pull request is already scheduled to auto merge when checks succeed [{pull.id}]")
        pull.scheduled = body["do"]
        state.touch(pull, "pull_scheduled_merge", asked.login)
        return 201, None
    if why := _obstacle(asked, pull):
        raise refused(405, why)
    if body.get("head_commit_id", pull.head_sha) != pull.head_sha:
        raise refused(409, f"head out of date: {pull.head_sha}")
    state.merge(place.name, pull.number, body["do"])
    return None


def _obstacle(asked: Asked, pull: Pull) -> str:
    rule, place = asked.place.rule(pull.base), asked.place
    states = {status.context: status.state for status in asked.state.statuses(place, asked.state.head(place, pull))}
    approvals = {review.author for review in pull.reviews if review.state == "APPROVED"}
    if pull.draft:
        return "Work in progress PRs cannot be merged"
    if asked.state.conflict(place, pull):
        return "Please try again later"
    if rule and (len(approvals) < rule.approvals or any(states.get(c) != "success" for c in rule.contexts)):
        return "Not all required status checks successful"
    return ""


# -- what is said ------------------------------------------------------------------------------------------------------
@on("GET", R + "/issues/{index}/comments")
def comments(asked: Asked) -> list[Json]:
    pull = asked.pull()
    return [asked.views.comment(asked.place, pull, one) for one in pull.comments]


@on("POST", R + "/issues/{index}/comments")
def comment(asked: Asked) -> tuple[int, Json]:
    pull = asked.pull()
    made = asked.state.say(asked.place.name, pull.number, asked.login, asked.body["body"])
    return 201, asked.views.comment(asked.place, pull, made)


@on("PATCH", R + "/issues/comments/{id}")
def edit_comment(asked: Asked) -> Json:
    """Comments of reviews too: they are of one kind."""
    pull, one = _comment(asked)
    if one.author != asked.login:
        raise refused(403, "user should be the author of the comment")
    one.body, one.changed = asked.body["body"], asked.state.now()
    asked.state.touch(pull)
    return asked.views.comment(asked.place, pull, one)


def _comment(asked: Asked) -> tuple[Pull, Said]:
    number = int(asked.variables["id"])
    found = ((p, s) for p in asked.place.pulls.values() for s in (*p.comments, *p.lines) if s.id == number)
    return need(next(found, None))


@on("GET", R + "/issues/{index}/timeline")
def timeline(asked: Asked) -> list[Json]:
    pull = asked.pull()
    return asked.page(pull.events, lambda event: asked.views.event(asked.place, pull, event))


@on("GET", R + REVIEWS)
def reviews(asked: Asked) -> list[Json]:
    pull = asked.pull()
    return asked.page(pull.reviews, lambda review: asked.views.review(asked.place, pull, review))


@on("POST", R + REVIEWS)
def review(asked: Asked) -> Json:
    pull, body = asked.pull(), asked.body
    if body["event"] != "COMMENT" and pull.author == asked.login:
        raise refused(422, "approve your own pull is not allowed")
    if not body.get("body") and not body.get("comments"):
        raise refused(422, "review event COMMENT requires a body or a comment")
    made = asked.state.review(asked.place.name, pull.number, asked.login, body["event"], body.get("body", ""))
    for one in body.get("comments", []):
        asked.state.line(pull, made.id, asked.login, one["path"], one["new_position"], one["body"])
    return asked.views.review(asked.place, pull, made)


@on("GET", R + REVIEWS + "/{id}/comments")
def lines(asked: Asked) -> list[Json]:
    pull, number = asked.pull(), int(asked.variables["id"])
    return [asked.views.line(asked.place, pull, one) for one in pull.lines if one.review == number]


@on("POST", R + REVIEWS + "/{id}/comments")
def into_review(asked: Asked) -> Json:
    pull, body, number = asked.pull(), asked.body, int(asked.variables["id"])
    need(next((one for one in pull.reviews if one.id == number), None))
    made = asked.state.line(pull, number, asked.login, body["path"], body["new_position"], body["body"])
    return asked.views.line(asked.place, pull, made)


@on("POST", R + "/pulls/{index}/comments/{id}/replies")
def reply(asked: Asked) -> tuple[int, Json]:
    pull, one = _comment(asked)
    made = asked.state.line(pull, one.review, asked.login, one.path, one.position, asked.body["body"])
    return 201, asked.views.line(asked.place, pull, made)


@on("POST", R + "/pulls/comments/{id}/resolve")
def resolve(asked: Asked) -> tuple[int, None]:
    _, one = _comment(asked)
    one.resolver = asked.login
    return 204, None


# -- checks ------------------------------------------------------------------------------------------------------------
@on("GET", R + "/commits/{ref}/status")
def combined(asked: Asked) -> Json:
    """Its rows are in pages, as of a list, but its number of all is in the body."""
    found = asked.state.statuses(asked.place, asked.variables["ref"])
    states = {one.state for one in found}
    shown = asked.page(found, lambda one: asked.views.status(asked.place, one))
    del asked.headers["X-Total-Count"]
    return {
        "state": next((state for state in WORST if state in states), "success"), "sha": asked.variables["ref"],
        "total_count": len(found), "statuses": shown or None, "commit_url": "", "url": asked.address,
        "repository": asked.views.repository(asked.place, asked.login),
    }  # fmt: skip


@on("POST", R + "/statuses/{sha}")
def set_status(asked: Asked) -> tuple[int, Json]:
    """By other systems than Actions."""
    body, state = asked.body, asked.state
    made = Status(state.id(), asked.variables["sha"], body["context"], body["state"], body.get("target_url", ""),
                  state.now())  # fmt: skip
    asked.place.statuses.append(made)
    return 201, asked.views.status(asked.place, made)


@on("GET", R + "/actions/runs")
def runs(asked: Asked) -> Json:
    head = asked.query.get("head_sha", "")
    found = [job for job in asked.place.jobs if job.head == head or not head]
    return {"workflow_runs": asked.page(found, lambda job: asked.views.run(asked.place, job)),
            "total_count": len(found)}  # fmt: skip


@on("GET", R + "/actions/runs/{run}")
def one_run(asked: Asked) -> Json:
    number = int(asked.variables["run"])
    return asked.views.run(asked.place, need(next((job for job in asked.place.jobs if job.run == number), None)))


@on("GET", R + "/actions/runs/{run}/jobs")
def jobs(asked: Asked) -> Json:
    found = [job for job in asked.place.jobs if job.run == int(asked.variables["run"])]
    return {"jobs": asked.page(found, lambda job: asked.views.job(asked.place, job)), "total_count": len(found)}


@on("POST", R + "/actions/runs/{run}/rerun-failed-jobs")
def rerun(asked: Asked) -> tuple[int, None]:
    number = int(asked.variables["run"])
    job = need(next((job for job in asked.place.jobs if job.run == number), None))
    if job.state == "pending":
        raise refused(400, "this workflow run is not done")
    asked.state.check(asked.place.name, job.head, job.name, "pending")
    return 201, None


@on("GET", R + "/actions/jobs/{job_id}/logs")
def log(asked: Asked) -> str:
    number = int(asked.variables["job_id"])
    return need(next((job for job in asked.place.jobs if job.id == number), None)).log


# -- last, for any path of two more parts would do ---------------------------------------------------------------------
@on("GET", R + "/pulls/{base}/{head}")
def pull_of(asked: Asked) -> Json:
    """The oldest of these two branches, in any state, as the service finds it."""
    pair = (asked.variables["base"], asked.variables["head"])
    return asked.shown(need(next((p for p in asked.place.pulls.values() if (p.base, p.head) == pair), None)))
