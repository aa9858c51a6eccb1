"""What a provider's refusal means to Claude Code: structured fields first; words change with versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from nightcrew.adapters.agents.claude.stream import Event, as_count, as_dict, as_text, blocks
from nightcrew.adapters.telling import Rule, first
from nightcrew.core import reading
from nightcrew.core.outcome import Ending, Outcome

__all__ = ["ERROR", "LIMITS", "REFUSALS", "Refusal", "message", "quoted", "refused", "words"]

ERROR = {  # assistant.error and system/api_retry.error: the most stable field over versions
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
API_ERROR = {  # result.api_error, assistant.api_error: finer than `error`, only in newer versions, values are added
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
API_TYPE = {  # result.api_error_type: the provider's own word
    "rate_limit_error": Outcome.RATE_LIMITED,
    "overloaded_error": Outcome.OVERLOADED,
    "timeout_error": Outcome.OVERLOADED,
    "authentication_error": Outcome.LOGGED_OUT,
    "permission_error": Outcome.LOGGED_OUT,
    "billing_error": Outcome.OUT_OF_CREDIT,
    "request_too_large": Outcome.CONTEXT_FULL,
}
STATUS = {
    str(status): kind for status in (400, 401, 403, 404, 408, 413, 429, 500, 529)
    if (kind := reading.kind_of_status(status))
}  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """The answer that carries an error, what the CLI's `result` sums up, and the last rate limit info before it."""

    error: Event
    result: Event
    limit: Event
    now: datetime
    told: Ending = Ending(Outcome.CRASHED, "")  # as it looks before limits are looked at

    @property
    def text(self) -> str:
        return message(self.result) or words(self.error)

    @property
    def status(self) -> int:
        return as_count(self.result.get("api_error_status")) or as_count(self.error.get("api_error_status"))

    @property
    def rejected(self) -> bool:
        return self.limit.get("status") == "rejected"

    def resets(self) -> float | None:
        """When the limit ends, as the event states it."""
        infos = [self.limit, as_dict(as_dict(self.error.get("api_error_params")).get("rate_limit_info"))]
        rejected = [info for info in infos if info.get("status") == "rejected"]
        keys = ("resetsAt", "overageResetsAt")
        stated = (reading.reset_from_epoch(info.get(key), self.now) for info in rejected for key in keys)
        return next((at for at in stated if at is not None), None)


def refused(refusal: Refusal) -> Ending:
    """What a refusal means, and until when."""
    _, told = first(REFUSALS, refusal)
    _, told = first(LIMITS, Refusal(refusal.error, refusal.result, refusal.limit, refusal.now, told))
    return told


def _stop_reason(refusal: Refusal) -> Ending | None:
    stopped = as_dict(refusal.error.get("message")).get("stop_reason"), refusal.result.get("stop_reason")
    return Ending(Outcome.REFUSED, "stop_reason=refusal") if "refusal" in stopped else None


def _by(name: str, table: Mapping[str, Outcome], value: Callable[[Refusal], object]) -> Rule[Refusal]:
    def tell(refusal: Refusal) -> Ending | None:
        found = value(refusal)
        if not isinstance(found, str) or found not in table:
            return None
        status = f", api_error_status={refusal.status}" if refusal.status else ""
        return Ending(table[found], f"{name}={found}{status}")

    return Rule(f"`{name}`", tell, table)


def _either(name: str) -> Callable[[Refusal], object]:
    return lambda refusal: refusal.result.get(name) or refusal.error.get(name)


def _unpaid(refusal: Refusal) -> Ending | None:
    return Ending(Outcome.OUT_OF_CREDIT, "api_error_status=402") if refusal.status == 402 else None


def _by_words(refusal: Refusal) -> Ending | None:
    told = reading.kind_of_refusal(refusal.text, refusal.status)
    return Ending(told, f"the words of the error (api_error_status={refusal.status or None})") if told else None


def _by_status(refusal: Refusal) -> Ending | None:
    kind = reading.kind_of_status(refusal.status)
    return Ending(kind, f"api_error_status={refusal.status}") if kind else None


def _unknown(refusal: Refusal) -> Ending:
    return Ending(Outcome.AGENT_ERROR, "result.is_error" if refusal.result else "an answer that is an error")


REFUSALS: tuple[Rule[Refusal], ...] = (
    Rule("`stop_reason` is `refusal`", _stop_reason, kinds=(Outcome.REFUSED,)),
    _by("api_error", API_ERROR, _either("api_error")),
    _by("assistant.error", ERROR, lambda refusal: refusal.error.get("error")),
    _by("api_error_type", API_TYPE, _either("api_error_type")),
    Rule("`api_error_status` is 402", _unpaid, kinds=(Outcome.OUT_OF_CREDIT,)),
    Rule("the words of the error", _by_words, by_words=True),
    Rule("`api_error_status`", _by_status, STATUS),
    Rule("an error of which nothing more is known", _unknown, kinds=(Outcome.AGENT_ERROR,)),
)
"""What the fields of a refusal say, the most certain first."""


def _only_money_helps(refusal: Refusal) -> Ending | None:
    """`You're out of usage credits`: a limit that no clock ends, only a person."""
    stated = refusal.resets() or reading.reset_from_text(refusal.text, refusal.now)
    if refusal.told.outcome is not Outcome.RATE_LIMITED or stated is not None:
        return None
    if reading.kind_of_text(refusal.text) is not Outcome.OUT_OF_CREDIT:
        return None
    return Ending(Outcome.OUT_OF_CREDIT, refusal.told.evidence + quoted(refusal.text))


def _limited(refusal: Refusal) -> Ending | None:
    if refusal.told.outcome is not Outcome.RATE_LIMITED:
        return None
    return _until(refusal)


def _credit_that_comes_back(refusal: Refusal) -> Ending | None:
    if refusal.told.outcome is not Outcome.OUT_OF_CREDIT or not refusal.rejected or refusal.resets() is None:
        return None
    return _until(refusal)


def _until(refusal: Refusal) -> Ending:
    at = refusal.resets()
    at = reading.reset_from_text(refusal.text, refusal.now) if at is None else at
    window = as_text(refusal.limit.get("rateLimitType")) if refusal.rejected else ""
    said = f"{refusal.told.evidence}, rate_limit_event rejected {window}".rstrip() if window else refusal.told.evidence
    return Ending(Outcome.RATE_LIMITED, said + quoted(refusal.text), resets_at=at)


def _as_told(refusal: Refusal) -> Ending:
    unpaid = refusal.told.outcome is Outcome.OUT_OF_CREDIT
    at = reading.reset_from_text(refusal.text, refusal.now) if unpaid else None
    return Ending(refusal.told.outcome, refusal.told.evidence + quoted(refusal.text), resets_at=at)


LIMITS: tuple[Rule[Refusal], ...] = (
    Rule("a limit without a reset, whose words speak of credit", _only_money_helps, kinds=(Outcome.OUT_OF_CREDIT,)),
    Rule("a limit, until `rate_limit_event.resetsAt` or what its words say", _limited, kinds=(Outcome.RATE_LIMITED,)),
    Rule("no credit, yet `rate_limit_event` is `rejected` and has a reset", _credit_that_comes_back,
         kinds=(Outcome.RATE_LIMITED,)),
    Rule("as it was told", _as_told),
)  # fmt: skip
"""What is a limit after all, and until when."""


def words(event: Event) -> str:
    """The text of an answer."""
    return "".join(as_text(block.get("text")) for block in blocks(event))


def message(result: Event) -> str:
    """The text of a result."""
    errors = result.get("errors")
    listed = "; ".join(as_text(item) for item in errors) if isinstance(errors, list) else ""
    return as_text(result.get("result")) or listed


def quoted(text: str) -> str:
    """The text behind a colon, "" for none."""
    said = reading.one_line(text)
    return f': "{said}"' if said else ""
