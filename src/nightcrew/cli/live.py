"""What a running crew tells on stderr: a line per event as it comes and, on a terminal, what goes on below them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from nightcrew.cli.show import COLOURS, fitted, wrapped
from nightcrew.core.lifecycle import first_line
from nightcrew.core.model import OUT, LaneState
from nightcrew.core.report import plain
from nightcrew.errors import NightcrewError

if TYPE_CHECKING:
    from nightcrew.app import App

LOOK_EVERY = 0.4
SILENT_FOR = 60.0  # seconds in which the same fault is told once
QUIET = frozenset({"run.queued", "run.working"})
"""Events that another one has said already."""
PHASES = {"session": "working", "gates": "checking", "publish": "publishing"}
ERASE = "\r\x1b[2K"


@asynccontextmanager
async def telling(app: App) -> AsyncIterator[Teller]:
    """Tell what happens while the block lasts, to its last event."""
    teller = Teller(app)
    logger = logging.getLogger("nightcrew")
    logger.addHandler(teller)
    task = asyncio.create_task(teller.follow())
    try:
        yield teller
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        logger.removeHandler(teller)
        teller.look()
        teller.erase()


class Teller(logging.Handler):
    """Events from the database and faults from the log, on stderr. That the database cannot be read stops it not."""

    def __init__(self, app: App) -> None:
        super().__init__(logging.ERROR)
        self.app, self.terminal = app, sys.stderr.isatty()
        self.seen = max((e["id"] for e in app.store.events(limit=1)), default=0)
        self.told: dict[str, float] = {}
        self.keys: dict[str, str] = {}

    async def follow(self) -> None:
        """Look again and again."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY)

    def look(self) -> None:
        """Tell what is new, and draw the line below it."""
        self.acquire()  # the engine's threads may log a fault meanwhile
        try:
            with suppress(NightcrewError):
                self._news()
                if self.terminal:
                    self.draw()
        finally:
            self.release()

    def _news(self) -> None:
        for event in self.app.store.events(after=self.seen, limit=1000):
            self.seen = event["id"]
            if said := words(event):
                self.line(str(event["at"]), self._key(event["run_id"]), *said)

    def _key(self, run_id: str) -> str:
        """What people call the ticket: the id that Linear or Jira gives it tells them nothing."""
        if run_id and run_id not in self.keys:
            run = self.app.store.named(run_id)
            self.keys[run_id] = run.key if run else run_id.partition(":")[2]
        return self.keys.get(run_id, "")

    def emit(self, record: logging.LogRecord) -> None:
        """A fault that no event tells, once a minute: the database may be what fails."""
        said = str(vars(record).get("error") or (record.exc_info and record.exc_info[1]) or record.getMessage())
        if record.created - self.told.get(said, 0.0) > SILENT_FOR:
            self.told[said] = record.created
            self.look()  # what came before it first
            at = datetime.fromtimestamp(record.created).astimezone().isoformat()
            self.line(
                at,
                str(vars(record).get("ticket", "")),
                first_line(said),
                "red",
            )

    def line(self, at: str, who: str, said: str, colour: str) -> None:
        """One event; on a terminal never longer than it is wide."""
        clock = f"{datetime.fromisoformat(at).astimezone():%H:%M:%S}"
        text = f"{clock}  {plain(who, 24) or '-':10}  {plain(said, 1000)}"
        text = fitted(text, columns()) if self.terminal else text
        self.erase()
        click.echo(click.style(text, fg=colour) if colour else text, err=True)

    def draw(self) -> None:
        """The line that says what goes on."""
        store = self.app.store
        live = [a for a in store.open_attempts() if a.phase != "ended"]
        at_work = ", ".join(f"{plain(self._key(a.run_id), 24)} {PHASES.get(a.phase, 'preparing')}" for a in live)
        counts = ", ".join(
            f"{n} {state.replace('_', ' ')}" for state, n in sorted(store.counts().items()) if state != "working"
        )
        text = " · ".join(part for part in (at_work or ("nobody at work" if counts else "starting"), counts) if part)
        cut = fitted(text, columns() - 1)
        click.echo(ERASE + click.style(cut, dim=True), nl=False, err=True)

    def note(self, said: str) -> None:
        """Say something of our own."""
        self.erase()
        click.echo(wrapped(said) if self.terminal else said, err=True)

    def erase(self) -> None:
        """Take the line away."""
        if self.terminal:
            click.echo(ERASE, nl=False, err=True)


def columns() -> int:
    """How wide the terminal is that stderr is; standard output may be a file."""
    with suppress(OSError):
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    return 80


def words(event: Mapping[str, Any]) -> tuple[str, str] | None:
    """An event in words, and their colour ("" for none). None for what another event says."""
    kind, data = str(event["kind"]), event.get("data") or {}
    topic, _, what = kind.partition(".")
    if kind == "attempt.started":
        model, again = data.get("model") or "", ", the same session goes on" if data.get("resume") else ""
        return f"attempt {data.get('number')} starts: {data.get('agent')} {model}".rstrip() + again, ""
    if kind == "attempt.ended":
        outcome = str(data.get("outcome"))
        why = re.sub(r"^The gate `(\w+)` refused the work: ", r"gate \1: ", first_line(str(data.get("evidence", ""))))
        return None if outcome == "done" else (f"{outcome}: {why}", "yellow")
    if kind == "run.in_review":
        return "the pull request is open", "green"
    if kind == "run.added":
        routed = f"for {data['repo']}: " if data.get("repo") else "unrouted: "
        return f"{routed}{data.get('reason', '')}", "" if data.get("repo") else "yellow"
    if kind == "alarm":
        said = f"lane {data.get('lane')} is {str(data.get('state')).replace('_', ' ')}: {data.get('evidence')}"
        return f"ALARM: {said}; {data.get('cure')}", "red"
    if topic == "lane" and what in OUT and what != LaneState.PAUSED:
        return None  # the alarm says it
    if topic == "lane":
        until = f" until {datetime.fromisoformat(data['until']).astimezone():%H:%M:%S}" if data.get("until") else ""
        told = data.get("evidence") or data.get("why") or ""
        return (
            f"lane {data.get('lane')} is {what}{until}{f': {told}' if told else ''}",
            "" if what == "up" else "yellow",
        )
    if topic == "run":
        return None if kind in QUIET else (f"{what}: {_rest(data)}".rstrip(": "), COLOURS.get(what, ""))
    return f"{kind.replace('.', ' ')}: {_rest(data)}".rstrip(": "), "yellow" if topic in ("hook", "workflow") else ""


def _rest(data: Mapping[str, Any]) -> str:
    """What else an event knows, the reason first."""
    reason = data.get("reason") or data.get("why") or ""
    left = {k: v for k, v in data.items() if k not in ("reason", "why", "outcome") and v not in ("", None, False)}
    return " ".join([str(reason), *(f"{key} {value}" for key, value in left.items())]).strip()
