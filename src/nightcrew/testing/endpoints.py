"""A model provider that follows a script: drives the real agent CLIs offline. One engine, one dialect per provider.

A *script* is a list of steps; every model request of the main conversation takes one (fields: `Step`). The client
picks its script by the base URL it is given, `endpoint.url("happy", "run1")`; each run has its own position, so one
server serves any number of sessions. The run `EACH` keeps a position per session, whatever URL they share. A script
may also map a word of the prompt (a ticket's key) to its steps; the word "" is for everyone else. After its last
step a script repeats its last text. Side requests (titles, classifiers) are answered "ok" and take no step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import msgspec
from aiohttp import web

Json = dict[str, Any]
EACH = "each"


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool the model asks for."""

    name: str
    input: Json = {}


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the answer says about the account's limits; `resets_in` is seconds from the first time it is said."""

    status: str = "rejected"  # allowed | allowed_warning | rejected
    window: str = "five_hour"
    resets_in: float = 60.0
    utilization: float = 1.0


class StreamError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error inside a stream that began with HTTP 200."""

    type: str
    message: str = "scripted error"


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer. Without any field it is an empty text."""

    text: str = ""
    tools: tuple[Tool, ...] = ()
    bad_json: bool = False  # the tools' input does not parse
    stop_reason: str = ""
    usage: dict[str, int] = {}  # over the dialect's usual one
    error: int = 0  # an HTTP status; `type`, `message`, `fields` make its body
    type: str = "api_error"
    message: str = "scripted error"
    fields: Json = {}
    raw: str | None = None  # a body that is no JSON, with `status`
    status: int = 200
    headers: dict[str, str] = {}
    limits: Limits | None = None
    hang: Literal["", "headers", "body", "ping"] = ""  # never answer, stop after the first event, ping for ever
    cut: int | None = None  # drop the connection after so many events
    sse_error: StreamError | None = None
    times: int = 1  # -1 = for ever
    lasts: float = 0.0  # seconds: serve this step again until so long after its first time, whatever `times` says
    delay: float = 0.0  # seconds before the answer
    model: str = ""  # only this model is served so; another is answered in plain text

    @property
    def kind(self) -> str:
        """Which field decides, for the log."""
        names = ("error", "raw", "hang", "cut", "sse_error", "tools")
        return next((name for name in names if getattr(self, name) not in (0, None, "", ())), "text")


Script = list[Step] | dict[str, list[Step]]


class Dialect(Protocol):
    """A provider's wire format. `reset` is epoch seconds of the step's limits, 0 without any."""

    ping: bytes

    def is_call(self, method: str, path: str) -> bool:
        """Whether a model is asked to answer."""

    def is_side(self, body: Json) -> bool:
        """Whether this call is not part of the main conversation."""

    def session(self, headers: Mapping[str, str], body: Json) -> str:
        """The client's session, "" when it does not say."""

    def other(self, method: str, path: str, raw: bytes) -> tuple[int, Json]:
        """Status and body of everything that is no model call."""

    def headers(self, step: Step, reset: int) -> dict[str, str]:
        """Headers that tell the step's limits."""

    def error(self, step: Step, reset: int) -> Json:
        """The body of an HTTP error."""

    def whole(self, step: Step, body: Json, path: str) -> Json:
        """The answer when no stream was asked for."""

    def events(self, step: Step, body: Json, path: str) -> Iterable[bytes]:
        """The answer as server-sent events."""


@dataclass
class Run:
    """One client's position in its script."""

    steps: list[Step]
    index: int = 0
    served: int = 0
    since: float = 0.0

    def take(self, model: str, now: float) -> Step:
        """The next step for `model`."""
        while self.index < len(self.steps):
            step = self.steps[self.index]
            if step.model and step.model != model:
                return Step(text=f"Answered by {model}.")
            if self._goes_on(step, now):
                self.since = self.since if self.served else now
                self.served += 1
                return step
            self.index, self.served = self.index + 1, 0
        return next((step for step in reversed(self.steps) if step.text and step.kind == "text"), Step(text="Done."))

    def _goes_on(self, step: Step, now: float) -> bool:
        if step.lasts and self.served:
            return now < self.since + step.lasts
        return step.times < 0 or self.served < step.times


@dataclass(frozen=True)
class Asked:
    """One request as it came. `auth` names the header that carried a credential, never the credential."""

    at: float
    run: str
    request: str
    session: str
    step: str  # what it was answered with; "side", "other"
    auth: str
    model: str
    stream: bool
    tools: int
    messages: int
    body: Json = field(default_factory=dict)  # only with bodies=True


class Endpoint:
    """A scripted provider on 127.0.0.1, up while its `async with` block lasts.

    Raises msgspec.ValidationError for a script it does not understand. `asked` is every request so far; `log` gets
    the same as JSON lines.
    """

    def __init__(
        self, dialect: Dialect, scripts: Mapping[str, object], *, port: int = 0, log: Path | None = None,
        bodies: bool = False, ping_every: float = 2.0,
    ) -> None:  # fmt: skip
        self.asked: list[Asked] = []
        self.port = port
        self._dialect, self._log, self._bodies, self._ping_every = dialect, log, bodies, ping_every
        self._scripts = msgspec.convert(dict(scripts), dict[str, Script])
        self._runs: dict[str, Run] = {}
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None

    def url(self, script: str, run: str = EACH) -> str:
        """The base URL that makes a client play `script`."""
        return f"http://127.0.0.1:{self.port}/s/{script}/{run}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=256 << 20)
        app.router.add_route("*", "/s/{script}/{run}/{path:.*}", self._dispatch)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._runner:
            await self._runner.cleanup()

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        path, raw = request.match_info["path"], await request.read()
        body = _json(raw)
        if not self._dialect.is_call(request.method, path):
            self._note(request, body, "other")
            status, answer = self._dialect.other(request.method, path, raw)
            return web.json_response(answer, status=status)
        if self._dialect.is_side(body):
            self._note(request, body, "side")
            return await self._play(request, Step(text="ok"), body, 0)
        run = self._run(request, body)
        if run is None:
            wrong = Step(message=f"no such script: {request.match_info['script']}", type="not_found_error")
            self._note(request, body, "no such script")
            return web.json_response(self._dialect.error(wrong, 0), status=404)
        step = run.take(str(body.get("model", "")), time.time())
        self._note(request, body, step.kind)
        # Rounded up: who waits for the reset must not come while the limit still `lasts`.
        reset = ceil(run.since + step.limits.resets_in) if step.limits else 0
        return await self._play(request, step, body, reset)

    def _run(self, request: web.Request, body: Json) -> Run | None:
        script, name = request.match_info["script"], request.match_info["run"]
        if script not in self._scripts:
            return None
        key = f"{script}/{self._dialect.session(request.headers, body) if name == EACH else name}"
        if key not in self._runs:
            self._runs[key] = Run(_chosen(self._scripts[script], body))
        return self._runs[key]

    def _note(self, request: web.Request, body: Json, step: str) -> None:
        secrets = [name for name in ("Authorization", "x-api-key") if request.headers.get(name)]
        asked = Asked(
            at=round(time.time(), 3), run=f"{request.match_info['script']}/{request.match_info['run']}",
            request=f"{request.method} /{request.match_info['path']}", step=step, auth=", ".join(secrets),
            session=self._dialect.session(request.headers, body), model=str(body.get("model", "")),
            stream=bool(body.get("stream")), tools=len(body.get("tools") or ()),
            messages=len(body.get("messages") or body.get("input") or ()), body=body if self._bodies else {},
        )  # fmt: skip
        self.asked.append(asked)
        if self._log:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(asked)) + "\n")

    async def _play(self, request: web.Request, step: Step, body: Json, reset: int) -> web.StreamResponse:
        await self._rest(step.delay)
        headers = {**self._dialect.headers(step, reset), **step.headers}
        if step.hang == "headers":
            await self._closing.wait()
        if step.error:
            return web.json_response(self._dialect.error(step, reset), status=step.error, headers=headers)
        if step.raw is not None:
            return web.Response(text=step.raw, status=step.status, content_type="text/html", headers=headers)
        if body.get("stream"):
            return await self._stream(request, step, body, headers)
        return await self._answer(request, step, body, headers)

    async def _answer(self, request: web.Request, step: Step, body: Json, headers: Json) -> web.StreamResponse:
        if step.hang:
            await self._closing.wait()
        if step.cut is not None:
            return _cut(request, web.Response())
        if step.sse_error:
            wrong = Step(type=step.sse_error.type, message=step.sse_error.message)
            return web.json_response(self._dialect.error(wrong, 0), status=500, headers=headers)
        whole = self._dialect.whole(step, body, request.match_info["path"])
        return web.json_response(whole, headers=headers)

    async def _stream(self, request: web.Request, step: Step, body: Json, headers: Json) -> web.StreamResponse:
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream"})
        with suppress(ConnectionError):  # a client that was killed is nobody's fault
            await response.prepare(request)
            for count, event in enumerate(self._dialect.events(step, body, request.match_info["path"])):
                if step.cut == count:
                    return _cut(request, response)
                await response.write(event)
                if step.hang:
                    await self._hang(response, pings=step.hang == "ping")
            await response.write_eof()
        return response

    async def _hang(self, response: web.StreamResponse, *, pings: bool) -> None:
        while pings and not self._closing.is_set():
            await self._rest(self._ping_every)
            await response.write(self._dialect.ping)
        await self._closing.wait()

    async def _rest(self, seconds: float) -> None:
        """Wait, but never longer than the endpoint lives."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), seconds)


def _json(raw: bytes) -> Json:
    with suppress(ValueError):
        body = json.loads(raw)
        if isinstance(body, dict):
            return body
    return {}


def _chosen(script: Script, body: Json) -> list[Step]:
    if isinstance(script, list):
        return script
    said = json.dumps(body.get("messages") or body.get("input") or "")
    word = next((word for word in script if word and word in said), "")
    return script.get(word, [])


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport:
        request.transport.abort()
    return response


def parts(text: str, size: int) -> Iterator[str]:
    """`text` in pieces of at most `size` characters, as a model streams it."""
    return (text[start : start + size] for start in range(0, len(text), size))


def command_line(dialect: Dialect, description: str) -> None:
    """Serve a file of scripts until SIGTERM or SIGINT; the first line printed is {"port": ..., "url": ...}."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--port", type=int, default=0, help="0 = any free one")
    parser.add_argument("--scripts", type=Path, required=True, help="JSON object: name of a script -> its steps")
    parser.add_argument("--log", type=Path, help="one JSON line per request")
    parser.add_argument("--bodies", action="store_true", help="log whole bodies too")
    wanted = parser.parse_args()
    scripts = json.loads(wanted.scripts.read_text(encoding="utf-8"))
    asyncio.run(_serve(Endpoint(dialect, scripts, port=wanted.port, log=wanted.log, bodies=wanted.bodies)))


async def _serve(endpoint: Endpoint) -> None:
    async with endpoint, _signals() as stopped:
        address = {"port": endpoint.port, "url": f"http://127.0.0.1:{endpoint.port}"}
        sys.stdout.write(json.dumps(address) + "\n")
        sys.stdout.flush()
        await stopped.wait()


@asynccontextmanager
async def _signals() -> AsyncIterator[asyncio.Event]:
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    yield stopped
