"""pytest fixtures for a real PostgreSQL.

In a conftest: `from nightcrew.testing.plugin import postgres_server, postgres_url`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nightcrew.testing.postgres import PostgresServer

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A private server, started when the first test asks for it; each pytest-xdist worker has its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL (postgresql://...) of an empty database of this test's own, thrown away after it."""
    with postgres_server.database() as url:
        yield url
