"""Run a short command to its end: git, a hook, a gate."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nightcrew.proc.child import Process, launch
from nightcrew.proc.ending import end
from nightcrew.proc.environment import base_env

_GRACE = 2.0  # seconds after SIGTERM: git removes its lock files then
_READ = 1 << 16
_LAST_READS = 64  # a pipe holds 1 MiB at most; what an orphan goes on writing is not ours to wait for


@dataclass(frozen=True)
class Completed:
    """How a command ended. `code` is negative for a signal; `cut` counts bytes of output left out in the middle."""

    code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool
    seconds: float
    cut: int = 0


async def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
    input: bytes = b"",  # noqa: A002 - the word subprocess has for it
    limit: int = 1 << 20,
    mark: str = "",
) -> Completed:
    """Run a command and say how it ended. `env` is all it gets (default: `base_env()`); it reads `input`, then the end.

    Of each stream at most `limit` bytes are kept, head and tail, with a line between them that says so. After `timeout`
    seconds, or when cancelled, its whole group is ended (SIGTERM, then SIGKILL). With a `mark` everything it started is
    ended, always, also when it ended by itself. An orphan that holds its output is not waited for.
    Raises ProgramNotFound or NightcrewError when it cannot be started.
    """
    began, where = time.monotonic(), cwd or Path.cwd()
    with _drain(limit) as (out, out_end), _drain(limit) as (err, err_end), _source(input) as source:
        process = launch(
            argv, cwd=where, env=base_env() if env is None else env, mark=mark,
            stdin=source, stdout=out_end, stderr=err_end,
        )  # fmt: skip
        out.close_writer()
        err.close_writer()
        timed_out = await _finish(process, timeout, everything=bool(mark))
        out.finish()
        err.finish()
        code = process.returncode
        seconds = time.monotonic() - began
        return Completed(-9 if code is None else code, out.kept(), err.kept(), timed_out, seconds, out.cut + err.cut)


async def _finish(process: Process, timeout: float, *, everything: bool) -> bool:
    """Wait for it, and end what must not outlive it. True when it ran out of time."""
    timed_out = False
    try:
        timed_out = await process.wait(timeout) is None
    finally:
        if everything or process.returncode is None:
            await end(process, _GRACE)
        process.release()
    return timed_out


class _Drain:
    """Reads a pipe as it fills and keeps the head and the tail of what came."""

    def __init__(self, limit: int) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._head_room = max(limit // 2, 1)
        self._tail_room = max(limit - self._head_room, 1)
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.cut = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reader, self._read)

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def finish(self) -> None:
        """Take what is in the pipe now, and no more."""
        for _ in range(_LAST_READS):
            if self._reader < 0 or not self._read():
                break
        self.close()

    def close(self) -> None:
        self.close_writer()
        if self._reader >= 0:
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1

    def _read(self) -> bool:
        try:
            data = os.read(self._reader, _READ)
        except BlockingIOError:
            return False
        if data:
            self._keep(data)
        else:
            self.close()
        return bool(data)

    def _keep(self, data: bytes) -> None:
        room = self._head_room - len(self._head)
        self._head += data[:room]
        if len(data) > room:
            self._tail.append(data[room:])
            self._tail_size += len(data) - room
        while self._tail and self._tail_size - len(self._tail[0]) >= self._tail_room:
            self._tail_size -= len(self._tail[0])
            self.cut += len(self._tail.popleft())

    def kept(self) -> bytes:
        tail = b"".join(self._tail)
        self.cut += max(len(tail) - self._tail_room, 0)
        gap = f"\n[nightcrew left out {self.cut} bytes here]\n".encode() if self.cut else b""
        return bytes(self._head) + gap + tail[-self._tail_room :]


@contextmanager
def _drain(limit: int) -> Iterator[tuple[_Drain, int]]:
    drain = _Drain(limit)
    try:
        yield drain, drain.writer
    finally:
        drain.close()


@contextmanager
def _source(given: bytes) -> Iterator[int | IO[bytes]]:
    """stdin as a file: it never blocks the writer, and nobody needs to feed it."""
    if not given:
        yield subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(given)
        file.seek(0)
        yield file
