"""Keeping: what is over, what is old enough to go, and how much of the agents' logs fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nightcrew.core.lifecycle import ENDED
from nightcrew.core.limits import Keep
from nightcrew.core.model import Run, RunState, branch_for

DAY = 86400.0
PACKED = 4
"""Compressed, an agent's output is no larger than one part of so many (lines of JSON: less)."""


@dataclass(frozen=True)
class Logs:
    """The folder of one attempt. `bytes` on the disk; `at` is when it was last written, in epoch seconds; `plain` bytes
    could be compressed; `over`: the run it belongs to is over, or is not known any more."""

    folder: str
    bytes: int
    at: float
    plain: int = 0
    over: bool = True


def over(run: Run) -> bool:
    """Whether nobody will go on with this run: it ended, waits for no person, and has no pull request still open."""
    undecided = bool(run.pull_request) and run.state not in (RunState.MERGED, RunState.CLOSED)
    return run.state in ENDED and run.state is not RunState.BLOCKED and not undecided


def branches(run: Run) -> list[str]:
    """The branches of a run, of every time its ticket was reopened, oldest first."""
    return [branch_for(run.board, run.ticket_id, run.key, cycle) for cycle in range(run.cycle + 1)]


def past(at: float, days: float, now: float) -> bool:
    """Whether more than `days` went by since `at` (both epoch seconds); never when days are 0: that is for ever."""
    return days > 0 and now - at > days * DAY


def age(at: float, now: float) -> str:
    """How old, in words.

    >>> age(0, 3 * 86400), age(0, 5400)
    ('3 days old', '1.5 hours old')
    """
    days = (now - at) / DAY
    return f"{days:.0f} days old" if days >= 2 else f"{days * 24:.3g} hours old"


def logs_to_compress(logs: Iterable[Logs], keep: Keep, now: float) -> list[Logs]:
    """Those with something to compress, old enough for it."""
    return [one for one in logs if one.plain and past(one.at, keep.compress_days, now)]


def logs_to_delete(logs: Iterable[Logs], keep: Keep, now: float) -> Mapping[str, str]:
    """Which folders go, and why: the old ones, then the oldest of what is too much. Only of runs that are over.

    What will be compressed in the same cleaning is counted as compressed.
    """
    mine = sorted(logs, key=lambda one: (one.at, one.folder))
    goes = {one.folder: age(one.at, now) for one in mine if one.over and past(one.at, keep.logs_days, now)}
    if not keep.logs_mb:
        return goes
    packed = {one.folder for one in logs_to_compress(mine, keep, now)}
    weighs = {one.folder: one.bytes - (one.plain - one.plain // PACKED if one.folder in packed else 0) for one in mine}
    much = sum(weight for folder, weight in weighs.items() if folder not in goes)
    for one in mine:
        if much <= keep.logs_mb << 20:
            break
        if one.over and one.folder not in goes:
            goes[one.folder] = f"all logs together take more than {keep.logs_mb} MB"
            much -= weighs[one.folder]
    return goes
