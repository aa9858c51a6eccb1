"""Every agent keeps what every agent promises. The programs are stand-ins: here nothing is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest

from nightcrew.adapters.agents.claude import Claude
from nightcrew.adapters.agents.codex import Codex
from nightcrew.adapters.agents.command import Command
from nightcrew.ports import Agent, Task
from nightcrew.testing.contracts import AgentContract


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A program that can be found."""
    path = tmp_path / "program"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    for name in ("workspace", "scratch"):
        (tmp_path / name).mkdir()
    return Task(
        tmp_path / "workspace", "do it", tmp_path / "scratch", "0b2c6a5e-0a31-4f0e-9a3e-2f8c1f6f0a11", model="m"
    )


class TestClaude(AgentContract):
    @pytest.fixture
    def agent(self, program: str) -> Agent:
        return Claude("claude", {"program": program})


class TestCodex(AgentContract):
    greeting: ClassVar[tuple[bytes, ...]] = (
        json.dumps({"id": "initialize", "result": {}}).encode(),
        json.dumps(
            {"id": "account/read", "result": {"account": {"type": "apiKey"}, "requiresOpenaiAuth": True}}
        ).encode(),
        json.dumps({"id": "thread", "result": {"thread": {"id": "t1"}, "model": "m"}}).encode(),
    )

    @pytest.fixture
    def agent(self, program: str) -> Agent:
        return Codex("codex", {"program": program})


class TestCommand(AgentContract):
    exit_0_is_done = True

    @pytest.fixture
    def agent(self, program: str) -> Agent:
        return Command("mine", {"command": [program, "--model", "{model}"], "models": ["m"]})


class TestCommandWithItsPromptAsArgument(AgentContract):
    exit_0_is_done = True
    prompt_in_argv = True

    @pytest.fixture
    def agent(self, program: str) -> Agent:
        return Command("mine", {"command": [program], "prompt": "argument"})
