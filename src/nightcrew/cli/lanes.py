"""Lanes: which accounts can be used now, and until when not; and what a person does about one that cannot."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightcrew.app import App, nearest
from nightcrew.app import run as app_run
from nightcrew.cli.show import as_json, say, table, wrapped
from nightcrew.core.model import OUT, Lane, LaneState, Seat
from nightcrew.errors import NightcrewError, UsageError
from nightcrew.views import lane_row, span

if TYPE_CHECKING:
    from nightcrew.ports import Agent, Login

COLUMNS = {"lane": 8, "provider": 5, "account": 5, "agent": 4, "state": 7, "until": 12}
"""At most twice as wide, so that all fits into 80; a name that is cut stands below in full."""
IN_SESSION = frozenset({"starting", "preparing", "session"})
BREAKER = "provider:"

Program = tuple[Sequence[str], Mapping[str, str]]
"""What is run, and what is added to the environment."""
name_of = click.argument("name")


@click.group(invoke_without_command=True)
@as_json
@click.pass_context
def lanes(ctx: click.Context, as_json: bool) -> None:
    """Which accounts can be used now, and until when not, with the evidence.

    A lane is an account at a provider, used by an agent. Every configured one is shown, and each one that something is
    known of: its login, what its provider said of its windows, and how many sessions run on it.
    """
    if ctx.invoked_subcommand is None:
        app = App.load(ctx.obj)
        rows = [*_rows(app, datetime.now().astimezone())]
        say(as_json, {"lanes": rows}, lambda: _text(rows, datetime.now(UTC)))


def _rows(app: App, now: datetime) -> Iterator[dict[str, Any]]:
    """Configured lanes in their order, then those only known of, then the breakers of providers."""
    known, agents = app.store.lanes(), _by_lane(app)
    running = [a.lane for a in app.store.open_attempts() if a.phase in IN_SESSION]
    found = sorted(known.keys() - agents.keys(), key=lambda name: (name.startswith(BREAKER), name))
    for name in [*agents, *found]:
        using = agents.get(name, [])
        login = using[0].login(now) if using else None
        seat = using[0].seat if using else _seat_named(name)
        yield {
            **lane_row(known.get(name, Lane(name))), "provider": seat.provider, "account": seat.account,
            "agent": seat.agent, "agents": [agent.name for agent in using], "sessions": running.count(name),
            "login": _login_row(login) if login else None,
        }  # fmt: skip


def _by_lane(app: App) -> dict[str, list[Agent]]:
    lanes: dict[str, list[Agent]] = {}
    for agent in app.agents.values():
        lanes.setdefault(agent.seat.lane, []).append(agent)
    return lanes


def _seat_named(name: str) -> Seat:
    """What a lane's name says by itself, when no agent of it is configured any more."""
    if name.startswith(BREAKER):
        return Seat(name.removeprefix(BREAKER), "", "")
    agent, _, account = name.partition("@")
    return Seat("", account, agent)


def _login_row(login: Login) -> dict[str, Any]:
    expires = datetime.fromtimestamp(login.expires_at, UTC).isoformat() if login.expires_at else None
    return {"kind": login.kind, "ok": login.ok, "says": login.says, "warns": login.warns or None, "expires_at": expires}


# -- for people --------------------------------------------------------------------------------------------------------
def _text(rows: list[dict[str, Any]], now: datetime) -> str:
    shown = [{**row, "state": row["state"].replace("_", " "), "until": _until(row)} for row in rows]
    parts = [table(shown, COLUMNS)]
    for row in rows:
        parts += ["", click.style(row["lane"], bold=True), *(wrapped(f"  {said}") for said in _details(row, now))]
    return "\n".join(parts)


def _until(row: dict[str, Any]) -> str:
    if row["state"] == LaneState.UP:
        return "" if not row["login"] or row["login"]["ok"] else "no login"
    if row["state"] in OUT:
        return "someone acts"
    return f"{_at(row['until']):%a %H:%M:%S}" if row["until"] else "one try"


def _details(row: dict[str, Any], now: datetime) -> Iterator[str]:
    if row["evidence"] and row["state"] != LaneState.UP:
        told = f" (told {_at(row['told_at']):%a %H:%M:%S})" if row["told_at"] else ""
        first = ", then one session goes first" if row["probe"] and row["state"] not in OUT else ""
        yield f"{row['state'].replace('_', ' ')}{first}: {row['evidence']}{told}"
    if row["state"] in OUT:
        yield f"Then: {_cure(row)}"
    if login := row["login"]:
        yield f"login: {login['says']}{_ends(login, now)}"
        if login["warns"]:
            yield f"warning: {login['warns']}"
    for window in row["windows"]:
        told = f", told {span(now, _at(window['told_at']))} ago" if window["told_at"] else ""
        over = _at(window["resets_at"]) <= now
        anew = "has begun anew since" if over else f"begins anew {_at(window['resets_at']):%a %H:%M}"
        yield f"window {window['name']}: {window['used']:.0%} used, {anew}{told}"
    if row["agents"] and row["agents"] != [row["lane"]]:
        yield f"agents: {', '.join(row['agents'])}"
    if row["sessions"]:
        yield f"{row['sessions']} session{'s' * (row['sessions'] > 1)} at work"


def _ends(login: dict[str, Any], now: datetime) -> str:
    if not login["ok"] or not login["expires_at"]:
        return ""
    ends = _at(login["expires_at"])
    return f", good until {ends:%a %d %b %H:%M}" if ends > now else "; the next session renews it"


def _cure(row: dict[str, Any]) -> str:
    if row["state"] == LaneState.LOGGED_OUT and row["login"]:
        return f"`nightcrew lanes login {row['lane']}`"
    mend = "" if row["state"] == LaneState.PAUSED else "mend it, then "
    return f"{mend}`nightcrew lanes resume {row['lane']}`"


def _at(iso: str) -> datetime:
    return datetime.fromisoformat(iso).astimezone()


# -- orders ------------------------------------------------------------------------------------------------------------
@lanes.command()
@name_of
@as_json
@click.pass_obj
def pause(config: Path | None, name: str, as_json: bool) -> None:
    """Start nothing new on a lane until it is resumed; what runs there goes on."""
    app = App.load(config)
    lane = _named(app, name)
    _order(app, "pause", lane, f"Nothing new starts on lane {lane}.", as_json)


@lanes.command()
@click.argument("name", required=False, default="")
@as_json
@click.pass_obj
def resume(config: Path | None, name: str, as_json: bool) -> None:
    """Take a lane back in that was paused, logged out or out of credit; without NAME, every one."""
    app = App.load(config)
    lane = _named(app, name) if name else ""
    _order(app, "resume", lane, f"{f'Lane {lane} is' if lane else 'All lanes are'} used again.", as_json)


def _order(app: App, kind: str, lane: str, done: str, as_json: bool, more: Mapping[str, object] | None = None) -> None:
    """Leave the order, and wake who carries it out: lanes are changed by the one director alone."""
    app.store.order(f"lane-{kind}", lane)
    app.wake()
    up = bool(app.running())
    when = "" if up else " It is carried out at the next `nightcrew up`."
    say(as_json, {"ordered": f"lane-{kind}", "lane": lane or None, "running": up, **(more or {})}, done + when)


def _named(app: App, name: str) -> str:
    """The lane of that name, or of that agent. Raises UsageError when there is none."""
    known = {**dict.fromkeys(_by_lane(app)), **dict.fromkeys(app.store.lanes())}
    if name in known:
        return name
    if name in app.agents:
        return app.agents[name].seat.lane
    raise UsageError(f"There is no lane {name}.", hint=f"{nearest(name, known)} Known: {', '.join(known)}.".strip())


def _agents_on(app: App, lane: str) -> list[Agent]:
    if found := _by_lane(app).get(lane):
        return found
    raise UsageError(f"No agent in nightcrew.toml uses lane {lane}.", hint="`nightcrew lanes` shows who uses which.")


# -- login -------------------------------------------------------------------------------------------------------------
@lanes.command()
@name_of
@click.option("--done", is_flag=True, help="You have logged in already: look, and take the lane back in.")
@as_json
@click.pass_obj
def login(config: Path | None, name: str, done: bool, as_json: bool) -> None:
    """Log in to a lane's account with its agent's own program, then take the lane back in.

    Without a terminal, it only says what to run.
    """
    app = App.load(config)
    lane = _named(app, name)
    agent = _agents_on(app, lane)[0]
    if done:
        _check(app, agent, lane, as_json)
    elif (there := agent.log_in()) is None:
        raise UsageError(f"Nobody logs in to lane {lane}: {agent.login(datetime.now().astimezone()).says}.",
                         hint=f"Mend what it names, then `nightcrew lanes login {lane} --done`.")  # fmt: skip
    elif as_json or not sys.stdin.isatty():
        command, then = _command(there), f"nightcrew lanes login {lane} --done"
        say(as_json, {"lane": lane, "run": command, "then": then}, f"On a terminal:\n\n  {command}\n  {then}")
    else:
        _run(there)
        if agent.login(datetime.now().astimezone()).kind == "token":
            click.echo(f"Set it where nightcrew is started and start that anew; `nightcrew lanes login {lane} --done`.")
        else:
            _check(app, agent, lane, as_json)


def _command(there: Program) -> str:
    return shlex.join([*(f"{key}={value}" for key, value in there[1].items()), *there[0]])


def _run(there: Program) -> None:
    argv, env = there
    click.echo(f"$ {_command(there)}", err=True)
    program = shutil.which(argv[0])
    if program is None:
        raise UsageError(f"There is no program `{argv[0]}` on the PATH.", hint="Install it, or name its whole path.")
    code = subprocess.run([program, *argv[1:]], env={**os.environ, **env}, check=False).returncode
    if code:
        raise NightcrewError(f"`{_command(there)}` ended with exit code {code}.", hint="The lane stays out.")


def _check(app: App, agent: Agent, lane: str, as_json: bool) -> None:
    found = agent.login(datetime.now().astimezone())
    if not found.ok:
        raise NightcrewError(f"Lane {lane} is still logged out: {found.says}.")
    _order(app, "resume", lane, f"{found.says[:1].upper()}{found.says[1:]}. Lane {lane} is used again.", as_json,
           {"login": _login_row(found)})  # fmt: skip


# -- probe -------------------------------------------------------------------------------------------------------------
@lanes.command()
@name_of
@as_json
@click.pass_obj
def probe(config: Path | None, name: str, as_json: bool) -> None:
    """Make one cheap call on a lane and say how it ended; a lane that answers is taken back in."""
    from nightcrew.core.outcome import Outcome  # noqa: PLC0415

    app = App.load(config)
    lane = _named(app, name)
    agent = _agents_on(app, lane)[0]
    seconds, ending = app_run(_asked(app, agent))
    answers = ending.outcome in (Outcome.DONE, Outcome.BLOCKED)
    closed = app.store.lanes().get(lane, Lane(lane)).state is not LaneState.UP
    told = {
        "lane": lane, "agent": agent.name, "answers": answers, "outcome": ending.outcome.value,
        "evidence": ending.evidence, "seconds": round(seconds, 2), "model": ending.model or None,
        "resets_at": int(ending.resets_at) if ending.resets_at else None, "tokens": ending.usage.tokens,
    }  # fmt: skip
    if answers and closed:
        _order(app, "resume", lane, f"Lane {lane} answers after {seconds:.1f} s. It is used again.", as_json, told)
        return
    until = f" until {datetime.fromtimestamp(ending.resets_at).astimezone():%a %H:%M:%S}" if ending.resets_at else ""
    text = f"after {seconds:.1f} s" if answers else f"{ending.outcome}{until}: {ending.evidence}"
    say(as_json, told, wrapped(f"Lane {lane} {'answers' if answers else 'does not answer'} {text}"))
    if not answers:
        sys.exit(1)


async def _asked(app: App, agent: Agent) -> tuple[float, Any]:
    """In an empty folder: there is nothing to read and nothing to spoil."""
    from nightcrew.doctor import asked  # noqa: PLC0415

    root = app.config.state_dir / "probes" / uuid.uuid4().hex[:8]
    (root / "empty").mkdir(parents=True)
    try:
        return await asked(app, agent, root / "empty", root / "scratch")
    finally:
        shutil.rmtree(root, ignore_errors=True)
