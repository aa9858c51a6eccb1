"""The words of nightcrew as frozen values: tickets, repositories, runs, attempts, pull requests."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from nightcrew.core.limits import Budget, Cap, Caps, FollowUp, Keep, Policy

__all__ = [
    "Attempt", "Budget", "Cap", "Caps", "Check", "FollowUp", "GateResult", "GateSettings", "Hooks", "Keep", "Lane",
    "LaneState", "Policy", "PullRequest", "Remark", "Repo", "Run", "RunState", "Seat", "Standing", "Ticket",
    "TicketState", "Usage", "Window", "branch_for", "replace", "safe_name",
]  # fmt: skip


class TicketState(StrEnum):
    """What a board's own state means to us. Boards map their names onto these."""

    OPEN = "open"  # may be worked
    WORKING = "working"
    REVIEW = "review"  # a pull request is open
    DONE = "done"
    BLOCKED = "blocked"  # waits for a person
    FAILED = "failed"
    CLOSED = "closed"  # cancelled, duplicate, won't do
    OTHER = "other"  # a state we do not know: left alone


@dataclass(frozen=True)
class Ticket:
    """One unit of work, normalised. `id` is the board's own, `key` is what people say; both are untrusted text."""

    board: str
    id: str
    key: str
    title: str
    body: str = ""
    state: TicketState = TicketState.OPEN
    repo: str = ""  # explicit wish, "" when none
    project: str = ""
    priority: int = 5  # 1 urgent .. 4 low, 5 none
    labels: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()  # ids or keys
    requires: tuple[str, ...] = ()  # node capabilities
    created_at: datetime | None = None
    url: str = ""
    author: str = ""
    closes: str = ""  # what a pull request's text must say so that the board links it: "Closes acme/web#12"
    links: tuple[str, ...] = ()  # addresses of pull requests that the board shows on it
    left: str = ""  # why the board's selection does not take it (any more), "" when it does
    stop: str = ""  # the newest "stop" by someone allowed: who said it where, different for each; "" when none


@dataclass(frozen=True)
class GateSettings:
    """What a repository asks of a change before a pull request is opened. Times in seconds."""

    commands: tuple[str, ...] = ()
    timeout: float = 900.0
    protected: tuple[str, ...] = ()  # globs of paths an agent may not touch
    max_files: int = 100
    max_lines: int = 5000
    secrets: bool = True
    review: str = ""  # "" = off, else the name of the agent that reviews
    review_rounds: int = 2
    order: tuple[str, ...] = ("changed", "scope", "commands", "review")


@dataclass(frozen=True)
class Hooks:
    """Shell scripts of the owner, run in the workspace. `timeout` in seconds for each."""

    after_create: str = ""
    before_run: str = ""
    after_run: str = ""
    before_remove: str = ""
    timeout: float = 60.0


@dataclass(frozen=True)
class Repo:
    """A repository nightcrew may change. `url` is anything `git fetch` takes; a plain path for local ones."""

    name: str
    url: str
    base: str = "main"
    forge: str = "local"
    labels: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()  # order of preference; () = the crew's
    gates: GateSettings = GateSettings()
    hooks: Hooks = Hooks()
    followup: FollowUp = FollowUp()
    max_running: int = 0  # 0 = no limit of its own


class RunState(StrEnum):
    """Where one ticket's way to a merged pull request stands."""

    UNROUTED = "unrouted"
    QUEUED = "queued"
    WORKING = "working"
    IN_REVIEW = "in_review"
    BLOCKED = "blocked"
    FAILED = "failed"
    DUPLICATE = "duplicate"
    MERGED = "merged"
    CLOSED = "closed"  # the pull request was closed by a person
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Usage:
    """What one attempt cost. Tokens as the provider counts them; money in US dollars as the agent reports it."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    money: float = 0.0
    turns: int = 0

    @property
    def tokens(self) -> int:
        return self.input + self.output + self.cache_read + self.cache_write

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input, self.output + other.output, self.cache_read + other.cache_read,
            self.cache_write + other.cache_write, self.money + other.money, self.turns + other.turns,
        )  # fmt: skip


@dataclass(frozen=True)
class GateResult:
    """One gate's verdict with the evidence it rests on. `seconds` is wall time."""

    gate: str
    passed: bool
    summary: str
    evidence: str = ""
    seconds: float = 0.0
    duplicate_of: str = ""  # set by `changed` when the same patch is already open or merged


@dataclass(frozen=True)
class PullRequest:
    """A pull request as its forge shows it."""

    repo: str
    number: int
    branch: str
    base: str
    title: str
    body: str
    state: str = "open"  # open | merged | closed
    head: str = ""
    url: str = ""
    changes_requested: str = ""  # the latest request for changes that the head does not answer yet, "" when none
    comments: tuple[tuple[str, str, str], ...] = ()  # (at, author, text)
    created_at: str = ""
    merged_sha: str = ""


@dataclass(frozen=True)
class Check:
    """What one check of a commit says. `state` is passed, failed or running; `id` is how the forge calls it."""

    name: str
    state: str
    id: str = ""
    url: str = ""
    required: bool = False


@dataclass(frozen=True)
class Remark:
    """Something said about a pull request; its text is untrusted. `at` is ISO 8601 in UTC.

    `verdict` is "approved" or "changes" for a review that says so. `trusted`: its author may write to the repository.
    """

    id: str
    author: str
    text: str
    at: str
    thread: str = ""  # "" = it stands alone
    path: str = ""
    line: int = 0
    verdict: str = ""
    trusted: bool = False
    bot: bool = False
    mine: bool = False  # said with nightcrew's own login
    resolved: bool = False
    head: str = ""  # of a verdict: the commit it was given on


@dataclass(frozen=True)
class Standing:
    """How an open pull request stands: all that following it up needs."""

    pull: PullRequest
    base_head: str = ""  # where the base branch is now
    draft: bool = False
    mergeable: bool | None = None  # False: a conflict with the base; None: the forge is still finding out
    behind: bool = False  # the rules want it up to date with its base, and it is not
    checks: tuple[Check, ...] = ()  # of the head
    remarks: tuple[Remark, ...] = ()  # oldest first
    approved: bool = False  # as the rules of the repository want it
    approvals: tuple[str, ...] = ()  # where no rule wants one: the heads that people who may write approved
    merging: bool = False  # in a merge queue, or to be merged by the forge when all is green


@dataclass(frozen=True)
class Run:
    """One ticket's way to a merged pull request. `attempts` counts all, `consumed` those that count."""

    id: str
    board: str
    ticket_id: str
    key: str
    title: str
    repo: str = ""
    branch: str = ""
    state: RunState = RunState.QUEUED
    reason: str = ""  # one sentence for people
    priority: int = 5
    labels: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()
    attempts: int = 0
    consumed: int = 0
    failures: int = 0  # consecutive real ones, since the last climb of the ladder
    level: int = 0  # rung of the ladder
    crashes: int = 0
    stalls: int = 0
    timeouts: int = 0
    outages: int = 0  # consecutive outages, for the backoff
    fast_fails: int = 0
    review_rounds: int = 0
    agent: str = ""
    session_id: str = ""  # set while the session should be resumed
    feedback: str = ""  # what the next attempt must be told
    not_before: datetime | None = None
    pull_request: int = 0
    url: str = ""
    patch_id: str = ""
    duplicate_of: str = ""
    fence: int = 0
    cycle: int = 0  # how often the ticket was reopened after an end; each cycle has its own branch
    shown: str = ""  # the TicketState last shown on the board
    heard: str = ""  # the "stop" on its ticket that was obeyed, or said before it was taken
    stopping: str = ""  # why the run is being stopped, "" when it is not
    workspace: str = ""  # path, "" when there is none
    pending_head: str = ""  # work an agent finished that gates or publishing could not yet take
    usage: Usage = Usage()
    created_at: datetime | None = None
    updated_at: datetime | None = None


STARTING = "starting"
"""The phase of an attempt whose agent was not started yet; one that ended in it says nothing about its lane."""


@dataclass(frozen=True)
class Attempt:
    """One agent session for a run, from start to outcome."""

    run_id: str
    number: int
    agent: str
    model: str
    session_id: str
    resume: bool
    fence: int
    phase: str = STARTING  # starting | preparing | session | gates | publish | ended
    stage: str = ""  # the phase in which it ended
    outcome: str = ""
    evidence: str = ""
    resets_at: float | None = None
    usage: Usage = Usage()
    cost: float = 0.0  # US dollars, computed from `usage`
    prices: str = ""  # the price table it was computed with, and its version; "" when the model is not in it
    cap: str = ""  # which cap ended it: attempt, ticket, repo, lane, day, night
    lane: str = ""
    reported_model: str = ""
    gates: tuple[GateResult, ...] = ()
    head: str = ""
    pull_request: int = 0
    url: str = ""
    patch_id: str = ""
    duplicate_of: str = ""
    survivors: int = 0  # processes the agent left behind that were ended
    peak_memory: int = 0  # bytes, of the whole tree
    oom: bool = False  # the kernel, or we, ended it for its memory
    liveness: str = ""  # the last verdict (core.liveness), and the signs it rests on
    signs: str = ""
    settled: bool = False
    started_at: datetime | None = None
    heard_at: datetime | None = None  # the last sign of life
    last: str = ""  # the last event in a few words
    ended_at: datetime | None = None
    log: str = ""


class LaneState(StrEnum):
    """Whether a lane (provider x account x agent) may be used."""

    UP = "up"
    LIMITED = "limited"  # until the stated reset
    OVERLOADED = "overloaded"  # the breaker is open; then one attempt goes first
    LOGGED_OUT = "logged_out"
    NO_CREDIT = "out_of_credit"
    MISCONFIGURED = "misconfigured"
    PAUSED = "paused"  # by hand, or by a breaker that only a person closes


OUT = frozenset({LaneState.LOGGED_OUT, LaneState.NO_CREDIT, LaneState.MISCONFIGURED, LaneState.PAUSED})
"""Lanes that a person must take back in."""


@dataclass(frozen=True)
class Seat:
    """The lane an agent works on: whose servers, whose account, which program."""

    provider: str
    account: str  # "" = the only one
    agent: str

    @property
    def lane(self) -> str:
        """Its lane's name: the same for all agents that share the account."""
        return f"{self.agent}@{self.account}" if self.account else self.agent


@dataclass(frozen=True)
class Window:
    """A provider's window as it was last told. `used` is a share (0..1), `seconds` its length; times are epochs.

    `first_used` and `first_tokens` are what was used, and what the lane had used in all, when measuring began anew;
    `capacity` is how many of our tokens fill the window, as measured (0 = not known yet).
    """

    name: str
    used: float
    resets_at: float
    seconds: float = 0.0
    told_at: float = 0.0
    warning: bool = False
    first_used: float = 0.0
    first_tokens: int = 0
    capacity: float = 0.0


@dataclass(frozen=True)
class Lane:
    """What can be limited, exhausted or logged out, and the evidence that it is.

    `failures` in a row; `probe`: nobody said until when it is closed, so one attempt goes first.
    """

    name: str
    state: LaneState = LaneState.UP
    until: datetime | None = None
    evidence: str = ""
    told_at: datetime | None = None
    failures: int = 0
    probe: bool = False
    windows: tuple[Window, ...] = ()


def safe_name(text: str) -> str:
    """A name that can be a path segment or part of a ref, whatever the ticket said. Never empty, never dots alone.

    >>> safe_name("../../etc/passwd")
    'etc-passwd'
    """
    return re.sub(r"-{2,}", "-", re.sub(r"[^a-z0-9]+", "-", text.lower())).strip("-")[:48] or "ticket"


def branch_for(board: str, ticket_id: str, key: str, cycle: int = 0) -> str:
    """The one branch of a ticket, the same after every restart and on every node (I1)."""
    digest = sha256(f"{board}:{ticket_id}{f':{cycle}' if cycle else ''}".encode()).hexdigest()[:8]
    return f"nightcrew/{safe_name(key)}-{digest}"
