"""The first tables: runs, attempts, lanes, events, problems, patches, orders, meta."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.Text(), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("agent", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("session_id", sa.Text()),
        sa.Column("resume", sa.Boolean()),
        sa.Column("fence", sa.Integer()),
        sa.Column("phase", sa.Text()),
        sa.Column("stage", sa.Text()),
        sa.Column("outcome", sa.Text()),
        sa.Column("evidence", sa.Text()),
        sa.Column("resets_at", sa.Float()),
        sa.Column("usage", sa.JSON()),
        sa.Column("reported_model", sa.Text()),
        sa.Column("gates", sa.JSON()),
        sa.Column("head", sa.Text()),
        sa.Column("pull_request", sa.Integer()),
        sa.Column("url", sa.Text()),
        sa.Column("patch_id", sa.Text()),
        sa.Column("duplicate_of", sa.Text()),
        sa.Column("survivors", sa.Integer()),
        sa.Column("settled", sa.Boolean()),
        sa.Column("started_at", sa.Text()),
        sa.Column("heard_at", sa.Text()),
        sa.Column("last", sa.Text()),
        sa.Column("ended_at", sa.Text()),
        sa.Column("log", sa.Text()),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON()),
    )
    op.create_table(
        "lanes",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("state", sa.Text()),
        sa.Column("until", sa.Text()),
        sa.Column("evidence", sa.Text()),
        sa.Column("told_at", sa.Text()),
        sa.Column("failures", sa.Integer()),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("value", sa.JSON()),
    )
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
    )
    op.create_table(
        "patches",
        sa.Column("repo", sa.Text(), primary_key=True),
        sa.Column("patch_id", sa.Text(), primary_key=True),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("said", sa.Text(), nullable=False),
    )
    op.create_table(
        "problems",
        sa.Column("place", sa.Text(), primary_key=True),
        sa.Column("message", sa.Text(), nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("board", sa.Text()),
        sa.Column("ticket_id", sa.Text()),
        sa.Column("key", sa.Text()),
        sa.Column("title", sa.Text()),
        sa.Column("repo", sa.Text()),
        sa.Column("branch", sa.Text()),
        sa.Column("state", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("priority", sa.Integer()),
        sa.Column("labels", sa.JSON()),
        sa.Column("blocked_by", sa.JSON()),
        sa.Column("attempts", sa.Integer()),
        sa.Column("consumed", sa.Integer()),
        sa.Column("failures", sa.Integer()),
        sa.Column("level", sa.Integer()),
        sa.Column("crashes", sa.Integer()),
        sa.Column("stalls", sa.Integer()),
        sa.Column("timeouts", sa.Integer()),
        sa.Column("outages", sa.Integer()),
        sa.Column("fast_fails", sa.Integer()),
        sa.Column("review_rounds", sa.Integer()),
        sa.Column("agent", sa.Text()),
        sa.Column("session_id", sa.Text()),
        sa.Column("feedback", sa.Text()),
        sa.Column("not_before", sa.Text()),
        sa.Column("pull_request", sa.Integer()),
        sa.Column("url", sa.Text()),
        sa.Column("patch_id", sa.Text()),
        sa.Column("duplicate_of", sa.Text()),
        sa.Column("fence", sa.Integer()),
        sa.Column("cycle", sa.Integer()),
        sa.Column("shown", sa.Text()),
        sa.Column("stopping", sa.Text()),
        sa.Column("workspace", sa.Text()),
        sa.Column("pending_head", sa.Text()),
        sa.Column("usage", sa.JSON()),
        sa.Column("created_at", sa.Text()),
        sa.Column("updated_at", sa.Text()),
    )
    op.create_index("attempts_by_settled", "attempts", ["settled"])
    op.create_index("events_by_run", "events", ["run_id", "id"])
    op.create_index("runs_by_state", "runs", ["state"])
