"""The director: observe -> decide -> perform. The one process that changes scheduling state."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from nightcrew import following, lanes
from nightcrew.core import lifecycle, schedule
from nightcrew.core.lanes import after as lanes_after
from nightcrew.core.lanes import answered
from nightcrew.core.model import Attempt, PullRequest, Run, RunState, Seat, Ticket, TicketState
from nightcrew.core.outcome import RULES, LaneEffect, Outcome
from nightcrew.core.schedule import Action, View, decide
from nightcrew.crew import Crew, new_session_id, workflow_id
from nightcrew.durable import GOING_ON
from nightcrew.errors import NightcrewError
from nightcrew.node import capabilities, clean, room
from nightcrew.ports import Scan
from nightcrew.radar import Lookout
from nightcrew.stages.intake import gone as gone_from
from nightcrew.steps import CLAIM

log = logging.getLogger("nightcrew.director")
RETRY_AFTER = timedelta(seconds=30)
LONGEST_NAP = 5.0
TOGETHER = 0.05  # what happens within this many seconds is looked at once
PARTING = 5.0  # seconds that boards and forges may still take when we stop
ELSEWHERE = "elsewhere"
SPINNING = 25
"""So many rounds in a row that all did something: what they do takes no effect, and a breath is taken between them."""
SHOWN = {state.value: shown.value for state, shown in schedule.SHOWN.items()}


class Director:
    """Holds what was observed and carries out what was decided. `wake()` makes the next tick come at once."""

    def __init__(self, crew: Crew, scan_every: float = 120.0) -> None:
        self.crew = crew
        self.scan_every = scan_every
        self.scans: dict[str, Scan] = {}
        self.moved: dict[str, TicketState] = {}  # what we wrote on boards since the last scans began, by run
        self.finished: frozenset[str] = frozenset()
        self.gone: dict[str, str] = {}
        self.watch = following.Watch()
        self.next_scan = datetime.min.replace(tzinfo=UTC)
        self.background: dict[str, asyncio.Task[None]] = {}
        self.radar = Lookout(crew, self.background, self.wake)
        self.cleaning: set[str] = set()
        self.not_again_before: dict[str, datetime] = {}
        self.held: dict[str, str] | None = None
        self.stopping = ""
        self._wake = asyncio.Event()
        self._changed = False
        self._rounds = 0

    def wake(self, *, scan: bool = False) -> None:
        """Look again now; with `scan`, at the board and the pull requests too."""
        if scan:
            self.next_scan = datetime.min.replace(tzinfo=UTC)
        self._wake.set()

    def stop(self, why: str) -> None:
        """End all sessions so that they can be resumed, then let `run` return."""
        self.stopping = why
        self._end_sessions()
        self._wake.set()

    def _end_sessions(self) -> None:
        """Also those that began after `stop`: a recovered attempt may have been on its way."""
        for live in self.crew.live.values():
            live.cancel(Outcome.INFRA, self.stopping)

    async def run(self, done: Callable[[View], bool]) -> None:
        """Tick until `done(view)` or until stopped."""
        while True:
            self._wake.clear()
            view = await self.tick()
            if self.stopping:
                self._end_sessions()
                if not {a.run_id for a in view.attempts} - self.crew.unrecorded:
                    break
            self._rounds = self._rounds + 1 if self._changed else 0
            if 0 < self._rounds < SPINNING:
                continue  # what was done may allow more: an adopted ticket starts in the next tick
            if not self.stopping and not self._wake.is_set() and done(view) and not self.background:
                break
            if self._rounds:
                log.error("director.spins", extra={"rounds": self._rounds})
            await self._nap(view, 1.0 if self._rounds else LONGEST_NAP)
        if self.background:  # what is not done in time is done at the next start
            _, late = await asyncio.wait(self.background.values(), timeout=PARTING)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def tick(self) -> View:
        """One round; returns what it saw. A fault of one action stops no other."""
        self._changed = False
        try:
            view = await self.observe()
            for action in decide(view, self.crew.now(), self.crew.policy):
                await self._safely(self.perform(action), getattr(action, "run", None))
            self._tell_held(view)
            return view
        except NightcrewError as error:
            log.error("tick.failed", extra={"error": error.sentence()})
            return View(paused=True, attempts=(), busy=frozenset({"fault"}))

    def _tell_held(self, view: View) -> None:
        """Write down why what waits does, whenever that changed."""
        held = dict(schedule.held(view, self.crew.now(), self.crew.policy))
        if held != self.held:
            self.crew.store.put("held", held)
            self.held = held

    async def _safely(self, work: Awaitable[None], run: Run | None) -> None:
        try:
            await work
            self._changed = True
        except (NightcrewError, OSError) as error:
            log.error("action.failed", extra={"ticket": run.key if run else "", "error": str(error)})

    async def _nap(self, view: View, longest: float) -> None:
        now = self.crew.now()
        due = [self.next_scan, *(r.not_before for r in view.runs if r.not_before), *self.not_again_before.values(),
               *(lane.until for lane in view.lanes.values() if lane.until)]  # fmt: skip
        ahead = [(at - now).total_seconds() for at in due if at > now]
        try:
            await asyncio.wait_for(self._wake.wait(), min([*ahead, longest]) + 0.01)
            await asyncio.sleep(TOGETHER)
        except TimeoutError:
            return

    # -- observe ---------------------------------------------------------------------------------------------------
    async def observe(self) -> View:
        """Orders first, then board and pull requests when they are due, then our own rows."""
        store = self.crew.store
        await self._take_up()
        lanes.hear(self.crew)
        for number, kind, run_id in store.orders():
            self._obey(kind, run_id)
            store.obeyed(number)  # after it: an order is carried out twice rather than lost
        if self.crew.now() >= self.next_scan:
            self.next_scan = self.crew.now() + timedelta(seconds=self.scan_every)
            await self.scan()
        tickets = tuple(self._tickets())
        ids = {schedule.run_id(t) for t in tickets if t.state is TicketState.OPEN}
        now = self.crew.now()
        waiting = {run_id for run_id, at in self.not_again_before.items() if at > now}
        return await self.radar.told(View(
            tickets=tickets, runs=tuple(store.watched(ids, SHOWN)), attempts=tuple(store.open_attempts()),
            lanes=store.lanes(), ladders={n: a.models for n, a in self.crew.agents.items()},
            seats=self.crew.seats, spend=self.crew.meter.spend(), loads=self.crew.meter.loads(), room=room(self.crew),
            renewing=lanes.renewing(self.crew),
            repos=tuple(map(self.crew.workflows.applied, self.crew.repos.values())),
            agents=self.crew.order, finished=self.finished, gone=self.gone,
            paused=bool(store.get("paused", False)) or bool(self.stopping),
            busy=frozenset({*self.background, *waiting}),
            cleaning=frozenset(self.cleaning), capabilities=capabilities(self.crew.policy),
            **self.watch.facts(self.crew),  # type: ignore[arg-type]
        ))  # fmt: skip

    async def scan(self) -> None:
        """Look at every board and at the pull requests of runs in review."""
        store, problems = self.crew.store, {}
        self.moved.clear()
        for name, board in self.crew.boards.items():
            try:
                self.scans[name] = await board.scan()
            except NightcrewError as error:
                problems[name] = error.sentence()  # the last scan stays: a board that is down loses nothing
            for problem in self.scans.get(name, Scan(())).problems:
                problems[problem.where] = problem.message
        store.set_problems(problems)
        store.put("scanned_at", self.crew.now())
        active = store.runs(ended=False)
        await self._look_up(active, bool(problems))
        await self.watch.look(self.crew, store.with_pulls())

    async def _look_up(self, active: Iterable[Run], unreadable: bool) -> None:
        """Fresh facts about blockers and about tickets that are not on the board any more."""
        there = {t.id for scan in self.scans.values() for t in scan.tickets}
        words = {w for t in self._tickets() for w in t.blocked_by}
        done: set[str] = set()
        gone: dict[str, str] = {}
        for name, board in self.crew.boards.items():
            missing = [r for r in active if r.board == name and r.ticket_id not in there]
            asked = [*(r.ticket_id for r in missing), *sorted(words - there)]
            if not asked:
                continue
            try:
                found = {t.id: t for t in await board.fetch(asked)}
            except NightcrewError:
                continue
            done |= {w for t in found.values() if t.state is TicketState.DONE for w in (t.id, t.key)}
            # While something on the board cannot be read, a missing ticket may be just that: it is not gone.
            known = [r for r in missing if r.ticket_id in found or not unreadable]
            gone |= {r.ticket_id: w for r in known if (w := gone_from(found.get(r.ticket_id), r, schedule.WORKABLE))}
        self.finished, self.gone = frozenset(done), gone

    def _tickets(self) -> list[Ticket]:
        """As the boards show them now, where we wrote after we read too: our word must not look like a person's."""
        found = [t for scan in self.scans.values() for t in scan.tickets]
        return [replace(t, state=self.moved.get(schedule.run_id(t), t.state)) for t in found]

    def _obey(self, kind: str, run_id: str) -> None:
        store = self.crew.store
        run = store.named(run_id) if run_id else None
        match kind:
            case "pause" | "resume":
                store.put("paused", kind == "pause")
                if kind == "resume":
                    lanes.by_hand(self.crew, "resume", "")
            case "lane-pause" | "lane-resume":
                lanes.by_hand(self.crew, kind.removeprefix("lane-"), run_id)
            case "stop" if run and run.state in (RunState.QUEUED, RunState.WORKING, RunState.UNROUTED):
                self._stop(run, "stopped by hand")
            case "retry" if run and run.state in lifecycle.ENDED:
                # The board may go on showing the end, though we were told that it was not: nobody moved the ticket.
                self._reopen(run, schedule.should_show(run) or run.shown)
            case "retry" if run and run.state is RunState.QUEUED:
                store.save_run(replace(run, not_before=None), "run.retry")
            case "scan":
                self.next_scan = datetime.min.replace(tzinfo=UTC)
            case _:
                log.warning("order.ignored", extra={"order": kind, "run": run_id})

    # -- perform ---------------------------------------------------------------------------------------------------
    async def perform(self, action: Action) -> None:
        """Carry out one action; doing it twice is doing it once."""
        match action:
            case schedule.Settle(run, attempt):
                self._settle(run, attempt)
            case schedule.Stop(run, why):
                self._stop(run, why)
            case schedule.Start():
                await self._start(action)
            case schedule.Adopt():
                self._adopt(action)
            case schedule.Refresh(run, t):
                fresh = replace(run, title=t.title, priority=t.priority, labels=t.labels, blocked_by=t.blocked_by)
                self.crew.store.save_run(fresh)
            case schedule.Reopen(run):
                self._reopen(run, TicketState.OPEN.value)
            case schedule.Follow(run, pull):
                self._follow(run, pull)
            case schedule.Show(run) | schedule.React(run):
                self._later(run, self._outward(action))
            case schedule.Park() | schedule.Up():
                lanes.turn(self.crew, action)
            case schedule.Fail(run, why):
                self.crew.store.save_run(replace(run, state=RunState.FAILED, reason=why), "run.failed", reason=why)
            case schedule.Clean(run):
                self.cleaning.add(run.id)
                self._later(run, clean(self.crew, run))
            case _:
                assert_never(action)

    def _adopt(self, action: schedule.Adopt) -> None:
        run = lifecycle.adopted(action.ticket, action.repo, action.reason, self.crew.now())
        if self.crew.store.named(run.id):
            self.crew.store.save_run(run, f"run.{run.state}", reason=action.reason)
        else:
            self.crew.store.add_run(run, repo=action.repo, reason=action.reason)

    async def _start(self, action: schedule.Start) -> None:
        run, number = action.run, action.run.attempts + 1
        attempt = Attempt(
            run_id=run.id, number=number, agent=action.agent, model=action.model, resume=action.resume,
            session_id=run.session_id if action.resume else new_session_id(run.id, number, 0), fence=run.fence + 1,
            lane=self.crew.seats[action.agent].lane, started_at=self.crew.now(),
        )  # fmt: skip
        if self.crew.store.start_attempt(run, attempt):
            log.info("attempt.started", extra={"ticket": run.key, "attempt": number, "agent": action.agent})
            await self.crew.durable.start(workflow_id(run.id, number), run.id, number)

    def _settle(self, run: Run, attempt: Attempt) -> None:
        store, now = self.crew.store, self.crew.now()
        seats = {one.lane: one for one in self.crew.seats.values()}  # a reviewer's trouble is told of its own lane
        seat = seats.get(attempt.lane) or self.crew.seats.get(attempt.agent, Seat(attempt.agent, "", attempt.agent))
        jitter = int(hashlib.sha256(f"{run.id}:{attempt.number}".encode()).hexdigest()[:4], 16) / 0xFFFF
        before = store.lanes()
        quiet = run.pending_head and RULES[Outcome(attempt.outcome)].lane is LaneEffect.NONE  # it called nobody there
        after = [] if quiet else lanes_after(before, seat, attempt, self.crew.policy, now, jitter)
        reviewer = self.crew.repos[run.repo].gates.review if run.repo in self.crew.repos else ""
        if reviewer in self.crew.seats and any(gate.gate == "review" for gate in attempt.gates):
            after += answered(before, self.crew.seats[reviewer], now)
        settled = lifecycle.settle(run, attempt, self.crew.policy, now, jitter)
        if self.stopping and attempt.outcome == Outcome.INFRA:  # we ended it: there is no outage to wait for
            settled = replace(settled, not_before=None, outages=run.outages)
        if attempt.stage == CLAIM:  # its board is the other crew's to write; this one asks again after a while
            store.set_run(run.id, shown=ELSEWHERE)
            settled = replace(settled, not_before=now + timedelta(seconds=self.crew.policy.backoff_max))
        self.watch.forget(run)  # seen before this attempt answered what was asked there
        if store.settle(settled, attempt, after, lanes.news(before, after)):
            log.info("attempt.ended", extra={"ticket": run.key, "outcome": attempt.outcome, "run": settled.state.value})

    def _stop(self, run: Run, why: str) -> None:
        ticket = self._ticket(run)
        shown = None if why == "stopped by hand" else ticket.state.value if ticket else "gone"
        if ticket and ticket.stop == why:
            run, shown = replace(run, heard=why), run.shown  # it is our word that the board shows: nobody moved it
        if run.state is RunState.WORKING:
            self.crew.store.save_run(replace(run, stopping=why), "run.stopping", shown=shown, why=why)
            if live := self.crew.live.get(run.id):
                live.cancel(Outcome.CANCELLED, why)
        else:
            stopped = replace(run, state=RunState.CANCELLED, reason=why)
            self.crew.store.save_run(stopped, "run.cancelled", shown=shown, why=why)
            if why.endswith(TicketState.DONE):
                self._later(run, following.merged_after_all(self.crew, stopped))

    def _ticket(self, run: Run) -> Ticket | None:
        return next((t for t in self._tickets() if schedule.run_id(t) == run.id), None)

    def _reopen(self, run: Run, shown: str) -> None:
        fresh = lifecycle.reopened(run, self._ticket(run))
        if run.state in (RunState.CLOSED, RunState.DUPLICATE):
            self.crew.store.release_patches(run.id)
        self.crew.store.save_run(fresh, "run.reopened", shown=shown, cycle=fresh.cycle)

    def _follow(self, run: Run, pull: PullRequest) -> None:
        after, kind = lifecycle.followed(run, pull)
        if after.state is RunState.CLOSED:
            self.crew.store.release_patches(run.id)
        self.crew.store.save_run(after, f"run.{kind}", sha=pull.merged_sha, text=pull.changes_requested[:2000])
        self.watch.forget(run)

    async def _outward(self, action: schedule.Show | schedule.React) -> None:
        if isinstance(action, schedule.React):
            await following.perform(self.crew, action)
            return self.watch.forget(action.run)  # it was seen before this
        run, state = action.run, action.state
        await self.crew.boards[run.board].move(run.ticket_id, state, run.reason, run.url)
        self.moved[run.id] = state
        return self.crew.store.set_run(run.id, shown=state.value)

    def _later(self, run: Run, work: Coroutine[Any, Any, None]) -> None:
        """Do slow work for a run beside the loop, one thing at a time per run; a fault is tried again after a while."""

        async def guarded() -> None:
            try:
                await work
                self.not_again_before.pop(run.id, None)
            except (NightcrewError, OSError) as error:
                self.not_again_before[run.id] = self.crew.now() + RETRY_AFTER
                log.error("background.failed", extra={"ticket": run.key, "error": str(error)})
            finally:
                self.background.pop(run.id, None)
                self.cleaning.discard(run.id)
                self._wake.set()

        if run.id in self.background:
            work.close()
        else:
            self.background[run.id] = asyncio.create_task(guarded())

    # -- after a restart -------------------------------------------------------------------------------------------
    async def _take_up(self) -> None:
        """Attempts nobody is at: to be recovered by the engine, started now, or given back as interrupted."""
        for attempt in self.crew.store.open_attempts():
            if attempt.phase == "ended" or attempt.run_id in self.crew.live:
                continue
            name = workflow_id(attempt.run_id, attempt.number)
            known = await self.crew.durable.known(name)
            if known == "":
                await self.crew.durable.start(name, attempt.run_id, attempt.number)
            elif known != GOING_ON:
                await self.crew.durable.drop(name)
                self.crew.store.finish_attempt(self.crew.meter.priced(_interrupted(attempt, known)))


def _interrupted(attempt: Attempt, known: str) -> Attempt:
    """Its end, as told from outside. A session that was never heard of is not there to be resumed."""
    session = attempt.session_id if attempt.resume or attempt.heard_at else ""
    why = f"the attempt was interrupted: its workflow is {known}"
    return replace(attempt, outcome=Outcome.INFRA.value, evidence=why, stage=attempt.phase, session_id=session)


def done_when(mode: str) -> Callable[[View], bool]:
    """When a director may stop by itself: "idle", "once" (nothing is running any more), or never."""
    if mode == "forever":
        return lambda view: False
    return schedule.idle if mode == "idle" else lambda view: not view.attempts and "fault" not in view.busy
