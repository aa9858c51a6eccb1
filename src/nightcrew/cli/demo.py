"""A small whole night on this machine: three real repositories, eight tickets, real commits, gates and pull requests.

Everything is the product itself; only the agent is scripted (`nightcrew.testing.scripted_agent`): a real program that
edits, runs the tests and commits, and calls no model. `--agent claude|codex` puts the real one in its place.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from nightcrew import proc
from nightcrew.app import App
from nightcrew.app import run as app_run
from nightcrew.cli import demo_company
from nightcrew.cli.demo_scenes import REPOS, SCRIPT, TICKETS
from nightcrew.cli.live import telling
from nightcrew.cli.show import COLUMNS, as_json, table, wrapped
from nightcrew.cli.work import log_to, summary
from nightcrew.core.model import STARTING
from nightcrew.core.report import night_report
from nightcrew.errors import UsageError
from nightcrew.git import git

AGENTS = ("scripted", "claude", "codex")


@click.command()
@click.option("--agent", default="scripted", show_default=True, help="scripted (calls no model), claude or codex.")
@click.option("--once", is_flag=True, help="Clean up and exit instead of keeping the pull requests browsable.")
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="Where to play (default: a new temporary folder)."
)
@click.option("--company", is_flag=True, help="Play with a board and a forge that are services, on loopback.")
@click.option("--board", default="github", show_default=True, help="With --company: which board.")
@click.option("--forge", default="github", show_default=True, help="With --company: which forge.")
@as_json
def demo(agent: str, once: bool, folder: Path | None, company: bool, board: str, forge: str, as_json: bool) -> None:
    """Play a small night: three repositories, eight tickets, real commits. Nothing leaves the machine."""
    if company:
        sys.exit(demo_company.play(board, forge, once=once, folder=folder, as_json=as_json))
    sys.exit(play(agent, once=once, folder=folder, as_json=as_json))


def play(agent: str, *, once: bool, folder: Path | None, as_json: bool) -> int:
    """Play the night in `folder`; returns the exit code, 0 when everything went as scripted."""
    if agent not in AGENTS:
        raise UsageError(f"There is no demo agent {agent!r}.", hint=f"Choose one of {', '.join(AGENTS)}.")
    home = (folder or Path(tempfile.mkdtemp(prefix="nightcrew-demo-"))).resolve()
    if home.exists() and any(home.iterdir()):
        raise UsageError(f"{home} is not empty.", hint="Choose an empty folder, or leave out --dir.")
    began = time.monotonic()
    try:
        app = app_run(_stage(home, agent))
        _introduce(agent, home, as_json)
        log_to(app.config.state_dir / "nightcrew.log")
        app_run(_night(app))
        result = {
            **app_run(_result(app, agent)),
            "seconds": round(time.monotonic() - began, 2),
            "folder": str(home),
        }
        _conclude(app, result, once, as_json)
        return 0 if result["as_scripted"] or agent != "scripted" else 1
    finally:
        if once and folder is None:
            logging.shutdown()
            shutil.rmtree(home, ignore_errors=True)


async def _stage(home: Path, agent: str) -> App:
    home.mkdir(parents=True, exist_ok=True)
    for name, files in REPOS.items():
        await _repository(home / name, files)
    (home / "tickets").mkdir()
    for key, (front, body) in TICKETS.items():
        head = "".join(f"{k}: {json.dumps(v)}\n" for k, v in {"id": key, **front, "state": "todo"}.items())
        (home / "tickets" / f"{key}.md").write_text(f"---\n{head}---\n\n{body}\n")
    script = home / "script.json"
    script.write_text(json.dumps(SCRIPT, indent=1))
    (home / "nightcrew.toml").write_text(_config(agent, script))
    return App.load(home / "nightcrew.toml")


async def _repository(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir()
    await git("init", "-q", "-b", "main", ".", cwd=folder)
    for path, text in files.items():
        (folder / path).write_text(text)
    await git("add", "-A", cwd=folder)
    who = ("-c", "user.name=Demo", "-c", "user.email=demo@localhost")
    await git(*who, "commit", "-q", "-m", "Start", cwd=folder)


def _config(agent: str, script: Path) -> str:
    command = json.dumps([sys.executable, "-m", "nightcrew.testing.scripted_agent", str(script)])
    lane = {"scripted": f'[agents.scripted]\nkind = "command"\ncommand = {command}\nmodels = ["small", "large"]\n'}
    repos = "".join(
        f'[[repos]]\nname = "{name}"\npath = "{name}"\nbase = "main"\nkeywords = ["{name}"]\n'
        '[repos.gates]\ncommands = ["python3 -m unittest -q"]\ntimeout = 60\n\n'
        for name in REPOS
    )
    limits = "[limits]\nmax_running = 4\nbackoff_base = 1\nreset_grace = 0.2\n\n[limits.attempt]\nstall_seconds = 3\n\n"
    if agent != "scripted":
        limits = "[limits]\nmax_running = 2\n\n"
    return f'[board]\nkind = "folder"\npath = "tickets"\n\n{limits}{lane.get(agent, f"[agents.{agent}]")}\n\n{repos}'


def _introduce(agent: str, home: Path, as_json: bool) -> None:
    if not as_json:
        who = "a scripted program: no model is called" if agent == "scripted" else f"the real {agent}"
        click.echo(wrapped(f"A small night in {home}. The agent is {who}.") + "\n", err=True)


async def _night(app: App) -> None:
    async with telling(app):
        await app.up("idle")


async def _result(app: App, agent: str) -> dict[str, Any]:
    runs = sorted(app.store.runs(), key=lambda r: r.key)
    pulls = {name: await app.forges[repo.forge].list(repo) for name, repo in app.repos.items()}
    opened = [p for found in pulls.values() for p in found]
    # On a slow machine DEMO-4's limit is known before a later ticket's agent was started: that was no session.
    outcomes = {
        r.key: {
            "state": r.state.value,
            "attempts": [a.outcome for a in app.store.attempts_of(r.id) if a.stage != STARTING],
        }
        for r in runs
    }
    return {
        "agent": agent, "model_called": agent != "scripted", "tickets": len(runs), "pull_requests": len(opened),
        "duplicates": len(opened) - len({(p.repo, p.branch) for p in opened}),
        "processes_left": len(proc.leftovers(f"{app.crew_id}:")), "outcomes": outcomes,
        "lost_work": len(await _lost(app)), "as_scripted": outcomes == expected(),
    }  # fmt: skip


def expected() -> dict[str, dict[str, Any]]:
    """The outcomes that the scenes are written for."""
    scenes = {key: scene["expect"] for key, scene in SCRIPT["tickets"].items()}
    return {key: {"state": state, "attempts": attempts} for key, (state, *attempts) in scenes.items()}


async def _lost(app: App) -> list[str]:
    """Commits that an agent says it made and that no ref of a hub or repository keeps."""
    said = {
        event["sha"]
        for log in (app.config.state_dir / "attempts").glob("*/*/try-*/stdout")
        for line in log.read_text(errors="replace").splitlines()
        if '"commit"' in line and (event := json.loads(line)).get("type") == "commit"
    }
    kept: set[str] = set()
    for hub in app.hubs.values():
        kept |= set((await git("rev-list", "--all", git_dir=hub.path)).split())
    return sorted(said - kept)


def _conclude(app: App, result: dict[str, Any], once: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
        return
    runs, attempts = app.store.runs(), [a for r in app.store.runs() for a in app.store.attempts_of(r.id)]
    began = min(a.started_at for a in attempts if a.started_at)
    report = app.config.home / "report.md"
    report.write_text(night_report(runs, attempts, began, max(a.ended_at for a in attempts if a.ended_at)))
    click.echo("\n" + table(summary(app), COLUMNS))
    click.echo("\n" + report.read_text())
    told = (f"{result['pull_requests']} pull requests from {result['tickets']} tickets in {result['seconds']} s, "
            f"{result['duplicates']} duplicates, {result['processes_left']} processes left, "
            f"{result['lost_work']} commits lost.")  # fmt: skip
    click.echo(wrapped(told))
    if not once or not str(app.config.home).startswith(tempfile.gettempdir()):
        us = "nightcrew" if shutil.which("nightcrew") else sys.argv[0]
        click.echo(f"\nLook around:\n  cd {app.config.home}\n  {us} pr list\n  {us} pr diff 1 --repo calc\n"
                   f"  {us} show DEMO-3\n  {us} pr merge 1 --repo calc\nThe report: {report}")  # fmt: skip
