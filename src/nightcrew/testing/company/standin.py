"""What every stand-in is: a server on loopback, in a thread of its own, that can be broken, and looked at."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LOST, CUT, ERROR, PAGE, LATE, LIMITED = "lost", "cut", "error", "page", "late", "limited"
TROUBLES = (LOST, CUT, ERROR, PAGE, LATE, LIMITED)
"""Done but the answer is cut off; cut off before; a 500; a proxy's page of HTML; a late answer; a reached limit."""


@dataclass(frozen=True)
class Exchange:
    """One request as it was answered. `what` is the method and the route, with its variables by name."""

    what: str
    path: str
    status: int
    trouble: str = ""


@dataclass
class Trouble:
    """Which requests go wrong: a `share` of all by a seeded die, and those ordered by `next`, one each."""

    share: float = 0.0
    seed: int = 1
    kinds: tuple[str, ...] = TROUBLES
    orders: list[tuple[str, str]] = field(default_factory=list)  # (part of `what`, kind)

    def __post_init__(self) -> None:
        self.die = random.Random(self.seed)  # noqa: S311 - a test's die

    def next(self, what: str, kind: str) -> None:
        """The next request whose `what` contains this goes wrong in that way."""
        self.orders.append((what, kind))

    def choose(self, what: str) -> str:
        """How this request goes wrong, "" when it does not."""
        for order in self.orders:
            if order[0] in what:
                self.orders.remove(order)
                return order[1]
        return self.die.choice(self.kinds) if self.share and self.die.random() < self.share else ""


class Answered(Exception):
    """Raised by a handler to answer with an error: the status, and the JSON the real service would send."""

    def __init__(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status} {data}")
        self.status, self.data, self.headers = status, data, headers or {}


class Standin:
    """Base of all stand-ins. `with` starts and stops it; `url` is where it listens.

    State may be read and changed from any thread while `turn` is held; handlers hold it. A subclass names its routes in
    `routes`, and may override `check` (what its schema says to an exchange), `limit` and `before`.
    """

    def __init__(self) -> None:
        self.turn = threading.RLock()
        self.trouble = Trouble()
        self.log: list[Exchange] = []
        self.violations: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._port = 0

    # -- to be said by a subclass ------------------------------------------------------------------------------------
    def routes(self) -> list[web.RouteDef]:
        """Its routes, made with `self.route` (checked and broken) or web.route (neither)."""
        raise NotImplementedError

    def check(self, request: web.Request, route: str, raw: bytes, answer: web.Response) -> list[str]:
        """How this exchange differs from what the official schema says."""
        return []

    def limit(self) -> web.Response:
        """Its answer when a rate limit is reached."""
        return web.json_response({"message": "limited"}, status=429, headers={"Retry-After": "1"})

    def before(self, request: web.Request) -> None:
        """Looks at the credential, counts a quota; raises Answered to refuse."""

    # -- use ---------------------------------------------------------------------------------------------------------
    def start(self, port: int = 0) -> Self:
        """Listen on 127.0.0.1, on any free port unless one is given. Raises OSError when it is taken."""
        self._port = port
        self._thread.start()
        self._ready.wait()
        if not self.url:
            raise OSError(f"port {port} cannot be listened on")
        return self

    def stop(self) -> None:
        if self._loop and self._over:
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def counts(self) -> Counter[str]:
        """How often each request was made, by `what`."""
        return Counter(exchange.what for exchange in self.log)

    # -- serving -----------------------------------------------------------------------------------------------------
    def route(self, method: str, path: str, handler: Handler) -> web.RouteDef:
        """A route whose exchanges are logged, checked against the schema, and may go wrong."""

        async def around(request: web.Request) -> web.StreamResponse:
            return await self._answered(request, f"{method} {path}", handler)

        return web.route(method, path, around)

    async def _answered(self, request: web.Request, what: str, handler: Handler) -> web.StreamResponse:
        raw = await request.read()
        kind = self.trouble.choose(what)
        if kind == CUT:
            return self._cut(request, what, kind)
        if kind in (ERROR, PAGE, LIMITED):
            answer = {ERROR: _error, PAGE: _page, LIMITED: self.limit}[kind]()
            self._note(request, what, answer.status, kind)
            return answer
        made = await self._handled(request, what, raw, handler)
        if kind == LOST:
            return self._cut(request, what, kind)
        if kind == LATE:
            await asyncio.sleep(0.3)
        self._note(request, what, made.status, kind)
        return made

    async def _handled(self, request: web.Request, what: str, raw: bytes, handler: Handler) -> web.StreamResponse:
        try:
            with self.turn:
                self.before(request)
            made = await handler(request)
        except Answered as told:
            made = web.json_response(told.data, status=told.status, headers=told.headers)
        if isinstance(made, web.Response):
            route = what.partition(" ")[2]
            self.violations += [f"{what}: {wrong}" for wrong in self.check(request, route, raw, made)]
        return made

    def _cut(self, request: web.Request, what: str, kind: str) -> web.StreamResponse:
        self._note(request, what, 0, kind)
        if request.transport:
            request.transport.abort()
        return web.Response()

    def _note(self, request: web.Request, what: str, status: int, kind: str) -> None:
        self.log.append(Exchange(what, request.path_qs, status, kind))

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=64 << 20)
        app.add_routes(self.routes())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        except OSError:
            self._over.set()
        finally:
            self._ready.set()
        await self._over.wait()
        await runner.cleanup()


def said(raw: bytes) -> Any:
    """A request's JSON, None for an empty one. Raises Answered for garbage."""
    try:
        return msgspec.json.decode(raw) if raw else None
    except msgspec.DecodeError as error:
        raise Answered(400, {"message": "Problems parsing JSON"}) from error


def _error() -> web.Response:
    return web.json_response({"message": "Server Error"}, status=500)


def _page() -> web.Response:
    return web.Response(text="<html><h1>502 Bad Gateway</h1></html>", status=502, content_type="text/html")
