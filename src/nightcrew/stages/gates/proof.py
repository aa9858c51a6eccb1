"""Words that count only when what they cite is there: an agent's claim to be blocked, a reviewer's findings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nightcrew.core.gate import REVIEW_SCHEMA, contained, judge, name, plain, prove, review_prompt
from nightcrew.core.model import GateResult, GateSettings, Ticket
from nightcrew.core.outcome import Claim, Ending, Outcome
from nightcrew.git import Hub
from nightcrew.stages.gates.verdict import GateUnavailable, failed, passed

MAX_CITED = 16 << 20  # bytes of a cited file that are read


async def evidence(hub: Hub, sha: str, claims: Sequence[Claim]) -> GateResult:
    """Every claim to be blocked holds: the cited line (±3) of the file at commit `sha` is what the claim quotes.

    Ask with the base's sha: in its own commits an agent could write the evidence itself. Never raises for a claim.
    """
    reasons = [await _why_unproven(hub, sha, claim) for claim in claims]
    pairs = zip(claims, reasons, strict=True)
    listed = "\n".join(f"- {name(c.file)}:{c.line}: {why or 'holds'} ({plain(c.reason)[:300]})" for c, why in pairs)
    if not claims:
        return failed("evidence", "it claims to be blocked and cites nothing")
    if wrong := [why for why in reasons if why]:
        return failed("evidence", f"the claim to be blocked is not proven: {'; '.join(wrong[:3])}", listed)
    return passed("evidence", f"{len(claims)} of {len(claims)} claims hold", listed)


async def _why_unproven(hub: Hub, sha: str, claim: Claim) -> str:
    path = claim.file.removeprefix("./")
    data = await hub.show(sha, path, MAX_CITED) if contained(path) else None
    if data is None:
        return prove(claim, None)
    # An old file may be in another encoding than the one the agent's tools assumed.
    reasons = [prove(claim, data.decode(encoding, "replace")) for encoding in ("utf-8-sig", "latin-1")]
    return "" if "" in reasons else reasons[0]


async def review(
    launch_review: Callable[[str, Mapping[str, Any]], Awaitable[Ending]],
    ticket: Ticket,
    diff: str,
    round: int,  # noqa: A002 - what it is
    settings: GateSettings,
) -> GateResult:
    """Another agent has no proven, blocking finding. Off unless `settings.review` names an agent.

    `round` is how often a review has sent this ticket's work back; from `settings.review_rounds` on, findings are only
    listed and the work passes. A finding counts when its file and line are in `diff`. Raises GateUnavailable with the
    reviewer's ending when it gave no findings (a rate limit, a crash): that is neither a pass nor a refusal.
    """
    if not settings.review:
        return passed("review", "review is off")
    ending = await launch_review(review_prompt(ticket, diff), REVIEW_SCHEMA)
    if ending.outcome is not Outcome.DONE:
        raise GateUnavailable("review", ending)
    if ending.findings is None:
        said = "the reviewer did not answer with findings"
        raise GateUnavailable("review", replace(ending, outcome=Outcome.AGENT_ERROR, evidence=said))
    found = judge(ending.findings, diff)
    told = f"{len(found.blocking)} blocking, {len(found.noted)} noted, {len(found.unproven)} not proven"
    if found.blocking and round < settings.review_rounds:
        return failed("review", f"the reviewer refuses the change: {told}", found.text())
    last = f" after {round} rounds: passed on to people" if found.blocking else ""
    return passed("review", f"{told}{last}", found.text())
