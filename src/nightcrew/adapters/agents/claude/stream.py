"""Claude Code's `stream-json`, event by event: what may be said of a session while it runs, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from nightcrew.core import reading
from nightcrew.core.model import Usage
from nightcrew.ports import Progress

Event = dict[str, Any]


def events_in(line: bytes) -> list[Event]:
    """The events on a line: one, or all of them with `--output-format json --verbose`; [] for anything else."""
    start = line.find(b"{") if not line.lstrip().startswith(b"[{") else 0
    if start < 0:
        return []
    try:
        found = msgspec.json.decode(line[start:])
    except (ValueError, RecursionError):
        return []
    items = found if isinstance(found, list) else [found]
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("type"), str)]


def as_dict(value: object) -> Event:
    return value if isinstance(value, dict) else {}


def as_text(value: object) -> str:
    return value if isinstance(value, str) else ""


def as_count(value: object) -> int:
    return min(value, 10**12) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _money(value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < 1e6 else 0.0  # type: ignore[operator,arg-type]


def blocks(event: Event) -> list[Event]:
    content = as_dict(event.get("message")).get("content")
    return [as_dict(block) for block in content] if isinstance(content, list) else []


def own(event: Event) -> bool:
    """Whether an event belongs to the main conversation, not to a subagent's."""
    return event.get("parent_tool_use_id") is None


def _written(block: Event) -> int:
    """Characters the model wrote in a block."""
    asked = as_dict(block.get("input"))
    return len(as_text(block.get("text"))) + sum(len(value) for value in asked.values() if isinstance(value, str))


@dataclass
class Ledger:
    """What a run cost: exact for what a `result` closed, an estimate for answers after it."""

    closed: Usage = field(default_factory=Usage)
    session_money: float = 0.0  # the CLI's running total when it last told
    open: dict[str, Usage] = field(default_factory=dict)  # by message: its usage comes again with each block

    def answer(self, event: Event) -> None:
        message = as_dict(event.get("message"))
        name, said = as_text(message.get("id")), as_dict(message.get("usage"))
        if message.get("model") == "<synthetic>":
            return
        before = self.open.get(name, Usage())
        # The stream says one output token where fifty are billed: count about four characters for one.
        written = sum(map(_written, blocks(event))) // 4
        self.open[name] = Usage(
            as_count(said.get("input_tokens")), max(as_count(said.get("output_tokens")), before.output + written),
            as_count(said.get("cache_read_input_tokens")), as_count(said.get("cache_creation_input_tokens")), 0.0, 1,
        )  # fmt: skip

    def result(self, event: Event) -> None:
        since = event.get("model_usage_since_last_result")
        turns, total = as_count(event.get("num_turns")), _money(event.get("total_cost_usd"))
        if isinstance(since, dict):
            parts = [as_dict(part) for part in since.values()]
            names = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
            tokens = [sum(as_count(part.get(name)) for part in parts) for name in names]
            money = sum(_money(part.get("costUSD")) for part in parts)
        else:
            said = as_dict(event.get("usage"))
            names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
            tokens = [as_count(said.get(name)) for name in names]
            money = max(total - self.session_money, 0.0)
        self.closed += Usage(tokens[0], tokens[1], tokens[2], tokens[3], money, turns)
        self.session_money = total
        self.open.clear()

    def total(self) -> Usage:
        return sum(self.open.values(), self.closed)


class ClaudeConversation:
    """One session's stream, one-way: the prompt goes in at once, events come out."""

    def __init__(self, prompt: str) -> None:
        self.progress = Progress()
        self._prompt = prompt
        self._ledger = Ledger()
        self._tools: set[str] = set()

    def opening(self) -> bytes:
        """The whole prompt."""
        return self._prompt.encode("utf-8", "replace")

    def hear(self, line: bytes) -> bytes:
        """Take one line into `progress`; there is never anything to answer."""
        self.progress.lines += 1
        for event in events_in(line):
            self._take(event)
        return b""

    def _take(self, event: Event) -> None:
        now = self.progress
        now.session_id = as_text(event.get("session_id")) or now.session_id
        match event["type"]:
            case "assistant":
                self._answered(event)
            case "user" | "result":
                self._told(event)
            case "tool_progress":
                now.waiting_on, now.last = "tool", f"tool {as_text(event.get('tool_name'))} runs".replace("  ", " ")
            case "rate_limit_event":
                now.last = f"rate limit: {as_text(as_dict(event.get('rate_limit_info')).get('status'))}"
            case "system":
                self._system(event)

    def _answered(self, event: Event) -> None:
        now, model = self.progress, as_text(as_dict(event.get("message")).get("model"))
        now.model = model if model not in {"", "<synthetic>"} and own(event) else now.model
        now.over = now.over and not own(event)
        self._ledger.answer(event)
        now.usage = self._ledger.total()
        for block in blocks(event):
            if block.get("type") == "tool_use":
                self._tools.add(as_text(block.get("id")))
                asked = as_dict(block.get("input"))
                what = next((value for value in asked.values() if isinstance(value, str)), "")
                now.last = reading.one_line(f"{as_text(block.get('name'))} {what}", 120)
            elif block.get("type") == "text":
                now.last = reading.one_line(as_text(block.get("text")), 120) or now.last
        now.waiting_on = "tool" if self._tools else "model"

    def _told(self, event: Event) -> None:
        now = self.progress
        if event["type"] == "result":
            self._ledger.result(event)
            self._tools.clear()
            now.usage, now.over, now.last = self._ledger.total(), True, f"ended: {as_text(event.get('subtype'))}"
        for block in blocks(event):
            self._tools.discard(as_text(block.get("tool_use_id")))
        now.waiting_on = "tool" if self._tools else "model"

    def _system(self, event: Event) -> None:
        now, kind = self.progress, as_text(event.get("subtype"))
        if kind == "init":
            now.model, now.last = as_text(event.get("model")) or now.model, "started"
            servers = event.get("mcp_servers")
            for server in map(as_dict, servers if isinstance(servers, list) else ()):
                if (status := as_text(server.get("status"))) not in {"connected", "pending"}:
                    self._warn(f"MCP server {as_text(server.get('name'))}: {status or 'unknown'}")
        elif kind == "api_retry":
            now.last = f"retry {as_count(event.get('attempt'))}: {as_text(event.get('error')) or 'no answer'}"
        elif kind == "permission_denied":
            self._warn(f"denied: {as_text(event.get('tool_name'))}")
        elif kind in {"model_fallback", "status"}:
            now.last = reading.one_line(as_text(event.get("content")) or as_text(event.get("status")), 120) or now.last

    def _warn(self, what: str) -> None:
        if len(self.progress.warnings) < 20:
            self.progress.warnings.append(reading.one_line(what))
