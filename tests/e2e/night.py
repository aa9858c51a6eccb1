"""A whole night in a folder of its own: tickets, a real repository, nightcrew as a process, and what is left of it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nightcrew import proc
from nightcrew.app import App
from nightcrew.core.model import Attempt, Lane, PullRequest, Run
from nightcrew.stages import workspace
from nightcrew.testing.endpoints import Asked, Endpoint
from tests.conftest import Repository

PATIENCE = 120.0
PYTHON = shlex.quote(sys.executable)
TEST = f"{PYTHON} -m unittest -q"
KEY_LINE = "API_KEY = None  # the operations team gives it out"
FILES = {
    "calc.py": "def add(a, b):\n    return a + b\n",
    "test_calc.py": "import unittest\n\nimport calc\n\n\nclass CalcTest(unittest.TestCase):\n"
    "    def test_add(self):\n        self.assertEqual(calc.add(2, 3), 5)\n",
    "settings.py": f'"""What the shop is told."""\n\n{KEY_LINE}\n',
    ".gitignore": "__pycache__/\n",
}  # fmt: skip


def edit(key: str) -> str:
    """Shell that does the ticket's work without committing it: a change of its own for each ticket."""
    return f"echo 'DONE = \"{key}\"' > {file_of(key)}"


def work(key: str) -> str:
    """Shell that does the ticket's work as a good agent would: edit, run the tests, commit."""
    return f"{edit(key)} && {TEST} && git add -A && git commit -qm 'Work on {key}'"


def file_of(key: str) -> str:
    return f"{key.lower().replace('-', '_')}.py"


def blocked(reason: str, citation: str) -> str:
    """A last message that claims to be blocked."""
    return f"I cannot go on.\n\n```nightcrew-blocked\nreason: {reason}\n{citation}\n```"


@dataclass(frozen=True)
class Said:
    """What a nightcrew command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Story:
    """What became of one ticket: its row, its attempts, and what the repository, the forge and the board show."""

    run: Run
    attempts: list[Attempt]
    pulls: list[PullRequest]
    branches: list[str]  # heads in the owner's repository
    content: str  # of the file the ticket asks for, at the pull request's head
    on_board: str

    @property
    def outcomes(self) -> list[str]:
        return [attempt.outcome for attempt in self.attempts]

    @property
    def sessions(self) -> list[str]:
        return [attempt.session_id for attempt in self.attempts]

    @property
    def resumed(self) -> list[bool]:
        return [attempt.resume for attempt in self.attempts]


@dataclass(frozen=True)
class Morning:
    """What a night has left behind."""

    stories: Mapping[str, Story]
    lanes: Mapping[str, Lane]
    events: list[dict[str, Any]]
    processes: list[proc.Leftover]  # that still bear the crew's mark

    def __getitem__(self, key: str) -> Story:
        return self.stories[key]

    def happened(self, kind: str) -> list[dict[str, Any]]:
        return [event["data"] for event in self.events if event["kind"] == kind]


@dataclass
class Night:
    """A folder with a repository, a board and a nightcrew.toml; `environ` is what the owner's shell would say."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def upstream(self) -> Repository:
        return Repository(self.home / "shop")

    async def __aenter__(self) -> Self:
        self.upstream.path.mkdir(parents=True)
        self.upstream.git("init", "-q", "-b", "main")
        for name, text in FILES.items():
            self.upstream.write(name, text)
        self.upstream.commit("start")
        (self.home / "tickets").mkdir()
        (self.home / "home").mkdir()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what a test that failed has left running, and unmount the workspaces of tickets that still wait."""
        if not (self.home / ".nightcrew").exists():
            return
        with self.app() as app:
            await proc.sweep(f"{app.crew_id}:")
            for run in app.store.runs():
                if run.workspace:
                    await workspace.discard(app.hubs[run.repo], app.config.workspaces_dir, Path(run.workspace))

    def configure(self, agent: str, stall: float = 60, **limits: float) -> None:
        """Write nightcrew.toml: the agent's table, [limits], and after how many silent seconds a session is stalled."""
        wanted = {"max_running": 2, "backoff_base": 0.5, "reset_grace": 0.2, **limits}
        lines = "\n".join(f"{key} = {value}" for key, value in wanted.items())
        (self.home / "nightcrew.toml").write_text(
            f'[board]\nkind = "folder"\npath = "tickets"\n\n[limits]\n{lines}\n\n[limits.attempt]\n'
            f"stall_seconds = {stall}\n\n{agent}\n"
            f'[[repos]]\nname = "shop"\npath = "shop"\n\n[repos.gates]\ncommands = [{json.dumps(TEST)}]\n'
        )

    def ticket(self, key: str, priority: int = 3) -> None:
        """Put a ticket on the board."""
        text = f"---\nid: {key}\ntitle: Add {file_of(key)}\nstate: todo\nrepo: shop\npriority: {priority}\n---\n\n"
        (self.home / "tickets" / f"{key}.md").write_text(f"{text}Make {file_of(key)} and keep the tests green.\n")

    @asynccontextmanager
    async def running(self, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """`nightcrew ARGS` as a process; killed, and nothing else, when the block is left before its end."""
        env = {"PATH": os.environ["PATH"], "HOME": str(self.home / "home"), "LANG": "C.UTF-8", **self.environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nightcrew", "-c", str(self.home / "nightcrew.toml"), *args, cwd=self.home, env=env,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.communicate()

    async def call(self, *args: str) -> Said:
        """`nightcrew ARGS` to its end."""
        async with self.running(*args) as process, asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
            assert process.returncode is not None
            return Said(process.returncode, out.decode(), err.decode())

    async def up(self) -> Said:
        """`nightcrew up --until-idle`, to its end, which must be an orderly one."""
        async with self.running("up", "--until-idle") as nightcrew:
            return await self.ended(nightcrew)

    async def ended(self, nightcrew: asyncio.subprocess.Process) -> Said:
        """Wait for its end, which must be an orderly one."""
        async with asyncio.timeout(PATIENCE):
            out, err = await nightcrew.communicate()
        said = Said(nightcrew.returncode or 0, out.decode(), err.decode())
        assert said.code == 0, said
        return said

    @contextmanager
    def app(self) -> Iterator[App]:
        """The same configuration, looked at from here."""
        app = App.load(self.home / "nightcrew.toml")
        try:
            yield app
        finally:
            app.store.close()

    def marked(self) -> list[proc.Leftover]:
        """The processes that bear the crew's mark."""
        with self.app() as app:
            return proc.leftovers(f"{app.crew_id}:")

    def attempts(self) -> list[Attempt]:
        """The attempts under way, () when nightcrew has not come so far yet."""
        if not (self.home / ".nightcrew" / "nightcrew.sqlite").exists():
            return []
        with self.app() as app:
            return app.store.open_attempts()

    def lane(self) -> Lane:
        """The only lane there is (a provider's breaker is none)."""
        with self.app() as app:
            return next((lane for name, lane in app.store.lanes().items() if ":" not in name), Lane(""))

    def handles(self) -> list[proc.Handle]:
        """Every agent's process there ever was."""
        found = (self.home / ".nightcrew" / "attempts").glob("*/*/try-*/handle.json")
        return [proc.Handle.from_json(file.read_text()) for file in found]

    async def morning(self) -> Morning:
        """Everything there is to see now."""
        with self.app() as app:
            pulls = await app.forges["local"].list(app.repos["shop"])
            stories = {run.key: self._story(app, run, pulls) for run in app.store.runs()}
            marked = proc.leftovers(f"{app.crew_id}:")
            return Morning(stories, app.store.lanes(), app.store.events(limit=1000), marked)

    def _story(self, app: App, run: Run, pulls: list[PullRequest]) -> Story:
        mine = [pull for pull in pulls if pull.branch == run.branch or pull.title.startswith(f"{run.key}:")]
        heads = self.upstream.git("for-each-ref", "--format=%(refname:short)", "refs/heads/nightcrew").split()
        content = self.upstream.git("show", f"{mine[0].head}:{file_of(run.key)}") if mine else ""
        front = (self.home / "tickets" / f"{run.ticket_id}.md").read_text()
        state = next(line.partition(":")[2].strip() for line in front.splitlines() if line.startswith("state:"))
        branches = [head for head in heads if head.startswith(run.branch.rpartition("-")[0])]
        return Story(run, app.store.attempts_of(run.id), mine, branches, content, state)


def assert_published(story: Story) -> None:
    """One pull request, from one branch, with the ticket's work on it; its gates passed; the ticket is in review."""
    assert story.run.state == "in_review", story
    assert [(pull.state, pull.branch) for pull in story.pulls] == [("open", story.run.branch)]
    assert story.branches == [story.run.branch]
    assert story.content == f'DONE = "{story.run.key}"'
    last = story.attempts[-1]
    assert (last.head, last.outcome) == (story.pulls[0].head, "done")
    assert {gate.gate: gate.passed for gate in last.gates} == dict.fromkeys(("changed", "scope", "commands"), True)
    assert story.on_board == "in review"


def assert_quiet(night: Night, morning: Morning) -> None:
    """Nothing of the night runs any more, and nothing of it is unsettled."""
    assert morning.processes == []
    assert [handle for handle in night.handles() if proc.alive(handle)] == []
    assert all(attempt.settled for story in morning.stories.values() for attempt in story.attempts)


def asked_for(endpoint: Endpoint, word: str) -> list[Asked]:
    """The model calls of conversations about `word`, side requests left out."""
    calls = [asked for asked in endpoint.asked if asked.step not in {"other", "side"}]
    return [asked for asked in calls if told(asked, word)]


def told(asked: Asked, *words: str) -> bool:
    """Whether the conversation that a request carries has all these words."""
    conversation = json.dumps(asked.body.get("messages") or asked.body.get("input"))
    return all(word in conversation for word in words)


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something to come true."""
    try:
        async with asyncio.timeout(PATIENCE / 2):
            while not holds():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"never came true: {what}") from None
