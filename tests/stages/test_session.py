"""Sessions of real processes: what works is left alone however silent it is, what is dead or stuck is found."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightcrew import proc
from nightcrew.adapters.agents.command import Command
from nightcrew.core.liveness import Life
from nightcrew.core.model import Budget
from nightcrew.core.outcome import Outcome
from nightcrew.ports import Launch, Progress
from nightcrew.stages.session import Heard, Live, read_ending, run_session

PATIENCE = 60.0
linux = sys.platform == "linux"


@dataclass
class Plain:
    """An agent of which the stream tells no more than the lines it printed, unless a line is JSON of `Progress`."""

    progress: Progress = field(default_factory=Progress)

    def opening(self) -> bytes:
        return b""

    def hear(self, line: bytes) -> bytes:
        self.progress.last = line.decode()
        if line.startswith(b"{"):
            for name, value in json.loads(line).items():
                setattr(self.progress, name, value)
        return b""


@dataclass
class Stage:
    """One session at a time, in a workspace of its own; `evidence` is all that its verdicts said."""

    workspace: Path
    folder: Path
    live: Live = field(default_factory=Live)
    lives: set[Life] = field(default_factory=set)
    evidence: list[str] = field(default_factory=list)

    async def play(self, program: str, budget: Budget, progress: Progress | None = None) -> Heard:
        """Run a Python program as the agent, to its end."""
        launch = Launch((sys.executable, "-S", "-c", program), Plain(progress or Progress()))
        watch = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(PATIENCE):
                mark = f"session-{os.getpid()}:{self.workspace}:"
                return await run_session(launch, self.workspace, proc.base_env(), mark, self.folder, budget, self.live)
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        while True:
            told = self.live.verdict
            self.lives.add(told.life)
            self.evidence += [told.evidence] if told.evidence not in self.evidence[-1:] else []
            await asyncio.sleep(0.05)

    def says(self, words: str) -> bool:
        return any(words in told for told in self.evidence)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "tree").mkdir()
    return Stage(tmp_path / "tree", tmp_path / "out")


@pytest.fixture(params=["with a cgroup", "without a cgroup"])
def cgroups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without a cgroup":
        monkeypatch.setenv("NIGHTCREW_CGROUPS", "off")


async def meanwhile(work: Callable[[], Awaitable[None]], session: Awaitable[Heard]) -> Heard:
    """A session, while something is done again and again."""

    async def again() -> None:
        while True:
            await work()
            await asyncio.sleep(0.2)

    task = asyncio.create_task(again())
    try:
        return await session
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# -- what works is left alone ------------------------------------------------------------------------------------------
TOOL = "import subprocess, sys; print('make', flush=True); subprocess.run([sys.executable, '-S', '-c', {!r}])"
UNTIL = "import os, time; end = time.monotonic() + 9\nwhile time.monotonic() < end: "
BURN = UNTIL + "pass"
FORKS = UNTIL + "os.system('i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done')"
COPY = UNTIL + "open('/dev/zero', 'rb').read(65536); time.sleep(0.1)"


@pytest.mark.slow
@pytest.mark.parametrize("work", [BURN, FORKS], ids=["one long compile", "many short ones"])
@pytest.mark.usefixtures("cgroups")
async def test_a_silent_tool_that_computes_lives_far_beyond_the_limit_of_silence(stage: Stage, work: str) -> None:
    heard = await stage.play(TOOL.format(work), Budget(stall_seconds=3))
    assert (heard.stop, heard.exit_code) == (None, 0)
    assert stage.says("but its tree used CPU")


@pytest.mark.slow
async def test_a_silent_tool_that_only_reads_and_writes_lives_where_the_system_shows_it(stage: Stage) -> None:
    heard = await stage.play(TOOL.format(COPY), Budget(stall_seconds=3))
    assert heard.stop is (None if linux else Outcome.STALLED)
    assert stage.says("read or wrote") is linux


@pytest.mark.slow
@pytest.mark.parametrize("where", ["workspace", "transcript"])
async def test_a_file_that_changes_keeps_a_session_alive(stage: Stage, tmp_path: Path, where: str) -> None:
    transcript = tmp_path / "transcript.jsonl"
    file = transcript if where == "transcript" else stage.workspace / "src" / "a.py"
    file.parent.mkdir(exist_ok=True)
    began = asyncio.get_running_loop().time()

    async def change() -> None:
        with file.open("a") as to:
            to.write("x")
        if asyncio.get_running_loop().time() > began + 10:
            stage.live.cancel(Outcome.CANCELLED, "enough")

    progress = Progress(transcript=str(transcript))
    heard = await meanwhile(change, stage.play("import time; time.sleep(300)", Budget(stall_seconds=3), progress))
    assert heard.stop is Outcome.CANCELLED
    assert stage.says("a file in its workspace changed" if where == "workspace" else "its transcript grew")


@pytest.fixture
async def provider() -> AsyncIterator[int]:
    """The port of a server that takes connections and never answers."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.slow
@pytest.mark.usefixtures("cgroups")
async def test_a_cli_that_waits_for_its_model_beside_dead_tools_is_no_zombie(stage: Stage, provider: int) -> None:
    program = (
        "import os, socket; os.fork() or os._exit(0); print('asked', flush=True)\n"
        f"socket.create_connection(('127.0.0.1', {provider})).recv(1)"
    )
    heard = await stage.play(program, Budget(zombie_seconds=1, stall_seconds=6))
    assert heard.stop is Outcome.STALLED
    assert Life.ZOMBIE not in stage.lives


STOPPED_US = """
import asyncio, sys
from pathlib import Path
from nightcrew import proc
from nightcrew.core.model import Budget
from nightcrew.ports import Launch
from nightcrew.stages.session import Live, run_session
from tests.stages.test_session import Plain

async def main(folder, program):
    launch = Launch((sys.executable, "-S", "-c", program), Plain())
    heard = await run_session(launch, folder, proc.base_env(), f"stopped:{folder}:", folder / "out",
                              Budget(stall_seconds=3, seconds=7), Live())
    print(heard.stop, heard.seconds < 7, heard.lines, flush=True)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.slow
async def test_a_session_is_not_blamed_for_the_time_in_which_nightcrew_was_stopped(tmp_path: Path) -> None:
    program = "import time\nfor i in range(24): print(i, flush=True); time.sleep(0.5)"
    root = Path(__file__).parents[2]
    us = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STOPPED_US, str(tmp_path), program, cwd=root, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{root}"},
    )  # fmt: skip
    out = tmp_path / "out" / "stdout"
    async with asyncio.timeout(PATIENCE):
        while not (out.exists() and out.read_bytes().count(b"\n") >= 2):
            await asyncio.sleep(0.05)
        us.send_signal(signal.SIGSTOP)
        while out.read_bytes().count(b"\n") < 22:
            await asyncio.sleep(0.05)
        us.send_signal(signal.SIGCONT)
        said, _ = await us.communicate()
    assert said.decode().split() == ["None", "True", "24"]


# -- what is stuck or dead is found ------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.usefixtures("cgroups")
async def test_a_tool_that_waits_for_ever_is_ended_as_stalled(stage: Stage) -> None:
    heard = await stage.play(TOOL.format("import time; time.sleep(300)"), Budget(stall_seconds=3))
    assert (heard.stop, heard.seconds < 30) == (Outcome.STALLED, True)
    assert "no sign of life" in heard.why
    assert proc.leftovers(f"session-{os.getpid()}:{stage.workspace}:") == []


@pytest.mark.slow
async def test_the_same_heartbeat_again_and_again_is_no_sign_of_life(stage: Stage) -> None:
    program = "import time\nwhile True: print('tool Bash runs', flush=True); time.sleep(2)"
    heard = await stage.play(program, Budget(stall_seconds=4))
    assert (heard.stop, heard.seconds < 40) == (Outcome.STALLED, True)


async def test_a_cli_that_only_ticks_is_ended_as_stalled(stage: Stage) -> None:
    heard = await stage.play("import time\nwhile True: time.sleep(0.02)", Budget(stall_seconds=2))
    assert heard.stop is Outcome.STALLED


@pytest.mark.slow
async def test_an_agent_that_was_stopped_is_found_silent_and_said_to_be_stopped(stage: Stage) -> None:
    heard = await stage.play("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", Budget(stall_seconds=3))
    assert heard.stop is Outcome.STALLED
    assert not linux or "stopped" in heard.why


SHIM_STOPS = "import os, signal; print('hello', flush=True); os.kill(os.getppid(), signal.SIGSTOP)"
NOT_WAITED_FOR = "import os, signal\nif os.fork(): signal.pause()\nprint('hello', flush=True)"


@pytest.mark.slow
@pytest.mark.parametrize("program", [SHIM_STOPS, NOT_WAITED_FOR] if linux else [SHIM_STOPS])
@pytest.mark.usefixtures("cgroups")
async def test_a_session_whose_agent_is_a_zombie_is_found_within_ten_seconds(stage: Stage, program: str) -> None:
    heard = await stage.play(program, Budget(stall_seconds=600))
    assert heard.stop is Outcome.CRASHED
    assert "zombie" in heard.why
    assert Life.ZOMBIE in stage.lives
    assert float(heard.why.split("dead for ")[1].split(" ")[0]) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_dialog_that_was_printed_is_ended_as_one(stage: Stage, stream: str) -> None:
    program = f"import sys, time; print('Do you trust this folder? [y/N]', end=' ', file=sys.{stream}, flush=True)"
    program += "; time.sleep(300)"
    heard = await stage.play(program, Budget(prompt_seconds=3, stall_seconds=600))
    assert (heard.stop, heard.seconds < 30) == (Outcome.PROMPT_WAIT, True)
    assert "Do you trust this folder? [y/N]" in heard.why


async def test_a_dialog_that_the_stream_tells_of_is_ended_though_the_cli_ticks(stage: Stage) -> None:
    told = json.dumps({"waiting_on": "prompt", "asks": "May I run rm -rf?"})
    program = f"print({told!r}, flush=True)\nwhile True: pass"
    heard = await stage.play(program, Budget(prompt_seconds=1))
    assert heard.stop is Outcome.PROMPT_WAIT
    assert "May I run rm -rf?" in heard.why


# -- no progress -------------------------------------------------------------------------------------------------------
TURNS = """
import json, pathlib, time
for turn in range(1, 31):
    print(json.dumps({"type": "usage", "turns": 1}), flush=True)
    if %s: pathlib.Path("src").mkdir(exist_ok=True); pathlib.Path("src", f"{turn}.py").write_text("x")
    time.sleep(0.25)
"""


@dataclass
class Counting(Plain):
    """Each line is a turn."""

    def hear(self, line: bytes) -> bytes:
        self.progress.usage = replace(self.progress.usage, turns=self.progress.usage.turns + 1)
        return b""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "budget", "stop"),
    [
        ("False", 10, Outcome.AGENT_ERROR), ("turn < 3", 10, Outcome.AGENT_ERROR), ("turn % 7 == 0", 10, None),
        ("False", 0, None),
    ],
)  # fmt: skip
async def test_turns_that_change_nothing_end_a_session_and_one_change_resets_the_count(
    stage: Stage, changes: str, budget: int, stop: Outcome | None
) -> None:
    (stage.workspace / "old.py").write_text("x")
    await asyncio.sleep(0.05)  # older than the session, also for a coarse clock
    launch = Launch((sys.executable, "-S", "-c", TURNS % changes), Counting())
    heard = await run_session(
        launch, stage.workspace, proc.base_env(), f"turns-{os.getpid()}:", stage.folder, Budget(idle_turns=budget),
        stage.live,
    )  # fmt: skip
    assert heard.stop is stop
    assert stop is None or "turns without a change in the workspace" in heard.why
    assert stop is None or heard.lines < 25


# -- limits of the machine ------------------------------------------------------------------------------------------
HOG = "import time; held = []\nwhile len(held) < 40: held.append(b'x' * (10 << 20)); time.sleep(0.2)\ntime.sleep(300)"


@pytest.mark.slow
@pytest.mark.usefixtures("cgroups")
async def test_a_session_that_takes_too_much_memory_is_ended_as_out_of_memory(stage: Stage) -> None:
    heard = await stage.play(HOG, Budget(memory_mb=150))
    ending = read_ending(Command("mine", {"command": [sys.executable]}), heard, datetime.now(UTC))
    assert (ending.outcome, heard.oom, heard.peak_memory > 100 << 20) == (Outcome.CRASHED, True, True)
    assert "out of memory: peak" in ending.evidence
    assert "limit 150 MB" in ending.evidence


@pytest.mark.slow
@pytest.mark.usefixtures("cgroups")
async def test_a_session_that_forks_without_end_is_held_or_ended(stage: Stage) -> None:
    program = "import os, time\nfor _ in range(100): os.fork() or time.sleep(300)\ntime.sleep(300)"
    heard = await stage.play(program, Budget(processes=30, seconds=30))
    assert heard.stop is Outcome.AGENT_ERROR or heard.exit_code == 1
    assert proc.leftovers(f"session-{os.getpid()}:{stage.workspace}:") == []
