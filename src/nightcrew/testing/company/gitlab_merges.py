"""The operations of the GitLab stand-in on merge requests, pipelines and jobs."""

from __future__ import annotations

from nightcrew.testing.company.gitlab_rest import Asked, R, change, need, notes, on, rewrite, write
from nightcrew.testing.company.gitlab_state import DEVELOPER, Job, Merge, Pipeline, Thread
from nightcrew.testing.company.gitlab_views import Json
from nightcrew.testing.company.standin import Answered

M = f"{R}/merge_requests"
ONE = f"{M}/{{merge_request_iid}}"


@on("GET", M)
def merges(a: Asked) -> list[Json]:
    for merge in a.place.merges.values():
        a.state.head(a.place, merge)
    rows = [m for m in a.place.merges.values() if m.source == a.query.get("source_branch", m.source)]
    return a.page(a.chosen(rows), lambda merge: a.views.merge(a.place, merge))


@on("POST", M)
def open_merge(a: Asked) -> tuple[int, Json]:
    a.may(DEVELOPER)
    body, place = a.body, a.place
    source, target = body["source_branch"], body["target_branch"]
    sha = place.bare.sha(f"refs/heads/{source}")
    if not sha or not place.bare.sha(f"refs/heads/{target}"):
        raise Answered(400, {"message": {"base": [f'Branch "{source if not sha else target}" does not exist']}})
    twins = [m for m in place.merges.values() if (m.source, m.target, m.state) == (source, target, "opened")]
    if any(not twin.fork for twin in twins):
        why = f"Another open merge request already exists for this source branch: !{twins[0].iid}"
        raise Answered(409, {"message": [why]})
    now, number = a.state.now(), max(place.merges, default=0) + 1
    made = Merge(number, a.state.id(), body["title"], "", a.login, now, now, moved=a.state.id(), source=source,
                 target=target, sha=sha, versions=[(a.state.id(), sha, now)])  # fmt: skip
    place.merges[number] = made
    made.body = a.state.obey(place, made, a.login, body.get("description", ""))
    return 201, a.views.one(place, made, diverged=False)


@on("GET", ONE)
def merge_request(a: Asked) -> Json:
    """Being asked for it alone makes the service find out whether it merges; told is that the next time."""
    place, merge = a.place, a.merge()
    pair = (a.state.head(place, merge), a.state.base_head(place, merge))
    if merge.asked == pair and merge.prepared:
        merge.checked = pair
    merge.asked = pair if merge.prepared else merge.asked
    shown = a.views.one(place, merge, diverged=a.query.get("include_diverged_commits_count") == "true")
    merge.prepared = True
    return shown


@on("PUT", ONE)
def change_merge(a: Asked) -> Json:
    a.may(DEVELOPER)
    merge, body = a.merge(), a.body
    if not body.get("title", "x").strip():
        raise Answered(400, {"message": {"title": ["can't be blank"]}})
    if "reviewer_ids" in body:
        names = [name for name, number in a.state.people.items() if number in body["reviewer_ids"]]
        merge.reviewers = {name: merge.reviewers.get(name, "unreviewed") for name in names}
    change(a, merge)
    return a.views.one(a.place, merge, diverged=False)


@on("PUT", f"{ONE}/merge")
def accept(a: Asked) -> Json:
    place, merge = a.place, a.merge()
    if a.state.access[a.login] < DEVELOPER:
        raise Answered(401, {"message": "401 Unauthorized"})
    head, later = a.state.head(place, merge), bool(a.body.get("auto_merge"))
    run = next((p for p in reversed(place.pipelines) if p.sha == head), None)
    if a.body.get("sha") not in (None, head):
        raise Answered(409, {"message": f"SHA does not match HEAD of source branch: {head}"})
    unapproved = len(merge.approvals) < place.approvals
    red = place.green and not later and (run is None or run.status != "success")
    if merge.state != "opened" or merge.draft or red or unapproved:
        raise Answered(405, {"message": "405 Method Not Allowed"})
    if place.bare.conflicts(a.state.base_head(place, merge), head):
        raise Answered(422, {"message": "Branch cannot be merged"})
    if later and run and run.status == "running":
        merge.auto = True
        a.state.touch(merge)
    else:
        a.state.merge(place, merge, squash=bool(a.body.get("squash")) and place.squash_option != "never")
    return a.views.one(place, merge, diverged=False)


@on("POST", f"{R}/merge_trains/merge_requests/{{merge_request_iid}}")
def board_train(a: Asked) -> tuple[int, list[Json]]:
    merge = a.merge()
    if not a.place.trains:
        raise Answered(403, {"message": "403 Forbidden"})
    if a.body.get("sha") not in (None, a.state.head(a.place, merge)):
        raise Answered(409, {"message": "SHA does not match HEAD of source branch"})
    merge.train = merge.auto = True
    a.state.touch(merge)
    return 201, [{"id": 1, "merge_request": {"iid": merge.iid}, "status": "idle", "target_branch": merge.target}]


# -- what is said ------------------------------------------------------------------------------------------------------
@on("GET", f"{ONE}/notes")
def merge_notes(a: Asked) -> list[Json]:
    return notes(a, a.merge())


@on("POST", f"{ONE}/notes")
def write_merge_note(a: Asked) -> tuple[int, Json]:
    return write(a, a.merge())


@on("PUT", f"{ONE}/notes/{{note_id}}")
def rewrite_merge_note(a: Asked) -> Json:
    return rewrite(a, a.merge())


@on("GET", f"{ONE}/discussions")
def discussions(a: Asked) -> list[Json]:
    merge = a.merge()
    return a.page(merge.threads, lambda thread: a.views.thread(a.place, merge, thread))


def _thread(a: Asked) -> Thread:
    return need(next((one for one in a.merge().threads if one.id == a.variables["discussion_id"]), None))


@on("GET", f"{ONE}/discussions/{{discussion_id}}")
def discussion(a: Asked) -> Json:
    return a.views.thread(a.place, a.merge(), _thread(a))


@on("PUT", f"{ONE}/discussions/{{discussion_id}}")
def resolve(a: Asked) -> Json:
    a.may(DEVELOPER)
    thread = _thread(a)
    if thread.alone:
        raise Answered(403, {"message": "403 Forbidden"})
    for note in thread.notes:
        note.resolved = a.login if a.body["resolved"] else ""
    a.state.touch(a.merge())
    return a.views.thread(a.place, a.merge(), thread)


@on("POST", f"{ONE}/discussions/{{discussion_id}}/notes")
def reply(a: Asked) -> tuple[int, Json]:
    return write(a, a.merge(), _thread(a))


@on("GET", f"{ONE}/approvals")
def approvals(a: Asked) -> Json:
    return a.views.approvals(a.place, a.merge())


@on("GET", f"{ONE}/reviewers")
def reviewers(a: Asked) -> list[Json]:
    rows = a.merge().reviewers.items()
    return a.page(rows, lambda row: {"user": a.views.user(row[0]), "state": row[1], "created_at": a.merge().at})


@on("GET", f"{ONE}/versions")
def versions(a: Asked) -> list[Json]:
    rows = list(reversed(a.merge().versions))
    return a.page(rows, lambda row: a.views.version(a.place, a.merge(), *row))


# -- pipelines and jobs ------------------------------------------------------------------------------------------------
@on("GET", f"{R}/pipelines")
def pipelines(a: Asked) -> list[Json]:
    rows = [p for p in a.place.pipelines if p.changed >= a.query.get("updated_after", "")]
    rows.sort(key=lambda p: (p.changed, p.id) if a.query.get("order_by") == "updated_at" else ("", p.id), reverse=True)
    return a.page(rows, lambda pipeline: a.views.pipeline(a.place, pipeline))


def _pipeline(a: Asked) -> Pipeline:
    return need(next((p for p in a.place.pipelines if p.id == a.number("pipeline_id")), None))


def _job(a: Asked) -> tuple[Pipeline, Job]:
    both = ((p, j) for p in a.place.pipelines for j in p.jobs)
    return need(next(((p, j) for p, j in both if j.id == a.number("job_id")), None))


@on("GET", f"{R}/pipelines/{{pipeline_id}}/jobs")
def jobs(a: Asked) -> list[Json]:
    pipeline = _pipeline(a)
    return a.page(pipeline.now()[::-1], lambda job: a.views.job(a.place, pipeline, job))


@on("GET", f"{R}/jobs/{{job_id}}")
def job(a: Asked) -> Json:
    return a.views.job(a.place, *_job(a))


@on("GET", f"{R}/jobs/{{job_id}}/trace")
def trace(a: Asked) -> str:
    return _job(a)[1].log


@on("POST", f"{R}/jobs/{{job_id}}/retry")
def retry_job(a: Asked) -> tuple[int, Json]:
    a.may(DEVELOPER)
    pipeline, job = _job(a)
    if job.retried or job.status not in ("failed", "canceled", "success"):
        raise Answered(403, {"message": "403 Forbidden - Job is not retryable"})
    return 201, a.views.job(a.place, pipeline, _again(a, pipeline, job))


def _again(a: Asked, pipeline: Pipeline, job: Job) -> Job:
    """A new job takes its place: the old one keeps its number and its trace."""
    job.retried = True
    made = Job(a.state.id(), job.name, "pending", "", job.allow_failure)
    pipeline.jobs.append(made)
    a.state.ran(pipeline)
    return made


@on("POST", f"{R}/pipelines/{{pipeline_id}}/retry")
def retry_pipeline(a: Asked) -> tuple[int, Json]:
    a.may(DEVELOPER)
    pipeline = _pipeline(a)
    for job in [job for job in pipeline.now() if job.status in ("failed", "canceled")]:
        _again(a, pipeline, job)
    pipeline.status, pipeline.changed = "running", a.state.now()
    return 201, a.views.pipeline(a.place, pipeline)
