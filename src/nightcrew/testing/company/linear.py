"""A Linear on loopback: graphql-core executes the official schema; complexity, leaky buckets, RATELIMITED, webhooks."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import cached_property
from importlib.resources import files
from typing import Any
from uuid import uuid4

import httpx2 as httpx
import msgspec
from aiohttp import web
from graphql import GraphQLError, GraphQLSchema, build_schema, execute_sync, parse, validate

from nightcrew.testing.company.linear_filter import fits, page
from nightcrew.testing.company.linear_quota import Bucket, points
from nightcrew.testing.company.linear_state import Row, State
from nightcrew.testing.company.standin import Handler, Standin

MOST = 10_000  # points of one request


class Linear(Standin):
    """Use it as a block. `state` is what is in the workspace; `costs` are the points of each request.

    `requests` and `complexity` come back within an hour; what is beyond is answered HTTP 400 with RATELIMITED. `clock`
    says the time in epoch seconds.
    """

    def __init__(
        self, requests: int = 5000, complexity: float = 3_000_000, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.clock = clock
        self.state = State(self.turn, clock)
        self.buckets = {"requests": Bucket(float(requests)), "complexity": Bucket(complexity)}
        self.costs: list[tuple[str, float]] = []

    @property
    def address(self) -> str:
        """Where its GraphQL is."""
        return f"{self.url}/graphql"

    @cached_property
    def schema(self) -> GraphQLSchema:
        text = files("nightcrew.testing.company").joinpath("schemas", "linear.graphql").read_text()
        return build_schema(text, assume_valid=True)

    def routes(self) -> list[web.RouteDef]:
        return [self.route("POST", "/graphql", self._graphql)]

    def limit(self) -> web.Response:
        ends = {"X-RateLimit-Requests-Remaining": "0",
                "X-RateLimit-Requests-Reset": str(int(self.clock() * 1000) + 1000)}  # fmt: skip
        return _refused("Rate limit exceeded", "RATELIMITED", 400, ends)

    def delivery(self, event: str, secret: str) -> tuple[bytes, dict[str, str]]:
        """The body and the headers of a signed delivery."""
        told = {"action": "update", "type": event, "webhookTimestamp": int(self.clock() * 1000)}
        body = msgspec.json.encode(told)
        signed = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return body, {"linear-signature": signed, "linear-event": event, "linear-delivery": str(uuid4())}

    def deliver(self, event: str, url: str, secret: str, times: int = 1) -> list[int]:
        """Send a delivery as often as that; the statuses of the answers."""
        body, headers = self.delivery(event, secret)
        return [httpx.post(url, content=body, headers=headers).status_code for _ in range(times)]

    # -- serving -----------------------------------------------------------------------------------------------------
    async def _answered(self, request: web.Request, what: str, handler: Handler) -> web.StreamResponse:
        """Each operation by its name, so that it can be counted and broken."""
        found = re.search(rb"(?:query|mutation) (\w+)", await request.read())
        return await super()._answered(request, f"{what} {found[1].decode() if found else ''}".strip(), handler)

    async def _graphql(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read())
        with self.turn:
            login = self.state.tokens.get(request.headers.get("authorization", ""))
            if not login:
                return _refused("Authentication required", "AUTHENTICATION_ERROR", 401)
            return self._answer(asked, login)

    def _answer(self, asked: Row, login: str) -> web.Response:
        try:
            document = parse(asked["query"])
        except GraphQLError as error:
            self.violations.append(error.message)
            return _refused(error.message, "GRAPHQL_PARSE_FAILED", 400)
        if wrong := validate(self.schema, document):
            self.violations += [one.message for one in wrong]
            return _refused(wrong[0].message, "GRAPHQL_VALIDATION_FAILED", 400)
        cost = points(document, asked.get("variables") or {})
        self.costs.append((document.definitions[0].name.value, cost))  # type: ignore[attr-defined]
        if cost > MOST:
            return _refused("Query too complex", "INPUT_ERROR", 400)
        wanted = {"requests": 1.0, "complexity": cost}
        left = {kind: bucket.fill(self.clock()) for kind, bucket in self.buckets.items()}
        if any(left[kind] < most for kind, most in wanted.items()):
            return _refused("Rate limit exceeded", "RATELIMITED", 400, self._headers(cost))
        for kind, most in wanted.items():
            self.buckets[kind].left -= most
        for name, user in self.state.users.items():
            user["isMe"] = name == login
        done = execute_sync(self.schema, document, self._root(login), variable_values=asked.get("variables"))
        told: Row = {"data": done.data}
        if done.errors:
            told = {"errors": [{"message": e.message, "extensions": {"code": "INPUT_ERROR"}} for e in done.errors]}
            self.violations += [e.message for e in done.errors if not isinstance(e.original_error, _Refused)]
        return web.json_response(told, status=400 if done.errors else 200, headers=self._headers(cost))

    def _headers(self, cost: float) -> dict[str, str]:
        told = {"Date": formatdate(self.clock(), usegmt=True), "X-Complexity": f"{cost:.0f}"}
        for kind, bucket in self.buckets.items():
            told |= {f"X-RateLimit-{kind.title()}-Limit": f"{bucket.size:.0f}",
                     f"X-RateLimit-{kind.title()}-Remaining": f"{int(bucket.left)}",
                     f"X-RateLimit-{kind.title()}-Reset": f"{bucket.full_at() * 1000:.0f}"}  # fmt: skip
        return told

    def _root(self, login: str) -> Row:
        acts = _Acts(self, self.state.users[login])
        return {
            "viewer": self.state.users[login], "teams": self._teams, "issues": self._issues, "comments": self._comments,
            "comment": self._comment, "issueUpdate": acts.update, "commentCreate": acts.say, "issueCreate": acts.create,
            "commentUpdate": acts.say_anew, "attachmentCreate": acts.attach, "agentActivityCreate": acts.activity,
            "agentSessionCreateOnIssue": acts.session, "agentSessions": self._sessions, "issueLabels": self._labels,
        }  # fmt: skip

    def _teams(self, _info: object, filter: Row | None = None, **asked: Any) -> Row:  # noqa: A002
        found = [team for team in self.state.teams.values() if fits(team, filter)]
        return page([self._team(team) for team in found], asked)

    def _team(self, team: Row) -> Row:
        return {**team, "states": lambda _i, **asked: page(team["states"], asked),
                "labels": lambda _i, **asked: page(team["labels"], asked)}  # fmt: skip

    def _issues(self, _info: object, filter: Row | None = None, includeArchived: bool = False, **asked: Any) -> Row:  # noqa: A002
        rows = self.state.issues.values()
        found = [one for one in rows if (includeArchived or not one["archivedAt"]) and fits(one, filter)]
        return page([self._issue(one) for one in found], asked)

    def _issue(self, issue: Row) -> Row:
        """The row as the schema shows it: its lists are connections."""
        links = [one for one in self.state.attachments.values() if one["issue"] is issue]
        relations = [{"id": f"{issue['id']}-{one['id']}", "type": "blocks", "issue": one} for one in issue["blockers"]]
        return {**issue, "labels": lambda _i, **asked: page(issue["labels"], asked),
                "attachments": lambda _i, **asked: page(links, asked),
                "inverseRelations": lambda _i, **asked: page(relations, asked)}  # fmt: skip

    def _comments(self, _info: object, filter: Row | None = None, **asked: Any) -> Row:  # noqa: A002
        return page([one for one in self.state.comments.values() if fits(one, filter)], asked)

    def _sessions(self, _info: object, **asked: Any) -> Row:
        return page(list(self.state.sessions.values()), asked)

    def _labels(self, _info: object, filter: Row | None = None, **asked: Any) -> Row:  # noqa: A002
        owned = [{**label, "team": team} for team in self.state.teams.values() for label in team["labels"]]
        rows = [*owned, *({**label, "team": None} for label in self.state.labels)]
        return page([row for row in rows if fits(row, filter)], asked)

    def _comment(self, _info: object, id: str = "", hash: str = "") -> Row:  # noqa: A002
        if id not in self.state.comments:
            raise _Refused("Entity not found: Comment")
        return self.state.comments[id]


class _Refused(Exception):
    pass


class _Acts:
    """The mutations, by one user."""

    def __init__(self, linear: Linear, user: Row) -> None:
        self.linear, self.state, self.user = linear, linear.state, user

    def _found(self, issue: str) -> Row:
        try:
            return self.state.named(issue)
        except StopIteration as error:
            raise _Refused("Entity not found: Issue") from error

    def update(self, _info: object, id: str, input: Row) -> Row:  # noqa: A002
        issue, team = self._found(id), self._found(id)["team"]
        wanted, more = input.get("stateId"), input.get("addedLabelIds") or ()
        states = [one for one in team["states"] if one["id"] == wanted]
        added = [one for one in self.state.usable(team) if one["id"] in more]
        if (wanted and not states) or len(added) < len(more):
            raise _Refused(
                "Entity not found: WorkflowState" if wanted and not states else "Entity not found: IssueLabel"
            )
        issue["state"] = states[0] if states else issue["state"]
        gone = set(input.get("removedLabelIds") or ())
        issue["labels"] = [one for one in issue["labels"] if one["id"] not in gone]
        issue["labels"] += [one for one in added if one not in issue["labels"]]
        if delegate := input.get("delegateId"):
            issue["delegate"] = next(one for one in self.state.users.values() if one["id"] == delegate)
        self.state.touch(issue)
        return {"success": True, "issue": self.linear._issue(issue)}

    def create(self, _info: object, input: Row) -> Row:  # noqa: A002
        if input.get("id") in self.state.issues:
            raise _Refused("Entity with this id already exists")
        team = next(one for one in self.state.teams.values() if one["id"] == input["teamId"])
        labels = [one["name"] for one in self.state.usable(team) if one["id"] in (input.get("labelIds") or ())]
        state = next((one["name"] for one in team["states"] if one["id"] == input.get("stateId")), "Todo")
        made = self.state.issue(input["title"], input.get("description") or "", labels, self.user["name"], team["key"],
                                state, int(input.get("priority") or 0), id=input.get("id") or "")  # fmt: skip
        by_id = {one["id"]: one for one in self.state.users.values()}
        made["assignee"], made["delegate"] = by_id.get(input.get("assigneeId")), by_id.get(input.get("delegateId"))
        if made["assignee"] and made["assignee"]["app"]:
            raise _Refused("Applications cannot be assigned issues")
        return {"success": True, "issue": self.linear._issue(made)}

    def say(self, _info: object, input: Row) -> Row:  # noqa: A002
        if input.get("id") in self.state.comments or input.get("id") in self.state.deleted:
            raise _Refused("Entity with this id already exists")
        issue = self._found(input["issueId"])
        said = self.state.say(issue["id"], self.user["name"], input["body"], input.get("id") or "")
        return {"success": True, "comment": said}

    def say_anew(self, _info: object, id: str, input: Row) -> Row:  # noqa: A002
        said = self.linear._comment(None, id)
        if said["user"] is not self.user:
            raise _Refused("Not allowed to edit this comment")
        said["body"], said["updatedAt"] = input["body"], self.state.now()
        if self.state.stirs:
            self.state.touch(said["issue"])
        return {"success": True, "comment": said}

    def attach(self, _info: object, input: Row) -> Row:  # noqa: A002
        issue, url = self._found(input["issueId"]), input["url"]
        same = [one for one in self.state.attachments.values() if one["issue"] is issue and one["url"] == url]
        made: Row = same[0] if same else {"id": str(uuid4()), "url": url, "issue": issue}
        made["title"] = input["title"]
        self.state.attachments[made["id"]] = made
        self.state.touch(issue)
        return {"success": True, "attachment": made}

    def session(self, _info: object, input: Row) -> Row:  # noqa: A002
        if not self.user["app"]:
            raise _Refused("Only applications have agent sessions")
        return {"success": True, "agentSession": self.state.session(input["issueId"], self.user["name"])}

    def activity(self, _info: object, input: Row) -> Row:  # noqa: A002
        if input["agentSessionId"] not in self.state.sessions:
            raise _Refused("Entity not found: AgentSession")
        if input["id"] in self.state.activities:
            raise _Refused("Entity with this id already exists")
        self.state.activities[input["id"]] = {"id": input["id"], "content": input["content"],
                                              "session": input["agentSessionId"]}  # fmt: skip
        return {"success": True, "agentActivity": self.state.activities[input["id"]]}


def _refused(message: str, code: str, status: int, headers: dict[str, str] | None = None) -> web.Response:
    data = {"errors": [{"message": message, "extensions": {"code": code}}]}
    return web.json_response(data, status=status, headers=headers)
