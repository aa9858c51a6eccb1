"""What lanes are told of their windows, what attempts cost and how alive they were, and the ledger of spend."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_TEXTS = ("ticket", "repo", "lane", "agent", "model", "reported_model", "outcome", "prices")
_COUNTS = ("input", "output", "cache_read", "cache_write", "turns")
_NUMBERS = ("money", "cost", "seconds")


def upgrade() -> None:
    """Add them; a lane that was `out` is taken to be misconfigured until it is resumed."""
    for name in ("prices", "cap", "lane", "liveness", "signs"):
        op.add_column("attempts", sa.Column(name, sa.Text()))
    op.add_column("attempts", sa.Column("cost", sa.Float()))
    op.add_column("attempts", sa.Column("peak_memory", sa.BigInteger()))
    op.add_column("attempts", sa.Column("oom", sa.Boolean()))
    op.add_column("lanes", sa.Column("probe", sa.Boolean()))
    op.add_column("lanes", sa.Column("windows", sa.JSON()))
    op.execute("UPDATE lanes SET state = 'misconfigured' WHERE state = 'out'")
    op.create_table(
        "spend",
        sa.Column("run_id", sa.Text(), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("at", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in _TEXTS),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTS),
        *(sa.Column(name, sa.Float(), nullable=False) for name in _NUMBERS),
    )
    op.create_index("spend_by_time", "spend", ["at"])
