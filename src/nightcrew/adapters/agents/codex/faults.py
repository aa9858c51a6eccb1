"""The errors codex reports, in one shape, and what each means: structured fields first, then words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nightcrew.adapters.telling import Rule, first
from nightcrew.core.outcome import Ending, Outcome
from nightcrew.core.reading import kind_of_complaint, kind_of_refusal, kind_of_status

__all__ = ["FAULTS", "Event", "Fault", "complaint", "count_at", "event_in", "inner", "kind_of_stderr", "text_at"]

Event = Mapping[str, object]

_INFO = {
    "contextWindowExceeded": Outcome.CONTEXT_FULL,
    "sessionBudgetExceeded": Outcome.TOKEN_CAP,
    "rateLimitExceeded": Outcome.RATE_LIMITED,
    "flexUnavailable": Outcome.OVERLOADED,
    "serverOverloaded": Outcome.OVERLOADED,
    "policyCapacityUnavailable": Outcome.OVERLOADED,
    "internalServerError": Outcome.OVERLOADED,
    "modelNotFound": Outcome.MISCONFIGURED,
    "sandboxError": Outcome.MISCONFIGURED,
    "unauthorized": Outcome.LOGGED_OUT,
    "cyberPolicy": Outcome.REFUSED,
    "misalignmentPolicyViolation": Outcome.REFUSED,
    "inferenceHookDenied": Outcome.REFUSED,
    "tooManyDenials": Outcome.AGENT_ERROR,
    "threadRollbackFailed": Outcome.AGENT_ERROR,
}
_HTTP = frozenset(
    {
        "httpConnectionFailed",
        "responseStreamConnectionFailed",
        "responseStreamDisconnected",
        "responseTooManyFailedAttempts",
    }
)
# `usageLimitExceeded` is said of limits that end by themselves and of money that does not come back by itself.
_NO_CREDIT = re.compile(
    r"^quota exceeded|to use codex with your chatgpt plan|out of credits|hit your spend cap|credit limit"
    r"|insufficient_quota|exceeded your current quota|billing_hard_limit|payment required|deactivated_workspace",
    re.I,
)
_BROKE = re.compile(r"agent loop died|turn aborted|interrupted \(ctrl-c\)|panicked", re.I)
# Codex's own sentences, where the words shared by all agents (core.reading) would mislead or do not reach.
_OWN = (
    (Outcome.CRASHED, _BROKE),
    (Outcome.OUT_OF_CREDIT, _NO_CREDIT),
    (Outcome.RATE_LIMITED, re.compile(r"^rate limit exceeded|hit your usage limit|usage limit has been reached", re.I)),
    (Outcome.CONTEXT_FULL, re.compile(r"ran out of room|context_length_exceeded|input exceeds the maximum", re.I)),
    (
        Outcome.REFUSED,
        re.compile(r"reason: content_filter|flagged for possible|cyber_policy|limited access to this content", re.I),
    ),
    (Outcome.INFRA, re.compile(r"no space left on device|read-only file system", re.I)),
    (
        Outcome.MISCONFIGURED,
        re.compile(r"is not supported when using codex|requires a newer version of codex|trusted directory", re.I),
    ),
    (Outcome.LOGGED_OUT, re.compile(r"log out and sign in|sign in again|access blocked by cloudflare", re.I)),
)
_STATUS = re.compile(r"(?:unexpected|last) status:? (\d{3})\b", re.I)
_COUNTED = re.compile(r"\d+/\d+")
_RETRY = re.compile(r"^Reconnecting\.{3}[^(]{0,60}\(")
_URL = re.compile(r",? ?\(?(?:url: )?\b(?:https?|wss?)://\S+")
_NOISE = re.compile(r"^(?:\d{4}-\d\d-\d\dT\S+ |Reading (?:additional input|prompt) from stdin|WARNING: )")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def event_in(line: bytes) -> dict[str, object]:
    """One line of output as an event, {} when it is none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def inner(event: object, *keys: str) -> object:
    """What lies in nested objects under `keys`, None where the way ends."""
    for key in keys:
        if not isinstance(event, dict):
            return None
        event = event.get(key)
    return event


def text_at(event: object, *keys: str) -> str:
    """The text there, "" when there is none; a lone surrogate, which no database takes, is replaced."""
    found = inner(event, *keys)
    return found.encode("utf-8", "replace").decode() if isinstance(found, str) else ""


def count_at(event: object, *keys: str) -> int:
    """The whole number there; 0 for what is none, or is negative or absurd."""
    found = inner(event, *keys)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 1 << 53 else 0


@dataclass(frozen=True)
class Fault:
    """Something codex reported as an error. `again` = codex goes on by itself; `status` is HTTP's, 0 when unknown."""

    text: str
    info: str = ""  # the name of its codexErrorInfo
    status: int = 0
    again: bool = False
    request: str = ""  # a request of ours that was refused with it

    @classmethod
    def of(cls, error: object, *, again: bool = False) -> Fault:
        """An error object of either protocol."""
        text, more = text_at(error, "message"), text_at(error, "additionalDetails")
        info = inner(error, "codexErrorInfo")
        name = next(iter(info), "") if isinstance(info, dict) else text_at(error, "codexErrorInfo")
        text = f"{text} ({more})" if more and more != text else text
        return cls(text, name, count_at(info, name, "httpStatusCode") or _status_in(text), again)

    @property
    def endless(self) -> bool:
        """Codex waits for the network without a limit to its tries."""
        return self.again and not _COUNTED.search(self.text.partition("(")[0])

    def kind(self) -> Outcome:
        """What it means."""
        return first(FAULTS, self)[1].outcome


def _status_in(text: str) -> int:
    found = _STATUS.search(text[:4000])
    return int(found[1]) if found else 0


def _words(text: str) -> str:
    """An error's text without addresses: they are no words, and may say anything."""
    return _URL.sub("", _RETRY.sub("", text[:4000]))


def _own(text: str) -> Outcome | None:
    return next((kind for kind, pattern in _OWN if pattern.search(text)), None)


def _limit_or_money(fault: Fault) -> Outcome | None:
    if fault.info != "usageLimitExceeded":
        return None
    return Outcome.OUT_OF_CREDIT if _NO_CREDIT.search(fault.text) else Outcome.RATE_LIMITED


def _by_info(fault: Fault) -> Outcome | None:
    return None if _BROKE.search(fault.text) else _INFO.get(fault.info)


def _by_certain_status(fault: Fault) -> Outcome | None:
    kind = kind_of_status(fault.status)
    return kind if fault.status == 401 or kind in {Outcome.OVERLOADED, Outcome.MISCONFIGURED} else None


def _refused_request(fault: Fault) -> Outcome | None:
    if not fault.request:
        return None
    return Outcome.LOGGED_OUT if "login" in fault.request else Outcome.MISCONFIGURED


def _rule(says: str, kind: Callable[[Fault], Outcome | None], values: Mapping[str, Outcome] | None = None,
          *, kinds: tuple[Outcome, ...] = (), by_words: bool = False) -> Rule[Fault]:  # fmt: skip
    def tell(fault: Fault) -> Ending | None:
        found = kind(fault)
        return Ending(found, says) if found else None

    return Rule(says, tell, values or {}, kinds, by_words)


_STATUSES = {str(n): kind for n in (401, 404, 408, 500, 502, 503, 529) if (kind := kind_of_status(n))}
FAULTS: tuple[Rule[Fault], ...] = (
    _rule("`codexErrorInfo` is `usageLimitExceeded`; no credit when its text or `rateLimitReachedType` speaks of money",
          _limit_or_money, kinds=(Outcome.RATE_LIMITED, Outcome.OUT_OF_CREDIT)),
    _rule("`codexErrorInfo`", _by_info, _INFO),
    _rule("`httpStatusCode`, or the status in the text", _by_certain_status, _STATUSES),
    _rule("codex's own sentences", lambda fault: _own(_words(fault.text)), {p.pattern: kind for kind, p in _OWN}),
    _rule("the words of the error", lambda fault: kind_of_refusal(_words(fault.text), fault.status), by_words=True),
    _rule("any other `httpStatusCode`", lambda fault: kind_of_status(fault.status),
          {str(n): kind for n in (400, 402, 403, 413, 429) if (kind := kind_of_status(n))}),
    _rule("a request of ours is refused: at the login, or another", _refused_request,
          kinds=(Outcome.LOGGED_OUT, Outcome.MISCONFIGURED)),
    _rule("`codexErrorInfo`, of the connection", lambda fault: Outcome.OVERLOADED if fault.info in _HTTP else None,
          dict.fromkeys(sorted(_HTTP), Outcome.OVERLOADED)),
    _rule("an error of which nothing more is known", lambda fault: Outcome.AGENT_ERROR, kinds=(Outcome.AGENT_ERROR,)),
)  # fmt: skip
"""What an error means, the most certain first."""


def kind_of_stderr(stderr: str) -> Outcome:
    """What codex complains of when it ended before it said anything on stdout."""
    return _own(stderr) or kind_of_complaint(stderr) or Outcome.CRASHED


def complaint(stderr: str) -> str:
    """What codex wrote on stderr without its log lines and usual notices."""
    lines = [_ESCAPE.sub("", line) for line in stderr[-20_000:].splitlines()]
    return "\n".join(line for line in lines if line.strip() and not _NOISE.match(line))
