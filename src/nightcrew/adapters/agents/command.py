"""Any program as an agent: the prompt on stdin, the work in the workspace, exit code 0 when it is done.

What it prints may be plain text. A program that wants to say more prints JSON lines, each optional :

    {"type": "session", "id": "..."}
    {"type": "progress", "text": "..."}
    {"type": "usage", "input": 0, "output": 0, "cache_read": 0, "cache_write": 0, "money": 0.0, "turns": 0, "model": ""}
    {"type": "window", "name": "five_hour", "used": 0.5, "resets_at": 0, "seconds": 18000, "warning": false}
    {"type": "prompt", "text": "May I ...?"}
    {"type": "result", "outcome": "done", "text": "...", "resets_at": 0, "claims": [...], "findings": [...]}

Usage is what was used since the last such line. A window is a limit of the provider: which share of it is used (0..1),
when it starts anew (epoch seconds), how long it is; so nightcrew can make it last. A prompt is a question that the
program waits at, until its next line. `outcome` is any word of `Outcome`.
"""

from __future__ import annotations

import re
import shutil
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from nightcrew.adapters.telling import Rule, first
from nightcrew.core.model import Seat, Usage, Window
from nightcrew.core.outcome import Claim, Ending, Outcome
from nightcrew.core.prompt import claims_in, fence
from nightcrew.core.reading import findings_in, how_it_died, one_line, reset_from_epoch
from nightcrew.errors import ConfigError, last_line
from nightcrew.ports import Launch, Login, Progress, Task
from nightcrew.settings import environment, read_settings

__all__ = ["TOLD", "Command", "CommandConversation", "CommandSettings"]

LONGEST_ARGUMENT = 100_000  # bytes; Linux takes 128 KiB for one argument
_TAIL_LINES, _LINE, _MESSAGE = 300, 2000, 200_000  # how much of what is said is kept
_PLACEHOLDER = re.compile(r"\{(model|session|workspace)\}")
_MOST = 10**15  # tokens; more is no count
_ENDED_BY_US = (None, -15, -9, 143, 137)  # a program that lives on after its result is ended


class CommandSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[agents.<name>]` with kind "command". `command` is a program and its arguments; no shell reads them."""

    command: tuple[str, ...]  # {model}, {session} and {workspace} are filled in
    models: tuple[str, ...] = ()  # the ladder, cheapest first
    account: str = ""  # agents of one program and account share its limits; default: those of this name alone
    provider: str = ""  # whose servers; agents of one provider rest together when it fails; default: the name
    login: tuple[str, ...] = ()  # the program that logs a person in, for `nightcrew lanes login`
    memory: Annotated[int, Meta(ge=1, le=10**6)] = 64  # megabytes that a session takes, until that is measured
    prompt: Literal["stdin", "argument"] = "stdin"  # "argument": the prompt is the last one
    resume_args: tuple[str, ...] = ()  # added when a session goes on
    env: dict[str, str] = {}  # "$NAME" is taken from nightcrew's environment when a session starts
    pass_env: tuple[str, ...] = ()  # names of variables passed on as they are


class Command:
    """A program as an agent. Raises ConfigError, naming key and cure, for settings it does not understand."""

    def __init__(self, name: str, settings: Mapping[str, object]) -> None:
        self.name = name
        self.settings = _settings(name, settings)
        self.models = self.settings.models
        own = self.settings
        self.seat = Seat(own.provider or name, own.account, Path(own.command[0]).name if own.account else name)
        self.memory = own.memory << 20

    def launch(self, task: Task) -> Launch:
        """How to run this task. Raises ConfigError when the program or a variable that `env` names is not there.

        The program finds the session's id in NIGHTCREW_SESSION, the model in NIGHTCREW_MODEL, and "1" in
        NIGHTCREW_RESUME when the session goes on and in NIGHTCREW_READ_ONLY when nothing may be written.
        """
        own, prompt = self.settings, _prompt(task)
        argv = _filled([*own.command, *(own.resume_args if task.resume else ())], task)
        argv[0] = self._program(argv[0])
        if own.prompt == "argument":
            argv.append(self._argument(prompt))
            prompt = ""
        return Launch(tuple(argv), CommandConversation(prompt), self._env(task))

    def login(self, now: datetime) -> Login:
        """See `Agent.login`."""
        return Login("own", True, "a program of the owner's: it looks after its login itself")

    def log_in(self) -> tuple[Sequence[str], Mapping[str, str]] | None:
        """See `Agent.log_in`."""
        own = self.settings
        if not own.login:
            return None
        return [str(Path(own.login[0]).expanduser()), *own.login[1:]], {
            key: value for key, value in own.env.items() if not value.startswith("$")
        }

    def read(self, stdout: Iterable[bytes], exit_code: int | None, stderr: str, now: datetime) -> Ending:
        """Tell how recorded output ended and why; see `Agent.read`. A result line wins over the exit code."""
        told = _Told()
        for line in stdout:
            told.line(line)
        outcome, evidence = _outcome(_End(told, exit_code, stderr))
        claims = told.claims(outcome)
        if outcome is Outcome.DONE and claims:
            outcome, evidence = Outcome.BLOCKED, f"it says it is blocked: {one_line(claims[0].reason)}"
        return Ending(
            outcome, evidence, reset_from_epoch(told.result.get("resets_at"), now), told.said, told.usage, told.model,
            told.session_id, claims, findings_in(told.result if "findings" in told.result else told.said),
        )  # fmt: skip

    def _program(self, name: str) -> str:
        found = shutil.which(Path(name).expanduser())
        if found is None:
            raise ConfigError(
                f"[agents.{self.name}] command: there is no program `{name}` on the PATH.",
                hint="Install it, or name it with its whole path.",
            )
        return str(Path(found).absolute())

    def _argument(self, prompt: str) -> str:
        if len(prompt.encode()) > LONGEST_ARGUMENT:
            raise ConfigError(
                f"[agents.{self.name}] prompt: this prompt is too long for an argument ({len(prompt.encode())} bytes).",
                hint='Let the program read it from stdin: prompt = "stdin".',
            )
        return prompt

    def _env(self, task: Task) -> dict[str, str]:
        flags = {"NIGHTCREW_RESUME": task.resume, "NIGHTCREW_READ_ONLY": task.read_only}
        return {
            **environment(f"[agents.{self.name}]", self.settings.env, self.settings.pass_env),
            "NIGHTCREW_SESSION": task.session_id,
            "NIGHTCREW_MODEL": task.model,
            **{key: "1" for key, on in flags.items() if on},
        }


class CommandConversation:
    """One-way: the prompt goes in, lines come out."""

    def __init__(self, prompt: str) -> None:
        self.progress = Progress()
        self._prompt = prompt
        self._told = _Told()

    def opening(self) -> bytes:
        return self._prompt.encode(errors="replace")

    def hear(self, line: bytes) -> bytes:
        told, progress = self._told, self.progress
        if news := told.line(line):
            progress.last = one_line(news, 120)
        progress.session_id, progress.model, progress.usage = told.session_id, told.model, told.usage
        progress.over = bool(told.result)
        progress.asks, progress.waiting_on = told.asks, "prompt" if told.asks else "model"
        if told.window:
            progress.windows = (*(w for w in progress.windows if w.name != told.window.name), told.window)
        return b""


class _Told:
    """What a program told so far. Anything may be in its lines: what cannot be understood is plain text."""

    def __init__(self) -> None:
        self.session_id = self.model = ""
        self.usage = Usage()
        self.result: dict[str, Any] = {}
        self.asks = ""  # what it waits at
        self.window: Window | None = None  # on the last line
        self._message = ""
        self._plain: deque[str] = deque(maxlen=_TAIL_LINES)

    def line(self, line: bytes) -> str:
        """Take one line; returns what it says in words, "" when nothing."""
        event, self.asks, self.window = _event(line), "", None
        if event is None:
            text = line[:_LINE].decode(errors="replace").rstrip("\r\n")
            self._plain.append(text)
            return text.strip()
        match event.get("type"):
            case "session":
                self.session_id = _text(event, "id")[:200] or self.session_id
            case "progress":
                self._message = _text(event, "text") or self._message
                return _text(event, "text")
            case "usage":
                self.usage += _usage(event)
                self.model = _text(event, "model")[:200] or self.model
            case "window":
                self.window = _window(event)
            case "prompt":
                self.asks = one_line(_text(event, "text")) or "a question"
                return self.asks
            case "result":
                self.result = event
                self.model = _text(event, "model")[:200] or self.model
                return _text(event, "text")
        return ""

    @property
    def said(self) -> str:
        """The last message: the result's, else the last progress, else the end of the plain text."""
        said = _text(self.result, "text") or self._message or "\n".join(self._plain).strip()
        return said[-_MESSAGE:]

    def claims(self, outcome: Outcome) -> tuple[Claim, ...]:
        """Its claims to be blocked. An outcome that is stated in so many words is not read between the lines."""
        if outcome is Outcome.BLOCKED:
            listed = self.result.get("claims")
            claims = (
                tuple(_claim(item) for item in listed if isinstance(item, dict)) if isinstance(listed, list) else ()
            )
            return claims or claims_in(self.said) or (Claim(one_line(self.said, 300)),)
        if outcome is Outcome.DONE and "outcome" not in self.result:
            return claims_in(self.said)
        return ()


@dataclass(frozen=True)
class _End:
    """A program that is over."""

    told: _Told
    exit_code: int | None
    stderr: str

    @property
    def last_words(self) -> str:
        return _quoted(last_line(self.stderr[-10_000:]) if self.stderr.strip() else self.told.said)

    @property
    def word(self) -> object:
        """The outcome it reported."""
        return self.told.result.get("outcome", "done")


def _outcome(end: _End) -> tuple[Outcome, str]:
    _, told = first(ENDS, end)
    return told.outcome, told.evidence


def _unknown(end: _End) -> Ending | None:
    if not end.told.result or end.word in list(Outcome):
        return None
    return Ending(Outcome.CRASHED, f"it reported an unknown outcome: {one_line(str(end.word), 80)!r}")


def _done_and_failed(end: _End) -> Ending | None:
    if not end.told.result or end.word != Outcome.DONE or end.exit_code in (0, *_ENDED_BY_US):
        return None
    return Ending(
        Outcome.CRASHED, f"it reported done, and then ended with {how_it_died(end.exit_code)}{end.last_words}"
    )


def _reported(end: _End) -> Ending | None:
    if not end.told.result:
        return None
    return Ending(Outcome(str(end.word)), f"it reported {end.word}{_quoted(_text(end.told.result, 'text'))}")


def _plain_end(end: _End) -> Ending | None:
    return Ending(Outcome.DONE, f"exit code 0{_quoted(end.told.said)}") if end.exit_code == 0 else None


def _not_found(end: _End) -> Ending | None:
    if end.exit_code not in (126, 127):
        return None
    why = "not found" if end.exit_code == 127 else "not executable"
    return Ending(Outcome.MISCONFIGURED, f"exit code {end.exit_code}: {why}{end.last_words}")


def _failed(end: _End) -> Ending:
    return Ending(Outcome.CRASHED, f"{how_it_died(end.exit_code)}{end.last_words}")


ENDS: tuple[Rule[_End], ...] = (
    Rule("a result line with an `outcome` that is none", _unknown, kinds=(Outcome.CRASHED,)),
    Rule("a result line `done`, and then a bad exit code", _done_and_failed, kinds=(Outcome.CRASHED,)),
    Rule("a result line: its `outcome`, `done` without one", _reported, {kind.value: kind for kind in Outcome}),
    Rule("no result line, exit code 0; blocked when the last message claims it", _plain_end,
         kinds=(Outcome.DONE, Outcome.BLOCKED)),
    Rule("no result line, exit code 126 or 127", _not_found, kinds=(Outcome.MISCONFIGURED,)),
    Rule("no result line, any other end", _failed, kinds=(Outcome.CRASHED,)),
)  # fmt: skip
"""Every way an end is told, the most certain first."""
TOLD = ENDS
"""For the documentation."""


def _quoted(text: str) -> str:
    """The last line of it, after a colon; "" for nothing."""
    return f": {one_line(last_line(text[-10_000:]))}" if text.strip() else ""


def _event(line: bytes) -> dict[str, Any] | None:
    """The JSON object on this line, None for plain text."""
    if line.lstrip()[:1] != b"{":
        return None
    try:
        event = msgspec.json.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("type"), str) else None


def _text(event: Mapping[str, Any], key: str) -> str:
    value = event.get(key)
    return value if isinstance(value, str) else ""


def _number(event: Mapping[str, Any], key: str) -> int | float:
    """A count or an amount; 0 for what is none, is negative or not finite, or is more than anything can be."""
    value = event.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return value if 0 <= value <= _MOST else 0


def _window(event: Mapping[str, Any]) -> Window | None:
    used, resets = event.get("used"), _number(event, "resets_at")
    if isinstance(used, bool) or not isinstance(used, int | float) or not 0 <= used <= _MOST or not resets:
        return None
    name = one_line(_text(event, "name"), 60) or "limit"
    warns = event.get("warning") is True or used >= 1
    return Window(name, min(float(used), 1.0), float(resets), float(_number(event, "seconds")), warning=warns)


def _usage(event: Mapping[str, Any]) -> Usage:
    input_, output, read, write, turns = (
        int(_number(event, key)) for key in ("input", "output", "cache_read", "cache_write", "turns")
    )
    return Usage(input_, output, read, write, float(_number(event, "money")), turns)


def _claim(item: Mapping[str, Any]) -> Claim:
    return Claim(_text(item, "reason"), _text(item, "file"), int(_number(item, "line")), _text(item, "quote"))


def _filled(argv: list[str], task: Task) -> list[str]:
    """Each placeholder filled in once; what is filled in is never looked at again."""
    values = {"model": task.model, "session": task.session_id, "workspace": str(task.workspace)}
    return [_PLACEHOLDER.sub(lambda found: values[found[1]], part) for part in argv]


def _prompt(task: Task) -> str:
    parts = [task.prompt]
    if task.instructions:
        parts.append("The repository's own instructions:\n\n" + fence(task.instructions, "repository-instructions"))
    if task.schema:
        schema = msgspec.json.encode(task.schema).decode()
        parts.append(f"Your last message must be one JSON value that fits this schema, and nothing else:\n\n{schema}")
    return "\n\n".join(parts).replace("\0", "")


def _settings(name: str, table: Mapping[str, object]) -> CommandSettings:
    example = 'Write it as a list: command = ["my-agent", "--model", "{model}"].'
    settings = read_settings(CommandSettings, f"[agents.{name}]", table, {"command": example})
    if not settings.command or not settings.command[0]:
        raise ConfigError(f"[agents.{name}] command: it names no program.", hint=example)
    if not settings.models and any("{model}" in part for part in (*settings.command, *settings.resume_args)):
        raise ConfigError(f"[agents.{name}] models: the command asks for a {{model}}, and none is named.",
                          hint='Name at least one: models = ["small", "large"].')  # fmt: skip
    return settings
