"""Starlette applications served within nightcrew's own loop; signals and terminal stay nightcrew's."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp

__all__ = ["TooLarge", "body", "bound", "serving"]

log = logging.getLogger("nightcrew.web")
CONNECTIONS = 100
"""So many at once are served, the next are answered 503."""


class TooLarge(Exception):
    """A request's body is larger than is read."""


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end nightcrew, which then ends this server."""
        yield


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError."""
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128)


@asynccontextmanager
async def serving(app: ASGIApp, *sockets: socket.socket) -> AsyncIterator[None]:
    """Serve on these listening sockets while the block lasts, then close them."""
    config = uvicorn.Config(
        app, http="h11", ws="none", lifespan="off", log_config=None, log_level="critical", access_log=False,
        server_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=1,
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
    """The body, read with a bound in bytes. Raises TooLarge, at once where its length is told."""
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > most:
        raise TooLarge
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > most:
            raise TooLarge
    return bytes(read)
