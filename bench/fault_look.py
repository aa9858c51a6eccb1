"""What a night of the fault bench has left behind, and whether that is as it must be."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fault_house import KEYS, House, working_in
from tests.durable.world import until

from nightcrew import proc
from nightcrew.app import App
from nightcrew.core.model import PullRequest

Play = Callable[[House], None]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong. `told` says for a ticket, as a pattern, how its attempts must end in order; tickets
    that are not named end with "done". `takes` are the seconds that the fault itself lasts."""

    name: str
    what: str
    play: Play
    agent: str = "scripted"
    told: Mapping[str, str] = field(default_factory=dict)
    finished: int = len(KEYS)
    consumed: int | None = None  # default: one for each finished ticket
    takes: float = 0.0
    at_most: float = 20.0  # seconds of night that may be lost
    lane: str = ""  # a state that some lane must have been in
    needs: str = ""  # "faketime", "linux"

    @property
    def title(self) -> str:
        return f"{self.name} ({self.agent})"


class Faults(list[Fault]):
    """The faults of one module."""

    def add(self, name: str, what: str, **expected: Any) -> Callable[[Play], Play]:
        """Make a function a fault."""

        def register(play: Play) -> Play:
            self.append(Fault(name, what, play, **expected))
            return play

        return register


@dataclass(frozen=True)
class Left:
    """What is left of one night."""

    finished: int
    tickets: int
    attempts: int
    consumed: int
    duplicates: int
    lost: int  # commits
    leftovers: tuple[str, ...]
    told: Mapping[str, tuple[str, ...]]
    lanes: tuple[str, ...]  # states that lanes were in, in order
    evidence: str = ""


@dataclass
class Result:
    """What came of one fault. `seconds` of night lost; `wrong` is empty when all is as it must be."""

    name: str
    what: str
    agent: str
    left: Left | None = None
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    not_run: str = ""


def look(house: House) -> Left:
    """Look at all of it: rows, pull requests, refs, processes, mounts, lock files, workspaces."""
    app = App.load(house.home / "nightcrew.toml")
    try:
        runs = app.store.runs()
        attempts = {run.key: app.store.attempts_of(run.id) for run in runs}
        lanes = [e["kind"].partition(".")[2] for e in app.store.events(limit=5000) if e["kind"].startswith("lane.")]
        pulls, kept, twins = asyncio.run(_forges(app, house))
        left = tuple(_leftovers(house, f"{app.crew_id}:"))
    finally:
        app.store.close()
    opened = Counter(pull.branch for pull in pulls if pull.state == "open")
    first = next((a.evidence for key in attempts for a in attempts[key] if a.outcome != "done"), "")
    return Left(
        finished=sum(run.state == "in_review" and opened[run.branch] == 1 for run in runs), tickets=len(runs),
        attempts=sum(run.attempts for run in runs), consumed=sum(run.consumed for run in runs),
        duplicates=sum(n - 1 for n in opened.values()) + twins, lost=len(_told(house) - kept), leftovers=left,
        told={key: tuple(a.outcome for a in attempts[key]) for key in sorted(attempts)},
        lanes=tuple(dict.fromkeys(lanes)), evidence=first,
    )  # fmt: skip


async def _forges(app: App, house: House) -> tuple[list[PullRequest], set[str], int]:
    """The pull requests, every commit that a ref keeps, and how many patches are there twice."""
    pulls: list[PullRequest] = []
    kept: set[str] = set()
    for name, repo in app.repos.items():
        mine = await app.forges[repo.forge].list(repo)
        pulls += mine
        for folder in (house.home / name / ".git", app.hubs[name].path):
            kept |= set(_git(folder, "rev-list", "--all").split()) if folder.exists() else set()
    patches = Counter((p.repo, _patch(house.home / p.repo / ".git", p)) for p in pulls if p.state == "open")
    return pulls, kept, sum(n - 1 for n in patches.values())


def _patch(git_dir: Path, pull: PullRequest) -> str:
    diff = _git(git_dir, "diff", f"{pull.base}...{pull.head}")
    done = subprocess.run(["git", "patch-id", "--stable"], input=diff, capture_output=True, text=True, check=True)
    return done.stdout.partition(" ")[0]


def _git(git_dir: Path, *args: str) -> str:
    argv = ["git", "--git-dir", str(git_dir), *args]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _told(house: House) -> set[str]:
    """Every commit that an agent said it made."""
    noted = house.home / "commits"
    shas = set(noted.read_text().split()) if noted.exists() else set()
    for log in house.state.glob("attempts/*/*/try-*/stdout"):
        shas |= {
            found.decode()
            for found in re.findall(rb'^\{"type": "commit", "sha": "([0-9a-f]{40})"', log.read_bytes(), re.M)
        }
    return shas


def _leftovers(house: House, mark: str) -> list[str]:
    """Processes (they get a moment to end), mounts, lock files of git, workspaces, worktrees."""

    def processes() -> list[str]:
        return [f"process {left.command[:80]}" for left in proc.leftovers(mark)] + [
            f"process {words[:80]}" for words in working_in(house.home).values()
        ]

    until(lambda: not processes(), 3)
    mounts = Path("/proc/self/mounts").read_text() if Path("/proc").exists() else ""
    found = [*processes(), *(f"mount {m}" for m in re.findall(rf" ({re.escape(str(house.home))}\S*) ", mounts))]
    for folder in (*house.home.glob("*/.git"), *house.state.glob("hubs/*.git")):
        found += [f"lock {path}" for path in folder.rglob("*.lock")]
        if len(_git(folder, "worktree", "list").splitlines()) > 1:
            found.append(f"worktrees of {folder}")
    return found + _workspaces(house)


def _workspaces(house: House) -> list[str]:
    """Workspaces of tickets that nobody works any more."""
    rows = house.sql("SELECT key, workspace FROM runs WHERE state NOT IN ('queued', 'working') AND workspace <> ''")
    return [f"workspace of {key}" for key, path in rows if Path(path).exists()]


def misses(fault: Fault, left: Left, seconds: float, house: House) -> list[str]:
    """What is not as it must be, each in a few words."""
    wanted = fault.finished if fault.consumed is None else fault.consumed
    counts = {
        "tickets": (left.tickets, len(KEYS)), "finished": (left.finished, fault.finished),
        "attempts consumed": (left.consumed, wanted), "duplicates": (left.duplicates, 0), "commits lost": (left.lost, 0),
    }  # fmt: skip
    wrong = [f"{what}: {is_}, not {must}" for what, (is_, must) in counts.items() if is_ != must]
    wrong += [f"left over: {what}" for what in left.leftovers]
    for key, outcomes in left.told.items():
        pattern, told = fault.told.get(key, fault.told.get("*", "done")), " ".join(outcomes)
        if not re.fullmatch(pattern, told):
            wrong.append(f"{key} was told as `{told}`, not `{pattern}`")
    if fault.lane and fault.lane not in left.lanes:
        wrong.append(f"no lane was {fault.lane}")
    if seconds > fault.at_most:
        wrong.append(f"{seconds:.0f} s lost, more than {fault.at_most:.0f}")
    wrong += [f"`up` ended with exit code {code}" for code in house.codes if code not in (0, -9)]
    return wrong + house.seen_wrong
