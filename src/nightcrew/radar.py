"""The conflict radar of a running crew: looked at beside the loop after each push, told to it, kept for the command."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from nightcrew.core import turns
from nightcrew.core.likely import Earlier, Index
from nightcrew.core.model import Run, RunState, Ticket
from nightcrew.core.radar import Conflicts
from nightcrew.core.schedule import View, run_id
from nightcrew.crew import Crew
from nightcrew.errors import NightcrewError
from nightcrew.git.radar import Radar

log = logging.getLogger("nightcrew.radar")
RETRY_AFTER = timedelta(seconds=30)
UNKNOWN_AFTER = timedelta(minutes=10)
PATIENCE = 2.0  # seconds that the first round waits for a repository's files and history, if several tickets are open
MOST_TOUCHED = 200  # runs whose files are remembered for each repository
OVER = (RunState.MERGED, RunState.CLOSED)
OPEN = (RunState.QUEUED, RunState.WORKING, RunState.IN_REVIEW)


@dataclass(frozen=True)
class Seen:
    """What a look at a repository was taken of: if none of it changed, there is nothing new to see."""

    heads: Mapping[str, str]  # branch -> commit, oldest branch first
    bases: int = 0  # how often the forge told of another commit of the base


class Lookout:
    """Keeps the radar of each repository up to date and says which files runs will touch.

    Its work is put into `background`, beside the director's other work, and `wake` is called when it is done.
    """

    def __init__(self, crew: Crew, background: dict[str, asyncio.Task[None]], wake: Callable[[], None]) -> None:
        self.crew, self.background, self.wake = crew, background, wake
        self.radars = {name: Radar(hub) for name, hub in crew.hubs.items()}
        self.known: dict[str, Conflicts] = {}
        self.indexes: dict[str, Index] = {}
        self.heads: dict[str, str] = {}  # of open pull requests, by run: as the forge shows them, or as we pushed them
        self.bases: defaultdict[str, set[str]] = defaultdict(set)
        self.wanted: dict[str, Seen] = {}
        self.seen: dict[str, Seen] = {}
        self.not_before: dict[str, datetime] = {}
        self.touched: dict[str, list[dict[str, object]]] = {}  # by repository: run, title and files, oldest first
        self.learned: set[str] = set()  # repositories whose files and history are known
        self.lines: dict[str, object] = {}
        self._likely: dict[str, tuple[object, frozenset[str]]] = {}

    async def told(self, view: View) -> View:
        """The view with what the radar knows; a look is begun wherever something was pushed since the last one."""
        begun = [name for name in self.radars if any(r.repo == name and r.state in OPEN for r in view.runs)]
        new = [name for name in begun if name not in self.indexes]
        for name in new:
            await self._begin(name)
        self._hear(view)
        for name in self.indexes:
            self._look_if_due(name, Seen(_open(view, name, self.heads), len(self.bases[name])))
        await self._wait_for([name for name in new if sum(run.repo == name for run in view.runs) > 1])
        told = replace(view, conflicts=dict(self.known), touches=self._touches(view))
        for name in self.known:
            self._tell_line(told, name)
        return told

    def _hear(self, view: View) -> None:
        """Where branches and bases are. What an attempt just left is newer than what the forge was seen to show."""
        for run in view.runs:
            if pull := view.pulls.get((run.repo, run.branch)):
                self.heads[run.id] = pull.head if pull.state == "open" else ""
            if (standing := view.standings.get(run.id)) and standing.base_head:
                self.bases[run.repo].add(standing.base_head)
        for attempt in view.attempts:
            if attempt.phase == "ended" and attempt.pull_request and attempt.head:
                self.heads[attempt.run_id] = attempt.head

    # -- looking ---------------------------------------------------------------------------------------------------
    async def _begin(self, name: str) -> None:
        """What is known of a repository without asking anybody: its last look, and what its hub has."""
        self.indexes[name] = Index()
        self.touched[name] = list(self.crew.store.get(f"touched:{name}", []))
        with suppress(NightcrewError, OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                if base := await self.radars[name].base(self.crew.repos[name].base):
                    await self._learn(name, base)

    async def _wait_for(self, names: Iterable[str]) -> None:
        """For the first looks, so that not even the first tickets of a night get into one another's way."""
        tasks = [self.background[f"radar:{name}"] for name in names if f"radar:{name}" in self.background]
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE)

    def _look_if_due(self, name: str, now_is: Seen) -> None:
        key = f"radar:{name}"
        self.wanted[name] = now_is
        if key not in self.background and self._due(name, now_is):
            self.background[key] = asyncio.create_task(self._look_until_seen(name))

    def _due(self, name: str, now_is: Seen) -> bool:
        before, wait = self.seen.get(name, Seen({})), self.not_before.get(name)
        if wait is not None:  # it failed: the same thing is tried again after a while, another at once
            return now_is != before or self.crew.now() >= wait
        return name not in self.learned or (now_is != before and bool(now_is.heads or before.heads))

    async def _look_until_seen(self, name: str) -> None:
        """Look till nothing was pushed meanwhile. A fault is tried again after a while; it stops nothing else."""
        try:
            looked = False
            while not looked or self.seen[name] != self.wanted[name]:
                self.seen[name], looked = self.wanted[name], True
                self.not_before.pop(name, None)
                await self._look(name, self.seen[name])
        except (NightcrewError, OSError) as error:
            self.not_before[name] = self.crew.now() + RETRY_AFTER
            log.warning("radar.failed", extra={"repo": name, "error": str(error)})
        finally:
            self.background.pop(f"radar:{name}", None)
            self.wake()

    async def _look(self, name: str, wanted: Seen) -> None:
        """Look once, and write down what was found."""
        hub, repo = self.crew.hubs[name], self.crew.repos[name]
        await hub.ensure()
        base = await hub.fetch_base(repo.base)
        found = await self.radars[name].look(base, wanted.heads)
        if name not in self.learned or base != self.known.get(name, Conflicts()).base:
            await self._learn(name, base)
        self._remember(name, found)
        self.known[name] = found
        self.crew.store.put(f"radar:{name}", {"at": self.crew.now(), "conflicts": found})
        if found.unknown:  # what could not be fetched may be there later
            self.not_before[name] = self.crew.now() + UNKNOWN_AFTER

    async def _learn(self, name: str, base: str) -> None:
        radar = self.radars[name]
        files, history, defined = await asyncio.gather(radar.files(base), radar.history(base), radar.defined(base))
        ours = tuple(Earlier(str(row["title"]), tuple(map(str, _list(row["files"])))) for row in self.touched[name])
        self.indexes[name] = await asyncio.to_thread(_ready, Index(files, ours + history, defined))
        self.learned.add(name)
        self._likely.clear()

    def _remember(self, name: str, found: Conflicts) -> None:
        """Which files each run's branch changed: they tell of later tickets with like words, also of merged ones."""
        rows = {str(row["run"]): row for row in self.touched.setdefault(name, [])}
        for run in self.crew.store.with_pulls():
            if run.repo == name and (files := found.touched.get(run.branch)):
                rows[run.id] = {"run": run.id, "title": run.title, "files": list(files)}
        kept = list(rows.values())[-MOST_TOUCHED:]
        if kept != self.touched[name]:
            self.touched[name] = kept
            self.crew.store.put(f"touched:{name}", kept)

    # -- telling ---------------------------------------------------------------------------------------------------
    def _touches(self, view: View) -> dict[str, frozenset[str]]:
        """The files that open runs likely change, and those their branches do change."""
        tickets = {run_id(ticket): ticket for ticket in view.tickets}
        changed = {(name, row["run"]): _list(row["files"]) for name, rows in self.touched.items() for row in rows}
        return {
            run.id: self._likely_of(run, tickets.get(run.id)) | {*map(str, changed.get((run.repo, run.id), ()))}
            for run in view.runs if run.state in OPEN and run.repo in self.indexes
        }  # fmt: skip

    def _likely_of(self, run: Run, ticket: Ticket | None) -> frozenset[str]:
        key = (run.repo, run.title, ticket.body if ticket else "")
        if run.id not in self._likely or self._likely[run.id][0] != key:
            self._likely[run.id] = key, self.indexes[run.repo].likely(f"{key[1]}\n{key[2]}")
        return self._likely[run.id][1]

    def _tell_line(self, view: View, name: str) -> None:
        """Write down in which order pull requests are to be merged, whenever that changed."""
        keys = {run.id: run.key for run in view.runs}
        line = [keys[one] for one in turns.in_line(view, name)]
        if line != self.lines.get(name):
            self.crew.store.put(f"line:{name}", line)
            self.lines[name] = line


def _open(view: View, repo: str, heads: Mapping[str, str]) -> dict[str, str]:
    """The branches of open pull requests, oldest first, and where each is as far as is known."""
    runs = [r for r in view.runs if r.repo == repo and r.pull_request and r.state not in OVER and heads.get(r.id)]
    return {run.branch: heads[run.id] for run in sorted(runs, key=lambda r: (r.pull_request, r.id))}


def _ready(index: Index) -> Index:
    index.likely("")
    return index


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
