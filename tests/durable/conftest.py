"""Every test of this folder runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.durable.world import World


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL for `database_url` in nightcrew.toml, "" for SQLite in the state directory."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[[str, str], World]]:
    """Makes worlds by name and database URL; what they left running is ended."""
    made: list[World] = []

    def make(name: str, database_url: str) -> World:
        made.append(World(tmp_path / name, database_url))
        return made[-1]

    yield make
    for world in made:
        world.end()


@pytest.fixture
def world(worlds: Callable[[str, str], World], database_url: str) -> World:
    """A world that is yet to be made."""
    return worlds("world", database_url)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each of these starts nightcrew anew several times: left out of `./scripts/test quick`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
