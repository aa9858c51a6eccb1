"""Webhooks: a board or forge says that something changed, and the next scan comes at once.

Nothing depends on them, and nothing of what they say is used: whoever can forge one can make us look, no more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from nightcrew.errors import ConfigError, NightcrewError
from nightcrew.ports import Hooked
from nightcrew.store import Store, StoreError
from nightcrew.web.serving import TooLarge, body, bound, reason, serving

if TYPE_CHECKING:
    from nightcrew.app import App
    from nightcrew.director import Director

log = logging.getLogger("nightcrew.web.webhooks")
LARGEST = 25 << 20  # bytes; GitHub sends no more
AT_ONCE = 4  # deliveries that are read at once: their bodies are in memory before anybody knows who sent them
TOGETHER = 1.0  # seconds after a delivery in which all others belong to the same scan
KEPT = 1000
KEY = "webhooks"
QUIET = 60.0  # seconds between two lines about deliveries that were refused


class Seen:
    """The last 1,000 deliveries, also over restarts, each by its id and by what it said.

    By both, since GitHub signs the body and not the id: a copy under another id is the same delivery.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.marks: deque[Sequence[str]] = deque(store.get(KEY, []), maxlen=KEPT)

    def take(self, name: str, delivery: str, raw: bytes) -> bool:
        """Whether it is new; from now on it is not."""
        marks = (_mark(name, delivery.encode()), _mark(name, raw))
        if any(mark in known for known in self.marks for mark in marks):
            return False
        self.marks.append(marks)
        with suppress(StoreError):  # a full disk: it is known until the end of this process
            self.store.put(KEY, list(self.marks))
        return True


class Bell:
    """Wakes the director: all that rings within a second is one scan."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake, self.rings = wake, 0

    def ring(self) -> None:
        self.rings += 1
        if self.rings == 1:
            asyncio.get_running_loop().call_later(TOGETHER, self._now)

    def _now(self) -> None:
        log.info("webhooks.woke", extra={"deliveries": self.rings})
        self.rings = 0
        self.wake()


class Webhooks:
    """Takes deliveries at /webhooks/NAME. `hooks` are the boards and forges by name; two may share one."""

    def __init__(self, hooks: Mapping[str, Sequence[Hooked]], seen: Seen, bell: Bell,
                 now: Callable[[], float] = time.time) -> None:  # fmt: skip
        self.hooks, self.seen, self.bell, self.now = hooks, seen, bell, now
        self.reading = asyncio.Semaphore(AT_ONCE)
        self._refused, self._told = 0, -QUIET
        self.app = Starlette(routes=[Route("/webhooks/{name}", self._post, methods=["POST"])])

    async def _post(self, request: Request) -> Response:
        """202 taken, 200 known already, 400 not genuine, 413 too large, 404 nobody takes them; never a word more."""
        name = request.path_params["name"]
        if name not in self.hooks:
            return Response(status_code=404)
        async with self.reading:
            try:
                raw = await body(request, LARGEST)
            except (TooLarge, TimeoutError, ClientDisconnect) as fault:
                status = {TooLarge: 413, TimeoutError: 408}.get(type(fault), 400)
                return Response(status_code=status, headers={"connection": "close"})  # the rest is not read either
            return Response(status_code=self._taken(name, raw, dict(request.headers)))

    def _taken(self, name: str, raw: bytes, headers: Mapping[str, str]) -> int:
        delivery = next(filter(None, (self._genuine(hook, raw, headers) for hook in self.hooks[name])), None)
        if delivery is None:
            self._refuse(name)
            return 400
        if not self.seen.take(name, delivery, raw):
            return 200
        self.bell.ring()
        return 202

    def _genuine(self, hook: Hooked, raw: bytes, headers: Mapping[str, str]) -> str | None:
        try:
            return hook.delivery(raw, headers, self.now())
        except NightcrewError as error:  # another board of the same name may have a secret
            log.warning("webhooks.unsure", extra={"error": error.sentence()})
        except Exception:  # an adapter's mistake; it is not the sender's to see
            log.exception("webhooks.broke")
        return None

    def _refuse(self, name: str) -> None:
        """Said once a minute: who knows no secret must not be able to fill the log."""
        self._refused += 1
        if time.monotonic() - self._told > QUIET:
            log.warning("webhooks.refused", extra={"board": name, "deliveries": self._refused})
            self._refused, self._told = 0, time.monotonic()


@asynccontextmanager
async def listening(app: App, director: Director) -> AsyncIterator[None]:
    """Take webhooks while the block lasts. What stands in the way is told, and the block goes on without."""
    hooks, listener = hooked(app), None
    if hooks:
        try:
            listener = bound(*app.config.webhooks.address)
        except OSError as error:
            _off(f"{app.config.webhooks.listen} cannot be listened on ({reason(error)})")
    if listener is None:
        yield
        return
    taker = Webhooks(hooks, Seen(app.store), Bell(lambda: director.wake(scan=True)))
    async with serving(taker.app, listener):
        log.info("webhooks.on", extra={"port": listener.getsockname()[1], "names": sorted(hooks)})
        yield


def hooked(app: App) -> dict[str, list[Hooked]]:
    """The boards and forges that know webhooks and have a secret for them; says whose secret cannot be had."""
    found: dict[str, list[Hooked]] = {}
    ports = ((app.boards, app.config.boards), (app.forges, app.config.forges))
    wanted = [(name, adapters.get(name)) for adapters, tables in ports for name, (_, told) in tables.items()
              if told.get("webhook_secret")]  # fmt: skip
    for name, adapter in wanted:
        if not isinstance(adapter, Hooked):
            _off(f"{name} takes no webhooks")
        elif wrong := _unknown_secret(adapter):
            _off(wrong)
        else:
            found.setdefault(name, []).append(adapter)
    if not wanted:
        _off("no board or forge has a `webhook_secret`")
    return found


def _off(why: str) -> None:
    log.error("webhooks.off", extra={"error": f"[webhooks] {why}; without them the next scan finds what is new."})


def _unknown_secret(adapter: Hooked) -> str:
    """Why its secret cannot be had, asked before the night rather than at the first delivery; "" when it can."""
    try:
        adapter.delivery(b"", {}, 0.0)
    except ConfigError as error:
        return str(error).rstrip(".")
    return ""


def _mark(name: str, what: bytes) -> str:
    return sha256(name.encode() + b"\0" + what).hexdigest()[:24]
