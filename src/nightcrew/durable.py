"""The one file that knows DBOS: workflows that are started once, steps that are done once, recovery after kill -9.

A workflow here is one attempt: short, so that an upgrade of the program strands nothing (docs/design.md, 3).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, SetWorkflowID

from nightcrew.store import sqlite_pragmas

T = TypeVar("T")
Body = Callable[[str, int], Coroutine[Any, Any, None]]
Enter = Callable[[str, str], None]

VERSION = "attempt-1"
"""Which shape of the attempt workflow this program runs: changed when the order of its steps changes, never else.

DBOS recovers only workflows of the same version; the director starts what an older version left again by its own rows.
"""


class Durable:
    """Runs attempts as durable workflows on this process's event loop.

    `executor_id` must be unique and stable per node: a state directory's lock guards it. `entering` is called before
    and after every step with its name and "before" / "after" (the crash tests end the process there).
    """

    def __init__(self, database_url: str, state_dir: Path, executor_id: str, entering: Enter | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._entering = entering or (lambda _step, _when: None)
        logging.getLogger("dbos").setLevel(logging.ERROR)
        DBOS(config=_config(database_url, state_dir, executor_id))
        self._body: Callable[[str, int], Coroutine[Any, Any, None]] | None = None

    async def launch(self, body: Body) -> None:
        """Register the attempt workflow, then recover what a killed process left. `body(run_id, number)`."""

        async def attempt(run_id: str, number: int) -> None:
            await body(run_id, number)

        self._body = DBOS.workflow(name="attempt", max_recovery_attempts=1_000_000)(attempt)
        await asyncio.to_thread(DBOS.launch)

    async def start(self, workflow_id: str, run_id: str, number: int) -> None:
        """Start the attempt; starting it twice is starting it once."""
        if self._body is None:
            raise RuntimeError("launch() comes first")
        with SetWorkflowID(workflow_id):
            await DBOS.start_workflow_async(self._body, run_id, number)

    async def known(self, workflow_id: str) -> str:
        """The workflow's state in DBOS's words, "" when it was never started."""
        status = await DBOS.get_workflow_status_async(workflow_id)
        return status.status if status else ""

    async def step(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` once: after a restart its recorded result (JSON-like values) is used, it is not done again.

        Work interrupted by a kill is done again from its start, so it must be an `ensure`.
        """

        async def here() -> T:
            self._entering(name, "before")
            result = await self._on_our_loop(work)
            self._entering(name, "after")
            return result

        return await DBOS.run_step_async({"name": name}, here)

    async def _on_our_loop(self, work: Callable[[], Awaitable[T]]) -> T:
        """DBOS runs recovered workflows on a loop of its own; our locks and processes live on ours."""
        if asyncio.get_running_loop() is self._loop:
            return await work()

        async def run() -> T:
            return await work()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop))

    async def close(self) -> None:
        """Stop DBOS's threads; running workflows stay pending and are recovered at the next start."""
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)


def _config(database_url: str, state_dir: Path, executor_id: str) -> DBOSConfig:
    config: DBOSConfig = {
        "name": "nightcrew",
        "executor_id": executor_id,
        "application_version": VERSION,
        "log_level": "ERROR",
        "console_log_level": "ERROR",
        "run_migrations": True,
        "scheduler_polling_interval_sec": 3600.0,
    }
    if database_url:
        return {**config, "system_database_url": database_url.replace("postgres://", "postgresql://", 1)}
    path = f"sqlite:///{state_dir / 'dbos.sqlite'}"
    engine = sa.create_engine(path, connect_args={"timeout": 30})
    sa.event.listen(engine, "connect", _immediate)
    return {**config, "system_database_url": path, "system_database_engine": engine}


def _immediate(connection: Any, record: Any) -> None:
    # As DBOS's own engine does: writers queue instead of failing with "database is locked".
    sqlite_pragmas(connection, record)
    connection.isolation_level = "IMMEDIATE"
