"""How things are printed: one JSON object for programs, tables and sentences within the terminal for people."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from unicodedata import combining, east_asian_width

import click

F = TypeVar("F", bound=Callable[..., Any])
NARROWEST = 60
COLUMNS = {"ticket": 8, "state": 9, "repo": 8, "attempts": 3, "doing": 30}
"""What a table of tickets shows."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def say(as_json: bool, data: Mapping[str, Any], text: str | Callable[[], str]) -> None:
    """Print `data` as JSON, or the text for people."""
    if as_json:
        click.echo(json.dumps(data, ensure_ascii=False, default=str).encode("utf-8", "replace"))
    else:
        click.echo(text() if callable(text) else text)


def width() -> int:
    """Columns of the terminal; 80 when there is none (`$COLUMNS` decides otherwise)."""
    return max(shutil.get_terminal_size((80, 24)).columns, NARROWEST)


def wrapped(text: str) -> str:
    """A sentence on as many lines as the terminal needs, the second and later ones indented."""
    return textwrap.fill(text, width(), subsequent_indent="  ", break_on_hyphens=False)


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, int], empty: str = "Nothing.") -> str:
    """Rows in columns (name -> least width, at most twice that); the last column takes what is left of the terminal."""
    if not rows:
        return empty
    last = list(columns)[-1]
    widths = {
        name: min(max(least, len(name), *(cells(_cell(r, name)) for r in rows)), max(least * 2, len(name)))
        for name, least in columns.items()
    }
    widths[last] = max(width() - sum(w + 2 for n, w in widths.items() if n != last), 8)
    head = "  ".join(name.upper().ljust(widths[name]) for name in columns).rstrip()
    return "\n".join([click.style(head, bold=True), *(_line(row, widths) for row in rows)])


def notes(rows: Sequence[Mapping[str, Any]], name: str, text: str, printed: str) -> list[str]:
    """What the table `printed` had to cut, in full: `name: text`, rows that say the same together."""
    together: dict[str, list[str]] = {}
    for row in rows:
        if _cell(row, text) not in printed:
            together.setdefault(_cell(row, text), []).append(_cell(row, name))
    return [wrapped(f"{_some(names)}: {said}") for said, names in together.items()]


def harmless(text: str) -> str:
    """Text of an agent or a ticket without the characters that steer a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text.replace("\r\n", "\n"))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _line(row: Mapping[str, Any], widths: Mapping[str, int]) -> str:
    return "  ".join(_paint(name, _fit(_cell(row, name), width)) for name, width in widths.items()).rstrip()


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value)


def cells(text: str) -> int:
    """How many columns of a terminal the text takes: two for a wide character, none for an accent."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def fitted(text: str, width: int) -> str:
    """The text, cut to `width` columns with an ellipsis when it is longer."""
    if cells(text) <= width:
        return text
    while cells(text) > width - 1:
        text = text[: max(width - 1, 0)] if len(text) >= width else text[:-1]
    return text + "…"


def _fit(text: str, width: int) -> str:
    shown = fitted(text, width)
    return shown + " " * (width - cells(shown))


COLOURS = {
    "working": "cyan", "in_review": "green", "merged": "green", "failed": "red", "blocked": "yellow", "open": "green",
    "unrouted": "yellow", "ok": "green", "FAIL": "red", "warn": "yellow", "passed": "green", "done": "green",
    "cancelled": "yellow",
}  # fmt: skip


def _paint(name: str, text: str) -> str:
    colour = COLOURS.get(text.strip()) if name in ("state", "check", "verdict") else None
    return click.style(text, fg=colour) if colour else text
