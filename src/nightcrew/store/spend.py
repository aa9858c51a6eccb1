"""The ledger: a row of the table `spend` for each attempt that ended, written once and never changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from nightcrew.core.budget import Amount, Entry
from nightcrew.core.model import Attempt, RunState, Usage
from nightcrew.tables import attempts, runs, spend

_TOKENS = spend.c.input + spend.c.output + spend.c.cache_read + spend.c.cache_write
_MONEY = sa.case((spend.c.cost > spend.c.money, spend.c.cost), else_=spend.c.money)
_COUNTS = ("input", "output", "cache_read", "cache_write", "turns")
RUNNING = "running"
"""The outcome of an entry that is none yet."""


def record(c: sa.Connection, ended: Attempt) -> None:
    """Write the row of an attempt that has just ended; `c` is the transaction in which it ends."""
    ticket, repo = c.execute(sa.select(runs.c.key, runs.c.repo).where(runs.c.id == ended.run_id)).first() or ("", "")
    usage, at = ended.usage, ended.ended_at or datetime.now(UTC)
    c.execute(spend.insert().values(
        run_id=ended.run_id, number=ended.number, at=_text(at), ticket=ticket, repo=repo,
        lane=ended.lane or ended.agent, agent=ended.agent, model=ended.model, reported_model=ended.reported_model,
        outcome=ended.outcome, prices=ended.prices, money=usage.money, cost=ended.cost if ended.prices else usage.money,
        seconds=_seconds(ended.started_at, at), **{name: getattr(usage, name) for name in _COUNTS},
    ))  # fmt: skip


def _seconds(started: datetime | None, ended: datetime) -> float:
    return max((ended - started).total_seconds(), 0.0) if started else 0.0


class Ledger:
    """What the rows say. Every method is one short transaction; raises StoreError."""

    def __init__(self, begin: Callable[[], AbstractContextManager[sa.Connection]]) -> None:
        self.begin = begin

    def since(self, at: datetime) -> list[Entry]:
        """The rows of all attempts that ended then or later, oldest first."""
        return self._entries(sa.select(spend).where(spend.c.at >= _text(at)).order_by(spend.c.at))

    def newest(self, limit: int, *, agent: str = "", lane: str = "", outcome: str = "") -> list[Entry]:
        """The last rows that used something, newest first: of an agent, a lane, an outcome where these are named."""
        query = sa.select(spend).where(_TOKENS > 0).order_by(spend.c.at.desc()).limit(limit)
        for name, wanted in (("agent", agent), ("lane", lane), ("outcome", outcome)):
            query = query.where(spend.c[name] == wanted) if wanted else query
        return self._entries(query)

    def before(self, at: datetime) -> list[tuple[str, str, Amount]]:
        """What was spent before that, by run id and lane."""
        query = (
            sa.select(spend.c.run_id, spend.c.lane, sa.func.sum(_TOKENS), sa.func.sum(_MONEY))
            .where(spend.c.at < _text(at))
            .group_by(spend.c.run_id, spend.c.lane)
        )
        with self.begin() as c:
            return [(run_id, lane, (int(tokens), float(money))) for run_id, lane, tokens, money in c.execute(query)]

    def unwritten(self, now: datetime) -> list[Entry]:
        """What attempts that have not ended have used, as far as it was written down; one entry each."""
        columns = (attempts.c.run_id, attempts.c.number, attempts.c.started_at, runs.c.key, runs.c.repo,
                   attempts.c.lane, attempts.c.agent, attempts.c.model, attempts.c.reported_model,
                   attempts.c.usage)  # fmt: skip
        query = sa.select(*columns).join(runs, runs.c.id == attempts.c.run_id).where(attempts.c.phase != "ended")
        with self.begin() as c:
            return [_running(dict(row), now) for row in c.execute(query).mappings()]

    def merged(self, at: datetime) -> dict[str, int]:
        """How many pull requests were merged then or later, by repository."""
        where = (runs.c.state == RunState.MERGED.value, runs.c.updated_at >= _text(at))
        query = sa.select(runs.c.repo, sa.func.count()).where(*where).group_by(runs.c.repo)
        with self.begin() as c:
            return {str(repo): int(n) for repo, n in c.execute(query)}

    def _entries(self, query: sa.Select[Any]) -> list[Entry]:
        with self.begin() as c:
            return [_entry(row) for row in c.execute(query)]


def _running(row: dict[str, Any], now: datetime) -> Entry:
    started = datetime.fromisoformat(row["started_at"]) if row["started_at"] else now
    usage = msgspec.convert(row["usage"], Usage) if row["usage"] else Usage()
    return Entry(
        row["run_id"], row["number"], now, row["key"], row["repo"], row["lane"] or row["agent"], row["agent"],
        row["model"] or "", row["reported_model"] or "", RUNNING, usage, usage.money, "", _seconds(started, now),
    )  # fmt: skip


def _entry(row: Any) -> Entry:
    usage = Usage(row.input, row.output, row.cache_read, row.cache_write, row.money, row.turns)
    return Entry(
        row.run_id, row.number, datetime.fromisoformat(row.at), row.ticket, row.repo, row.lane, row.agent,
        row.model, row.reported_model, row.outcome, usage, row.cost, row.prices, row.seconds,
    )  # fmt: skip


def _text(at: datetime) -> str:
    """Of one width, so that what is later is also the greater text."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
