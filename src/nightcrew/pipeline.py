"""One attempt, top to bottom: prepare -> session -> gates -> publish -> record. Each stage is a durable step."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from nightcrew import proc, tries
from nightcrew.checks import Checks, run_hook
from nightcrew.core import lanes, prompt, report
from nightcrew.core.lifecycle import first_line, pushed_head
from nightcrew.core.model import STARTING, Attempt, LaneState, Repo, Run, Ticket, Usage
from nightcrew.core.outcome import RULES, Ending, Next, Outcome, Stop
from nightcrew.core.schedule import WORKABLE
from nightcrew.crew import INFRA, Crew, new_session_id, sentence
from nightcrew.errors import ConfigError, Fenced, NightcrewError
from nightcrew.ports import Progress, Task
from nightcrew.stages import brief, gates, intake, publish, workspace
from nightcrew.stages.session import Live, read_ending, recorded_lines, run_session
from nightcrew.steps import CLAIM, Checked, Prepared, Published

log = logging.getLogger("nightcrew.pipeline")
T = TypeVar("T")
RECORD_AGAIN = 2.0  # seconds


async def run_attempt(crew: Crew, run_id: str, number: int) -> None:
    """Play the attempt to its one outcome and record it, however long the disk is full meanwhile."""
    if crew.store.attempt(run_id, number).phase == "ended":
        return  # recovered, but it was recorded: only the engine could not write that down
    one = AttemptRun(crew, run_id, number)
    try:
        ended = await one.play()
    except Exception as fault:  # also of the engine: an attempt that nobody ends would hang for ever
        log.exception("attempt.broke", extra={"ticket": one.run.key})
        ended = one.broken(fault)
    finally:
        crew.live.pop(run_id, None)
    await one.step("record", lambda: one.record(ended))
    crew.wake()


class AttemptRun:
    """One attempt under way. Every stage is an `ensure`: done again after a kill, it finds its own work."""

    def __init__(self, crew: Crew, run_id: str, number: int) -> None:
        self.crew, self.run_id, self.number = crew, run_id, number
        run = crew.store.named(run_id)
        if run is None:
            raise NightcrewError(f"{run_id}: no such run.")
        self.attempt = crew.store.attempt(run_id, number)
        self.repo = crew.repos[run.repo]
        self.hub = crew.hubs[run.repo]
        self._take(run)
        self.live = crew.live[run_id] = Live()
        crew.numbers[run_id] = number
        if run.stopping:  # ordered before a kill, or before there was a session to end
            self.live.cancel(Outcome.CANCELLED, run.stopping)

    def _take(self, run: Run) -> None:
        """The run as it is now, and the names that follow from its branch."""
        self.run: Run = run
        self.name = run.branch.rpartition("/")[2]
        self.folder = self.crew.home / "attempts" / self.name / str(self.number)
        self.work_ref = f"refs/nightcrew/done/{self.name}"

    async def step(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """A durable step, once started shown as the attempt's phase."""
        return await self.crew.durable.step(name, work)

    def _phase(self, phase: str) -> None:
        self.crew.store.update_attempt(self.run_id, self.number, phase=phase)
        self.attempt = replace(self.attempt, stage=phase)
        if phase == "gates":
            self.crew.wake()  # the slot is free

    async def play(self) -> Attempt:
        """All stages; the first that cannot go on decides the outcome."""
        prepared = await self.step("prepare", self.prepare)
        if prepared.outcome:
            return self._ended(Outcome(prepared.outcome), prepared.problem, stage=prepared.stage)
        ending = await self.step("session", lambda: self.session(prepared))
        self.attempt = replace(
            self.attempt, usage=ending.usage, reported_model=ending.model, session_id=ending.session_id,
            cap=ending.cap, resume=self.attempt.resume or ending.resumed,
        )  # fmt: skip
        checked = await self.step("gates", lambda: self.check(prepared, ending))
        used = self.attempt.usage + checked.usage
        self.attempt = replace(self.attempt, head=checked.head, gates=checked.results, usage=used)
        if early := self._verdict(ending, checked, prepared):
            return early
        published = await self.step("publish", lambda: self.publish(prepared, checked))
        if published.outcome:
            return self._ended(Outcome(published.outcome), published.problem, stage="publish")
        return replace(
            self._ended(Outcome.DONE, "all gates passed", stage="publish"),
            pull_request=published.number, url=published.url,
            patch_id=published.patch_id, duplicate_of=published.duplicate_of,
        )  # fmt: skip

    def _verdict(self, ending: Ending, checked: Checked, prepared: Prepared) -> Attempt | None:
        """The outcome, unless everything holds and the pull request may be opened."""
        if ending.outcome not in (Outcome.DONE, Outcome.BLOCKED):
            stage = "session" if ending.started else STARTING
            return replace(self._ended(ending.outcome, ending.evidence, stage=stage), resets_at=ending.resets_at)
        if checked.problem:
            ended = self._ended(Outcome(checked.outcome), checked.problem, stage="gates")
            return replace(ended, resets_at=checked.resets_at, lane=checked.lane or ended.lane, cap=checked.cap)
        twin = next((r.duplicate_of for r in checked.results if r.duplicate_of), "")
        if twin:
            return replace(self._ended(Outcome.DONE, f"the same patch as {twin}", stage="gates"), duplicate_of=twin)
        if ending.outcome is Outcome.BLOCKED and checked.passed:
            claims = "\n".join(f"{c.file}:{c.line}: {c.quote}" for c in ending.claims)
            return self._ended(Outcome.BLOCKED, f"{ending.claims[0].reason}\n{claims}", stage="gates")
        if not checked.passed:
            return self._ended(Outcome.GATE_FAILED, gates.feedback(checked.results), stage="gates")
        if self._unchanged(checked.head, prepared):
            said = f" Its last words: {first_line(ending.said)}" if ending.said else ""
            return self._ended(Outcome.NO_CHANGE, f"the session ended and changed nothing.{said}", stage="session")
        return None

    def _unchanged(self, head: str, prepared: Prepared) -> bool:
        """Nothing since the base, nor, when a person asked for changes, since what the pull request shows."""
        return head == prepared.base_sha or (head == prepared.start and not self.run.pending_head)

    def _ended(self, outcome: Outcome, evidence: str, *, stage: str) -> Attempt:
        return replace(self.attempt, outcome=outcome.value, evidence=evidence, stage=stage, log=str(self.folder))

    # -- prepare ---------------------------------------------------------------------------------------------------
    async def prepare(self) -> Prepared:
        """Claim, fetch, workspace, prompt. A fault of git, disk, forge or hook is `infra`; a bad WORKFLOW.md too."""
        self._phase("preparing")
        try:
            return await self._prepare()
        except (publish.ClaimedElsewhere, intake.Gone) as error:
            stage = "preparing" if isinstance(error, intake.Gone) else CLAIM
            return Prepared(self.repo, problem=sentence(error), outcome=Outcome.CANCELLED.value, stage=stage)
        except INFRA as error:
            return Prepared(self.repo, problem=sentence(error), outcome=Outcome.INFRA.value)

    async def _prepare(self) -> Prepared:
        hub = self.hub
        await hub.ensure()
        if refused := await self._intake():
            return refused
        run, base_sha = self.run, await hub.fetch_base(self.repo.base)
        start = await hub.fetch_base(run.branch) if run.pull_request else ""
        workflow, problem = await self.crew.workflows.at(hub, self.repo, base_sha)
        if problem:
            self.crew.store.event("workflow.problem", run.id, problem=problem)
        repo = workflow.restrict(self.repo)
        tree = await self._workspace(repo, base_sha, start)
        told = await self._prompt(repo, base_sha)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "prompt.md").write_text(told.prompt, encoding="utf-8", errors="replace")
        await self._hook("before_run", repo, tree)
        return Prepared(repo, base_sha, start, str(tree), told.instructions)

    async def _intake(self) -> Prepared | None:
        """Why not to begin, on fresh data; None when the ticket is to be worked. May move the run to a later branch."""
        ticket = await self._open_ticket()
        told = [attempt.evidence for attempt in self.crew.store.attempts_of(self.run_id)]
        found = await intake.look(ticket, self.run, self.crew.forges[self.repo.forge], self.repo, told)
        if found.twin:
            return Prepared(self.repo, problem=found.twin, outcome=Outcome.BLOCKED.value)
        await publish.ensure_claim(self.hub, found.run.branch, self.crew.id)
        if found.run != self.run:
            self.crew.store.set_run(self.run_id, **{n: getattr(found.run, n) for n in intake.FOUND})
            self._take(found.run)
        if found.over:
            raise intake.Gone(found.over)
        return None

    async def _prompt(self, repo: Repo, base_sha: str) -> brief.Built:
        run, pad = self.run, self._workpad()
        told = prompt.Brief(
            base=repo.base, branch=run.branch, attempt=self.number, feedback=run.feedback,
            workpad=pad.read_text(encoding="utf-8", errors="replace")[-8000:] if pad.exists() else "",
        )  # fmt: skip
        ticket = await self._open_ticket()
        return await brief.build(self.hub, repo, base_sha, ticket, told, workflows=self.crew.workflows)

    async def _ticket(self) -> Ticket | None:
        """The ticket as it is on the board now, None when it left."""
        found = await self.crew.boards[self.run.board].fetch([self.run.ticket_id])
        return found[0] if found else None

    async def _open_ticket(self) -> Ticket:
        """The same. Raises Gone when it is not to be worked any more."""
        ticket = await self._ticket()
        if ticket is None and (doubt := (await self.crew.boards[self.run.board].scan()).problems):
            raise NightcrewError(f"{self.run.key} cannot be read on the board. {doubt[0].where}: {doubt[0].message}")
        if (why := intake.gone(ticket, self.run, WORKABLE)) or ticket is None:
            raise intake.Gone(why)
        return ticket

    async def _workspace(self, repo: Repo, base_sha: str, start: str) -> Path:
        async def created(tree: Path) -> None:
            await self._hook("after_create", repo, tree)

        made = await workspace.ensure(
            self.hub, self.crew.workspaces, self.name, self.run.branch, base_sha,
            kind=self.crew.kind, start=start, created=created,
        )  # fmt: skip
        self.crew.store.set_run(self.run_id, workspace=str(made.path))
        return made.path

    async def _hook(self, name: str, repo: Repo, tree: Path) -> None:
        await run_hook(name, repo, tree, self.run.key, self.mark())

    def _workpad(self) -> Path:
        return self.crew.home / "workpads" / f"{self.name}.md"

    def mark(self) -> str:
        """What every process of this attempt is marked with."""
        return f"{self.crew.mark}{self.name}:{self.number}:"

    # -- session ---------------------------------------------------------------------------------------------------
    async def session(self, prepared: Prepared) -> Ending:
        """Run the agent to its end. Done again after a kill: leftovers are ended, the same session goes on."""
        self._phase("session")
        if self.run.pending_head:
            return Ending(Outcome.DONE, "the work was finished before; only gates and publishing are left")
        kept = self.attempt.session_id if self.attempt.resume else ""
        if self.live.asked:
            return Ending(self.live.outcome or Outcome.CANCELLED, self.live.why, session_id=kept)
        agent = self.crew.agents[self.attempt.agent]
        try:
            earlier, task = self._task(prepared)
            kept = task.session_id if task.resume else ""
            if task.scratch.name != "try-0":
                await proc.sweep(self.mark())
            told = tries.told(agent, tries.folders(self.folder), self._now())
            ending = told or self._parked(kept) or await self._hear(task, prepared, earlier)
            ending = self._blamed(replace(ending, usage=ending.usage + earlier, resumed=task.resume))
            if RULES[ending.outcome].next is not Next.RESUME or ending.cap:
                ending = replace(ending, session_id=ending.session_id or kept)  # it had said nothing yet
            ending = self.crew.meter.judged(self.attempt, ending)
            if ending.started:
                self._note(ending)
        except ConfigError as error:
            return Ending(Outcome.MISCONFIGURED, error.sentence())
        except INFRA as error:
            return Ending(Outcome.INFRA, sentence(error), session_id=self.live.progress.session_id or kept)
        return ending

    def _now(self) -> datetime:
        return self.crew.now().astimezone()

    def _parked(self, kept: str) -> Ending | None:
        """On a lane that was limited while this attempt was on its way, or nightcrew was dead, nothing is started."""
        lane = self.crew.store.lanes().get(self.attempt.lane)
        if lane is None or lane.state is not LaneState.LIMITED or lanes.opens(lane, self.crew.now(), tried=False):
            return None
        why = f"not started: {lanes.says(lane, self.crew.now())}"
        return Ending(Outcome.RATE_LIMITED, why, session_id=kept, started=False)

    def _blamed(self, ending: Ending) -> Ending:
        """An agent that ended on a full disk did not fail (I3)."""
        full = self.crew.full() if ending.outcome in (Outcome.CRASHED, Outcome.FAST_FAIL) else ""
        return replace(ending, outcome=Outcome.INFRA, evidence=f"{full} ({ending.evidence})") if full else ending

    def _task(self, prepared: Prepared) -> tuple[Usage, Task]:
        """What to start, and what earlier tries of this very attempt (ended by a kill of nightcrew) have used."""
        agent = self.crew.agents[self.attempt.agent]
        earlier = tries.folders(self.folder)
        used, session_id, resume = Usage(), self.attempt.session_id, self.attempt.resume
        for index, folder in enumerate(earlier, 1):
            read = agent.read(recorded_lines(folder / "stdout"), None, "", self._now())
            used += read.usage
            resume = resume or bool(read.session_id)
            session_id = read.session_id or (session_id if resume else new_session_id(self.run_id, self.number, index))
        text = (self.folder / "prompt.md").read_text(encoding="utf-8")
        budget = self.crew.policy.budget
        return used, Task(
            workspace=Path(prepared.tree), prompt=prompt.resume_prompt(self.run.feedback) if resume else text,
            scratch=self.folder / f"try-{len(earlier)}", session_id=session_id, resume=resume, model=self.attempt.model,
            instructions=prepared.instructions, max_turns=budget.turns, max_money=budget.money,
        )  # fmt: skip

    async def _hear(self, task: Task, prepared: Prepared, earlier: Usage) -> Ending:
        agent = self.crew.agents[self.attempt.agent]
        task.scratch.mkdir(parents=True, exist_ok=True)
        launch = agent.launch(task)
        self.crew.meter.open(self.run, self.attempt, earlier)
        try:
            heard = await run_session(
                launch, task.workspace, proc.base_env(extra=self.crew.agent_env(self.run, self.attempt)), self.mark(),
                task.scratch, self.crew.policy.budget, self.live, self._check,
            )  # fmt: skip
        finally:
            self.crew.meter.close(self.run_id)
        await self._hook_safely("after_run", prepared.repo, task.workspace)
        self.attempt = replace(self.attempt, survivors=heard.survivors, peak_memory=heard.peak_memory, oom=heard.oom)
        return replace(read_ending(agent, heard, self._now()), cap=heard.cap)

    def _check(self, progress: Progress) -> Stop | None:
        """Why the session must end, as far as money and windows go. What its windows say is news for the director."""
        if progress.windows:
            self.crew.wake()
        return self.crew.meter.hear(self.run_id, progress)

    async def _hook_safely(self, name: str, repo: Repo, tree: Path) -> None:
        try:
            await self._hook(name, repo, tree)
        except INFRA as error:  # as in Symphony: logged, never fatal
            self.crew.store.event("hook.failed", self.run_id, hook=name, error=str(error))

    def _note(self, ending: Ending) -> None:
        pad = self._workpad()
        pad.parent.mkdir(parents=True, exist_ok=True)
        who = f"{self.attempt.agent} {self.attempt.model}".strip()
        words = f"## Attempt {self.number} ({who})\n\n{ending.outcome}: {ending.evidence[:1500]}"
        said = f"\n\nIts last words:\n\n{ending.said[:3000]}" if ending.said else ""
        with pad.open("a", encoding="utf-8", errors="replace") as file:
            file.write(f"{words}{said}\n\n")

    # -- gates -----------------------------------------------------------------------------------------------------
    async def check(self, prepared: Prepared, ending: Ending) -> Checked:
        """Take the work into the hub (the only place it is read from), and let the gates look at it."""
        if ending.outcome in (Outcome.DONE, Outcome.BLOCKED):
            self._phase("gates")  # else the slot is kept: the lane may be closed, and nobody knows it yet
        try:
            head = self.run.pending_head or await self._collect(prepared)
            if ending.outcome is Outcome.BLOCKED:
                proof = await gates.evidence(self.hub, prepared.base_sha, ending.claims)
                return Checked(head, (proof,))
            if ending.outcome is not Outcome.DONE or self._unchanged(head, prepared):
                return Checked(head)
            async with self.crew.checking:
                base_sha = await self.hub.fetch_base(self.repo.base)
                tree = Path(prepared.tree)
                checks = Checks(
                    self.crew, self.run, self.attempt, prepared.repo, tree, self.folder, self.mark(), self.live
                )
                return await checks.run(base_sha, head)
        except INFRA as error:
            return Checked(await self.hub.sha(self.work_ref) or "", problem=sentence(error))

    async def _collect(self, prepared: Prepared) -> str:
        """The agent's commits, and one of ours with what it left uncommitted."""
        title = report.pull_request_title(self.run)  # not the board's: that may be out of reach
        tree, seed = Path(prepared.tree), workspace.seed(self.crew.workspaces, Path(prepared.tree))
        return await self.hub.collect(tree, self.run.branch, self.work_ref, prepared.base_sha, title, seed)

    # -- publish ---------------------------------------------------------------------------------------------------
    async def publish(self, prepared: Prepared, checked: Checked) -> Published:
        """Push and open the one pull request, unless the run was taken over or the patch is somebody else's."""
        self._phase("publish")
        try:
            return await self._publish(prepared, checked)
        except (Fenced, intake.Gone, publish.Over) as error:
            return Published(outcome=Outcome.CANCELLED.value, problem=str(error))
        except publish.BranchMoved as moved:
            told = moved.told(prepared.start or prepared.base_sha)
            return Published(outcome=Outcome.GATE_FAILED.value, problem=told)
        except INFRA as error:
            return Published(outcome=Outcome.INFRA.value, problem=sentence(error))

    async def _publish(self, prepared: Prepared, checked: Checked) -> Published:
        run, repo, store, forge = self.run, prepared.repo, self.crew.store, self.crew.forges[prepared.repo.forge]
        patch_id = await self.hub.patch_id(prepared.base_sha, checked.head)
        if twin := store.claim_patch(repo.name, patch_id, run.id, run.key):
            return Published(patch_id=patch_id, duplicate_of=twin)
        if twin := await publish.same_patch(self.hub, forge, repo, run.branch, prepared.base_sha, patch_id):
            return Published(patch_id=patch_id, duplicate_of=twin)
        ticket = await self._open_ticket()
        attempts = store.attempts_of(run.id)
        shown = [*(a for a in attempts if a.number < self.number), replace(self.attempt, outcome=Outcome.DONE.value)]
        before = await intake.earlier(run, forge, repo)
        commits = next((r.evidence.splitlines() for r in checked.results if r.gate == "changed"), [])
        body = report.pull_request_body(ticket, repo, run, shown, checked.results, commits, before)
        title = report.pull_request_title(ticket)
        what = publish.Publication(run.branch, checked.head, title, body, before=pushed_head(attempts))
        fence = lambda: store.check_fence(run.id, self.attempt.fence)  # noqa: E731
        pull = await publish.publish(self.hub, forge, repo, what, self.crew.id, fence)
        return Published(pull.number, pull.url, patch_id)

    def broken(self, fault: Exception) -> Attempt:
        """Its end when a stage could not even say what was wrong: an outage (I3)."""
        heard = self.live.progress.session_id or (self.attempt.session_id if self.attempt.resume else "")
        self.attempt = replace(self.attempt, session_id=heard)
        return self._ended(Outcome.INFRA, sentence(fault), stage=self.attempt.stage)

    async def record(self, ended: Attempt) -> None:
        """The attempt's end, once, as soon as it can be written. The director folds it into the run."""
        while True:
            try:
                self.crew.store.finish_attempt(self.crew.meter.priced(ended))
                return self.crew.unrecorded.discard(self.run_id)
            except NightcrewError as error:
                self.crew.unrecorded.add(self.run_id)
                self.crew.wake()
                log.error("attempt.unrecorded", extra={"ticket": self.run.key, "error": error.sentence()})
                await asyncio.sleep(RECORD_AGAIN)
