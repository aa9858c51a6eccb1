"""The scripted agent is a real program: it is started as a session would start it, and judged by what it leaves."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightcrew import proc
from nightcrew.adapters.agents.command import Command
from nightcrew.core.model import Usage
from nightcrew.core.outcome import Claim, Ending, Finding, Outcome
from nightcrew.ports import Task
from nightcrew.testing import scripted_agent
from tests.conftest import Repository
from tests.proc.eyes import eventually

PROMPT = "You are working alone, at night, on ticket {} in a private copy of the repository."


@dataclass
class Stage:
    """Where a script is played: `script` is what the agent follows, `workspace` where it works."""

    folder: Path
    workspace: Path
    program: str = sys.executable

    def write(self, script: object) -> Command:
        file = self.folder / "script.json"
        file.write_text(json.dumps(script))
        command = [self.program, "-m", "nightcrew.testing.scripted_agent", str(file)]
        return Command("scripted", {"command": command, "models": ["small", "large"]})

    async def start(self, agent: Command, prompt: str, **task: object) -> proc.Process:
        launch = agent.launch(Task(self.workspace, prompt, self.folder, **{"session_id": "s1", **task}))  # type: ignore[arg-type]
        (self.folder / "in").write_bytes(launch.conversation.opening())
        for name in ("out", "err"):
            (self.folder / name).unlink(missing_ok=True)
        return await proc.start(
            launch.argv, cwd=self.workspace, env=proc.base_env(extra=launch.env), mark=f"test-{self.folder}:",
            stdout=self.folder / "out", stderr=self.folder / "err", stdin=self.folder / "in", rc=self.folder / "rc",
        )  # fmt: skip

    async def play(self, script: object, prompt: str = "", **task: object) -> Ending:
        """Play it to its end, and read the end as nightcrew would."""
        agent = self.write(script)
        process = await self.start(agent, prompt, **task)
        try:
            heard = [line async for batch in proc.lines(self.folder / "out", process, poll=0.01) for line in batch]
            return agent.read(heard, await process.wait(20), (self.folder / "err").read_text(), datetime.now(UTC))
        finally:
            await proc.end(process, 0)

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.folder / "out").read_bytes().splitlines()]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "work").mkdir()
    return Stage(tmp_path, tmp_path / "work")


def once(*steps: object) -> dict[str, object]:
    return {"attempts": [list(steps)]}


async def test_its_first_line_says_that_no_model_was_called(stage: Stage) -> None:
    assert (await stage.play(once())).outcome is Outcome.DONE
    assert "No model was called" in str(stage.events[0]["text"])


async def test_it_really_works_and_commits_in_the_workspace(stage: Stage, repo: Repository) -> None:
    stage.workspace = repo.path
    before = repo.sha()
    steps = [
        {"write": {"path": "new/hello.py", "text": "print('hello')\n"}},
        {"append": {"path": "new/hello.py", "text": "# end\n"}},
        {"edit": {"path": "calc.py", "find": "a + b", "replace": "a - b"}},
        {"run": {"command": [sys.executable, "new/hello.py"]}},
        {"commit": "work"},
    ]
    ending = await stage.play(once(*steps))
    assert (ending.outcome, repo.git("log", "-1", "--format=%s"), repo.sha("HEAD~")) == (Outcome.DONE, "work", before)
    assert repo.git("show", "HEAD:new/hello.py") == "print('hello')\n# end"
    assert repo.git("show", "HEAD:calc.py").endswith("a - b")
    assert repo.git("status", "--porcelain") == ""
    assert {"type": "commit", "sha": repo.sha()} in stage.events
    assert {"type": "progress", "text": "hello\n"} in stage.events


async def test_each_call_for_a_ticket_plays_the_next_list_and_the_last_one_repeats(stage: Stage) -> None:
    script = {"attempts": [[{"say": "first"}, {"exit": 3}], [{"say": "second"}]]}
    endings = [await stage.play(script, PROMPT.format("T-1"), session_id=str(number)) for number in range(3)]
    assert [ending.outcome for ending in endings] == [Outcome.CRASHED, Outcome.DONE, Outcome.DONE]
    assert (await stage.play(script, PROMPT.format("T-2"))).outcome is Outcome.CRASHED


async def test_a_ticket_a_model_a_resumed_session_and_a_review_have_scripts_of_their_own(stage: Stage) -> None:
    one = {
        **once({"result": {"outcome": "stalled"}}),
        "by_model": {"large": once({"result": {"text": "by the large one"}})},
        "on_resume": once({"result": {"text": "resumed"}}),
    }
    findings = [{"file": "a.py", "line": 1, "message": "no", "blocking": True}]
    script = {
        **once({"result": {"text": "for all"}}),
        "tickets": {"T-1": one},
        "review": once({"result": {"findings": findings}}),
    }
    about = PROMPT.format("T-1")
    assert (await stage.play(script, PROMPT.format("T-10"))).said == "for all"
    assert (await stage.play(script, about, model="small")).outcome is Outcome.STALLED
    assert (await stage.play(script, "You were interrupted.", model="large", resume=True)).said == "resumed"
    assert (await stage.play(script, about, model="large")).said == "by the large one"
    assert (await stage.play(script, about, read_only=True)).findings == (Finding("a.py", 1, "no", True),)


async def test_it_reports_usage_blocks_and_limits_as_an_agent_would(stage: Stage) -> None:
    used = {"usage": {"input": 10, "output": 5, "money": 0.25, "model": "small"}}
    ending = await stage.play(once(used, used, {"limit": 60}))
    assert (ending.outcome, ending.usage, ending.model) == (Outcome.RATE_LIMITED, Usage(20, 10, money=0.5), "small")
    assert ending.resets_at
    assert 30 < ending.resets_at - time.time() <= 60
    citation = {"file": "conf.py", "line": 3, "quote": "KEY = None"}
    blocked = await stage.play(once({"blocked": {"reason": "no key", "citations": [citation]}}))
    assert blocked.claims == (Claim("no key", "conf.py", 3, "KEY = None"),)


async def test_it_tells_of_windows_and_asks_questions(stage: Stage) -> None:
    window = {"window": {"name": "five_hour", "used": 0.5, "resets_in": 3600}}
    assert (await stage.play(once(window, {"ask": "May I?"}))).outcome is Outcome.DONE
    said = [json.loads(line) for line in (stage.folder / "out").read_text().splitlines()]
    (told,) = [line for line in said if line["type"] == "window"]
    assert (told["name"], told["used"], told["seconds"]) == ("five_hour", 0.5, 18_000)
    assert 3000 < told["resets_at"] - time.time() <= 3600
    assert {"type": "prompt", "text": "May I?"} in said


async def test_it_can_misbehave(stage: Stage) -> None:
    steps = [{"garbage": 5000}, {"long_line": 1.5}, {"complain": "boom"}, {"exit": 9}]
    ending = await stage.play(once(*steps))
    assert (ending.outcome, ending.evidence) == (Outcome.CRASHED, "exit code 9: boom")
    output = (stage.folder / "out").read_bytes()
    assert b"\xff\xfe" in output
    assert max(map(len, output.splitlines())) > 1_500_000


async def test_it_streams_at_the_pace_it_is_told(stage: Stage) -> None:
    began = time.monotonic()
    await stage.play(once({"stream": {"lines_per_second": 100, "seconds": 0.3}}, {"wait": 0.05}))
    assert time.monotonic() - began > 0.3
    assert sum(str(event.get("text")).startswith("line ") for event in stage.events) == 30


@pytest.mark.parametrize("deaf", [False, True])
async def test_it_hangs_in_silence_without_working_until_it_is_ended_with_its_daemons(stage: Stage, deaf: bool) -> None:
    agent = stage.write(once(*["deaf"] * deaf, {"daemon": 300}, {"say": "ready"}, "hang"))
    process = await stage.start(agent, "")
    mark = process.handle.mark
    try:
        async with asyncio.timeout(10):
            async for batch in proc.lines(stage.folder / "out", process, poll=0.01):
                if any(b"ready" in line for line in batch):
                    break
        await eventually(lambda: any(left.command.startswith("sleep") for left in proc.leftovers(mark)))
        used = proc.signs(process.handle).cpu_seconds
        assert await process.wait(0.2) is None
        assert proc.signs(process.handle).cpu_seconds - used < 0.1
    finally:
        assert await proc.end(process, grace=0.2 if deaf else 10) == 0
    assert process.returncode == (-9 if deaf else -15)
    assert proc.leftovers(mark) == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (once({"write": {"path": "../out.txt", "text": ""}}), "outside of the workspace"),
        (once({"write": {"path": "/etc/nightcrew", "text": ""}}), "outside of the workspace"),
        (once({"dance": {}}), "no such step"),
        (once({"write": {"path": "a"}}), "step write: missing a required argument"),
        (once({"edit": {"path": "none", "find": "a", "replace": "b"}}), "No such file"),
        (once({"run": "exit 4"}), "exit code 4"),
        (once({"commit": "no repository"}), "git add failed"),
        ({}, "no attempts"),
        ([], "scripted agent: "),
    ],
)
async def test_a_script_that_cannot_be_played_fails_with_its_reason(stage: Stage, script: object, why: str) -> None:
    ending = await stage.play(script)
    assert ending.outcome is Outcome.CRASHED
    assert "exit code 2" in ending.evidence
    assert why in (stage.folder / "err").read_text()
    assert not (stage.folder / "out.txt").exists()


async def test_a_symbolic_link_does_not_lead_out_of_the_workspace(stage: Stage) -> None:
    (stage.workspace / "link").symlink_to(stage.folder)
    assert (await stage.play(once({"write": {"path": "link/x", "text": ""}}))).outcome is Outcome.CRASHED
    assert not (stage.folder / "x").exists()


def test_calls_are_counted_each_once(tmp_path: Path) -> None:
    assert [scripted_agent.count(tmp_path, key) for key in ("a", "a", "b/../c", "a")] == [1, 2, 1, 3]


@pytest.mark.parametrize("end", [" in a private copy", ", then", ".", "\n"])
def test_the_ticket_is_found_in_the_prompt(tmp_path: Path, end: str) -> None:
    assert scripted_agent.ticket_of(f"work on ticket A.B-1{end}", "s", tmp_path) == "A.B-1"
    assert scripted_agent.ticket_of("go on", "s", tmp_path) == "A.B-1"
    assert scripted_agent.ticket_of("go on", "other", tmp_path) == ""
