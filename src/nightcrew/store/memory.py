"""What attempts tell about this machine's memory: who is at work, what sessions took, and which were killed for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import msgspec
import sqlalchemy as sa

from nightcrew.core.dispatch import IN_SESSION
from nightcrew.core.outcome import Outcome
from nightcrew.store import Store
from nightcrew.tables import attempts

_WHOLE = (
    Outcome.DONE, Outcome.GATE_FAILED, Outcome.NO_CHANGE, Outcome.BLOCKED, Outcome.TURN_LIMIT, Outcome.CONTEXT_FULL,
    Outcome.TOKEN_CAP, Outcome.MONEY_CAP, Outcome.TIMED_OUT, Outcome.STALLED, Outcome.CRASHED,
)  # fmt: skip
"""Ends of sessions that did some work: one that was refused at its first call says nothing about the next."""


@dataclass(frozen=True)
class Killed:
    """A session that was ended for its memory: what it had taken (bytes), and how many ran then, itself included."""

    agent: str
    at: datetime
    peak: int
    ran: int


def at_work(store: Store) -> list[tuple[str, str]]:
    """(run id, agent) of every attempt that holds a slot."""
    query = sa.select(attempts.c.run_id, attempts.c.agent)
    where = (attempts.c.settled.is_(False), attempts.c.phase.in_(sorted(IN_SESSION)))
    with store.begin() as c:
        return [(str(row.run_id), str(row.agent)) for row in c.execute(query.where(*where))]


def measured(store: Store, agents: Iterable[str], limit: int = 50) -> dict[str, list[int]]:
    """The peaks of memory (bytes) of each agent's last sessions, as far as they were measured, newest first."""
    query = sa.select(attempts.c.peak_memory).order_by(attempts.c.started_at.desc()).limit(limit)
    query = query.where(attempts.c.peak_memory > 0, attempts.c.outcome.in_([o.value for o in _WHOLE]))
    with store.begin() as c:
        return {a: [int(peak) for peak in c.execute(query.where(attempts.c.agent == a)).scalars()] for a in agents}


def killed_since(store: Store, at: datetime) -> list[Killed]:
    """Sessions that were ended for their memory since then."""
    query = sa.select(attempts.c.agent, attempts.c.ended_at, attempts.c.peak_memory)
    with store.begin() as c:
        rows = c.execute(query.where(attempts.c.oom.is_(True), attempts.c.ended_at >= msgspec.to_builtins(at))).all()
        return [Killed(row.agent, datetime.fromisoformat(row.ended_at), int(row.peak_memory or 0),
                       _ran(c, row.ended_at)) for row in rows]  # fmt: skip


def _ran(c: sa.Connection, moment: str) -> int:
    there = (attempts.c.started_at <= moment, sa.or_(attempts.c.ended_at.is_(None), attempts.c.ended_at >= moment))
    return int(c.execute(sa.select(sa.func.count()).select_from(attempts).where(*there)).scalar() or 1)
