"""Write the pages of docs/reference from the code; `--check` writes nothing and says which are stale (exit code 1).

`./scripts/docs` is the one command for it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

import nightcrew.cli
from nightcrew.config import Config, Proxy, Webhooks
from nightcrew.core.model import Budget, FollowUp, GateSettings, Hooks, LaneState, Policy, Repo, RunState
from nightcrew.errors import UsageError
from nightcrew.testing.reference import PAGES, Field, fields_of, settings_of, settings_table, table

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"
PACKAGE = Path(nightcrew.cli.__file__).parents[1]
NOTICE = "<!-- Made from the code by ./scripts/docs; do not edit. -->\n\n"


# -- commands ----------------------------------------------------------------------------------------------------------
def commands() -> str:
    """Every command with its arguments and options."""
    group = nightcrew.cli.cli
    context = click.Context(group, info_name="nightcrew")
    top = [_described(group, "nightcrew")]
    return "\n\n".join(["# Commands", _exit_codes(), *top, *_commands(group, context, "nightcrew")]) + "\n"


def _exit_codes() -> str:
    said = re.search(r"Exit codes: (.+?)\.\n", nightcrew.cli.__doc__ or "", re.S)
    codes = [part.strip().partition(" ") for part in said[1].split(",")] if said else []
    rows = [(f"`{code}`", what) for code, _, what in codes]
    more = "`doctor` ends with 1 when a check failed, `demo` when the night did not go as its script says."
    return f"""Every command takes `--json`: one JSON object on stdout and nothing else there. Progress goes to stderr.

{table(("exit code", "meaning"), rows)}

{more}"""


def _commands(group: click.Group, context: click.Context, path: str) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            raise UsageError(f"{path} {name} is listed and cannot be found.")
        yield f"## {path} {name}"
        yield _described(command, f"{path} {name}")
        if isinstance(command, click.Group):
            yield from _commands(command, click.Context(command, context, name), f"{path} {name}")


def _described(command: click.Command, path: str) -> str:
    options = [p for p in command.params if isinstance(p, click.Option) and p.name != "as_json"]
    takes = [(p.name or "").upper() for p in command.params if isinstance(p, click.Argument)]
    takes += ["COMMAND"] if isinstance(command, click.Group) else []
    usage = f"```\n{' '.join([path, *(['[OPTIONS]'] if options else []), *takes])}\n```"
    rows = [(f"`{_flags(option)}`", (option.help or "").removesuffix(".") + _default(option)) for option in options]
    said = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
    parts = [usage, *(part for part in said if not part.startswith("Exit codes"))]
    return "\n\n".join([*parts, table(("option", "meaning"), rows)] if rows else parts)


def _flags(option: click.Option) -> str:
    takes = "" if option.is_flag else f" {option.type.name.split()[0].upper()}"
    return ", ".join(option.opts) + takes


def _default(option: click.Option) -> str:
    notes = [
        f"default: {option.default}" if option.show_default and option.default else "",
        "may be given several times" if option.multiple else "",
        "required" if option.required else "",
    ]
    return "".join(f" ({note})" for note in notes if note)


# -- configuration -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Line:
    """A key of the example file: its table, its value there, and the comment behind it."""

    table: str
    key: str
    value: str
    says: str


TYPES: dict[str, type] = {
    "crew": Config, "limits": Policy, "limits.attempt": Budget, "repos": Repo, "repos.gates": GateSettings,
    "repos.hooks": Hooks, "repos.followup": FollowUp, "webhooks": Webhooks, "proxy": Proxy,
}  # fmt: skip
ADAPTERS = {
    "boards": ("folder", "github", "gitlab", "linear", "jira"), "forges": ("local", "github", "gitlab", "gitea"),
    "agents": ("claude", "codex", "command"),
}  # fmt: skip
_LINE = re.compile(r'(\w+) = ("(?:[^"\\]|\\.)*"|\[[^]]*\]|\S+)\s*(?:#\s*(.*))?$')


def configuration() -> str:
    """Every key of nightcrew.toml."""
    tables: dict[str, list[Line]] = {}
    for line in example():
        tables.setdefault(line.table, []).append(line)
    shown = [_table(name, lines) for name, lines in tables.items() if name in TYPES]
    adapters = [_adapter(port, kind) for port, kinds in ADAPTERS.items() for kind in kinds]
    return "\n\n".join([CONFIGURATION, *shown, *adapters]) + "\n"


CONFIGURATION = """\
# Configuration

nightcrew reads the file named by `--config`, else by `$NIGHTCREW_CONFIG`, else `nightcrew.toml` in the current folder
or the nearest one above. Relative paths start at the file. An unknown key is an error that names the nearest known one.
`nightcrew init` writes a commented file; [config.example.toml](../config.example.toml) shows every key in its place.

Tables `[boards.NAME]`, `[forges.NAME]` and `[agents.NAME]` name adapters: their `kind` is the name unless a key `kind`
says otherwise. A single board may be written `[board]`. The first agent is tried first unless `[crew] agents` says
otherwise."""


def example() -> list[Line]:
    """The keys of docs/config.example.toml in order."""
    name, found = "", []
    for text in (DOCS / "config.example.toml").read_text(encoding="utf-8").splitlines():
        if head := re.match(r"\[+([\w.]+)\]+", text):
            name = head[1]
        elif line := _LINE.match(text):
            found.append(Line(name, line[1], line[2], line[3] or ""))
    return found


def _table(name: str, lines: list[Line]) -> str:
    known = {field.name: field for field in fields_of(TYPES[name])}
    rows = [(f"`{line.key}`", *_typed(line, known.get(line.key)), line.says) for line in lines]
    return f"## [{name}]\n\n{table(('key', 'type', 'default', 'meaning'), rows)}"


def _typed(line: Line, field: Field | None) -> tuple[str, str]:
    """The type and the default; what the comment calls the default is not said twice."""
    kind = field.kind if field and field.kind not in ("Path", "Secret", "Mapping") else _kind(line.value)
    if "default:" in line.says:
        return kind, ""
    default = field.default if field else line.value
    return kind, f"`{default or line.value}`" if (line.table, line.key) not in GIVEN else "must be given"


GIVEN = {("repos", "name"), ("repos", "path")}


def _kind(value: str) -> str:
    return "list of text" if value.startswith("[") else "text" if value.startswith('"') else "number"


def _adapter(port: str, kind: str) -> str:
    one = {"boards": "board", "forges": "forge", "agents": "agent"}[port]
    return f"## {one} of kind {kind}\n\n{settings_table(settings_of(port, kind))}"


# -- events ------------------------------------------------------------------------------------------------------------
RUN, LANE = {str(s) for s in RunState}, {str(s) for s in LaneState}
EVENTS = {
    "alarm": "a lane is out until a person acts: the `evidence`, and the `cure`",
    "attempt.ended": "an attempt ended: its `outcome`, and the `evidence` it was told from",
    "attempt.started": "an attempt began: `number`, `agent`, `model`, and whether it resumes a session",
    "hook.failed": "a hook whose failure stops nothing failed",
    "lane.*": "the lane is now `up`, `limited`, `overloaded`, `logged_out`, `out_of_credit`, `misconfigured` or"
    " `paused`, with the evidence and until when",
    "pull.*": "something was done about the pull request: `did`, because of the cause in the event's name, and `why`",
    "proxy.used": "a session read the forge: how often it was `forwarded`, answered from memory (`cached`), `refused`,"
    " or `over` its quota",
    "pull.refused": "the forge said no to what was to be done about the pull request: it is left to a person",
    "rescued": "work that was nowhere else is now in `ref`",
    "run.*": "an attempt was folded into the run, or its pull request was merged (as `sha`), closed, or sent back"
    " (`changes_requested`): the run is now in this state, with the reason",
    "run.failed": "a waiting run gave up: what one ticket may cost is used up",
    "cleaned": "something that was over was removed: `what`, and why",
    "run.added": "a ticket was taken up: its repository and why",
    "run.cancelled": "a run that was not under way was stopped, and why",
    "run.reopened": "a person moved the ticket back, or said `retry`",
    "run.retry": "a waiting run starts at once, by hand",
    "run.stopping": "a run under way is being ended, and why",
    "workflow.problem": "WORKFLOW.md on the base branch is broken; the last good one is used",
}


def events() -> str:
    """Every kind of event."""
    emitted = set(kinds())
    if odd := emitted ^ set(EVENTS):
        raise UsageError(f"The events {', '.join(sorted(odd))} are not both in the code and in docs/generate.py.")
    rows = [(f"`{kind}`", says) for kind, says in sorted(EVENTS.items())]
    return f"""# Events

Everything that happens to a ticket is appended to the table `events` and never changed: `at` (UTC), `run_id`, `kind`
and `data`. `nightcrew logs TICKET --events` prints them, a running `nightcrew up` prints them as they come, and
`nightcrew show TICKET --json` has them all. A `*` stands for a state ([states](states.md)).

{table(("kind", "what happened"), rows)}
"""


def kinds() -> Iterator[str]:
    """The kinds of events that the code can write; `{...}` in one becomes `*`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "testing" in path.parts or "adapters" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (kind := _kind_of(node)):
                yield kind


_WRITERS = {"event": 0, "_news": 0, "save_run": 1, "_save": 2, "_event": 2}


def _kind_of(call: ast.Call) -> str:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    at = _WRITERS.get(name, -1)
    if at < 0 or len(call.args) <= at:
        return ""
    given = call.args[at]
    if isinstance(given, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "*" for v in given.values)
    return str(given.value) if isinstance(given, ast.Constant) else ""


# -- all of them -------------------------------------------------------------------------------------------------------
ALL: dict[str, Callable[[], str]] = {
    "commands": commands, "configuration": configuration, "events": events, **PAGES,
}  # fmt: skip


def written() -> dict[Path, str]:
    """Every page as it should be."""
    return {REFERENCE / f"{name}.md": NOTICE + make() for name, make in ALL.items()}


def stale() -> list[Path]:
    """The pages that are not as the code says, and those that nothing makes."""
    pages = written()
    wrong = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    return wrong + sorted(set(REFERENCE.glob("*.md")) - set(pages))


def main(argv: list[str]) -> int:
    """Write the pages, or with `--check` say which are stale."""
    if argv == ["--check"]:
        for path in (wrong := stale()):
            print(f"{path} is stale: run ./scripts/docs", file=sys.stderr)
        return 1 if wrong else 0
    REFERENCE.mkdir(exist_ok=True)
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
