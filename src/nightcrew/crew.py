"""What an attempt and the director share: the adapters, the rows, the engine, and the sessions that are live."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from nightcrew.core.model import Attempt, Policy, Repo, Run, Seat
from nightcrew.durable import Durable
from nightcrew.errors import MAKE_ROOM, NightcrewError
from nightcrew.git import Hub
from nightcrew.meter import Meter
from nightcrew.ports import Agent, Board, Forge
from nightcrew.stages import brief, session
from nightcrew.store import Store

LEAST = 1 << 20  # bytes; with less, nothing works any more
INFRA = (NightcrewError, OSError)
"""Faults of git, disk, database, forge, board or hook: they cost no attempt (I3)."""


@dataclass
class Crew:
    """Everything an attempt and the director work with; put together by `app`."""

    id: str
    home: Path  # the state directory
    workspaces: Path
    kind: str  # how workspaces are made
    policy: Policy
    store: Store
    durable: Durable
    boards: Mapping[str, Board]
    forges: Mapping[str, Forge]
    agents: Mapping[str, Agent]
    seats: Mapping[str, Seat]  # the lane of each agent
    meter: Meter
    order: tuple[str, ...]
    repos: Mapping[str, Repo]
    hubs: Mapping[str, Hub]
    workflows: brief.Workflows
    now: Callable[[], datetime]
    wake: Callable[[], None] = lambda: None
    agent_env: Callable[[Run, Attempt], Mapping[str, str]] = lambda run, attempt: {}  # what a session gets besides
    live: dict[str, session.Live] = field(default_factory=dict)
    # Test suites beyond the number of cores only make one another slow; a cleanup can always wait.
    checking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(max(os.cpu_count() or 2, 2)))
    cleaning: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    unrecorded: set[str] = field(default_factory=set)  # runs whose attempt ended, and the disk is too full to say so
    numbers: dict[str, int] = field(default_factory=dict)  # the attempt each live session belongs to

    @property
    def mark(self) -> str:
        """What every process of this crew is marked with."""
        return f"{self.id}:"

    def full(self) -> str:
        """Which disk we need has no room left, in a sentence; "" when none."""
        for folder in (self.home, self.workspaces):
            if shutil.disk_usage(folder).free < LEAST:
                return f"The disk of {folder} is full. {MAKE_ROOM}"
        return ""

    def progress(self, seen: dict[str, int]) -> Iterator[dict[str, object]]:
        """What has been heard of live sessions since `seen` (lines by run) and how they are, as columns of attempts."""
        now, clock = self.now(), time.monotonic()
        for run_id, live in list(self.live.items()):
            heard, row = live.progress, dict[str, object]()
            if heard.lines and seen.get(run_id) != heard.lines:
                seen[run_id] = heard.lines
                row = {"usage": heard.usage, "last": heard.last[:200], "reported_model": heard.model,
                       "heard_at": now - timedelta(seconds=clock - live.heard),
                       **({"session_id": heard.session_id} if heard.session_id else {})}  # fmt: skip
            if row | (how := live.tells(clock)):
                yield {"run_id": run_id, "number": self.numbers[run_id], **row, **how}


def workflow_id(run_id: str, number: int) -> str:
    """`<board>:<ticket>:<attempt>`: starting it twice is starting it once."""
    return f"{run_id}:{number}"


def new_session_id(run_id: str, number: int, attempt_try: int) -> str:
    """A UUID that follows from the attempt, so that a restart knows it without having stored it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"nightcrew:{run_id}:{number}:{attempt_try}"))


def sentence(error: Exception) -> str:
    """One sentence for people, whatever the error."""
    if isinstance(error, NightcrewError):
        return error.sentence()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror}: {error.filename or 'the disk is full'}. {MAKE_ROOM}"
    return f"{type(error).__name__}: {error}"
