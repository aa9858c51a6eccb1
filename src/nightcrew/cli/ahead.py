"""Look at the boards as the first look of a night would, and write nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from nightcrew.app import App
from nightcrew.core import schedule
from nightcrew.core.model import PullRequest, Repo, Run, RunState, Ticket, TicketState, branch_for
from nightcrew.ports import Board, Previewing, Scan, Served, ServedForge
from nightcrew.setup.preview import Known, Preview
from nightcrew.setup.preview import preview as foreseen
from nightcrew.store import HEAD, Store, engine_for
from nightcrew.transport import Service

SHOWN = {state.value: shown.value for state, shown in schedule.SHOWN.items()}
ACTIVE = frozenset({RunState.QUEUED, RunState.WORKING, RunState.UNROUTED})


@dataclass(frozen=True)
class Ahead:
    """What a night would do with these boards, what of them cannot be read, and the requests it cost by service."""

    boards: tuple[str, ...]
    preview: Preview
    problems: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, Counter[str]] = field(default_factory=dict)
    untold: tuple[str, ...] = ()  # boards that do not tell what their selection leaves out, though they were asked


async def look(app: App, names: Sequence[str], *, everything: bool = False) -> Ahead:
    """Read these boards, and the forges' open pull requests; with `everything` what the selections leave out too.

    Raises BoardError or ForgeError.
    """
    scans = {name: await app.boards[name].scan() for name in names}
    store = opened(app)
    view = await _view(app, scans, store)
    now, policy = datetime.now(UTC), app.config.policy
    held = store.get("held", {}) or {} if store and app.running() else {}
    others = [ticket for name in names if everything for ticket in await _considered(app, name)]
    twins = await _twins(app, foreseen(view, now, policy), {run.id: run for run in view.runs})
    found = foreseen(view, now, policy, Known(twins, held), others)
    ours = Preview(tuple(one for one in found.taken if one.ticket.board in names),
                   tuple(one for one in found.left_out if one.ticket.board in names))  # fmt: skip
    problems = {problem.where: problem.message for scan in scans.values() for problem in scan.problems}
    untold = tuple(name for name in names if everything and _silent(app.boards[name]))
    return Ahead(tuple(names), ours, problems, _requests(app, names), untold)


def opened(app: App) -> Store | None:
    """Our rows as they are, None when there are none yet: nothing is made or migrated for a look."""
    url, state = app.config.database_url.reveal(), app.config.state_dir
    if not url and not (state / "nightcrew.sqlite").is_file():
        return None
    store = Store(engine_for(url, state))
    return store if store.version() == HEAD else None


async def _view(app: App, scans: Mapping[str, Scan], store: Store | None) -> schedule.View:
    """What the director would see at its first look."""
    from nightcrew.node import capabilities  # noqa: PLC0415 - takes a while to import

    tickets = tuple(ticket for scan in scans.values() for ticket in scan.tickets)
    runs = store.watched({schedule.run_id(ticket) for ticket in tickets}, SHOWN) if store else []
    finished, gone = await _look_up(app, scans, runs)
    view = schedule.View(
        tickets=tickets, runs=tuple(runs), repos=app.config.repos, agents=app.config.agents_order,
        ladders={name: agent.models for name, agent in app.agents.items()},
        seats={name: agent.seat for name, agent in app.agents.items()},
        finished=finished, gone=gone, capabilities=capabilities(app.config.policy),
    )  # fmt: skip
    if store is None:
        return view
    paused = bool(store.get("paused", False))
    return replace(view, attempts=tuple(store.open_attempts()), lanes=store.lanes(), paused=paused)


async def _look_up(app: App, scans: Mapping[str, Scan],
                   runs: Iterable[Run]) -> tuple[frozenset[str], dict[str, str]]:  # fmt: skip
    """As the director does: which blockers are done, and why tickets that were taken up left the board."""
    from nightcrew.stages.intake import gone  # noqa: PLC0415

    there = {ticket.id for scan in scans.values() for ticket in scan.tickets}
    done, left = set[str](), dict[str, str]()
    for name, scan in scans.items():
        missing = [run for run in runs if run.board == name and run.ticket_id not in there and run.state in ACTIVE]
        words = {word for ticket in scan.tickets for word in ticket.blocked_by} - there
        if asked := [*(run.ticket_id for run in missing), *sorted(words)]:
            found = {ticket.id: ticket for ticket in await app.boards[name].fetch(asked)}
            done |= {word for t in found.values() if t.state is TicketState.DONE for word in (t.id, t.key)}
            left |= {r.ticket_id: why for r in missing if (why := gone(found.get(r.ticket_id), r, schedule.WORKABLE))}
    return frozenset(done), left


async def _considered(app: App, name: str) -> list[Ticket]:
    board = app.boards[name]
    return await board.considered() if isinstance(board, Previewing) else []


async def _twins(app: App, found: Preview, runs: Mapping[str, Run]) -> dict[str, str]:
    """Open pull requests of others for tickets that would start, by run: such a ticket is left to its pull request."""
    from nightcrew.stages.intake import is_for  # noqa: PLC0415

    twins: dict[str, str] = {}
    for repo in app.repos.values():
        asked = [one.ticket for one in found.taken if one.repo == repo.name and not _begun(one.ticket, runs)]
        pulls = [pull for pull in await _pulls(app, repo, bool(asked)) if pull.state == "open"]
        for ticket in asked:
            name = schedule.run_id(ticket)
            ours = runs[name].branch if name in runs else branch_for(ticket.board, ticket.id, ticket.key)
            if twin := next((pull for pull in pulls if pull.branch != ours and is_for(pull, ticket)), None):
                twins[name] = twin.url
    return twins


def _silent(board: Board) -> bool:
    return isinstance(board, Served) and not isinstance(board, Previewing)


def _begun(ticket: Ticket, runs: Mapping[str, Run]) -> bool:
    run = runs.get(schedule.run_id(ticket))
    return run is not None and (bool(run.pull_request) or run.state is RunState.WORKING)


async def _pulls(app: App, repo: Repo, wanted: bool) -> list[PullRequest]:
    """None of a forge on this machine: nobody else opens any there."""
    forge = app.forges[repo.forge]
    return await forge.list(repo) if wanted and isinstance(forge, ServedForge) else []


def _requests(app: App, names: Sequence[str]) -> dict[str, Counter[str]]:
    """What was sent, by service; a board and a forge of one service are counted together."""
    used = [*(app.boards[name] for name in names), *app.forges.values()]
    services = [found for one in used if isinstance(found := getattr(one, "service", None), Service)]
    counts: dict[str, Counter[str]] = {}
    for service in services:
        counts.setdefault(service.name, Counter()).update(service.counts)
    return counts
