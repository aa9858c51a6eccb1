"""The commented nightcrew.toml that `nightcrew init` writes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from nightcrew.config import FILE_NAME
from nightcrew.core.model import Repo, Ticket
from nightcrew.core.route import route
from nightcrew.setup.found import TICKETS, Survey
from nightcrew.setup.kinds import Wanted, over_http


def config_text(found: Survey, home: Path, wanted: Wanted | None = None) -> str:
    """A commented nightcrew.toml for this repository, to be put into folder `home`; a folder board without `wanted`."""
    names = [name for name, _ in found.agents] or ["claude"]
    agents = "\n".join(f"{f'[agents.{name}]':22}# {_about(name, dict(found.agents))}" for name in names)
    tests = f"commands = [{toml(found.test_command)}]" if found.test_command else '# commands = ["make test"]'
    return _TEMPLATE.format(
        name=toml(repo_name(found.root)),
        agents=agents,
        order=", ".join(map(toml, names)),
        source=_source(found, home, wanted),
        base=toml(found.base),
        projects=_projects(found, wanted),
        commands=f"{tests:40}# each must succeed on the work merged with the base",
        board=_board(wanted) if wanted else _FOLDER,
        forge=_forge(wanted) if wanted else "",
    )


def _board(wanted: Wanted) -> str:
    kind = wanted.kind
    says = {kind.places: "whose tickets are taken", "labels": "a ticket needs one of these",
            kind.key: "a $NAME is read from the environment"}  # fmt: skip
    lines = [_line("kind", kind.name, kind.title)]
    lines += [_line(key, value, says.get(key, "")) for key, value in wanted.settings().items()]
    return "\n".join(lines)


def _forge(wanted: Wanted) -> str:
    pulls = wanted.pulls
    if pulls is None:
        return "# Pull requests stay on this machine: `nightcrew pr list`. A forge is named by [forges.NAME].\n\n"
    lines = [f"[forges.{pulls.kind}]", _line("kind", pulls.kind, "where pull requests are opened")]
    lines += [_line("url", pulls.url)] if pulls.url else []
    return "\n".join([*lines, _line("token", f"${pulls.token}"), "", ""])


def _source(found: Survey, home: Path, wanted: Wanted | None) -> str:
    if wanted and wanted.pulls:
        return f"url = {toml(over_http(found.remote))}\nforge = {toml(wanted.pulls.kind)}"
    return f"path = {toml(os.path.relpath(found.root, home))}"


def _projects(found: Survey, wanted: Wanted | None) -> str:
    """Projects whose tickets do not find the repository by its address."""
    repo = Repo("it", over_http(found.remote) if wanted and wanted.pulls else "")
    named = wanted.projects if wanted else ()
    mark = "#1" if wanted and wanted.kind.hosts else ""  # an issue on a forge is called by its repository
    tickets = [Ticket("", f"{name}{mark}", "", "", project=name) for name in named]
    lost = [ticket.project for ticket in tickets if route(ticket, [repo]).repo is None]
    return f"projects = {_value(lost)}" if lost else "# projects = []"


def _line(key: str, value: object, says: str = "") -> str:
    text = f"{key} = {_value(value)}"
    return f"{text:27} # {says}" if says else text


def _value(value: object) -> str:
    match value:
        case str():
            return toml(value)
        case bool():
            return str(value).lower()
        case Mapping():
            return f"{{ {', '.join(f'{toml(str(key))} = {_value(one)}' for key, one in value.items())} }}"
        case Iterable():
            return f"[{', '.join(map(_value, value))}]"
        case _:
            return str(value)


def _about(name: str, versions: Mapping[str, str]) -> str:
    if name not in versions:
        return f"not found on this machine: install {name} and log in"
    return f"found: {versions[name]}" if versions[name] else "found, but it did not tell its version"


def repo_name(root: Path) -> str:
    """What the repository is called there."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", root.name).strip("._-") or "repo"


def toml(text: str) -> str:
    """`text` as a TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'


_FOLDER = f"""\
kind = "folder"             # tickets are Markdown files in a folder
path = {toml(TICKETS)}"""

_TEMPLATE = f"""\
# {FILE_NAME}: what nightcrew may do here. It works as it is; a line that begins with "# " and a key shows a default.

[crew]
name = {{name}}
agents = [{{order}}]  # which agent is tried first
# scan_every = 120          # seconds between two looks at the board
# state_dir = ".nightcrew"  # database, logs, workspaces
# workspace = "auto"        # auto | overlay | reflink | copy | checkout | worktree
# identity = ["nightcrew", "nightcrew@localhost"]  # who commits what nightcrew itself commits
# database_url = "$DATABASE_URL"  # PostgreSQL instead of SQLite; a $NAME is read from the environment

[limits]
max_running = 2             # tickets worked at the same time
# max_attempts = 5          # real ones; outages and rate limits do not count
# failures_per_model = 2    # then the agent's next model is tried

[limits.attempt]            # one session of an agent; 0 = no limit
minutes = 60
# stall_minutes = 15        # without any sign of life
# turns = 200
# tokens = 0
# money = 0.0               # US dollars, as the agent reports them

[board]
{{board}}

{{forge}}# Coding agents. A ladder of models is climbed after real failures; claude's is models = ["sonnet", "opus"].
{{agents}}

[[repos]]
name = {{name}}
{{source}}
base = {{base}}
# Which tickets belong here, besides those that say so: by label, project, or words in title and body.
# labels = []
{{projects}}
# keywords = []

[repos.gates]               # what a change must pass before a pull request is opened
{{commands}}
# timeout = 900             # seconds for each command
# protected = []            # paths that no change may touch, like ".github/**"
# max_files = 100
# max_lines = 5000
# secrets = true            # refuse changes that hold passwords or keys
# review = ""               # the name of an agent that reviews the change
"""
