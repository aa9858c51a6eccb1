"""The lock of a PostgreSQL database that one nightcrew at a time holds; it lives as long as one connection."""

from __future__ import annotations

from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy import exc

LOCK = 0x6E69676874
"""The number of the advisory lock ("night")."""


class Hold:
    """The lock of a database, where one is needed: on SQLite the state directory's own is enough."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sa.Connection | None = None

    def still(self) -> bool:
        """Whether it is ours. A connection that broke is made anew, and the lock taken again if nobody has it."""
        if self._engine.dialect.name != "postgresql":
            return True
        if self._connection is not None:
            with suppress(exc.DBAPIError):
                self._connection.exec_driver_sql("SELECT 1")
                return True
            self.release()
        return self._take()

    def _take(self) -> bool:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.exec_driver_sql("SET lock_timeout = '2s'")  # a dead holder's connection may outlive it a moment
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
        except exc.OperationalError:
            connection.close()
            return False
        self._connection = connection
        return True

    def release(self) -> None:
        """Give it up: its connection ends, it does not go back to the pool."""
        if self._connection is not None:
            with suppress(exc.DBAPIError):
                self._connection.invalidate()
            self._connection.close()
            self._connection = None
