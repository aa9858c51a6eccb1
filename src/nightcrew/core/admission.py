"""Admission: whether this machine bears one more session, by its measured memory, its disk and its load. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from nightcrew.core.model import Policy

SMALL_DISK = 0.05
"""On a small disk this share of it is room enough."""
STARTS_PER_CORE = 6
SAMPLES = 5
"""So many measured sessions are believed, even when they say less than the agent's own word."""


@dataclass(frozen=True)
class Machine:
    """What a node was seen to have. Bytes; 0 (or an empty mapping) where the system does not say."""

    cores: int = 0
    memory_total: int = 0
    memory_free: int = 0  # available without swapping
    load: float = 0.0  # one minute
    disks: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # folder -> (bytes in all, bytes free)


@dataclass(frozen=True)
class Room:
    """What is known when a session asks to start. `peaks`: expected peak of memory by agent, in bytes, as measured;
    `running`: (agent, bytes it holds now) of each running session; `starting`: how many have not said a word yet;
    `most`: a limit lowered after an OOM kill, 0 = none."""

    machine: Machine = Machine()
    peaks: Mapping[str, int] = field(default_factory=dict)
    running: tuple[tuple[str, int], ...] = ()
    starting: int = 0
    most: int = 0


def refuses(room: Room, agent: str, started: tuple[str, ...], policy: Policy) -> str:
    """Why a session of `agent` cannot start here now, "" when it can. `started` are agents started in this round.

    What is not known refuses nothing. Where nothing runs at all, a session may try with less memory than is expected of
    it, and under any load: a machine too small for the expectation, or busy for ever, still works one at a time.
    """
    at_work = len(room.running) + len(started)
    return (
        _lowered(room, at_work)
        or _disk(room.machine, policy)
        or _memory(room, agent, started, policy)
        or (_load(room.machine, policy) if at_work else "")
        or _ramp(room, started, policy)
    )


def _lowered(room: Room, at_work: int) -> str:
    if not room.most or at_work < room.most:
        return ""
    return f"memory: lowered to {room.most} at once after a session was ended for its memory; {at_work} at work"


def _disk(machine: Machine, policy: Policy) -> str:
    for folder, (size, free) in machine.disks.items():
        floor = min(policy.min_disk_mb << 20, int(size * SMALL_DISK))
        if size and free < floor:
            return f"disk: {_size(free)} free at {folder}, {_size(floor)} must be"
    return ""


def _memory(room: Room, agent: str, started: Sequence[str], policy: Policy) -> str:
    free, spare, need = room.machine.memory_free, policy.min_memory_mb << 20, room.peaks.get(agent, 0)
    if not free:
        return ""
    if free < spare:
        return f"memory: {_size(free)} free, {_size(spare)} must be"
    promised = growth(room, started)
    if need + promised + spare <= free or not (room.running or started):
        return ""
    theirs = f", {_size(promised)} of it for those at work" if promised else ""
    ours = f" and {_size(spare)} stay free" if spare else ""
    return f"memory: {_size(free)} free{theirs}, {_a(agent)} session needs {_size(need)}{ours}"


def growth(room: Room, started: Iterable[str]) -> int:
    """Bytes that sessions at work, and those started in this round, may still take."""
    running = sum(max(room.peaks.get(agent, 0) - held, 0) for agent, held in room.running)
    return running + sum(room.peaks.get(agent, 0) for agent in started)


def _load(machine: Machine, policy: Policy) -> str:
    ceiling = policy.max_load * machine.cores
    if not ceiling or machine.load < ceiling:
        return ""
    return f"load: {machine.load:.1f} on {machine.cores} cores, at most {ceiling:g}"


def _ramp(room: Room, started: Sequence[str], policy: Policy) -> str:
    most, silent = at_a_time(room.machine, policy), room.starting + len(started)
    return f"ramp: {silent} sessions have not said a word yet, {most} may" if most and silent >= most else ""


def at_a_time(machine: Machine, policy: Policy) -> int:
    """How many sessions may be on their way at once; 0 = any number."""
    return policy.starting or machine.cores * STARTS_PER_CORE


def expected(word: int, measured: Sequence[int], killed: Sequence[int] = ()) -> int:
    """The peak of memory to expect of an agent's session, in bytes.

    That is what nine of ten `measured` ones stayed under; while they are few, no less than the agent's own `word`.
    `killed` are the peaks of sessions that were lately ended for their memory: no less than those either.
    """
    usual = sorted(measured)[ceil(len(measured) * 0.9) - 1] if measured else 0
    return max([usual, *killed, *([word] if len(measured) < SAMPLES else [])])


def lowered(kills: Iterable[int]) -> int:
    """How many sessions may run at once after kills for memory, each told by how many ran then; 0 = any number."""
    return min((max(ran - 1, 1) for ran in kills), default=0)


def _a(agent: str) -> str:
    return f"{'an' if agent[:1].lower() in 'aeiou' else 'a'} {agent}"


def _size(number: int) -> str:
    return f"{number / (1 << 30):.1f} GB" if number >= 100 << 20 else f"{number / (1 << 20):.1f} MB"
