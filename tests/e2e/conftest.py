"""Tests with the real agent CLIs: found by `tests.e2e.agents`; left out where they are missing, but never in CI."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from nightcrew import proc
from nightcrew.adapters.agents.claude import Claude
from nightcrew.core.outcome import Ending
from nightcrew.ports import Launch, Progress, Task
from nightcrew.testing.anthropic import AnthropicEndpoint
from tests.conftest import AUTHOR, Repository
from tests.e2e.agents import PACKAGES, AgentMissing, program

pytest.register_assert_rewrite("tests.e2e.night", "tests.e2e.night_suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs an agent that is not here: `@pytest.mark.real_agent("codex")`; without a name, any."""
    if os.environ.get("CI") == "true":
        return  # there the program's own lookup fails, and says how to get it
    for item in items:
        for mark in item.iter_markers("real_agent"):
            for name in mark.args or PACKAGES:
                _leave_out(item, name)


def _leave_out(item: pytest.Item, name: str) -> None:
    try:
        program(name)
    except AgentMissing as missing:
        item.add_marker(pytest.mark.skip(reason=str(missing)))


@pytest.fixture(scope="session")
def claude_program() -> Path:
    """The real Claude Code. Fails, with the cure, where there is none."""
    try:
        return program("claude")
    except AgentMissing as missing:
        pytest.fail(str(missing))


Ready = Callable[["ClaudeCrew"], bool]


@dataclass(frozen=True)
class Seen:
    """What one session left behind."""

    ending: Ending
    progress: Progress
    stdout: bytes
    stderr: str
    exit_code: int


@dataclass
class ClaudeCrew:
    """A repository to work in, a home for the CLI, and the provider it talks to."""

    agent: Claude
    endpoint: AnthropicEndpoint
    workspace: Repository
    home: Path

    def task(self, prompt: str = "Fix add() in calc.py and commit.", **more: object) -> Task:
        """A session of its own in the workspace; `more` are fields of Task."""
        made = Task(self.workspace.path, prompt, self.home / "scratch", session_id=str(uuid4()), model="sonnet")
        return replace(made, **more)  # type: ignore[arg-type]

    async def run(self, task: Task, *, stop: tuple[Ready, signal.Signals] | None = None) -> Seen:
        """Launch exactly what the adapter says, to its end or to the signal sent once `stop` holds."""
        launch = self.agent.launch(task)
        async with _started(launch, self.home, task.workspace) as process:
            talk = asyncio.create_task(process.communicate(launch.conversation.opening()))
            if stop is not None:
                await until(lambda: stop[0](self) or talk.done())
                process.send_signal(stop[1])
            stdout, stderr = await asyncio.wait_for(talk, 60)
        for line in stdout.splitlines():
            launch.conversation.hear(line)
        code = process.returncode
        assert code is not None
        ending = self.agent.read(stdout.splitlines(), code, stderr.decode(), datetime.now(UTC))
        return Seen(ending, launch.conversation.progress, stdout, stderr.decode(), code)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something to come true, a minute at most."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


class _started:
    """A process that does not outlive its block."""

    def __init__(self, launch: Launch, home: Path, cwd: Path) -> None:
        self._launch, self._home, self._cwd = launch, home, cwd

    async def __aenter__(self) -> asyncio.subprocess.Process:
        self._mark = f"e2e:{self._home}:"
        env = {"PATH": os.environ["PATH"], "HOME": str(self._home), **AUTHOR, **self._launch.env,
               "NIGHTCREW_MARK": self._mark}  # fmt: skip
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._launch.argv, cwd=self._cwd, env=env, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        return self._process

    async def __aexit__(self, *_: object) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await proc.sweep(self._mark)  # a tool's shell has a session of its own


@pytest.fixture
async def claude_crew(
    claude_program: Path, tmp_path: Path, repo: Repository, request: pytest.FixtureRequest
) -> AsyncIterator[Callable[..., ClaudeCrew]]:
    """Makes a ClaudeCrew on a script of the module's SCRIPTS: `claude_crew("happy", max_retries=0)`."""
    async with AnthropicEndpoint(request.module.SCRIPTS, bodies=True) as endpoint:

        def made(script: str, *, login: str = "key", **settings: object) -> ClaudeCrew:
            home = tmp_path / "home"
            (home / "scratch").mkdir(parents=True, exist_ok=True)
            credential = {"key": "ANTHROPIC_API_KEY", "subscription": "CLAUDE_CODE_OAUTH_TOKEN"}[login]
            env = {"ANTHROPIC_BASE_URL": endpoint.url(script), "CLAUDE_CONFIG_DIR": str(home), credential: "made-up"}
            own = {"program": str(claude_program), "env": env, "pass_env": (), "max_retries": 0, **settings}
            return ClaudeCrew(Claude("claude", own), endpoint, repo, home)

        yield made
