"""What a cleaning looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from pathlib import Path

from nightcrew.core import keeping
from nightcrew.core.lifecycle import ENDED
from nightcrew.core.limits import Keep
from nightcrew.core.model import Repo, Run, RunState
from nightcrew.crew import Crew
from nightcrew.durable import History
from nightcrew.git import Hub
from nightcrew.store import Store

Go = Callable[[Crew], Awaitable[None]]


@dataclass(frozen=True)
class House:
    """Where a crew lives, and how long it keeps what is over.

    `directed`: a director is at work in it, who removes the workspaces of finished runs by itself.
    """

    crew_id: str
    home: Path  # the state directory
    workspaces: Path
    store: Store
    repos: Mapping[str, Repo]
    hubs: Mapping[str, Hub]
    history: History
    keep: Keep
    now: datetime
    directed: bool = False

    @property
    def epoch(self) -> float:
        return self.now.timestamp()


def house_of(crew: Crew, keep: Keep, *, directed: bool) -> House:
    """The house of a crew, now."""
    return House(crew.id, crew.home, crew.workspaces, crew.store, crew.repos, crew.hubs, crew.durable.history, keep,
                 crew.now(), directed)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One thing that goes, or (without `go`) that is kept although it looks like it could go; `why` in words.

    `go` removes it, and does nothing when it is gone or needed again by then.
    """

    kind: str
    what: str
    why: str
    bytes: int = 0
    run_id: str = ""
    go: Go | None = field(default=None, compare=False, repr=False)

    def row(self) -> dict[str, object]:
        """As it is shown and written down."""
        return {"kind": self.kind, "what": self.what, "why": self.why, "bytes": self.bytes}


@dataclass(frozen=True)
class Facts:
    """What our rows say of runs, by the name of their workspace, logs and refs (the branch's last part)."""

    runs: Mapping[str, Run]
    at_work: frozenset[str]  # ids of runs with an attempt that is not settled
    heads: Mapping[str, frozenset[str]]  # run id -> every commit its attempts ended with

    def needed(self, name: str) -> bool:
        """Whether the run of that name may still use its workspace."""
        run = self.runs.get(name)
        return run is not None and not self.settled(run)

    def settled(self, run: Run) -> bool:
        """Whether no attempt is at work for it, and none will be unless a person asks."""
        return run.id not in self.at_work and (run.state in ENDED or run.state is RunState.IN_REVIEW)

    def over(self, name: str) -> bool:
        """Whether its run is over, or nothing is known of it."""
        run = self.runs.get(name)
        return run is None or (run.id not in self.at_work and keeping.over(run))

    def ended_at(self, run: Run) -> float:
        """Epoch seconds of the last change of a run; a time that never comes when it is not known."""
        return run.updated_at.timestamp() if run.updated_at else inf


def name_of(branch: str) -> str:
    """What a branch's workspace, logs and refs are called."""
    return branch.rpartition("/")[2]


def facts(runs: Iterable[Run], at_work: Iterable[str], heads: Mapping[str, Iterable[str]]) -> Facts:
    """The facts of these rows."""
    names = {name_of(branch): run for run in runs for branch in [*keeping.branches(run), run.branch]}
    return Facts(names, frozenset(at_work), {run_id: frozenset(shas) for run_id, shas in heads.items()})
