"""Alembic migrations of our own tables, run from inside the program."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

LOCK = 0x6E63_6D69  # any number that is not the store's


def upgrade(engine: sa.Engine) -> None:
    """Bring the database to the newest migration, in one transaction: killed in between, nothing has happened.

    Whoever comes at the same time waits, and finds it done.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with engine.begin() as connection:
        # sqlite3 would begin its transaction only at the first row, after the tables.
        postgres = connection.dialect.name == "postgresql"
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})" if postgres else "BEGIN IMMEDIATE")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
