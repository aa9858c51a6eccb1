"""How the Gitea stand-in shows things: whole objects in the service's shape, its nulls and its time zone included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nightcrew.testing.company.gitea_state import Job, Place, Pull, Review, Said, State, Status

Json = dict[str, Any]
STYLES = {"merge": "allow_merge_commits", "squash": "allow_squash_merge", "rebase": "allow_rebase"}


class Views:
    """`url` tells where the stand-in listens."""

    def __init__(self, state: State, url: Callable[[], str]) -> None:
        self.state, self.url = state, url
        self.drafts = True  # it says of a pull request whether it is one, as older servers do not

    def user(self, login: str) -> Json:
        return {
            "id": self.state.user(login), "login": login, "login_name": "", "source_id": 0, "full_name": "",
            "email": f"{login}@noreply.localhost", "avatar_url": f"{self.url()}/avatars/{login}",
            "html_url": f"{self.url()}/{login}", "language": "", "is_admin": False, "last_login": self.state.now(),
            "created": self.state.now(), "restricted": False, "active": True, "prohibit_login": False, "location": "",
            "website": "", "description": "", "visibility": "public", "followers_count": 0, "following_count": 0,
            "starred_repos_count": 0,
        }  # fmt: skip

    def repository(self, place: Place, login: str) -> Json:
        owner, _, name = place.name.partition("/")
        role = self.state.access.get(login, "none")
        return {
            "id": place.id, "owner": self.user(owner), "name": name, "full_name": place.name, "empty": False,
            "private": True, "fork": False, "parent": None, "html_url": f"{self.url()}/{place.name}",
            "clone_url": f"{self.url()}/{place.name}.git", "default_branch": "main", "has_actions": True,
            "default_merge_style": place.default_style,
            "permissions": {"admin": role == "admin", "push": self.state.writes(login), "pull": role != "none"},
            **{key: style in place.styles for style, key in STYLES.items()},
        }  # fmt: skip

    def label(self, place: Place, number: int) -> Json:
        name = next(name for name, known in place.labels.items() if known == number)
        return {"id": number, "name": name, "exclusive": False, "is_archived": False, "color": "ededed",
                "description": "", "url": f"{self.url()}/api/v1/repos/{place.name}/labels/{number}"}  # fmt: skip

    def pull(self, place: Place, pull: Pull, login: str) -> Json:
        conflict = self.state.conflict(place, pull)
        head, base = pull.head_sha, self.state.base_head(place, pull)
        here, page = self.repository(place, login), f"{self.url()}/{place.name}/pulls/{pull.number}"
        there = place.branch(pull.head)
        origin = here | {"id": place.id + 1, "owner": self.user(pull.fork)} if pull.fork else here
        shown: Json = {"draft": pull.draft} if self.drafts else {}
        return shown | {
            "id": pull.id, "url": page, "html_url": page, "diff_url": f"{page}.diff", "patch_url": f"{page}.patch",
            "number": pull.number, "user": self.user(pull.author), "title": pull.title, "body": pull.body,
            "labels": [self.label(place, number) for number in pull.labels], "milestone": None, "assignee": None,
            "assignees": None, "requested_reviewers": [self.user(who) for who in pull.reviewers],
            "state": "open" if pull.open else "closed", "is_locked": False,
            "comments": len(pull.comments) + len(pull.lines), "review_comments": len(pull.lines),
            "mergeable": not conflict and not pull.draft, "merged": pull.merged_at is not None,
            "merged_at": pull.merged_at, "merge_commit_sha": pull.merge_sha,
            "merged_by": self.user("ada") if pull.merged_at else None,
            "base": {"label": pull.base, "ref": pull.base, "sha": base, "repo_id": place.id, "repo": here},
            "head": {"label": pull.head, "ref": pull.head if there else f"refs/pull/{pull.number}/head", "sha": head,
                     "repo_id": origin["id"], "repo": origin},
            "merge_base": place.merge_base(base, head), "due_date": None, "created_at": pull.at,
            "updated_at": pull.changed, "closed_at": pull.closed_at, "pin_order": 0,
        }  # fmt: skip

    def comment(self, place: Place, pull: Pull, said: Said) -> Json:
        page = f"{self.url()}/{place.name}/pulls/{pull.number}"
        return {"id": said.id, "html_url": f"{page}#issuecomment-{said.id}", "pull_request_url": page, "issue_url": "",
                "user": self.user(said.author), "original_author": "", "original_author_id": 0, "body": said.body,
                "assets": [], "created_at": said.at, "updated_at": said.changed}  # fmt: skip

    def review(self, place: Place, pull: Pull, review: Review) -> Json:
        page = f"{self.url()}/{place.name}/pulls/{pull.number}"
        return {
            "id": review.id, "user": self.user(review.author), "team": None, "state": review.state,
            "body": review.body, "commit_id": review.head, "stale": review.head != pull.head_sha,
            "official": self.state.writes(review.author), "dismissed": review.dismissed,
            "comments_count": sum(said.review == review.id for said in pull.lines), "submitted_at": review.at,
            "updated_at": review.at, "html_url": f"{page}#issuecomment-{review.id}", "pull_request_url": page,
        }  # fmt: skip

    def line(self, place: Place, pull: Pull, said: Said) -> Json:
        page = f"{self.url()}/{place.name}/pulls/{pull.number}"
        return {
            "id": said.id, "body": said.body, "user": self.user(said.author), "path": said.path,
            "resolver": self.user(said.resolver) if said.resolver else None, "pull_request_review_id": said.review,
            "created_at": said.at, "updated_at": said.changed, "commit_id": pull.head_sha, "original_commit_id": "",
            "diff_hunk": "@@ -0,0 +1 @@", "position": said.position, "original_position": 0,
            "html_url": f"{page}#issuecomment-{said.id}", "pull_request_url": page,
        }  # fmt: skip

    def event(self, place: Place, pull: Pull, event: tuple[int, str, str, str]) -> Json:
        number, kind, who, at = event
        page = f"{self.url()}/{place.name}/pulls/{pull.number}"
        return {"id": number, "type": kind, "html_url": page, "user": self.user(who), "body": "", "created_at": at,
                "updated_at": at}  # fmt: skip

    def status(self, place: Place, status: Status) -> Json:
        where = f"{self.url()}/api/v1/repos/{place.name}/statuses/{status.head}"
        return {"id": status.id, "status": status.state, "target_url": status.target, "description": "",
                "url": where, "context": status.context, "creator": self.user("gitea-actions"),
                "created_at": status.at, "updated_at": status.at}  # fmt: skip

    def run(self, place: Place, job: Job) -> Json:
        return {"id": job.run, "url": f"{self.url()}/api/v1/repos/{place.name}/actions/runs/{job.run}",
                "html_url": self._run(place, job), "display_title": "change", "path": "ci.yaml@refs/heads/main",
                "event": "pull_request", "run_attempt": 1, "run_number": job.number, "head_sha": job.head,
                "head_branch": "", **_ended(job)}  # fmt: skip

    def job(self, place: Place, job: Job) -> Json:
        run = f"{self.url()}/api/v1/repos/{place.name}/actions/runs/{job.run}"
        return {"id": job.id, "url": f"{run}/jobs/{job.id}", "html_url": f"{self._run(place, job)}/jobs/0",
                "run_id": job.run, "run_url": run, "name": job.name, "head_sha": job.head, "run_attempt": 1,
                **_ended(job)}  # fmt: skip

    def _run(self, place: Place, job: Job) -> str:
        return f"{self.url()}/{place.name}/actions/runs/{job.number}"


def _ended(job: Job) -> Json:
    return {"status": "in_progress"} if job.state == "pending" else {"status": "completed", "conclusion": job.state}
