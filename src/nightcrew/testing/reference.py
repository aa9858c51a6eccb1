"""Reference pages made from the code, so that they are never wrong: ours, and those of whoever writes an adapter.

    python -m nightcrew.testing.reference                        the names of the pages
    python -m nightcrew.testing.reference outcomes               a page
    python -m nightcrew.testing.reference settings agents mine   the settings of an installed adapter

The words are those of the code: docstrings, and the comments behind a field.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import json
import re
import sys
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from dataclasses import fields as dataclass_fields
from enum import EnumMeta
from importlib.metadata import entry_points
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from nightcrew import ports
from nightcrew.core.lifecycle import ACTIVE, ENDED, TRANSITIONS
from nightcrew.core.model import RunState
from nightcrew.core.outcome import RULES, Consumes, LaneEffect, Next, Outcome
from nightcrew.errors import UsageError
from nightcrew.testing import scripted_agent
from nightcrew.testing.telling import how_told

__all__ = ["PAGES", "Field", "fields_of", "main", "page", "settings_of", "settings_table", "table"]

LONGEST_DEFAULT = 60  # characters in a table; longer ones follow it


@dataclass(frozen=True)
class Field:
    """One field of a dataclass or Struct: its name, its type in words, its default as TOML, and what is said of it.

    `default` is "" where there is none, so that the field must be given.
    """

    name: str
    kind: str
    default: str
    says: str


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells may hold anything."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


# -- what a class says of its fields -------------------------------------------------------------------------------
def fields_of(cls: type) -> list[Field]:
    """The fields of a dataclass or msgspec Struct, with the comment behind each."""
    hints, comments, defaults = get_type_hints(cls), _comments(cls), _defaults(cls)
    return [Field(name, words(hints[name]), default, comments.get(name, "")) for name, default in defaults.items()]


def words(hint: Any) -> str:
    """A type in the words of TOML."""
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "table", object: "any"}
    if hint in plain:
        return plain[hint]
    args = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(toml(arg) for arg in args)
    if get_origin(hint) is tuple:
        return f"list of {words(args[0])}" if args[-1] is Ellipsis else f"list of {len(args)}: {words(args[0])}"
    if get_origin(hint) is dict:
        return f"table of {words(args[1])}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(words(arg) for arg in args if arg is not type(None))
    name = getattr(hint, "__name__", str(hint))
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower() if isinstance(hint, EnumMeta) else name


def toml(value: object) -> str:
    """A default as it would be written in nightcrew.toml."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {toml(inside)}' for key, inside in value.items())}}}"
    return json.dumps(value, ensure_ascii=False, default=str)


def _defaults(cls: Any) -> dict[str, str]:
    if issubclass(cls, msgspec.Struct):
        known = ((f.name, f.default, f.default_factory) for f in msgspec.structs.fields(cls))
    else:
        known = ((f.name, f.default, f.default_factory) for f in dataclass_fields(cls))
    none = (MISSING, msgspec.NODEFAULT)
    found = {}
    for name, default, factory in known:
        given = factory() if factory not in none else default
        found[name] = "" if given in none else toml(given)
    return found


def _comments(cls: type) -> dict[str, str]:
    """Field -> the comment at the end of its line."""
    source = textwrap.dedent(inspect.getsource(cls))
    said = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    lines = {n.target.id: n for n in body.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return {name: _text(said[node.end_lineno or 0]) for name, node in lines.items() if node.end_lineno in said}


def _text(comment: str) -> str:
    """A comment without what is said to tools alone."""
    return comment.partition("noqa")[0].strip(" :#")


# -- settings of adapters --------------------------------------------------------------------------------------------
def settings_of(port: str, kind: str) -> type | None:
    """The settings class of an installed adapter, None when it has none. Raises UsageError for no such adapter.

    It is the msgspec Struct or dataclass named `Settings` or `<Adapter>Settings` in the adapter's module.
    """
    found = {point.name: point for point in entry_points(group=f"nightcrew.{port}")}
    if kind not in found:
        raise UsageError(f"There is no {kind!r} in nightcrew.{port}.", hint=f"Installed: {', '.join(sorted(found))}.")
    adapter = found[kind].load()
    module = importlib.import_module(adapter.__module__)
    names = (f"{adapter.__name__}Settings", "Settings")
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


def settings_table(cls: type | None) -> str:
    """Key, type, default and meaning of every setting, as Markdown; long defaults follow the table."""
    if cls is None:
        return "No settings."
    listed = fields_of(cls)
    long = [f for f in listed if len(f.default) > LONGEST_DEFAULT]
    rows = [(f"`{f.name}`", f.kind, _default(f), f.says) for f in listed]
    after = [f"Default of `{f.name}`: `{f.default}`" for f in long]
    return "\n\n".join([table(("key", "type", "default", "meaning"), rows), *after])


def _default(field: Field) -> str:
    if len(field.default) > LONGEST_DEFAULT:
        return "see below"
    return f"`{field.default}`" if field.default else "must be given"


# -- the pages ---------------------------------------------------------------------------------------------------------
CONSUMES = {Consumes.YES: "yes", Consumes.NO: "no", Consumes.LATER: "when it happens again"}
LANES = {
    LaneEffect.NONE: "-", LaneEffect.PARK: "parked until the stated reset", LaneEffect.BREAK: "rests, longer each time",
    LaneEffect.OUT: "out until a person acts", LaneEffect.COUNT: "rests after three in a row",
}  # fmt: skip
NEXT = {
    Next.GATES: "the gates look at the work", Next.AGAIN: "a fresh session, told what was wrong",
    Next.RESUME: "the same session goes on", Next.OTHER_LANE: "another agent now, or wait",
    Next.WAIT: "the same session once the limit is over; another agent where there is one",
    Next.BACKOFF: "again after a pause", Next.ASK: "blocked: a person is asked", Next.STOP: "failed: a person is told",
    Next.CLEAN: "cancelled: rescue, clean up",
}  # fmt: skip


def outcomes() -> str:
    """The outcome table."""
    rows = [
        (f"`{o}`", r.says, CONSUMES[r.consumes], "yes" if r.climbs else "no", LANES[r.lane], NEXT[r.next])
        for o, r in ((o, RULES[o]) for o in Outcome)
    ]
    head = ("outcome", "what it means", "uses up an attempt", "climbs the ladder", "lane", "what happens next")
    return f"""# Outcomes

Every attempt ends in exactly one of these, told from structured fields first and from texts last, and kept with the
evidence it was told from (`nightcrew show TICKET`). `nightcrew classify` says how a recorded output is read.

{table(head, rows)}

An attempt that is used up counts towards `max_attempts`. Climbing means that after `failures_per_model` such ends in a
row the next model of the agent's ladder is tried. A lane is an account at a provider, used by an agent.

{how_told(_rules(), table)}
"""


def _rules() -> dict[str, Sequence[Any]]:
    """The rules of each agent whose adapter shows them as `TOLD`."""
    modules = {point.name: _adapter_module("agents", point.name) for point in entry_points(group="nightcrew.agents")}
    return {name: module.TOLD for name, module in sorted(modules.items()) if hasattr(module, "TOLD")}


STATES = {
    RunState.UNROUTED: "no rule says which repository it is for", RunState.QUEUED: "waits for a slot, a lane or a time",
    RunState.WORKING: "an attempt is under way", RunState.IN_REVIEW: "its pull request is open",
    RunState.BLOCKED: "needs something from a person", RunState.FAILED: "gave up; a person may `retry`",
    RunState.DUPLICATE: "the same change is in another ticket's pull request", RunState.MERGED: "done",
    RunState.CLOSED: "a person closed the pull request", RunState.CANCELLED: "stopped, or its ticket left the board",
}  # fmt: skip


def states() -> str:
    """The states of a run: a diagram and a table."""
    arrows = [f"    {a} --> {b}" for a in RunState for b in RunState if b in TRANSITIONS[a]]
    rows = [
        (f"`{s}`", STATES[s], ", ".join(f"`{n}`" for n in RunState if n in TRANSITIONS[s]), _ended(s)) for s in RunState
    ]
    diagram = "\n".join(["stateDiagram-v2", "    [*] --> unrouted", "    [*] --> queued", *arrows])
    return f"""# States of a run

A run is one ticket's way to a merged pull request. One that ended goes on only when a person moves the ticket back or
says `nightcrew retry`, or merges or closes its pull request.

```mermaid
{diagram}
```

{table(("state", "what it means", "may be followed by", "ended"), rows)}
"""


def _ended(state: RunState) -> str:
    assert (state in ACTIVE) != (state in ENDED)  # every state is one of the two
    return "no" if state in ACTIVE else "yes"


def command_agent() -> str:
    """The lines a program of one's own may print."""
    module = _adapter_module("agents", "command")
    launch = inspect.getdoc(module.Command.launch) or ""
    told = launch.partition("\n\n")[2]
    ends = [(f"`{o}`", RULES[o].says) for o in Outcome]
    return f"""# Any program as an agent

{module.__doc__}
{told}

## Settings

In a table `[agents.NAME]` with `kind = "command"`:

{settings_table(settings_of("agents", "command"))}

## Outcomes it may report

Without a result line, exit code 0 is `done` and any other is `crashed`.

{table(("outcome", "what it means"), ends)}
"""


def scripted() -> str:
    """The steps of the scripted agent."""
    rows = [(f"`{name}`", _signature(step), inspect.getdoc(step) or "") for name, step in scripted_agent.STEPS.items()]
    return f"""# The scripted agent

{scripted_agent.__doc__}
{table(("step", "settings", "what it does"), rows)}
"""


def _signature(step: Callable[..., None]) -> str:
    known = inspect.signature(step).parameters.values()
    given = (
        f"{p.name}..."
        if p.kind is p.VAR_KEYWORD
        else p.name
        if p.default is p.empty
        else f"{p.name} = {toml(p.default)}"
        for p in known
    )
    return f"`{', '.join(given)}`" if known else "-"


def the_ports() -> str:
    """What each adapter must offer."""
    source = inspect.getsource(ports)
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    protocols = [c for c in classes if any(ast.unparse(base) == "Protocol" for base in c.bases)]
    values = [c for c in classes if c not in protocols]
    how = "How to write one, step by step: [write an adapter](../how-to/write-an-adapter.md)."
    parts = ["# Ports", ports.__doc__ or "", how, *map(_class, protocols)]
    return "\n\n".join([*parts, "# Values they exchange", *map(_class, values)]) + "\n"


def _class(node: ast.ClassDef) -> str:
    parts = [f"## {node.name}", ast.get_docstring(node) or ""]
    members = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    cls = getattr(ports, node.name)
    comments = _comments(cls)
    lines = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    if lines:
        rows = [(f"`{ast.unparse(n)}`", comments.get(ast.unparse(n.target), "")) for n in lines]
        parts.append(table(("field", "meaning"), rows))
    return "\n\n".join([*parts, *map(_method, members)])


def _method(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    written = ast.get_source_segment(inspect.getsource(ports), node) or ""
    head = textwrap.dedent(re.split(r":\s*(?:\.\.\.$|\n\s*\"\"\")", written, maxsplit=1)[0])
    return f"```python\n{head}: ...\n```\n\n{ast.get_docstring(node) or ''}".rstrip()


def _adapter_module(port: str, kind: str) -> ModuleType:
    point = next(point for point in entry_points(group=f"nightcrew.{port}") if point.name == kind)
    return importlib.import_module(point.load().__module__)


PAGES: dict[str, Callable[[], str]] = {
    "outcomes": outcomes, "states": states, "command-agent": command_agent, "scripted-agent": scripted,
    "ports": the_ports,
}  # fmt: skip


def page(name: str) -> str:
    """One page as Markdown. Raises UsageError when there is none of that name."""
    if name not in PAGES:
        raise UsageError(f"There is no page {name!r}.", hint=f"There are {', '.join(PAGES)}.")
    return PAGES[name]()


def main(argv: Sequence[str]) -> str:
    """What the command line prints. Raises UsageError."""
    match argv:
        case []:
            return "\n".join([*PAGES, "settings PORT KIND"])
        case ["settings", port, kind]:
            return settings_table(settings_of(port, kind))
        case [name]:
            return page(name)
        case _:
            raise UsageError("Name one page, or: settings PORT KIND.")


if __name__ == "__main__":
    try:
        print(main(sys.argv[1:]))
    except UsageError as error:
        sys.exit(f"nightcrew: {error.sentence()}")
