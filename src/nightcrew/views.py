"""What the command line, and later the API and the dashboard, all show: plain JSON-like rows. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from nightcrew.core.liveness import Life
from nightcrew.core.model import OUT, Attempt, Lane, PullRequest, Run, RunState
from nightcrew.core.report import plain
from nightcrew.core.route import wish

FREE, UP = "waits for a free slot", "waits for `nightcrew up`"
ORDER = {RunState.WORKING: 0, RunState.QUEUED: 1, RunState.BLOCKED: 2, RunState.FAILED: 3, RunState.UNROUTED: 4}

DOES = {
    Life.TOOL.value: "waits for a tool", Life.MODEL.value: "waits for the model", Life.ZOMBIE.value: "dead",
    Life.PROMPT.value: "waits at a dialog", Life.SILENT.value: "silent", Life.DEAD.value: "dead",
}  # fmt: skip


def status_rows(
    runs: Sequence[Run], open_attempts: Sequence[Attempt], lanes: Mapping[str, Lane], now: datetime,
    agents: Collection[str], repos: Collection[str], held: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per run: what it is doing, and the evidence that it is. `agents` and `repos` are those configured.

    `held` says, by run id, why the director starts nothing more; None while none is up.
    """
    live = {a.run_id: a for a in open_attempts if a.phase != "ended"}
    rows = [_row(run, live.get(run.id), lanes, now) for run in runs]
    for run, row in zip(runs, rows, strict=True):
        if run.state is RunState.QUEUED and run.id not in live:
            row["doing"] = plain(held.get(run.id, row["doing"]), 400) if held is not None else row["doing"]
            row["doing"] = UP if held is None and row["doing"] == FREE else row["doing"]
    for run, row in zip(runs, rows, strict=True):
        row["doing"] = _waits_in_vain(run, agents, repos) or row["doing"]
    return sorted(rows, key=lambda r: (ORDER.get(RunState(r["state"]), 9), r["ticket"]))


def _row(run: Run, attempt: Attempt | None, lanes: Mapping[str, Lane], now: datetime) -> dict[str, Any]:
    return {
        "ticket": run.key, "title": plain(run.title, 200), "repo": run.repo, "state": run.state.value,
        "doing": _doing(run, attempt, lanes, now), "attempts": run.attempts, "consumed": run.consumed,
        "agent": attempt.agent if attempt else run.agent, "model": attempt.model if attempt else "",
        "tokens": (run.usage + attempt.usage).tokens if attempt else run.usage.tokens,
        "money": round(run.usage.money + (attempt.usage.money if attempt else 0), 4),
        "pull_request": run.pull_request or None, "url": run.url or None, "id": run.id,
        "updated_at": run.updated_at.isoformat() if run.updated_at else None,
    }  # fmt: skip


def _waits_in_vain(run: Run, agents: Collection[str], repos: Collection[str]) -> str:
    """Why a queued run will never start as things are configured, "" when it may."""
    if run.state is not RunState.QUEUED:
        return ""
    if (wished := wish(run.labels, "agent")) and wished not in agents:
        return f"its label asks for agent {plain(wished, 60)}, which is not configured: there is {', '.join(agents)}"
    return "" if run.repo in repos else f"repository {plain(run.repo, 60)} is not configured any more"


def _doing(run: Run, attempt: Attempt | None, lanes: Mapping[str, Lane], now: datetime) -> str:
    if attempt:
        return _working(attempt, now)
    if run.state is RunState.IN_REVIEW:
        how = "waits for review" if run.reason in ("", "pull request open") else run.reason
        return f"#{run.pull_request}: {how}"
    if run.state is not RunState.QUEUED:
        return plain(run.reason, 400)
    lane = lanes.get(run.agent)
    if run.not_before and run.not_before > now:
        return f"again in {span(run.not_before, now)}: {plain(run.reason, 400)}"
    if lane and lane.state in OUT:
        return f"lane {lane.name} is {lane.state.value.replace('_', ' ')}: {plain(lane.evidence, 400)}"
    if lane and lane.until and lane.until > now:
        return f"lane {lane.name} is {lane.state} for {span(lane.until, now)}: {plain(lane.evidence, 400)}"
    if run.blocked_by:
        return f"waits for {plain(', '.join(run.blocked_by), 100)} or a free slot"
    return FREE if run.attempts == 0 else f"goes on soon: {plain(run.reason, 400)}"


def _working(attempt: Attempt, now: datetime) -> str:
    what = {"session": "working", "gates": "checking", "publish": "publishing"}.get(attempt.phase, "preparing")
    if attempt.phase == "session" and attempt.heard_at is None and attempt.signs:
        return f"{DOES.get(attempt.liveness, what)}: no event yet ({plain(attempt.signs, 300)})"
    if attempt.phase != "session" or attempt.heard_at is None:
        return f"{what} (attempt {attempt.number})"
    if attempt.liveness in DOES and attempt.signs:
        what = DOES[attempt.liveness]
    heard = f"{plain(attempt.last, 80) or 'no event yet'}, heard {span(now, attempt.heard_at)} ago"
    return f"{what}: {heard}{f' ({plain(attempt.signs, 300)})' if attempt.signs else ''}"


def span(later: datetime, earlier: datetime) -> str:
    """A duration in words: 7 s, 4 min, 3.5 h."""
    seconds = max((later - earlier).total_seconds(), 0)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    """An attempt as `show` tells it, with the gates and their evidence."""
    return {
        "number": attempt.number, "agent": attempt.agent, "model": attempt.reported_model or attempt.model,
        "outcome": attempt.outcome or attempt.phase, "evidence": attempt.evidence, "resumed": attempt.resume,
        "session_id": attempt.session_id, "tokens": attempt.usage.tokens, "money": round(attempt.usage.money, 4),
        "turns": attempt.usage.turns, "processes_ended": attempt.survivors, "liveness": attempt.liveness,
        "signs": attempt.signs, "peak_memory": attempt.peak_memory, "cost": round(attempt.cost, 4),
        "lane": attempt.lane, "log": attempt.log, "head": attempt.head,
        "seconds": (attempt.ended_at - attempt.started_at).total_seconds()
        if attempt.ended_at and attempt.started_at else None,
        "gates": [{"gate": g.gate, "passed": g.passed, "summary": g.summary, "evidence": g.evidence,
                   "seconds": round(g.seconds, 2)} for g in attempt.gates],
    }  # fmt: skip


def pull_row(pull: PullRequest) -> dict[str, Any]:
    """A pull request as `pr list` tells it."""
    return {
        "repo": pull.repo, "number": pull.number, "state": pull.state, "title": pull.title, "branch": pull.branch,
        "base": pull.base, "head": pull.head, "url": pull.url, "changes_requested": bool(pull.changes_requested),
        "created_at": pull.created_at, "merged_sha": pull.merged_sha,
    }  # fmt: skip


def lane_row(lane: Lane) -> dict[str, Any]:
    """A lane, the evidence for its state and when it was told, and its provider's windows. Times are ISO, in UTC."""
    return {
        "lane": lane.name, "state": lane.state.value, "until": lane.until.isoformat() if lane.until else None,
        "evidence": plain(lane.evidence, 400), "told_at": lane.told_at.isoformat() if lane.told_at else None,
        "probe": lane.probe, "failures": lane.failures,
        "windows": [{"name": w.name, "used": round(w.used, 4), "warning": w.warning, "seconds": w.seconds,
                     "resets_at": datetime.fromtimestamp(w.resets_at, UTC).isoformat(),
                     "told_at": datetime.fromtimestamp(w.told_at, UTC).isoformat() if w.told_at else None}
                    for w in lane.windows],
    }  # fmt: skip


def event_line(event: Mapping[str, Any]) -> str:
    """One event on one line, for `logs` and for the running `up`."""
    data = event.get("data") or {}
    told = " ".join(f"{k}={plain(str(v), 160)}" for k, v in data.items() if v not in ("", None, False))
    return f"{str(event['at'])[11:19]} {event['run_id'].partition(':')[2] or '-':14} {event['kind']:18} {told}"
