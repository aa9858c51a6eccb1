"""Claude Code, headless: how a session is started, heard, and told apart when it ends (2.1.197 and 2.1.330)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from nightcrew.adapters.agents.claude.ending import Heard, ending
from nightcrew.adapters.agents.claude.stream import ClaudeConversation
from nightcrew.core.outcome import Ending
from nightcrew.core.prompt import fence
from nightcrew.errors import ConfigError
from nightcrew.ports import Launch, Task
from nightcrew.settings import environment, read_settings

__all__ = ["Claude", "ClaudeConversation", "Settings"]

PASSED = (
    "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_BASE_URL", "CLAUDE_CONFIG_DIR",
    "ANTHROPIC_CUSTOM_HEADERS", "CLAUDE_CODE_USE_BEDROCK", "AWS_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_BEDROCK_BASE_URL",
    "CLAUDE_CODE_USE_VERTEX", "CLOUD_ML_REGION", "ANTHROPIC_VERTEX_PROJECT_ID", "GOOGLE_APPLICATION_CREDENTIALS",
    "CLAUDE_CODE_USE_FOUNDRY", "ANTHROPIC_FOUNDRY_API_KEY", "ANTHROPIC_FOUNDRY_RESOURCE", "HTTP_PROXY", "HTTPS_PROXY",
    "NO_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE",
)  # fmt: skip
LONGEST_ARGUMENT = 100_000  # bytes; Linux takes 128 KiB for one argument


_MILLISECONDS = Annotated[int, Meta(ge=1000, le=10**9)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[agents.<name>]` with kind "claude". Times in milliseconds."""

    program: str = "claude"  # a name on the PATH, or a whole path
    models: tuple[str, ...] = ("sonnet", "opus")  # the ladder, cheapest first
    env: dict[str, str] = {}  # "$NAME" is taken from nightcrew's environment when a session starts
    pass_env: tuple[str, ...] = PASSED  # taken over from nightcrew's environment where they are set
    permission_mode: str = "bypass"  # or a mode of the CLI: "dontAsk", "acceptEdits", ...
    allowed_tools: tuple[str, ...] = ()  # as --allowedTools takes them
    disallowed_tools: tuple[str, ...] = ("Bash(git push*)", "Bash(gh *)", "EnterWorktree")  # as --disallowedTools
    max_retries: Annotated[int, Meta(ge=0, le=100)] = 1  # nightcrew does the waiting, once for all sessions
    api_timeout_ms: _MILLISECONDS = 300_000  # one request to the provider
    stream_idle_ms: Annotated[int, Meta(ge=10_000, le=10**9)] = 120_000  # the CLI takes no less
    bash_timeout_ms: _MILLISECONDS = 300_000  # one shell command, unless the model asks for longer
    bash_max_timeout_ms: _MILLISECONDS = 900_000  # the longest it may ask for
    extra_args: tuple[str, ...] = ()  # put at the end of the command line


class Claude:
    """Claude Code as an agent. Raises ConfigError, naming key and cure, for settings it does not understand."""

    def __init__(self, name: str, settings: Mapping[str, object]) -> None:
        self.name = name
        self.settings = read_settings(Settings, f"[agents.{name}]", settings)
        self.models = self.settings.models

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
        return Launch(argv, ClaudeConversation(prompt), self._env(task))

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
        own = self.settings
        env = {name: os.environ[name] for name in own.pass_env if name in os.environ}
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
