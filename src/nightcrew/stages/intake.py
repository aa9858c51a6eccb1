"""Intake: is this ticket still to be worked, and has anybody opened a pull request for it? Asked on fresh data (I1)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from nightcrew.core.model import PullRequest, Repo, Run, Ticket, TicketState, branch_for
from nightcrew.errors import NightcrewError
from nightcrew.ports import Forge

CYCLES = 50  # reopened so often, a ticket is looked at by a person
FOUND = ("branch", "cycle", "pull_request", "url")
"""What of a run may be found to be another than was known."""
_CLOSES = r"\b(?:close[sd]?|fix(?:e[sd])?|resolve[sd]?)\s*:?\s+"


class Gone(NightcrewError):
    """The ticket is not to be worked any more."""


@dataclass(frozen=True)
class Intake:
    """What was found. `twin`: why it is left to another pull request, "" when to none. `over`: how its own ended.

    `run` is the run as it has to go on: with its open pull request where one is known to the forge alone, on the branch
    of a later cycle where the ticket was opened again after its pull request ended.
    """

    run: Run
    twin: str = ""
    over: str = ""


def gone(ticket: Ticket | None, run: Run, workable: Collection[TicketState]) -> str:
    """Why the ticket is not to be worked (any more), "" when it is. What we ourselves showed is no reason."""
    if ticket is None:
        return "the ticket left the board"
    if ticket.state not in workable and ticket.state.value != run.shown:
        return f"a person moved the ticket to {ticket.state}"
    return f"the ticket is not for us any more: {ticket.left}" if ticket.left else ""


async def look(ticket: Ticket, run: Run, forge: Forge, repo: Repo, told: Collection[str] = ()) -> Intake:
    """Look for pull requests of the ticket, by branch, hidden mark, closing keyword and what the board links.

    `told` is what earlier attempts ended with: a merged one that was named there is no reason a second time.
    Raises ForgeError when the forge cannot be asked.
    """
    for _ in range(CYCLES):
        found = await forge.find(repo, run.branch)
        if found is None:
            break
        known = replace(run, pull_request=found.number, url=found.url)
        if found.state == "open":
            return Intake(known)
        if run.pull_request or run.pending_head:  # by the latter: we opened it, and have not heard that we did
            return Intake(known, over=f"a person {'merged' if found.state == 'merged' else 'closed'} the pull request")
        branch = branch_for(run.board, run.ticket_id, run.key, run.cycle + 1)
        run = replace(run, cycle=run.cycle + 1, branch=branch)
    return Intake(run, twin=_twin([pull for pull in await forge.list(repo) if is_for(pull, ticket)], run, told))


def _twin(pulls: Sequence[PullRequest], run: Run, told: Collection[str]) -> str:
    if others := [pull for pull in pulls if pull.state == "open" and pull.branch != run.branch]:
        return f"{others[0].url} is open for this ticket already; it is left to that pull request."
    own = {branch_for(run.board, run.ticket_id, run.key, cycle) for cycle in range(run.cycle + 1)}
    merged = (pull.url for pull in pulls if pull.state == "merged" and pull.branch not in own)
    if url := next((url for url in merged if not any(url in words for words in told)), ""):
        return f"{url} is merged for this ticket already; `nightcrew retry` works it if there is more to do."
    return ""


async def earlier(run: Run, forge: Forge, repo: Repo) -> PullRequest | None:
    """The pull request that ended before the ticket was opened again, None when it never was."""
    if not run.cycle:
        return None
    return await forge.find(repo, branch_for(run.board, run.ticket_id, run.key, run.cycle - 1))


def is_for(pull: PullRequest, ticket: Ticket) -> bool:
    """Whether a pull request says that it is for the ticket: by our mark, or as people say it."""
    if pull.url and pull.url in ticket.links:
        return True
    if re.search(rf"<!-- nightcrew ticket=[^\s>]*:{re.escape(ticket.id)} -->", pull.body):
        return True
    name = ticket.closes.partition(" ")[2]
    if not name:
        return False
    here = "#" in name and f"/{name.partition('#')[0]}/".lower() in pull.url.lower()
    short = re.escape(name[name.index("#") :]) if here else "(?!)"
    whole = re.escape(ticket.url) if ticket.url else "(?!)"
    return bool(re.search(rf"{_CLOSES}(?:{re.escape(name)}|{short}|{whole})(?!\w)", pull.body, re.I))
