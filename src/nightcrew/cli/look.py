"""Commands that look and change nothing."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from nightcrew.app import App, nearest
from nightcrew.app import run as app_run
from nightcrew.cli.show import COLUMNS, as_json, harmless, notes, say, table, wrapped
from nightcrew.core.model import OUT, LaneState, Run, RunState, TicketState
from nightcrew.core.report import night_report, plain
from nightcrew.core.schedule import run_id
from nightcrew.errors import NightcrewError, UsageError
from nightcrew.views import attempt_row, event_line, lane_row, status_rows

RECENT = 40
STUCK = frozenset({"unrouted", "queued", "blocked", "failed"})
"""States in which what the table cuts is said in full below it."""
GOING_ON = frozenset({RunState.QUEUED, RunState.WORKING})


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also what ended long ago.")
@as_json
@click.pass_obj
def status(config: Path | None, everything: bool, as_json: bool) -> None:
    """What every ticket is doing, and the evidence it rests on."""
    app, now = App.load(config), datetime.now(UTC)
    store, running = app.store, app.running()
    waiting = 0 if running else app_run(_look_at_boards(app))
    active = store.runs(ended=False)
    recent = store.runs(limit=0 if everything else RECENT)
    seen = {run.id: run for run in [*active, *recent]}
    held = store.get("held", {}) if running else None
    rows = status_rows(
        list(seen.values()), store.open_attempts(), store.lanes(), now, app.config.agents, app.repos, held
    )
    lanes = [lane_row(lane) for lane in store.lanes().values()]
    data = {
        "running": bool(running), "pid": running or None, "paused": bool(store.get("paused", False)),
        "waiting": waiting, "scanned_at": store.get("scanned_at"), "counts": store.counts(), "tickets": rows,
        "lanes": lanes, "problems": [{"where": k, "message": v} for k, v in store.problems().items()],
    }  # fmt: skip
    say(as_json, data, lambda: _status_text(data))


async def _look_at_boards(app: App) -> int:
    """While nothing is up, look ourselves, so that `status` is true; how many open tickets `up` has not seen yet."""
    problems: dict[str, str] = {}
    ids: set[str] = set()
    for name, board in app.boards.items():
        try:
            scan = await asyncio.wait_for(board.scan(), 5)
            problems |= {p.where: p.message for p in scan.problems}
            ids |= {run_id(t) for t in scan.tickets if t.state is TicketState.OPEN}
        except (NightcrewError, TimeoutError) as error:
            problems[name] = str(error) or "the board does not answer"
    app.store.set_problems(problems)
    return len(ids - {run.id for run in app.store.watched(ids, {})})


def _status_text(data: dict[str, Any]) -> str:
    head = f"nightcrew is up (process {data['pid']})" if data["running"] else "nightcrew is not running"
    head += ", paused: nothing new starts" if data["paused"] else ""
    counts = ", ".join(f"{n} {state}" for state, n in sorted(data["counts"].items()))
    parts = [f"{head}. {counts}".rstrip(" .") + "."]
    new = f"{data['waiting']} new on the board: `nightcrew up` works them." if data["waiting"] else ""
    if data["tickets"] or not new:
        rows = table(data["tickets"], COLUMNS, 'No tickets yet: `nightcrew add "…"`, then `nightcrew up`.')
        stuck = [row for row in data["tickets"] if row["state"] in STUCK]
        parts += [rows, *notes(stuck, "ticket", "doing", rows)]
    parts += [new] if new else []
    parts += [wrapped(_lane_text(lane)) for lane in data["lanes"] if lane["state"] != "up"]
    parts += [wrapped(f"Cannot read {p['where']}: {p['message']}") for p in data["problems"]]
    return "\n".join(parts)


def _lane_text(lane: dict[str, Any]) -> str:
    """What keeps a lane from being used, for how long, and what a person does about it."""
    name, state = lane["lane"], LaneState(lane["state"])
    ends = datetime.fromisoformat(lane["until"]).astimezone() if lane["until"] else None
    if state in OUT:
        act = "login" if state is LaneState.LOGGED_OUT else "resume"
        until = f"until `nightcrew lanes {act} {name}`"
    elif ends:
        until = f"until {ends:%a %H:%M:%S}" + (", when one session goes first" if lane["probe"] else "")
    else:
        until = "and is tried by one session first"
    return f"Lane {name} is {state.value.replace('_', ' ')} {until}: {lane['evidence']}"


@click.command()
@click.argument("ticket")
@as_json
@click.pass_obj
def show(config: Path | None, ticket: str, as_json: bool) -> None:
    """One ticket: its attempts, their outcomes with evidence, the gates, the pull request."""
    app = App.load(config)
    run = app.run_named(ticket)
    attempts = [attempt_row(a) for a in app.store.attempts_of(run.id)]
    store, now = app.store, datetime.now(UTC)
    row = status_rows([run], store.open_attempts(), store.lanes(), now, app.config.agents, app.repos)[0]
    data = {**row, "reason": run.reason, "branch": run.branch, "duplicate_of": run.duplicate_of or None,
            "workspace": run.workspace or None, "attempts_list": attempts,
            "events": app.store.events(run.id)}  # fmt: skip
    say(as_json, data, lambda: _show_text(run, row, attempts))


def _show_text(run: Run, row: dict[str, Any], attempts: list[dict[str, Any]]) -> str:
    title = "\n".join(
        click.style(line, bold=True) for line in wrapped(f"{run.key}: {plain(run.title, 200)}").splitlines()
    )
    lines = [title, wrapped(f"{run.state}: {row['doing'] or run.reason}"),
             f"repository {run.repo or 'unknown'}, branch {run.branch}"]  # fmt: skip
    if run.pull_request:
        lines.append(f"pull request #{run.pull_request} {run.url}")
    for a in attempts:
        lines.append("")
        lines.append(click.style(f"attempt {a['number']}: {a['outcome']}", bold=True)
                     + f"  {a['agent']} {a['model']}  {a['tokens']:,} tokens"
                     + (f"  {a['seconds']:.1f} s" if a["seconds"] is not None else ""))  # fmt: skip
        lines += [f"  {line}" for line in harmless(a["evidence"]).splitlines()[:12]]
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
    found = _logs(app, run)
    if not found and not (follow and run.state in GOING_ON):
        raise UsageError(f"{run.key} has no log yet.", hint="It is written when the first attempt starts.")
    if as_json:
        text = _text(found[-1], 200_000) if found else ""
        say(True, {"ticket": run.key, "logs": [str(p) for p in found], "text": text}, "")
    elif follow:
        _follow(app, run)
    else:
        _print_from(found[-1], 0)


def _logs(app: App, run: Run) -> list[Path]:
    """What its agents printed, a file for each try, oldest first."""
    folder = app.config.state_dir / "attempts" / run.branch.rpartition("/")[2]
    there = {path.with_name("stdout"): path for path in folder.glob("*/try-*/stdout.gz")}  # old ones are compressed
    there |= {path: path for path in folder.glob("*/try-*/stdout")}
    return [there[p] for p in sorted(there, key=lambda p: (int(p.parts[-3]), len(p.parts[-2]), p.parts[-2]))]


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _text(path: Path, limit: int) -> str:
    """The end of what was printed, whatever its size."""
    with _opened(path) as file:
        if path.suffix != ".gz":
            file.seek(max(path.stat().st_size - limit, 0))
        last = b""
        while chunk := file.read(1 << 20):
            last = (last + chunk)[-limit:]
        return last.decode("utf-8", "replace")


def _follow(app: App, run: Run) -> None:
    """Print what comes, attempt after attempt, until nothing more will come by itself."""
    printed: dict[Path, int] = {}
    first = max(len(_logs(app, run)) - 1, 0)
    while True:
        now = app.store.named(run.id)
        going_on = now is not None and now.state in GOING_ON and app.running()
        for path in _logs(app, run)[first:]:
            printed[path] = _print_from(path, printed.get(path, 0))
        if not going_on:
            return
        time.sleep(0.2)


def _print_from(path: Path, offset: int) -> int:
    """Print the file from there on: as it is, but on a terminal without what could steer it. Returns where it ends."""
    with _opened(path) as file:
        file.seek(offset)
        while chunk := file.read(1 << 20):
            click.echo(harmless(chunk.decode("utf-8", "replace")) if sys.stdout.isatty() else chunk, nl=False)
        return file.tell()


@click.command()
@click.argument("ticket")
@as_json
@click.pass_obj
def route(config: Path | None, ticket: str, as_json: bool) -> None:
    """Why a ticket goes to which repository, rule by rule."""
    from nightcrew.core import route as rules  # noqa: PLC0415

    app = App.load(config)
    found = app_run(_find(app, ticket))
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
    known: list[str] = []
    for board in app.boards.values():
        for ticket in await board.fetch([word]):
            return ticket
        for ticket in (await board.scan()).tickets:
            known.append(ticket.key)
            if ticket.key.lower() == word.lower():
                return ticket
    raise UsageError(f"There is no ticket {word} on the board.",
                     hint=nearest(word, known) or "`nightcrew status` says which files cannot be read.")  # fmt: skip


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
    text = night_report(runs, attempts, since, now, app.store.lanes().values())
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
