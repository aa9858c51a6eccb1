"""The Anthropic Messages API, scripted: what Claude Code talks to in tests (`nightcrew.testing.endpoints`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from nightcrew.testing.endpoints import Endpoint, Json, Step, command_line, parts

USAGE = {
    "input_tokens": 12, "cache_creation_input_tokens": 2000, "cache_read_input_tokens": 10_000, "output_tokens": 50,
}  # fmt: skip
_SHORT = {"five_hour": "5h", "seven_day": "7d", "seven_day_opus": "7d_opus", "seven_day_sonnet": "7d_sonnet"}
_UNIFIED = "anthropic-ratelimit-unified"


class Messages:
    """The dialect: errors, whole messages, server-sent events, unified rate-limit headers."""

    ping = b'event: ping\ndata: {"type": "ping"}\n\n'

    def __init__(self) -> None:
        self._numbers = count(1)

    def is_call(self, method: str, path: str) -> bool:
        return method == "POST" and path == "v1/messages"

    def is_side(self, body: Json) -> bool:
        return not body.get("tools")

    def session(self, headers: Mapping[str, str], body: Json) -> str:
        return headers.get("x-claude-code-session-id", "")

    def other(self, method: str, path: str, raw: bytes) -> tuple[int, Json]:
        if path == "v1/messages/count_tokens":
            return 200, {"input_tokens": max(1, len(raw) // 4)}
        return (200 if method == "HEAD" else 404), {}

    def headers(self, step: Step, reset: int) -> dict[str, str]:
        said = {"request-id": self._id("req")}
        if step.limits is None:
            return said
        window = f"{_UNIFIED}-{_SHORT.get(step.limits.window, step.limits.window)}"
        return said | {
            f"{_UNIFIED}-status": step.limits.status,
            f"{_UNIFIED}-reset": str(reset),
            f"{_UNIFIED}-representative-claim": step.limits.window,
            f"{window}-status": step.limits.status,
            f"{window}-reset": str(reset),
            f"{window}-utilization": str(step.limits.utilization),
        }

    def error(self, step: Step, reset: int) -> Json:
        wrong = {"type": step.type, "message": step.message, **step.fields}
        return {"type": "error", "error": wrong, "request_id": self._id("req")}

    def whole(self, step: Step, body: Json, path: str) -> Json:
        content: list[Json] = [{"type": "text", "text": step.text}] if step.text or not step.tools else []
        for tool in step.tools:
            content.append({"type": "tool_use", "id": self._id("toolu"), "name": tool.name, "input": tool.input})
        return {
            "id": self._id("msg"),
            "type": "message",
            "role": "assistant",
            "model": body.get("model", ""),
            "content": content,
            "stop_reason": step.stop_reason or ("tool_use" if step.tools else "end_turn"),
            "stop_sequence": None,
            "usage": {**USAGE, **step.usage},
        }

    def events(self, step: Step, body: Json, path: str) -> Iterator[bytes]:
        whole = self.whole(step, body, path)
        # A real server knows no output tokens yet when it starts to stream: it says 1.
        first = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
        yield _event("message_start", message=first)
        for index, block in enumerate(whole["content"]):
            yield from _block(index, block, torn=step.bad_json)
        if step.sse_error:
            yield _event("error", error={"type": step.sse_error.type, "message": step.sse_error.message})
            return
        yield _event(
            "message_delta", delta={"stop_reason": whole["stop_reason"], "stop_sequence": None}, usage=whole["usage"]
        )
        yield _event("message_stop")

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{next(self._numbers):024d}"


class AnthropicEndpoint(Endpoint):
    """A scripted Anthropic API; give Claude Code `endpoint.url(script, run)` as its ANTHROPIC_BASE_URL."""

    def __init__(self, scripts: Mapping[str, object], *, log: Path | None = None, bodies: bool = False) -> None:
        super().__init__(Messages(), scripts, log=log, bodies=bodies)


def _event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


def _block(index: int, block: Json, *, torn: bool) -> Iterator[bytes]:
    if block["type"] == "text":
        yield _event("content_block_start", index=index, content_block={"type": "text", "text": ""})
        deltas = [{"type": "text_delta", "text": part} for part in parts(block["text"], 400)]
    else:
        yield _event("content_block_start", index=index, content_block={**block, "input": {}})
        wanted = json.dumps(block["input"])
        wanted = wanted[: len(wanted) // 2] if torn else wanted
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts(wanted, 4000)]
    for delta in deltas:
        yield _event("content_block_delta", index=index, delta=delta)
    yield _event("content_block_stop", index=index)


if __name__ == "__main__":
    command_line(Messages(), "A scripted Anthropic Messages API.")
