"""Whole nights of `nightcrew up` with the real Claude Code from npm, against a scripted Anthropic API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nightcrew.testing.anthropic import AnthropicEndpoint
from tests.e2e.night import (
    KEY_LINE,
    Night,
    asked_for,
    assert_published,
    assert_quiet,
    blocked,
    edit,
    said_before,
    until,
    work,
)

pytestmark = pytest.mark.real_agent("claude")


def shell(command: str) -> dict[str, object]:
    return {"text": "Working.", "tools": [{"name": "Bash", "input": {"command": command}}]}


def does(key: str) -> list[dict[str, object]]:
    return [shell(work(key)), {"text": f"{key} is done."}]


FULL = {"error": 400, "type": "invalid_request_error", "message": "prompt is too long: 9 > 8 maximum", "times": -1}
SCRIPTS: dict[str, object] = {
    "work": {
        "context_full:": does("FULL-1"),  # what the fresh session is told of the one before
        "is not proven": does("EXCUSE-1"),
        "OK-1": does("OK-1"),
        "FORGOT-1": [shell(edit("FORGOT-1")), {"text": "Done, all in place."}],
        "STUCK-1": [{"text": blocked("nobody gave us the key", f"settings.py:3: {KEY_LINE}")}],
        "EXCUSE-1": [{"text": blocked("the key is revoked", "settings.py:3: API_KEY_REVOKED = True")}],
        "FULL-1": [FULL],
    },
}


@pytest.fixture
async def endpoint() -> AsyncIterator[AnthropicEndpoint]:
    async with AnthropicEndpoint(SCRIPTS, bodies=True) as endpoint:
        yield endpoint


@pytest.fixture
def night(claude_program: Path, tmp_path: Path, endpoint: AnthropicEndpoint) -> Callable[..., Night]:
    def made(script: str, **limits: float) -> Night:
        env = {"ANTHROPIC_BASE_URL": endpoint.url(script), "CLAUDE_CODE_OAUTH_TOKEN": "made-up"}
        night = Night(tmp_path / "night", env)
        night.prepare(f"[agents.claude]\nprogram = {json.dumps(str(claude_program))}\n", **limits)
        return night

    return made


async def test_work(night: Callable[..., Night], endpoint: AnthropicEndpoint) -> None:
    tonight = night("work", max_running=2)
    for number, key in enumerate(("OK-1", "FORGOT-1", "STUCK-1", "EXCUSE-1", "FULL-1"), 1):
        tonight.ticket(key, min(number, 4))
    said = await tonight.up()
    print(said.err, said.out)
    morning = await tonight.morning()
    for key, story in morning.stories.items():
        print(key, story.run.state, story.outcomes, story.run.consumed, story.on_board, story.resumed, [a.evidence for a in story.attempts])
    assert_published(morning["OK-1"])
    assert_quiet(morning)
    assert 0
