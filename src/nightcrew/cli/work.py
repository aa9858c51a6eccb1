"""Commands that make the crew work, or stop it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightcrew.app import App
from nightcrew.app import run as app_run
from nightcrew.cli.live import telling
from nightcrew.cli.show import COLUMNS, as_json, say, table
from nightcrew.core.lifecycle import ENDED
from nightcrew.core.model import RunState
from nightcrew.errors import UsageError
from nightcrew.views import status_rows
from nightcrew.web import listening

if TYPE_CHECKING:
    from nightcrew.director import Director


@click.command()
@click.option("--once", is_flag=True, help="Work what is ready now to its end, then exit.")
@click.option("--until-idle", is_flag=True, help="Exit when nothing will go on without a person.")
@as_json
@click.pass_obj
def up(config: Path | None, once: bool, until_idle: bool, as_json: bool) -> None:
    """Work the board. Ctrl-C ends the sessions so that the next `up` resumes them; a second Ctrl-C ends at once."""
    app = App.load(config)
    mode = "once" if once else "idle" if until_idle else "forever"
    app.store.version()  # says what is wrong with the state directory before anything is written there
    log_to(app.config.state_dir / "nightcrew.log")
    app_run(work(app, mode, quiet=as_json))
    rows = summary(app)
    say(as_json, {"stopped": True, "tickets": rows}, lambda: table(rows, COLUMNS, "No tickets."))


def summary(app: App) -> list[dict[str, Any]]:
    """The rows of `status`, once more at the end."""
    store = app.store
    now, agents, held = datetime.now(UTC), app.config.agents, store.get("held", {})
    return status_rows(store.runs(limit=100), store.open_attempts(), store.lanes(), now, agents, app.repos, held)


async def work(app: App, mode: str, *, quiet: bool = False) -> None:
    """Run the director with live progress on stderr; SIGINT and SIGTERM stop it in order."""

    def started(director: Director) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, stop, name)
        note(f"nightcrew is up on {app.config.path}; Ctrl-C stops it.")
        directors.append(director)

    def stop(name: signal.Signals) -> None:
        if any(d.stopping for d in directors):
            os._exit(128 + name)  # the engine recovers what is left, as after kill -9
        for director in directors:
            director.stop("nightcrew was stopped; the session is resumed at the next start")
        note("Stopping: sessions are ended so that they can be resumed. Again to leave at once.")

    def note(said: str) -> None:
        if teller:
            teller.note(said)

    directors: list[Director] = []
    async with nullcontext() if quiet else telling(app) as teller:
        await app.up(mode, started, beside=partial(listening, app))


class JsonLines(logging.Formatter):
    """An event and its keys, one JSON object a line."""

    KNOWN = frozenset(vars(logging.makeLogRecord({})))

    def format(self, record: logging.LogRecord) -> str:
        extra = {k: v for k, v in vars(record).items() if k not in self.KNOWN and k != "message"}
        told = {"at": datetime.now(UTC).isoformat(), "level": record.levelname, "event": record.getMessage(), **extra}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, default=str, ensure_ascii=False)


def log_to(path: Path) -> None:
    """nightcrew's own log beside the state; 10 MB, three files kept."""
    from logging.handlers import RotatingFileHandler  # noqa: PLC0415

    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=10 << 20, backupCount=3, encoding="utf-8")
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk: stderr tells it as well
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("nightcrew")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _order(config: Path | None, kind: str, ticket: str, as_json: bool, done: str) -> None:
    app = App.load(config)
    run = app.run_named(ticket) if ticket else None
    if run and kind == "retry" and run.state not in {*ENDED, RunState.QUEUED}:
        raise UsageError(f"{run.key} is {run.state}: there is nothing to retry.")
    if run and kind == "stop" and run.state not in (RunState.QUEUED, RunState.WORKING, RunState.UNROUTED):
        raise UsageError(f"{run.key} is {run.state}: there is nothing to stop.")
    app.store.order(kind, run.id if run else "")
    app.wake()
    when = "" if app.running() else " It is carried out at the next `nightcrew up`."
    data = {"ordered": kind, "ticket": run.key if run else None, "running": bool(app.running())}
    say(as_json, data, done.format(ticket=run.key if run else "") + when)


@click.command()
@click.argument("ticket")
@as_json
@click.pass_obj
def stop(config: Path | None, ticket: str, as_json: bool) -> None:
    """Stop the work on a ticket; what it has is rescued."""
    _order(config, "stop", ticket, as_json, "{ticket} is being stopped.")


@click.command()
@click.argument("ticket")
@as_json
@click.pass_obj
def retry(config: Path | None, ticket: str, as_json: bool) -> None:
    """Let a stopped, failed or blocked ticket start again; a waiting one starts at once."""
    _order(config, "retry", ticket, as_json, "{ticket} starts again.")


@click.command()
@as_json
@click.pass_obj
def pause(config: Path | None, as_json: bool) -> None:
    """Start nothing new; what runs goes on."""
    _order(config, "pause", "", as_json, "Nothing new starts until `nightcrew resume`.")


@click.command()
@as_json
@click.pass_obj
def resume(config: Path | None, as_json: bool) -> None:
    """Start again after `pause`, and take lanes that were out back in."""
    _order(config, "resume", "", as_json, "Tickets are started again.")
