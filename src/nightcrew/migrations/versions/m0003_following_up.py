"""What was done about each pull request, and what was heard on each ticket."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add them."""
    op.add_column("runs", sa.Column("heard", sa.Text()))
    op.create_table(
        "reactions",
        sa.Column("run_id", sa.Text(), primary_key=True),
        sa.Column("pull", sa.BigInteger(), primary_key=True),
        sa.Column("cause", sa.Text(), primary_key=True),
        sa.Column("fingerprint", sa.Text(), primary_key=True),
        sa.Column("did", sa.Text()),
        sa.Column("at", sa.Text()),
        sa.Column("done", sa.Boolean()),
        sa.Column("head", sa.Text()),
        sa.Column("why", sa.Text()),
        sa.Column("ids", sa.JSON()),
        sa.Column("threads", sa.JSON()),
    )
