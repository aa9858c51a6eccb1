"""The command that removes what nobody needs any more."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from nightcrew import cleaning
from nightcrew.app import App
from nightcrew.app import run as app_run
from nightcrew.cleaning import House
from nightcrew.cli.show import as_json, say, table, wrapped
from nightcrew.durable import History
from nightcrew.errors import NightcrewError

PATIENCE = 120.0
"""Seconds for which the answer of a running nightcrew is waited for."""


@click.command()
@click.option("--dry-run", is_flag=True, help="Only list what would go, and what is kept; change nothing.")
@as_json
@click.pass_obj
def clean(config: Path | None, dry_run: bool, as_json: bool) -> None:
    """Remove what nobody needs any more: workspaces, old logs, stale branches and claims, rescues past their time.

    `nightcrew up` does the same by itself once a day. Work that exists nowhere else stays, and is listed. How long
    things are kept is said by [keep].
    """
    app = App.load(config)
    store, running = app.store, app.running()
    if dry_run:
        account = cleaning.told(app_run(cleaning.look(_house(app, directed=bool(running)))))
    elif running:
        account = _ask(app)
    else:
        with app.lock():
            account = app_run(_clean(app))
    store.close()
    say(as_json, {"dry_run": dry_run, **account}, lambda: _text(account, dry_run))


def _house(app: App, *, directed: bool) -> House:
    config = app.config
    history = History(config.database_url.reveal(), config.state_dir)
    crew_id = str(app.store.get("crew") or "")
    return House(crew_id, config.state_dir, config.workspaces_dir, app.store, app.repos, app.hubs, history, config.keep,
                 datetime.now(UTC), directed)  # fmt: skip


async def _clean(app: App) -> Mapping[str, Any]:
    async with app.crew() as crew:
        try:
            return cleaning.told(await cleaning.clean(crew, _house(app, directed=False)))
        finally:
            await crew.durable.close()


def _ask(app: App) -> Mapping[str, Any]:
    """Let the nightcrew that is up do it, for it knows what is at work; its account."""
    asked, until = uuid.uuid4().hex, time.monotonic() + PATIENCE
    app.store.put(cleaning.ASKED, asked)
    while time.monotonic() < until:
        account: dict[str, Any] = app.store.get(cleaning.CLEANED) or {}
        if account.pop("asked", "") == asked:
            return account
        time.sleep(0.1)
    raise NightcrewError(f"The nightcrew that is up (process {app.running()}) has not cleaned within {PATIENCE:g} s.",
                         hint="It will: `nightcrew logs` and its nightcrew.log tell what it is busy with.")  # fmt: skip


def _text(account: Mapping[str, Any], dry_run: bool) -> str:
    gone, kept = account["gone"], account["kept"]
    verb = "Would go" if dry_run else "Gone"
    head = f"{verb}: {len(gone)} things, {_size(account['bytes'])}." if gone else "Nothing to clean."
    lines = [head]
    if gone:
        lines.append(table([_shown(row) for row in gone], {"kind": 8, "size": 8, "what": 40}))
    lines += [wrapped(f"Kept {row['kind']} {row['what']}: {row['why']}") for row in kept]
    return "\n".join(lines)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": row["kind"],
        "size": _size(row["bytes"]) if row["bytes"] else "",
        "what": f"{row['what']}: {row['why']}",
    }


def _size(number: int) -> str:
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"
