"""A Jira on loopback: Cloud's API v3 and Data Center's v2 over the same issues, with an index that lags and limits."""

from __future__ import annotations

import argparse
import hashlib
import hmac
import time
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.resources import files
from typing import Any
from uuid import uuid4

import httpx2 as httpx
import msgspec
from aiohttp import web
from jsonschema import Draft4Validator  # type: ignore[import-untyped]

from nightcrew.testing.company.jira_rest import CLOUD, DATA_CENTER, Asked, Handler
from nightcrew.testing.company.jira_state import State, Wrong
from nightcrew.testing.company.jira_views import Views
from nightcrew.testing.company.openapi import Description
from nightcrew.testing.company.standin import Answered, Standin, said

VERSIONS = {3: CLOUD, 2: DATA_CENTER}
PER_ISSUE = ((2.0, 20), (30.0, 100))
"""So many writes to one issue in so many seconds."""
LINKS = "/issue/{issueIdOrKey}/remotelink"


class Jira(Standin):
    """Use it as a block. `state` is what is on it.

    `limited` are limits to be told, one each: part of a request's method and path, and the headers of the 429.
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = State(self.turn)
        self.limited: list[tuple[str, dict[str, str]]] = []
        self._descriptions = (Description("jira"), Description("jira-more"))
        self._writes: dict[str, deque[float]] = {}

    @cached_property
    def _documents(self) -> Any:
        """Says whether a body is a document, by Atlassian's own schema."""
        raw = files("nightcrew.testing.company").joinpath("schemas", "adf.json").read_bytes()
        return Draft4Validator(msgspec.json.decode(raw))

    def routes(self) -> list[web.RouteDef]:
        found = [
            self.route(method, f"/rest/api/{version}{path}", self._handler(version, handler))
            for version, handlers in VERSIONS.items() for (method, path), handler in handlers.items()
        ]  # fmt: skip
        return [*found, web.route("*", "/{rest:.*}", self._missing)]

    def limit(self) -> web.Response:
        return _limited({"Retry-After": "1", "RateLimit-Reason": "jira-burst-based"})

    def before(self, request: web.Request) -> None:
        self._login(request)
        what = f"{request.method} {request.path}"
        for order in self.limited:
            if order[0] in what:
                self.limited.remove(order)
                raise Answered(429, _TOO_MANY, order[1])
        name = request.match_info.get("issueIdOrKey")
        if name and request.method != "GET":
            self._count(self.state.find(name).id if name in self.state.issues else name)

    def _count(self, issue: str) -> None:
        """Writes to one issue are few, whoever makes them."""
        now, times = time.monotonic(), self._writes.setdefault(issue, deque(maxlen=100))
        for seconds, most in PER_ISSUE:
            if len(times) >= most and now - times[-most] < seconds:
                raise Answered(429, _TOO_MANY, {"Retry-After": str(int(seconds)),
                                                "RateLimit-Reason": "jira-per-issue-on-write"})  # fmt: skip
        times.append(now)

    def check(self, request: web.Request, route: str, raw: bytes, answer: web.Response) -> list[str]:
        """Version 2 is held against the same description as 3, where that has the operation."""
        for path in dict.fromkeys((route, route.replace("/rest/api/2/", "/rest/api/3/"))):
            for description in self._descriptions:
                if description.operation(request.method, path):
                    return self._held(description, request, path, raw, answer)
        return ["no description has such an operation"]

    def _held(self, description: Description, request: web.Request, path: str, raw: bytes,
              answer: web.Response) -> list[str]:  # fmt: skip
        body = answer.body if isinstance(answer.body, bytes) else b""
        wrong = description.request(request.method, path, dict(request.query), raw) if answer.status < 400 else []
        if path.endswith(LINKS) and request.method == "GET" and answer.status == 200:
            # The official description says that the list is one link.
            rows = [msgspec.json.encode(one) for one in msgspec.json.decode(body)]
            return wrong + [e for row in rows for e in description.answer("GET", path, 200, row)]
        return wrong + description.answer(request.method, path, answer.status, body)

    def deliver(self, event: str, url: str, secret: str, times: int = 1) -> list[int]:
        """Send a signed delivery about the newest issue; the statuses of the answers."""
        with self.turn:
            issue = list(self.state.issues.values())[-1]
            shown = Views(self.state, 3, self.url).issue(issue, ["*all"])
        body = msgspec.json.encode({"timestamp": int(time.time() * 1000), "webhookEvent": event, "issue": shown})
        signed = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"x-hub-signature": f"sha256={signed}", "x-atlassian-webhook-identifier": str(uuid4()),
                   "content-type": "application/json"}  # fmt: skip
        return [httpx.post(url, content=body, headers=headers).status_code for _ in range(times)]

    # -- serving -----------------------------------------------------------------------------------------------------
    def _login(self, request: web.Request) -> str:
        """Cloud wants an address and its token, Data Center a token."""
        kind, _, word = request.headers.get("authorization", "").partition(" ")
        who = ""
        if kind == "Basic":
            who, _, word = b64decode(word).decode().partition(":")
        login = self.state.tokens.get(word, "")
        basic = request.path.startswith("/rest/api/3")
        if not login or basic != (kind == "Basic") or (basic and who != self.state.people[login].email):
            raise Answered(401, {"errorMessages": ["Client must be authenticated to access this resource."]})
        return login

    def _handler(self, version: int, handler: Handler) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            raw = await request.read()
            with self.turn:
                views = Views(self.state, version, self.url)
                asked = Asked(self.state, views, self._login(request), request.match_info, request.query, said(raw),
                              self._documents.is_valid)  # fmt: skip
                return self._answer(handler, asked)

        return handle

    def _answer(self, handler: Handler, asked: Asked) -> web.Response:
        try:
            status, data = handler(asked)
        except Wrong as wrong:
            told = {"errorMessages": [] if wrong.name else [wrong.message],
                    "errors": {wrong.name: wrong.message} if wrong.name else {}}  # fmt: skip
            if wrong.message.startswith("INVALID_INPUT"):
                self.violations.append(f"{handler.__name__}: {wrong.message}")
            return web.json_response(told, status=wrong.status)
        return web.Response(status=status) if data is None else web.json_response(data, status=status)

    async def _missing(self, request: web.Request) -> web.Response:
        self.violations.append(f"{request.method} {request.path}: nothing of the kind is known")
        return web.json_response({"errorMessages": ["Not found"]}, status=404)


_TOO_MANY = {"errorMessages": ["Rate limit exceeded."]}


def _limited(headers: Mapping[str, str]) -> web.Response:
    return web.json_response(_TOO_MANY, status=429, headers=headers)


def main() -> None:
    """A Jira with one project, to be tried by hand."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=8032)
    jira = Jira().start(parser.parse_args().port)
    jira.state.project("ENG")
    print(f"{jira.url}, project ENG; nightcrew@acme.example (Cloud), token jira-nightcrew; Ctrl-C ends it")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        jira.stop()


if __name__ == "__main__":
    main()
