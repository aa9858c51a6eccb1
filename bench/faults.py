"""The fault bench: named faults, each a whole night of `nightcrew up` on real repositories, and what came of each.

    python bench/faults.py [NAMES...] [--list] [--json] [--write docs/faults.md] [--real] [--jobs 2] [--keep]

A name may be a part of one. Without --real, faults that need the real CLIs are left out unless they are named. Exit
code 1 when any fault is not met as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import fault_agents  # noqa: E402
import fault_machine  # noqa: E402
import fault_outside  # noqa: E402
import fault_providers  # noqa: E402
import fault_trees  # noqa: E402
from fault_house import House  # noqa: E402
from fault_look import Fault, Left, look, misses  # noqa: E402

MODULES = (fault_agents, fault_trees, fault_machine, fault_outside, fault_providers)
FAULTS = [fault for module in MODULES for fault in module.FAULTS]


@dataclass(frozen=True)
class Result:
    """What came of one fault. `seconds` of night lost; `wrong` is empty when all is as it must be."""

    name: str
    what: str
    agent: str
    left: Left | None = None
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    not_run: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Play them and print what came of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--real", action="store_true", help="also with the real claude and codex")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="play in this folder, and keep what is there")
    args = parser.parse_args(argv)
    chosen = [f for f in FAULTS if _wanted(f, args.names, args.real)]
    if args.list:
        print("\n".join(f"{fault.agent:9} {fault.name:28} {fault.what}" for fault in chosen))
        return 0
    began = time.monotonic()
    with _folder(args.keep) as folder:
        results = list(play(chosen, Path(folder), args.jobs, print if not args.json else lambda _: None))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    if args.json:
        print(json.dumps([asdict(result) for result in results]))
    return int(any(result.wrong for result in results))


def _wanted(fault: Fault, names: Sequence[str], real: bool) -> bool:
    if names:
        return any(name in f"{fault.name} ({fault.agent})" for name in names)
    return real or fault.agent == "scripted"


class _folder:
    """Where to play: not on a slow disk, and gone afterwards unless it is named."""

    def __init__(self, kept: Path | None) -> None:
        self._kept, self._shm = kept, Path("/dev/shm")

    def __enter__(self) -> str:
        if self._kept:
            self._kept.mkdir(parents=True, exist_ok=True)
            return str(self._kept.resolve())
        self._made = tempfile.mkdtemp(prefix="nightcrew-faults-", dir=self._shm if self._shm.exists() else None)
        return self._made

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            shutil.rmtree(self._made, ignore_errors=True)


def play(faults: Iterable[Fault], folder: Path, jobs: int, say: Callable[[str], None]) -> Iterable[Result]:
    """Play each; first, for each agent, the night without a fault that the others are compared with."""
    faults = list(faults)
    healthy = {agent: Fault(f"healthy ({agent})", "nothing goes wrong", fault_agents.healthy, agent) for agent in dict.fromkeys(f.agent for f in faults)}
    usual: dict[str, float] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for agent, result in zip(healthy, pool.map(lambda f: one(f, folder, 0.0), healthy.values()), strict=True):
            usual[agent] = result.seconds
            say(line(result))
            yield result
            if result.wrong:
                return  # with nothing to compare with, nothing can be said
        for result in pool.map(lambda f: one(f, folder, usual[f.agent]), faults):
            say(line(result))
            yield result


def one(fault: Fault, folder: Path, usual: float) -> Result:
    """One night with one fault."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{fault.name} {fault.agent}".lower())
    house = House(folder / name, agent_name=fault.agent)
    try:
        fault.play(house)
        seconds = house.ended - house.began - usual - fault.takes
        left = look(house)
        wrong = misses(fault, left, seconds, house)
        return Result(fault.name, fault.what, fault.agent, left, max(seconds, 0.0), wrong)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        at = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(where))
        return Result(fault.name, fault.what, fault.agent, wrong=[f"{type(error).__name__} at {at}: {str(error)[-1500:]}"])
    finally:
        house.end()


def line(result: Result) -> str:
    """One line for people."""
    mark = "not run" if result.not_run else "WRONG" if result.wrong else "ok"
    left = result.left
    counts = f"{left.finished}/{left.tickets} {left.attempts} {left.consumed} {left.duplicates} {left.lost} {len(left.leftovers)}" if left else "-"
    told = told_of(left) if left else ""
    return f"{mark:8}{result.name:28} {result.agent:9}{counts:16}{result.seconds:6.1f} s  {told}" + "".join(f"\n         {w}" for w in result.wrong)


def told_of(left: Left) -> str:
    """How the attempts ended, tickets with the same story together, plain successes left out."""
    stories: dict[tuple[str, ...], list[str]] = {}
    for key, outcomes in left.told.items():
        stories.setdefault(outcomes, []).append(key)
    return "; ".join(", ".join(story) + (f" ({len(keys)} tickets)" if len(keys) > 1 else "") for story, keys in stories.items() if story != ("done",))


if __name__ == "__main__":
    sys.exit(main())
