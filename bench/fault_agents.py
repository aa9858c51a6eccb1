"""Faults of agents, on the scripted agent: limits it tells of, ends of all kinds, output nobody can read."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from fault_house import PROMPT, STALL, ZOMBIE, House
from fault_look import Fault, Faults

FAULTS = Faults()


def night(name: str, what: str, *attempts: list[object], **expected: object) -> None:
    """A fault that is a script for T-1 and nothing else."""

    def play(house: House) -> None:
        house.hit(*attempts)
        house.tickets()
        house.night()

    FAULTS.append(Fault(name, what, play, **expected))  # type: ignore[arg-type]


HALF = [{"write": {"path": "half.txt", "text": "half\n"}}, {"commit": "Half of it"}]
"""A commit that must not be lost, whatever happens then."""

night("limit, epoch reset", "the agent says it is limited until a moment 3 s ahead", [*HALF, {"limit": 3}],
      told={"T-1": "rate_limited done"}, takes=3.2, lane="limited")  # fmt: skip
night("limit, no reset", "the agent says it is limited and not until when",
      [*HALF, {"result": {"outcome": "rate_limited", "text": "usage limit reached"}}],
      told={"T-1": "(rate_limited )+done"}, takes=1, lane="limited")  # fmt: skip
night("overloaded", "the agent says its provider is overloaded, twice",
      [{"result": {"outcome": "overloaded", "text": "overloaded"}}],
      [{"result": {"outcome": "overloaded", "text": "overloaded"}}],
      told={"T-1": "overloaded overloaded done"}, lane="overloaded")  # fmt: skip
night("garbage", "the agent prints 200 KB that is neither text nor JSON, then works",
      [{"garbage": 200_000}, *HALF], told={"T-1": "done"})  # fmt: skip
night("10 MB line", "the agent prints one line of 10 MB, then works", [{"long_line": 10}, *HALF], told={"T-1": "done"})
night("exit 0, nothing changed", "the agent says it is done and has changed nothing", [{"say": "All done!"}],
      told={"T-1": "no_change done"}, consumed=4)  # fmt: skip
night("crash by SIGSEGV", "the agent dies of a segmentation fault after a commit",
      [*HALF, {"run": {"command": "kill -SEGV $PPID", "check": False}}, "hang"],
      told={"T-1": "crashed done"})  # fmt: skip
night("refusal", "the model declines by policy", [{"result": {"outcome": "refused", "text": "I can't help with this"}}],
      told={"T-1": "refused"}, finished=2, consumed=3)  # fmt: skip
night("hang, ignoring SIGTERM", "the agent stops after a commit without a sign of life, and ignores SIGTERM",
      [*HALF, "deaf", "hang"], told={"T-1": "stalled done"}, takes=STALL + 5)  # fmt: skip


def rogue(name: str, what: str, script: str, times: int = 1, **expected: object) -> None:
    """A fault that is a shell script in the place of T-1's agent."""

    def play(house: House) -> None:
        house.rogue(script, times=times)
        house.tickets()
        house.night()

    FAULTS.append(Fault(name, what, play, **expected))  # type: ignore[arg-type]


SHELL_HALF = "echo half >half.txt; git add -A; git commit -qm Half; git rev-parse HEAD >>$HOME/commits; "
rogue("fast fail", "the agent ends with 1 at once and says nothing, twice", "exit 1", 2,
      told={"T-1": "fast_fail fast_fail done"})  # fmt: skip
rogue("fast fail, for a while", "the agent ends with 1 at once, five times in a row: its lane is left alone in between",
      "exit 1", 5, told={"T-1": "(fast_fail ){5}done"}, lane="overloaded")  # fmt: skip
rogue("silent compile", "a healthy compile: CPU for 3 times as long as silence is allowed (a 20 minute one, scaled)",
      f"end=$(($(date +%s) + {3 * STALL:.0f})); while [ $(date +%s) -lt $end ]; do :; done",
      told={"T-1": "done"}, takes=3 * STALL)  # fmt: skip
rogue("turned to a zombie", "the agent dies, and the program that started it neither notices nor does anything else",
      f"{SHELL_HALF} exec python3 -c 'import os, signal; os.fork() or os._exit(0); signal.pause()'",
      told={"T-1": "(crashed|stalled) done"}, takes=max(ZOMBIE, STALL))  # fmt: skip


def mended(name: str, what: str, script: str, outcome: str, **expected: object) -> None:
    """A fault of T-1's agent that only a person can mend; then its lane is taken back in."""

    def play(house: House) -> None:
        house.rogue(script)
        house.tickets()
        with house.up():
            house.lane_is("misconfigured")
            house.must(house.run("resume").code == 0, "`resume` did not work")
            house.finish()

    FAULTS.add(name, what, told={"T-1": f"{outcome} done"}, lane="misconfigured", **expected)(play)


mended("not installed", "the agent ends with 127: a program that it needs is not there; a person mends it", "exit 127",
       "misconfigured")  # fmt: skip
mended("prompt", "the agent waits at a [y/N] question; a person mends it",
       f"{SHELL_HALF} printf 'Do you want to overwrite it? [y/N] '; exec sleep 1000", "prompt_wait",
       takes=PROMPT)  # fmt: skip


def child_of(house: House) -> int:
    """The agent's own process: what the shim that notes its exit code runs."""
    shim = house.handles()[-1]["pid"]
    return int(Path(f"/proc/{shim}/task/{shim}/children").read_text().split()[0])


def killed(house: House, *, shim: bool) -> None:
    house.hit([*HALF, "hang"])
    house.tickets()
    with house.up("--until-idle") as process:
        house.until(lambda: any(b'"sha"' in path.read_bytes() for path in house.sessions()))
        os.kill(house.handles()[-1]["pid"] if shim else child_of(house), signal.SIGKILL)
        process.wait(60)
        house.ended_now()


FAULTS += [
    Fault("agent killed", "kill -9 of the agent from outside", lambda house: killed(house, shim=False),
          told={"T-1": "crashed done"}, needs="linux"),
    Fault("shim killed", "kill -9 of the small program that notes how the agent ends",
          lambda house: killed(house, shim=True), told={"T-1": "crashed done"}, needs="linux"),
]  # fmt: skip
