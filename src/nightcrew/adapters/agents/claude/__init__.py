"""Claude Code, headless: how a session is started, heard, and told apart when it ends (2.1.197 and 2.1.330)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from nightcrew.adapters.agents.claude.ending import TOLD, Heard, ending
from nightcrew.adapters.agents.claude.login import Account
from nightcrew.adapters.agents.claude.settings import Settings
from nightcrew.adapters.agents.claude.stream import ClaudeConversation
from nightcrew.core.outcome import Ending
from nightcrew.core.prompt import fence
from nightcrew.errors import ConfigError
from nightcrew.ports import Launch, Login, Task
from nightcrew.settings import environment, read_settings

__all__ = ["TOLD", "Claude", "ClaudeConversation", "Settings"]

LONGEST_ARGUMENT = 100_000  # bytes; Linux takes 128 KiB for one argument
LONGEST_FOLDER = 200  # characters; the CLI puts a hash behind longer names


class Claude:
    """Claude Code as an agent. Raises ConfigError, naming key and cure, for settings it does not understand."""

    def __init__(self, name: str, settings: Mapping[str, object]) -> None:
        self.name = name
        self.settings = read_settings(Settings, f"[agents.{name}]", settings)
        self.models = self.settings.models
        self.account = Account(name, self.settings)
        self.seat = self.account.seat
        self.memory = self.settings.memory << 20

    def launch(self, task: Task) -> Launch:
        """How to run this task. Raises ConfigError when the program or a variable that `env` names is not there."""
        program = shutil.which(str(Path(self.settings.program).expanduser()))
        if program is None:
            raise ConfigError(
                f"[agents.{self.name}] program: there is no `{self.settings.program}` on the PATH.",
                hint="Install it (npm install -g @anthropic-ai/claude-code) or name its full path.",
            )
        instructions = task.instructions.replace("\0", "")
        prompt = task.prompt
        if len(instructions.encode()) > LONGEST_ARGUMENT:
            prompt = f"{prompt}\n\nThe repository's instructions:\n\n{fence(instructions, 'repository-instructions')}\n"
            instructions = ""
        argv = (program, *_BASE, *_session(task, instructions), *self._rights(task), *self.settings.extra_args)
        env = self._env(task)
        return Launch(argv, ClaudeConversation(prompt, _transcript(self.account.home(env), task)), env)

    def login(self, now: datetime) -> Login:
        """See `Agent.login`."""
        return self.account.login(now)

    def log_in(self) -> tuple[Sequence[str], Mapping[str, str]] | None:
        """See `Agent.log_in`."""
        return self.account.log_in()

    def read(self, stdout: Iterable[bytes], exit_code: int | None, stderr: str, now: datetime) -> Ending:
        """Tell how recorded output ended and why; see `Agent.read`.

        Money is this run's alone where the CLI says so (`model_usage_since_last_result`, 2.1.330); older ones only
        tell the session's total, so there a resumed session reports what it cost before as well.
        """
        heard = Heard()
        for line in stdout:
            heard.line(line)
        return ending(heard, exit_code, stderr, now)

    def _rights(self, task: Task) -> list[str]:
        own = self.settings
        if task.read_only:
            return ["--permission-mode", "dontAsk", "--tools", "Read,Grep,Glob"]
        bypass = own.permission_mode == "bypass"
        args = ["--dangerously-skip-permissions"] if bypass else ["--permission-mode", own.permission_mode]
        args += ["--allowedTools", *own.allowed_tools] if own.allowed_tools else []
        return args + (["--disallowedTools", *own.disallowed_tools] if own.disallowed_tools else [])

    def _env(self, task: Task) -> dict[str, str]:
        own, env = self.settings, self.account.environ()
        env |= {
            "TMPDIR": str(task.scratch),  # what tools leave behind goes with the attempt
            "CLAUDE_CODE_MAX_RETRIES": str(own.max_retries),
            "API_TIMEOUT_MS": str(own.api_timeout_ms),
            "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": str(own.stream_idle_ms),
            "BASH_DEFAULT_TIMEOUT_MS": str(own.bash_timeout_ms),
            "BASH_MAX_TIMEOUT_MS": str(own.bash_max_timeout_ms),
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        if os.geteuid() == 0:
            env["IS_SANDBOX"] = "1"  # without it the CLI refuses to skip permissions as root
        return env | environment(f"[agents.{self.name}]", own.env)


def _transcript(home: Path, task: Task) -> str:
    """The CLI's own record of the session: its folder is named after the one it is started in."""
    name = re.sub("[^a-zA-Z0-9]", "-", str(task.workspace.resolve()))
    return str(home / "projects" / name / f"{task.session_id}.jsonl") if len(name) <= LONGEST_FOLDER else ""


# A repository's own hooks and MCP servers would run without being asked: neither is loaded, nor its CLAUDE.md.
_BASE = ("-p", "--output-format", "stream-json", "--verbose", "--setting-sources", "user", "--strict-mcp-config")


def _session(task: Task, instructions: str) -> list[str]:
    args = ["--resume" if task.resume else "--session-id", task.session_id]
    wanted = {
        "--model": task.model,
        "--append-system-prompt": instructions,
        "--max-turns": str(task.max_turns or ""),
        "--max-budget-usd": f"{task.max_money:.4f}" if task.max_money > 0 else "",
        "--json-schema": msgspec.json.encode(task.schema).decode() if task.schema else "",
    }
    return args + [part for flag, value in wanted.items() if value for part in (flag, value)]
