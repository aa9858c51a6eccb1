"""The scripted provider itself, without any agent: positions, failures, log, and life out of process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from nightcrew.testing.anthropic import AnthropicEndpoint

ASK = {"model": "m", "tools": [{"name": "Bash"}], "messages": [{"role": "user", "content": "Work on DEMO-2."}]}


async def ask(url: str, session: str = "", **more: Any) -> tuple[int, str, Any]:
    """Status, body, headers of one model call."""
    headers = {"x-api-key": "made-up", "x-claude-code-session-id": session}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{url}/v1/messages?beta=true", json={**ASK, **more}, headers=headers) as answer,
    ):
        return answer.status, await answer.text(), answer.headers


def said(body: str) -> str:
    return "".join(block.get("text", "") for block in json.loads(body)["content"])


async def test_each_run_has_its_own_place_in_the_script_and_the_last_text_is_repeated() -> None:
    async with AnthropicEndpoint({"s": [{"text": "one"}, {"text": "two", "times": 2}, {"error": 500}]}) as endpoint:
        one = [(await ask(endpoint.url("s", "a"))) for _ in range(5)]
        assert [said(body) if status == 200 else status for status, body, _ in one] == ["one", "two", "two", 500, "two"]
        assert said((await ask(endpoint.url("s", "b")))[1]) == "one"


async def test_sessions_that_share_a_url_are_told_apart_and_scripts_chosen_by_a_word_of_the_prompt() -> None:
    scripts = {"night": {"DEMO-1": [{"text": "first"}], "DEMO-2": [{"text": "second"}, {"text": "third"}], "": []}}
    async with AnthropicEndpoint(scripts) as endpoint:
        url = endpoint.url("night")
        texts = [said((await ask(url, session))[1]) for session in ("x", "x", "y")]
        assert texts == ["second", "third", "second"]
        assert said((await ask(url, "z", messages=[]))[1]) == "Done."


async def test_a_limit_says_one_reset_for_as_long_as_it_lasts() -> None:
    step = {"error": 429, "type": "rate_limit_error", "limits": {"resets_in": 50}, "lasts": 0.4}
    async with AnthropicEndpoint({"s": [step, {"text": "back"}]}) as endpoint:
        answers = [await ask(endpoint.url("s", "a"))]
        begun = time.monotonic()
        while answers[-1][0] == 429:
            await asyncio.sleep(0.05)
            answers.append(await ask(endpoint.url("s", "a")))
        assert time.monotonic() - begun > 0.3
        assert len({answer[2]["anthropic-ratelimit-unified-reset"] for answer in answers[:-1]}) == 1
        assert answers[0][2]["anthropic-ratelimit-unified-status"] == "rejected"
        assert said(answers[-1][1]) == "back"


async def test_a_stream_tells_text_tools_and_usage_and_can_break() -> None:
    tool = {"name": "Bash", "input": {"command": "ls"}}
    scripts = {
        "s": [
            {"text": "hi", "tools": [tool], "usage": {"output_tokens": 7}},
            {"text": "x", "sse_error": {"type": "t"}},
        ],
        "cut": [{"text": "hi", "cut": 2}],
    }
    async with AnthropicEndpoint(scripts) as endpoint:
        _, body, headers = await ask(endpoint.url("s", "a"), stream=True)
        assert headers["Content-Type"] == "text/event-stream"
        assert '"output_tokens": 7' in body
        assert "tool_use" in body
        assert "event: message_stop" in body
        assert "event: error" in (await ask(endpoint.url("s", "a"), stream=True))[1]
        with pytest.raises(aiohttp.ClientError):
            await ask(endpoint.url("cut", "a"), stream=True)


@pytest.mark.parametrize("how", ["headers", "body", "ping"])
async def test_an_endpoint_that_hangs_ends_at_once_with_its_block(how: str) -> None:
    async with AnthropicEndpoint({"s": [{"text": "x", "hang": how}]}) as endpoint:
        call = asyncio.create_task(ask(endpoint.url("s", "a"), stream=True))
        while not endpoint.asked:
            await asyncio.sleep(0.01)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    await asyncio.gather(call, return_exceptions=True)


async def test_side_requests_take_no_step_and_wrong_scripts_are_named(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    async with AnthropicEndpoint({"s": [{"text": "main"}]}, log=log) as endpoint:
        assert said((await ask(endpoint.url("s", "a"), tools=[]))[1]) == "ok"
        assert said((await ask(endpoint.url("s", "a")))[1]) == "main"
        status, body, _ = await ask(endpoint.url("nope", "a"))
        assert (status, "no such script: nope" in body) == (404, True)
        assert [asked.step for asked in endpoint.asked] == ["side", "text", "no such script"]
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == ["side", "text", "no such script"]
    assert "made-up" not in log.read_text()
    with pytest.raises(msgspec.ValidationError, match="txt"):
        AnthropicEndpoint({"s": [{"txt": "typo"}]})


async def test_out_of_process_it_says_its_port_and_ends_at_a_signal(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts.json"
    scripts.write_text('{"s": [{"text": "hello"}]}')
    argv = (sys.executable, "-m", "nightcrew.testing.anthropic", "--port", "0", "--scripts", str(scripts))
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        address = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        assert said((await ask(f"{address['url']}/s/s/a"))[1]) == "hello"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
