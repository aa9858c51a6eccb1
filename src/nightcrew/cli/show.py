"""How things are printed: one JSON object for programs, a table within 80 columns for people."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def say(as_json: bool, data: Mapping[str, Any], text: str | Callable[[], str]) -> None:
    """Print `data` as JSON, or the text for people."""
    if as_json:
        click.echo(json.dumps(data, ensure_ascii=False, default=str))
    else:
        click.echo(text() if callable(text) else text)


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, int], empty: str = "Nothing.") -> str:
    """Rows in columns (name -> least width); the last column takes what is left of the terminal (80 at least)."""
    if not rows:
        return empty
    last = list(columns)[-1]
    widths = {
        name: least if name == last else min(max(least, *(len(_cell(r, name)) for r in rows), len(name)), least * 2)
        for name, least in columns.items()
    }
    room = max(shutil.get_terminal_size((80, 24)).columns, 80) - sum(w + 2 for n, w in widths.items() if n != last)
    widths[last] = max(room, 10)
    head = "  ".join(click.style(name.upper().ljust(widths[name]), bold=True) for name in columns)
    return "\n".join([head.rstrip(), *(_line(row, widths) for row in rows)])


def _line(row: Mapping[str, Any], widths: Mapping[str, int]) -> str:
    return "  ".join(_paint(name, _fit(_cell(row, name), width)) for name, width in widths.items()).rstrip()


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value)


def _fit(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


COLOURS = {
    "working": "cyan", "in_review": "green", "merged": "green", "failed": "red", "blocked": "yellow", "open": "green",
    "unrouted": "yellow", "queued": "white", "ok": "green", "FAIL": "red", "warn": "yellow", "passed": "green",
}  # fmt: skip


def _paint(name: str, text: str) -> str:
    colour = COLOURS.get(text.strip()) if name in ("state", "check", "verdict") else None
    return click.style(text, fg=colour) if colour else text
