"""How the GitHub stand-in shows things over REST: the official examples, with what is true put in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nightcrew.testing.company.github_state import CheckRun, Issue, Place, Review, Said, State
from nightcrew.testing.company.openapi import Description

Json = dict[str, Any]


class Views:
    """`url` tells where the stand-in listens; addresses in answers lead there, for clients follow them."""

    def __init__(self, state: State, description: Description, url: Callable[[], str]) -> None:
        self.state, self.description, self.url = state, description, url
        self._user: Json = description.example("issue-comment")["user"]

    def author(self, login: str) -> Json | None:
        """Who wrote something: nobody, where that account was deleted."""
        return None if login == "ghost" else self.user(login)

    def user(self, login: str) -> Json:
        kind = "Bot" if login in self.state.bots else "User"
        number = sum(login.encode()) + 10
        return self._user | {"login": login, "id": number, "node_id": f"U_{number}", "type": kind,
                             "html_url": f"{self.url()}/{login}", "url": f"{self.url()}/users/{login}"}  # fmt: skip

    def label(self, place: Place, name: str) -> Json:
        number = place.labels[name]
        return {"id": number, "node_id": f"LA_{number}", "url": f"{self.url()}/repos/{place.name}/labels/{name}",
                "name": name, "description": None, "color": "ededed", "default": False}  # fmt: skip

    def repository(self, place: Place) -> Json:
        shown: Json = self.description.example("full-repository-default-response")
        for key in ("source", "parent", "template_repository", "organization", "license"):
            shown.pop(key, None)
        return shown | {
            "full_name": place.name, "name": place.name.partition("/")[2], "default_branch": "main", "private": True,
            "html_url": f"{self.url()}/{place.name}", "clone_url": f"{self.url()}/{place.name}.git",
            "language": None, "license": None, "archived": place.archived, "has_issues": True,
            "permissions": {"admin": False, "push": True, "pull": True, "maintain": False, "triage": True},
        }  # fmt: skip

    def issue(self, place: Place, issue: Issue) -> Json:
        base = f"{self.url()}/repos/{place.name}"
        shown: Json = self.description.example("issue")
        shown.pop("pull_request", None)
        if issue.pull:
            self.state.head(place, issue)
            address = f"{base}/pulls/{issue.number}"
            shown["pull_request"] = {
                "url": address,
                "html_url": self._page(place, issue),
                "diff_url": "",
                "patch_url": "",
            }
        people = [self.user(login) for login in issue.assignees]
        open_blockers = sum(place.issues[n].state == "open" for n in issue.blocked_by if n in place.issues)
        return shown | {
            "id": issue.id, "node_id": f"I_{issue.id}", "url": f"{base}/issues/{issue.number}", "repository_url": base,
            "html_url": self._page(place, issue), "number": issue.number, "state": issue.state,
            "state_reason": issue.reason, "title": issue.title, "body": issue.body, "user": self.author(issue.author),
            "labels": [self.label(place, label) for label in issue.labels], "assignees": people,
            "assignee": people[0] if people else None, "milestone": None, "comments": len(issue.comments),
            "created_at": issue.at, "updated_at": issue.changed, "closed_at": issue.closed_at, "closed_by": None,
            "locked": False, "author_association": self.state.association(issue.author),
            "issue_dependencies_summary": {
                "blocked_by": open_blockers, "total_blocked_by": len(issue.blocked_by), "blocking": 0,
                "total_blocking": 0,
            },
        }  # fmt: skip

    def edited(self, place: Place, issue: Issue, before: str) -> Json:
        """A webhook's body: its title was `before`. It shows an issue and a repository otherwise than REST does."""
        shown, repository = self.issue(place, issue), self.repository(place)
        for name in ("closed_by", "issue_dependencies_summary", "pinned_comment"):
            shown.pop(name, None)
        for name in ("network_count", "subscribers_count", "temp_clone_token"):
            repository.pop(name, None)
        none = dict.fromkeys(("total_count", "+1", "-1", "laugh", "hooray", "confused", "heart", "rocket", "eyes"), 0)
        shown["reactions"] = {"url": f"{shown['url']}/reactions", **none}
        repository |= {"web_commit_signoff_required": False, "custom_properties": {}}
        return {"action": "edited", "changes": {"title": {"from": before}}, "issue": shown, "repository": repository,
                "sender": self.user(issue.author)}  # fmt: skip

    def _page(self, place: Place, issue: Issue) -> str:
        return f"{self.url()}/{place.name}/{'pull' if issue.pull else 'issues'}/{issue.number}"

    def pull(self, place: Place, issue: Issue, *, full: bool) -> Json:
        pull = issue.pull
        assert pull is not None
        example = self.description.example("pull-request" if full else "pull-request-simple-items")
        shown: Json = example if full else example[0]
        head, row = self.state.head(place, issue), self.issue(place, issue)
        kept = ("number", "state", "title", "body", "user", "labels", "assignee", "assignees", "created_at",
                "updated_at", "closed_at", "html_url", "locked", "author_association")  # fmt: skip
        owner = place.name.partition("/")[0]
        here = shown["base"]["repo"] | {"full_name": place.name, "name": place.name.partition("/")[2]}
        there, whose = (here | {"id": here["id"] + 1}, pull.fork) if pull.fork else (here, owner)
        shown |= {key: row[key] for key in kept} | {
            "id": pull.id, "node_id": f"PR_{pull.id}", "url": f"{self.url()}/repos/{place.name}/pulls/{issue.number}",
            "issue_url": row["url"], "draft": pull.draft, "merged_at": pull.merged_at or None, "milestone": None,
            "merge_commit_sha": pull.merge_sha or None, "requested_reviewers": [self.user(r) for r in pull.reviewers],
            "requested_teams": [], "auto_merge": None,
            "head": shown["head"] | {"label": f"{whose}:{pull.head}", "ref": pull.head, "sha": head, "repo": there},
            "base": shown["base"] | {"label": f"{owner}:{pull.base}", "ref": pull.base, "repo": here,
                                     "sha": self.state.base_head(place, issue)},
        }  # fmt: skip
        if full:
            shown |= self._details(place, issue)
        return shown

    def _details(self, place: Place, issue: Issue) -> Json:
        pull = issue.pull
        assert pull is not None
        merges = None if pull.merged_at else self.state.mergeable(place, issue)
        state = {None: "unknown", False: "dirty", True: "draft" if pull.draft else "clean"}[merges]
        said = sum(map(len, issue.threads.values()))
        return {
            "merged": bool(pull.merged_at), "mergeable": merges, "rebaseable": merges, "mergeable_state": state,
            "merged_by": None, "comments": len(issue.comments), "review_comments": said, "commits": 1, "additions": 1,
            "deletions": 0, "changed_files": 1,
        }  # fmt: skip

    def comment(self, place: Place, issue: Issue, said: Said) -> Json:
        base = f"{self.url()}/repos/{place.name}/issues"
        example: Json = self.description.example("issue-comment")
        return example | {
            "id": said.id, "node_id": f"IC_{said.id}", "url": f"{base}/comments/{said.id}", "body": said.body,
            "html_url": f"{self._page(place, issue)}#issuecomment-{said.id}", "issue_url": f"{base}/{issue.number}",
            "user": self.author(said.author), "created_at": said.at, "updated_at": said.changed,
            "author_association": self.state.association(said.author),
        }  # fmt: skip

    def remark(self, place: Place, issue: Issue, said: Said) -> Json:
        shown: Json = self.description.example("pull-request-review-comment-items")[0]
        shown.pop("in_reply_to_id", None)
        if said.id != said.thread:
            shown["in_reply_to_id"] = said.thread
        return shown | {
            "id": said.id, "node_id": f"PRRC_{said.id}", "body": said.body, "path": said.path, "commit_id": said.head,
            "original_commit_id": said.head, "line": 1, "user": self.user(said.author), "created_at": said.at,
            "updated_at": said.changed, "html_url": f"{self._page(place, issue)}#discussion_r{said.id}",
            "author_association": self.state.association(said.author),
        }  # fmt: skip

    def review(self, place: Place, issue: Issue, review: Review) -> Json:
        example: Json = self.description.example("pull-request-review")
        return example | {
            "id": review.id, "node_id": f"PRR_{review.id}", "state": review.state, "body": review.body,
            "user": self.author(review.author), "submitted_at": review.at, "commit_id": review.head,
            "author_association": self.state.association(review.author),
            "html_url": f"{self._page(place, issue)}#pullrequestreview-{review.id}",
        }  # fmt: skip

    def check(self, place: Place, check: CheckRun) -> Json:
        shown: Json = self.description.example("check-run")
        ended = self.state.now() if check.status == "completed" else None
        return shown | {
            "id": check.id, "name": check.name, "node_id": f"CR_{check.id}", "head_sha": check.head,
            "status": check.status, "conclusion": check.conclusion, "completed_at": ended, "pull_requests": [],
            "url": f"{self.url()}/repos/{place.name}/check-runs/{check.id}",
            "details_url": f"{self.url()}/{place.name}/actions/runs/{check.run}/job/{check.id}",
        }  # fmt: skip
