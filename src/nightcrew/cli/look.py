"""Commands that look and change nothing."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from nightcrew.app import App
from nightcrew.cli.show import as_json, say, table
from nightcrew.core.model import Run, RunState
from nightcrew.core.report import night_report, plain
from nightcrew.errors import NightcrewError, UsageError
from nightcrew.views import attempt_row, event_line, lane_row, status_rows

RECENT = 40


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also what ended long ago.")
@as_json
@click.pass_obj
def status(config: Path | None, everything: bool, as_json: bool) -> None:
    """What every ticket is doing, and the evidence it rests on."""
    app, now = App.load(config), datetime.now(UTC)
    store, running = app.store, app.running()
    if not running:
        asyncio.run(_fresh_problems(app))
    active = store.runs(ended=False)
    recent = store.runs(limit=0 if everything else RECENT)
    seen = {run.id: run for run in [*active, *recent]}
    rows = status_rows(list(seen.values()), store.open_attempts(), store.lanes(), now)
    lanes = [lane_row(lane) for lane in store.lanes().values()]
    data = {
        "running": bool(running), "pid": running or None, "paused": bool(store.get("paused", False)),
        "scanned_at": store.get("scanned_at"), "counts": store.counts(), "tickets": rows, "lanes": lanes,
        "problems": [{"where": k, "message": v} for k, v in store.problems().items()],
    }  # fmt: skip
    say(as_json, data, lambda: _status_text(data))


async def _fresh_problems(app: App) -> None:
    """While nothing is up, look at the board ourselves, so that `status` is true."""
    problems: dict[str, str] = {}
    for name, board in app.boards.items():
        try:
            problems |= {p.where: p.message for p in (await asyncio.wait_for(board.scan(), 5)).problems}
        except (NightcrewError, TimeoutError) as error:
            problems[name] = str(error) or "the board does not answer"
    app.store.set_problems(problems)


def _status_text(data: dict[str, Any]) -> str:
    head = f"nightcrew is up (process {data['pid']})" if data["running"] else "nightcrew is not running"
    head += ", paused: nothing new starts" if data["paused"] else ""
    counts = ", ".join(f"{n} {state}" for state, n in sorted(data["counts"].items()))
    parts = [f"{head}. {counts}".rstrip(" .") + "."]
    columns = {"ticket": 8, "state": 9, "repo": 8, "attempts": 3, "doing": 30}
    parts.append(table(data["tickets"], columns, 'No tickets yet: `nightcrew add "…"`, then `nightcrew up`.'))
    for lane in data["lanes"]:
        if lane["state"] != "up":
            until = f" until {lane['until'][11:19]} UTC" if lane["until"] else " until `nightcrew resume`"
            parts.append(f"Lane {lane['lane']} is {lane['state']}{until}: {lane['evidence']}")
    parts += [f"Cannot read {p['where']}: {p['message']}" for p in data["problems"]]
    return "\n".join(parts)


@click.command()
@click.argument("ticket")
@as_json
@click.pass_obj
def show(config: Path | None, ticket: str, as_json: bool) -> None:
    """One ticket: its attempts, their outcomes with evidence, the gates, the pull request."""
    app = App.load(config)
    run = app.run_named(ticket)
    attempts = [attempt_row(a) for a in app.store.attempts_of(run.id)]
    row = status_rows([run], app.store.open_attempts(), app.store.lanes(), datetime.now(UTC))[0]
    data = {**row, "reason": run.reason, "branch": run.branch, "duplicate_of": run.duplicate_of or None,
            "workspace": run.workspace or None, "attempts_list": attempts,
            "events": app.store.events(run.id)}  # fmt: skip
    say(as_json, data, lambda: _show_text(run, row, attempts))


def _show_text(run: Run, row: dict[str, Any], attempts: list[dict[str, Any]]) -> str:
    lines = [click.style(f"{run.key}: {plain(run.title, 100)}", bold=True),
             f"{run.state}: {row['doing'] or run.reason}",
             f"repository {run.repo or 'unknown'}, branch {run.branch}"]  # fmt: skip
    if run.pull_request:
        lines.append(f"pull request #{run.pull_request} {run.url}")
    for a in attempts:
        lines.append("")
        lines.append(click.style(f"attempt {a['number']}: {a['outcome']}", bold=True)
                     + f"  {a['agent']} {a['model']}  {a['tokens']:,} tokens"
                     + (f"  {a['seconds']:.1f} s" if a["seconds"] is not None else ""))  # fmt: skip
        lines += [f"  {line}" for line in a["evidence"].splitlines()[:12]]
        lines += [f"  gate {g['gate']}: {'passed' if g['passed'] else 'refused'}, {g['summary']}" for g in a["gates"]]
        lines.append(f"  log: {a['log']}")
    return "\n".join(lines)


@click.command()
@click.argument("ticket")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes.")
@click.option("--events", "only_events", is_flag=True, help="nightcrew's own events instead of the agent's output.")
@as_json
@click.pass_obj
def logs(config: Path | None, ticket: str, follow: bool, only_events: bool, as_json: bool) -> None:
    """What the ticket's agent printed in its last attempt, or nightcrew's events of it."""
    app = App.load(config)
    run = app.run_named(ticket)
    if only_events:
        events = app.store.events(run.id, limit=1000)
        say(as_json, {"ticket": run.key, "events": events}, lambda: "\n".join(map(event_line, events)))
        return
    folder = app.config.state_dir / "attempts" / run.branch.rpartition("/")[2]
    found = (
        sorted(folder.glob("*/try-*/stdout"), key=lambda p: (int(p.parts[-3]), p.parts[-2])) if folder.exists() else []
    )
    if not found:
        raise UsageError(f"{run.key} has no log yet.", hint="It is written when the first attempt starts.")
    if as_json:
        say(True, {"ticket": run.key, "logs": [str(p) for p in found], "text": _text(found[-1], 200_000)}, "")
        return
    _print_file(found[-1], follow)


def _text(path: Path, limit: int) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - limit, 0))
        return file.read().decode("utf-8", "replace")


def _print_file(path: Path, follow: bool) -> None:
    with path.open("rb") as file:
        while True:
            if chunk := file.read(65536):
                click.echo(chunk.decode("utf-8", "replace"), nl=False)
            elif follow and not (path.parent / "rc").exists():
                time.sleep(0.2)
            else:
                return


@click.command()
@click.argument("ticket")
@as_json
@click.pass_obj
def route(config: Path | None, ticket: str, as_json: bool) -> None:
    """Why a ticket goes to which repository, rule by rule."""
    from nightcrew.core import route as rules  # noqa: PLC0415

    app = App.load(config)
    found = asyncio.run(_find(app, ticket))
    decision = rules.route(found, app.config.repos)
    steps = [{"rule": s.rule, "outcome": s.outcome, "detail": s.detail} for s in decision.steps]
    data = {
        "ticket": found.key,
        "repo": decision.repo.name if decision.repo else None,
        "reason": decision.reason,
        "steps": steps,
    }
    say(as_json, data, lambda: "\n".join(rules.explain(decision)))


async def _find(app: App, word: str) -> Any:
    for board in app.boards.values():
        for ticket in await board.fetch([word]):
            return ticket
        for ticket in (await board.scan()).tickets:
            if ticket.key.lower() == word.lower():
                return ticket
    raise UsageError(
        f"There is no ticket {word} on the board.", hint="`nightcrew status` lists those that can be read."
    )


@click.command()
@click.option("--hours", default=12.0, show_default=True, help="How far back the night began.")
@as_json
@click.pass_obj
def report(config: Path | None, hours: float, as_json: bool) -> None:
    """The night's report: what was opened, what needs you, what it cost."""
    app, now = App.load(config), datetime.now(UTC)
    since = now - timedelta(hours=hours)
    attempts = app.store.attempts_since(since)
    ids = {a.run_id for a in attempts}
    runs = [r for r in app.store.runs() if r.id in ids or r.state in (RunState.BLOCKED, RunState.UNROUTED)]
    text = night_report(runs, attempts, since, now)
    data = {"since": since.isoformat(), "until": now.isoformat(), "tickets": len(runs), "attempts": len(attempts),
            "pull_requests": sum(bool(r.pull_request) for r in runs), "tokens": sum(a.usage.tokens for a in attempts),
            "money": round(sum(a.usage.money for a in attempts), 4), "markdown": text}  # fmt: skip
    say(as_json, data, text)


@click.command()
@click.option("--agent", required=True, help="Whose output it is: claude, codex, command, or one of yours.")
@click.option("--exit-code", type=int, default=None, help="Negative for a signal; leave out when unknown.")
@click.option("--stderr", "stderr_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@as_json
@click.argument("stdout_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def classify(agent: str, exit_code: int | None, stderr_file: Path | None, as_json: bool, stdout_file: Path) -> None:
    """How an agent's recorded output is read: its outcome, when a limit resets, and the evidence."""
    from nightcrew.app import adapter  # noqa: PLC0415

    reader = adapter("agents", agent)(agent, {"command": ["true"]} if agent == "command" else {})
    stderr = stderr_file.read_text(encoding="utf-8", errors="replace") if stderr_file else ""
    with stdout_file.open("rb") as file:
        ending = reader.read(iter(lambda: file.readline(16 << 20), b""), exit_code, stderr, datetime.now().astimezone())
    resets = int(ending.resets_at) if ending.resets_at is not None else None
    data = {
        "outcome": ending.outcome.value, "resets_at": resets, "evidence": ending.evidence, "said": ending.said[:2000],
        "model": ending.model, "session_id": ending.session_id, "usage": {
            "input": ending.usage.input, "output": ending.usage.output, "cache_read": ending.usage.cache_read,
            "cache_write": ending.usage.cache_write, "money": ending.usage.money, "turns": ending.usage.turns},
    }  # fmt: skip
    until = f", resets at {datetime.fromtimestamp(resets, UTC):%Y-%m-%d %H:%M:%S} UTC" if resets else ""
    say(as_json, data, f"{ending.outcome}{until}\nbecause: {ending.evidence}")
