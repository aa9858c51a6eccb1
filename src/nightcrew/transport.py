"""HTTP to boards and forges: deadlines, retries, rate limits, ETags, and honesty about answers that were lost."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from weakref import WeakKeyDictionary

import httpx2 as httpx
import msgspec
import stamina
from aiolimiter import AsyncLimiter

from nightcrew.errors import NightcrewError

__all__ = [
    "Answer", "Fault", "Limit", "Limited", "Lost", "Refused", "Relayed", "Service", "Unreachable", "close", "told_as",
]  # fmt: skip

stamina.instrumentation.set_on_retry_hooks([])  # it would print a line for each try; what came of them is told
USER_AGENT = "nightcrew"
DEADLINE = httpx.Timeout(30, connect=5)
TRIES = 4
PATIENCE = 15.0  # seconds that a limit is waited for in place; a longer one is told, and the scan comes again
LARGEST = 32 << 20  # bytes of one answer
REMEMBERED = 500  # answers kept with their ETag
MOVES = 5  # times that a write is led on to another address
NEVER_ARRIVED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Faults after which the service has not seen the request: even a write may be sent again."""


class Fault(NightcrewError):
    """A service could not do what was asked; the message names it."""


class Unreachable(Fault):
    """No answer, or one that only a broken service gives; nothing was changed."""

    hint = "Look at its address and at your network; a crew that is up tries again by itself."


class Lost(Fault):
    """A write may have been carried out, its answer was lost: read back before it is sent again."""

    hint = "Nothing to do: what happened is read back, then it is tried again."


class Limited(Fault):
    """The service asks to wait `wait` seconds; nothing was changed."""

    hint = "Nothing to do: it goes on by itself when the limit is over."

    def __init__(self, service: str, wait: float, why: str) -> None:
        super().__init__(f"{service} asks us to wait {wait:.0f} s ({why}).")
        self.wait = wait


class Refused(Fault):
    """The service understood and said no: `status` and `data` are its answer. Sending it again changes nothing."""

    def __init__(self, service: str, what: str, answer: Answer, hint: str = "") -> None:
        super().__init__(f"{service} refused {what} ({answer.status}): {_why(answer)}", hint=hint)
        self.status, self.data = answer.status, answer.data


@dataclass(frozen=True)
class Answer:
    """One answer. `data` is its JSON, None when it has none; `unchanged`: nothing is new since it was last asked."""

    status: int
    headers: Mapping[str, str]
    data: Any = None
    text: str = ""
    unchanged: bool = False
    next: str = ""  # the address of the next page, as a Link header tells it
    scope: str = ""  # the places that its request named, separated by spaces


@dataclass(frozen=True)
class Relayed:
    """An answer as it came, for somebody else to read."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    found: str = ""  # the address that redirects led to; below the service's own, what follows that


@dataclass(frozen=True)
class Limit:
    """What an answer says about a limit that was reached. `scope` names what must wait: "" all, else a place."""

    wait: float  # seconds
    why: str
    scope: str = ""


Limits = Callable[[Answer, float], Limit | None]
"""Reads a limit out of an answer; the second value is now, in epoch seconds. None when it tells of none."""
Headers = Callable[[], Awaitable[Mapping[str, str]]]
"""Headers with the credential, asked before each request, for it may be short-lived."""


@dataclass
class _Loop:
    """What belongs to one event loop: connections, and who may write."""

    client: httpx.AsyncClient
    writing: WeakKeyDictionary[Service, asyncio.Semaphore] = field(default_factory=WeakKeyDictionary)
    pace: WeakKeyDictionary[Service, AsyncLimiter] = field(default_factory=WeakKeyDictionary)


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()


def _here() -> _Loop:
    """One client per process and loop: its TLS context alone costs 0.3 s (facts.md)."""
    loop = asyncio.get_running_loop()
    if loop not in _loops:
        none = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # two accounts at one service must not meet in it
        client = httpx.AsyncClient(timeout=DEADLINE, follow_redirects=True, headers={"user-agent": USER_AGENT},
                                   cookies=none)  # fmt: skip
        _loops[loop] = _Loop(client)
    return _loops[loop]


async def close() -> None:
    """Close this loop's connections; a later request opens new ones."""
    if here := _loops.pop(asyncio.get_running_loop(), None):
        await here.client.aclose()


@dataclass(eq=False)
class Service:
    """One service at `base`.

    `writes` many requests that change something are sent at once; with `pace`, at most (so many, in so many seconds),
    each counted as `weight` says by its method and path.
    Every request has a deadline and raises a `Fault` when it fails; a limit that ends within 15 s is waited for.
    """

    name: str
    base: str
    headers: Headers
    limits: Limits
    writes: int = 4
    pace: tuple[float, float] | None = None
    weight: Callable[[str, str], float] = lambda method, path: 1.0
    now: Callable[[], float] = time.time
    patience: float = PATIENCE
    counts: Counter[str] = field(default_factory=Counter)  # requests sent, by what came of them
    _etags: OrderedDict[str, tuple[str, Answer]] = field(default_factory=OrderedDict)
    _closed: dict[str, tuple[float, str]] = field(default_factory=dict)  # scope -> (until, why)

    async def get(self, path: str, params: Mapping[str, Any] | None = None, *, etag: bool = False,
                  scope: str = "") -> Answer:  # fmt: skip
        """Read. With `etag` the last answer is kept, and an unchanged one costs the service (and us) nothing."""
        return await self._send("GET", path, params, None, etag=etag, scope=scope)

    async def write(self, method: str, path: str, json: Any = None, *, params: Mapping[str, Any] | None = None,
                    again: bool = False, scope: str = "") -> Answer:  # fmt: skip
        """Change something. With `again` doing it twice is doing it once, so it is; else a lost answer raises Lost."""
        here = _here()
        turn = here.writing.setdefault(self, asyncio.Semaphore(self.writes))
        async with turn:
            if self.pace:
                await here.pace.setdefault(self, AsyncLimiter(*self.pace)).acquire(self.weight(method, path))
            return await self._send(method, path, params, json, again=again, scope=scope)

    async def ask(self, path: str, json: Any, *, scope: str = "") -> Answer:
        """Read with a POST, as searches and GraphQL queries are."""
        return await self._send("POST", path, None, json, again=True, scope=scope)

    async def pages(self, path: str, params: Mapping[str, Any] | None = None, *, etag: bool = False,
                    most: int = 100) -> AsyncIterator[Answer]:  # fmt: skip
        """A list page by page, by its Link headers; at most `most` of them."""
        answer = await self.get(path, params, etag=etag)
        yield answer
        for _ in range(most - 1):
            if not answer.next:
                return
            answer = await self.get(answer.next, etag=etag)
            yield answer

    async def tail(self, path: str, most: int = 64 << 10) -> str:
        """The last `most` bytes of a text that may be long, such as a log."""
        await self._wait_for("")
        kept = b""
        try:
            async with _here().client.stream("GET", self._url(path), headers=dict(await self.headers())) as answer:
                self.counts["sent"] += 1
                if answer.status_code >= 400:
                    await answer.aread()
                    raise self._refused("GET", path, _answer(answer))
                async for chunk in answer.aiter_bytes():
                    kept = (kept + chunk)[-most:]
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        return kept.decode("utf-8", "replace")

    async def relay(self, path: str, headers: Mapping[str, str], content: bytes | None = None, *,
                    scope: str = "") -> Relayed:  # fmt: skip
        """Read on somebody else's behalf: a GET, or with `content` a POST, with our credential, once, and not judged.

        Raises Limited, now and while the service is to be left alone, or Unreachable. A file that was read limits none.
        """
        await self._wait_for(scope)
        client = _here().client
        sent = client.build_request("GET" if content is None else "POST", self._url(path), content=content,
                                    headers={**await self.headers(), **headers})  # fmt: skip
        self.counts["sent"] += 1
        try:
            answer, raw = await self._whole(client, sent)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        if (content or answer.is_error) and (limit := self.limits(_answer(answer, raw), self.now())):
            self._closed[limit.scope] = (self.now() + limit.wait, limit.why)
            raise Limited(self.name, limit.wait, limit.why)
        found = str(answer.url).removeprefix(str(httpx.URL(self.base)).rstrip("/"))  # an answer writes it in this way
        return Relayed(answer.status_code, answer.headers, raw, found if answer.history else "")

    # -- sending -------------------------------------------------------------------------------------------------------
    async def _send(self, method: str, path: str, params: Mapping[str, Any] | None, json: Any, *, etag: bool = False,
                    again: bool = False, scope: str = "") -> Answer:  # fmt: skip
        safe = method == "GET" or again
        tries = stamina.retry_context(on=_backoff, attempts=TRIES, timeout=60, wait_initial=0.2, wait_max=5,
                                      wait_jitter=0.3)  # fmt: skip
        try:
            async for attempt in tries:
                with attempt:
                    await self._wait_for(scope)
                    return await self._once(method, path, params, json, etag=etag, safe=safe, scope=scope)
        except _Again as failed:
            raise failed.fault from failed.fault.__cause__
        raise AssertionError("stamina always ends with an answer or an error")

    async def _once(self, method: str, path: str, params: Mapping[str, Any] | None, json: Any, *, etag: bool,
                    safe: bool, scope: str) -> Answer:  # fmt: skip
        client = _here().client
        content = None if json is None else msgspec.json.encode(json)
        sent = client.build_request(method, self._url(path), params=dict(params) if params else None, content=content,
                                    headers=dict(await self.headers()))  # fmt: skip
        if content is not None:
            sent.headers["content-type"] = "application/json"
        known = self._etags.get(str(sent.url)) if etag else None
        if known:
            sent.headers["if-none-match"] = known[0]
        self.counts["sent"] += 1
        try:
            answer = replace(_answer(*await self._whole(client, sent)), scope=scope)
        except NEVER_ARRIVED as error:
            raise _Again(self._unreachable(error)) from error
        except httpx.RequestError as error:
            raise self._unsure(method, path, safe, f"{type(error).__name__}") from error
        if answer.status == 304 and known:
            return self._unchanged(str(sent.url), known, answer)
        return self._judged(method, path, answer, str(sent.url) if etag else "", safe)

    async def _whole(self, client: httpx.AsyncClient, sent: httpx.Request) -> tuple[httpx.Response, bytes]:
        """The whole answer, read with a bound: what a broken service sends must not fill the memory."""
        answer = await self._followed(client, sent)
        try:
            read = bytearray()
            async for chunk in answer.aiter_bytes():
                read += chunk
                if len(read) > LARGEST:
                    raise Unreachable(f"{self.name} answered with more than {LARGEST >> 20} MiB.")
            return answer, bytes(read)
        finally:
            await answer.aclose()

    async def _followed(self, client: httpx.AsyncClient, sent: httpx.Request) -> httpx.Response:
        """What is at the address that it leads to. A write is sent there as it is: httpx would make a GET of it."""
        for _ in range(MOVES):
            answer = await client.send(sent, stream=True, follow_redirects=sent.method == "GET")
            if answer.next_request is None:
                return answer
            await answer.aclose()
            to = answer.next_request
            kept = {key: value for key, value in to.headers.items() if key not in ("content-length", "host")}
            method = "GET" if answer.status_code == httpx.codes.SEE_OTHER else sent.method
            sent = client.build_request(method, to.url, headers=kept, content=sent.content if method != "GET" else None)
        raise httpx.TooManyRedirects(f"it was led on {MOVES} times", request=sent)

    def _unchanged(self, url: str, known: tuple[str, Answer], answer: Answer) -> Answer:
        self.counts["unchanged"] += 1
        self._etags[url] = (answer.headers.get("etag", known[0]), known[1])  # it may rotate
        self._etags.move_to_end(url)
        return replace(known[1], unchanged=True)

    def _judged(self, method: str, path: str, answer: Answer, remember: str, safe: bool) -> Answer:
        if limit := self.limits(answer, self.now()):
            self.counts["limited"] += 1
            self._closed[limit.scope] = (self.now() + limit.wait, limit.why)
            raise _Again(Limited(self.name, limit.wait, limit.why), limit.wait if self._bears(limit.wait) else None)
        if answer.status >= 500 or (answer.status < 400 and answer.data is None and answer.text.strip()):
            raise self._unsure(method, path, safe, f"HTTP {answer.status}")
        if answer.status >= 400:
            self.counts["refused"] += 1
            raise self._refused(method, path, answer)
        if remember and (mark := answer.headers.get("etag")):
            self._etags[remember] = (mark, answer)
            while len(self._etags) > REMEMBERED:
                self._etags.popitem(last=False)
        return answer

    def _unsure(self, method: str, path: str, safe: bool, what: str) -> Exception:
        self.counts["failed"] += 1
        if safe:
            return _Again(Unreachable(f"{self.name} does not answer {method} {_shown(path)}: {what}."))
        return Lost(f"The answer of {self.name} to {method} {_shown(path)} was lost: {what}.")

    def _refused(self, method: str, path: str, answer: Answer) -> Refused:
        cures = {401: "Its credential is not accepted: give a new one.", 403: "Its credential lacks this permission."}
        return Refused(self.name, f"{method} {_shown(path)}", answer, cures.get(answer.status, ""))

    def _unreachable(self, error: Exception) -> Unreachable:
        self.counts["failed"] += 1
        return Unreachable(f"{self.name} at {self.base} cannot be reached: {str(error) or type(error).__name__}.")

    def _bears(self, wait: float) -> bool:
        return wait <= self.patience

    async def _wait_for(self, scope: str) -> None:
        """Nothing is asked of a service that told us to wait: short waits are sat out, long ones told."""
        for place in {"", *scope.split()}:
            until, why = self._closed.get(place, (0.0, ""))
            if (wait := until - self.now()) <= 0:
                self._closed.pop(place, None)
            elif self._bears(wait):
                await asyncio.sleep(wait)
            else:
                raise Limited(self.name, wait, why)

    def _url(self, path: str) -> str:
        return path if path.startswith(("http://", "https://")) else self.base.rstrip("/") + path


class _Again(Exception):
    """A try failed with `fault` and may be repeated: after `wait` seconds, after a usual pause (0), or not (None)."""

    def __init__(self, fault: Fault, wait: float | None = 0.0) -> None:
        super().__init__(str(fault))
        self.fault, self.wait = fault, wait


def _backoff(error: Exception) -> bool | float:
    if not isinstance(error, _Again) or error.wait is None:
        return False
    return error.wait or True


@contextmanager
def told_as(kind: type[NightcrewError]) -> Iterator[None]:
    """Faults within the block as the port's own error, in the same words."""
    try:
        yield
    except Fault as fault:
        raise kind(str(fault), hint=fault.hint) from fault


def _answer(answer: httpx.Response, body: bytes | None = None) -> Answer:
    raw = answer.content if body is None else body
    data = None
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        data = msgspec.json.decode(raw) if raw.strip() else None
    link = answer.links.get("next", {}).get("url", "")
    return Answer(answer.status_code, answer.headers, data, raw.decode("utf-8", "replace"), next=link)


def _shown(path: str) -> str:
    """A path without its query, for messages: what is in a query may be long."""
    return httpx.URL(path).path if "://" in path else path.partition("?")[0]


def _why(answer: Answer) -> str:
    """What the service said, on one line: the usual places, else the beginning of its text."""
    found = _said(answer.data) if answer.data is not None else ""
    text = found or answer.text
    return " ".join("".join(c if c.isprintable() else " " for c in text[:400]).split()) or "no reason was given"


def _said(data: Any) -> str:
    """The messages in an error's JSON, whatever their key: `message`, `errors`, `errorMessages`, `error`."""
    if isinstance(data, str):
        return data
    if isinstance(data, list):
        return "; ".join(filter(None, map(_said, data)))
    if isinstance(data, dict):
        keys = ("message", "errorMessages", "errors", "error", "error_description")
        return "; ".join(filter(None, (_said(data[key]) for key in keys if data.get(key)))) or "; ".join(
            f"{key}: {value}" for key, value in data.items() if isinstance(value, str)
        )
    return ""
