"""What people read: the pull request's text and the night's report. Pure: the same facts, the same page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from nightcrew.core.model import OUT, Attempt, GateResult, Lane, PullRequest, Repo, Run, RunState, Ticket, Usage

MARKER = "<!-- nightcrew ticket={run} -->"


def pull_request_title(ticket: Ticket | Run) -> str:
    """One line, the key first; control characters of the ticket's title are gone."""
    return f"{plain(ticket.key, 60)}: {plain(ticket.title, 180)}"


def pull_request_body(
    ticket: Ticket,
    repo: Repo,
    run: Run,
    attempts: Sequence[Attempt],
    gates: Sequence[GateResult],
    commits: Sequence[str],
    earlier: PullRequest | None = None,
) -> str:
    """What was asked, what was done, the gates with their evidence, cost, and how to see it for oneself.

    `earlier` is the pull request that ended before the ticket was opened again.
    """
    again = f"The ticket was opened again after #{earlier.number} was {earlier.state}." if earlier else ""
    total = sum((a.usage for a in attempts), Usage())
    parts = [
        MARKER.format(run=plain(run.id, 200).replace("-->", "")),
        *([again] if again else []),
        f"## What was asked\n\n{quoted(f'{ticket.key}: {ticket.title}' + chr(10) * 2 + ticket.body)}",
        "## What was done\n\n" + ("\n".join(f"- {plain(c, 200)}" for c in commits) or "- no commits"),
        "## Gates\n\n" + gates_table(gates),
        "## Attempts\n\n" + attempts_table(attempts),
        f"Cost: {money(total)}, {tokens(total)}.",
        "## How to reproduce\n\n```sh\n" + "\n".join(
            [f"git fetch {repo.url} {run.branch}", "git checkout FETCH_HEAD", *repo.gates.commands]) + "\n```",
        *([plain(ticket.closes, 300)] if ticket.closes else []),
        "Written by an agent under nightcrew; no person has read it yet.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def gates_table(gates: Sequence[GateResult]) -> str:
    """The gates as Markdown, each with the evidence it rests on."""
    if not gates:
        return "none were run"
    rows = [
        f"| {g.gate} | {'passed' if g.passed else 'refused'} | {plain(g.summary, 160)} | {g.seconds:.1f} s |"
        for g in gates
    ]
    table = "\n".join(["| gate | verdict | why | time |", "|---|---|---|---|", *(r.replace("\n", " ") for r in rows)])
    proofs = [
        f"<details><summary>{g.gate}</summary>\n\n{fenced(g.evidence[-6000:])}\n\n</details>"
        for g in gates
        if g.evidence
    ]
    return "\n\n".join([table, *proofs])


def attempts_table(attempts: Sequence[Attempt]) -> str:
    """The attempts as Markdown: agent, model, how each ended."""
    rows = [
        f"| {a.number} | {plain(a.agent, 30)} | {plain(a.reported_model or a.model or 'default', 40)} "
        f"| {a.outcome or a.phase} | {tokens(a.usage)} |"
        for a in attempts
    ]
    return "\n".join(["| # | agent | model | outcome | tokens |", "|---|---|---|---|---|", *rows])


def night_report(
    runs: Sequence[Run], attempts: Sequence[Attempt], since: datetime, until: datetime, lanes: Iterable[Lane] = ()
) -> str:
    """The morning's page: what was opened, what needs a person, what the night cost."""
    total = sum((a.usage for a in attempts), Usage())
    spent = sum(max(a.usage.money, a.cost) for a in attempts)
    opened = [r for r in runs if r.pull_request]
    need = [r for r in runs if r.state in (RunState.BLOCKED, RunState.FAILED, RunState.UNROUTED)]
    rest = [r for r in runs if r not in opened and r not in need]
    outcomes = Counter(a.outcome or a.phase for a in attempts)
    out = [f"- lane {lane.name}: {lane.state.replace('_', ' ')}, {plain(lane.evidence, 200)}"
           for lane in lanes if lane.state in OUT]  # fmt: skip
    lines = [
        f"# Night of {since:%Y-%m-%d}",
        f"{since:%H:%M} to {until:%H:%M} UTC: {len(runs)} tickets, {len(opened)} pull requests, "
        f"{len(attempts)} attempts, "
        f"{money(replace(total, money=spent))}, {tokens(total)}.",
        "## Pull requests",
        "\n".join(f"- {_named(r)} ({r.repo} #{r.pull_request}, {r.state})" for r in opened) or "None.",
        "## Needs you",
        "\n".join([*out, *(f"- {_named(r)}: {r.state}, {plain(r.reason, 200)}" for r in need)]) or "Nothing.",
        "## The rest",
        "\n".join(f"- {_named(r)}: {r.state}, {plain(r.reason, 200)}" for r in rest) or "None.",
        "## How attempts ended",
        "\n".join(f"- {name}: {n}" for name, n in outcomes.most_common()) or "None.",
    ]  # fmt: skip
    return "\n\n".join(lines) + "\n"


def _named(run: Run) -> str:
    return f"{plain(run.key, 40)} {plain(run.title, 90)}"


def money(usage: Usage) -> str:
    """Dollars as the agents reported them; an agent that reports none costs "not known", never "$0.00"."""
    return f"${usage.money:.2f}" if usage.money else "cost not known"


def tokens(usage: Usage) -> str:
    return f"{usage.tokens:,} tokens"


def plain(text: str, limit: int) -> str:
    """Untrusted text on one line: no control characters, no table breaks, no HTML comments."""
    flat = re.sub(r"[\x00-\x1f\x7f\u2028\u2029|]+", " ", text).replace("<!--", "<!- -").replace("-->", "- ->").strip()
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def quoted(text: str) -> str:
    """Untrusted text as a Markdown quotation, so that nothing in it ends the section; mentions are inert."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", text[:20_000]).replace("<!--", "<!- -").replace("-->", "- ->")
    return "\n".join(f"> {line}" for line in re.sub(r"@(?=\w)", "@\u200b", text).splitlines())


def fenced(text: str) -> str:
    """Output as a code block with a fence longer than any in it."""
    longest = max((len(m) for m in re.findall(r"`{3,}", text)), default=2)
    mark = "`" * (longest + 1)
    return f"{mark}\n{text.strip()}\n{mark}"
