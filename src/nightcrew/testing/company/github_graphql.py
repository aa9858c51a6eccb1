"""The GraphQL of the GitHub stand-in: graphql-core executes the official schema over what is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib.resources import files
from subprocess import CalledProcessError
from typing import Any

from graphql import GraphQLError, GraphQLSchema, build_schema, execute_sync, parse, validate

from nightcrew.testing.company.github_state import Board, CheckRun, Issue, Place, Said, State

Json = dict[str, Any]
ROLLS_UP = {"failure": "FAILURE", "cancelled": "FAILURE", "timed_out": "FAILURE", "success": "SUCCESS",
            "skipped": "SUCCESS", "neutral": "SUCCESS"}  # fmt: skip


class GraphQL:
    """Runs one request at a time; the caller holds the stand-in's `turn`."""

    def __init__(self, state: State, url: Callable[[], str]) -> None:
        self.state, self.url = state, url

    @cached_property
    def schema(self) -> GraphQLSchema:
        text = files("nightcrew.testing.company").joinpath("schemas", "github.graphql").read_text()
        return build_schema(text, assume_valid=True)

    def run(self, asked: Json, login: str) -> tuple[Json, list[str]]:
        """The answer, and how the request differs from the schema."""
        try:
            document = parse(asked["query"])
        except GraphQLError as error:
            return {"errors": [{"message": error.message}]}, [error.message]
        if wrong := validate(self.schema, document):
            return {"errors": [{"message": one.message} for one in wrong]}, [one.message for one in wrong]
        done = execute_sync(self.schema, document, self._root(login), variable_values=asked.get("variables"),
                            operation_name=asked.get("operationName"))  # fmt: skip
        told: Json = {"data": done.data}
        if done.errors:
            told["errors"] = [{"message": e.message, "type": _kind(e), "path": e.path} for e in done.errors]
        wrong_answer = [e.message for e in done.errors or [] if not isinstance(e.original_error, _Refused)]
        return told, wrong_answer

    # -- reading -----------------------------------------------------------------------------------------------------
    def _root(self, login: str) -> Json:
        acts = _Acts(self, login)
        return {
            "viewer": {"login": login, "__typename": "User"},
            "repository": lambda _i, owner, name, **_: self._repository(f"{owner}/{name}", login),
            "organization": lambda _i, login: self._owner(login, "Organization"),
            "user": lambda _i, login: self._owner(login, "User"),
            "updateProjectV2ItemFieldValue": lambda _i, input: acts.move_card(input),  # noqa: A006
            "addProjectV2ItemById": lambda _i, input: acts.add_card(input),  # noqa: A006
            "markPullRequestReadyForReview": lambda _i, input: acts.draft(input, draft=False),  # noqa: A006
            "convertPullRequestToDraft": lambda _i, input: acts.draft(input, draft=True),  # noqa: A006
            "enablePullRequestAutoMerge": lambda _i, input: acts.auto(input),  # noqa: A006
            "enqueuePullRequest": lambda _i, input: acts.enqueue(input),  # noqa: A006
            "addPullRequestReviewThreadReply": lambda _i, input: acts.reply(input),  # noqa: A006
            "resolveReviewThread": lambda _i, input: acts.resolve(input),  # noqa: A006
        }

    def _repository(self, name: str, login: str) -> Json:
        place = self.state.places.get(name)
        if place is None:
            raise _Refused(f"Could not resolve to a Repository with the name '{name}'.", "NOT_FOUND")
        allowed = "WRITE" if self.state.writes(login) else "READ"
        return {"viewerPermission": allowed, "autoMergeAllowed": True, "nameWithOwner": name, "id": f"R_{name}",
                "pullRequest": lambda _i, number: self._pull(place, number)}  # fmt: skip

    def _owner(self, login: str, kind: str) -> Json:
        """An owner of projects; organizations own places, people do not."""
        company = any(name.partition("/")[0] == login for name in self.state.places)
        if company != (kind == "Organization"):
            raise _Refused(f"Could not resolve to {kind} with the login of '{login}'.", "NOT_FOUND")
        return {"__typename": kind, "login": login, "projectV2": lambda _i, number: self._project(login, number)}

    def _project(self, login: str, number: int) -> Json:
        board = self.state.boards.get((login, number))
        if board is None:
            raise _Refused(f"Could not resolve to a ProjectV2 with the number {number}.", "NOT_FOUND")
        options = [{"id": f"opt-{name}", "name": name} for name in board.options]
        status = {
            "__typename": "ProjectV2SingleSelectField",
            "id": f"F_{board.id}",
            "name": "Status",
            "options": options,
        }
        return {"id": board.id, "title": "Work", "updatedAt": self.state.now(), "closed": False,
                "fields": lambda _i, **_: _last([status], 30),
                "items": lambda _i, first=20, after=None, **_: self._cards(board, first, after)}  # fmt: skip

    def _cards(self, board: Board, first: int, after: str | None) -> Json:
        items = list(board.cards)
        start = items.index(after) + 1 if after in items else 0
        shown, more = items[start : start + first], start + first < len(items)
        return {"totalCount": len(items), "nodes": [self._card(board, item) for item in shown],
                "pageInfo": {"hasNextPage": more, "endCursor": shown[-1] if shown else None}}  # fmt: skip

    def _card(self, board: Board, item: str) -> Json:
        name, number, status, archived = board.cards[item]
        value = {"__typename": "ProjectV2ItemFieldSingleSelectValue", "name": status, "optionId": f"opt-{status}"}
        return {"id": item, "type": "ISSUE", "isArchived": archived, "updatedAt": self.state.now(),
                "fieldValueByName": lambda _i, **_: value if status else None,
                "content": {"__typename": "Issue", "number": number,
                            "repository": {"nameWithOwner": name}}}  # fmt: skip

    def _pull(self, place: Place, number: int) -> Json:
        issue = place.issues.get(number)
        if issue is None or issue.pull is None:
            raise _Refused(f"Could not resolve to a PullRequest with the number of {number}.", "NOT_FOUND")
        pull, head = issue.pull, self.state.head(place, issue)
        merges = self.state.mergeable(place, issue) if issue.state == "open" else None
        base = self.state.base_head(place, issue)
        return {
            "id": f"PR_{pull.id}", "number": number, "title": issue.title, "body": issue.body, "isDraft": pull.draft,
            "state": "MERGED" if pull.merged_at else issue.state.upper(),
            "url": f"{self.url()}/{place.name}/pull/{number}",
            "createdAt": issue.at, "updatedAt": issue.changed, "headRefName": pull.head, "headRefOid": head,
            "baseRefName": pull.base, "author": self._actor(issue.author), "mergedAt": pull.merged_at or None,
            "mergeable": {None: "UNKNOWN", True: "MERGEABLE", False: "CONFLICTING"}[merges],
            "mergeStateStatus": self._status(place, issue, merges, head, base),
            "reviewDecision": self._decision(place, issue), "isInMergeQueue": pull.queued,
            "baseRef": {"target": {"__typename": "Commit", "oid": base}},
            "mergeCommit": {"oid": pull.merge_sha} if pull.merge_sha else None,
            "autoMergeRequest": {"enabledAt": pull.auto} if pull.auto else None,
            "closingIssuesReferences": lambda _i, **_: {"nodes": []},
            "commits": lambda _i, **_: _last([{"commit": self._commit(place, head)}], 1),
            "reviews": lambda _i, last=30, **_: _last([self._review(r) for r in issue.reviews], last),
            "reviewThreads": lambda _i, last=60, **_: _last([self._thread(issue, n) for n in issue.threads], last),
            "comments": lambda _i, last=40, **_: _last([self._comment(c, "IC") for c in issue.comments], last),
        }  # fmt: skip

    def _status(self, place: Place, issue: Issue, merges: bool | None, head: str, base: str) -> str:
        if merges is None:
            return "UNKNOWN"
        if not merges:
            return "DIRTY"
        if place.strict and not place.bare.contains(head, base):
            return "BEHIND"
        if self.state.blocked(place, issue, head):
            return "BLOCKED"
        states = {ROLLS_UP.get(check.conclusion or "", "PENDING") for check in place.checks if check.head == head}
        return "UNSTABLE" if states - {"SUCCESS"} else "CLEAN"

    def _decision(self, place: Place, issue: Issue) -> str | None:
        """What the reviews of those who may write say; null where no rule asks for a review."""
        last = {r.author: r.state for r in issue.reviews if self.state.writes(r.author)}
        if "CHANGES_REQUESTED" in last.values():
            return "CHANGES_REQUESTED"
        if not place.approvals:
            return None
        return "APPROVED" if list(last.values()).count("APPROVED") >= place.approvals else "REVIEW_REQUIRED"

    def _actor(self, login: str) -> Json | None:
        """An author; that an app is a robot is told by the type alone. An account that was deleted is nobody."""
        if login == "ghost":
            return None
        return {"login": login.removesuffix("[bot]"), "__typename": "Bot" if login in self.state.bots else "User"}

    def _commit(self, place: Place, head: str) -> Json:
        return {"oid": head, "statusCheckRollup": self._rollup(place, head)}

    def _rollup(self, place: Place, head: str) -> Json | None:
        runs = [check for check in place.checks if check.head == head]
        if not runs:
            return None
        states = {ROLLS_UP.get(check.conclusion or "", "PENDING") for check in runs}
        whole = next(state for state in ("FAILURE", "PENDING", "SUCCESS") if state in states)
        return {"state": whole, "contexts": lambda _i, first=100, after=None, **_: self._contexts(
            place, runs, first, after)}  # fmt: skip

    def _contexts(self, place: Place, runs: list[CheckRun], first: int, after: str | None) -> Json:
        start = int(after or 0)
        nodes = [self._check(place, run) for run in runs[start : start + min(first, 100)]]
        more = start + len(nodes) < len(runs)
        return {"nodes": nodes, "totalCount": len(runs),
                "pageInfo": {"hasNextPage": more, "endCursor": str(start + len(nodes))}}  # fmt: skip

    def _check(self, place: Place, run: CheckRun) -> Json:
        return {
            "__typename": "CheckRun", "databaseId": run.id, "name": run.name, "status": run.status.upper(),
            "conclusion": run.conclusion.upper() if run.conclusion else None, "title": None, "summary": None,
            "detailsUrl": f"{self.url()}/{place.name}/actions/runs/{run.run}/job/{run.id}", "startedAt": None,
            "isRequired": lambda _i, **_: run.name in place.required,
            "checkSuite": {"workflowRun": {"databaseId": run.run}},
        }  # fmt: skip

    def _review(self, review: Any) -> Json:
        return {
            "id": f"PRR_{review.id}", "databaseId": review.id, "state": review.state, "body": review.body,
            "submittedAt": review.at, "updatedAt": review.at, "author": self._actor(review.author),
            "authorAssociation": self.state.association(review.author), "commit": {"oid": review.head},
        }  # fmt: skip

    def _thread(self, issue: Issue, number: int) -> Json:
        said = issue.threads[number]
        return {"id": f"PRRT_{number}", "isResolved": number in issue.resolved, "path": said[0].path, "line": 1,
                "comments": lambda _i, last=20, **_: _last([self._comment(c, "PRRC") for c in said], last)}  # fmt: skip

    def _comment(self, said: Said, kind: str) -> Json:
        return {"id": f"{kind}_{said.id}", "databaseId": said.id, "body": said.body, "createdAt": said.at,
                "updatedAt": said.changed, "author": self._actor(said.author),
                "authorAssociation": self.state.association(said.author)}  # fmt: skip


class _Refused(Exception):
    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Acts:
    """The mutations, by one login."""

    def __init__(self, graphql: GraphQL, login: str) -> None:
        self.graphql, self.state, self.login = graphql, graphql.state, login
        self.may = self.state.writes(login)

    def _found(self, node: str) -> tuple[Place, Issue]:
        if not self.may:
            raise _Refused("Resource not accessible by personal access token", "FORBIDDEN")
        for place in self.state.places.values():
            for issue in place.issues.values():
                if issue.pull and (f"PR_{issue.pull.id}" == node or (f"PRRT_{_number(node)}" == node
                                   and _number(node) in issue.threads)):  # fmt: skip
                    return place, issue
        raise _Refused(f"Could not resolve to a node with the global id of '{node}'.", "NOT_FOUND")

    def _board(self, node: str) -> Board:
        if not self.may:
            raise _Refused("Resource not accessible by personal access token", "FORBIDDEN")
        return next(one for one in self.state.boards.values() if one.id == node)

    def move_card(self, asked: Json) -> Json:
        board = self._board(asked["projectId"])
        board.cards[asked["itemId"]][2] = asked["value"]["singleSelectOptionId"].removeprefix("opt-")
        return {"projectV2Item": self.graphql._card(board, asked["itemId"])}

    def add_card(self, asked: Json) -> Json:
        board, node = self._board(asked["projectId"]), asked["contentId"]
        both = (
            (p.name, i.number) for p in self.state.places.values() for i in p.issues.values() if f"I_{i.id}" == node
        )
        item = self.state.card(board, *next(both))
        return {"item": self.graphql._card(board, item)}

    def draft(self, asked: Json, *, draft: bool) -> Json:
        place, issue = self._found(asked["pullRequestId"])
        assert issue.pull is not None
        issue.pull.draft = draft
        self.state.touch(issue)
        return {"pullRequest": self.graphql._pull(place, issue.number)}

    def auto(self, asked: Json) -> Json:
        place, issue = self._found(asked["pullRequestId"])
        assert issue.pull is not None
        self._same(asked, place, issue)
        if (shown := self.graphql._pull(place, issue.number)["mergeStateStatus"]) in ("CLEAN", "UNSTABLE", "HAS_HOOKS"):
            raise _Refused(f"Pull request Pull request is in {shown.lower()} status", "UNPROCESSABLE")
        issue.pull.auto = self.state.now()
        self.state.touch(issue)
        return {"pullRequest": self.graphql._pull(place, issue.number)}

    def enqueue(self, asked: Json) -> Json:
        place, issue = self._found(asked["pullRequestId"])
        assert issue.pull is not None
        self._same(asked, place, issue)
        issue.pull.queued = True
        self.state.touch(issue)
        return {"mergeQueueEntry": {"id": f"MQE_{issue.number}", "state": "QUEUED"}}

    def _same(self, asked: Json, place: Place, issue: Issue) -> None:
        if asked.get("expectedHeadOid") not in (None, self.state.head(place, issue)):
            raise _Refused("Head sha did not match expected head oid", "UNPROCESSABLE")

    def reply(self, asked: Json) -> Json:
        node = asked["pullRequestReviewThreadId"]
        _, issue = self._found(node)
        said = self.state.reply(issue, _number(node), self.login, asked["body"])
        return {"comment": self.graphql._comment(said, "PRRC")}

    def resolve(self, asked: Json) -> Json:
        _, issue = self._found(asked["threadId"])
        issue.resolved.add(_number(asked["threadId"]))
        self.state.touch(issue)
        return {"thread": self.graphql._thread(issue, _number(asked["threadId"]))}


def settle_auto(state: State, place: Place) -> None:
    """What the service does by itself: merge what may be merged once its checks are green, and its queue."""
    for issue in place.issues.values():
        if issue.state != "open" or issue.pull is None or not (issue.pull.auto or issue.pull.queued):
            continue
        head = state.head(place, issue)
        runs = {check.name: check.conclusion for check in place.checks if check.head == head}
        if all(runs.get(name) == "success" for name in place.required):
            try:
                state.merge(place.name, issue.number, squash=True)
            except CalledProcessError:
                issue.pull.auto, issue.pull.queued = "", False


def _number(node: str) -> int:
    word = node.rpartition("_")[2]
    return int(word) if word.isdigit() else 0


def _last(rows: list[Json], count: int) -> Json:
    return {"totalCount": len(rows), "nodes": rows[-count:], "pageInfo": {"hasNextPage": False}}


def _kind(error: GraphQLError) -> str:
    return error.original_error.kind if isinstance(error.original_error, _Refused) else "INTERNAL"
