"""What codex says, read: the notifications of `codex app-server` and the events of `codex exec --json`.

Both are lines of JSON about one thread (codex's word for a session) and its turns. `Account` hears them one by one and
tells at any moment how the thread stands, in the end how it ended and why. No I/O; garbage is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from nightcrew.adapters.agents.codex.counts import Tokens, usage_of, windows_in
from nightcrew.adapters.agents.codex.faults import (
    Event,
    Fault,
    count_at,
    event_in,
    inner,
    text_at,
)
from nightcrew.core.model import Usage, Window
from nightcrew.core.outcome import Ending, Outcome
from nightcrew.core.prompt import claims_in
from nightcrew.core.reading import (
    findings_in,
    one_line,
    reset_from_epoch,
    reset_from_text,
)

__all__ = ["ACCOUNT", "INTERRUPT", "Account"]

# Ids of our own requests. Codex echoes them, so that a stream tells by itself what was asked.
ACCOUNT, INTERRUPT = "account/read", "turn/interrupt: turn limit"

_SPOKEN = frozenset({"agentMessage", "agent_message"})
_THOUGHT = frozenset({"reasoning", "plan", "todo_list"})
_NOT_THE_MODEL = frozenset({"userMessage", "hookPrompt", "error", "contextCompaction", ""})
_INPUT = ("command", "cwd", "tool", "arguments", "query", "changes")  # of a call; what else it says differs each time
_OVER = frozenset({"completed", "failed", "interrupted"})
_FARTHEST_ZONE = 14 * 3600


@dataclass
class Account:
    """What was heard of one run of codex, up to now."""

    thread: str = ""
    model: str = ""
    said: str = ""  # the last message of this turn
    turn: str = ""  # id of the turn, when the protocol has one
    state: str = "new"  # new | open | completed | failed | interrupted
    fault: Fault | None = None  # what ended it
    trouble: Fault | None = None  # the last error that nothing good followed
    retries: int = 0  # errors in a row after which codex would try again for ever
    answers: int = 0
    tool: str = ""  # the tool that runs
    last: str = ""  # the last event in a few words
    lines: int = 0
    warnings: list[str] = field(default_factory=list)
    stored: bool = False  # the thread is on codex's disk and can be resumed
    needs_login: bool = False
    turn_limit: bool = False  # we had the turn interrupted
    told: dict[str, Window] = field(default_factory=dict)  # windows, until somebody takes them out
    same_calls: int = 0  # how often in a row the same tool was called with the same input
    transcript: str = ""  # codex's own record of the thread
    by_exec: bool = False
    _fresh: bool = False
    _broken: bool = False  # codex calls the thread broken
    _answered: bool = False  # the model did something in this turn
    _asked: bool = True  # the next thing the model does begins an answer
    _tokens: dict[str, Tokens] = field(default_factory=dict)
    _at: int = 0  # when the last event was sent, in milliseconds
    _windows: dict[str, tuple[int, int]] = field(default_factory=dict)  # percent used, reset
    no_credit: bool = False
    _call: int = 0

    def hear(self, line: bytes) -> Event:
        """Take one line; returns the event that it was, {} for garbage."""
        event = event_in(line)
        self.lines += 1
        self._at = count_at(event, "emittedAtMs") or self._at
        name = text_at(event, "method") or text_at(event, "type")
        if "method" not in event and "id" in event:
            self._answer(event)
        elif (handler := _HANDLERS.get(name)) and self._ours(event, name):
            handler(self, event)
        return event

    def _ours(self, event: Event, name: str) -> bool:
        """Whether it is about our thread: codex also tells of sub-agents' threads. Their tokens are ours to pay."""
        thread = text_at(event, "params", "threadId")
        self.thread = self.thread or thread
        return not thread or thread == self.thread or name == "thread/tokenUsage/updated"

    @property
    def usage(self) -> Usage:
        """What this session used, sub-agents too."""
        return sum((tokens.spent for tokens in self._tokens.values()), Usage(turns=self.answers))

    def warn(self, text: str) -> None:
        """Keep a warning for people, once."""
        line = one_line(text)
        if line and line not in self.warnings and len(self.warnings) < 50:
            self.warnings.append(line)

    def _answer(self, event: Event) -> None:
        """Codex answers a request of ours."""
        request, error, result = text_at(event, "id"), inner(event, "error"), inner(event, "result")
        if request == INTERRUPT:
            self.turn_limit = error is None
        elif request == ACCOUNT:
            self.needs_login = inner(result, "requiresOpenaiAuth") is True and not inner(result, "account")
        elif error is not None:
            fault = Fault.of(error)
            info = text_at(error, "data", "codexErrorInfo")
            self.state, self.fault = "failed", replace(fault, info=info, request=request or "request")
        elif thread := text_at(result, "thread", "id"):
            self.thread, self.model = thread, text_at(result, "model") or self.model
            self.transcript = text_at(result, "thread", "path") or self.transcript
        elif (turn := text_at(result, "turn", "id")) and turn != self.turn:
            self.state = "open"

    def _thread_started(self, event: Event) -> None:
        thread = text_at(event, "params", "thread", "id") or text_at(event, "thread_id")
        self.by_exec = self.by_exec or "thread_id" in event
        self.thread = self.thread or thread
        self._fresh = self._fresh or thread == self.thread

    def _turn_started(self, event: Event) -> None:
        self.state, self.said, self.turn = "open", "", text_at(event, "params", "turn", "id")
        self.fault = self.trouble = None
        self._broken = self._answered = False

    def _item_started(self, event: Event) -> None:
        item, kind = _item(event)
        if self._made_by_model(kind) and kind not in _SPOKEN | _THOUGHT:
            self.tool = kind
            self.last = _deed(kind, item)
            call = hash((kind, *(json.dumps(inner(item, key), sort_keys=True) for key in _INPUT)))
            self.same_calls = self.same_calls + 1 if call == self._call else 1
            self._call = call

    def _item_completed(self, event: Event) -> None:
        item, kind = _item(event)
        self.stored = True
        if kind == "error":
            self.warn(text_at(item, "message"))
        if not self._made_by_model(kind):
            return
        if kind in _SPOKEN:
            self.said = text_at(item, "text")
            self.last = one_line(self.said)
        elif kind not in _THOUGHT:
            self.tool, self._asked = "", True
            self.last = _deed(kind, item)

    def _made_by_model(self, kind: str) -> bool:
        """Whether the model did this; then earlier trouble is over, and the turn is not."""
        if kind in _NOT_THE_MODEL:
            return False
        self.state = "open"
        self.trouble, self.retries, self._answered = None, 0, True
        if self.by_exec and self._asked:
            self.answers += 1  # app-server counts tokens per answer, exec does not
            self._asked = False
        return True

    def _delta(self, event: Event) -> None:
        self.trouble, self.retries = None, 0

    def _error(self, event: Event) -> None:
        if "params" in event:
            self.trouble = Fault.of(inner(event, "params", "error"), again=inner(event, "params", "willRetry") is True)
        else:
            self.trouble = Fault.of(event, again=text_at(event, "message").startswith("Reconnecting"))
        self.state = "open" if self.state == "completed" else self.state
        self.retries += self.trouble.endless
        self.last = one_line(self.trouble.text)

    def _turn_completed(self, event: Event) -> None:
        turn = inner(event, "params", "turn")
        status, error = text_at(turn, "status"), inner(turn, "error")
        clean = status == "completed" and error is None
        self.state = status if clean or status == "interrupted" else "failed"
        self.fault = Fault.of(error) if isinstance(error, dict) else self.trouble
        self.stored, self.tool = True, ""
        items = inner(turn, "items")
        for item in items if isinstance(items, list) else ():
            if text_at(item, "type") in _SPOKEN:
                self.said = text_at(item, "text") or self.said

    def _exec_completed(self, event: Event) -> None:
        self.state, self.by_exec, self.tool = "completed", True, ""
        self._tokens[""] = Tokens(Usage(), usage_of(inner(event, "usage")))

    def _exec_failed(self, event: Event) -> None:
        self.state, self.by_exec, self.tool = "failed", True, ""
        fault = Fault.of(inner(event, "error"))
        self.fault = fault if fault.text else self.trouble

    def _token_usage(self, event: Event) -> None:
        thread = text_at(event, "params", "threadId")
        ours, usage = thread == self.thread, inner(event, "params", "tokenUsage")
        tokens = self._tokens.setdefault(thread, Tokens())
        grew = tokens.hear(usage, answered=self._answered or not ours, fresh=self._fresh and ours)
        self.answers += grew and ours

    def _limits(self, event: Event) -> None:
        """Updates are sparse: what one does not name stays as it was."""
        limits = inner(event, "params", "rateLimits")
        for window in ("primary", "secondary"):
            if reset := count_at(limits, window, "resetsAt"):
                name = f"{text_at(limits, 'limitId')}/{window}"
                self._windows[name] = (count_at(limits, window, "usedPercent"), reset)
        self.told |= {window.name: window for window in windows_in(event)}
        # Those of a workspace tell of credits and spend caps; the only other kind is `rate_limit_reached`.
        self.no_credit = self.no_credit or text_at(limits, "rateLimitReachedType").startswith("workspace_")

    def _status(self, event: Event) -> None:
        self._broken = text_at(event, "params", "status", "type") == "systemError"

    def _rerouted(self, event: Event) -> None:
        self.model = text_at(event, "params", "toModel") or self.model

    def _warning(self, event: Event) -> None:
        self.warn(text_at(event, "params", "message") or text_at(event, "params", "summary"))

    def _mcp_server(self, event: Event) -> None:
        if text_at(event, "params", "status") == "failed":
            self.warn(f"MCP server {text_at(event, 'params', 'name')}: {text_at(event, 'params', 'error') or 'failed'}")

    def over(self, retries: int) -> bool:
        """Whether nothing more is to come, or only tries without end: `retries` of them are enough."""
        broken = self._broken and self.trouble is not None and not self.trouble.again
        return self.state in _OVER or broken or self.retries >= retries

    def reset(self, fault: Fault, now: datetime) -> float | None:
        """When the limit ends: the window that is used up, or that the text means; else what the text says."""
        if at := reset_from_epoch(self._at, now):  # a recording is read as of when it was made
            now = datetime.fromtimestamp(at, now.tzinfo)
        said = reset_from_text(fault.text, now)
        windows = sorted(
            (window for window in self._windows.values() if reset_from_epoch(window[1], now)), reverse=True
        )
        for _, at in windows:
            if said is not None and _may_mean(said, at):
                return float(at)
        if used_up := [at for used, at in windows if used >= 100]:
            return float(max(used_up))
        nearly = [at for used, at in windows if used >= 90 and fault.info == "usageLimitExceeded"]
        return float(nearly[0]) if nearly and said is None else said

    def ends_as(self, outcome: Outcome, evidence: str, resets_at: float | None = None) -> Ending:
        return Ending(
            outcome,
            evidence,
            resets_at,
            said=self.said,
            usage=self.usage,
            model=self.model,
            session_id=self.thread,
            claims=claims_in(self.said) if outcome is Outcome.BLOCKED else (),
            findings=findings_in(self.said) if outcome is Outcome.DONE else None,
        )


def _item(event: Event) -> tuple[object, str]:
    item = inner(event, "params", "item") or inner(event, "item")
    return item, text_at(item, "type")


def _deed(kind: str, item: object) -> str:
    """`commandExecution: git status`, for people."""
    return one_line(f"{kind}: {text_at(item, 'command') or text_at(item, 'tool') or text_at(item, 'query')}")


def _may_mean(said: float, at: int) -> bool:
    """Whether a clock time without zone and seconds can mean `at`. Zones differ by quarters of an hour."""
    return abs(at - said) <= _FARTHEST_ZONE and (at - said) % 900 < 60


_HANDLERS: dict[str, Callable[[Account, Event], None]] = {
    "thread/started": Account._thread_started,
    "thread.started": Account._thread_started,
    "turn/started": Account._turn_started,
    "turn.started": Account._turn_started,
    "item/started": Account._item_started,
    "item.started": Account._item_started,
    "item/completed": Account._item_completed,
    "item.completed": Account._item_completed,
    "item/agentMessage/delta": Account._delta,
    "item/reasoning/textDelta": Account._delta,
    "item/reasoning/summaryTextDelta": Account._delta,
    "error": Account._error,
    "turn/completed": Account._turn_completed,
    "turn.completed": Account._exec_completed,
    "turn.failed": Account._exec_failed,
    "thread/tokenUsage/updated": Account._token_usage,
    "account/rateLimits/updated": Account._limits,
    "thread/status/changed": Account._status,
    "model/rerouted": Account._rerouted,
    "warning": Account._warning,
    "guardianWarning": Account._warning,
    "configWarning": Account._warning,
    "mcpServer/startupStatus/updated": Account._mcp_server,
}
