"""A Gitea, or a Forgejo, on loopback: REST held against Gitea's description, and git."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from nightcrew.testing.company import git_http
from nightcrew.testing.company.gitea_rest import HANDLERS, Asked, refused
from nightcrew.testing.company.gitea_state import ALL, GiteaPeople, State
from nightcrew.testing.company.gitea_views import Views
from nightcrew.testing.company.openapi import Description
from nightcrew.testing.company.standin import Answered, Standin

API = "/api/v1"
SINCE: dict[str, tuple[tuple[int, int], bool]] = {
    "/replies": ((1, 27), False), "/resolve": ((1, 26), False), "/rerun-failed-jobs": ((1, 26), False),
    "POST /repos/{owner}/{repo}/pulls/{index}/reviews/{id}/comments": ((0, 0), True),
}  # fmt: skip
"""What not every version knows: Gitea's since which, and whether Forgejo does."""
NOWHERE = (99, 0)


class GiteaDescription(Description):
    """The slice of the official description, with what was written by hand beside it."""

    def __init__(self) -> None:
        super().__init__("gitea")
        more = Description("gitea-more").spec
        for path, operations in more["paths"].items():
            self.spec["paths"].setdefault(path, {}).update(operations)
        self.spec["components"]["schemas"] |= more["components"]["schemas"]


class Gitea(Standin):
    """Use it as a block: `with Gitea(folder) as gitea`. `state` is what is on it, `people` act on it.

    It is a Gitea of that `version`, or with `forgejo` one of those. A list shows `most` rows on a page at most.
    """

    def __init__(
        self, root: Path, version: tuple[int, int] = (1, 27), *, forgejo: bool = False, most: int = 50
    ) -> None:
        super().__init__()
        self.state = State(root, self.turn)
        self.people = GiteaPeople(self.state)
        self.description = GiteaDescription()
        self.views = Views(self.state, lambda: self.url)
        self.views.drafts = forgejo or version >= (1, 22)
        self.version, self.forgejo, self.most = version, forgejo, most

    def clone_url(self, name: str) -> str:
        """What git clones."""
        return f"{self.url}/{name}.git"

    def routes(self) -> list[web.RouteDef]:
        rest = [self.route(method, API + path, self._handler(method, path)) for method, path in HANDLERS]
        git = git_http.server(self.state.root, self._may)
        return [*rest, web.route("*", "/{owner}/{name}.git/{rest:.*}", git), web.route("*", "/{rest:.*}", self._lost)]

    def limit(self) -> web.Response:
        return web.Response(text="<html>Too Many Requests</html>", status=429, content_type="text/html",
                            headers={"Retry-After": "1"})  # fmt: skip

    def before(self, request: web.Request) -> None:
        word = request.headers.get("authorization", "").removeprefix("token ")
        if word not in self.state.tokens:
            raise Answered(401, {"message": "user does not exist [uid: 0, name: ]"})
        kind, writes = _scope(request.path.removeprefix(API)), request.method != "GET"
        having = self.state.scopes.get(word, ALL)
        if f"write:{kind}" not in having and (writes or f"read:{kind}" not in having):
            wanted = f"{'write' if writes else 'read'}:{kind}"
            raise refused(403, f"token does not have at least one of required scope(s): [{wanted}]")

    def check(self, request: web.Request, route: str, raw: bytes, answer: web.Response) -> list[str]:
        path = re.sub(r":[^{}]+}", "}", route.removeprefix(API))
        if not self._knows(request.method, path):
            return []
        asked = self.description.request(request.method, path, dict(request.query), raw) if answer.status < 400 else []
        if answer.status == 201 and path.endswith("/merge"):
            return asked  # "it merges once all is green": the service says so, its description does not
        body = answer.body if isinstance(answer.body, bytes) and answer.content_type == "application/json" else b""
        told = msgspec.json.encode(_without_nulls(msgspec.json.decode(body))) if body else b""
        return asked + self.description.answer(request.method, path, answer.status, told)

    # -- inside --------------------------------------------------------------------------------------------------------
    def _may(self, user: str, password: str, writes: bool) -> bool:
        login = self.state.tokens.get(password, "")
        return login in self.state.access and (not writes or self.state.writes(login))

    def _knows(self, method: str, path: str) -> bool:
        for what, (since, forgejo) in SINCE.items():
            if f"{method} {path}".endswith(what):
                return forgejo if self.forgejo or since == (0, 0) else self.version >= since
        return True

    def _handler(self, method: str, path: str) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            raw = await request.read()
            if not self._knows(method, path):
                raise Answered(405, {"message": "Method Not Allowed"})
            with self.turn:
                return self._answer(request, HANDLERS[method, path], raw)

        return handle

    def _answer(self, request: web.Request, handler: Callable[[Asked], Any], raw: bytes) -> web.Response:
        login = self.state.tokens[request.headers["authorization"].removeprefix("token ")]
        name = f"{request.match_info.get('owner')}/{request.match_info.get('repo')}"
        if "owner" in request.match_info and (name not in self.state.places or login not in self.state.access):
            raise refused(404, "The target couldn't be found.")
        if request.method != "GET" and not self.state.writes(login):
            raise refused(403, "token does not have permission to write")
        place = self.state.places.get(name)
        asked = Asked(self.state, self.views, login, request.match_info, request.query, raw, place,
                      str(request.url.origin()) + request.path, self.most)  # fmt: skip
        with place.looked_at() if place else nullcontext():
            made = handler(asked)
        status, data = made if isinstance(made, tuple) else (200, made)
        if isinstance(data, str):
            return web.Response(text=data, status=status)
        body = msgspec.json.encode(data) if data is not None else b""
        kind = "application/json" if body else "text/plain"
        return web.Response(body=body, status=status, content_type=kind, headers=asked.headers)

    async def _lost(self, request: web.Request) -> web.Response:
        """Also what a client tries to find out whether it is known."""
        return web.json_response({"message": "Not Found", "errors": []}, status=404)


def _scope(path: str) -> str:
    """What a token must be allowed for."""
    if path.startswith("/user"):
        return "user"
    return "issue" if "/issues/" in path or path.endswith("/labels") else "repository"


def _without_nulls(value: Any) -> Any:
    """The service sends null for what is not there, which its description never allows for."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """A Gitea with one repository, to be tried by hand."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8040)
    parser.add_argument("--forgejo", action="store_true")
    wanted = parser.parse_args()
    gitea = Gitea(wanted.folder, forgejo=wanted.forgejo).start(wanted.port)
    gitea.state.repository("acme/web", {"README.md": "# Web\n"})
    print(f"{gitea.url}, token gta_nightcrew, repository {gitea.clone_url('acme/web')}; Ctrl-C ends it")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        gitea.stop()


if __name__ == "__main__":
    main()
