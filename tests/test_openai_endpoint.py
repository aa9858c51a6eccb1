"""The scripted OpenAI endpoint as its clients see it: both APIs, streamed and whole, limits, and its command line."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from nightcrew.testing.openai import OpenAIEndpoint

SCRIPTS = {
    "tools": [{"text": "Look.", "tools": [{"name": "run", "input": {"cmd": "ls"}}]}, {"text": "Done."}],
    "patch": [{"tools": [{"name": "apply_patch", "input": {"custom": "*** Begin Patch"}}]}],
    "limit": [{"error": 429, "type": "usage_limit_reached", "limits": {"window": "seven_day", "resets_in": 100}}],
    "broken": [{"text": "half", "sse_error": {"type": "server_is_overloaded", "message": "busy"}}],
}
TOOLS = [{"type": "function", "name": "run"}]


@pytest.fixture
async def endpoint() -> AsyncIterator[OpenAIEndpoint]:
    async with OpenAIEndpoint(SCRIPTS) as running:
        yield running


async def ask(endpoint: OpenAIEndpoint, script: str, path: str, **body: Any) -> tuple[int, str, dict[str, str]]:
    url = f"{endpoint.url(script, 'run')}/v1/{path}"
    async with aiohttp.ClientSession() as client, client.post(url, json={"tools": TOOLS, **body}) as answer:
        return answer.status, await answer.text(), dict(answer.headers)


def events(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


async def test_responses_are_told_whole_and_as_a_stream(endpoint: OpenAIEndpoint) -> None:
    status, text, _ = await ask(endpoint, "tools", "responses")
    items = json.loads(text)["output"]
    assert (status, [item["type"] for item in items]) == (200, ["message", "function_call"])
    assert json.loads(items[1]["arguments"]) == {"cmd": "ls"}
    _, text, _ = await ask(endpoint, "tools", "responses", stream=True)
    told = events(text)
    assert [told[0]["type"], told[-1]["type"]] == ["response.created", "response.completed"]
    assert told[-1]["response"]["usage"]["total_tokens"] == 12_050


async def test_chat_completions_are_told_whole_and_as_a_stream(endpoint: OpenAIEndpoint) -> None:
    _, text, _ = await ask(endpoint, "tools", "chat/completions", stream=True)
    told = events(text)
    assert told[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert told[-1]["usage"]["total_tokens"] == 12_050
    assert text.endswith("data: [DONE]\n\n")
    _, text, _ = await ask(endpoint, "tools", "chat/completions")
    assert json.loads(text)["choices"][0]["message"] == {"role": "assistant", "content": "Done."}


async def test_a_raw_tool_input_is_a_custom_call(endpoint: OpenAIEndpoint) -> None:
    _, text, _ = await ask(endpoint, "patch", "responses")
    item = json.loads(text)["output"][0]
    assert (item["type"], item["input"]) == ("custom_tool_call", "*** Begin Patch")


async def test_a_usage_limit_says_in_header_and_body_when_it_ends(endpoint: OpenAIEndpoint) -> None:
    now = time.time()
    status, text, headers = await ask(endpoint, "limit", "responses", stream=True)
    error = json.loads(text)["error"]
    assert (status, error["type"]) == (429, "usage_limit_reached")
    assert now + 98 <= error["resets_at"] <= time.time() + 101
    assert headers["x-codex-secondary-used-percent"] == "100"
    assert headers["x-codex-secondary-reset-at"] == str(error["resets_at"])
    assert int(headers["x-codex-primary-used-percent"]) < 50


async def test_a_stream_may_break_after_it_began_well(endpoint: OpenAIEndpoint) -> None:
    status, text, _ = await ask(endpoint, "broken", "responses", stream=True)
    told = events(text)
    assert (status, told[-1]["type"]) == (200, "response.failed")
    assert told[-1]["response"]["error"] == {"code": "server_is_overloaded", "message": "busy"}


async def test_models_are_listed_and_a_websocket_is_declined(endpoint: OpenAIEndpoint) -> None:
    async with aiohttp.ClientSession() as client:
        async with client.get(endpoint.url("tools", "x") + "/v1/models") as answer:
            assert (await answer.json())["data"][0]["object"] == "model"
        async with client.get(endpoint.url("tools", "x") + "/v1/responses") as answer:
            assert answer.status == 426


async def test_the_command_line_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts.json"
    scripts.write_text(json.dumps(SCRIPTS))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nightcrew.testing.openai", "--port", "0", "--scripts", str(scripts),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout
        url = json.loads(await process.stdout.readline())["url"]
        async with aiohttp.ClientSession() as client:
            async with client.post(f"{url}/s/tools/a/v1/responses", json={"tools": TOOLS}) as answer:
                assert answer.status == 200
            async with client.post(f"{url}/s/none/a/v1/responses", json={"tools": TOOLS}) as answer:
                assert answer.status == 404
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
