"""A GitHub on loopback: REST held against the official description, GraphQL that executes the official schema, git."""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2 as httpx
import msgspec
from aiohttp import web

from nightcrew.testing.company import git_http
from nightcrew.testing.company.github_graphql import GraphQL
from nightcrew.testing.company.github_rest import HANDLERS, Asked
from nightcrew.testing.company.github_state import GitHubPeople, State
from nightcrew.testing.company.github_views import Views
from nightcrew.testing.company.openapi import Description
from nightcrew.testing.company.standin import Answered, Standin

HOUR = 3600


class GitHub(Standin):
    """Use it as a block: `with GitHub(folder) as github`. `state` is what is on it, `people` act on it.

    `quota` requests an hour are free; an answer 304 costs none, as on the service. `secondary` many next requests are
    refused as too many at once. GraphQL has so many `points` left, a quota of its own.
    """

    def __init__(self, root: Path, quota: int = 5000) -> None:
        super().__init__()
        self.state = State(root, self.turn)
        self.people = GitHubPeople(self.state)
        self.description = Description("github")
        self.views = Views(self.state, self.description, lambda: self.url)
        self.graphql = GraphQL(self.state, lambda: self.url)
        self.quota, self.used, self.secondary, self.points = quota, 0, 0, quota
        self.resets = int(time.time()) + HOUR

    def clone_url(self, name: str) -> str:
        """What git clones."""
        return f"{self.url}/{name}.git"

    def deliver(self, event: str, url: str, secret: str, times: int = 1, *, first: str = "") -> list[int]:
        """Send so many webhooks about the newest issue, signed as the service does; the statuses of their answers.

        Each has an id and a change of its own, the first one that of `first` if that is given.
        """
        names = [first or str(uuid4()), *(str(uuid4()) for _ in range(times - 1))]
        with httpx.Client(timeout=10) as client:
            return [client.post(url, **self._delivery(event, name, secret)).status_code for name in names]

    def _delivery(self, event: str, name: str, secret: str) -> dict[str, Any]:
        with self.turn:
            place = next(iter(self.state.places.values()))
            newest = max(number for number, issue in place.issues.items() if not issue.pull)  # it is no event of issues
            said = self.views.edited(place, place.issues[newest], f"before {name}")
        raw = msgspec.json.encode(said)
        signature = hmac.digest(secret.encode(), raw, "sha256").hex()
        return {"content": raw, "headers": {
            "content-type": "application/json", "x-github-event": event, "x-github-delivery": name,
            "x-hub-signature-256": f"sha256={signature}",
        }}  # fmt: skip

    def routes(self) -> list[web.RouteDef]:
        rest = [self.route(method, path, self._handler(method, path)) for method, path in HANDLERS]
        git = git_http.server(self.state.root, self._may)
        return [
            *rest, self.route("POST", "/graphql", self._graphql),
            web.get("/logs/{owner}/{repo}/{job}", self._log), web.route("*", "/{owner}/{name}.git/{rest:.*}", git),
            web.route("*", "/{rest:.*}", self._missing),
        ]  # fmt: skip

    def limit(self) -> web.Response:
        data = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes.",
                "documentation_url": "https://docs.github.com/rest"}  # fmt: skip
        return web.json_response(data, status=403, headers={"Retry-After": "1"} | self._headers())

    def before(self, request: web.Request) -> None:
        if not self._login(request):
            raise Answered(401, {"message": "Bad credentials"})
        if self.secondary > 0:
            self.secondary -= 1
            raise Answered(429, {"message": "You have exceeded a secondary rate limit."}, {"Retry-After": "1"})
        if self.used >= self.quota:
            raise Answered(403, {"message": "API rate limit exceeded for user ID 1."}, self._headers())

    def check(self, request: web.Request, route: str, raw: bytes, answer: web.Response) -> list[str]:
        if route == "/graphql" or answer.status in (301, 304, 307):  # the latter two may answer any request
            return []
        path, method = route, request.method
        asked = self.description.request(method, path, dict(request.query), raw) if answer.status < 400 else []
        body = answer.body if isinstance(answer.body, bytes) else b""
        return asked + self.description.answer(method, path, answer.status, body)

    # -- inside --------------------------------------------------------------------------------------------------------
    def _login(self, request: web.Request) -> str:
        kind, _, word = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            word = base64.b64decode(word).decode().partition(":")[2]
        return self.state.tokens.get(word) or self._app(word)

    def _app(self, word: str) -> str:
        """The app that signed this, as a login that may do nothing but ask for its tokens."""
        import jwt  # noqa: PLC0415 - needed for apps alone

        for number, key in self.state.apps.items():
            with suppress(jwt.PyJWTError):
                if jwt.decode(word, key, algorithms=["RS256"], issuer=number)["exp"] - time.time() <= 600:
                    return "app"
        return ""

    def _may(self, user: str, password: str, writes: bool) -> bool:
        login = self.state.tokens.get(password, "")
        return bool(login) and (not writes or self.state.association(login) != "NONE")

    def _headers(self) -> dict[str, str]:
        left = str(max(self.quota - self.used, 0))
        return {"X-RateLimit-Limit": str(self.quota), "X-RateLimit-Remaining": left,
                "X-RateLimit-Reset": str(self.resets), "X-RateLimit-Resource": "core"}  # fmt: skip

    def _handler(self, method: str, path: str) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            raw = await request.read()
            with self.turn:
                return self._answer(request, HANDLERS[method, path], raw)

        return handle

    def _answer(self, request: web.Request, handler: Callable[[Asked], Any], raw: bytes) -> web.Response:
        name = self._place(request)
        asked = Asked(self.state, self.views, self._login(request), request.match_info, request.query, raw,
                      self.state.places.get(name), str(request.url.origin()) + request.path)  # fmt: skip
        ours = asked.login == "app"
        if ours != request.path.startswith("/app/") and not (ours and request.path.endswith("/installation")):
            raise Answered(401, {"message": "A JSON web token could not be decoded"})
        if request.method != "GET" and not ours and self.state.association(asked.login) == "NONE":
            raise Answered(403, {"message": "Resource not accessible by personal access token"})
        made = handler(asked)
        status, data = made if isinstance(made, tuple) else (200, made)
        return self._sent(request, status, data, asked.headers)

    def _place(self, request: web.Request) -> str:
        """The repository that is asked about; its name may be in any case. Raises Answered for what has moved."""
        told = request.match_info
        if "owner" not in told:
            return ""
        named = f"{told['owner']}/{told['repo']}".lower()
        name = next((place for place in self.state.places if place.lower() == named), "")
        number = int(told.get("issue_number", 0))
        to = self.state.renamed.get(named, ""), number
        to = self.state.transferred.get((name, number), to)
        if to[0]:
            path = request.path_qs.replace(f"/issues/{number}", f"/issues/{to[1]}")
            path = path.replace(f"/repos/{told['owner']}/{told['repo']}", f"/repos/{to[0]}")
            status, why = (301, "Moved Permanently") if request.method == "GET" else (307, "Temporary Redirect")
            raise Answered(status, {"message": why, "url": f"{self.url}{path}"}, {"Location": f"{self.url}{path}"})
        word = request.headers.get("authorization", "").partition(" ")[2]
        if not name or name.partition("/")[0] != self.state.limited.get(word, name.partition("/")[0]):
            raise Answered(404, {"message": "Not Found"})
        return name

    def _sent(self, request: web.Request, status: int, data: Any, more: Mapping[str, str]) -> web.Response:
        body = msgspec.json.encode(data) if data is not None else b""
        mark = f'W/"{hashlib.sha256(body).hexdigest()}"'
        headers = {"ETag": mark} | self._headers() if request.method == "GET" else self._headers()
        if request.method == "GET" and request.headers.get("if-none-match") == mark:
            return web.Response(status=304, headers=headers)
        self.used += 1
        return web.Response(body=body, status=status, content_type="application/json", headers=headers | dict(more))

    async def _graphql(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read())
        with self.turn:
            self.points -= 1
            if self.points < 0:
                over = {"type": "RATE_LIMIT", "message": "API rate limit already exceeded for user ID 1."}
                spent = {"X-RateLimit-Remaining": "0", "X-RateLimit-Resource": "graphql"}
                return web.json_response({"errors": [over]}, headers=self._headers() | spent)
            data, wrong = self.graphql.run(asked, self._login(request))
        self.violations += [f"graphql: {one}" for one in wrong]
        return web.json_response(data, headers=self._headers())

    async def _log(self, request: web.Request) -> web.Response:
        found = self.state.places[f"{request.match_info['owner']}/{request.match_info['repo']}"].checks
        return web.Response(text=next(c.log for c in found if c.id == int(request.match_info["job"])))

    async def _missing(self, request: web.Request) -> web.Response:
        self.violations.append(f"{request.method} {request.path}: nothing of the kind is known")
        return web.json_response({"message": "Not Found"}, status=404)


def main() -> None:
    """A GitHub with one repository, to be tried by hand."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8030)
    wanted = parser.parse_args()
    github = GitHub(wanted.folder).start(wanted.port)
    github.state.repository("acme/web", {"README.md": "# Web\n"})
    print(f"{github.url}, token ghp_nightcrew, repository {github.clone_url('acme/web')}; Ctrl-C ends it")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        github.stop()


if __name__ == "__main__":
    main()
