"""A GitLab on loopback: REST as its documentation describes it, and git with real bare repositories."""

from __future__ import annotations

import argparse
import base64
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx2 as httpx
import msgspec
from aiohttp import web

from nightcrew.testing.company import git_http, gitlab_merges
from nightcrew.testing.company.gitlab_people import GitLabPeople
from nightcrew.testing.company.gitlab_rest import HANDLERS, Asked
from nightcrew.testing.company.gitlab_state import DEVELOPER, NOBODY, Place, State
from nightcrew.testing.company.gitlab_views import Views
from nightcrew.testing.company.openapi import Description
from nightcrew.testing.company.standin import Answered, Standin

API = "/api/v4"
MINUTE = 60
__all__ = ["GitLab", "gitlab_merges"]


class GitLab(Standin):
    """Use it as a block: `with GitLab(folder) as gitlab`. `state` is what is on it, `people` act on it.

    `quota` requests a minute are free. With `silent` a reached limit is told without any header, as gitlab.com does.
    """

    def __init__(self, root: Path, quota: int = 100_000) -> None:
        super().__init__()
        self.state = State(root, self.turn)
        self.people = GitLabPeople(self.state)
        self.description = Description("gitlab")
        self.views = Views(self.state, lambda: self.url)
        self.quota, self.used, self.silent = quota, 0, False
        self.resets = int(time.time()) + MINUTE

    def clone_url(self, name: str) -> str:
        """What git clones."""
        return f"{self.url}/{name}.git"

    def routes(self) -> list[web.RouteDef]:
        rest = [self.route(method, f"{API}{path}", self._handler(method, path)) for method, path in HANDLERS]
        git = git_http.server(self.state.root, self._may)
        return [*rest, web.route("*", r"/{path:.+\.git}/{rest:.*}", git), web.route("*", "/{rest:.*}", self._missing)]

    def limit(self) -> web.Response:
        headers = {} if self.silent else {"Retry-After": "1", **self._headers()}
        return web.Response(text="Retry later\n", status=429, headers=headers)

    def before(self, request: web.Request) -> None:
        if not self.state.tokens.get(_token(request)):
            raise Answered(401, {"message": "401 Unauthorized"})
        self.used += 1
        if self.used > self.quota:
            why = {"message": {"error": "This endpoint has been requested too many times. Try again later."}}
            raise Answered(429, why, {} if self.silent else self._headers())

    def check(self, request: web.Request, route: str, raw: bytes, answer: web.Response) -> list[str]:
        if answer.status in (301, 304, 405):  # the first and the last answer any request about a moved project
            return []
        path, method = route.removeprefix(API), request.method
        asked = self.description.request(method, path, dict(request.query), raw) if answer.status < 400 else []
        body = answer.body if isinstance(answer.body, bytes) and answer.content_type == "application/json" else b""
        return asked + self.description.answer(method, path, answer.status, body)

    def deliver(self, event: str, url: str, token: str, times: int = 1, *, first: str = "") -> list[int]:
        """Send so many webhooks about the newest issue; the statuses of their answers.

        Each has an id of its own, the first one that of `first` if that is given.
        """
        names = [first or str(uuid4()), *(str(uuid4()) for _ in range(times - 1))]
        with httpx.Client(timeout=10) as client:
            return [client.post(url, **self._delivery(event, name, token)).status_code for name in names]

    def _delivery(self, event: str, name: str, token: str) -> dict[str, Any]:
        with self.turn:
            place = next(iter(self.state.places.values()))
            issue = self.views.issue(place, place.issues[max(place.issues)])
            said = {"object_kind": "issue", "event_type": "issue", "object_attributes": issue | {"action": "update"},
                    "project": {"path_with_namespace": place.name}, "changes": {"was": name}}  # fmt: skip
        return {"content": msgspec.json.encode(said), "headers": {
            "content-type": "application/json", "x-gitlab-event": event, "x-gitlab-token": token,
            "x-gitlab-event-uuid": str(uuid4()), "idempotency-key": name, "x-gitlab-instance": self.url,
        }}  # fmt: skip

    # -- inside --------------------------------------------------------------------------------------------------------
    def _may(self, user: str, password: str, writes: bool) -> bool:
        level = self.state.access.get(self.state.tokens.get(password, ""), NOBODY)
        return level >= DEVELOPER if writes else level > NOBODY

    def _headers(self) -> dict[str, str]:
        left = str(max(self.quota - self.used, 0))
        return {"RateLimit-Limit": str(self.quota), "RateLimit-Observed": str(self.used),
                "RateLimit-Remaining": left, "RateLimit-Reset": str(self.resets)}  # fmt: skip

    def _handler(self, method: str, path: str) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            raw = await request.read()
            with self.turn:
                return self._answer(request, HANDLERS[method, path], raw)

        return handle

    def _place(self, name: str, login: str) -> Place:
        """A project by its path, in any case, or its number. What one may not see is not there."""
        found = next((p for p in self.state.places.values() if name.lower() in (p.name.lower(), str(p.id))), None)
        found = found or self.state.moved.get(name.lower())
        if found is None or self.state.access[login] == NOBODY:
            raise Answered(404, {"message": "404 Project Not Found"})
        return found

    def _led(self, request: web.Request, place: Place) -> None:
        """Raises Answered for an old path of a moved project: reads are led to its number, writes are refused."""
        name = request.match_info["id"]
        if name.lower() not in self.state.moved:
            return
        if request.method != "GET":
            raise Answered(405, {"message": "405 Non GET methods are not allowed for moved projects"})
        there = f"{self.url}{request.raw_path.replace(quote(name, safe=''), str(place.id), 1)}"
        raise Answered(301, {"message": "This resource has been moved permanently"}, {"Location": there})

    def _answer(self, request: web.Request, handler: Callable[[Asked], Any], raw: bytes) -> web.Response:
        token = _token(request)
        login, name = self.state.tokens[token], request.match_info.get("id")
        place = self._place(name, login) if name else None
        if place:
            self._led(request, place)
        asked = Asked(self.state, self.views, login, token, request.match_info, request.query, raw, place,
                      f"{request.url.origin()}{request.rel_url.raw_path}")  # fmt: skip
        made = handler(asked)
        status, data = made if isinstance(made, tuple) else (200, made)
        if isinstance(data, str):
            return web.Response(text=data, headers=self._headers())
        return self._sent(request, status, msgspec.json.encode(data), asked.headers)

    def _sent(self, request: web.Request, status: int, body: bytes, more: dict[str, str]) -> web.Response:
        mark = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {"ETag": mark, **self._headers()} if request.method == "GET" else self._headers()
        if request.method == "GET" and request.headers.get("if-none-match") == mark:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, status=status, content_type="application/json", headers=headers | more)

    async def _missing(self, request: web.Request) -> web.Response:
        self.violations.append(f"{request.method} {request.path}: nothing of the kind is known")
        return web.json_response({"error": "404 Not Found"}, status=404)


def _token(request: web.Request) -> str:
    kind, _, word = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        return base64.b64decode(word).decode().partition(":")[2]
    return word or request.headers.get("private-token", "")


def main() -> None:
    """A GitLab with one project, to be tried by hand."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8031)
    wanted = parser.parse_args()
    gitlab = GitLab(wanted.folder).start(wanted.port)
    gitlab.state.project("acme/web", {"README.md": "# Web\n"})
    print(f"{gitlab.url}, token glpat-nightcrew, project {gitlab.clone_url('acme/web')}; Ctrl-C ends it")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        gitlab.stop()


if __name__ == "__main__":
    main()
