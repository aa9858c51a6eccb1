"""`nightcrew conflicts`: which open pull requests conflict, and in what order to merge them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from nightcrew.app import App
from nightcrew.cli.show import as_json, cells, fitted, harmless, say, width, wrapped
from nightcrew.core import radar
from nightcrew.core.model import Run, RunState
from nightcrew.core.radar import Conflicts
from nightcrew.store import Store

LABEL = 14  # columns of a ticket's name
SHOWN = 5  # files of one conflict that are printed
NOT_YET = "No pull request was open yet while `nightcrew up` ran: there is nothing to compare."


@click.command()
@click.option("--repo", default="", help="Only this repository.")
@as_json
@click.pass_obj
def conflicts(config: Path | None, repo: str, as_json: bool) -> None:
    """Which open pull requests conflict with one another or with their base, and in what order to merge them.

    It is what `nightcrew up` found after the last push: all pairs of branches merged without a checkout. In the
    matrix a number says in how many files two branches conflict, `.` that they do not.
    """
    app = App.load(config)
    names = [app.repo_named(repo).name] if repo else list(app.repos)
    found = [row for name in names if (row := _told(app.store, name))]
    say(as_json, {"repositories": found}, lambda: "\n\n".join(map(_text, found)) or NOT_YET)


def _told(store: Store, repo: str) -> dict[str, Any] | None:
    """What was found of a repository, None before the first look."""
    kept = store.get(f"radar:{repo}")
    if kept is None:
        return None
    runs = {run.branch: run for run in store.runs() if run.repo == repo}
    # What was merged or closed since the last look: where nothing else is open, there is no next one.
    over = {branch for branch, run in runs.items() if run.state in (RunState.MERGED, RunState.CLOSED)}
    known = msgspec.convert(kept["conflicts"], Conflicts).without(over)
    runs = {branch: run for branch, run in runs.items() if branch in known.heads}
    order = radar.merge_order(list(known.heads), known)
    line = [key for key in store.get(f"line:{repo}", []) if key in {run.key for run in runs.values()}]
    names = {branch: runs[branch].key if branch in runs else branch for branch in known.heads}
    return {
        "repo": repo, "at": kept["at"], "base": known.base, "pairs": len(order) * (len(order) - 1) // 2,
        "branches": [_branch(name, known, runs.get(name)) for name in known.heads],
        "conflicts": [{"one": names[c.one], "other": names[c.other], "files": list(c.files)} for c in known.pairs],
        "matrix": [list(row) for _, row in radar.matrix(known)],
        "order": line if len(line) == len(order) else [names[branch] for branch in order],
        "rework": radar.rework(order, known)[0], "unknown": dict(known.unknown),
    }  # fmt: skip


def _branch(name: str, known: Conflicts, run: Run | None) -> dict[str, Any]:
    return {
        "ticket": run.key if run else "", "branch": name, "head": known.heads[name],
        "pull_request": run.pull_request if run else 0, "touched": list(known.touched.get(name, ())),
        "against_base": list(known.against.get(name, ())),
    }  # fmt: skip


# -- for people --------------------------------------------------------------------------------------------------------
def _text(found: Mapping[str, Any]) -> str:
    head = (f"{found['repo']}: {len(found['branches'])} open branches, {len(found['conflicts'])} of {found['pairs']} "
            f"pairs conflict; seen {datetime.fromisoformat(found['at']).astimezone():%Y-%m-%d %H:%M:%S}")  # fmt: skip
    if not found["branches"] and not found["unknown"]:
        return f"{found['repo']}: no pull request is open."
    parts = [wrapped(head), _matrix(found), *(wrapped(harmless(said)) for said in (*_conflicts(found), _order(found)))]
    return "\n".join(part for part in parts if part)


def _matrix(found: Mapping[str, Any]) -> str:
    """The branches that conflict with something against one another, as many as fit on a line."""
    rows = [at for at, row in enumerate(found["matrix"]) if any(row)]
    column = 1 + max((len(str(max(*found["matrix"][at], at + 1))) for at in rows), default=1)
    cut = rows[: max((width() - LABEL - 12) // column, 1)]
    if not rows:
        return ""
    top = " " * (LABEL + 5) + "base".rjust(5) + "".join(str(at + 1).rjust(column) for at in cut)
    lines = [click.style(top, bold=True), *(_line(found, at, cut, column) for at in cut)]
    left = len(rows) - len(cut)
    return "\n".join([*lines, *([f"{left} more do not fit here; --json has them all."] if left else [])])


def _line(found: Mapping[str, Any], at: int, columns: Sequence[int], wide: int) -> str:
    branch, row = found["branches"][at], found["matrix"][at]
    name = fitted(harmless(branch["ticket"] or branch["branch"]), LABEL)
    body = "".join((" " if at == other else str(row[other] or ".")).rjust(wide) for other in columns)
    return f"{at + 1:>3}  {name}{' ' * (LABEL - cells(name))}{row[at] or '.':>5}{body}".rstrip()


def _conflicts(found: Mapping[str, Any]) -> Iterator[str]:
    for clash in sorted(found["conflicts"], key=lambda c: -len(c["files"])):
        yield f"{clash['one']} and {clash['other']}: {_some(clash['files'])}"
    for branch in found["branches"]:
        if branch["against_base"]:
            yield f"{branch['ticket'] or branch['branch']} and the base: {_some(branch['against_base'])}"
    for what, why in found["unknown"].items():
        yield f"{what}: not looked at, {why}"


def _order(found: Mapping[str, Any]) -> str:
    if not found["conflicts"]:
        return "They can be merged in any order." if len(found["branches"]) > 1 else ""
    mend = f"{found['rework']} of them {'has' if found['rework'] == 1 else 'have'} to be brought in line on the way"
    return f"To merge with the least rework: {', '.join(found['order'])}; {mend}."


def _some(files: Sequence[str]) -> str:
    return ", ".join(files[:SHOWN]) + (f" and {len(files) - SHOWN} more" if len(files) > SHOWN else "")
