"""Our tables, as SQLAlchemy Core sees them. The columns of runs, attempts and lanes are the fields of core.model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from nightcrew.core.followup import Past
from nightcrew.core.model import Attempt, Lane, Run

metadata = sa.MetaData()

_KINDS: dict[str, Any] = {
    "int": sa.BigInteger, "float": sa.Float, "float | None": sa.Float, "bool": sa.Boolean,
    **dict.fromkeys(("str", "RunState", "LaneState", "Cause", "Did", "datetime", "datetime | None"), sa.Text),
}  # fmt: skip


def _columns(kind: type, keys: tuple[str, ...]) -> list[sa.Column[Any]]:
    return [
        sa.Column(f.name, _KINDS.get(str(f.type), sa.JSON)(), primary_key=f.name in keys, nullable=f.name not in keys)
        for f in fields(kind)
    ]


runs = sa.Table("runs", metadata, *_columns(Run, ("id",)))
attempts = sa.Table("attempts", metadata, *_columns(Attempt, ("run_id", "number")))
lanes = sa.Table("lanes", metadata, *_columns(Lane, ("name",)))
reactions = sa.Table("reactions", metadata, *_columns(Past, ("run_id", "pull", "cause", "fingerprint")))
events = sa.Table(
    "events", metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True), sa.Column("at", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False), sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data", sa.JSON),
)  # fmt: skip
problems = sa.Table(
    "problems", metadata, sa.Column("place", sa.Text, primary_key=True), sa.Column("message", sa.Text, nullable=False)
)
patches = sa.Table(
    "patches", metadata, sa.Column("repo", sa.Text, primary_key=True), sa.Column("patch_id", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False), sa.Column("said", sa.Text, nullable=False),
)  # fmt: skip
spend = sa.Table(
    "spend", metadata,
    sa.Column("run_id", sa.Text, primary_key=True), sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at", sa.Text, nullable=False),  # when the attempt ended, UTC
    *(sa.Column(name, sa.Text, nullable=False)
      for name in ("ticket", "repo", "lane", "agent", "model", "reported_model", "outcome", "prices")),
    *(sa.Column(name, sa.BigInteger, nullable=False)
      for name in ("input", "output", "cache_read", "cache_write", "turns")),
    sa.Column("money", sa.Float, nullable=False),  # as the agent reported it
    sa.Column("cost", sa.Float, nullable=False),  # as computed
    sa.Column("seconds", sa.Float, nullable=False),
)  # fmt: skip
orders = sa.Table(
    "orders", metadata, sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False), sa.Column("run_id", sa.Text, nullable=False),
)  # fmt: skip
meta = sa.Table("meta", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.JSON))
sa.Index("runs_by_state", runs.c.state)
sa.Index("attempts_by_settled", attempts.c.settled)
sa.Index("spend_by_time", spend.c.at)
sa.Index("events_by_run", events.c.run_id, events.c.id)
