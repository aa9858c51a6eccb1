"""The one file that knows DBOS: workflows that are started once, steps that are done once, recovery after kill -9.

A workflow here is one attempt: short, so that an upgrade of the program strands nothing (docs/design.md, 3).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, SetWorkflowID, error

from nightcrew.errors import NightcrewError
from nightcrew.store import sqlite_pragmas

T = TypeVar("T")
Body = Callable[[str, int], Coroutine[Any, Any, None]]
Enter = Callable[[str, str], None]

VERSION = "attempt-2"
"""Which shape of the attempt workflow this program runs: changed when the order of its steps changes, never else.

DBOS recovers only workflows of the same version; what another version left, the director gives back as interrupted.
"""
GOING_ON = "going on"
_OVER = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
_UNENDED = frozenset({"PENDING", "ENQUEUED", "DELAYED"})  # recovery puts a pending workflow into a queue first


class EngineError(NightcrewError):
    """The engine's database cannot be used; nothing is lost, it is tried again."""

    hint = "Check the disk space and the permissions of the state directory (or the database server)."


class Durable:
    """Runs attempts as durable workflows on this process's event loop.

    `executor_id` must be unique and stable per node: a state directory's lock guards it. `entering` is called before
    and after every step with its name and "before" / "after" (the crash tests end the process there).
    """

    def __init__(self, database_url: str, state_dir: Path, executor_id: str, entering: Enter | None = None) -> None:
        self._entering = entering or (lambda _step, _when: None)
        self.history = History(database_url, state_dir)
        logging.getLogger("dbos").setLevel(logging.ERROR)
        DBOS(config=_config(database_url, state_dir, executor_id))
        self._body: Body | None = None

    def launch(self, body: Body) -> None:
        """Register the attempt workflow, then recover what a killed process left. `body(run_id, number)`.

        Called on the event loop on purpose, though it blocks: this loop is then the one recovered workflows run on,
        and not another thread's, where our locks and processes do not live.
        """

        async def attempt(run_id: str, number: int) -> None:
            await body(run_id, number)

        self._body = DBOS.workflow(name="attempt", max_recovery_attempts=1_000_000)(attempt)
        with _said():
            DBOS.launch()

    async def start(self, workflow_id: str, run_id: str, number: int) -> None:
        """Start the attempt; starting it twice is starting it once."""
        if self._body is None:
            raise RuntimeError("launch() comes first")
        with _said(), SetWorkflowID(workflow_id):
            await DBOS.start_workflow_async(self._body, run_id, number)

    async def known(self, workflow_id: str) -> str:
        """ "" when it was never started, GOING_ON when it runs or will be recovered, else what became of it."""
        with _said():
            status = await DBOS.get_workflow_status_async(workflow_id)
        if status is None:
            return ""
        if status.status not in _UNENDED:
            return f"{status.status} {status.error or ''}".strip()
        return GOING_ON if status.app_version == VERSION else f"left behind by version {status.app_version}"

    async def drop(self, workflow_id: str) -> None:
        """Nobody runs this workflow again, whatever version is started next."""
        with _said():
            await DBOS.cancel_workflow_async(workflow_id)

    async def step(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` once: after a restart its recorded result (JSON-like values) is used, it is not done again.

        Work interrupted by a kill is done again from its start, so it must be an `ensure`.
        """

        async def here() -> T:
            self._entering(name, "before")
            result = await work()
            self._entering(name, "after")
            return result

        with _said():
            return await DBOS.run_step_async({"name": name}, here)

    async def close(self) -> None:
        """Stop DBOS's threads; running workflows stay pending and are recovered at the next start."""
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)


@contextmanager
def _said() -> Iterator[None]:
    """A fault of the engine becomes one sentence."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, error.DBOSException) as fault:
        said = str(getattr(fault, "orig", None) or fault).strip().partition("\n")[0]
        raise EngineError(f"The engine's database refused: {said}.") from fault


def _config(database_url: str, state_dir: Path, executor_id: str) -> DBOSConfig:
    config: DBOSConfig = {
        "name": "nightcrew",
        "executor_id": executor_id,
        "application_version": VERSION,
        "log_level": "ERROR",
        "console_log_level": "ERROR",
        "run_migrations": True,
        "scheduler_polling_interval_sec": 3600.0,
        "notification_listener_polling_interval_sec": 0.1,  # nobody listens; the end of the program waits for it
    }
    if database_url:
        return {**config, "system_database_url": database_url.replace("postgres://", "postgresql://", 1)}
    file = state_dir / "dbos.sqlite"
    return {**config, "system_database_url": f"sqlite:///{file}", "system_database_engine": _sqlite(file)}


def _sqlite(file: Path) -> sa.Engine:
    engine = sa.create_engine(f"sqlite:///{file}", connect_args={"timeout": 30})
    sa.event.listen(engine, "connect", _immediate)
    return engine


def _immediate(connection: Any, record: Any) -> None:
    # As DBOS's own engine does: writers queue instead of failing with "database is locked".
    sqlite_pragmas(connection, record)
    connection.isolation_level = "IMMEDIATE"


class History:
    """The engine's records of attempts, seen from outside: whether or not a nightcrew is up on them."""

    def __init__(self, database_url: str, state_dir: Path) -> None:
        self._url = database_url.replace("postgres://", "postgresql://", 1)
        self._file = state_dir / "dbos.sqlite"

    async def ended_before(self, at: datetime) -> list[str]:
        """The ids of workflows that were started before then and have ended."""
        found = await asyncio.to_thread(self._ask, lambda client: client.list_workflows(
            end_time=at.isoformat(), status=_OVER, load_input=False, load_output=False
        ))  # fmt: skip
        return [status.workflow_id for status in found or ()]

    async def forget(self, workflow_ids: Sequence[str]) -> None:
        """Delete what is known of these. Those that have not ended must not be among them."""
        await asyncio.to_thread(self._ask, lambda client: client.delete_workflows(list(workflow_ids)))

    def _ask(self, question: Callable[[DBOSClient], T]) -> T | None:
        """The answer; None where there is no such database."""
        if not self._url and not self._file.exists():
            return None
        engine = None if self._url else _sqlite(self._file)
        with _said():
            client = DBOSClient(system_database_url=self._url or None, system_database_engine=engine)
            try:
                return question(client)
            finally:
                client.destroy()
                if engine:
                    engine.dispose()
