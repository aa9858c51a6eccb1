"""Session: one agent process, heard line by line, watched, and ended with everything it started (I5)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from math import inf
from pathlib import Path

from nightcrew import proc
from nightcrew.core.budget import attempt_over
from nightcrew.core.liveness import Life, Signals, Verdict, question, verdict
from nightcrew.core.model import Budget
from nightcrew.core.outcome import Ending, Outcome, Stop
from nightcrew.ports import Agent, Launch, Progress
from nightcrew.proc import vitals

AFTER_LAST_WORD = 10.0
"""Seconds an agent may live on after its last word (claude outlives its `result` through background tasks)."""
FAST = 5.0
"""Seconds within which an end with nothing said is a failed start, not failed work."""
FINAL = frozenset({Outcome.CANCELLED, Outcome.INFRA})
CAUSES = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED, Outcome.LOGGED_OUT, Outcome.OUT_OF_CREDIT, Outcome.DONE})
LOOK_EVERY = 0.5
WEIGH_EVERY = 2.0
GAP = 10 * LOOK_EVERY
"""Seconds between two looks after which it was us who did not run: stopped, or on a machine that slept."""
HUSH = 2.0
"""Seconds without an event before anybody looks at a session's processes, and the most that a look may be late."""
TELL_EVERY = 10.0
"""Seconds between two records of the evidence that a session which does not speak is alive."""
WALK_EVERY = 30.0
WALK = 2000
"""Files of a workspace that are looked at for a change every so many seconds, while nothing else shows life."""
ALL = 1_000_000
"""More files than a workspace has."""
ENDS = {
    Life.PROMPT: Outcome.PROMPT_WAIT,
    Life.SILENT: Outcome.STALLED,
    Life.ZOMBIE: Outcome.CRASHED,
    Life.DEAD: Outcome.CRASHED,
}


@dataclass
class Live:
    """A session as others see it while it runs. `cancel()` ends it; `heard` is a monotonic time."""

    progress: Progress = field(default_factory=Progress)
    heard: float = 0.0
    started: float = 0.0
    why: str = ""
    cap: str = ""
    outcome: Outcome | None = None
    verdict: Verdict = Verdict(Life.WORKING, "")
    memory: int = 0  # bytes its tree holds now
    oom: bool = False  # we ended it for its memory
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _led: Live | None = None
    _told: tuple[Life | None, float] = (None, 0.0)  # which verdict was written down, and when

    def cancel(self, outcome: Outcome, why: str, cap: str = "") -> None:
        """Ask the session to end now, with this outcome; the first asker wins."""
        if self.outcome is None:
            self.outcome, self.why, self.cap = outcome, why, cap
        self._asked.set()
        if self._led:
            self._led.cancel(outcome, why, cap)

    @contextmanager
    def leading(self, other: Live) -> Iterator[Live]:
        """While this lasts, who ends this session ends `other`, too."""
        self._led = other
        if self.asked:
            other.cancel(self.outcome or Outcome.CANCELLED, self.why, self.cap)
        try:
            yield other
        finally:
            self._led = None

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def tells(self, now: float) -> dict[str, str]:
        """How it is, as columns of its attempt; {} when that was told and is no news. `now` is a monotonic time."""
        life, (before, at) = self.verdict.life, self._told
        if not self.verdict.evidence or (life is before and (life is Life.WORKING or now - at < TELL_EVERY)):
            return {}
        self._told = life, now
        return {"liveness": life.value, "signs": "" if life is Life.WORKING else self.verdict.evidence[:300]}


@dataclass(frozen=True)
class Heard:
    """What is left of a session: its recorded output and how it ended. `stop` is set when we ended it."""

    exit_code: int | None
    stdout: Path
    stderr: Path
    seconds: float
    stop: Outcome | None = None
    why: str = ""
    survivors: int = 0
    lines: int = 0
    cap: str = ""
    peak_memory: int = 0  # bytes
    oom: bool = False


def no_check(_: Progress) -> Stop | None:
    """Nothing but the attempt's own budget limits the session."""
    return None


async def run_session(
    launch: Launch, cwd: Path, env: Mapping[str, str], mark: str, folder: Path, budget: Budget, live: Live,
    check: Callable[[Progress], Stop | None] = no_check,
) -> Heard:  # fmt: skip
    """Start the agent, hear it to its end, end everything it started. Output is in `folder`, whatever happens to us."""
    folder.mkdir(parents=True, exist_ok=True)
    stdin = None if launch.two_way else folder / "stdin"
    opening = launch.conversation.opening()
    if stdin:
        stdin.write_bytes(opening)
    live.progress, live.started, live.heard = launch.conversation.progress, time.monotonic(), time.monotonic()
    process = await proc.start(
        launch.argv, cwd=cwd, env={**env, **launch.env}, mark=mark, stdout=folder / "stdout", stderr=folder / "stderr",
        stdin=stdin, two_way=launch.two_way, rc=folder / "rc", limits=limits_of(budget),
    )  # fmt: skip
    pulse = Pulse(process.handle, cwd, folder, budget, live.progress)
    watch = asyncio.create_task(_watch(process, pulse, live))
    try:
        (folder / "handle.json").write_text(process.handle.to_json())
        if launch.two_way:
            process.write(opening)
        await _hear(process, launch, pulse, live, check)
        code = await process.wait(timeout=0)
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        survivors = await _end(process)
    peak, oom = proc.peak(process.handle), live.oom or proc.oom(process.handle)
    why = live.why or (_out_of_memory(process.handle, budget) if oom else "")
    return Heard(
        code if code is not None else process.returncode, folder / "stdout", folder / "stderr",
        pulse.lasted(), live.outcome, why, survivors, live.progress.lines, live.cap, peak, oom,
    )  # fmt: skip


def limits_of(budget: Budget) -> proc.Limits:
    """What the system is to hold of a budget."""
    return proc.Limits(budget.memory_mb << 20, budget.processes, budget.cpu_weight)


def _out_of_memory(handle: proc.Handle, budget: Budget) -> str:
    limit = f"limit {budget.memory_mb} MB" if budget.memory_mb else "no limit of its own"
    return f"out of memory: peak {proc.peak(handle) >> 20} MB, {limit}"


async def _end(process: proc.Process) -> int:
    """End everything; how many processes the agent had left behind when it ended by itself."""
    left = 0 if process.returncode is None else len(proc.left_behind(process.handle))
    await proc.end(process, grace=5.0 if process.returncode is None else 0.0)
    return left


async def _hear(
    process: proc.Process, launch: Launch, pulse: Pulse, live: Live, check: Callable[[Progress], Stop | None]
) -> None:
    conversation = launch.conversation
    async for batch in proc.lines(pulse.stdout, process):
        live.heard = time.monotonic()
        for line in batch:
            conversation.progress.lines += 1
            if answer := conversation.hear(line):
                process.write(answer)
        pulse.hear(len(batch))
        if stop := check(conversation.progress):
            live.cancel(stop.outcome, stop.why, stop.cap)
        if conversation.progress.over and launch.two_way:
            process.close_stdin()


async def _watch(process: proc.Process, pulse: Pulse, live: Live) -> None:
    """End the process when it is asked for, out of time or budget, or shows no sign of life on any signal."""
    over_since, last, late = 0.0, time.monotonic(), False
    while process.returncode is None:
        with suppress(TimeoutError):
            await asyncio.wait_for(live._asked.wait(), LOOK_EVERY)
        now = pulse.now()
        if live.progress.over:
            over_since = over_since or now
            if now - over_since > AFTER_LAST_WORD:
                break
        # What it said while we did not run comes first: after a late look nothing is judged until the next.
        late, last = not late and time.monotonic() - last > HUSH, time.monotonic()
        if not live.asked and not late:
            await pulse.look()
            live.memory = await pulse.weigh()
            live.verdict = verdict(pulse.signals(), pulse.budget)
            if stop := (pulse.exceeded() or await pulse.idle() or pulse.lifeless(live.verdict)):
                live.oom = stop is pulse.over and stop.outcome is Outcome.CRASHED
                live.cancel(stop.outcome, stop.why)
        if live.asked:
            break
    # What is dead heeds no SIGTERM.
    await proc.end(process, grace=0.5 if live.verdict.life in (Life.ZOMBIE, Life.DEAD) else 5.0)


class Pulse:
    """When each sign of life of a session was last seen, by a clock that stands still while nightcrew does."""

    def __init__(self, handle: proc.Handle, cwd: Path, folder: Path, budget: Budget, progress: Progress) -> None:
        self.budget, self.stdout = budget, folder / "stdout"
        self._handle = handle
        self.over: Stop | None = None
        self._cwd, self._stderr, self._progress, self._vitals = cwd, folder / "stderr", progress, vitals.Vitals(handle)
        self._raw, self._forgiven = time.monotonic(), 0.0
        self._memory, self._weighed = 0, -inf
        self._began = self._looked = self._walked = self._waits_since = self._alive = self._raw
        self._at = {"heard": self._raw, "transcript": -inf, "cpu": -inf, "io": -inf, "tree": -inf}
        self._seen, self._asks, self._dead = vitals.Seen(), "", 0.0
        self._said: tuple[object, ...] = ()
        self._words = deque[str](maxlen=8)
        # The heartbeat of a tool that hangs is no news; the same line every second is.
        self._beats, self._beaten = vitals.Bucket(0.2, 5.0), self._raw
        self._files: dict[str, tuple[int, int]] = {}
        self._traces = 0
        self._turns = deque([(0, time.time_ns())], maxlen=max(budget.idle_turns, 1) + 1)

    def now(self) -> float:
        """Seconds on the session's own clock. To be asked at least every `GAP` seconds while nightcrew runs."""
        raw = time.monotonic()
        if raw - self._raw > GAP:
            self._forgiven += raw - self._raw - LOOK_EVERY
        self._raw = raw
        return raw - self._forgiven

    def lasted(self) -> float:
        """Seconds that the session has had."""
        return self.now() - self._began

    def hear(self, lines: int) -> None:
        """So many lines came, and `progress` holds what they said."""
        now, p = self.now(), self._progress
        said = (p.session_id, p.model, p.usage, p.waiting_on, p.over, p.asks, p.same_calls, len(p.warnings))
        if p.waiting_on != (self._said[3] if self._said else "model"):
            self._waits_since = now
        if self._beat(lines, now) or said != self._said or p.last not in self._words:
            self._at["heard"] = now
            self._vitals.forget()
        if p.last not in self._words:
            self._words.append(p.last)
        if p.usage.turns != self._turns[-1][0]:
            self._turns.append((p.usage.turns, time.time_ns()))
        self._said, self._files["asked"] = said, vitals.stamp(self._stderr)

    def signals(self) -> Signals:
        """How long ago each sign was seen."""
        now, p = self.now(), self._progress
        heard, transcript, cpu, io, tree = (now - at for at in self._at.values())
        if self._looked < self._at["heard"]:  # what was seen before it spoke is past
            return Signals(heard, transcript, cpu, io, tree, p.waiting_on, now - self._waits_since, asks=p.asks)
        seen, dead = self._seen, now - max(self._dead, *self._at.values()) if self._dead else 0.0
        return Signals(
            heard, transcript, cpu, io, tree, p.waiting_on, now - self._waits_since, seen.processes, seen.programs,
            max(dead, 0.0), seen.gone, p.asks or self._asks, seen.stopped,
        )  # fmt: skip

    async def look(self) -> None:
        """Look at its processes and files, at most once a second, and only when it does not speak."""
        now, stall = self.now(), self.budget.stall_seconds or inf
        if now - self._at["heard"] < min(HUSH, stall / 4) or now - self._looked < min(2 * LOOK_EVERY, stall / 8):
            return
        self._looked = now
        await asyncio.to_thread(self._measure, now)

    async def weigh(self) -> int:
        """Bytes its tree holds, as of two seconds ago. `over` is set when it passed a limit nobody holds for us."""
        if (now := self.now()) - self._weighed >= WEIGH_EVERY:
            self._weighed, limits = now, limits_of(self.budget)
            self._memory = await asyncio.to_thread(proc.memory, self._handle)
            if said := await asyncio.to_thread(proc.over, self._handle, limits):
                self.over = Stop(Outcome.AGENT_ERROR, said)
                if 0 < limits.memory < self._memory:
                    self.over = Stop(Outcome.CRASHED, _out_of_memory(self._handle, self.budget))
        return self._memory

    def _measure(self, now: float) -> None:
        seen = self._seen = self._vitals.look(now)
        self._mark(now, cpu=seen.cpu, io=seen.io, transcript=self._changed(self._progress.transcript))
        if self._changed(self.stdout) | self._changed(self._stderr):
            self._mark(now, heard=self._beat(1, now))
        self._asks = question(vitals.tail(self.stdout)) or self._asked_aside()
        # It died at some time after it was last seen alive.
        self._dead = max(self._dead or self._alive, self._at["heard"]) if seen.dead else 0.0
        self._alive = self._alive if seen.dead else now
        every = min(WALK_EVERY, (self.budget.stall_seconds or inf) / 4)
        if now - max(self._walked, *self._at.values()) > every:
            self._walked, before = now, self._traces
            self._traces = sum(vitals.traces(self._cwd, WALK))
            self._mark(now, tree=before not in (0, self._traces))

    def _mark(self, now: float, **signs: bool) -> None:
        self._at.update({name: now for name, shown in signs.items() if shown})

    def _changed(self, path: Path | str) -> bool:
        """Whether a file is another than at the last look; the first look only remembers it."""
        before, stamp = self._files.get(str(path)), vitals.stamp(path) if path else (0, 0)
        self._files[str(path)] = stamp
        return before not in (None, stamp)

    def _beat(self, lines: int, now: float) -> bool:
        before, self._beaten = self._beaten, now
        return self._beats.add(lines, now - before)

    def _asked_aside(self) -> str:
        """A question on stderr, unless it was there before the last event."""
        older = self._files.get("asked", (0, 0)) == vitals.stamp(self._stderr)
        return "" if older else question(vitals.tail(self._stderr))

    def lifeless(self, told: Verdict) -> Stop | None:
        """Why it must be ended, when the verdict says so. What has said its last word may be silent."""
        if not told.end or self._progress.over:
            return None
        return Stop(ENDS[told.life], told.evidence)

    async def idle(self) -> Stop | None:
        """Whether too many turns passed without a change in the workspace. All its files are looked at, rarely."""
        most, turns, entries = self.budget.idle_turns, self._progress.usage.turns, self._turns
        if not most or self._progress.over or turns - entries[0][0] < most:
            return None
        newest = await asyncio.to_thread(lambda: max(vitals.traces(self._cwd, ALL), default=0))
        jumped = any(later[1] < earlier[1] for earlier, later in pairwise(entries))  # the clock was set
        while len(entries) > 1 and (jumped or entries[0][1] <= newest):
            entries.popleft()
        if (passed := turns - entries[0][0]) < most:
            return None
        return Stop(Outcome.AGENT_ERROR, f"{passed} turns without a change in the workspace")

    def exceeded(self) -> Stop | None:
        """Which limit of the attempt it has passed."""
        used, took, budget = self._progress.usage, self.lasted(), self.budget
        if self.over:
            return self.over
        if budget.seconds and took > budget.seconds:
            return Stop(Outcome.TIMED_OUT, f"out of time: {took:.0f} s, allowed {budget.seconds:.0f} s")
        if reached := attempt_over((used.tokens, used.money), budget):  # a review is metered by nobody else
            return reached.stop
        if budget.turns and used.turns > budget.turns:
            return Stop(Outcome.TURN_LIMIT, f"{used.turns} turns used, the cap of an attempt is {budget.turns}")
        if budget.log_bytes and self.stdout.stat().st_size > budget.log_bytes:
            return Stop(Outcome.AGENT_ERROR, f"printed more than {budget.log_bytes >> 20} MB")
        return None


def read_ending(agent: Agent, heard: Heard, now: datetime) -> Ending:
    """How the session ended: what we did to it, unless its own output names a cause that parks a lane."""
    stderr = heard.stderr.read_text(encoding="utf-8", errors="replace")[-20_000:]
    ending = agent.read(recorded_lines(heard.stdout), heard.exit_code, stderr, now)
    if heard.stop is not None and (heard.stop in FINAL or ending.outcome not in CAUSES):
        return replace(ending, outcome=heard.stop, evidence=f"{heard.why} ({ending.evidence})", claims=())
    if heard.oom and ending.outcome in (Outcome.CRASHED, Outcome.FAST_FAIL):
        return replace(ending, outcome=Outcome.CRASHED, evidence=f"{heard.why} ({ending.evidence})")
    if ending.outcome is Outcome.CRASHED and heard.seconds < FAST and not ending.said and (heard.exit_code or 0) > 0:
        return replace(
            ending, outcome=Outcome.FAST_FAIL, evidence=f"ended after {heard.seconds:.1f} s: {ending.evidence}"
        )
    return ending


def recorded_lines(path: Path) -> Iterator[bytes]:
    """Recorded output line by line; a line longer than 16 MiB is cut."""
    if not path.exists():
        return
    with path.open("rb") as file:
        while line := file.readline(16 << 20):
            yield line
