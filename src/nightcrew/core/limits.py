"""The limits an owner sets: of one attempt, of spend, of how much at once, of how long things are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Budget:
    """What one attempt may use. 0 = no limit. Seconds, tokens (in + out + cache), US dollars, bytes.

    `stall_seconds` is the silence on every signal after which a session is stuck, `prompt_seconds` how long it may wait
    at a dialog nobody answers, `zombie_seconds` how long it may be dead without our being told. `same_calls` is how
    often in a row the same tool call may be made, `idle_turns` how many turns may pass without a change in the tree.
    """

    seconds: float = 3600.0
    stall_seconds: float = 900.0
    prompt_seconds: float = 60.0
    zombie_seconds: float = 10.0
    tokens: int = 0
    money: float = 0.0
    turns: int = 200
    same_calls: int = 20
    idle_turns: int = 100
    memory_mb: int = 0
    processes: int = 2000
    cpu_weight: int = 100  # as cgroup v2 counts it: 1..10000, 100 is everybody's
    log_bytes: int = 1 << 30


@dataclass(frozen=True)
class Cap:
    """The most that may be spent. 0 = no cap."""

    tokens: int = 0
    money: float = 0.0


@dataclass(frozen=True)
class Caps:
    """Caps beyond one attempt: a ticket's over all its attempts, the others' within a day (midnight to midnight) or a
    night (noon to noon), both in the machine's time zone."""

    ticket: Cap = Cap()
    repo: Cap = Cap()
    lane: Cap = Cap()
    day: Cap = Cap()
    night: Cap = Cap()


@dataclass(frozen=True)
class Policy:
    """How the director decides. Times in seconds.

    `keep_back` is the share (0..1) of every provider window that stays the owner's; `pace` spreads what is left so that
    windows last. A node starts nothing with less than `min_memory_mb` and `min_disk_mb` free (and no disk fuller than
    95 %), above `max_load` per core, or while `starting` sessions have not said a word yet (0 = six for each core).
    `rate_factor` is how many times the usual spend per minute a session may reach. `avoid_conflicts`: what likely
    changes files that somebody works on starts after all else that may start.
    """

    max_running: int = 4
    max_attempts: int = 5  # consumed ones
    failures_per_model: int = 2
    backoff_base: float = 15.0
    backoff_max: float = 900.0
    probe_seconds: float = 60.0  # between two tries of a lane that says no and not until when
    reset_grace: float = 2.0  # waited after a stated reset
    free_crashes: int = 1
    free_stalls: int = 1
    fast_fails_to_park: int = 3
    keep_back: float = 0.0
    pace: bool = True
    rate_factor: float = 8.0
    min_memory_mb: int = 512
    min_disk_mb: int = 1024
    max_load: float = 8.0
    starting: int = 0
    avoid_conflicts: bool = True
    budget: Budget = Budget()
    caps: Caps = Caps()
    capabilities: tuple[str, ...] = ()  # of this machine, beside `linux` or `macos`: what tickets may require
    lanes: Mapping[str, int] = field(default_factory=dict)  # how many sessions at once, by lane
    boards: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FollowUp:
    """What is done about an open pull request until it merges; rounds are agents sent for one cause, times seconds.

    `quiet` is how long nobody may have said anything before a review is answered. `flaky` are globs of checks that are
    run once more before an agent is sent. `ready`: a draft becomes ready by a person ("never"), or once it is "green".
    `merge`: "never" (a person does), "now", "green" (the forge, once it is) or "queue".
    """

    quiet: float = 150.0
    check_rounds: int = 3
    review_rounds: int = 20
    bot_rounds: int = 2
    conflict_rounds: int = 2
    queue_rounds: int = 2
    flaky: tuple[str, ...] = ()
    update: bool = True  # bring it up to date with its base where the forge's rules want that
    ready: str = "never"
    merge: str = "never"


@dataclass(frozen=True)
class Keep:
    """How long what is over is kept: days, and megabytes of agents' logs. 0 = for ever, or without end."""

    compress_days: float = 1.0
    logs_days: float = 60.0
    logs_mb: int = 5000
    rescue_days: float = 60.0
    branches_days: float = 14.0
    history_days: float = 30.0  # the engine's records of ended attempts
