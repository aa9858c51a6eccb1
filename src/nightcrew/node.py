"""A node's own chores beside the attempts: progress written down, workspaces removed when nobody needs them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from nightcrew.core.model import Repo, Run
from nightcrew.crew import INFRA, Crew
from nightcrew.errors import NightcrewError
from nightcrew.git import rescue_ref
from nightcrew.stages import workspace

FLUSH_EVERY = 1.0


async def flush(crew: Crew) -> None:
    """Write the progress of all sessions, one transaction a second; an idle crew writes nothing."""
    seen: dict[str, int] = {}
    while True:
        await asyncio.sleep(FLUSH_EVERY)
        if rows := list(crew.progress(seen)):
            with suppress(NightcrewError):
                crew.store.update_attempts(rows)


async def clean(crew: Crew, run: Run) -> None:
    """Remove the run's workspace; what is only there goes to a rescue ref first (I2)."""
    name = run.branch.rpartition("/")[2]
    repo = crew.repos.get(run.repo)
    if repo is None:
        return  # its hub is unknown now: nothing is removed
    hub, tree = crew.hubs[run.repo], Path(run.workspace)
    pushed = await hub.sha(f"refs/nightcrew/done/{name}") if run.pull_request else None
    if repo.hooks.before_remove and tree.exists():
        await _before_remove(crew, run, repo, tree)
    ref = rescue_ref(name, str(run.attempts))
    async with crew.cleaning:
        saved = await workspace.remove(hub, crew.workspaces, tree, ref, [pushed] if pushed else [])
    if saved:
        crew.store.event("rescued", run.id, ref=ref, sha=saved)
    crew.store.set_run(run.id, workspace="")


async def _before_remove(crew: Crew, run: Run, repo: Repo, tree: Path) -> None:
    hooks = repo.hooks
    try:
        await workspace.run_hook(hooks.before_remove, tree, {}, hooks.timeout, name="before_remove", ticket=run.key,
                                 mark=f"{crew.mark}{run.branch}:clean:")  # fmt: skip
    except INFRA as error:  # as in Symphony: logged, never fatal
        crew.store.event("hook.failed", run.id, hook="before_remove", error=str(error))
