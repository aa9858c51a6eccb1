"""The words an attempt starts with, and what the repository's WORKFLOW.md asks for (openai/symphony, SPEC 5 and 12).

Everything is read from the base branch's commit, never from an agent's tree: what is on the base branch was merged
by a person. The ticket's own text is put in once, as fenced data, and is never read as Liquid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TextIO

import yaml
from liquid import Environment, RenderContext, StrictUndefined
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.echo_tag import EchoNode, EchoTag
from liquid.exceptions import LiquidError
from liquid.stringify import to_liquid_string

from nightcrew.core.model import Hooks, Repo, Ticket
from nightcrew.core.prompt import Brief, fence, render
from nightcrew.errors import WorkflowFileError

FILE = "WORKFLOW.md"
INSTRUCTIONS = ("CLAUDE.md", "AGENTS.md")
LIMIT = 256 * 1024  # bytes of one file


class Shows(Protocol):
    """What is asked of a hub: a file as a commit has it."""

    async def show(self, rev: str, path: str) -> bytes | None:
        """The file's bytes, None when the commit has no such file."""


@dataclass(frozen=True)
class Workflow:
    """What one WORKFLOW.md says. Times in seconds; None = it says nothing valid, the owner's setting holds.

    `stall` 0 = stall detection is off. `max_turns` are Symphony's turns (whole prompts), not answers of the model.
    """

    template: str = ""
    body_line: int = 1  # the file's line on which the template begins
    hooks: Hooks = field(default_factory=Hooks)
    scan_every: float | None = None
    workspace_root: str = ""
    max_running: int | None = None
    max_running_by_state: Mapping[str, int] = field(default_factory=dict)
    max_turns: int | None = None
    backoff_max: float | None = None
    turn_timeout: float | None = None
    read_timeout: float | None = None
    stall: float | None = None
    codex_command: str = ""
    commands: tuple[str, ...] = ()  # gates added by `nightcrew: gates:`
    protected: tuple[str, ...] = ()

    def restrict(self, repo: Repo) -> Repo:
        """The settings with what this file may do: add gate commands and protected paths, lower `max_running`, and

        give the hooks that the owner left empty. It takes nothing away that nightcrew.toml asks for.
        """
        gates = replace(
            repo.gates,
            commands=_joined(repo.gates.commands, self.commands),
            protected=_joined(repo.gates.protected, self.protected),
        )
        if self.commands and "commands" not in gates.order:
            gates = replace(gates, order=(*gates.order, "commands"))
        if self.protected and "scope" not in gates.order:
            gates = replace(gates, order=("scope", *gates.order))
        caps = [cap for cap in (repo.max_running, self.max_running) if cap]
        hooks = replace(repo.hooks, **{key: getattr(repo.hooks, key) or getattr(self.hooks, key) for key in _SCRIPTS})
        if repo.hooks == Hooks():
            hooks = self.hooks
        return replace(repo, gates=gates, hooks=hooks, max_running=min(caps, default=0))


@dataclass(frozen=True)
class Built:
    """The prompt, the repository's own instructions for the agent, its workflow, and what is wrong with the newest one.

    `problem` is one sentence for the owner when WORKFLOW.md on the base branch is broken and an older one is used.
    """

    prompt: str
    instructions: str
    workflow: Workflow
    problem: str | None = None


class Workflows:
    """Each repository's WORKFLOW.md as its base branch has it; the last good one is kept while a new one is broken."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = environ or {}
        self._newest: dict[str, tuple[str, Workflow, str | None]] = {}

    async def at(self, hub: Shows, repo: Repo, sha: str) -> tuple[Workflow, str | None]:
        """The workflow to use at this commit, and what is wrong with the commit's own one (None: nothing).

        Raises WorkflowFileError when it is broken and there never was a good one. A file that is gone is no mistake.
        """
        held = self._newest.get(repo.name)
        if held and held[0] == sha:
            return held[1:]
        try:
            workflow, problem = checked(await hub.show(sha, FILE), self._environ), None
        except WorkflowFileError as error:
            if not held:
                raise _of(repo, error) from error
            workflow, problem = held[1], f"{repo.name}: {error} The last good one is used. {error.hint}".strip()
        self._newest[repo.name] = (sha, workflow, problem)
        return workflow, problem

    def applied(self, repo: Repo) -> Repo:
        """The repository with what its newest known workflow says; as it is while none was read."""
        return self._newest[repo.name][1].restrict(repo) if repo.name in self._newest else repo


async def build(hub: Shows, repo: Repo, sha: str, ticket: Ticket, brief: Brief, *, workflows: Workflows) -> Built:
    """All that an attempt from base commit `sha` is told. Raises WorkflowFileError; GitError passes through."""
    workflow, problem = await workflows.at(hub, repo, sha)
    try:
        text = rendered(workflow, ticket, brief.branch, brief.attempt)
    except WorkflowFileError as error:  # what the sample ticket did not show
        raise _of(repo, error) from error
    instructions = await _instructions(hub, sha)
    return Built(render(ticket, replace(brief, template=text)), instructions, workflow, problem)


def checked(raw: bytes | None, environ: Mapping[str, str]) -> Workflow:
    """A WORKFLOW.md parsed and rendered for a sample ticket, so that what is broken shows before a run needs it."""
    workflow = parse(raw, environ)
    for attempt in (1, 2):
        rendered(workflow, _SAMPLE, "branch", attempt)
    return workflow


def parse(raw: bytes | None, environ: Mapping[str, str]) -> Workflow:
    """What a WORKFLOW.md says; None (no file) and an empty file say nothing. Raises WorkflowFileError with the line."""
    if raw is not None and len(raw) > LIMIT:
        raise WorkflowFileError(f"{FILE}: it is longer than {LIMIT // 1024} KiB.", hint="Shorten it.")
    try:
        lines = (raw or b"").decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = (raw or b"")[: error.start].count(b"\n") + 1
        raise WorkflowFileError(f"{FILE}:{line}: not UTF-8 text.", hint="Save the file as UTF-8.") from error
    front, body, start = _split(lines)
    template = "\n".join(body).strip()
    blank = next((n for n, line in enumerate(body) if line.strip()), 0)
    config = _front_matter(front)
    ours = next((n for n, line in enumerate(front, 2) if line.startswith("nightcrew")), 1)
    commands, protected = _added(config.get("nightcrew"), ours)
    return replace(_settings(config, environ), template=template, body_line=start + blank,
                   commands=commands, protected=protected)  # fmt: skip


def rendered(workflow: Workflow, ticket: Ticket, branch: str, attempt: int) -> str:
    """The template with this ticket put in, "" when there is none. `attempt` counts from 1; Symphony counts retries."""
    try:
        template = _LIQUID.from_string(workflow.template)
        return template.render(issue=_issue(ticket, branch), attempt=attempt - 1 or None).strip()
    except (LiquidError, RecursionError, ArithmeticError, ValueError, TypeError) as error:
        raise _template_error(workflow, error) from error


def _split(lines: list[str]) -> tuple[list[str], list[str], int]:
    """Front matter, body, and the line on which the body begins. Never closed front matter has no body."""
    if lines[0].rstrip() != "---":
        return [], lines, 1
    end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), len(lines))
    return lines[1:end], lines[end + 1 :], end + 2


def _front_matter(lines: list[str]) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load("\n".join(lines))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 2 if error.problem_mark else 2
        raise _wrong(line, f"not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise _wrong(1, f"not valid YAML: {str(error).splitlines()[0]}") from error
    if config is not None and not isinstance(config, dict):
        raise _wrong(1, "the front matter is not a map of keys and values")
    return config or {}


def _of(repo: Repo, error: WorkflowFileError) -> WorkflowFileError:
    return WorkflowFileError(f"{repo.name}: {error}", hint=error.hint)


def _template_error(workflow: Workflow, error: Exception) -> WorkflowFileError:
    try:
        place = error.context() if isinstance(error, LiquidError) else None
    except (ValueError, IndexError):  # liquid points past the end of the text
        place = None
    said = str(error.message or type(error).__name__) if isinstance(error, LiquidError) else str(error)
    return _wrong(workflow.body_line + (place[0] - 1 if place else 0), f"the template fails: {said.splitlines()[0]}")


def _wrong(line: int, what: str, hint: str = "Correct it on the base branch.") -> WorkflowFileError:
    return WorkflowFileError(f"{FILE}:{line}: {what}.", hint=hint)


def _settings(config: Mapping[str, Any], environ: Mapping[str, str]) -> Workflow:
    """The front matter as settings. Unknown keys are ignored and odd values are as good as none, as Symphony does."""
    hooks, agent, codex = (_table(config, key) for key in ("hooks", "agent", "codex"))

    def seconds(table: Mapping[str, Any], key: str) -> float | None:
        number = _whole(table.get(key), environ)
        return number / 1000 if number and number > 0 else None

    def count(value: object) -> int | None:
        number = _whole(value, environ)
        return number if number and number > 0 else None

    by_state = _table(agent, "max_concurrent_agents_by_state").items()
    stall = _whole(codex.get("stall_timeout_ms"), environ)
    return Workflow(
        hooks=Hooks(**{key: _text(hooks.get(key)) for key in _SCRIPTS}, timeout=seconds(hooks, "timeout_ms") or 60.0),
        scan_every=seconds(_table(config, "polling"), "interval_ms"),
        workspace_root=_folder(_text(_table(config, "workspace").get("root")), environ),
        max_running=count(agent.get("max_concurrent_agents")),
        max_running_by_state={str(name).strip().lower(): n for name, value in by_state if (n := count(value))},
        max_turns=count(agent.get("max_turns")),
        backoff_max=seconds(agent, "max_retry_backoff_ms"),
        turn_timeout=seconds(codex, "turn_timeout_ms"),
        read_timeout=seconds(codex, "read_timeout_ms"),
        stall=None if stall is None else max(stall, 0) / 1000,
        codex_command=_text(codex.get("command")),
    )


_SCRIPTS = ("after_create", "before_run", "after_run", "before_remove")


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _whole(value: object, environ: Mapping[str, str]) -> int | None:
    """A whole number, written as one, as text or as $NAME of the environment; None for anything else."""
    if isinstance(value, str):
        text = _variable(value.strip(), environ)
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,15}", text) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15 else None


def _variable(text: str, environ: Mapping[str, str]) -> str:
    return environ.get(text[1:], "") if re.fullmatch(r"\$[A-Za-z_][A-Za-z0-9_]*", text) else text


def _folder(text: str, environ: Mapping[str, str]) -> str:
    """A path with $NAME and ~ put in; an address is left as it is."""
    path = _variable(text, environ)
    home = environ.get("HOME", "")
    return str(Path(home) / path[2:]) if home and path.startswith("~/") else path


def _added(extension: object, line: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`nightcrew: gates: {commands, protected}`. Strict, unlike the rest: a gate lost to a typo would be no gate."""
    if extension is None:
        return (), ()
    gates = _ours(extension, "nightcrew", ("gates",), line).get("gates", {})
    lists = _ours(gates, "nightcrew.gates", ("commands", "protected"), line)
    for key, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            raise _wrong(line, f"nightcrew.gates.{key} is not a list of texts", f'Write it like {key}: ["one"].')
    return tuple(lists.get("commands", ())), tuple(lists.get("protected", ()))


def _ours(table: object, name: str, known: tuple[str, ...], line: int) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise _wrong(line, f"{name} is not a map of keys and values", f"It may hold {', '.join(known)}.")
    for key in table:
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            hint = (f"Did you mean {near[0]}? " if near else "") + f"It may hold {', '.join(known)}."
            raise _wrong(line, f"{name}.{str(key)[:60]} is unknown", hint)
    return table


def _joined(first: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *more)))


async def _instructions(hub: Shows, sha: str) -> str:
    """CLAUDE.md and AGENTS.md under their names. One that only points at the other (link, @import) is left out."""
    parts: dict[str, str] = {}
    for name in INSTRUCTIONS:
        text = (await hub.show(sha, name) or b"")[:LIMIT].decode("utf-8-sig", "replace").strip()
        pointer = text.removeprefix("@").removeprefix("./") in INSTRUCTIONS
        if text and not pointer and text not in parts.values():
            parts[name] = text
    return "\n\n".join(f"# {name}\n\n{text}" for name, text in parts.items())


class _Said(str):
    """Text of the ticket's description, and whatever a filter made of it: fenced wherever it is put out."""

    __slots__ = ()


def _mark(value: object) -> object:
    if isinstance(value, list):
        return [_mark(each) for each in value]
    return _Said(value) if isinstance(value, str) else value


def _is_said(value: object) -> bool:
    return isinstance(value, _Said) or (isinstance(value, list) and any(map(_is_said, value)))


def _marking(filter_: Callable[..., object]) -> Callable[..., object]:
    """A filter whose result is as untrusted as what went in."""

    @wraps(filter_)
    def marked(*args: object, **kwargs: object) -> object:
        result = filter_(*args, **kwargs)
        return _mark(result) if any(map(_is_said, (*args, *kwargs.values()))) else result

    return marked


def _put(node: OutputNode, context: RenderContext, buffer: TextIO) -> int:
    value = node.expression.evaluate(context)
    text = to_liquid_string(value, context.autoescape)
    return buffer.write(fence(str(text), "ticket-description") if _is_said(value) and text.strip() else text)


class _FencedOutput(OutputNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return _put(self, context, buffer)


class _FencedEcho(EchoNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return _put(self, context, buffer)


class _Output(Output):
    node_class = _FencedOutput


class _Echo(EchoTag):
    node_class = _FencedEcho


class _Liquid(Environment):
    """Strict Liquid that neither runs for ever nor fills the memory, and fences what the ticket says."""

    loop_iteration_limit = 10_000
    local_namespace_limit = 4 << 20
    output_stream_limit = 1 << 20

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, strict_filters=True)
        self.add_tag(_Output)
        self.add_tag(_Echo)
        self.filters = {name: _marking(filter_) for name, filter_ in self.filters.items()}


_LIQUID = _Liquid()


def _issue(ticket: Ticket, branch: str) -> dict[str, object]:
    """The ticket in Symphony's words (SPEC 4.1.1). Short fields are one line; the description is fenced when shown."""
    blockers = [{"id": _line(key), "identifier": _line(key), "state": None} for key in ticket.blocked_by]
    return {
        "id": _line(ticket.id), "identifier": _line(ticket.key), "title": _line(ticket.title),
        "description": _Said(ticket.body.strip()) if ticket.body.strip() else None,
        "priority": ticket.priority if 1 <= ticket.priority <= 4 else None, "state": str(ticket.state),
        "branch_name": branch, "url": _line(ticket.url) or None, "blocked_by": blockers,
        "labels": [_line(text).lower() for text in ticket.labels], "updated_at": None,
        "created_at": ticket.created_at.isoformat() if ticket.created_at else None,
    }  # fmt: skip


def _line(text: str) -> str:
    """Untrusted text on one line, so that it cannot pass for a paragraph of the repository's own words."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:300]


# A ticket in which every field is said, so that only what is wrong for every ticket fails.
_SAMPLE = Ticket(
    "board", "1", "T-1", "A sample", "First line.\nSecond line.", project="Sample", priority=2, labels=("one", "two"),
    blocked_by=("T-0",), url="https://example.com/T-1", created_at=datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip
