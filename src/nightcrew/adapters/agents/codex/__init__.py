"""Codex (OpenAI), driven by `codex app-server`: JSON-RPC on stdin and stdout, one thread and one turn per session.

The app-server tells what `codex exec --json` does not: why a turn failed, when a limit ends, tokens per answer. What it
says is read in `account`, what we say is in `conversation`; here are the settings and the start.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from nightcrew import __version__
from nightcrew.core.codex import ACCOUNT, INTERRUPT, Account
from nightcrew.core.codex_faults import inner, text_at
from nightcrew.core.outcome import Ending
from nightcrew.errors import ConfigError
from nightcrew.ports import Launch, Progress, Task

INITIALIZE, LOGIN, THREAD, TURN = "initialize", "account/login/start", "thread", "turn/start"
_KEYS = ("CODEX_API_KEY", "OPENAI_API_KEY")
_PASSED = (*_KEYS, "CODEX_HOME", "OPENAI_BASE_URL", "OPENAI_ORGANIZATION", "OPENAI_PROJECT")
_NOT_OURS = -32601  # JSON-RPC: no such method


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[agents.<name>]` of a codex. Every field may be left out."""

    program: str = "codex"
    models: tuple[str, ...] = ()  # the ladder, cheapest first; () = the one of codex's own config.toml
    effort: str = ""  # reasoning effort, e.g. "high"; "" = the model's own
    env: dict[str, str] = {}  # more environment; a value "$NAME" is read from nightcrew's own when a session starts
    pass_env: tuple[str, ...] = _PASSED  # names taken over from nightcrew's environment where they are set
    sandbox: Literal["danger-full-access", "workspace-write", "read-only"] = "danger-full-access"
    writable_roots: tuple[str, ...] = (".git",)  # with workspace-write; relative ones are the workspace's
    approve: bool = False  # what codex is told should it ask in spite of its approval policy "never"
    config: dict[str, object] = {}  # codex's own settings (`-c key=value`), dotted keys or tables
    extra_args: tuple[str, ...] = ()
    network_tries: int = 5  # then the provider counts as out of reach; codex itself would try for ever


class Codex:
    """The codex CLI. Raises ConfigError naming `[agents.<name>] key` for settings it does not understand."""

    def __init__(self, name: str, settings: Mapping[str, object]) -> None:
        self.name = name
        self._settings = _settings(name, settings)
        self.models = self._settings.models

    def launch(self, task: Task) -> Launch:
        """How to run this task. Raises ConfigError when codex is not on the PATH or a "$NAME" is not set."""
        env = self._environment()
        program = shutil.which(self._settings.program)
        if program is None:
            raise ConfigError(
                f"[agents.{self.name}] program: {self._settings.program!r} is not on the PATH",
                hint="Install it with `npm install -g @openai/codex`, or name the program's full path.",
            )
        key = _api_key(env)
        options = {**_own_config(task, env, with_key=bool(key)), **self._settings.config, **self._roots(task)}
        flags = [part for name, value in _dotted(options) for part in ("-c", f"{name}={toml(value)}")]
        argv = (program, "app-server", *flags, *self._settings.extra_args)
        return Launch(argv, CodexConversation(task, self._settings, key), env, two_way=True)

    def read(self, stdout: Iterable[bytes], exit_code: int | None, stderr: str, now: datetime) -> Ending:
        """Tell how recorded output of `codex app-server` or `codex exec --json` ended and why; never raises.

        A clock time that codex names without a zone ("try again at 3:14 PM") is taken to be in `now`'s zone.
        """
        account = Account()
        for line in stdout:
            account.hear(line)
        return account.ending(exit_code, stderr, now)

    def _environment(self) -> dict[str, str]:
        given = {name: os.environ[name] for name in self._settings.pass_env if name in os.environ}
        return given | {name: self._value(name, value) for name, value in self._settings.env.items()}

    def _value(self, name: str, value: str) -> str:
        if not value.startswith("$"):
            return value
        if value[1:] not in os.environ:
            raise ConfigError(
                f"[agents.{self.name}] env.{name}: {value} is not set in nightcrew's environment",
                hint=f"Set {value[1:]} before nightcrew starts, or take {name} out.",
            )
        return os.environ[value[1:]]

    def _roots(self, task: Task) -> dict[str, object]:
        """workspace-write alone makes .git read-only, and so every commit fail."""
        if self._settings.sandbox != "workspace-write" or task.read_only:
            return {}
        return {
            "sandbox_workspace_write.writable_roots": [str(task.workspace / r) for r in self._settings.writable_roots]
        }


def _settings(name: str, given: Mapping[str, object]) -> Settings:
    known = Settings.__struct_fields__
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(known)}."
            raise ConfigError(f"[agents.{name}] {key}: unknown key", hint=hint)
    try:
        return msgspec.convert(dict(given), Settings)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise ConfigError(f"[agents.{name}] {where.rstrip('`') or 'settings'}: {what}") from None


def _api_key(env: Mapping[str, str]) -> str:
    """The key to log in with, "" to use the login that is there. An explicit one of codex's goes before that login."""
    if key := env.get("CODEX_API_KEY"):
        return key
    home = Path(env.get("CODEX_HOME") or Path(env.get("HOME") or Path.home()) / ".codex")
    return "" if (home / "auth.json").exists() else env.get("OPENAI_API_KEY", "")


def _own_config(task: Task, env: Mapping[str, str], *, with_key: bool) -> dict[str, object]:
    """What we need of codex, whatever its config.toml says.

    Started in a repository, the app-server marks it as trusted and runs what its .codex folder says (MCP servers,
    hooks). Marked as untrusted it does not; then it does not read AGENTS.md either, which comes with the task.
    """
    places = {str(task.workspace), str(task.workspace.resolve())}
    config: dict[str, object] = {"projects": {place: {"trust_level": "untrusted"} for place in sorted(places)}}
    config["check_for_update_on_startup"] = False
    if with_key:
        config["cli_auth_credentials_store"] = "ephemeral"  # the key is never written to codex's home
    if env.get("OPENAI_BASE_URL"):
        config["openai_base_url"] = env["OPENAI_BASE_URL"]
    return config


def _dotted(config: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    """Tables flattened to dotted keys, except where a name would not survive that (paths)."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value and all(str(name).replace("_", "").isalnum() for name in value):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def toml(value: object) -> str:
    """A value as `-c` takes it. JSON's strings, numbers and lists are TOML's; tables are written inline.

    >>> toml({"a b": [1, True, "x"]})
    '{"a b" = [1, true, "x"]}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(inside)}" for key, inside in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(inside) for inside in value) + "]"
    return json.dumps(value)


