"""`nightcrew doctor`: everything a night needs, tried for real. A check that passes has done the thing itself."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from nightcrew import proc
from nightcrew.app import App
from nightcrew.core.model import Budget
from nightcrew.core.outcome import Ending, Outcome
from nightcrew.crew import INFRA, sentence
from nightcrew.errors import ConfigError, NightcrewError, UsageError
from nightcrew.git import git
from nightcrew.ports import Agent, Served, ServedForge, Task
from nightcrew.stages import session, workspace

PROMPT = "Reply with the single word: ready. Do not use any tool and do not change any file.\n"
LEAST_FREE = 2 << 30
Check = dict[str, Any]


async def examine(app: App, *, agents: bool = True) -> list[Check]:
    """Every check in turn, as rows {check: ok|warn|FAIL|-, what, evidence, seconds}. Never raises for a failed one.

    "-" is what does not work here and is not needed.
    """
    checks = [
        await _try("git", _git()),
        await _try("state", _state(app)),
        await _try("disk", _disk(app.config.state_dir)),
        *[await _try(f"board {name}", _board(app, name)) for name in app.config.boards],
        *[await _try(f"login board {name}", _board_login(app, name)) for name in boards_served(app)],
        *[await _try(f"repo {repo.name}", _repo(app, repo.name)) for repo in app.config.repos],
        *[await _try(f"login forge {name}", _forge_login(app, name)) for name in forges_served(app)],
        *[row async for row in _workspaces(app)],
        *[await _try(f"lane {name}", _login(app, name)) for name in lanes_of(app)],
    ]
    if agents:
        checks += [await _try(f"agent {name}", _agent(app, name)) for name in app.config.agents]
    return checks


async def _try(what: str, work: Awaitable[str]) -> Check:
    began = time.monotonic()
    try:
        verdict, evidence = "ok", await work
    except Warned as warning:
        verdict, evidence = "warn", str(warning)
    except INFRA as error:
        verdict, evidence = "FAIL", sentence(error)
    return {"check": verdict, "what": what, "evidence": evidence, "seconds": round(time.monotonic() - began, 2)}


class Warned(Exception):
    """Works, with something to know."""


async def _git() -> str:
    version = (await git("--version")).strip()
    numbers = tuple(int(n) for n in version.split()[2].split(".")[:2])
    if numbers < (2, 38):
        raise UsageError(f"{version}: git 2.38 or newer is needed (merge-tree --write-tree).")
    return version


async def _state(app: App) -> str:
    store = app.store
    store.put("doctor", time.time())
    up = app.running()
    return f"{store.engine.dialect.name}, migration {store.version()}, crew {app.crew_id}" + (
        f", up as {up}" if up else ""
    )


async def _disk(folder: Path) -> str:
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        raise Warned(f"only {free >> 20} MB free at {folder}")
    return f"{free >> 30} GB free"


async def _board(app: App, name: str) -> str:
    scan = await app.boards[name].scan()
    if scan.problems:
        first = scan.problems[0]
        raise Warned(
            f"{len(scan.tickets)} tickets; {len(scan.problems)} cannot be read, first {first.where}: {first.message}"
        )
    return f"{len(scan.tickets)} tickets can be read"


def boards_served(app: App) -> list[str]:
    """The boards that are services; none when one cannot be made, which is told of elsewhere."""
    with suppress(NightcrewError):
        return [name for name, board in app.boards.items() if isinstance(board, Served)]
    return []


def forges_served(app: App) -> list[str]:
    """The forges of our repositories that are services; none when one cannot be made."""
    wanted = dict.fromkeys(repo.forge for repo in app.config.repos)
    with suppress(NightcrewError):
        return [name for name in wanted if isinstance(app.forges[name], ServedForge)]
    return []


async def about_board(app: App, name: str) -> Check:
    """Who we are on a board, the places our credential reaches, and what is missing. Raises BoardError."""
    board, row = app.boards[name], _service("board", name, app.config.boards[name][0])
    if not isinstance(board, Served):
        return row
    told = await board.about()
    places = [{"id": str(i), "name": str(said)} for i, said in cast("list[tuple[str, str]]", told["places"])]
    return row | {"served": True, "login": str(told["login"]), "places": places, "missing": _missing(told)}


async def about_forge(app: App, name: str) -> Check:
    """The same for a forge, over all our repositories there. Raises ForgeError."""
    forge, row = app.forges[name], _service("forge", name, app.config.forges[name][0])
    told = [await forge.about(r) for r in app.config.repos if r.forge == name and isinstance(forge, ServedForge)]
    missing = list(dict.fromkeys(one for row in told for one in _missing(row)))
    return row | {"served": bool(told), "login": str(told[0]["login"]) if told else "", "missing": missing}


def _service(what: str, name: str, kind: str) -> Check:
    return {"what": what, "name": name, "kind": kind, "served": False, "login": "", "places": [], "missing": []}


def _missing(told: Mapping[str, object]) -> list[str]:
    return [str(one) for one in cast("list[str]", told["missing"])]


async def _board_login(app: App, name: str) -> str:
    return _verdict(await about_board(app, name))


async def _forge_login(app: App, name: str) -> str:
    return _verdict(await about_forge(app, name))


def _verdict(row: Check) -> str:
    if row["missing"]:
        raise ConfigError(f"logged in as {row['login']}, but: {' '.join(row['missing'])}")
    return f"logged in as {row['login']}; nothing is missing"


async def _repo(app: App, name: str) -> str:
    repo, hub = app.repos[name], app.hubs[name]
    await hub.ensure()
    sha = await hub.fetch_base(repo.base)
    pulls = await app.forges[repo.forge].list(repo)
    if not repo.gates.commands:
        raise Warned(
            f"{repo.base} is at {sha[:12]}, but no gate commands are set: work is not tested before its pull request"
        )
    return f"{repo.base} is at {sha[:12]}, pull requests: {len(pulls)}, gate commands: {len(repo.gates.commands)}"


async def _workspaces(app: App) -> AsyncIterator[Check]:
    app.config.workspaces_dir.mkdir(parents=True, exist_ok=True)
    chosen = app.config.workspace
    proofs = await workspace.prove(app.config.workspaces_dir)
    if chosen == "auto":
        chosen = next((p.kind for p in proofs if p.works), "checkout")
    for proof in proofs:
        works = proof.works or proof.kind != chosen
        evidence = f"{proof.evidence} ({proof.milliseconds:.0f} ms)" + (", used" if proof.kind == chosen else "")
        yield {"check": ("ok" if proof.works else "-") if works else "FAIL", "what": f"workspace {proof.kind}",
               "evidence": evidence, "seconds": round(proof.milliseconds / 1000, 2)}  # fmt: skip


async def _agent(app: App, name: str) -> str:
    """Launch the agent exactly as a run does, in a scratch workspace of the first repository."""
    agent, repo = app.agents[name], next(iter(app.config.repos))
    hub, root, key = app.hubs[repo.name], app.config.workspaces_dir, f"doctor-{uuid.uuid4().hex[:8]}"
    kind = app.config.workspace if app.config.workspace != "auto" else await workspace.choose(root)
    await hub.ensure()
    made = await workspace.ensure(hub, root, key, f"nightcrew/{key}", await hub.fetch_base(repo.base), kind=kind)
    scratch = app.config.state_dir / "doctor" / key
    try:
        return await _launched(app, agent, made.path, scratch)
    finally:
        await workspace.discard(hub, root, made.path)
        shutil.rmtree(scratch, ignore_errors=True)


def lanes_of(app: App) -> dict[str, list[str]]:
    """Each configured lane with the names of its agents."""
    lanes: dict[str, list[str]] = {}
    for name, agent in app.agents.items():
        lanes.setdefault(agent.seat.lane, []).append(name)
    return lanes


async def _login(app: App, lane: str) -> str:
    """The lane's login, as far as it can be told without a call; and that no other lane uses a copy of it."""
    now, lanes = datetime.now().astimezone(), lanes_of(app)
    logins = {name: agent.login(now) for name, agent in app.agents.items()}
    ours = [logins[name] for name in lanes[lane]]
    if bad := [login for login in ours if not login.ok]:
        if all(login.kind == "none" for login in bad):  # there are logins that only the agent knows of
            raise Warned(bad[0].says)
        raise ConfigError(bad[0].says)
    words = {login.same for login in ours if login.same}
    theirs = [f"lane {other} ({logins[name].says})" for other, names in lanes.items() if other != lane
              for name in names if logins[name].same in words]  # fmt: skip
    if theirs:
        raise Warned(f"{ours[0].says}: the same login as {theirs[0]}. {COPIES}")
    if len(places := dict.fromkeys(login.says for login in ours)) > len(words) > 0:
        raise Warned(f"{', and '.join(places)}: copies of one login. {COPIES}")
    if warnings := [login.warns for login in ours if login.warns]:
        raise Warned(warnings[0])
    return f"{ours[0].says} (agents: {', '.join(lanes[lane])})"


COPIES = "Copies log one another out: give both agents the same account and config_dir."


async def _launched(app: App, agent: Agent, tree: Path, scratch: Path) -> str:
    seconds, ending = await asked(app, agent, tree, scratch)
    if ending.outcome is not Outcome.DONE:
        raise ConfigError(f"{ending.outcome}: {ending.evidence}", hint=HINTS.get(ending.outcome, ""))
    answer = f"said {ending.said[:40]!r}" if ending.said else "said nothing, and ended well"
    return f"{answer} after {seconds:.1f} s as {ending.model or 'its default model'}"


async def asked(app: App, agent: Agent, tree: Path, scratch: Path) -> tuple[float, Ending]:
    """One cheap call, made as a run makes it, by the cheapest model; how many seconds it took, and how it ended."""
    scratch.mkdir(parents=True)
    task = Task(tree, PROMPT, scratch, str(uuid.uuid4()), model=agent.models[0] if agent.models else "")
    launch = agent.launch(task)
    budget = replace(Budget(), seconds=180.0, stall_seconds=120.0)
    heard = await session.run_session(
        launch, tree, proc.base_env(), f"{app.crew_id}:{scratch.name}:", scratch, budget, session.Live()
    )
    return heard.seconds, session.read_ending(agent, heard, datetime.now().astimezone())


HINTS: dict[Outcome, str] = {
    Outcome.LOGGED_OUT: "`nightcrew lanes` names its lane: `nightcrew lanes login LANE`, then this again.",
    Outcome.OUT_OF_CREDIT: "Add credit, or choose another agent in nightcrew.toml.",
    Outcome.RATE_LIMITED: "The login works; the account is at its limit now.",
    Outcome.MISCONFIGURED: "Correct the agent's table in nightcrew.toml.",
}
