"""The real codex from npm, started with exactly what `Codex.launch` says, against a scripted OpenAI endpoint."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightcrew.adapters.agents.codex import Codex
from nightcrew.core.outcome import Ending, Finding, Outcome
from nightcrew.ports import Launch, Progress, Task
from nightcrew.testing.openai import OpenAIEndpoint
from tests.conftest import AUTHOR, Repository
from tests.e2e.agents import program

pytestmark = pytest.mark.real_agent

PATIENCE = 60.0
COMMIT = {
    "text": "Fixing.",
    "tools": [
        {"name": "exec_command", "input": {"cmd": "echo fixed > fix.txt && git add -A && git commit -qm 'Fix it'"}}
    ],
}
WAIT = {"tools": [{"name": "exec_command", "input": {"cmd": "touch begun; sleep 30", "yield_time_ms": 30_000}}]}
LIMIT = {"error": 429, "type": "usage_limit_reached", "message": "limit", "limits": {"resets_in": 90}}
OVERLOADED = {"error": 503, "type": "server_is_overloaded", "message": "busy", "times": -1}
FULL = {"error": 400, "type": "context_length_exceeded", "message": "too long", "times": -1}
REFUSED_KEY = {"error": 401, "type": "invalid_api_key", "message": "Incorrect API key provided", "times": -1}
ANSWER = {"findings": [{"file": "calc.py", "line": 1, "message": "no tests", "blocking": True}]}
SCRIPTS: dict[str, object] = {
    "happy": [COMMIT, {"text": "Fixed and committed."}],
    "limit": [LIMIT, COMMIT, {"text": "Committed after the limit."}],
    "late limit": [COMMIT, LIMIT, {"text": "All there already."}],
    "overloaded": [OVERLOADED],
    "key": [REFUSED_KEY],
    "full": [FULL],
    "hang": [{"hang": "headers", "times": -1}],
    "killed": [WAIT, COMMIT, {"text": "Picked up and committed."}],
    "review": [{"text": json.dumps(ANSWER)}],
    "loop": [{"tools": [{"name": "exec_command", "input": {"cmd": "true"}}], "times": -1}],
    "text": [{"text": "Hello."}],
}


@dataclass
class Seen:
    """What a session left behind."""

    ending: Ending
    progress: Progress
    stdout: bytes
    stderr: str
    exit_code: int


@dataclass
class Crew:
    """A workspace, a codex home, and a provider."""

    endpoint: OpenAIEndpoint
    home: Path
    workspace: Repository
    agent: Codex

    def task(self, prompt: str = "Fix it and commit.") -> Task:
        return Task(self.workspace.path, prompt, self.home.parent, session_id="")

    async def run(self, script: str, task: Task | None = None, *, stop: Stop | None = None, base: str = "") -> Seen:
        """One session to its end, or until `stop` says a signal. Retries are off: each failure shows at once."""
        url = base or self.endpoint.url(script, "run") + "/v1"
        (self.home / "config.toml").write_text(
            f'model = "gpt-5.5"\nmodel_provider = "scripted"\n\n[model_providers.scripted]\nname = "Scripted"\n'
            f'base_url = "{url}"\nenv_key = "SCRIPTED_KEY"\nwire_api = "responses"\n'
            "request_max_retries = 0\nstream_max_retries = 0\n"
        )
        return await drive(self.agent, self.agent.launch(task or self.task()), self.workspace.path, stop)


Stop = Callable[[Progress], int]


async def drive(agent: Codex, launch: Launch, cwd: Path, stop: Stop | None = None) -> Seen:
    """Pipe the conversation and the process together."""
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd.parent), **AUTHOR, **launch.env}
    pipe, talk = subprocess.PIPE, launch.conversation
    process = await asyncio.create_subprocess_exec(
        *launch.argv, cwd=cwd, env=env, stdin=pipe, stdout=pipe, stderr=pipe, limit=1 << 25, start_new_session=True
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    told, heard = asyncio.create_task(process.stderr.read()), []
    try:
        process.stdin.write(talk.opening())
        async with asyncio.timeout(PATIENCE):
            while line := await next_line(process.stdout, talk.progress, stop):
                if isinstance(line, int):
                    os.killpg(process.pid, line)
                    stop = None
                    continue
                heard.append(line)
                process.stdin.write(talk.hear(line))
                if talk.progress.over:
                    process.stdin.close()
            code = await process.wait()
        stderr = (await told).decode()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return Seen(agent.read(heard, code, stderr, datetime.now(UTC)), talk.progress, b"".join(heard), stderr, code)


async def next_line(stdout: asyncio.StreamReader, progress: Progress, stop: Stop | None) -> bytes | int:
    """The next line, b"" at the end, or the signal to send."""
    line = asyncio.ensure_future(stdout.readline())
    while stop and not (await asyncio.wait([line], timeout=0.05))[0]:
        if number := stop(progress):
            line.cancel()
            return number
    return await line


@pytest.fixture
async def crew(repo: Repository, tmp_path: Path) -> AsyncIterator[Crew]:
    home = tmp_path / "codex-home"
    home.mkdir()
    settings = {
        "program": str(program("codex")),
        "env": {"CODEX_HOME": str(home), "SCRIPTED_KEY": "sk-made-up"},
        "pass_env": [],
        "network_tries": 1,
    }
    async with OpenAIEndpoint(SCRIPTS, bodies=True) as endpoint:
        yield Crew(endpoint, home, repo, Codex("codex", settings))


async def test_a_session_ends_with_a_commit_of_its_own(crew: Crew) -> None:
    before = crew.workspace.sha()
    seen = await crew.run("happy")
    assert seen.ending.outcome is Outcome.DONE
    assert seen.ending.said == "Fixed and committed."
    assert crew.workspace.git("log", "-1", "--format=%s") == "Fix it"
    assert crew.workspace.sha("HEAD^") == before
    assert (seen.ending.usage.tokens, seen.ending.usage.turns) == (24_100, 2)
    assert seen.ending.model == "gpt-5.5"
    assert seen.ending.session_id == seen.progress.session_id != ""
    assert seen.progress.usage == seen.ending.usage


async def test_a_usage_limit_says_when_it_ends_and_the_same_thread_goes_on_after_it(crew: Crew) -> None:
    started = time.time()
    first = await crew.run("limit")
    assert first.ending.outcome is Outcome.RATE_LIMITED
    assert first.ending.resets_at is not None
    assert started + 85 <= first.ending.resets_at <= time.time() + 91
    thread = first.progress.session_id
    second = await crew.run("limit", replace(crew.task("Go on."), session_id=thread, resume=True))
    assert (second.ending.outcome, second.ending.session_id) == (Outcome.DONE, thread)
    assert crew.workspace.git("log", "-1", "--format=%s") == "Fix it"
    assert "Fix it and commit." in json.dumps(crew.endpoint.asked[-1].body)  # it knows what it was told before


async def test_a_resumed_session_accounts_only_for_itself(crew: Crew) -> None:
    first = await crew.run("late limit")
    second = await crew.run("late limit", replace(crew.task(), session_id=first.progress.session_id, resume=True))
    assert (first.ending.outcome, second.ending.outcome) == (Outcome.RATE_LIMITED, Outcome.DONE)
    assert (first.ending.usage.tokens, second.ending.usage.tokens) == (12_050, 12_050)
    assert (first.ending.usage.turns, second.ending.usage.turns) == (1, 1)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [("overloaded", Outcome.OVERLOADED), ("key", Outcome.LOGGED_OUT), ("full", Outcome.CONTEXT_FULL)],
)
async def test_a_provider_that_refuses_is_told_apart(crew: Crew, script: str, outcome: Outcome) -> None:
    before = crew.workspace.sha()
    seen = await crew.run(script)
    assert seen.ending.outcome is outcome
    assert seen.progress.over
    assert crew.workspace.sha() == before


async def test_a_provider_out_of_reach_ends_the_session_though_codex_would_try_for_ever(crew: Crew) -> None:
    seen = await crew.run("", base="http://127.0.0.1:9/v1")
    assert seen.progress.over
    assert seen.ending.outcome is Outcome.OVERLOADED
    assert seen.progress.session_id


async def test_a_provider_that_never_answers_is_no_success_when_we_end_it(crew: Crew) -> None:
    seen = await crew.run("hang", stop=lambda _: signal.SIGTERM if crew.endpoint.asked else 0)
    assert seen.ending.outcome is Outcome.CRASHED
    assert seen.progress.waiting_on == "model"
    assert not seen.progress.over


async def test_a_thread_killed_in_the_middle_of_a_command_is_resumed(crew: Crew) -> None:
    begun = crew.workspace.path / "begun"
    first = await crew.run("killed", stop=lambda p: signal.SIGKILL if begun.exists() and p.waiting_on == "tool" else 0)
    assert (first.exit_code, first.ending.outcome) == (-signal.SIGKILL, Outcome.CRASHED)
    assert first.progress.waiting_on == "tool"
    thread = first.progress.session_id
    second = await crew.run("killed", replace(crew.task("Go on."), session_id=thread, resume=True))
    assert (second.ending.outcome, second.ending.session_id) == (Outcome.DONE, thread)
    assert (crew.workspace.path / "fix.txt").read_text() == "fixed\n"
    assert crew.workspace.git("status", "--porcelain") == ""


async def test_a_thread_that_is_gone_is_said_to_be(crew: Crew) -> None:
    gone = "01a203e9-1dbf-75f3-b877-9592653f1312"
    seen = await crew.run("happy", replace(crew.task(), session_id=gone, resume=True))
    assert seen.ending.outcome is Outcome.MISCONFIGURED
    assert gone in seen.ending.evidence


async def test_a_session_is_interrupted_at_its_turn_limit(crew: Crew) -> None:
    seen = await crew.run("loop", replace(crew.task(), max_turns=3))
    assert seen.ending.outcome is Outcome.TURN_LIMIT
    assert 3 <= seen.ending.usage.turns <= 6


async def test_nothing_that_the_repository_wants_run_is_run(crew: Crew, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    wanted = f'[mcp_servers.evil]\ncommand = "/bin/sh"\nargs = ["-c", "touch {mark}"]\n'
    crew.workspace.write(".codex/config.toml", wanted)
    crew.workspace.write("AGENTS.md", "Written by the repository.")
    task = replace(crew.task(), instructions="Handed over by nightcrew.")
    assert (await crew.run("happy", task)).ending.outcome is Outcome.DONE
    assert not mark.exists()
    assert "[projects" not in (crew.home / "config.toml").read_text()
    asked = json.dumps(crew.endpoint.asked[-1].body)
    assert "Handed over by nightcrew." in asked
    assert "Written by the repository." not in asked


async def test_a_review_is_asked_for_by_schema_and_writes_nothing(crew: Crew) -> None:
    schema = {
        "type": "object", "properties": {"findings": {"type": "array", "items": {"type": "string"}}},
        "required": ["findings"], "additionalProperties": False,
    }  # fmt: skip
    seen = await crew.run("review", replace(crew.task(), schema=schema, read_only=True))
    assert seen.ending.findings == (Finding("calc.py", 1, "no tests", blocking=True),)
    assert crew.endpoint.asked[-1].body["text"]["format"]["schema"] == schema
    await crew.run("happy", replace(crew.task(), read_only=True))
    assert crew.workspace.git("status", "--porcelain") == ""
    assert not (crew.workspace.path / "fix.txt").exists()


async def test_an_api_key_is_used_and_never_written_down(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-made-up")
    settings = {
        "program": str(program("codex")),
        "env": {"CODEX_HOME": str(crew.home), "OPENAI_BASE_URL": crew.endpoint.url("text", "key") + "/v1"},
        "pass_env": ["OPENAI_API_KEY"],
        "models": ["gpt-5.5"],
    }
    agent = Codex("codex", settings)
    seen = await drive(agent, agent.launch(replace(crew.task(), model="gpt-5.5")), crew.workspace.path)
    assert seen.ending.outcome is Outcome.DONE
    assert crew.endpoint.asked[-1].auth == "Authorization"
    assert b"sk-made-up" not in seen.stdout
    holding = [file for file in crew.home.rglob("*") if file.is_file() and b"sk-made-up" in file.read_bytes()]
    assert holding == []


async def test_codex_without_account_and_key_is_logged_out_at_once(crew: Crew) -> None:
    settings = {"program": str(program("codex")), "env": {"CODEX_HOME": str(crew.home)}, "pass_env": []}
    agent = Codex("codex", settings)
    seen = await drive(agent, agent.launch(crew.task()), crew.workspace.path)
    assert seen.ending.outcome is Outcome.LOGGED_OUT
    assert seen.progress.over
    assert crew.endpoint.asked == []
