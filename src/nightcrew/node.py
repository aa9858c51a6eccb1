"""A node's own chores beside the attempts: what it has room for, progress written down, workspaces removed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from weakref import WeakKeyDictionary

from nightcrew.core import admission
from nightcrew.core.admission import Machine, Room
from nightcrew.core.lifecycle import pushed_head
from nightcrew.core.model import Policy, Repo, Run
from nightcrew.crew import INFRA, Crew
from nightcrew.errors import NightcrewError
from nightcrew.git import rescue_ref
from nightcrew.proc import Handle
from nightcrew.proc.machine import machine
from nightcrew.stages import workspace
from nightcrew.stages.session import Live
from nightcrew.store import Store, memory

FLUSH_EVERY = 1.0
LOOKS = 10  # at the ramp, between two flushes
MEASURED_EVERY = 60.0  # seconds
SPEAKS_BY = 20.0
"""Seconds after which a session that said nothing is no longer one that is starting: some agents never speak."""
LOWERED_FOR = timedelta(hours=1)
REMEMBERED_FOR = timedelta(hours=24)  # that an agent's session was ended for its memory


@dataclass
class _Known:
    """What `room` found out last, kept while a crew is up. Times are monotonic."""

    at: float = -MEASURED_EVERY
    peaks: Mapping[str, int] = field(default_factory=dict)
    most: int = 0
    at_work: tuple[tuple[str, str], ...] = ()
    ramp: int = 0  # how many silent sessions the next one waits for, 0 when it does not


_known: WeakKeyDictionary[Store, _Known] = WeakKeyDictionary()


def recorded(crew: Crew) -> list[Handle]:
    """The programs of attempts that had not ended when nightcrew did, as they were written down."""
    folders = [
        crew.home / "attempts" / run.branch.rpartition("/")[2] / str(attempt.number)
        for attempt in crew.store.open_attempts()
        if attempt.phase != "ended" and (run := crew.store.named(attempt.run_id))
    ]
    found = []
    for file in (file for folder in folders for file in folder.glob("try-*/handle.json")):
        with suppress(OSError, ValueError):
            found.append(Handle.from_json(file.read_text()))
    return found


async def flush(crew: Crew) -> None:
    """Write the progress of all sessions, one transaction a second; an idle crew writes nothing.

    Those who wait for a starting session to speak are let go on as soon as it does.
    """
    seen: dict[str, int] = {}
    while True:
        for _ in range(LOOKS):
            await asyncio.sleep(FLUSH_EVERY / LOOKS)
            _watch_ramp(crew)
        if rows := list(crew.progress(seen)):
            with suppress(NightcrewError):
                crew.store.update_attempts(rows)


def room(crew: Crew) -> Room:
    """What this machine has for one more session. Cheap: the machine is looked at once a second, our rows' peaks once
    a minute and when a session ended."""
    known = _known.setdefault(crew.store, _Known())
    at_work = tuple(memory.at_work(crew.store))
    if time.monotonic() - known.at >= MEASURED_EVERY or set(known.at_work) - set(at_work):
        _measure(crew, known)
    seen = machine((crew.home, crew.workspaces))
    here = Machine(seen.cores, seen.memory_total, seen.memory_free, seen.load, seen.disks)
    lives = [(agent, crew.live.get(run_id)) for run_id, agent in at_work]
    running = tuple((agent, live.memory if live else 0) for agent, live in lives)
    known.at_work, starting = at_work, _silent(crew, at_work)
    most = admission.at_a_time(here, crew.policy)
    known.ramp = starting if 0 < most <= starting else 0
    return Room(here, known.peaks, running, starting, known.most)


def _measure(crew: Crew, known: _Known) -> None:
    """What sessions of each agent take, and how many may run after kills for memory: told by rows, so by a restart."""
    now = crew.now()
    kills = memory.killed_since(crew.store, now - REMEMBERED_FOR)
    peaks = memory.measured(crew.store, crew.agents)
    known.peaks = {
        name: admission.expected(agent.memory, peaks[name], [kill.peak for kill in kills if kill.agent == name])
        for name, agent in crew.agents.items()
    }
    known.most = admission.lowered(kill.ran for kill in kills if now - kill.at < LOWERED_FOR)
    known.at = time.monotonic()


def _silent(crew: Crew, at_work: tuple[tuple[str, str], ...]) -> int:
    return sum(_starting(crew.live.get(run_id)) for run_id, _ in at_work)


def _starting(live: Live | None) -> bool:
    if live is None:
        return True
    late = bool(live.started) and time.monotonic() - live.started > SPEAKS_BY
    return live.progress.lines == 0 and not late


def _watch_ramp(crew: Crew) -> None:
    known = _known.get(crew.store)
    if known and known.ramp and _silent(crew, known.at_work) < known.ramp:
        known.ramp = 0
        crew.wake()


def capabilities(policy: Policy) -> frozenset[str]:
    """What this machine can do: its system, and what its owner says of it."""
    return frozenset({"macos" if sys.platform == "darwin" else sys.platform, *map(str.lower, policy.capabilities)})


async def clean(crew: Crew, run: Run) -> None:
    """Remove the run's workspace; what is only there goes to a rescue ref first (I2)."""
    name = run.branch.rpartition("/")[2]
    repo = crew.repos.get(run.repo)
    if repo is None:
        return  # its hub is unknown now: nothing is removed
    hub, tree = crew.hubs[run.repo], Path(run.workspace)
    pushed = pushed_head(crew.store.attempts_of(run.id))  # what was collected and failed its gates is nowhere else
    if repo.hooks.before_remove and tree.exists():
        await _before_remove(crew, run, repo, tree)
    ref = rescue_ref(name, str(run.attempts))
    async with crew.cleaning:
        saved = await workspace.remove(hub, crew.workspaces, tree, ref, [pushed] if pushed else [])
    if saved:
        crew.store.event("rescued", run.id, ref=ref, sha=saved)
    crew.store.set_run(run.id, workspace="")


async def _before_remove(crew: Crew, run: Run, repo: Repo, tree: Path) -> None:
    hooks = repo.hooks
    try:
        await workspace.run_hook(hooks.before_remove, tree, {}, hooks.timeout, name="before_remove", ticket=run.key,
                                 mark=f"{crew.mark}{run.branch}:clean:")  # fmt: skip
    except INFRA as error:  # as in Symphony: logged, never fatal
        crew.store.event("hook.failed", run.id, hook="before_remove", error=str(error))
