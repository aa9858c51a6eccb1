"""How the GitLab stand-in shows things over REST."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nightcrew.testing.company.gitlab_state import Issue, Job, Merge, Pipeline, Place, Said, State, Thread, closes

Json = dict[str, Any]


class Views:
    """`url` tells where the stand-in listens; addresses in answers lead there."""

    def __init__(self, state: State, url: Callable[[], str]) -> None:
        self.state, self.url = state, url

    def user(self, login: str) -> Json:
        return {"id": self.state.people[login], "username": login, "name": login.title(), "state": "active",
                "locked": False, "avatar_url": None, "web_url": f"{self.url()}/{login}"}  # fmt: skip

    def account(self, login: str) -> Json:
        return self.user(login) | {"bot": login in self.state.bots, "created_at": "2026-01-01T00:00:00.000Z"}

    def project(self, place: Place, login: str) -> Json:
        address, path = f"{self.url()}/{place.name}", place.name.rpartition("/")[2]
        level = self.state.access[login]
        return {
            "id": place.id, "name": path.title(), "path": path, "path_with_namespace": place.name,
            "name_with_namespace": place.name.title().replace("/", " / "), "web_url": address,
            "http_url_to_repo": f"{address}.git", "default_branch": "main", "visibility": "private", "archived": False,
            "merge_method": place.merge_method, "squash_option": place.squash_option,
            "only_allow_merge_if_pipeline_succeeds": place.green,
            "permissions": {"project_access": None, "group_access": {"access_level": level, "notification_level": 3}},
        }  # fmt: skip

    def milestone(self, place: Place, title: str) -> Json | None:
        number = place.milestones.get(title)
        return (
            {"id": number, "iid": number, "project_id": place.id, "title": title, "state": "active"} if number else None
        )

    def _both(self, place: Place, issue: Issue, kind: str, sign: str) -> Json:
        """What issues and merge requests have in common."""
        people = [note for note in issue.notes() if not note.system]
        short = f"{sign}{issue.iid}"
        return {
            "id": issue.id, "iid": issue.iid, "project_id": place.id, "title": issue.title, "description": issue.body,
            "state": issue.state, "created_at": issue.at, "updated_at": issue.changed, "closed_at": issue.closed_at,
            "labels": issue.labels, "milestone": self.milestone(place, issue.milestone),
            "assignees": [self.user(name) for name in issue.assignees], "author": self.user(issue.author),
            "user_notes_count": len(people), "upvotes": 0, "downvotes": 0, "discussion_locked": None,
            "web_url": f"{self.url()}/{place.name}/-/{kind}/{issue.iid}",
            "references": {"short": short, "relative": short, "full": f"{place.name}{short}"},
        }  # fmt: skip

    def issue(self, place: Place, issue: Issue) -> Json:
        base = f"{self.url()}/api/v4/projects/{place.id}"
        links = {"self": f"{base}/issues/{issue.iid}", "notes": f"{base}/issues/{issue.iid}/notes", "project": base,
                 "closed_as_duplicate_of": f"{base}/issues/1" if issue.duplicate else None}  # fmt: skip
        return self._both(place, issue, "issues", "#") | {
            "assignee": self.user(issue.assignees[0]) if issue.assignees else None, "closed_by": None,
            "merge_requests_count": len(self.closing(place, issue)), "due_date": None, "confidential": False,
            "issue_type": "issue", "moved_to_id": None, "_links": links,
        }  # fmt: skip

    def closing(self, place: Place, issue: Issue) -> list[tuple[Place, Merge]]:
        """The merge requests that close an issue."""
        every = ((where, merge) for where in self.state.places.values() for merge in where.merges.values())
        return [(where, m) for where, m in every if (place.name, issue.iid) in closes(m.body, where.name)]

    def note(self, place: Place, issue: Issue, thread: Thread, said: Said) -> Json:
        merge = isinstance(issue, Merge)
        shown: Json = {
            "id": said.id, "type": None if thread.alone else "DiffNote", "body": said.body, "project_id": place.id,
            "author": self.user(said.author), "created_at": said.at, "updated_at": said.changed, "system": said.system,
            "noteable_id": issue.id, "noteable_type": "MergeRequest" if merge else "Issue", "noteable_iid": issue.iid,
            "resolvable": not thread.alone, "confidential": False, "internal": False,
        }  # fmt: skip
        if not thread.alone:
            shown |= {"resolved": bool(said.resolved), "resolved_by": None}
            shown["resolved_by"] = self.user(said.resolved) if said.resolved else None
        if said.path and isinstance(issue, Merge):
            base = self.state.base_head(place, issue)
            shown["position"] = {"base_sha": base, "start_sha": base, "head_sha": issue.sha, "old_path": said.path,
                                 "new_path": said.path, "position_type": "text", "old_line": None,
                                 "new_line": 1}  # fmt: skip
        return shown

    def thread(self, place: Place, issue: Issue, thread: Thread) -> Json:
        notes = [self.note(place, issue, thread, said) for said in thread.notes]
        return {"id": thread.id, "individual_note": thread.alone, "notes": notes}

    # -- merge requests ------------------------------------------------------------------------------------------------
    def merge(self, place: Place, merge: Merge) -> Json:
        """As a list shows it: whether it merges is told as it was last found out."""
        self.state.head(place, merge)
        waits = [note for thread in merge.threads if not thread.alone for note in thread.notes if not note.resolved]
        status, detailed = self.statuses(place, merge, waiting=bool(waits))
        return self._both(place, merge, "merge_requests", "!") | {
            "merged_at": merge.merged_at or None, "prepared_at": merge.at if merge.prepared else None,
            "target_branch": merge.target, "source_branch": merge.source, "draft": merge.draft,
            "reviewers": [self.user(name) for name in merge.reviewers], "work_in_progress": merge.draft,
            "source_project_id": 1 if merge.fork else place.id,
            "target_project_id": place.id,
            "merge_when_pipeline_succeeds": merge.auto, "merge_status": status, "detailed_merge_status": detailed,
            "sha": merge.sha, "merge_commit_sha": merge.merge_sha or None,
            "squash_commit_sha": merge.squash_sha or None,
            "squash": False, "has_conflicts": status == "cannot_be_merged", "should_remove_source_branch": None,
            "force_remove_source_branch": None, "blocking_discussions_resolved": not waits,
        }  # fmt: skip

    def statuses(self, place: Place, merge: Merge, *, waiting: bool) -> tuple[str, str]:
        """`merge_status`, and the first of all reasons against a merge."""
        pair = (merge.sha, self.state.base_head(place, merge))
        if not merge.prepared:
            return "preparing", "preparing"
        if merge.checked != pair and merge.state == "opened":
            word = "checking" if merge.asked == pair else "unchecked"
            return word, word
        conflict = merge.state == "opened" and place.bare.conflicts(pair[1], pair[0])
        return "cannot_be_merged" if conflict else "can_be_merged", self._reason(place, merge, conflict, waiting)

    def _reason(self, place: Place, merge: Merge, conflict: bool, waiting: bool) -> str:
        newest = next((p for p in reversed(place.pipelines) if p.sha == merge.sha), None)
        reasons = {
            "not_open": merge.state != "opened", "draft_status": merge.draft,
            "not_approved": len(merge.approvals) < place.approvals,
            "ci_still_running": place.green and newest is not None and newest.status == "running",
            "ci_must_pass": place.green and (newest is None or newest.status != "success"), "conflict": conflict,
            "need_rebase": place.merge_method != "merge" and self.diverged(place, merge) > 0,
            "requested_changes": "requested_changes" in merge.reviewers.values(),
        }  # fmt: skip
        return next((reason for reason, holds in reasons.items() if holds), "mergeable")

    def diverged(self, place: Place, merge: Merge) -> int:
        return int(place.bare.git("rev-list", "--count", f"{merge.sha}..{merge.target}"))

    def one(self, place: Place, merge: Merge, *, diverged: bool) -> Json:
        """As it is shown alone. The pipeline may be that of an earlier head, as older servers show it."""
        run = next((p for p in reversed(place.pipelines) if p.ref == merge.source), None)
        base = self.state.base_head(place, merge)
        shown = self.merge(place, merge) | {
            "head_pipeline": self.pipeline(place, run) if run else None, "user": {"can_merge": True},
            "diff_refs": {"base_sha": base, "head_sha": merge.sha, "start_sha": base}, "merge_error": None,
        }  # fmt: skip
        return shown | ({"diverged_commits_count": self.diverged(place, merge)} if diverged else {})

    def version(self, place: Place, merge: Merge, number: int, head: str, at: str) -> Json:
        base = self.state.base_head(place, merge)
        return {"id": number, "head_commit_sha": head, "base_commit_sha": base, "start_commit_sha": base,
                "created_at": at, "merge_request_id": merge.id, "state": "collected", "real_size": "1"}  # fmt: skip

    def approvals(self, place: Place, merge: Merge) -> Json:
        shown = [{"user": self.user(name), "approved_at": at} for name, at in merge.approvals.items()]
        left = max(place.approvals - len(shown), 0)
        return {"approved": not left, "approvals_required": place.approvals, "approvals_left": left,
                "approved_by": shown, "user_has_approved": False, "user_can_approve": True}  # fmt: skip

    def pipeline(self, place: Place, pipeline: Pipeline) -> Json:
        return {"id": pipeline.id, "iid": pipeline.id, "project_id": place.id, "sha": pipeline.sha,
                "ref": pipeline.ref, "status": pipeline.status, "source": "push", "created_at": pipeline.at,
                "updated_at": pipeline.changed, "name": None,
                "web_url": f"{self.url()}/{place.name}/-/pipelines/{pipeline.id}"}  # fmt: skip

    def job(self, place: Place, pipeline: Pipeline, job: Job) -> Json:
        short = {"id": pipeline.id, "project_id": place.id, "ref": pipeline.ref, "sha": pipeline.sha,
                 "status": pipeline.status}  # fmt: skip
        return {"id": job.id, "status": job.status, "stage": "test", "name": job.name, "ref": pipeline.ref,
                "tag": False,
                "allow_failure": job.allow_failure, "created_at": pipeline.at, "pipeline": short, "user": None,
                "web_url": f"{self.url()}/{place.name}/-/jobs/{job.id}"}  # fmt: skip
