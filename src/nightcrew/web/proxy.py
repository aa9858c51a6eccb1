"""The forge, for agents to read: with nightcrew's credential, which they never see, and within a quota a session.

A session gets an address on loopback and a word of its own, good while its attempt lives. What it asks for is looked at
by `readonly`; answers are shared by all sessions, for a while and by their ETag.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nightcrew.config import Proxy
from nightcrew.core.model import Attempt, Repo, Run
from nightcrew.crew import Crew
from nightcrew.errors import NightcrewError
from nightcrew.ports import Relaying
from nightcrew.stages.session import Live
from nightcrew.transport import Limited, Relayed
from nightcrew.web.readonly import NotAllowed, asked_graphql, asked_path
from nightcrew.web.serving import WAITING, TooLarge, body, bound, reason, serving

if TYPE_CHECKING:
    from nightcrew.app import App
    from nightcrew.director import Director

log = logging.getLogger("nightcrew.web.proxy")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
GRAPHQL = ("/graphql", "/api/graphql")
QUESTION = 256 << 10  # bytes of one GraphQL request
KEPT = 64 << 20  # bytes of all answers that are kept
LARGEST = 8 << 20  # bytes of one that is
AT_ONCE = 4  # requests to the forge
HOUR = 3600  # seconds in which all that a session used comes back, as it does at the forge
LOOK_EVERY = 1.0
ENTRIES = re.compile(r"<https?://[^/>]+(?:/api/v3)?/(?:repositories/\d+|repos/[^/>]+/[^/>?]+)")
"""The beginning of an address in a Link header, up to what follows the repository."""


@dataclass
class Session:
    """One attempt's agent, and how often it asked what for."""

    run_id: str
    attempt: int
    repo: Repo
    place: str
    live: Live
    left: float  # requests, as they were at that time
    at: float
    forwarded: int = 0
    cached: int = 0
    refused: int = 0  # not to be read
    over: int = 0  # refused for the quota

    def counts(self) -> dict[str, int]:
        return {"forwarded": self.forwarded, "cached": self.cached, "refused": self.refused, "over": self.over}


@dataclass(frozen=True)
class Asked:
    """One request that may be passed on. Equal ones have the same answer."""

    place: str
    path: str  # with its query; "" for GraphQL
    accept: str = ""
    question: bytes | None = None


@dataclass(frozen=True)
class Kept:
    answer: Relayed
    at: float  # when the forge last said so

    @property
    def mark(self) -> str:
        return self.answer.headers.get("etag", "")


class Answers:
    """What was answered last, within a bound of bytes; the longest unused goes first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[Asked, Kept] = OrderedDict()
        self.size = 0

    def get(self, asked: Asked) -> Kept | None:
        if kept := self.kept.get(asked):
            self.kept.move_to_end(asked)
        return kept

    def put(self, asked: Asked, kept: Kept) -> None:
        if old := self.kept.pop(asked, None):
            self.size -= _size(asked, old)
        if len(kept.answer.body) > LARGEST:
            return
        self.kept[asked] = kept
        self.size += _size(asked, kept)
        while self.size > KEPT or len(self.kept) > 2000:
            self.size -= _size(*self.kept.popitem(last=False))


def _size(asked: Asked, kept: Kept) -> int:
    return len(asked.path) + len(asked.question or b"") + len(kept.answer.body)


class ForgeProxy:
    """Answers agents. `url` is where they find it, `folder` the configuration that leads the forge's program there."""

    def __init__(self, crew: Crew, forge: Relaying, told: Proxy, url: str, folder: Path,
                 clock: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self.crew, self.forge, self.told, self.url, self.folder, self.clock = crew, forge, told, url, folder, clock
        self.sessions: dict[str, Session] = {}
        self.answers = Answers()
        self.asking: WeakValueDictionary[Asked, asyncio.Lock] = WeakValueDictionary()
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=METHODS)])

    # -- sessions ------------------------------------------------------------------------------------------------------
    def agent_env(self, run: Run, attempt: Attempt) -> Mapping[str, str]:
        """What the session of this attempt is given; nothing where its repository is on another forge."""
        repo, live = self.crew.repos[run.repo], self.crew.live.get(run.id)
        if live is None or repo.forge != self.told.forge:
            return {}
        token = f"nightcrew_{secrets.token_urlsafe(32)}"
        self.sessions[token] = Session(run.id, attempt.number, repo, self.forge.place(repo), live,
                                       self.told.requests_per_session, self.clock())  # fmt: skip
        return self.forge.relay_env(repo, self.url, token, self.folder)

    def _session(self, request: Request) -> Session | None:
        kind, _, word = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            with suppress(ValueError):
                word = base64.b64decode(word).decode().partition(":")[2]
        session = self.sessions.get(word.strip())
        return session if session and self._lives(session) else None

    def _lives(self, session: Session) -> bool:
        return self.crew.live.get(session.run_id) is session.live

    def close(self, *, everyone: bool = False) -> None:
        """Forget the sessions whose attempt is over, and write down how often they asked."""
        for token, session in list(self.sessions.items()):
            if everyone or not self._lives(session):
                del self.sessions[token]
                if any(session.counts().values()):
                    self._record(session)

    def _record(self, session: Session) -> None:
        try:
            self.crew.store.event("proxy.used", session.run_id, attempt=session.attempt, **session.counts())
        except NightcrewError as error:
            log.warning("proxy.unrecorded", extra={"run": session.run_id, "error": error.sentence()})

    # -- requests ------------------------------------------------------------------------------------------------------
    async def _answer(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return _said(403, "This token is not known to nightcrew: it is that of no session that lives.")
        try:
            asked = await self._asked(request, session.place)
        except NotAllowed as no:
            session.refused += 1
            return _said(403, str(no))
        async with self.asking.setdefault(asked, asyncio.Lock()):  # of many who ask the same at once, one is passed on
            return await self._passed(request, session, asked)

    async def _asked(self, request: Request, place: str) -> Asked:
        path = request.scope["raw_path"].decode("latin-1")
        if request.method == "POST" and path in GRAPHQL:
            try:
                return Asked(place, "", question=asked_graphql(await body(request, QUESTION), place))
            except (TooLarge, TimeoutError, ClientDisconnect) as error:
                raise NotAllowed("That is no GraphQL query, or one that is too long.") from error
        if request.method not in ("GET", "HEAD"):
            raise NotAllowed(f"Only reading is passed on, and {request.method} may change something.")
        query = request.scope["query_string"].decode("latin-1")
        accept = request.headers.get("accept", "")[:200]
        return Asked(place, asked_path(path, place) + (f"?{query}" if query else ""), accept)

    async def _passed(self, request: Request, session: Session, asked: Asked) -> Response:
        kept = self.answers.get(asked)
        if kept and self.clock() - kept.at < self.told.cache_seconds:
            session.cached += 1
            return self._sent(request, session, kept.answer)
        if self._left(session) < 1:
            session.over += 1
            most = self.told.requests_per_session
            why = f"This session's {most} requests are used up. What was read lately is still answered."
            return _said(429, why, math.ceil((1 - session.left) * HOUR / most))
        session.forwarded, session.left = session.forwarded + 1, session.left - 1
        try:
            return self._sent(request, session, await self._fresh(session.repo, asked, kept))
        except Limited as limited:
            return _said(429, str(limited), max(int(limited.wait), 1))
        except NightcrewError as error:
            return _said(502, str(error))

    def _left(self, session: Session) -> float:
        """How many requests it may send now: those that it used come back evenly."""
        most, now = self.told.requests_per_session, self.clock()
        session.left = min(session.left + (now - session.at) * most / HOUR, most)
        session.at = now
        return session.left

    async def _fresh(self, repo: Repo, asked: Asked, kept: Kept | None) -> Relayed:
        """As the forge says now. Raises a Fault."""
        headers = {"accept": asked.accept} if asked.accept not in ("", "*/*") else {}
        if asked.question is not None:
            headers["content-type"] = "application/json"
        if kept and kept.mark:
            headers["if-none-match"] = kept.mark
        async with self.turns:
            got = await self.forge.relay(repo, asked.path, headers, asked.question)
        if got.status == 304 and kept:
            self.answers.put(asked, replace(kept, at=self.clock()))
            return kept.answer
        if got.status in (200, 404) and not (asked.question and b'"errors"' in got.body):
            self.answers.put(asked, Kept(got, self.clock()))
        return got

    def _sent(self, request: Request, session: Session, answer: Relayed) -> Response:
        if answer.status == 401:
            return _said(502, "The forge does not accept nightcrew's own credential.")
        passed = {name: answer.headers[name] for name in ("content-type", "etag") if name in answer.headers}
        if link := answer.headers.get("link"):
            passed["link"] = ENTRIES.sub(f"<{self._base(request)}/repos/{session.place}", link)
        passed["x-ratelimit-limit"] = str(self.told.requests_per_session)
        passed["x-ratelimit-remaining"] = str(int(self._left(session)))
        return Response(answer.body, answer.status, passed)

    def _base(self, request: Request) -> str:
        """Where the client thinks we are: `gh` comes by the socket, and takes us for the forge."""
        host = request.headers.get("host", "")
        if self.url.endswith(f"//{host}") or not re.fullmatch(r"[\w.:-]+", host):
            return self.url
        return f"https://{host}/api/v3" if request.url.path.startswith("/api/v3/") else f"https://{host}"


def _said(status: int, why: str, wait: int = 0) -> Response:
    return JSONResponse({"message": why}, status, {"retry-after": str(wait)} if wait else None)


@asynccontextmanager
async def listening(app: App, director: Director) -> AsyncIterator[None]:
    """Let agents read the forge while the block lasts. Where that cannot be, it is told and they do without."""
    forge, crew = app.forges[app.config.proxy.forge], director.crew
    with ExitStack() as opened:
        if not isinstance(forge, Relaying):
            _off(f"{forge.name} cannot be read by agents")
        elif (at := _opened(opened)) is not None:
            folder, listener, local = at
            proxy = ForgeProxy(crew, forge, app.config.proxy, f"http://127.0.0.1:{listener.getsockname()[1]}", folder)
            crew.agent_env = proxy.agent_env
            async with serving(proxy.app, listener, local):
                closing = asyncio.create_task(_closing(proxy))
                try:
                    yield
                finally:
                    closing.cancel()
                    proxy.close(everyone=True)
            return
        yield


def _off(why: str) -> None:
    log.error("proxy.off", extra={"error": f"[proxy] {why}; they do without."})


def _opened(stack: ExitStack) -> tuple[Path, socket.socket, socket.socket] | None:
    """A folder, which goes with the stack, and what is listened on; None, and it is told, where that cannot be."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="nightcrew-"))  # short: the path of a socket may have 100 letters
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder, bound("127.0.0.1", 0), _beside(folder)
    except OSError as error:
        _off(f"agents cannot be listened to on a socket in TMPDIR ({reason(error)})")
        return None


def _beside(folder: Path) -> socket.socket:
    """A socket in that folder, and a configuration of `gh` that leads there: to an address it would speak TLS."""
    path = folder / "proxy.sock"
    (folder / "config.yml").write_text(f'version: "1"\nprompt: disabled\nhttp_unix_socket: {path}\n')
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen(WAITING)
    return made


async def _closing(proxy: ForgeProxy) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY)
        proxy.close()
