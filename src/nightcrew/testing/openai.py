"""The OpenAI Responses and Chat Completions APIs, scripted: what Codex and most other agents talk to in tests.

Steps and scripts are those of `nightcrew.testing.endpoints`. A client is given `endpoint.url("happy", "run1") + "/v1"`.
A tool whose input is `{"custom": "..."}` alone is asked for with that raw text (codex's `apply_patch`). Codex shows a
usage limit for an error 429 of type `usage_limit_reached` with `limits`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from nightcrew.testing.endpoints import Endpoint, Json, Step, Tool, command_line, parts

USAGE = {"input_tokens": 12_000, "cached_tokens": 10_000, "output_tokens": 50, "reasoning_tokens": 20}
_MINUTES = {"five_hour": 300, "seven_day": 10_080}


class OpenAI:
    """The dialect: errors, Responses, Chat Completions, a list of models, codex's rate-limit headers."""

    ping = b": ping\n\n"

    def __init__(self) -> None:
        self._numbers = count(1)

    def is_call(self, method: str, path: str) -> bool:
        return method == "POST" and path.endswith(("responses", "chat/completions"))

    def is_side(self, body: Json) -> bool:
        items = body.get("input")
        listed = [item.get("type") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        return not body.get("tools") and "additional_tools" not in listed  # newer models get their tools as input

    def session(self, headers: Mapping[str, str], body: Json) -> str:
        return str(headers.get("session-id") or headers.get("session_id") or body.get("prompt_cache_key") or "")

    def other(self, method: str, path: str, raw: bytes) -> tuple[int, Json]:
        if path.endswith("models"):
            return 200, {"object": "list", "data": [{"id": "scripted", "object": "model", "owned_by": "nightcrew"}]}
        if method == "GET" and path.endswith("responses"):  # codex asks for a WebSocket; told so, it does without
            return 426, _error("upgrade_required", "no WebSocket here")
        return 404, _error("not_found", "not found")

    def headers(self, step: Step, reset: int) -> dict[str, str]:
        said = {"x-request-id": self._id("req")}
        if step.limits is None:
            return said
        used = {"primary": 8, "secondary": 4}
        windows = {"primary": 300, "secondary": 10_080}
        slot = "primary" if step.limits.window == "five_hour" else "secondary"
        used[slot] = round(100 * step.limits.utilization)
        windows[slot] = _MINUTES.get(step.limits.window, windows[slot])
        for name, minutes in windows.items():
            # The other window ends later, as if it had just begun.
            ends = reset if name == slot else reset + 60 * minutes
            said[f"x-codex-{name}-used-percent"] = str(used[name])
            said[f"x-codex-{name}-window-minutes"] = str(minutes)
            said[f"x-codex-{name}-reset-at"] = str(ends)
        return said

    def error(self, step: Step, reset: int) -> Json:
        when = {"resets_at": reset, "resets_in_seconds": max(reset - int(time.time()), 0)} if reset else {}
        return _error(step.type, step.message, **when, **step.fields)

    def whole(self, step: Step, body: Json, path: str) -> Json:
        if path.endswith("responses"):
            return self._response(step, body, self._items(step))
        return self._completion(step, body)

    def events(self, step: Step, body: Json, path: str) -> Iterator[bytes]:
        return self._response_events(step, body) if path.endswith("responses") else self._chat_events(step, body)

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{next(self._numbers):024d}"

    def _items(self, step: Step) -> list[Json]:
        said = {"type": "output_text", "text": step.text, "annotations": []}
        message = {"id": self._id("msg"), "type": "message", "role": "assistant", "status": "completed"}
        items: list[Json] = [{**message, "content": [said]}] if step.text else []
        for tool in step.tools:
            call = {"id": self._id("item"), "call_id": self._id("call"), "name": tool.name, "status": "completed"}
            if tool.input.keys() == {"custom"}:
                items.append({**call, "type": "custom_tool_call", "input": tool.input["custom"]})
            else:
                items.append({**call, "type": "function_call", "arguments": _arguments(step, tool)})
        return items

    def _response(self, step: Step, body: Json, items: list[Json], **more: Any) -> Json:
        used = {**USAGE, **step.usage}
        usage = {
            "input_tokens": used["input_tokens"],
            "input_tokens_details": {"cached_tokens": used["cached_tokens"]},
            "output_tokens": used["output_tokens"],
            "output_tokens_details": {"reasoning_tokens": used["reasoning_tokens"]},
            "total_tokens": used["input_tokens"] + used["output_tokens"],
        }
        about = {"id": self._id("resp"), "object": "response", "created_at": int(time.time()), "status": "completed"}
        return {**about, "model": body.get("model", ""), "output": items, "usage": usage, **more}

    def _response_events(self, step: Step, body: Json) -> Iterator[bytes]:
        items = self._items(step)
        full = self._response(step, body, items)
        yield _event("response.created", response={**full, "status": "in_progress", "output": [], "usage": None})
        for index, item in enumerate(items):
            begun = {**item, "status": "in_progress"} | ({"content": []} if item["type"] == "message" else {})
            yield _event("response.output_item.added", output_index=index, item=begun)
            for part in parts(item["content"][0]["text"], 400) if item["type"] == "message" else ():
                yield _event(
                    "response.output_text.delta", item_id=item["id"], output_index=index, content_index=0, delta=part
                )
            yield _event("response.output_item.done", output_index=index, item=item)
        if step.sse_error:
            wrong = {"code": step.sse_error.type, "message": step.sse_error.message}
            yield _event("response.failed", response={**full, "status": "failed", "output": [], "error": wrong})
            return
        yield _event("response.completed", response=full)

    def _completion(self, step: Step, body: Json) -> Json:
        used = {**USAGE, **step.usage}
        calls = [
            {
                "id": self._id("call"),
                "type": "function",
                "function": {"name": tool.name, "arguments": _arguments(step, tool)},
            }
            for tool in step.tools
        ]
        message = {"role": "assistant", "content": step.text} | ({"tool_calls": calls} if calls else {})
        finish = step.stop_reason or ("tool_calls" if calls else "stop")
        return {
            "id": self._id("chatcmpl"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body.get("model", ""),
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": used["input_tokens"],
                "completion_tokens": used["output_tokens"],
                "total_tokens": used["input_tokens"] + used["output_tokens"],
                "prompt_tokens_details": {"cached_tokens": used["cached_tokens"]},
                "completion_tokens_details": {"reasoning_tokens": used["reasoning_tokens"]},
            },
        }

    def _chat_events(self, step: Step, body: Json) -> Iterator[bytes]:
        full = self._completion(step, body)
        base = {key: full[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
        choice = full["choices"][0]
        yield _chunk(base, {"role": "assistant", "content": ""})
        for part in parts(choice["message"]["content"], 400):
            yield _chunk(base, {"content": part})
        for index, call in enumerate(choice["message"].get("tool_calls", ())):
            yield _chunk(base, {"tool_calls": [{"index": index, **call}]})
        if step.sse_error:
            yield _data(_error(step.sse_error.type, step.sse_error.message))
            return
        yield _chunk(base, {}, choice["finish_reason"])
        yield _data({**base, "choices": [], "usage": full["usage"]})
        yield b"data: [DONE]\n\n"


class OpenAIEndpoint(Endpoint):
    """A scripted OpenAI API; give the client `endpoint.url(script, run) + "/v1"` as its base URL."""

    def __init__(self, scripts: Mapping[str, object], *, log: Path | None = None, bodies: bool = False) -> None:
        super().__init__(OpenAI(), scripts, log=log, bodies=bodies)


def _arguments(step: Step, tool: Tool) -> str:
    whole = json.dumps(tool.input)
    return whole[: len(whole) // 2] if step.bad_json else whole


def _error(kind: str, text: str, **more: Any) -> Json:
    return {"error": {"message": text, "type": kind, "param": None, "code": kind, **more}}


def _event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


def _data(data: Json) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _chunk(base: Json, delta: Json, finish: str | None = None) -> bytes:
    return _data({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


if __name__ == "__main__":
    command_line(OpenAI(), "Scripted OpenAI Responses and Chat Completions APIs.")
