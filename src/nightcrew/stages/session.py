"""Session: one agent process, heard line by line, watched, and ended with everything it started (I5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from nightcrew import proc
from nightcrew.core.model import Budget
from nightcrew.core.outcome import Ending, Outcome
from nightcrew.ports import Agent, Launch, Progress

AFTER_LAST_WORD = 10.0
"""Seconds an agent may live on after its last word (claude outlives its `result` through background tasks)."""
FAST = 5.0
"""Seconds within which an end with nothing said is a failed start, not failed work."""
FINAL = frozenset({Outcome.CANCELLED, Outcome.INFRA})
CAUSES = frozenset({Outcome.RATE_LIMITED, Outcome.OVERLOADED, Outcome.LOGGED_OUT, Outcome.OUT_OF_CREDIT, Outcome.DONE})
LOOK_EVERY = 0.5


@dataclass
class Live:
    """A session as others see it while it runs. `cancel()` ends it; `heard` is a monotonic time."""

    progress: Progress = field(default_factory=Progress)
    heard: float = 0.0
    started: float = 0.0
    why: str = ""
    outcome: Outcome | None = None
    _asked: asyncio.Event = field(default_factory=asyncio.Event)

    def cancel(self, outcome: Outcome, why: str) -> None:
        """Ask the session to end now, with this outcome; the first asker wins."""
        if self.outcome is None:
            self.outcome, self.why = outcome, why
        self._asked.set()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()


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


async def run_session(
    launch: Launch, cwd: Path, env: Mapping[str, str], mark: str, folder: Path, budget: Budget, live: Live
) -> Heard:
    """Start the agent, hear it to its end, end everything it started. Output is in `folder`, whatever happens to us."""
    folder.mkdir(parents=True, exist_ok=True)
    stdin = None if launch.two_way else folder / "stdin"
    opening = launch.conversation.opening()
    if stdin:
        stdin.write_bytes(opening)
    live.progress, live.started, live.heard = launch.conversation.progress, time.monotonic(), time.monotonic()
    process = await proc.start(
        launch.argv, cwd=cwd, env={**env, **launch.env}, mark=mark, stdout=folder / "stdout", stderr=folder / "stderr",
        stdin=stdin, two_way=launch.two_way, rc=folder / "rc",
    )  # fmt: skip
    watch = asyncio.create_task(_watch(process, folder, budget, live))
    try:
        (folder / "handle.json").write_text(process.handle.to_json())
        if launch.two_way:
            process.write(opening)
        await _hear(process, launch, folder, live)
        code = await process.wait(timeout=0)
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        survivors = await _end(process)
    return Heard(
        code if code is not None else process.returncode, folder / "stdout", folder / "stderr",
        time.monotonic() - live.started, live.outcome, live.why, survivors, live.progress.lines,
    )  # fmt: skip


async def _end(process: proc.Process) -> int:
    """End everything; how many processes the agent had left behind when it ended by itself."""
    left = 0 if process.returncode is None else len(proc.leftovers(process.handle.mark))
    await proc.end(process, grace=5.0 if process.returncode is None else 0.0)
    return left


async def _hear(process: proc.Process, launch: Launch, folder: Path, live: Live) -> None:
    conversation = launch.conversation
    async for batch in proc.lines(folder / "stdout", process):
        live.heard = time.monotonic()
        for line in batch:
            conversation.progress.lines += 1
            if answer := conversation.hear(line):
                process.write(answer)
        if conversation.progress.over and launch.two_way:
            process.close_stdin()


async def _watch(process: proc.Process, folder: Path, budget: Budget, live: Live) -> None:
    """End the process when it is asked for, out of time or budget, or shows no sign of life on any signal."""
    cpu, moved, over_since = -1.0, time.monotonic(), 0.0
    while process.returncode is None:
        with suppress(TimeoutError):
            await asyncio.wait_for(live._asked.wait(), LOOK_EVERY)
        now = time.monotonic()
        if live.progress.over:
            over_since = over_since or now
            if now - over_since > AFTER_LAST_WORD:
                break
        quiet = now - max(live.heard, moved)
        if quiet <= budget.stall_seconds / 2:
            cpu = -1.0
        elif (busy := proc.signs(process.handle).cpu_seconds) > cpu + 0.05:
            # Silent but working: a long compile is healthy. The first look only says what it had used before.
            cpu, moved = busy, now if cpu >= 0 else moved
        if exceeded := _exceeded(now, quiet, budget, live, folder):
            live.cancel(*exceeded)
        if live.asked:
            break
    await proc.end(process, grace=5.0)


def _exceeded(now: float, quiet: float, budget: Budget, live: Live, folder: Path) -> tuple[Outcome, str] | None:
    used, took = live.progress.usage, now - live.started
    if budget.seconds and took > budget.seconds:
        return Outcome.TIMED_OUT, f"out of time: {took:.0f} s, allowed {budget.seconds:.0f} s"
    if budget.stall_seconds and quiet > budget.stall_seconds and not live.progress.over:
        return (
            Outcome.STALLED,
            f"no output and no CPU time for {quiet:.0f} s while waiting on the {live.progress.waiting_on}",
        )
    if budget.tokens and used.tokens > budget.tokens:
        return Outcome.TOKEN_CAP, f"{used.tokens:,} tokens used, the cap of an attempt is {budget.tokens:,}"
    if budget.money and used.money > budget.money:
        return Outcome.MONEY_CAP, f"${used.money:.2f} used, the cap of an attempt is ${budget.money:.2f}"
    if budget.turns and used.turns > budget.turns:
        return Outcome.TURN_LIMIT, f"{used.turns} turns used, the cap of an attempt is {budget.turns}"
    if budget.log_bytes and (folder / "stdout").stat().st_size > budget.log_bytes:
        return Outcome.AGENT_ERROR, f"printed more than {budget.log_bytes >> 20} MB"
    return None


def read_ending(agent: Agent, heard: Heard, now: datetime) -> Ending:
    """How the session ended: what we did to it, unless its own output names a cause that parks a lane."""
    stderr = heard.stderr.read_text(encoding="utf-8", errors="replace")[-20_000:]
    ending = agent.read(recorded_lines(heard.stdout), heard.exit_code, stderr, now)
    if heard.stop is not None and (heard.stop in FINAL or ending.outcome not in CAUSES):
        return replace(ending, outcome=heard.stop, evidence=f"{heard.why} ({ending.evidence})", claims=())
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
