"""A whole fake company on loopback: a board and a forge, real in everything but their servers, and people on both."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightcrew.app import App
from nightcrew.app import run as app_run
from nightcrew.cli.live import telling
from nightcrew.cli.show import table, wrapped
from nightcrew.cli.work import log_to
from nightcrew.director import Director
from nightcrew.errors import UsageError

if TYPE_CHECKING:
    from nightcrew.testing.company.sides import BoardSide, ForgeSide

PATIENCE = 180.0  # seconds
LOOK = 0.3  # seconds between two looks of the people at their forge
TITLES = ("Fix the login", "Say hello in the README", "Round prices half up", "Explain the settings", "Sort the notes",
          "Name the release")  # fmt: skip
SHOWN = {"ticket": 7, "state": 6, "comments": 8, "pull request": 51}


def play(board: str, forge: str, *, once: bool, folder: Path | None, as_json: bool) -> int:
    """Play a night with that board and that forge; the exit code, 0 when every ticket was merged and none twice."""
    try:
        from nightcrew.testing.company.sides import BOARDS, FORGES, forge_beside  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError("The fake company needs more libraries.", hint="Install nightcrew[testing].") from error
    if board not in BOARDS or forge not in FORGES:
        raise UsageError(f"There is no company with {board} and {forge}.",
                         hint=f"Boards: {', '.join(BOARDS)}. Forges: {', '.join(FORGES)}.")  # fmt: skip
    home = (folder or Path(tempfile.mkdtemp(prefix="nightcrew-company-"))).resolve()
    if home.exists() and any(home.iterdir()):
        raise UsageError(f"{home} is not empty.", hint="Choose an empty folder, or leave out --dir.")
    began = time.monotonic()
    boards = BOARDS[board](home / "services" / "board")
    forges = forge_beside(boards, forge, home / "services" / "forge")
    try:
        with ExitStack() as stack:
            for standin in {id(one): one for one in (boards.standin, forges.standin)}.values():
                stack.enter_context(standin)
            app = _stage(home, boards, forges)
            if not as_json:
                click.echo(
                    wrapped(
                        f"A company in {home}: {board} at {boards.standin.url}, {forge} at "
                        f"{forges.standin.url}. The agent is scripted: no model is called."
                    )
                    + "\n",
                    err=True,
                )
            log_to(app.config.state_dir / "nightcrew.log")
            app_run(_night(app, forges))
            told = _result(app, boards, forges) | {"seconds": round(time.monotonic() - began, 1), "folder": str(home)}
            _conclude(told, boards, as_json)
            return 0 if told["as_scripted"] else 1
    finally:
        if once and folder is None:
            logging.shutdown()
            shutil.rmtree(home, ignore_errors=True)


def _stage(home: Path, board: BoardSide, forge: ForgeSide) -> App:
    """Tickets on the board, and a configuration that leads to both."""
    os.environ.update({**board.env, **forge.env})
    script: dict[str, Any] = {"tickets": {}}
    key = ""
    for n, title in enumerate(TITLES):
        key = board.ticket(title, n % 4 + 1, [key] if n == len(TITLES) - 1 else ())
        name = f"note-{n}.md"
        script["tickets"][key] = {"attempts": [
            [{"write": {"path": name, "text": f"# {title}\n"}}, {"commit": title}],
            [{"append": {"path": name, "text": "\nAs the review asked.\n"}}, {"commit": "Do what the review asked"}],
        ]}  # fmt: skip
    (home / "script.json").write_text(json.dumps(script, indent=1))
    agent = json.dumps([sys.executable, "-m", "nightcrew.testing.scripted_agent", str(home / "script.json")])
    (home / "nightcrew.toml").write_text(
        f"[crew]\nscan_every = 0.5\n\n[board]\n{board.toml}\n[forges.hub]\n{forge.toml}\n"
        f'[limits]\nmax_running = 3\nbackoff_base = 1\n\n[agents.scripted]\nkind = "command"\ncommand = {agent}\n\n'
        f'[[repos]]\nname = "web"\nurl = "{forge.clone_url()}"\nforge = "hub"\nlabels = ["web"]\nprojects = ["Web"]\n\n'
        "[repos.followup]\nquiet = 1\n"
    )
    return App.load(home / "nightcrew.toml")


async def _night(app: App, forge: ForgeSide) -> None:
    """Up until the people have merged everything."""
    director: list[Director] = []
    async with telling(app), _people(forge, director):
        await app.up("forever", started=director.append)


@asynccontextmanager
async def _people(forge: ForgeSide, director: list[Director]) -> AsyncIterator[None]:
    """Ada reads what is opened: asks for one change, then merges. When all is merged, the night is over."""

    async def work() -> None:
        asked: dict[int, str] = {}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            await asyncio.sleep(LOOK)
            pulls = await asyncio.to_thread(forge.pulls)
            for pull in (pull for pull in pulls if pull.state == "open"):
                if not asked:
                    asked[pull.number] = await asyncio.to_thread(forge.ask, pull.number, "Please say why.")
                elif asked.get(pull.number) != await asyncio.to_thread(forge.head, pull.number):
                    await asyncio.to_thread(forge.merge, pull.number)
            if director and len([p for p in pulls if p.state == "merged"]) == len(TITLES) and _over(director[0]):
                break
        if director:
            director[0].stop("the company's night is over")

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _over(director: Director) -> bool:
    store = director.crew.store
    return all(run.state == "merged" and run.shown == "done" and not run.workspace for run in store.runs())


def _result(app: App, board: BoardSide, forge: ForgeSide) -> dict[str, Any]:
    pulls, shown = forge.pulls(), board.shown()
    services = {type(side.standin).__name__: side.standin for side in (board, forge)}
    merged = [pull for pull in pulls if pull.state == "merged"]
    return {
        "tickets": len(shown), "pull_requests": len(pulls), "merged": len(merged),
        "duplicates": len(pulls) - len({pull.branch for pull in pulls}),
        "requests": {name: len(one.log) for name, one in services.items()},
        "violations": [wrong for one in services.values() for wrong in one.violations],
        "as_scripted": len(merged) == len(pulls) == len(TITLES) and {one.state for one in shown} == {"done"},
    }  # fmt: skip


def _conclude(told: dict[str, Any], board: BoardSide, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(told))
        return
    rows = [{"ticket": one.key, "state": one.state, "comments": one.comments, "pull request": _link(one.link)}
            for one in board.shown()]  # fmt: skip
    click.echo("\n" + table(rows, SHOWN))
    requests = ", ".join(f"{count} to {name}" for name, count in told["requests"].items())
    click.echo("\n" + wrapped(f"{told['merged']} of {told['tickets']} tickets merged in {told['seconds']} s, "
                              f"{told['duplicates']} pull requests twice; requests: {requests}; "
                              f"{len(told['violations'])} of them against the official schemas."))  # fmt: skip


def _link(text: str) -> str:
    return next((word.rstrip(".") for word in text.split() if word.startswith("http")), "")
