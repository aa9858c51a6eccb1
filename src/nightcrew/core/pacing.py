"""Pacing: how many sessions a lane bears so that its provider's windows last and the owner's share is left alone.

A session that a limit cuts pays its whole context again when it goes on, for the provider's cache has forgotten it by
then. So no more sessions run than what is left of every window can finish.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate, zip_longest

from nightcrew.core.model import Lane, LaneState, Policy, Window

DAY = 86400.0
ANY = 10**6
"""More sessions than anybody runs: nothing holds them back."""
FEW = 3
"""How many run at once where nothing recent is known: near the end of a window never measured, or after a pause."""
NEAR = 0.8
"""The share of what is ours from which on a window is near its end."""
GRAIN = 0.01
"""Providers tell shares in hundredths: what is told may be that much more."""
FORGOTTEN = 14 * DAY
"""Seconds after which a window that was not told of again says nothing about the next one."""
SAME = 60.0
"""Seconds by which two readings of one window may differ in its reset."""
LENGTHS = {"five_hour": 5 * 3600.0, "seven_day": 7 * DAY}
"""Lengths of windows that are told by their name alone, which may go on: `seven_day_opus`."""
LONGEST, LATEST, MOST_WINDOWS, MOST_TOKENS = 40 * DAY, 1e11, 16, 10**15
"""What is garbage beyond: a window's seconds, an epoch (one in milliseconds is), a lane's windows, our tokens."""
BURST = 0.25
"""How far the use of a window of several days may run ahead of its time."""
CHUNK, FIRST_CHUNK, MEMORY = 0.05, 0.01, 0.2
"""Capacity is measured over that share of the window (over less while nothing is known); it follows what was measured
over about MEMORY of the window."""
LOWEST, HIGHEST = 0.5, 4.0
"""How far from what is known a measurement is believed. Only the owner's own use can lower it, only luck raise it."""
PAUSE = 600.0
"""Seconds without a reading after which the owner may have been the one at work."""
UNKNOWN_TURN = 0.005
"""The share of a window that one turn may use as long as nothing is measured."""
LARGE, OPENING = 6.0, 12.0
"""How many times the usual a turn may use, and the first turn of a session, which writes its whole context."""
RESIDUE, LONGER = 0.25, 0.5
"""A session that has used as much as a whole one needs still that part of it, and that part of what it has used."""
TURNS = 60.0
"""How many turns a session is taken to need as long as none has ended."""


@dataclass(frozen=True)
class Load:
    """What a lane's sessions use, in tokens. `running`: what each running one has used so far; `typical`: what a whole
    session uses (the median of the last ones, 0 = not known yet); `turn`: what a turn uses.

    Better told by what is optional: `most`, what one turn used at most; `before`, what each running one had used in its
    earlier attempts; `waiting`, what those have used that were cut and wait to go on; `ended`, what the last tickets
    used in all their attempts until they were done.
    """

    running: tuple[int, ...] = ()
    typical: float = 0.0
    turn: float = 0.0
    most: float = 0.0
    before: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    ended: tuple[int, ...] = ()


def hear(lane: Lane, told: tuple[Window, ...], tokens: int) -> Lane:
    """The lane after a session was told of its windows. `tokens` is all that our sessions have used on it, ever.

    Per window name the newest credible reading is kept. `told_at` says which is the newest; where it is 0, a window's
    use is taken not to fall. Garbage changes nothing.
    """
    known, tokens = {window.name: window for window in lane.windows}, min(max(tokens, 0), MOST_TOKENS)
    for reading in told:
        if _credible(reading) and (reading.name in known or len(known) < MOST_WINDOWS):
            known[reading.name] = _heard(known.get(reading.name), replace(reading, used=min(reading.used, 1.0)), tokens)
    return replace(_answering(lane, told), windows=tuple(known.values()))


def slots(lane: Lane, load: Load, now: datetime, policy: Policy) -> int:
    """How many sessions may run on this lane at once, those that run already included.

    Never 0 while a window has a share left that is ours and can be used, so that nothing waits for ever.
    """
    bears = min((_bears(window, load, now, policy) for window in _open(lane, now)), default=ANY)
    anew = min((_bears(window, load, now, policy) for window in _next(lane, now)), default=ANY)
    bears = min(bears, max(anew, 1))  # one must ask, or nobody ever hears how it stands
    watched = policy.pace or policy.keep_back > 0
    return min(bears, FEW) if watched and any(_stale(window, lane, now) for window in _open(lane, now)) else bears


def must_end(lane: Lane, load: Load, now: datetime, policy: Policy) -> tuple[str, float] | None:
    """Why the lane's sessions have to end now, and until when (epoch) the lane rests; None if they may go on.

    Asked after every reading: what is used, with one more turn of each running session, stays below the owner's share.
    """
    if not policy.keep_back > 0:
        return None  # nobody's share is kept: the provider itself says when it is over
    ours = 1.0 - policy.keep_back
    over = [w for w in _open(lane, now) if w.used + GRAIN + sum(_ahead(w, load, load.running)) >= ours]
    if not over:
        return None
    last = max(over, key=lambda window: window.resets_at)
    return f"{last.used:.0%} of {last.name} is used, and {policy.keep_back:.0%} is kept back", last.resets_at


def _open(lane: Lane, now: datetime) -> list[Window]:
    """The windows that still hold."""
    return [window for window in lane.windows if window.resets_at > now.timestamp()]


def _stale(window: Window, lane: Lane, now: datetime) -> bool:
    """Whether its reading is old: the owner may have worked since, or sessions were ended before their turn was told.
    Few ask first then; their answers tell."""
    parked = lane.told_at is not None and lane.told_at.timestamp() >= window.told_at
    return window.told_at > 0 and (parked or now.timestamp() - window.told_at > PAUSE)


def _next(lane: Lane, now: datetime) -> list[Window]:
    """Those that begin with the next answer, empty, where one is over: as large as the last one of that name was."""
    over = [w for w in lane.windows if w.resets_at <= now.timestamp() < w.resets_at + FORGOTTEN and w.capacity > 0]
    return [replace(w, used=0.0, resets_at=now.timestamp() + _length(w), warning=False) for w in over]


# -- what is heard -----------------------------------------------------------------------------------------------------
def _answering(lane: Lane, told: tuple[Window, ...]) -> Lane:
    """A lane whose limit is over and that answers is up: from now on its use is watched again."""
    if lane.state is not LaneState.LIMITED or lane.probe or lane.until is None:
        return lane
    over = lane.until.timestamp()
    return Lane(lane.name) if any(_credible(w) and w.used < 1 and w.told_at > over for w in told) else lane


def _credible(told: Window) -> bool:
    """Written so that NaN is never credible."""
    if not (0 <= told.used <= 2 and 0 < told.resets_at < LATEST and 0 <= told.told_at < LATEST):
        return False
    if not 0 <= told.seconds <= LONGEST:
        return False
    ahead, length = told.resets_at - told.told_at, _length(told)
    return not told.told_at or 0 < ahead <= (length * 1.1 + 3600 if length else LONGEST)


def _length(window: Window) -> float:
    """Seconds; 0 when nobody says."""
    return window.seconds or next((s for name, s in LENGTHS.items() if window.name.startswith(name)), 0.0)


def _heard(known: Window | None, told: Window, tokens: int) -> Window:
    if known is None:
        return replace(told, first_used=told.used, first_tokens=tokens, capacity=0.0)
    if told.resets_at > known.resets_at + SAME:  # a new window of that name: what fills it is known from the last one
        return replace(told, first_used=told.used, first_tokens=tokens, capacity=known.capacity)
    if told.resets_at < known.resets_at - SAME or _older(known, told):
        return known
    seen = replace(
        told, seconds=told.seconds or known.seconds, told_at=told.told_at or known.told_at,
        first_used=known.first_used, first_tokens=known.first_tokens, capacity=known.capacity,
    )  # fmt: skip
    return _measured(seen, tokens, told.told_at - known.told_at > PAUSE)


def _older(known: Window, told: Window) -> bool:
    return told.told_at < known.told_at if told.told_at else told.used < known.used


def _measured(seen: Window, tokens: int, paused: bool) -> Window:
    """Capacity by the slope since measuring began, once that is long enough to be told from rounding."""
    share, ours = seen.used - seen.first_used, tokens - seen.first_tokens
    begun = replace(seen, first_used=seen.used, first_tokens=tokens)
    if share < 0 or ours < 0:  # the provider corrected itself, or our count began anew
        return begun
    if share < (CHUNK if seen.capacity else FIRST_CHUNK):
        return seen
    if ours == 0 or (paused and ours / share < seen.capacity * LOWEST):
        return begun  # the owner's own use
    if not seen.capacity:
        return replace(begun, capacity=ours / (share + GRAIN))
    bounded = min(max(ours / share, seen.capacity * LOWEST), seen.capacity * HIGHEST)
    return replace(begun, capacity=seen.capacity + (bounded - seen.capacity) * share / (share + MEMORY))


# -- what a window bears -----------------------------------------------------------------------------------------------
def _bears(window: Window, load: Load, now: datetime, policy: Policy) -> int:
    """How many at once: none where the share is used, else at least one."""
    kept = max(policy.keep_back, 0.0)
    if not (kept or policy.pace):
        return ANY
    safe = _safe(window, load, kept)
    if window.used >= 1.0 - kept or safe < 1:
        return 0
    return min(safe, max(1, _finishing(window, load, now, kept))) if policy.pace else safe


def _safe(window: Window, load: Load, kept: float) -> int:
    """How many can be at work without passing into the owner's share before they are ended."""
    if not kept:
        return ANY
    room = 1.0 - kept - window.used - GRAIN
    running = list(accumulate(_ahead(window, load, load.running)))
    if running and running[-1] >= room:
        return sum(so_far < room for so_far in running)
    new = max(next(_ahead(window, load, (0,))), 1e-9)  # however little a turn uses, it is not nothing
    # What is reached exactly would be ended at once: a little is left.
    return min(ANY, len(running) + int((room - (running[-1] if running else 0.0)) / new * 0.999))


def _ahead(window: Window, load: Load, running: tuple[int, ...]) -> Iterator[float]:
    """The share of the window that the next turn of each session may use."""
    large, opening = UNKNOWN_TURN, UNKNOWN_TURN
    if window.capacity > 0 and load.turn > 0:
        large = load.turn * LARGE / window.capacity
        opening = max(load.most or load.turn * OPENING, load.turn) / window.capacity
    for used in running:
        yield min(large, opening) if used else opening


def _finishing(window: Window, load: Load, now: datetime, kept: float) -> int:
    """How many can be finished with what is left, if those that run need what such sessions need."""
    ours = 1.0 - kept
    free = min(ours, _due(window, now) * ours) - window.used
    if free <= 0:
        return 0
    whole, left = _whole(load), free * window.capacity
    if not (window.capacity > 0 and whole > 0):
        return FEW if window.warning or window.used >= NEAR * ours else ANY
    running, left = _fitting(sorted(_remaining(used, whole) for used in _used(load)), left)
    again, left = _fitting(sorted((_remaining(used, whole) for used in load.waiting), reverse=True), left)
    new = int(min(left / whole, ANY)) if again == len(load.waiting) else 0
    return min(ANY, running + again + new)


def _fitting(needs: list[float], left: float) -> tuple[int, float]:
    """How many of these fit one after the other, and what is left then: nothing where one did not fit."""
    for number, need in enumerate(needs):
        if need > left:
            return number, 0.0
        left -= need
    return len(needs), left


def _used(load: Load) -> list[int]:
    """What the running ones have used, with their earlier attempts."""
    return [used + before for used, before in zip_longest(load.running, load.before[: len(load.running)], fillvalue=0)]


def _whole(load: Load) -> float:
    """What a ticket uses to its end. The first to end are the short ones, so those that go on count too: all that was
    used, over the number of those that ended. While none has ended, the turns they take tell."""
    unended = [*_used(load), *load.waiting]
    if not load.ended:
        return max(load.typical or load.turn * TURNS, LONGER * max(unended, default=0))
    share = (sum(load.ended) + sum(unended)) / len(load.ended)
    return min(share, 2.0 * max(*load.ended, *unended, 0.0))


def _remaining(used: int, whole: float) -> float:
    """What a session that has used that much is expected to need still: the long ones go on being long."""
    return max(whole - used, whole * RESIDUE, used * LONGER)


def _due(window: Window, now: datetime) -> float:
    """The share that may be used by now: a window of several days is spread, all of it is free in its last day."""
    length, ahead = _length(window), window.resets_at - now.timestamp()
    if length <= DAY or ahead <= DAY:
        return 1.0
    return 1.0 - ahead / length + BURST
