"""Pull requests of one repository are merged in order, and brought in line with their base one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from nightcrew.core import radar
from nightcrew.core.followup import Cause, Did, Reaction
from nightcrew.core.model import Run, RunState
from nightcrew.core.view import View

REBASE = frozenset({Cause.CONFLICT, Cause.BEHIND})
LAST = datetime.max.replace(tzinfo=UTC)


def not_now(view: View, wanted: Mapping[str, Reaction]) -> dict[str, frozenset[Cause]]:
    """Which causes have to wait, by run, when `wanted` is what would be done about each pull request by itself.

    Only the next in line is brought in line with its base, and none while that goes on for another; of pull requests
    that conflict with each other, the one that comes first is merged first.
    """
    held: dict[str, frozenset[Cause]] = {}
    for repo in {run.repo for run in view.runs if run.id in wanted}:
        able = {run.id for run in view.runs if run.repo == repo and _cause(wanted, run) in REBASE}
        merging = {run.id for run in view.runs if run.repo == repo and _merges(view, wanted, run)}
        if not able and len(merging) < 2:
            continue
        order, conflicts = in_line(view, repo), view.conflicts.get(repo, radar.Conflicts())
        turn = "" if _going_on(view, repo) else radar.next_to_rebase(order, view.standings, conflicts, able)
        held |= {run_id: REBASE for run_id in able if run_id != turn}
        for run_id in merging:
            first = radar.may_merge(run_id, order, view.standings, conflicts, merging)
            if not first and run_id in wanted and wanted[run_id].did is Did.MERGE:
                held[run_id] = frozenset({Cause.READY})
    return held


def in_line(view: View, repo: str) -> list[str]:
    """The runs whose pull requests are open in a repository, in the order to merge them."""
    runs = [run for run in view.runs if run.repo == repo and run.id in view.standings]
    runs.sort(key=lambda run: (run.created_at or LAST, run.pull_request, run.id))
    return radar.line({run.id: view.standings[run.id] for run in runs}, view.conflicts.get(repo, radar.Conflicts()))


def _cause(wanted: Mapping[str, Reaction], run: Run) -> Cause | None:
    return wanted[run.id].cause if run.id in wanted else None


def _merges(view: View, wanted: Mapping[str, Reaction], run: Run) -> bool:
    standing = view.standings.get(run.id)
    now = run.id in wanted and wanted[run.id].did is Did.MERGE
    return standing is not None and (now or standing.merging)


def _going_on(view: View, repo: str) -> bool:
    """Whether one is being brought in line now, or how it stands after what was done about it is not seen yet."""
    return any(_at_it(view, run) for run in view.runs if run.repo == repo and run.pull_request)


def _at_it(view: View, run: Run) -> bool:
    standing = view.standings.get(run.id)
    seen = standing is not None or (run.repo, run.branch) in view.pulls
    if run.state is RunState.IN_REVIEW:  # what was begun for it may be on its way
        needs = standing is not None and (standing.behind or standing.mergeable is False)
        return not seen or (needs and run.id in view.busy)
    if run.state not in (RunState.QUEUED, RunState.WORKING):
        return False
    return not seen or next(_sent(view, run), None) is Cause.CONFLICT


def _sent(view: View, run: Run) -> Iterator[Cause]:
    """What agents were sent for, the last one first."""
    past = sorted(view.past.get(run.id, ()), key=lambda one: one.at, reverse=True)
    return (one.cause for one in past if one.did is Did.AGENT and one.pull == run.pull_request)
