"""How a Claude Code session ended, and the field it is told from. Structured fields first; words change with versions.

`result.subtype` is "success" for every API failure and an interrupt exits with 0, so nothing is done unless all fields
agree: `result.is_error` is false, no last answer carries an error, and the exit code is 0 (or a signal after the end).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from nightcrew.adapters.agents.claude.faults import ERROR, LIMITS, REFUSALS, Refusal, message, quoted, refused, words
from nightcrew.adapters.agents.claude.stream import Event, Ledger, as_count, as_dict, as_text, events_in, own
from nightcrew.adapters.telling import Rule, first
from nightcrew.core import reading
from nightcrew.core.outcome import Ending, Outcome
from nightcrew.core.prompt import claims_in

_SUBTYPE = {
    "error_max_turns": Outcome.TURN_LIMIT,
    "error_max_budget_usd": Outcome.MONEY_CAP,
    "error_max_structured_output_retries": Outcome.AGENT_ERROR,
}
_REASON = {  # result.terminal_reason
    "max_turns": Outcome.TURN_LIMIT,
    "budget_exhausted": Outcome.MONEY_CAP,
    "prompt_too_long": Outcome.CONTEXT_FULL,
    "blocking_limit": Outcome.CONTEXT_FULL,
    "rapid_refill_breaker": Outcome.CONTEXT_FULL,
    "structured_output_retry_exhausted": Outcome.AGENT_ERROR,
    "malformed_tool_use_exhausted": Outcome.AGENT_ERROR,
    "aborted_streaming": Outcome.CRASHED,
    "aborted_tools": Outcome.CRASHED,
}
_FAILED = {*_REASON, "api_error", "model_error", "image_error"}


@dataclass
class Heard:
    """What matters of a stream for its ending, taken line by line; bounded, however long the stream is."""

    events: int = 0
    answers: int = 0
    result: Event | None = None
    going_on: bool = False  # the main conversation went on after the last result
    error: Event | None = None  # the main conversation's last answer, when it was an API error
    retry: Event | None = None  # an api_retry that nothing followed
    limit: Event = field(default_factory=dict)  # the last rate_limit_info
    waits: bool = False  # the last rate limit event said "rejected" and no answer followed
    asking: bool = False  # a permission is asked for on stdout and nothing followed
    loose: list[str] = field(default_factory=list)  # lines that are no events
    said: str = ""
    model: str = ""
    session: str = ""
    ledger: Ledger = field(default_factory=Ledger)

    def line(self, line: bytes) -> None:
        """Take one line of stdout, whatever it is."""
        found = events_in(line)
        if not found and line.strip() and len(self.loose) < 200:
            self.loose.append(line[:2000].decode("utf-8", "replace"))
        for event in found:
            self._take(event)

    def _take(self, event: Event) -> None:
        self.events += 1
        self.session = as_text(event.get("session_id")) or self.session
        self.asking = as_dict(event.get("request")).get("subtype") == "can_use_tool"
        match event["type"]:
            case "assistant":
                self._answer(event)
            case "user" | "stream_event" if own(event):
                self._alive()
            case "result":
                self.result, self.going_on, self.retry = event, False, None
                self.said = (as_text(event.get("result")) if event.get("is_error") is False else "") or self.said
                self.ledger.result(event)
            case "rate_limit_event":
                self.limit = as_dict(event.get("rate_limit_info"))
                self.waits = self.limit.get("status") == "rejected" and self.limit.get("isUsingOverage") is not True
            case "system" if event.get("subtype") == "api_retry":
                self.retry = event
            case "system" if event.get("subtype") == "init":
                self.model = as_text(event.get("model")) or self.model

    def _answer(self, event: Event) -> None:
        self.ledger.answer(event)
        if not own(event):
            return
        waited = self.waits
        self._alive()
        if event.get("error") or event.get("is_api_error_message") or _in_its_place(event, waited):
            self.error = event
            return
        self.said = words(event) or self.said
        self.answers += 1
        self.error = None
        model = as_text(as_dict(event.get("message")).get("model"))
        self.model = model if model not in {"", "<synthetic>"} else self.model

    def _alive(self) -> None:
        self.retry, self.waits, self.going_on = None, False, self.result is not None


def _in_its_place(event: Event, waited: bool) -> bool:
    """The CLI's own words where the model's should be, after a rejection or of a kind that we know."""
    synthetic = as_dict(event.get("message")).get("model") == "<synthetic>"
    return synthetic and (waited or reading.kind_of_text(words(event)) is not None)


@dataclass(frozen=True)
class End:
    """A stream that is over. `result` is the last one, if nothing of the main conversation came after it."""

    heard: Heard
    exit_code: int | None
    stderr: str
    now: datetime

    @property
    def result(self) -> Event | None:
        return None if self.heard.going_on else self.heard.result

    @property
    def clean(self) -> bool:
        """Whether every field agrees that it went well, the exit code aside."""
        result = self.result or {}
        fine = result.get("is_error") is False and result.get("subtype") == "success" and self.heard.error is None
        # A version may call these a success, too.
        declined = result.get("stop_reason") == "refusal" or as_count(result.get("api_error_status")) >= 400
        return fine and not declined and as_text(result.get("terminal_reason")) not in _FAILED

    @property
    def died(self) -> str:
        return reading.how_it_died(self.exit_code)

    @property
    def shown(self) -> str:
        """What it printed that is no event, and what it complained of."""
        return "\n".join([*self.heard.loose, _complaints(self.stderr)])


def ending(heard: Heard, exit_code: int | None, stderr: str, now: datetime) -> Ending:
    """The one outcome of a stream, with the field it is told from."""
    _, told = first(ENDS, End(heard, exit_code, stderr, now))
    return replace(told, usage=heard.ledger.total(), model=heard.model, session_id=heard.session, said=heard.said)


# -- with a result -----------------------------------------------------------------------------------------------------
def _done(end: End) -> Ending | None:
    if not end.clean or end.result is None or not (end.exit_code in {None, 0} or reading.was_signal(end.exit_code)):
        return None
    said, structured = end.heard.said, end.result.get("structured_output")
    if claims := claims_in(said):
        return Ending(Outcome.BLOCKED, f"the last message claims a block{quoted(claims[0].reason)}", claims=claims)
    refusals = end.result.get("permission_denials")
    denied = {as_text(as_dict(item).get("tool_name")) for item in refusals} if isinstance(refusals, list) else set()
    told = f"result.is_error=false, num_turns={as_count(end.result.get('num_turns'))}"
    told += f", denied: {', '.join(sorted(denied))}" if denied else ""
    findings = reading.findings_in(structured if isinstance(structured, dict) else said)
    return Ending(Outcome.DONE, reading.one_line(told), findings=findings)


def _failed_after_it(end: End) -> Ending | None:
    if not end.clean:
        return None
    return Ending(Outcome.CRASHED, f"exit code {end.exit_code} after a result that says success")


def _by(name: str, table: Mapping[str, Outcome]) -> Rule[End]:
    def tell(end: End) -> Ending | None:
        value = as_text((end.result or {}).get(name))
        if end.result is None or value not in table:
            return None
        return Ending(table[value], f"result.{name}={value}{quoted(message(end.result))}")

    return Rule(f"`result.{name}`", tell, table)


def _gave_up(end: End) -> str | None:
    """What the CLI says of having ended by itself: interrupted, wrongly started, or broken."""
    result = end.result or {}
    return message(result) if result.get("subtype") == "error_during_execution" else None


def _broke(end: End) -> Ending | None:
    text = _gave_up(end)
    told = f"result.subtype=error_during_execution{quoted(text or '')}"
    return Ending(Outcome.CRASHED, told) if text is not None and "ede_diagnostic" in text else None


def _never_began(end: End) -> Ending | None:
    text = _gave_up(end)
    if text is None or end.heard.error is not None:
        return None
    kind = reading.kind_of_complaint(text) or Outcome.MISCONFIGURED
    if end.heard.answers and kind is Outcome.MISCONFIGURED:
        kind = Outcome.CRASHED  # it was set up well enough to begin: a tool's or its own error, not a setting
    return Ending(kind, f"result.subtype=error_during_execution{quoted(text)}")


def _refused(end: End) -> Ending | None:
    if end.result is None and end.heard.error is None:
        return None
    return refused(Refusal(end.heard.error or {}, end.result or {}, end.heard.limit, end.now))


# -- without one: the last thing heard names the cause, if anything does -----------------------------------------------
def _while_retrying(end: End) -> Ending | None:
    if (retry := end.heard.retry) is None:
        return None
    error, status = as_text(retry.get("error")), as_count(retry.get("error_status"))
    kind = ERROR.get(error) or reading.kind_of_status(status) or Outcome.OVERLOADED
    said = f"api_retry.error={error or None} status={status or None}"
    told = f"{end.died} at retry {as_count(retry.get('attempt'))}, {said}"
    limited = kind is Outcome.RATE_LIMITED
    return Ending(kind, reading.one_line(told), resets_at=_limit(end).resets() if limited else None)


def _while_waiting(end: End) -> Ending | None:
    if not end.heard.waits:
        return None
    told = Ending(Outcome.RATE_LIMITED, f"{end.died} while it waited for the limit's reset")
    return first(LIMITS, replace(_limit(end), told=told))[1]


def _limit(end: End) -> Refusal:
    return Refusal({}, {}, end.heard.limit, end.now)


def _asks(end: End) -> Ending | None:
    said = f"control_request can_use_tool without an answer, {end.died}"
    return Ending(Outcome.PROMPT_WAIT, said) if end.heard.asking else None


def _dialog(end: End) -> Ending | None:
    if not reading.asks_a_person("\n".join([*end.heard.loose, end.stderr[:20_000]])):
        return None
    return Ending(Outcome.PROMPT_WAIT, f"a dialog on the terminal, {end.died}{quoted(end.shown)}")


def _broke_off(end: End) -> Ending | None:
    if not (end.heard.events or end.exit_code == 0 or reading.was_signal(end.exit_code)):
        return None
    return Ending(Outcome.CRASHED, f"no result event, {end.died}{quoted(end.shown)}")


def _not_found(end: End) -> Ending | None:
    return Ending(Outcome.MISCONFIGURED, _said_nothing(end)) if end.exit_code in {126, 127} else None


def _complained(end: End) -> Ending | None:
    """No event at all and a bad exit code: set up wrongly, or another output format than ours."""
    shown = "\n".join(end.heard.loose)
    kind = reading.kind_of_text(shown) or reading.kind_of_complaint(_complaints(end.stderr))
    at = reading.reset_from_text(shown, end.now) if kind is Outcome.RATE_LIMITED else None
    return Ending(kind, _said_nothing(end), resets_at=at) if kind else None


def _said_nothing(end: End) -> str:
    shown = "\n".join(end.heard.loose) or _complaints(end.stderr)
    return f"exit code {end.exit_code} and no event{quoted(shown)}"


def _complaints(stderr: str) -> str:
    """stderr without the CLI's mere warnings."""
    lines = stderr[:20_000].splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("⚠", "Warning", "(node:")))


ENDS: tuple[Rule[End], ...] = (
    Rule("`result.is_error` is false, `subtype` is `success`, no last answer is an error, `stop_reason` is no refusal, "
         "`api_error_status` is no error, and the exit code is 0 (or a signal, after the result)",
         _done, kinds=(Outcome.DONE, Outcome.BLOCKED)),
    Rule("the same, and a bad exit code", _failed_after_it, kinds=(Outcome.CRASHED,)),
    _by("subtype", _SUBTYPE),
    _by("terminal_reason", _REASON),
    Rule("`result.subtype` is `error_during_execution`, with the CLI's own diagnosis", _broke,
         kinds=(Outcome.CRASHED,)),
    Rule("`result.subtype` is `error_during_execution`: its words; without any, whether the model had answered",
         _never_began, kinds=(Outcome.CRASHED, Outcome.MISCONFIGURED), by_words=True),
    Rule("`result.is_error`, or a last answer that is an error: what the provider said (below)", _refused),
    Rule("no `result`, last of all `system/api_retry`: its `error`, else its status", _while_retrying, ERROR),
    Rule("no `result`, last of all `rate_limit_event` `rejected`", _while_waiting, kinds=(Outcome.RATE_LIMITED,)),
    Rule("no `result`, last of all `control_request` `can_use_tool`", _asks, kinds=(Outcome.PROMPT_WAIT,)),
    Rule("no `result`, a dialog on the terminal", _dialog, kinds=(Outcome.PROMPT_WAIT,)),
    Rule("no `result`, but events, or exit code 0, or a signal", _broke_off, kinds=(Outcome.CRASHED,)),
    Rule("no event, exit code 126 or 127", _not_found, kinds=(Outcome.MISCONFIGURED,)),
    Rule("no event: the words on stdout, else the complaint on stderr", _complained, by_words=True),
    Rule("no event and no words", lambda end: Ending(Outcome.CRASHED, _said_nothing(end)), kinds=(Outcome.CRASHED,)),
)  # fmt: skip
"""Every way an end is told, the most certain first."""
TOLD = (*ENDS, *REFUSALS, *LIMITS[:-1])
"""For the documentation."""
