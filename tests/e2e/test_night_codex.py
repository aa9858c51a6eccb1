"""Whole nights of `nightcrew up` with the real codex from npm, against a scripted OpenAI Responses API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

import pytest

from nightcrew.testing.openai import OpenAIEndpoint
from tests.e2e.agents import program as real
from tests.e2e.night_suite import Json, Nights


class CodexSide:
    """Codex, logged in by an API key; where its provider is, the owner's environment says."""

    name = "codex"
    outlives = False  # its stdin ends with nightcrew
    wrong: Mapping[str, Json] = MappingProxyType({
        "limit": {"error": 429, "type": "usage_limit_reached", "message": "limit"},
        "overload": {"error": 503, "type": "server_is_overloaded", "message": "busy", "times": 5},  # it tries 5 times
        "full": {"error": 400, "type": "context_length_exceeded", "message": "too long", "times": -1},
        "expired": {"error": 401, "type": "invalid_api_key", "message": "Incorrect API key provided", "times": -1},
    })  # fmt: skip

    def shell(self, command: str) -> Json:
        asked = {"cmd": command, "yield_time_ms": 30_000}
        return {"text": "Working.", "tools": [{"name": "exec_command", "input": asked}]}

    def endpoint(self, scripts: Json) -> OpenAIEndpoint:
        return OpenAIEndpoint(scripts, bodies=True)

    def table(self, url: str, program: str = "") -> str:
        return f'[agents.codex]\nprogram = {json.dumps(program or str(real("codex")))}\nmodels = ["gpt-5.5"]\n'

    def environ(self, url: str) -> dict[str, str]:
        return {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "made-up"}


@pytest.mark.real_agent("codex")
class TestCodex(Nights):
    side = CodexSide()
