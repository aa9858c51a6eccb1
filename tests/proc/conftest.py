"""Programs to start, the nastiest among them, and eyes of our own to see what is left of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from nightcrew import proc
from nightcrew.proc import cgroup, hierarchies
from tests.proc.eyes import ENV, Start


@pytest.fixture
def token() -> str:
    return str(uuid4().int)[:12]


@pytest.fixture
def mark(token: str) -> str:
    return f"test-{token}:"


@pytest.fixture(params=["with a cgroup", "without a cgroup"])
def cgroups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether programs get a cgroup here; both ways are tried where one may be written."""
    if request.param == "without a cgroup":
        monkeypatch.setenv("NIGHTCREW_CGROUPS", "off")
    return cgroup.usable() and bool(hierarchies.unified().folder)


@pytest.fixture
async def start(tmp_path: Path, mark: str) -> AsyncIterator[Start]:
    """Start a program in tmp_path with output in `out` and `err`; everything is ended afterwards."""
    started: list[proc.Process] = []

    async def begin(*argv: str, **more: object) -> proc.Process:
        files = {"stdout": tmp_path / "out", "stderr": tmp_path / "err"}
        process = await proc.start(argv, **{"cwd": tmp_path, "env": ENV, "mark": mark, **files, **more})  # type: ignore[arg-type]
        started.append(process)
        return process

    yield begin
    for process in started:
        await proc.end(process, 0)
