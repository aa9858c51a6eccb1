"""Every end of an attempt becomes exactly one outcome; what follows from each is this table (docs/design.md, 5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nightcrew.core.model import Usage


class Outcome(StrEnum):
    """The typed end of an attempt."""

    DONE = "done"
    GATE_FAILED = "gate_failed"
    NO_CHANGE = "no_change"
    BLOCKED = "blocked"
    TURN_LIMIT = "turn_limit"
    CONTEXT_FULL = "context_full"
    TOKEN_CAP = "token_cap"  # noqa: S105 - an outcome, no password
    MONEY_CAP = "money_cap"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    LOGGED_OUT = "logged_out"
    MISCONFIGURED = "misconfigured"
    REFUSED = "refused"
    AGENT_ERROR = "agent_error"
    OUT_OF_CREDIT = "out_of_credit"
    PROMPT_WAIT = "prompt_wait"
    STALLED = "stalled"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"
    FAST_FAIL = "fast_fail"
    INFRA = "infra"
    CANCELLED = "cancelled"


class Next(StrEnum):
    """What happens to the run after an outcome."""

    GATES = "gates"
    AGAIN = "again"  # a fresh session, told what went wrong
    RESUME = "resume"  # the same session goes on
    OTHER_LANE = "other_lane"  # another lane now, or wait
    WAIT = "wait"  # the same session, once the lane is back
    BACKOFF = "backoff"
    ASK = "ask"  # stop and wait for a person
    STOP = "stop"
    CLEAN = "clean"


class Consumes(StrEnum):
    """Whether the outcome uses up one of the run's attempts."""

    YES = "yes"
    NO = "no"
    LATER = "later"  # only when it keeps happening


class LaneEffect(StrEnum):
    """What the outcome says about the lane it happened on."""

    NONE = "none"
    PARK = "park"  # until the stated reset
    BREAK = "break"  # circuit breaker
    OUT = "out"  # until a person acts; one alarm
    COUNT = "count"  # counts towards the breaker


@dataclass(frozen=True)
class Rule:
    """One row of the outcome table."""

    consumes: Consumes
    climbs: bool
    lane: LaneEffect
    next: Next
    says: str  # for people


_YES, _NO, _LATER = Consumes.YES, Consumes.NO, Consumes.LATER

RULES: dict[Outcome, Rule] = {
    Outcome.DONE: Rule(_YES, False, LaneEffect.NONE, Next.GATES, "the agent says it is done"),
    Outcome.GATE_FAILED: Rule(_YES, True, LaneEffect.NONE, Next.AGAIN, "a gate refused the work"),
    Outcome.NO_CHANGE: Rule(_YES, True, LaneEffect.NONE, Next.AGAIN, "the agent ended and changed nothing"),
    Outcome.BLOCKED: Rule(_NO, False, LaneEffect.NONE, Next.ASK, "the agent needs something it proved to be missing"),
    Outcome.TURN_LIMIT: Rule(_YES, True, LaneEffect.NONE, Next.RESUME, "the agent used all its turns"),
    Outcome.CONTEXT_FULL: Rule(_YES, True, LaneEffect.NONE, Next.AGAIN, "the context window is full"),
    Outcome.TOKEN_CAP: Rule(_YES, False, LaneEffect.NONE, Next.STOP, "the token cap is reached"),
    Outcome.MONEY_CAP: Rule(_YES, False, LaneEffect.NONE, Next.STOP, "the money cap is reached"),
    Outcome.RATE_LIMITED: Rule(_NO, False, LaneEffect.PARK, Next.WAIT, "the provider's limit is reached"),
    Outcome.OVERLOADED: Rule(_NO, False, LaneEffect.BREAK, Next.BACKOFF, "the provider is overloaded or out of reach"),
    Outcome.LOGGED_OUT: Rule(_NO, False, LaneEffect.OUT, Next.OTHER_LANE, "the agent is logged out"),
    Outcome.MISCONFIGURED: Rule(_NO, False, LaneEffect.OUT, Next.OTHER_LANE, "the agent cannot start as configured"),
    Outcome.REFUSED: Rule(_YES, False, LaneEffect.NONE, Next.STOP, "the model declines by policy"),
    Outcome.AGENT_ERROR: Rule(_YES, True, LaneEffect.NONE, Next.AGAIN, "the provider rejects the request"),
    Outcome.OUT_OF_CREDIT: Rule(_NO, False, LaneEffect.OUT, Next.OTHER_LANE, "the account has no credit"),
    Outcome.PROMPT_WAIT: Rule(_NO, False, LaneEffect.OUT, Next.OTHER_LANE, "the agent waits at a dialog"),
    Outcome.STALLED: Rule(_LATER, False, LaneEffect.NONE, Next.RESUME, "no sign of life on any signal"),
    Outcome.TIMED_OUT: Rule(_YES, True, LaneEffect.NONE, Next.RESUME, "out of time"),
    Outcome.CRASHED: Rule(_LATER, False, LaneEffect.NONE, Next.RESUME, "the agent ended without a result"),
    Outcome.FAST_FAIL: Rule(_NO, False, LaneEffect.COUNT, Next.BACKOFF, "ended in seconds with nothing said"),
    Outcome.INFRA: Rule(_NO, False, LaneEffect.NONE, Next.BACKOFF, "git, disk, database, forge or board failed"),
    Outcome.CANCELLED: Rule(_NO, False, LaneEffect.NONE, Next.CLEAN, "the ticket was closed, moved or stopped"),
}


CAUSES = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED, Outcome.LOGGED_OUT, Outcome.OUT_OF_CREDIT, Outcome.DONE})
"""Ends that an agent's own output tells better than we do, even when we ended the session for another reason."""


@dataclass(frozen=True)
class Claim:
    """An agent's claim that something blocks it, to be checked by reading `file` at `line` for `quote`."""

    reason: str
    file: str = ""
    line: int = 0
    quote: str = ""


@dataclass(frozen=True)
class Finding:
    """What a reviewer found at `file:line`; a blocking one goes back to the worker."""

    file: str
    line: int
    message: str
    blocking: bool = False


@dataclass(frozen=True)
class Stop:
    """Why a running session must be ended, and as what. `cap` says which cap was reached, "" when none was."""

    outcome: Outcome
    why: str
    cap: str = ""


@dataclass(frozen=True)
class Ending:
    """How an agent's output is read, and why. `resets_at` is epoch seconds, None when nothing was stated.

    `said` is the agent's last message. `claims` is non-empty exactly when the outcome is `blocked`. `findings` is None
    unless the agent answered a review.
    """

    outcome: Outcome
    evidence: str
    resets_at: float | None = None
    said: str = ""
    usage: Usage = Usage()
    model: str = ""  # as the provider reports it
    session_id: str = ""
    claims: tuple[Claim, ...] = ()
    findings: tuple[Finding, ...] | None = None
    cap: str = ""  # which cap ended it, when we did
    resumed: bool = False  # its session had begun before, if only in a try that a kill of nightcrew cut short
    started: bool = True  # False: it was given back before its agent was started
