"""The gates of one attempt, put together: which run, on what tree, with which reviewer."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from nightcrew import proc
from nightcrew.core.model import Attempt, GateResult, Repo, Run, Usage
from nightcrew.core.outcome import RULES, Ending, LaneEffect, Outcome
from nightcrew.crew import Crew, sentence
from nightcrew.errors import NightcrewError
from nightcrew.ports import Launch, Task
from nightcrew.stages import gates, workspace
from nightcrew.stages.session import Heard, Live, read_ending, run_session
from nightcrew.steps import Checked


class Checks:
    """The gates of one attempt on the work in `tree`. `usage` is what the reviewer used; who ends `live` ends it."""

    def __init__(
        self, crew: Crew, run: Run, attempt: Attempt, repo: Repo, tree: Path, folder: Path, mark: str, live: Live
    ) -> None:
        self.crew, self.run_of, self.repo, self.tree, self.folder, self.mark = crew, run, repo, tree, folder, mark
        self.attempt, self.live = attempt, live
        self.hub = crew.hubs[run.repo]
        self.usage = Usage()

    async def run(self, base_sha: str, head: str) -> Checked:
        """What the gates say; where the reviewer could not be asked, why, and whose trouble that is."""
        try:
            return Checked(head, await self._all(base_sha, head), usage=self.usage)
        except gates.GateUnavailable as error:
            return replace(self._unchecked(error, head), usage=self.usage)

    def _unchecked(self, error: gates.GateUnavailable, head: str) -> Checked:
        """A reviewer that is limited or logged out is its lane's trouble; any other is tried again after a pause."""
        told, problem = error.ending, sentence(error)
        if told.outcome in (Outcome.TOKEN_CAP, Outcome.MONEY_CAP, Outcome.CANCELLED):  # we ended it
            return Checked(head, (), told.evidence, told.outcome.value, cap=told.cap)
        if RULES[told.outcome].lane in (LaneEffect.NONE, LaneEffect.COUNT):
            return Checked(head, problem=problem)
        lane = self.crew.seats[self.repo.gates.review].lane
        return Checked(head, (), problem, told.outcome.value, lane, told.resets_at)

    async def _all(self, base_sha: str, head: str) -> tuple[GateResult, ...]:
        """The repository's gates in its order, up to the first that refuses; the review only where one is asked for."""
        repo, hub = self.repo, self.hub

        async def taken(patch_id: str) -> str:
            return self.crew.store.patch_owner(repo.name, patch_id, self.run_of.id)

        async def commands() -> GateResult:
            return await gates.commands(
                hub, base_sha, head, repo.gates, make_tree=self._fresh_tree, env=proc.base_env(),
                log_dir=self.folder / "gates", mark=self.mark + "gate:",
            )  # fmt: skip

        order = [gate for gate in repo.gates.order if gate != "review" or repo.gates.review]
        return await gates.run_all(order, {
            "changed": lambda: gates.changed(hub, base_sha, head, taken),
            "scope": lambda: gates.scope(hub, base_sha, head, repo.gates),
            "commands": commands, "review": lambda: self._review(base_sha, head),
        })  # fmt: skip

    @asynccontextmanager
    async def _fresh_tree(self, sha: str) -> AsyncIterator[Path]:
        """A fresh tree of that commit, so that what the agent left lying about proves nothing."""
        root, name = self.crew.workspaces, self.run_of.branch.rpartition("/")[2]
        tree = root / f"{name}-gate"
        await workspace.discard(self.hub, root, tree)  # a kill may have left one of another commit
        base_sha = await self.hub.sha(f"refs/remotes/origin/{self.repo.base}") or sha
        made = await workspace.ensure(
            self.hub, root, tree.name, f"gate/{name}", base_sha, kind=self.crew.kind, start=sha, keep=False
        )  # fmt: skip
        try:
            await run_hook("after_create", self.repo, made.path, self.run_of.key, self.mark)
            yield made.path
        finally:
            await workspace.discard(self.hub, root, made.path)

    async def _review(self, base_sha: str, head: str) -> GateResult:
        run, attempts = self.run_of, self.crew.store.attempts_of(self.run_of.id)
        rounds = sum(not g.passed and g.gate == "review" for a in attempts for g in a.gates)
        found = await self.crew.boards[run.board].fetch([run.ticket_id])
        if not found:
            raise NightcrewError(f"{run.key} is not on the board any more.")
        diff = await self.hub.diff(base_sha, head)
        return await gates.review(self._reviewer(), found[0], diff, rounds, self.repo.gates)

    def _reviewer(self) -> Callable[[str, Mapping[str, object]], Awaitable[Ending]]:
        async def ask(text: str, schema: Mapping[str, object]) -> Ending:
            agent, scratch = self.crew.agents[self.repo.gates.review], self.folder / f"review-{uuid.uuid4().hex[:6]}"
            scratch.mkdir(parents=True)
            task = Task(self.tree, text, scratch, str(uuid.uuid4()), read_only=True, schema=schema,
                        model=agent.models[-1] if agent.models else "")  # fmt: skip
            heard = await self._watched(agent.launch(task), task)
            ending = replace(read_ending(agent, heard, self.crew.now().astimezone()), cap=heard.cap)
            self.usage += ending.usage
            return ending

        return ask

    async def _watched(self, launch: Launch, task: Task) -> Heard:
        """The review, counted on from what the worker used, against every cap; it is booked where the worker is."""
        run, meter = self.run_of, self.crew.meter
        meter.open(run, replace(self.attempt, agent=self.repo.gates.review, model=task.model), self.attempt.usage)
        try:
            with self.live.leading(Live()) as live:
                return await run_session(
                    launch, task.workspace, proc.base_env(), self.mark + "review:", task.scratch,
                    replace(self.crew.policy.budget, idle_turns=0), live,  # a review changes nothing
                    lambda progress: meter.hear(run.id, progress),
                )  # fmt: skip
        finally:
            meter.close(run.id)


async def run_hook(name: str, repo: Repo, tree: Path, key: str, mark: str) -> None:
    """Run the owner's hook of that name in `tree`, if there is one. Raises HookFailed."""
    script = getattr(repo.hooks, name)
    if script:
        await workspace.run_hook(script, tree, {}, repo.hooks.timeout, name=name, ticket=key, mark=mark + "hook:")
