"""The one file of SQL over our own tables: runs, attempts, lanes, claims of patches, orders, and append-only events.

SQLite in the state directory or PostgreSQL by URL, one code path. Calls are short and synchronous; every change of
state is one transaction, fenced by `runs.fence` (I6).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.exc import DBAPIError

from nightcrew.core.followup import Past
from nightcrew.core.lifecycle import ENDED
from nightcrew.core.model import Attempt, Lane, Run, RunState
from nightcrew.errors import Fenced, NightcrewError
from nightcrew.store import reactions, spend
from nightcrew.store.hold import Hold
from nightcrew.tables import attempts, events, lanes, meta, orders, patches, problems, runs

__all__ = ["HEAD", "DBAPIError", "Hold", "Store", "StoreError", "engine_for", "sqlite_pragmas"]
T = TypeVar("T")
HEAD = "0003"
"""The newest migration."""


def engine_for(database_url: str, state_dir: Path) -> sa.Engine:
    """PostgreSQL by URL, else SQLite in `state_dir` (WAL; a lock is waited for up to 30 s)."""
    if database_url:
        url = sa.make_url(database_url)
        if url.drivername in ("postgres", "postgresql"):
            url = url.set(drivername="postgresql+psycopg")
        return sa.create_engine(url, pool_size=5, pool_pre_ping=True)
    engine = sa.create_engine(f"sqlite:///{state_dir / 'nightcrew.sqlite'}", connect_args={"timeout": 30})
    sa.event.listen(engine, "connect", sqlite_pragmas)
    return engine


def sqlite_pragmas(connection: Any, _record: Any) -> None:
    """WAL and NORMAL: a killed process loses nothing, a commit costs no fsync."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}").close()


class Store:
    """Our rows. Every method is one short transaction. `ledger` reads what attempts cost, `reactions` what was done
    about pull requests."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.ledger = spend.Ledger(self.begin)
        self.reactions = reactions.Reactions(self.begin)

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """One transaction; a database fault becomes one sentence."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except exc.DBAPIError as fault:
            raise StoreError(f"The database refused: {fault.orig}.") from fault

    def migrate(self) -> None:
        """Bring the tables to this program's version. Costs one query when they are there already."""
        if self.version() == HEAD:
            return
        from nightcrew.migrations import upgrade  # noqa: PLC0415 - Alembic takes 0.5 s to import

        try:
            upgrade(self.engine)
        except exc.DBAPIError as fault:
            raise StoreError(f"The database cannot be set up: {fault.orig}.") from fault

    def version(self) -> str:
        """The migration the database is at, "" for an empty one."""
        try:
            with self.engine.connect() as connection:
                return str(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() or "")
        except exc.DBAPIError:
            return ""

    @contextmanager
    def alone(self) -> Iterator[Hold | None]:
        """What proves, for the block, that this process is the only one that works on the database; None if it is not.

        On SQLite the state directory's own lock says so. A killed holder's lock ends with its connection.
        """
        hold = Hold(self.engine)
        try:
            yield hold if hold.still() else None
        finally:
            hold.release()

    def close(self) -> None:
        self.engine.dispose()

    # -- runs ------------------------------------------------------------------------------------------------------
    def runs(self, *, ended: bool = True, limit: int = 0) -> list[Run]:
        """All runs, newest change first; `ended=False` leaves out those nothing more will happen to by itself."""
        query = sa.select(runs).order_by(runs.c.updated_at.desc())
        if not ended:
            query = query.where(runs.c.state.not_in([s.value for s in ENDED]))
        return self._load(Run, query.limit(limit) if limit else query)

    def named(self, word: str) -> Run | None:
        """The run whose key, ticket id or run id is `word` (keys ignore case)."""
        query = sa.select(runs).where(
            sa.or_(sa.func.lower(runs.c.key) == word.lower(), runs.c.ticket_id == word, runs.c.id == word)
        )
        return next(iter(self._load(Run, query)), None)

    def watched(self, ids: Collection[str], shown: Mapping[str, str]) -> list[Run]:
        """Runs the director must look at: active ones, those of these `ids`, and ended ones not yet cleaned or shown.

        `shown` says what the board should show for each state; a cancelled run is due while "" or "working" is shown.
        """
        query = sa.select(runs).where(sa.or_(
            runs.c.state.not_in([s.value for s in ENDED]), runs.c.workspace != "", runs.c.id.in_(ids),
            sa.and_(runs.c.pull_request > 0, runs.c.state.not_in(["merged", "closed"])),
            sa.and_(runs.c.state == "cancelled", runs.c.shown.in_(("", "open", "working"))),
            *(sa.and_(runs.c.state == state, runs.c.shown != word) for state, word in shown.items()),
        ))  # fmt: skip
        return self._load(Run, query)

    def counts(self) -> dict[str, int]:
        """How many runs are in each state."""
        with self.begin() as c:
            rows = c.execute(sa.select(runs.c.state, sa.func.count()).group_by(runs.c.state))
            return {str(state): int(n) for state, n in rows}

    def add_run(self, run: Run, **why: object) -> None:
        """Make the run; nothing happens when it exists."""
        with self.begin() as c:
            if c.execute(sa.select(runs.c.id).where(runs.c.id == run.id)).first() is None:
                c.execute(runs.insert().values(**_row(_stamped(run))))
                _event(c, run.id, "run.added", why)

    def save_run(self, run: Run, kind: str = "", *, shown: str | None = None, **data: object) -> bool:
        """Write the run if nobody took it over meanwhile; says whether it did. `kind` names the event, "" for none.

        `shown` says what the board is known to show, in the same transaction; None leaves that as it is.
        """
        with self.begin() as c:
            saved = _save(c, run, kind, data)
            if saved and shown is not None:
                c.execute(runs.update().where(runs.c.id == run.id).values(shown=shown))
            return saved

    def send_back(self, run: Run, past: Past, shown: str) -> bool:
        """Queue a run again because of what happened to its pull request, and remember that, or do neither.

        `shown` is what the board may go on showing meanwhile.
        """
        with self.begin() as c:
            saved = _save(c, run, f"run.{past.cause}", {"reason": past.why, "head": past.head})
            if saved:
                reactions.put(c, past)
                c.execute(runs.update().where(runs.c.id == run.id).values(shown=shown))
            return saved

    def with_pulls(self) -> list[Run]:
        """Runs whose pull request a person may still merge, close or comment on."""
        over = [RunState.MERGED.value, RunState.CLOSED.value]
        return self._load(Run, sa.select(runs).where(runs.c.pull_request > 0, runs.c.state.not_in(over)))

    def set_run(self, run_id: str, **values: object) -> None:
        """Change columns that scheduling does not decide on (what was shown, where the workspace is)."""
        with self.begin() as c:
            c.execute(runs.update().where(runs.c.id == run_id).values(**values))

    def check_fence(self, run_id: str, fence: int) -> Run:
        """The run, if attempt `fence` still owns it; raises Fenced else. Asked before every outward write (I6)."""
        run = next(iter(self._load(Run, sa.select(runs).where(runs.c.id == run_id))), None)
        if run is None or run.fence != fence or run.stopping or run.state is not RunState.WORKING:
            raise Fenced(f"{run_id}: this attempt no longer owns the run; its result is dropped.")
        return run

    # -- attempts --------------------------------------------------------------------------------------------------
    def start_attempt(self, run: Run, attempt: Attempt) -> bool:
        """Take the queued run and make its next attempt, or do neither: False when somebody else took it."""
        with self.begin() as c:
            mine = (runs.c.id == run.id, runs.c.fence == run.fence, runs.c.state == RunState.QUEUED.value)
            taken = c.execute(runs.update().where(*mine).values(
                state=RunState.WORKING.value, attempts=attempt.number, fence=attempt.fence, agent=attempt.agent,
                reason="working", updated_at=_now(),
            ))  # fmt: skip
            if taken.rowcount != 1:
                return False
            c.execute(attempts.insert().values(**_row(attempt)))
            _event(c, run.id, "attempt.started", {"number": attempt.number, "agent": attempt.agent,
                                                  "model": attempt.model, "resume": attempt.resume})  # fmt: skip
            return True

    def attempt(self, run_id: str, number: int) -> Attempt:
        """This attempt."""
        where = (attempts.c.run_id == run_id, attempts.c.number == number)
        return self._load(Attempt, sa.select(attempts).where(*where))[0]

    def attempts_of(self, run_id: str) -> list[Attempt]:
        """All attempts of a run, oldest first."""
        return self._load(Attempt, sa.select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.number))

    def open_attempts(self) -> list[Attempt]:
        """Attempts not folded into their run yet."""
        return self._load(Attempt, sa.select(attempts).where(attempts.c.settled.is_(False)))

    def attempts_since(self, at: datetime) -> list[Attempt]:
        """Attempts started at or after `at`, oldest first."""
        return self._load(
            Attempt,
            sa.select(attempts).where(attempts.c.started_at >= msgspec.to_builtins(at)).order_by(attempts.c.started_at),
        )

    def update_attempt(self, run_id: str, number: int, **values: object) -> None:
        """Change columns of an attempt that has not ended."""
        self.update_attempts([{"run_id": run_id, "number": number, **values}])

    def update_attempts(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Many small changes in one transaction (progress of all sessions)."""
        with self.begin() as c:
            for row in rows:
                values = {k: msgspec.to_builtins(v) for k, v in row.items() if k not in ("run_id", "number")}
                where = (attempts.c.run_id == row["run_id"], attempts.c.number == row["number"])
                c.execute(attempts.update().where(*where, attempts.c.phase != "ended").values(**values))

    def finish_attempt(self, ended: Attempt) -> None:
        """Write the end of an attempt and its row of the ledger, once; a second time changes nothing."""
        ended = replace(ended, phase="ended", ended_at=ended.ended_at or datetime.now(UTC))
        with self.begin() as c:
            where = (attempts.c.run_id == ended.run_id, attempts.c.number == ended.number)
            lane = c.execute(sa.select(attempts.c.lane).where(*where)).scalar()  # `ended` may name the reviewer's
            done = c.execute(attempts.update().where(*where, attempts.c.phase != "ended").values(**_row(ended)))
            if done.rowcount:
                spend.record(c, replace(ended, lane=lane or ended.lane))
                _event(c, ended.run_id, "attempt.ended", {"number": ended.number, "outcome": ended.outcome,
                                                          "evidence": ended.evidence[:2000]})  # fmt: skip

    def settle(
        self, run: Run, ended: Attempt, told: Iterable[Lane], news: Iterable[tuple[str, Mapping[str, object]]] = ()
    ) -> bool:
        """Fold an ended attempt: run, lanes, patch claims and events in one transaction; once."""
        with self.begin() as c:
            where = (
                attempts.c.run_id == ended.run_id,
                attempts.c.number == ended.number,
                attempts.c.settled.is_(False),
            )
            if c.execute(attempts.update().where(*where).values(settled=True)).rowcount != 1:
                return False
            _save(c, run, f"run.{run.state}", {"reason": run.reason, "outcome": ended.outcome})
            if run.state is not RunState.IN_REVIEW and not (run.pull_request or run.pending_head):
                c.execute(patches.delete().where(patches.c.run_id == run.id))
            for lane in told:
                _put(c, lanes, {"name": lane.name}, _row(lane))
            for kind, data in news:
                _event(c, "", kind, data)
            return True

    # -- patches: the same change is published once (I1) -------------------------------------------------------------
    def patch_owner(self, repo: str, patch_id: str, run_id: str) -> str:
        """Who else has this very patch open or merged, "" when nobody has."""
        with self.begin() as c:
            where = (patches.c.repo == repo, patches.c.patch_id == patch_id, patches.c.run_id != run_id)
            return str(c.execute(sa.select(patches.c.said).where(*where)).scalar() or "")

    def claim_patch(self, repo: str, patch_id: str, run_id: str, said: str) -> str:
        """Take the patch for this run; returns the other owner, "" when it is ours now. Exactly one of many wins."""
        try:
            with self.engine.begin() as c:
                c.execute(patches.insert().values(repo=repo, patch_id=patch_id, run_id=run_id, said=said))
                return ""
        except exc.IntegrityError:
            return self.patch_owner(repo, patch_id, run_id)

    def release_patches(self, run_id: str) -> None:
        """Give up what the run had claimed."""
        with self.begin() as c:
            c.execute(patches.delete().where(patches.c.run_id == run_id))

    # -- the rest --------------------------------------------------------------------------------------------------
    def lanes(self) -> dict[str, Lane]:
        """Every lane something is known of."""
        return {lane.name: lane for lane in self._load(Lane, sa.select(lanes))}

    def save_lane(self, lane: Lane) -> None:
        with self.begin() as c:
            _put(c, lanes, {"name": lane.name}, _row(lane))

    def event(self, kind: str, run_id: str = "", **data: object) -> None:
        """Append one event; events are never changed."""
        with self.begin() as c:
            _event(c, run_id, kind, data)

    def events(self, run_id: str = "", limit: int = 100, after: int = 0) -> list[dict[str, Any]]:
        """The newest events, oldest first; of one run when named, and only those later than the id `after`."""
        query = sa.select(events).where(events.c.id > after).order_by(events.c.id.desc()).limit(limit)
        with self.begin() as c:
            rows = c.execute(query.where(events.c.run_id == run_id) if run_id else query).mappings().all()
        return [dict(row) for row in reversed(rows)]

    def set_problems(self, found: Mapping[str, str]) -> None:
        """What cannot be read on the board now; replaces what was."""
        with self.begin() as c:
            if {row.place: row.message for row in c.execute(sa.select(problems))} == dict(found):
                return
            c.execute(problems.delete())
            for place, message in found.items():
                c.execute(problems.insert().values(place=place, message=message))

    def problems(self) -> dict[str, str]:
        with self.begin() as c:
            query = sa.select(problems.c.place, problems.c.message).order_by(problems.c.place)
            return {row.place: row.message for row in c.execute(query)}

    def order(self, kind: str, run_id: str = "") -> None:
        """Leave an order for the director: stop, retry, pause, resume."""
        with self.begin() as c:
            c.execute(orders.insert().values(kind=kind, run_id=run_id))

    def orders(self) -> list[tuple[int, str, str]]:
        """The orders (number, kind, run id) that are not carried out yet, oldest first."""
        with self.begin() as c:
            return [(row.id, row.kind, row.run_id) for row in c.execute(sa.select(orders).order_by(orders.c.id))]

    def obeyed(self, number: int) -> None:
        """The order is carried out."""
        with self.begin() as c:
            c.execute(orders.delete().where(orders.c.id == number))

    def get(self, key: str, default: Any = None) -> Any:
        with self.begin() as c:
            row = c.execute(sa.select(meta.c.value).where(meta.c.key == key)).first()
            return default if row is None else row[0]

    def once(self, key: str, value: object) -> Any:
        """What is kept there; `value` from now on, if nothing was. Of many who ask at once, all get the first's."""
        with suppress(exc.IntegrityError), self.engine.begin() as c:
            c.execute(meta.insert().values(key=key, value=msgspec.to_builtins(value)))
        return self.get(key)

    def put(self, key: str, value: object) -> None:
        with self.begin() as c:
            _put(c, meta, {"key": key}, {"key": key, "value": msgspec.to_builtins(value)})

    def _load(self, kind: type[T], query: sa.Select[Any]) -> list[T]:
        with self.begin() as c:
            return [_typed(kind, dict(row)) for row in c.execute(query).mappings()]


class StoreError(NightcrewError):
    """The database cannot be written or read; nothing is lost, the director tries again."""

    hint = "Check the disk space and the permissions of the state directory (or the database server), then start again."


def _now() -> str:
    return str(msgspec.to_builtins(datetime.now(UTC)))


def _stamped(run: Run) -> Run:
    now = datetime.now(UTC)
    return replace(run, created_at=run.created_at or now, updated_at=now)


def _row(value: Any) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(value)
    return row


def _typed(kind: type[T], row: dict[str, Any]) -> T:
    return msgspec.convert({str(k): v for k, v in row.items() if v is not None}, kind)  # keys are str subclasses


def _save(c: sa.Connection, run: Run, kind: str, data: Mapping[str, object]) -> bool:
    # What was shown and where the workspace is belong to their own writers (set_run), not to a decision made earlier.
    row = {k: v for k, v in _row(_stamped(run)).items() if k not in ("shown", "workspace", "created_at")}
    saved = c.execute(runs.update().where(runs.c.id == run.id, runs.c.fence == run.fence).values(**row))
    if saved.rowcount and kind:
        _event(c, run.id, kind, data)
    return bool(saved.rowcount)


def _event(c: sa.Connection, run_id: str, kind: str, data: Mapping[str, object]) -> None:
    c.execute(events.insert().values(at=_now(), run_id=run_id, kind=kind, data=msgspec.to_builtins(dict(data))))


def _put(c: sa.Connection, table: sa.Table, key: Mapping[str, str], row: Mapping[str, Any]) -> None:
    where = [table.c[k] == v for k, v in key.items()]
    if not c.execute(table.update().where(*where).values(**row)).rowcount:
        c.execute(table.insert().values(**row))
