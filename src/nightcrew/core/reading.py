"""What agent adapters share in telling how a session ended: kinds of error by status and by text, exit codes, findings.

Providers word the same few faults in many ways; here is the vocabulary, once. Adapters use structured fields first and
these patterns last, and never on what an agent says in a success: there, words are only words.
"""

from __future__ import annotations

import json
import re
import signal

from nightcrew.core.outcome import Finding, Outcome
from nightcrew.core.resets import reset_from_epoch, reset_from_header, reset_from_text

__all__ = [
    "WORDS", "asks_a_person", "findings_in", "how_it_died", "kind_of_complaint", "kind_of_status", "kind_of_text",
    "one_line", "reset_from_epoch", "reset_from_header", "reset_from_text", "was_signal",
]  # fmt: skip

_STATUS = {
    401: Outcome.LOGGED_OUT,
    402: Outcome.OUT_OF_CREDIT,
    403: Outcome.LOGGED_OUT,
    404: Outcome.MISCONFIGURED,
    408: Outcome.OVERLOADED,
    413: Outcome.CONTEXT_FULL,
    429: Outcome.RATE_LIMITED,
}

# The first that fits wins. A message about money often names a limit too, so money comes before limits.
WORDS: tuple[tuple[Outcome, str], ...] = (
    (
        Outcome.REFUSED,
        r"unable to respond to this request|can.t help with this|usage polic(?:y|ies)|legal/aup"
        r"|safeguards flagged|content[- ]policy|data.loss.prevention",
    ),
    (
        Outcome.CONTEXT_FULL,
        r"(?:prompt|input) is too long|request (?:is )?too large|request_too_large|too many total text bytes"
        r"|context[_ ](?:window|length)|maximum context|ran out of room|exceeds? (?:the )?"
        r"(?:model.s )?(?:maximum )?context",
    ),
    (Outcome.RATE_LIMITED, r"out of (?:extra )?usage\b.{0,80}\bresets? "),
    (
        Outcome.OUT_OF_CREDIT,
        r"credit balance|out of (?:extra |your )?(?:usage\b|(?:usage )?credits)|usage credits (?:required|ran out)"
        r"|requires usage credits|specified[\w\s-]*usage limits|spend(?:ing)? (?:limit|cap)|billing|payment required"
        r"|insufficient[_ ](?:quota|funds|credits?)|quota exceeded|exceeded your current quota"
        r"|to use codex with your chatgpt plan|usage limit is set to \$0|doesn.t include (?:extra )?usage"
        r"|usage allocation has been disabled",
    ),
    (
        Outcome.RATE_LIMITED,
        r"you.ve (?:hit|reached) your\b.{0,60}\blimit|hit your .{0,30}limit|usage limit"
        r"|\b(?:session|weekly|hourly|daily|monthly|\d+[- ]hour|opus|sonnet|haiku) limit\b"
        r"|rate[-_ ]?limit|too many requests|\(429\)|(?:status:?|api error:|http)\s*429\b",
    ),
    (
        Outcome.MISCONFIGURED,
        r"issue with the selected model|not available with the .{0,40}plan|may not exist or you may not have access"
        r"|model\b.{0,80}\b(?:not[ _]found|does not exist|not available|not supported|unrecognized)"
        r"|unrecognized[_ ]model|not_found_error.{0,80}\bmodel|newer version \(?[\w.]+ or higher\)? is required"
        r"|version \S+ or newer is required|older than the minimum version",
    ),
    (
        Outcome.LOGGED_OUT,
        r"not logged in|/login\b|auth login|api[-_ ]key|disabled organization|authenticat|unauthorized|oauth"
        r"|credentials|(?:token|session|login) (?:has )?(?:expired|been revoked)|missing environment variable"
        r"|organization (?:has been |is )?disabled|account (?:is )?on hold|(?:status:?|api error:|http)\s*40[13]\b",
    ),
    (
        Outcome.OVERLOADED,
        r"overloaded|at capacity|high demand|server error|bad gateway|service unavailable|gateway time-?out"
        r"|mid-response|unable to connect|connection (?:refused|dropped|reset|closed|error|failed|timed out)"
        r"|econn\w+|enotfound|etimedout|eai_again|enetunreach|timed? ?out|fetch failed|socket hang up|network"
        r"|proxy or gateway|malformed response|stream (?:disconnected|closed|ended)|error sending request|getaddrinfo"
        r"|(?:status:?|api error:|http)\s*5\d\d\b",
    ),
)
_KINDS = tuple((kind, re.compile(pattern, re.I | re.S)) for kind, pattern in WORDS)

_SETUP = re.compile(
    r"unknown (?:option|command|flag|argument)|unexpected argument|unrecognized (?:option|argument|subcommand)"
    r"|cannot be used with|already in use|invalid (?:mcp|json|settings|value|argument|option|config|session)"
    r"|(?:config|settings) file|error (?:loading|parsing) (?:the )?(?:config|settings)"
    r"|failed to (?:load|parse) .*config"
    r"|input must be provided|no conversation found|sandbox required|requires? an? |missing required|is not a valid"
    r"|command not found|no such file or directory|not executable|permission denied|exec format error",
    re.I,
)
_COMPLAINT = re.compile(r"^(?:\w+: )?error:", re.I | re.M)
_BROKE = re.compile(
    r"segmentation fault|core dumped|panicked|out of memory|oom|\bkilled\b|has crashed|assertion|traceback"
    r"|illegal instruction|bus error",
    re.I,
)
_PASSING = {Outcome.OVERLOADED, Outcome.RATE_LIMITED}
_FULL = re.compile(r"no space left|enospc|edquot|disk quota", re.I)
_DIALOG = re.compile(
    r"do you (?:want to )?trust|trust (?:the files|this (?:folder|workspace|project|directory))|quick safety check"
    r"|is this a project you|enter to (?:confirm|continue)|yes, (?:proceed|continue|i (?:accept|trust))"
    r"|do you want to (?:proceed|allow|continue|use this)|bypass permissions mode|choose the text style"
    r"|select login method|waiting for (?:your )?(?:approval|permission)|allow (?:this )?(?:command|tool)\b.{0,20}\?"
    r"|\[y/n\]|\(y/n\)",
    re.I,
)
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def kind_of_status(status: object) -> Outcome | None:
    """What an HTTP status of the provider means; None for success and for what is no status.

    >>> kind_of_status(529), kind_of_status(400), kind_of_status(200)
    (<Outcome.OVERLOADED: 'overloaded'>, <Outcome.AGENT_ERROR: 'agent_error'>, None)
    """
    if isinstance(status, bool) or not isinstance(status, int) or not 400 <= status <= 599:
        return None
    return _STATUS.get(status) or (Outcome.OVERLOADED if status >= 500 else Outcome.AGENT_ERROR)


def kind_of_text(text: str) -> Outcome | None:
    """What a message that is known to be an error means, None when no pattern fits.

    >>> kind_of_text("You've hit your session limit · resets 3pm (UTC)")
    <Outcome.RATE_LIMITED: 'rate_limited'>
    """
    return next((kind for kind, pattern in _KINDS if pattern.search(text[:4000])), None)


def kind_of_refusal(text: str, status: int) -> Outcome | None:
    """What a provider's error means by its words. A rejected request is quoted back: words in it make no outage of it.

    >>> kind_of_refusal("Invalid value: network", 400), kind_of_refusal("network error", 0)
    (None, <Outcome.OVERLOADED: 'overloaded'>)
    """
    told, by_status = kind_of_text(text), kind_of_status(status)
    return None if told in _PASSING and by_status not in {None, *_PASSING} else told


def kind_of_complaint(stderr: str) -> Outcome | None:
    """What a program that said nothing else complains of; None when it broke down or nothing can be told.

    >>> kind_of_complaint("error: unknown option '--frob'"), kind_of_complaint("Segmentation fault")
    (<Outcome.MISCONFIGURED: 'misconfigured'>, None)
    """
    stderr = stderr[:20_000]
    if _FULL.search(stderr):
        return Outcome.INFRA
    if _BROKE.search(stderr):
        return None
    if _SETUP.search(stderr):
        return Outcome.MISCONFIGURED
    return kind_of_text(stderr) or (Outcome.MISCONFIGURED if _COMPLAINT.search(stderr) else None)


def asks_a_person(text: str) -> bool:
    """Whether a terminal shows a trust, permission or login dialog. Escape codes may stand for the spaces."""
    return any(_DIALOG.search(" ".join(_ESCAPE.sub(blank, text).split())) for blank in ("", " "))


def how_it_died(exit_code: int | None) -> str:
    """An exit code in words; codes over 128 and under 0 are signals, by name where there is one.

    >>> how_it_died(-9), how_it_died(143), how_it_died(1), how_it_died(None)
    ('killed by SIGKILL', 'killed by SIGTERM', 'exit code 1', 'exit code unknown')
    """
    if exit_code is None:
        return "exit code unknown"
    if not was_signal(exit_code):
        return f"exit code {exit_code}"
    number = -exit_code if exit_code < 0 else exit_code - 128
    names = {item.value: item.name for item in signal.Signals}
    return f"killed by {names.get(number, f'signal {number}')}"


def was_signal(exit_code: int | None) -> bool:
    """Whether the exit code tells of a signal."""
    return exit_code is not None and (exit_code < 0 or 128 < exit_code < 128 + 65)


def one_line(text: str, limit: int = 200) -> str:
    """`text` on one line without escape codes, at most `limit` characters, for evidence.

    >>> one_line("a\\n\\x1b[31mb")
    'a b'
    """
    flat = " ".join(_ESCAPE.sub("", text[: 8 * limit]).split())
    flat = "".join(char if char.isprintable() else "?" for char in flat)
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def findings_in(answer: object) -> tuple[Finding, ...] | None:
    """A reviewer's `{"findings": [...]}`, given as data or as text (fenced or bare); None when it is no such thing.

    An entry that cannot be read makes the whole answer None: half a review must not pass for a whole one.

    >>> findings_in('{"findings": [{"file": "a.py", "line": 3, "message": "no", "blocking": true}]}')
    (Finding(file='a.py', line=3, message='no', blocking=True),)
    """
    found = answer if isinstance(answer, dict) else _object(answer) if isinstance(answer, str) else None
    items = found.get("findings") if found else None
    if not isinstance(items, list):
        return None
    read = [_finding(item) for item in items]
    return None if None in read else tuple(item for item in read if item is not None)


def _object(text: str) -> dict[str, object] | None:
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1]) if start >= 0 else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _finding(item: object) -> Finding | None:
    if not isinstance(item, dict):
        return None
    file, line, message = item.get("file"), item.get("line"), item.get("message")
    if not (isinstance(file, str) and isinstance(line, int) and isinstance(message, str)):
        return None
    return Finding(file, line, message, item.get("blocking") is True)
