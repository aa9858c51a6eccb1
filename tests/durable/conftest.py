"""Every test of this folder runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.durable.world import World


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL for `database_url` in nightcrew.toml, "" for SQLite in the state directory."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def world(tmp_path: Path, database_url: str) -> World:
    """A world that is yet to be made."""
    return World(tmp_path / "world", database_url)
