"""How a Claude Code session ended, and the field it is told from. Structured fields first; words change with versions.

`result.subtype` is "success" for every API failure and an interrupt exits with 0, so nothing is done unless all fields
agree: `result.is_error` is false, no last answer carries an error, and the exit code is 0 (or a signal after the end).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from nightcrew.adapters.agents.claude.stream import Event, Ledger, as_count, as_dict, as_text, blocks, events_in, own
from nightcrew.core import reading
from nightcrew.core.outcome import Ending, Outcome
from nightcrew.core.prompt import claims_in

_ERROR = {  # assistant.error and system/api_retry.error: the most stable field over versions
    "rate_limit": Outcome.RATE_LIMITED,
    "overloaded": Outcome.OVERLOADED,
    "server_error": Outcome.OVERLOADED,
    "authentication_failed": Outcome.LOGGED_OUT,
    "oauth_org_not_allowed": Outcome.LOGGED_OUT,
    "account_on_hold": Outcome.LOGGED_OUT,
    "verification_required": Outcome.LOGGED_OUT,
    "cloud_credential_error": Outcome.LOGGED_OUT,
    "billing_error": Outcome.OUT_OF_CREDIT,
    "model_not_found": Outcome.MISCONFIGURED,
}
_API_ERROR = {  # result.api_error, assistant.api_error: finer than `error`, only in newer versions, values are added
    "usage_limit_reached": Outcome.RATE_LIMITED,
    "model_requires_usage_credits": Outcome.OUT_OF_CREDIT,
    "long_context_credits_required": Outcome.OUT_OF_CREDIT,
    "autocompact_thrashing": Outcome.CONTEXT_FULL,
    "message_over_context_limit": Outcome.CONTEXT_FULL,
    "stored_login_refused": Outcome.LOGGED_OUT,
    "oauth_refresh_store_refused": Outcome.LOGGED_OUT,
    "provider_credentials": Outcome.LOGGED_OUT,
    "gateway_signin_required": Outcome.LOGGED_OUT,
    "gateway_session_expired": Outcome.LOGGED_OUT,
    "api_key_auth_disabled": Outcome.LOGGED_OUT,
    "org_disabled_credential": Outcome.LOGGED_OUT,
    "invalid_credential_header": Outcome.LOGGED_OUT,
    "no_response": Outcome.OVERLOADED,
    "connection_failed": Outcome.OVERLOADED,
    "stream_idle_timeout": Outcome.OVERLOADED,
    "network_edge_blocked": Outcome.OVERLOADED,
    "computer_slept": Outcome.OVERLOADED,
    "empty_completion": Outcome.OVERLOADED,
    "gateway_content_type": Outcome.OVERLOADED,
    "claude_code_version_too_old": Outcome.MISCONFIGURED,
    "named_profile_unusable": Outcome.MISCONFIGURED,
    "tls_untrusted_ca": Outcome.MISCONFIGURED,
    "tls_cert_signature_failure": Outcome.MISCONFIGURED,
    "effort_requires_thinking": Outcome.MISCONFIGURED,
    "advisor_incompatible": Outcome.MISCONFIGURED,
    "model_substitution_disabled": Outcome.MISCONFIGURED,
    "no_allowed_fallback": Outcome.MISCONFIGURED,
    "safety_monitor_blocked": Outcome.REFUSED,
    "dlp_request_denied": Outcome.REFUSED,
}
_API_TYPE = {  # result.api_error_type: the provider's own word
    "rate_limit_error": Outcome.RATE_LIMITED,
    "overloaded_error": Outcome.OVERLOADED,
    "timeout_error": Outcome.OVERLOADED,
    "authentication_error": Outcome.LOGGED_OUT,
    "permission_error": Outcome.LOGGED_OUT,
    "billing_error": Outcome.OUT_OF_CREDIT,
    "request_too_large": Outcome.CONTEXT_FULL,
}
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
_PASSING = {Outcome.OVERLOADED, Outcome.RATE_LIMITED}
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
        self._alive()
        if event.get("error") or event.get("is_api_error_message"):
            self.error = event
            return
        self.said = _words(event) or self.said
        self.answers += 1
        self.error = None
        model = as_text(as_dict(event.get("message")).get("model"))
        self.model = model if model not in {"", "<synthetic>"} else self.model

    def _alive(self) -> None:
        self.retry, self.waits, self.going_on = None, False, self.result is not None


def ending(heard: Heard, exit_code: int | None, stderr: str, now: datetime) -> Ending:
    """The one outcome of a stream, with the field it is told from."""
    if heard.result is not None and not heard.going_on:
        told = _after_result(heard, heard.result, exit_code, now)
    else:
        told = _without_result(heard, exit_code, stderr, now)
    return replace(told, usage=heard.ledger.total(), model=heard.model, session_id=heard.session, said=heard.said)


def _after_result(heard: Heard, result: Event, exit_code: int | None, now: datetime) -> Ending:
    reason = as_text(result.get("terminal_reason"))
    clean = result.get("is_error") is False and result.get("subtype") == "success" and heard.error is None
    if clean and reason not in _FAILED:
        if exit_code in {None, 0} or reading.was_signal(exit_code):
            return _done(heard, result)
        return Ending(Outcome.CRASHED, f"exit code {exit_code} after a result that says success")
    subtype = as_text(result.get("subtype"))
    for field_, value, table in (("subtype", subtype, _SUBTYPE), ("terminal_reason", reason, _REASON)):
        if value in table:
            return Ending(table[value], f"result.{field_}={value}{_quoted(_message(result))}")
    if subtype == "error_during_execution":
        return _during_execution(heard, result, now)
    return _api_fault(heard, heard.error or {}, result, now)


def _done(heard: Heard, result: Event) -> Ending:
    structured = result.get("structured_output")
    claims = claims_in(heard.said)
    if claims:
        return Ending(Outcome.BLOCKED, f"the last message claims a block{_quoted(claims[0].reason)}", claims=claims)
    refused = result.get("permission_denials")
    denied = sorted({as_text(as_dict(item).get("tool_name")) for item in refused} if isinstance(refused, list) else ())
    told = f"result.is_error=false, num_turns={as_count(result.get('num_turns'))}"
    told += f", denied: {', '.join(denied)}" if denied else ""
    findings = reading.findings_in(structured if isinstance(structured, dict) else heard.said)
    return Ending(Outcome.DONE, reading.one_line(told), findings=findings)


def _during_execution(heard: Heard, result: Event, now: datetime) -> Ending:
    """The CLI gave up on its own: interrupted, wrongly started, or broken."""
    text = _message(result)
    told = f"result.subtype=error_during_execution{_quoted(text)}"
    if "ede_diagnostic" in text:
        return Ending(Outcome.CRASHED, told)
    if heard.error is not None:
        return _api_fault(heard, heard.error, result, now)
    kind = reading.kind_of_complaint(text) or (Outcome.CRASHED if heard.answers else Outcome.MISCONFIGURED)
    return Ending(kind, told)


def _api_fault(heard: Heard, error: Event, result: Event, now: datetime) -> Ending:
    """What the provider's refusal means; `error` is the answer that carries it, `result` what the CLI sums up."""
    text = _message(result) or _words(error)
    kind, told = _kind(error, result, text)
    if kind is Outcome.RATE_LIMITED:
        return _limited(heard, error, text, told, now)
    if kind is Outcome.OUT_OF_CREDIT:
        at = reading.reset_from_text(text, now)
        stated = _resets(heard, error, now) if heard.limit.get("status") == "rejected" else None
        if stated is not None:
            return _limited(heard, error, text, told, now)
        return Ending(kind, told + _quoted(text), resets_at=at)
    return Ending(kind, told + _quoted(text))


def _kind(error: Event, result: Event, text: str) -> tuple[Outcome, str]:
    message = as_dict(error.get("message"))
    if "refusal" in (message.get("stop_reason"), result.get("stop_reason")):
        return Outcome.REFUSED, "stop_reason=refusal"
    status = as_count(result.get("api_error_status")) or as_count(error.get("api_error_status"))
    fields = (
        ("api_error", result.get("api_error") or error.get("api_error"), _API_ERROR),
        ("assistant.error", error.get("error"), _ERROR),
        ("api_error_type", result.get("api_error_type") or error.get("api_error_type"), _API_TYPE),
    )
    for name, value, table in fields:
        if isinstance(value, str) and value in table:
            return table[value], f"{name}={value}" + (f", api_error_status={status}" if status else "")
    if status == 402:
        return Outcome.OUT_OF_CREDIT, "api_error_status=402"
    by_words, by_status = reading.kind_of_text(text), reading.kind_of_status(status)
    # A rejected request is quoted back: words like "network" in it must not make an outage of it.
    if by_words is not None and (by_words not in _PASSING or by_status in {None, *_PASSING}):
        return by_words, f"the words of the error (api_error_status={status or None})"
    if by_status is not None:
        return by_status, f"api_error_status={status}"
    return Outcome.AGENT_ERROR, "result.is_error" if result else "an answer that is an error"


def _limited(heard: Heard, error: Event, text: str, told: str, now: datetime) -> Ending:
    at = _resets(heard, error, now)
    at = reading.reset_from_text(text, now) if at is None else at
    # "You're out of usage credits": a limit that no clock ends, only a person.
    if at is None and reading.kind_of_text(text) is Outcome.OUT_OF_CREDIT:
        return Ending(Outcome.OUT_OF_CREDIT, told + _quoted(text))
    window = as_text(heard.limit.get("rateLimitType")) if heard.limit.get("status") == "rejected" else ""
    told += f", rate_limit_event rejected {window}".rstrip() if window else ""
    return Ending(Outcome.RATE_LIMITED, told + _quoted(text), resets_at=at)


def _resets(heard: Heard, error: Event, now: datetime) -> float | None:
    infos = [heard.limit, as_dict(as_dict(error.get("api_error_params")).get("rate_limit_info"))]
    rejected = [info for info in infos if info.get("status") == "rejected"]
    stated = (
        reading.reset_from_epoch(info.get(key), now) for info in rejected for key in ("resetsAt", "overageResetsAt")
    )
    return next((at for at in stated if at is not None), None)


def _without_result(heard: Heard, exit_code: int | None, stderr: str, now: datetime) -> Ending:
    """The stream broke off: the last thing heard names the cause, if anything does."""
    died = reading.how_it_died(exit_code)
    if heard.error is not None:
        return _api_fault(heard, heard.error, {}, now)
    if heard.retry is not None:
        return _while_retrying(heard, heard.retry, died, now)
    if heard.waits:
        return _limited(heard, {}, "", f"{died} while it waited for the limit's reset", now)
    return _unexplained(heard, exit_code, stderr, now)


def _unexplained(heard: Heard, exit_code: int | None, stderr: str, now: datetime) -> Ending:
    died, shown = reading.how_it_died(exit_code), "\n".join([*heard.loose, _complaints(stderr)])
    if heard.asking:
        return Ending(Outcome.PROMPT_WAIT, f"control_request can_use_tool without an answer, {died}")
    if reading.asks_a_person("\n".join([*heard.loose, stderr[:20_000]])):
        return Ending(Outcome.PROMPT_WAIT, f"a dialog on the terminal, {died}{_quoted(shown)}")
    if heard.events or exit_code == 0 or reading.was_signal(exit_code):
        return Ending(Outcome.CRASHED, f"no result event, {died}{_quoted(shown)}")
    return _never_started(heard, exit_code, stderr, now)


def _while_retrying(heard: Heard, retry: Event, died: str, now: datetime) -> Ending:
    error, status = as_text(retry.get("error")), as_count(retry.get("error_status"))
    kind = _ERROR.get(error) or reading.kind_of_status(status) or Outcome.OVERLOADED
    told = f"{died} at retry {as_count(retry.get('attempt'))}, api_retry.error={error or None} status={status or None}"
    at = _resets(heard, {}, now) if kind is Outcome.RATE_LIMITED else None
    return Ending(kind, reading.one_line(told), resets_at=at)


def _never_started(heard: Heard, exit_code: int | None, stderr: str, now: datetime) -> Ending:
    """No event at all and a bad exit code: set up wrongly, or another output format than ours."""
    shown = "\n".join(heard.loose)
    complaint = _complaints(stderr)
    kind = reading.kind_of_text(shown) or reading.kind_of_complaint(complaint)
    if exit_code in {126, 127}:
        kind = Outcome.MISCONFIGURED
    at = reading.reset_from_text(shown, now) if kind is Outcome.RATE_LIMITED else None
    told = f"exit code {exit_code} and no event{_quoted(shown or complaint)}"
    return Ending(kind or Outcome.CRASHED, told, resets_at=at)


def _complaints(stderr: str) -> str:
    """stderr without the CLI's mere warnings."""
    lines = stderr[:20_000].splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("⚠", "Warning", "(node:")))


def _words(event: Event) -> str:
    return "".join(as_text(block.get("text")) for block in blocks(event))


def _message(result: Event) -> str:
    errors = result.get("errors")
    listed = "; ".join(as_text(item) for item in errors) if isinstance(errors, list) else ""
    return as_text(result.get("result")) or listed


def _quoted(text: str) -> str:
    said = reading.one_line(text)
    return f': "{said}"' if said else ""
