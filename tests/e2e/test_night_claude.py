"""Whole nights of `nightcrew up` with the real Claude Code from npm, against a scripted Anthropic API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from nightcrew.testing.anthropic import AnthropicEndpoint
from tests.e2e.agents import program as real
from tests.e2e.night_suite import Json, Nights


class ClaudeSide:
    """Claude Code, logged in by a long-lived token as a subscriber is."""

    name = "claude"
    outlives = True
    wrong: Mapping[str, Json] = MappingProxyType({
        "limit": {"error": 429, "type": "rate_limit_error", "message": "limit"},
        "overload": {"error": 529, "type": "overloaded_error", "message": "Overloaded", "times": 2},  # it tries twice
        "full": {"error": 400, "type": "invalid_request_error", "message": "prompt is too long: 9 > 8", "times": -1},
        "expired": {"error": 401, "type": "authentication_error", "message": "OAuth token has expired.", "times": -1},
    })  # fmt: skip

    def shell(self, command: str) -> Json:
        return {"text": "Working.", "tools": [{"name": "Bash", "input": {"command": command}}]}

    def endpoint(self, scripts: Json) -> AnthropicEndpoint:
        return AnthropicEndpoint(scripts, bodies=True)

    def table(self, url: str, program: str = "") -> str:
        return f"[agents.claude]\nprogram = {json.dumps(program or str(real('claude')))}\n"

    def environ(self, url: str) -> dict[str, str]:
        return {"ANTHROPIC_BASE_URL": url, "CLAUDE_CODE_OAUTH_TOKEN": "made-up"}


@pytest.mark.real_agent("claude")
class TestClaude(Nights):
    side = ClaudeSide()
