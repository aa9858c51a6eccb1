"""Follow a growing file line by line: cheap, whatever a program writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

from nightcrew.proc.child import Process

_CHUNK = 256 << 10


class Cut(bytes):
    """The beginning of a line that was longer than the limit; its rest was skipped."""


class Batch(list[bytes]):
    """Some lines, without their ends; a `Cut` where one was too long. `end` is the offset in the file behind them."""

    end: int = 0


async def lines(
    path: Path,
    over: Process | Callable[[], bool],
    *,
    start: int = 0,
    limit: int = 16 << 20,
    poll: float = 0.2,
) -> AsyncIterator[Batch]:
    """The lines of a growing file in batches, as they come, to its end once `over` (the process ended, or it says so).

    Looks every `poll` seconds, and at once when the process ends. A line over `limit` bytes comes as a `Cut`, its rest
    is never held; a torn last line comes as it is. `start` is an offset: the `end` of the last batch one has worked
    off. A file that is not there yet is waited for. What orphans write after the end is not followed.
    """
    splitter, fd = _Splitter(start, limit), -1
    try:
        while True:
            ended = over.returncode is not None if isinstance(over, Process) else over()  # asked before reading
            fd = _open(path, start) if fd < 0 else fd
            size = os.fstat(fd).st_size if fd >= 0 else 0  # a program that never stops writing must not hold us here
            while splitter.offset < size and (chunk := os.read(fd, min(_CHUNK, size - splitter.offset))):
                if batch := splitter.take(chunk):
                    yield batch
                await asyncio.sleep(0)
            if ended:
                break
            await _pause(over, poll)
        if rest := splitter.rest():
            yield rest
    finally:
        if fd >= 0:
            os.close(fd)


class _Splitter:
    """Bytes in, whole lines out; holds one unfinished line of at most `limit` bytes."""

    def __init__(self, offset: int, limit: int) -> None:
        self.offset, self._limit = offset, limit
        self._held = bytearray()
        self._skipping = False

    def take(self, chunk: bytes) -> Batch:
        *whole, last = chunk.split(b"\n")
        batch = Batch()
        for part in whole:
            self._add(part, batch)
            if not self._skipping:
                batch.append(bytes(self._held))
            self.offset += len(part) + 1
            self._held.clear()
            self._skipping = False
        batch.end = self.offset
        self._add(last, batch)
        self.offset += len(last)
        if self._skipping:
            batch.end = self.offset
        return batch

    def _add(self, part: bytes, batch: Batch) -> None:
        if self._skipping:
            return
        self._held += part[: self._limit + 1 - len(self._held)]
        if len(self._held) > self._limit:
            batch.append(Cut(self._held[: self._limit]))
            self._held.clear()
            self._skipping = True

    def rest(self) -> Batch:
        """The torn last line, if there is one."""
        batch = Batch([bytes(self._held)] if self._held else [])
        batch.end = self.offset
        return batch


def _open(path: Path, start: int) -> int:
    with suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.lseek(fd, start, os.SEEK_SET)
        return fd
    return -1


async def _pause(over: Process | Callable[[], bool], poll: float) -> None:
    if isinstance(over, Process):
        await over.wait(poll)
    else:
        await asyncio.sleep(poll)
