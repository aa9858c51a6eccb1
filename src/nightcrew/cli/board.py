"""What a board would give a night, and what our credential may do there. Only reads."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from nightcrew.app import App, nearest
from nightcrew.app import run as app_run
from nightcrew.cli.ahead import Ahead, look
from nightcrew.cli.show import as_json, cells, notes, say, table, width, wrapped
from nightcrew.core.model import Ticket
from nightcrew.core.report import plain
from nightcrew.errors import UsageError
from nightcrew.setup.preview import READY, STUCK, WAITS, WORKING, Taken

STAGES = (WORKING, READY, WAITS, STUCK)
SOME = 10  # tickets left out that are shown without --all
which = click.option("--board", "name", default="", help="Which board (default: all).")


@click.group()
def board() -> None:
    """Look at boards without changing anything."""


@board.command()
@which
@click.option("--all", "everything", is_flag=True, help="Also tickets that the board's selection does not take.")
@as_json
@click.pass_obj
def preview(config: Path | None, name: str, everything: bool, as_json: bool) -> None:
    """Exactly which tickets a night would take, in the order in which they would start, and why it leaves others alone.

    Nothing is written, on the board or here; it works before the first `nightcrew up` and while one is up. A ticket
    that waits for a blocker is listed behind it.
    """
    app = App.load(config)
    ahead = app_run(look(app, boards_named(app, name), everything=everything))
    say(as_json, preview_data(ahead), lambda: preview_text(ahead, everything=everything))


@board.command()
@which
@as_json
@click.pass_obj
def check(config: Path | None, name: str, as_json: bool) -> None:
    """Who we are on each board and forge, which places our credential reaches, and what it may not do but must."""
    from nightcrew.doctor import about_board, about_forge, forges_served  # noqa: PLC0415

    app = App.load(config)
    boards = boards_named(app, name)

    async def ask() -> list[dict[str, Any]]:
        rows = [await about_board(app, one) for one in boards]
        return rows + [await about_forge(app, one) for one in ([] if name else forges_served(app))]

    rows = app_run(ask())
    ok = not any(row["missing"] for row in rows)
    say(as_json, {"ok": ok, "services": rows}, lambda: "\n".join(map(about_text, rows)))
    sys.exit(0 if ok else 1)


def boards_named(app: App, name: str) -> list[str]:
    """That board, or all of them for "". Raises UsageError for one that is not there."""
    if name and name not in app.config.boards:
        known = nearest(name, app.config.boards) or f"Known: {', '.join(app.config.boards)}."
        raise UsageError(f"There is no board {name!r}.", hint=known)
    return [name] if name else list(app.config.boards)


def about_text(row: Mapping[str, Any]) -> str:
    """A board or forge as `about_board` tells it, for people."""
    head = f"{row['what']} {row['name']}"
    if not row["served"]:
        return f"{head} is of kind {row['kind']} and needs no login."
    places = [one_line(place["name"]) for place in row["places"]]
    more = f" and {len(places) - 5} more" if places[5:] else ""
    reach = f", reaches {', '.join(places[:5])}{more}" if places else ""
    lines = [wrapped(f"{head}: logged in as {row['login']}{reach}{'' if row['missing'] else '; nothing is missing'}.")]
    return "\n".join([*lines, *(wrapped(f"  missing: {one_line(said)}") for said in row["missing"])])


# -- what is printed ---------------------------------------------------------------------------------------------------
def preview_data(ahead: Ahead) -> dict[str, Any]:
    """A preview for programs."""
    taken, left = ahead.preview.taken, ahead.preview.left_out
    stages = Counter(one.stage for one in taken)
    counts = {"taken": len(taken), **{stage: stages[stage] for stage in STAGES}, "left_out": len(left)}
    return {
        "boards": list(ahead.boards), "counts": counts,
        "taken": [_taken_row(number, one) for number, one in enumerate(taken, 1)],
        "left_out": [{**_ticket_row(one.ticket), "why": one_line(one.why)} for one in left],
        "problems": [{"where": where, "message": message} for where, message in ahead.problems.items()],
        "requests": {name: {"sent": c["sent"], "unchanged": c["unchanged"]} for name, c in ahead.requests.items()},
    }  # fmt: skip


def _ticket_row(ticket: Ticket) -> dict[str, Any]:
    return {"ticket": one_line(ticket.key), "id": ticket.id, "board": ticket.board, "title": one_line(ticket.title),
            "state": ticket.state.value, "priority": ticket.priority, "labels": list(ticket.labels),
            "author": ticket.author, "url": ticket.url}  # fmt: skip


def _taken_row(number: int, one: Taken) -> dict[str, Any]:
    return {"number": number, **_ticket_row(one.ticket), "repo": one.repo, "rule": one.rule, "stage": one.stage,
            "waits_for": one_line(one.waits)}  # fmt: skip


def preview_text(ahead: Ahead, *, everything: bool) -> str:
    """A preview for people, within the terminal."""
    data = preview_data(ahead)
    parts = [wrapped(_headline(data["counts"], ahead.boards))]
    parts += [_taken_text(data["taken"])] if data["taken"] else []
    parts += [_left_text(data["left_out"], everything=everything)] if data["left_out"] else []
    parts += [
        wrapped(f"Board {name} does not tell what its selection leaves out.") for name in ahead.untold if everything
    ]
    parts += ["\n".join(wrapped(one_line(f"Cannot read {p['where']}: {p['message']}")) for p in data["problems"])]
    parts += [wrapped(f"{_cost(data['requests'])} Nothing was changed.".strip())]
    return "\n\n".join(part for part in parts if part)


SPLIT = {
    WORKING: "at work now", READY: "at the first look", WAITS: "later", STUCK: "not before a person or a machine helps",
}  # fmt: skip


def _headline(counts: Mapping[str, int], boards: Sequence[str]) -> str:
    where = f"board {boards[0]}" if len(boards) == 1 else f"boards {', '.join(boards)}"
    if not counts["taken"]:
        return f"Nothing would be taken from {where}."
    split = ", ".join(f"{counts[stage]} {words}" for stage, words in SPLIT.items() if counts[stage])
    many = "1 ticket" if counts["taken"] == 1 else f"{counts['taken']} tickets"
    return f"{many} would be taken from {where}, in this order ({split}):"


def _taken_text(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = [
        {"#": row["number"], "ticket": row["ticket"], "p": row["priority"], "repo": row["repo"], "by": row["rule"],
         "title": row["title"], "waits for": _short(row["waits_for"])}
        for row in rows
    ]  # fmt: skip
    columns = {"#": 2, "ticket": 8, "p": 1, "repo": 5, "by": 4}
    wide = {name: max(len(name), *(cells(str(row[name])) for row in shown)) for name in [*columns, "waits for"]}
    used = sum(min(max(least, wide[name]), max(least * 2, len(name))) + 2 for name, least in columns.items())
    room = width() - used - 2
    title = max(room - min(wide["waits for"], room // 2), 10)
    text = table(shown, {**columns, "title": title // 2, "waits for": 8})
    return "\n".join([text, *notes(shown, "ticket", "waits for", text)])


def _short(waits: str) -> str:
    """What is waited for, in a table: how many slots there are is told by the configuration."""
    return "a free slot" if waits.startswith("a free slot") else waits or "-"


def _left_text(rows: Sequence[Mapping[str, Any]], *, everything: bool) -> str:
    head = click.style(f"Left out: {len(rows)}", bold=True)
    some = rows if everything else rows[:SOME]
    text = table(some, {"ticket": 8, "title": 12, "why": 30})
    more = [f"... and {len(rows) - len(some)} more: --all shows them."] if len(some) < len(rows) else []
    return "\n".join([head, text, *more, *notes(some, "ticket", "why", text)])


def _cost(requests: Mapping[str, Mapping[str, int]]) -> str:
    told = [f"{name} {count['sent']}" for name, count in requests.items()]
    return f"Requests: {', '.join(told)}." if told else ""


def one_line(text: str) -> str:
    """Untrusted text on one line, without what steers a terminal or turns the direction of writing."""
    return "".join(char if char.isprintable() else " " for char in plain(text, 400))
