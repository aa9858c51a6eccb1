"""One nightcrew for each state directory: the directory itself is locked, so removing a file in it lets nobody in."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nightcrew.errors import AlreadyRunning

FILE = "lock"
"""Beside the lock, for people: the process id of the holder."""


@contextmanager
def hold(state: Path) -> Iterator[None]:
    """Hold the state directory. Raises AlreadyRunning with the other's process id."""
    folder = os.open(state, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not _locked(folder):
            raise AlreadyRunning(
                f"nightcrew is already up on {state} (process {_pid(state) or 'unknown'}).",
                hint="Use `nightcrew status` to look at it, or `kill` that process first.",
            )
        sign(state)
        yield
    finally:
        os.close(folder)


def holder(state: Path) -> int:
    """The process id of the nightcrew that holds it: 0 when none does, 1 when it is not known which."""
    with suppress(OSError):
        folder = os.open(state, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _pid(state) or 1
        finally:
            os.close(folder)
    return 0


def sign(state: Path) -> None:
    """Write our process id there, unless it stands there; a full disk is no reason to stop."""
    if _pid(state) != os.getpid():
        with suppress(OSError):
            (state / FILE).write_text(str(os.getpid()), encoding="utf-8")


def _pid(state: Path) -> int:
    with suppress(OSError, ValueError):
        return int((state / FILE).read_text(encoding="utf-8") or 0)
    return 0


def _locked(folder: int) -> bool:
    """Lock it; a second is spent on trying, for `holder` of other commands holds it for an instant."""
    for _ in range(20):
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
            continue
        return True
    return False
