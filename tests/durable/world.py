"""A small real world to be killed in: repositories, a board of tickets, an agent that really commits, and a verdict."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nightcrew import proc
from nightcrew.app import App
from nightcrew.core.model import Attempt, PullRequest, Run
from nightcrew.git import git

LINE = 'echo "$NIGHTCREW_SESSION" >>"work-$(basename "$PWD").txt"'
PATIENCE = 90.0  # seconds until a run that should end is called hanging


def until(holds: Callable[[], object], seconds: float = 30.0) -> bool:
    """Wait until it holds; False when it did not within that time."""

    async def wait() -> bool:
        for _ in range(int(seconds / 0.02)):
            if holds():
                return True
            await asyncio.sleep(0.02)
        return False

    return asyncio.run(wait())


@dataclass(frozen=True)
class Verdict:
    """What a night left behind. `lost` are commits an agent told of that no ref keeps."""

    states: dict[str, int]
    pull_requests: int
    duplicates: int
    branches: int
    lost: list[str]
    processes_left: list[str]
    attempts: dict[str, tuple[int, int]] = field(default_factory=dict)  # ticket: (all, consumed)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


class World:
    """Everything lies below `home`."""

    def __init__(self, home: Path, database_url: str = "") -> None:
        self.home, self.database_url = home, database_url
        self.config = home / "nightcrew.toml"
        self.repos: tuple[str, ...] = ()
        self.settings = ("", "")
        self.started: list[subprocess.Popen[str]] = []

    def make(
        self,
        tickets: int = 1,
        repos: Sequence[str] = ("alpha",),
        *,
        waits: float = 0.1,
        running: int = 4,
        workspace: str = "checkout",
        script: Sequence[object] = (),
        limits: str = "",
    ) -> World:
        """Make it: `tickets` tickets dealt out over `repos`, none worked yet.

        The agent thinks `waits` seconds between its two commits, a moment only when its session goes on; or it plays
        `script`.
        """
        self.repos = tuple(repos)
        for name in repos:
            asyncio.run(_repository(self.home / name))
        (self.home / "tickets").mkdir()
        for number in range(1, tickets + 1):
            self.ticket(f"K-{number}", repos[(number - 1) % len(repos)])
        self.play(script or _work(waits), script or _work(0.1))
        self.settings = f'workspace = "{workspace}"', f"max_running = {running}\n{limits}"
        self.configure(*repos)
        return self

    def play(self, script: Sequence[object], resumed: Sequence[object] = ()) -> None:
        """What the agent does from now on: `resumed` when its session goes on, else `script`."""
        whole = {"attempts": [list(script)], "on_resume": {"attempts": [list(resumed or script)]}}
        (self.home / "script.json").write_text(json.dumps(whole))

    def configure(self, *repos: str) -> None:
        """Write nightcrew.toml with these repositories."""
        agent = json.dumps([sys.executable, "-m", "nightcrew.testing.scripted_agent", str(self.home / "script.json")])
        database = f"database_url = {json.dumps(self.database_url)}\n" if self.database_url else ""
        listed = "".join(f'\n[[repos]]\nname = "{n}"\npath = "{n}"\nbase = "main"\n' for n in repos)
        self.config.write_text(
            f'[crew]\n{self.settings[0]}\n{database}\n[board]\nkind = "folder"\npath = "tickets"\n\n'
            f"[limits]\nbackoff_base = 0.2\nmax_attempts = 3\n{self.settings[1]}\n"
            f'[agents.scripted]\nkind = "command"\ncommand = {agent}\n{listed}'
        )

    def reach(self, what: Callable[[World], object]) -> None:
        """Wait until that holds; raises AssertionError with what was printed when it never does."""
        assert until(lambda: what(self)), (self.home / "up.log").read_text()[-2000:]

    def ticket(self, key: str, repo: str) -> None:
        """Put one more ticket on the board."""
        front = f"---\nid: {key}\ntitle: Do {key}\nrepo: {repo}\nstate: todo\n---\n"
        (self.home / "tickets" / f"{key}.md").write_text(f"{front}\nWrite a line, twice.\n")

    # -- running ---------------------------------------------------------------------------------------------------
    def argv(self, *command: str, at: str = "") -> list[str]:
        """The words that run this command of nightcrew, killed `at` a point."""
        program = ["nightcrew.testing.crashing", "--at", at, "--"] if at else ["nightcrew"]
        return [sys.executable, "-m", *program, "-c", str(self.config), *command]

    def run(self, *command: str, at: str = "", timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; raises TimeoutExpired when it hangs."""
        argv = self.argv(*command, at=at)
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, cwd=self.home)

    def up(self, at: str = "") -> subprocess.CompletedProcess[str]:
        """Work the board until nothing goes on by itself, or until killed `at` a point."""
        return self.run("up", "--until-idle", "--json", at=at)

    def start(self, *command: str, at: str = "") -> subprocess.Popen[str]:
        """Start a command and leave it running; its output goes to `up.log`."""
        with (self.home / "up.log").open("a") as log:
            argv = self.argv(*command, at=at)
            self.started.append(subprocess.Popen(argv, stdout=log, stderr=log, text=True, cwd=self.home))
        return self.started[-1]

    def end(self) -> None:
        """End whatever a test left running."""
        for process in self.started:
            process.kill()
            process.wait()
        for mount in self.mounts():
            subprocess.run(["umount", "-l", mount], check=False)
        for pid in _working_in(self.home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @staticmethod
    def wait(process: subprocess.Popen[str], seconds: float) -> None:
        """Let it run for a while, or to its end."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    # -- looking ---------------------------------------------------------------------------------------------------
    def runs(self) -> dict[str, Run]:
        """Every run by its ticket's key."""
        app = App.load(self.config)
        try:
            return {run.key: run for run in app.store.runs()}
        finally:
            app.store.close()

    def attempts(self, key: str) -> list[Attempt]:
        """The attempts of one ticket, oldest first."""
        app = App.load(self.config)
        try:
            return app.store.attempts_of(self.runs()[key].id)
        finally:
            app.store.close()

    def board(self, key: str) -> str:
        """The state written in a ticket's file."""
        lines = (self.home / "tickets" / f"{key}.md").read_text().splitlines()
        return next(line.removeprefix("state: ") for line in lines if line.startswith("state: "))

    def told(self) -> list[str]:
        """Every commit that an agent printed, in the order of the files."""
        lines = [line for log in self.tries("stdout") for line in log.read_text(errors="replace").splitlines()]
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event["sha"] for event in events if event["type"] == "commit"]

    def tries(self, name: str) -> list[Path]:
        """The files of that name which sessions left: `stdout`, `rc`."""
        return sorted((self.home / ".nightcrew" / "attempts").glob(f"*/*/try-*/{name}"))

    def sessions(self) -> set[str]:
        """The ids of the sessions that wrote the lines of the pull requests."""
        lines: set[str] = set()
        for name in self.repos:
            where = self.home / name / ".git"
            heads = asyncio.run(git("for-each-ref", "--format=%(refname)", "refs/heads/nightcrew", git_dir=where))
            for ref in heads.split():
                text = asyncio.run(git("grep", "-h", "-E", "-e", "^[0-9a-f-]{36}$", ref, "--", "work-*", git_dir=where))
                lines |= set(text.split())
        return lines

    def mounts(self) -> list[str]:
        """What is mounted below `home` (Linux)."""
        table = Path("/proc/self/mounts")
        lines = table.read_text().splitlines() if table.exists() else []
        return [line.split()[1] for line in lines if line.split()[1].startswith(str(self.home))]

    def verdict(self) -> Verdict:
        """Look at all of it: rows, pull requests, refs, processes."""
        app = App.load(self.config)
        try:
            runs = app.store.runs()
            crew = app.crew_id
        finally:
            app.store.close()
        pulls, kept, branches = asyncio.run(self._forges(app))
        opened = Counter((pull.repo, pull.branch) for pull in pulls)
        return Verdict(
            states=dict(Counter(run.state.value for run in runs)), pull_requests=len(pulls),
            duplicates=len(pulls) - len(opened), branches=branches, lost=sorted(set(self.told()) - kept),
            processes_left=self._processes(f"{crew}:"), attempts={r.key: (r.attempts, r.consumed) for r in runs},
        )  # fmt: skip

    async def _forges(self, app: App) -> tuple[list[PullRequest], set[str], int]:
        pulls: list[PullRequest] = []
        kept: set[str] = set()
        branches = 0
        for name, repo in app.repos.items():
            pulls += await app.forges[repo.forge].list(repo)
            for git_dir in (self.home / name / ".git", app.hubs[name].path):
                kept |= set((await git("rev-list", "--all", git_dir=git_dir)).split()) if git_dir.exists() else set()
            heads = await git("for-each-ref", "refs/heads/nightcrew", git_dir=self.home / name / ".git")
            branches += len(heads.splitlines())
        return pulls, kept, branches

    def _processes(self, mark: str) -> list[str]:
        """What bears the crew's mark or works below `home`; a git that a killed nightcrew left gets a moment to end."""

        def found() -> list[str]:
            return [left.command for left in proc.leftovers(mark)] + list(_working_in(self.home).values())

        until(lambda: not found(), 10)
        return found()


def _work(waits: float) -> list[object]:
    return [{"run": LINE}, {"commit": "half"}, {"wait": waits}, {"run": LINE}, {"commit": "whole"}]


def _working_in(home: Path) -> dict[int, str]:
    """Processes, this one excepted, whose working folder is below `home`, and their command lines (Linux)."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inside = entry.joinpath("cwd").readlink().is_relative_to(home)
            words = entry.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if inside and entry.name != str(os.getpid()):
            found[int(entry.name)] = " ".join(words).strip()
    return found


async def _repository(folder: Path) -> None:
    folder.mkdir(parents=True)
    await git("init", "-q", "-b", "main", ".", cwd=folder)
    (folder / "README.md").write_text("# A repository\n")
    await git("add", "-A", cwd=folder)
    await git("-c", "user.name=Ada", "-c", "user.email=ada@localhost", "commit", "-q", "-m", "Start", cwd=folder)
