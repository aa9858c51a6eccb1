"""The fault bench's table, for a terminal and as docs/faults.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from fault_look import Fault, Left, Result
from tests.e2e.agents import PACKAGES

HEAD = """\
# The fault bench

What nightcrew came to when {faults} things went wrong, measured by `python bench/faults.py --real --write docs/faults.md`.
{verdict}

Each row is a night of its own: `nightcrew up` as a real process, on two real git repositories and a board with three
tickets, of which one is hit by the fault (or all, where it says so). The agents are the real Claude Code and codex from
npm against scripted endpoints, or a scripted agent that really commits. Limits are short, so that a night takes seconds:
a session is stalled after 5 s of silence, a dialog is given up after 2 s, backoff begins at 0.5 s and ends at 4 s, a lane
that does not say until when it is closed is tried once a second. What takes an hour outside takes seconds here; the
row says so. With a real CLI a dead one may stay unnoticed for the 10 s that are the product's default, for its start
cannot be scaled; with the scripted agent it is 2 s. Only SIGSTOP lasts as long as it says: 30 s.

| column | what it says |
|---|---|
| finished | tickets in review with one open pull request, of all. Where it is not 3 of 3, that is what must come of it |
| attempts, consumed | sessions in all, and those that count against the ticket: one each when an outage costs nothing |
| dup. | tickets with two open pull requests, and patches that are open twice. Must be 0 |
| lost | commits that an agent made and that no pull request, branch or rescue ref keeps. Must be 0 |
| left | processes, mounts, lock files, worktrees and workspaces of finished tickets that are there at the end. Must be 0 |
| night lost | seconds that the night took longer than the same night without a fault, less the time that the fault itself lasted: the limit until its reset, the outage, the silence until a session may be called stalled. Two nights at a time on two cores: a second more or less is noise |
| told | how the attempts of the ticket that was hit ended, oldest first; those of other tickets only where they differ from *done* |
| verdict | whether all of that, and how it was told, is as it must be |

Measured on {machine}, in {minutes:.0f} minutes.
"""
COLUMNS = (
    "fault",
    "agent",
    "finished",
    "attempts",
    "consumed",
    "dup.",
    "lost",
    "left",
    "night lost",
    "told",
    "verdict",
)


def line(result: Result) -> str:
    """One line for a terminal, and one for each thing that is wrong."""
    left, mark = result.left, "not run" if result.not_run else "WRONG" if result.wrong else "ok"
    counts = " ".join(_counts(left)) if left else "-"
    told = told_of(left) if left else result.not_run
    head = f"{mark:8}{result.name:28} {result.agent:9}{counts:16}{result.seconds:6.1f} s  {told}"
    return "\n         ".join([head, *result.wrong])


def told_of(left: Left) -> str:
    """How the attempts ended, tickets with the same story together, plain successes left out."""
    stories: dict[tuple[str, ...], int] = {}
    for outcomes in left.told.values():
        stories[outcomes] = stories.get(outcomes, 0) + 1
    told = [f"{', '.join(s)}{f' ({n} tickets)' if n > 1 else ''}" for s, n in stories.items() if s != ("done",)]
    return "; ".join(told) or "done"


def summary(results: Sequence[Result], seconds: float) -> str:
    """All of it in a line."""
    wrong, out = sum(bool(r.wrong) for r in results), sum(bool(r.not_run) for r in results)
    return f"{len(results)} nights in {seconds:.0f} s: {wrong} wrong, {out} not run"


def page(results: Sequence[Result], parts: Mapping[str, Iterable[Fault]], seconds: float, jobs: int) -> str:
    """docs/faults.md."""
    played = [r for r in results if not r.name.startswith("no fault")]
    wrong = [r for r in played if r.wrong]
    verdict = "All came to what they must." if not wrong else f"{len(wrong)} did not come to what they must."
    text = [HEAD.format(faults=len(played), verdict=verdict, machine=_machine(jobs), minutes=seconds / 60)]
    by_name = {(r.name, r.agent): r for r in results}
    text += [
        "## Nights without a fault\n\nHere the column *night lost* is the length of the whole night.\n",
        _table([r for r in results if r.name.startswith("no fault")]),
    ]
    for title, faults in parts.items():
        rows = [by_name[f.name, f.agent] for f in faults if (f.name, f.agent) in by_name]
        text += [
            f"## {title}\n",
            _table(rows),
            "\n".join(f"- **{n}**: {what}." for n, what in _whats(rows).items()),
            "",
        ]
    return "\n".join(text).rstrip() + "\n"


def _whats(rows: Iterable[Result]) -> dict[str, str]:
    """What each fault is, once for all agents that tell it alike."""
    return {row.name: row.what for row in rows}


def _table(rows: Iterable[Result]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        counts = _counts(row.left) if row.left else ["-"] * 6
        verdict = (
            "not run" if row.not_run else "as it must be" if not row.wrong else f"**not so**: {row.wrong[0][:200]}"
        )
        told = told_of(row.left) if row.left else row.not_run
        cells = [row.name, row.agent, *counts, f"{row.seconds:.1f} s" if row.left else "-", told, verdict]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _counts(left: Left) -> list[str]:
    most = f"{left.finished}/{left.tickets}"
    return [most, *map(str, (left.attempts, left.consumed, left.duplicates, left.lost, len(left.leftovers)))]


def _machine(jobs: int) -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    agents = " and ".join(name.rpartition("/")[2].replace("@", " ") for name in PACKAGES.values())
    return (
        f"{os.cpu_count()} cores, {memory} GB, {_system()}, Python {platform.python_version()}, {agents}, "
        f"nightcrew {version('nightcrew')}, {jobs} nights at a time"
    )


def _system() -> str:
    release = Path("/etc/os-release")
    names = [x for x in release.read_text().splitlines() if x.startswith("PRETTY_NAME=")] if release.exists() else []
    return names[0].partition("=")[2].strip('"') if names else platform.platform(terse=True)
