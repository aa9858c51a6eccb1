"""Many sessions of the real Claude Code on one subscription's login, which they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from nightcrew.adapters.agents.claude import Claude
from nightcrew.core.outcome import Outcome
from nightcrew.ports import Task
from nightcrew.testing.anthropic import AnthropicEndpoint
from tests.conftest import Repository
from tests.e2e.conftest import ClaudeCrew
from tests.e2e.oauth import TokenEndpoint

pytestmark = [pytest.mark.real_agent("claude"), pytest.mark.slow]
SESSIONS = 6


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[TokenEndpoint]:
    (tmp_path / "tls").mkdir()
    async with TokenEndpoint(tmp_path / "tls").serving() as serving:
        yield serving


async def work(
    program: Path, endpoint: TokenEndpoint, repo: Repository, tmp_path: Path, homes: list[Path]
) -> list[tuple[Claude, Outcome, str]]:
    """One session in each of these folders, all at once."""
    async with AnthropicEndpoint({"happy": [{"text": "Done."}]}) as provider:

        async def one(number: int, home: Path) -> tuple[Claude, Outcome, str]:
            env = {**endpoint.environ(), "ANTHROPIC_BASE_URL": provider.url("happy", str(number))}
            agent = Claude(f"a{number}", {"program": str(program), "config_dir": str(home), "env": env, "pass_env": ()})
            (scratch := tmp_path / f"scratch-{number}").mkdir()
            crew = ClaudeCrew(agent, provider, repo, scratch)
            seen = await crew.run(Task(repo.path, "Say hello.", scratch, str(uuid4()), model="sonnet"))
            assert Path(seen.progress.transcript).exists()
            return agent, seen.ending.outcome, seen.ending.evidence

        return await asyncio.gather(*(one(number, home) for number, home in enumerate(homes)))


async def test_sessions_that_share_an_expired_login_renew_it_once_and_all_go_on(
    claude_program: Path, endpoint: TokenEndpoint, repo: Repository, tmp_path: Path
) -> None:
    home = endpoint.login(tmp_path / "account")
    told = await work(claude_program, endpoint, repo, tmp_path, [home] * SESSIONS)
    assert [outcome for _, outcome, _ in told] == [Outcome.DONE] * SESSIONS, told
    assert (endpoint.renewed, endpoint.refused) == (1, 0)
    now = datetime.now(UTC)
    login = told[0][0].login(now)
    assert (login.kind, login.ok, (login.expires_at or 0) > now.timestamp() + 1000) == ("file", True, True)
    assert len({agent.seat for agent, *_ in told}) == 1
