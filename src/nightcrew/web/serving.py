"""Starlette applications served within nightcrew's own loop; signals and terminal stay nightcrew's."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["TooLarge", "body", "bound", "reason", "serving"]

log = logging.getLogger("nightcrew.web")
CONNECTIONS = 100
"""So many at once are kept open, the next are closed at once."""
WAITING = 64
"""So many are taken at a time, before those that are too many are closed."""
SILENCE = 10.0
"""Seconds in which a connection must have asked something."""
PATIENCE = 10.0
"""Seconds in which a body must have arrived."""


class TooLarge(Exception):
    """A request's body is larger than is read."""


class _Connection(H11Protocol):
    """Closed when it is one too many, or asks nothing: who is silent must not use up the files we may have open."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(SILENCE, self._look, None)

    def _look(self, last: object) -> None:
        """Close it when there was no other request since it was looked at `last`, and none is being answered."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and last is self.cycle:
            self.transport.close()
        elif not self.transport.is_closing():
            self.loop.call_later(SILENCE, self._look, self.cycle if idle else last)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end nightcrew, which then ends this server."""
        yield


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError."""
    return socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=WAITING
    )


def reason(error: OSError) -> str:
    """Why it cannot be listened, in the system's words."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


@asynccontextmanager
async def serving(app: ASGIApp, *sockets: socket.socket) -> AsyncIterator[None]:
    """Serve on these listening sockets while the block lasts, then close them."""
    config = uvicorn.Config(
        app, http=_Connection, ws="none", lifespan="off", log_config=None, log_level="critical", access_log=False,
        server_header=False, proxy_headers=False, backlog=WAITING, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=list(sockets)))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([task])
        for one in sockets:
            one.close()
        if fault := task.exception():
            log.error("server.broke", exc_info=fault)


async def body(request: Request, most: int) -> bytes:
    """The body, read with a bound in bytes. Raises TooLarge, at once where its length is told, TimeoutError, and
    ClientDisconnect."""
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > most:
        raise TooLarge
    read = bytearray()
    async with asyncio.timeout(PATIENCE):
        async for chunk in request.stream():
            read += chunk
            if len(read) > most:
                raise TooLarge
    return bytes(read)
