"""Codex (OpenAI), driven by `codex app-server`: JSON-RPC on stdin and stdout, one thread and one turn per session.

The app-server tells what `codex exec --json` does not: why a turn failed, when a limit ends, tokens per answer. What it
says is read in `account` and `faults`, what it is told is in `conversation`; here is how it is started.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from nightcrew.adapters.agents.codex.account import Account
from nightcrew.adapters.agents.codex.conversation import CodexConversation
from nightcrew.adapters.agents.codex.ending import TOLD, ending
from nightcrew.adapters.agents.codex.login import Home
from nightcrew.adapters.agents.codex.settings import Settings, flags, settings_of
from nightcrew.core.outcome import Ending
from nightcrew.errors import ConfigError
from nightcrew.ports import Launch, Login, Task

__all__ = ["TOLD", "Codex", "CodexConversation", "Settings"]


class Codex:
    """Codex as an agent. Raises ConfigError, naming key and cure, for settings it does not understand."""

    def __init__(self, name: str, settings: Mapping[str, object]) -> None:
        self.name = name
        self.settings = settings_of(name, settings)
        self.models = self.settings.models
        self.home = Home(name, self.settings)
        self.seat = self.home.seat
        self.memory = self.settings.memory << 20

    def launch(self, task: Task) -> Launch:
        """How to run this task. Raises ConfigError when the program or a variable that `env` names is not there."""
        program = shutil.which(str(Path(self.settings.program).expanduser()))
        if program is None:
            raise ConfigError(
                f"[agents.{self.name}] program: there is no `{self.settings.program}` on the PATH.",
                hint="Install it (npm install -g @openai/codex) or name its full path.",
            )
        env = self.home.environ()
        key = self.home.key(env)
        config = {**_wished(env), **self.settings.config, **self._forced(task, with_key=bool(key))}
        argv = (program, "app-server", *flags(config), *self.settings.extra_args)
        return Launch(argv, CodexConversation(task, self.settings, key), env, two_way=True)

    def login(self, now: datetime) -> Login:
        """See `Agent.login`."""
        return self.home.login(now)

    def log_in(self) -> tuple[Sequence[str], Mapping[str, str]] | None:
        """See `Agent.log_in`."""
        return self.home.log_in()

    def read(self, stdout: Iterable[bytes], exit_code: int | None, stderr: str, now: datetime) -> Ending:
        """Tell how recorded output of `codex app-server` or `codex exec --json` ended and why; see `Agent.read`.

        A clock time that codex names without a zone ("try again at 3:14 PM") is taken to be in `now`'s zone.
        """
        account = Account()
        for line in stdout:
            account.hear(line)
        return ending(account, exit_code, stderr, now)

    def _forced(self, task: Task, *, with_key: bool) -> dict[str, object]:
        """What must hold, whatever the configuration says.

        Started in a repository, the app-server marks it as trusted and runs what its .codex folder wants run (MCP
        servers, hooks). Marked as untrusted it does not; then AGENTS.md is not read either, it comes with the task.
        """
        places = sorted({str(task.workspace), str(task.workspace.resolve())})
        config: dict[str, object] = {"projects": {place: {"trust_level": "untrusted"} for place in places}}
        if with_key:
            config["cli_auth_credentials_store"] = "ephemeral"  # the key is not written to codex's home
        if self.settings.sandbox == "workspace-write" and not task.read_only:
            # workspace-write alone makes .git read-only, and so every commit fail.
            roots = [str(task.workspace / root) for root in self.settings.writable_roots]
            config["sandbox_workspace_write.writable_roots"] = roots
        return config


def _wished(env: Mapping[str, str]) -> dict[str, object]:
    """What is better so, unless the owner says otherwise. The app-server does not read OPENAI_BASE_URL itself."""
    url = env.get("OPENAI_BASE_URL")
    return {"check_for_update_on_startup": False} | ({"openai_base_url": url} if url else {})
