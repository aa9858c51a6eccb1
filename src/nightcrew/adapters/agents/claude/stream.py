"""Claude Code's `stream-json`, event by event: what may be said of a session while it runs, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from nightcrew.core import reading
from nightcrew.core.model import Usage, Window
from nightcrew.ports import Progress

Event = dict[str, Any]
LENGTHS = {"five_hour": 18_000.0, "seven_day": 604_800.0}
"""Seconds of the windows that the CLI names; those of one model (`seven_day_opus`) are as long."""


def events_in(line: bytes) -> list[Event]:
    """The events on a line: one, or all of them with `--output-format json --verbose`; [] for anything else.

    A provider's bare answer, `API Error: 529 {"type":"error",...}`, is none: its words tell more.
    """
    start = line.find(b"{") if not line.lstrip().startswith(b"[{") else 0
    if start < 0:
        return []
    try:
        found = msgspec.json.decode(line[start:])
    except (ValueError, RecursionError):
        return []
    items = found if isinstance(found, list) else [found]
    events = [item for item in items if isinstance(item, dict) and isinstance(item.get("type"), str)]
    return [event for event in events if event["type"] != "error"]


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


def windows_in(info: Event) -> tuple[Window, ...]:
    """The provider's windows that a `rate_limit_info` tells of, as far as it says how much of them is used."""
    named = {name: as_dict(window) for name, window in as_dict(info.get("unifiedWindows")).items()}
    if not named and (one := as_text(info.get("rateLimitType"))):
        named = {one: info}
    made = (_window(name, {"status": info.get("status")} | window) for name, window in named.items())
    return tuple(window for window in made if window)


def _window(name: str, said: Event) -> Window | None:
    status, resets = said.get("status"), as_count(said.get("resetsAt"))
    used = next((x for key in ("utilization", "surpassedThreshold") if (x := _share(said.get(key))) is not None), None)
    used = 1.0 if status == "rejected" and said.get("isUsingOverage") is not True else used
    if used is None or not resets or not name:
        return None
    length = next((seconds for kind, seconds in LENGTHS.items() if name.startswith(kind)), 0.0)
    return Window(name[:60], used, float(resets), length, warning=status in ("allowed_warning", "rejected"))


def _share(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return min(float(value), 1.0) if number and value >= 0 else None  # type: ignore[operator,arg-type]


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


ASKING = frozenset({"AskUserQuestion", "ExitPlanMode"})
"""Tools that wait for a person."""


def _question(asked: Event) -> str:
    questions = asked.get("questions")
    first = as_dict(questions[0]) if isinstance(questions, list) and questions else asked
    return reading.one_line(as_text(first.get("question"))) or "a question to a person"


class ClaudeConversation:
    """One session's stream, one-way: the prompt goes in at once, events come out."""

    def __init__(self, prompt: str, transcript: str = "") -> None:
        self.progress = Progress(transcript=transcript)
        self._prompt = prompt
        self._ledger = Ledger()
        self._tools: dict[str, str] = {}  # running ones: what it asks a person, "" for nothing
        self._permission = ""  # what the CLI asks us, and would wait for
        self._calls: dict[str, tuple[int, int]] = {}  # by subagent: the last call, and how often in a row

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
                self._permission = ""
                now.last = f"tool {as_text(event.get('tool_name'))} runs".replace("  ", " ")
            case "rate_limit_event":
                info = as_dict(event.get("rate_limit_info"))
                now.last = f"rate limit: {as_text(info.get('status'))}"
                told = {window.name: window for window in windows_in(info)}
                now.windows = (*(w for w in now.windows if w.name not in told), *told.values())
            case "control_request" if as_dict(event.get("request")).get("subtype") == "can_use_tool":
                tool = as_text(as_dict(event.get("request")).get("tool_name"))
                self._permission = f"may it use {tool or 'a tool'}?"
            case "control_cancel_request" | "control_response":
                self._permission = ""
            case "system":
                self._system(event)
        self._wait(event["type"] == "tool_progress")

    def _wait(self, beats: bool) -> None:
        """What it waits on: a question nobody answers, a tool (`beats`: it says so itself), or the model."""
        now = self.progress
        now.asks = self._permission or next(filter(None, self._tools.values()), "")
        now.waiting_on = "prompt" if now.asks else "tool" if self._tools or beats else "model"

    def _answered(self, event: Event) -> None:
        now, model = self.progress, as_text(as_dict(event.get("message")).get("model"))
        now.model = model if model not in {"", "<synthetic>"} and own(event) else now.model
        now.over = now.over and not own(event)
        self._ledger.answer(event)
        now.usage, self._permission = self._ledger.total(), ""
        for block in blocks(event):
            if block.get("type") == "tool_use":
                self._called(block, as_text(event.get("parent_tool_use_id")))
            elif block.get("type") == "text":
                now.last = reading.one_line(as_text(block.get("text")), 120) or now.last

    def _called(self, block: Event, by: str) -> None:
        """A tool is called: by the main conversation, or a subagent, each of which may go round in circles."""
        now, name, asked = self.progress, as_text(block.get("name")), as_dict(block.get("input"))
        call = hash((name, msgspec.json.encode(asked)))
        before, often = self._calls.get(by, (0, 0))
        tool = as_text(block.get("id"))
        if not tool or tool not in self._tools:  # one block comes again with partial messages
            self._calls[by] = call, often + 1 if call == before else 1
            now.same_calls = self._calls[by][1]
        self._tools[tool] = _question(asked) if name in ASKING else ""
        what = next((value for value in asked.values() if isinstance(value, str)), "")
        now.last = reading.one_line(f"{name} {what}", 120)

    def _told(self, event: Event) -> None:
        now = self.progress
        if event["type"] == "result":
            self._ledger.result(event)
            self._tools.clear()
            now.usage, now.over, now.last = self._ledger.total(), True, f"ended: {as_text(event.get('subtype'))}"
        self._permission = ""
        for block in blocks(event):
            self._tools.pop(as_text(block.get("tool_use_id")), None)

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
