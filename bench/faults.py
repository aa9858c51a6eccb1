"""The fault bench: named faults, each a whole night of `nightcrew up` on real repositories, and what came of each.

    python bench/faults.py [NAMES...] [--list] [--json] [--real] [--write docs/faults.md] [--jobs 2] [--keep FOLDER]

A name may be a part of one. Without --real, faults that need the real claude and codex are left out unless they are
named. Exit code 1 when any fault did not come to what it must. What cannot be played here is "not run"; with CI=true
that is a failure too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import fault_agents  # noqa: E402
import fault_machine  # noqa: E402
import fault_outside  # noqa: E402
import fault_page  # noqa: E402
import fault_providers  # noqa: E402
import fault_trees  # noqa: E402
from fault_house import House  # noqa: E402
from fault_look import Fault, Result, look, misses  # noqa: E402
from tests.e2e.agents import AgentMissing, program  # noqa: E402

PARTS = {
    "Providers, told to the real claude and codex": fault_providers.FAULTS,
    "Agents, on the scripted agent": fault_agents.FAULTS,
    "What agents start": fault_trees.FAULTS,
    "The machine, and nightcrew itself": fault_machine.FAULTS,
    "Board, forge, caps, clocks on the wall": fault_outside.FAULTS,
}
assert len({fault.title for part in PARTS.values() for fault in part}) == sum(map(len, PARTS.values()))
LIVE: list[House] = []
NUMBERS = count(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Play them and print what came of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--real", action="store_true", help="also with the real claude and codex")
    parser.add_argument("--write", type=Path, help="write the page with the table")
    parser.add_argument("--jobs", type=int, default=2, help="nights at the same time")
    parser.add_argument("--keep", type=Path, help="play in this folder, and keep what is there")
    args = parser.parse_args(argv)
    chosen = [f for part in PARTS.values() for f in part if _wanted(f, args.names, args.real)]
    if args.list:
        print("\n".join(f"{fault.agent:9} {fault.name:28} {fault.what}" for fault in chosen))
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    began = time.monotonic()
    with _folder(args.keep) as folder:
        results = list(play(chosen, folder, args.jobs, (lambda _: None) if args.json else _say))
    seconds = time.monotonic() - began
    if args.json:
        print(json.dumps([asdict(result) for result in results]))
    if args.write:
        args.write.write_text(fault_page.page(results, PARTS, seconds, args.jobs), encoding="utf-8")
    print(fault_page.summary(results, seconds), file=sys.stderr)
    return int(any(result.wrong for result in results))


def _say(line: str) -> None:
    print(line, flush=True)


def _wanted(fault: Fault, names: Sequence[str], real: bool) -> bool:
    if names:
        return any(name in fault.title for name in names)
    return real or fault.agent == "scripted"


def _leave(number: int, frame: object) -> None:
    """Stopped from outside: leave nothing behind."""
    for house in LIVE:
        house.end()
    os._exit(128 + number)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Where to play: not on a slow disk, and gone afterwards unless it is named."""
    shm = Path("/dev/shm")
    folder = kept or Path(tempfile.mkdtemp(prefix="nightcrew-faults-", dir=shm if shm.exists() else None))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder.resolve()
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def play(faults: Iterable[Fault], folder: Path, jobs: int, say: Callable[[str], None]) -> Iterator[Result]:
    """Play each; first, for each agent, the night without a fault that the others are compared with."""
    faults = list(faults)
    usual = {(f.agent, f.needs == "faketime"): _usual(f) for f in faults if not missing(f)}
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda fault: one(fault, folder, 0.0), usual.values()))
        for result in results:
            say(fault_page.line(result))
            yield result
        if any(result.wrong for result in results):
            return  # with nothing to compare with, nothing can be said
        lengths = dict(zip(usual, (result.seconds for result in results), strict=True))
        took = {f.title: lengths.get((f.agent, f.needs == "faketime"), 0.0) for f in faults}
        for result in pool.map(lambda fault: one(fault, folder, took[fault.title]), faults):
            say(fault_page.line(result))
            yield result


def _usual(fault: Fault) -> Fault:
    """The same night without the fault, also as slow as libfaketime makes it."""
    if fault.needs != "faketime":
        return Fault("no fault", "what all others are compared with", healthy, fault.agent)
    return Fault("no fault, libfaketime", "what those that turn the clock are compared with", slowed, fault.agent)


def slowed(house: House) -> None:
    """Nothing goes wrong, and the clock is asked of libfaketime."""
    fault_machine.clock(house, "+0")
    healthy(house)


def healthy(house: House) -> None:
    """Nothing goes wrong."""
    house.tickets()
    house.night()


def one(fault: Fault, folder: Path, usual: float) -> Result:
    """One night with one fault; `usual` is how long such a night takes without."""
    result = Result(fault.name, fault.what, fault.agent)
    if why := missing(fault):
        result.not_run = why
        result.wrong += [why] if os.environ.get("CI") == "true" else []
        return result
    house = House(folder / f"{next(NUMBERS)}-{_slug(fault.title)}", agent_name=fault.agent)
    LIVE.append(house)
    try:
        fault.play(house)
        result.seconds = max(house.ended - house.began - usual - fault.takes, 0.0)
        result.left = look(house)
        result.wrong = misses(fault, result.left, result.seconds, house)
    except Exception as error:
        frames = reversed(traceback.extract_tb(error.__traceback__))
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        result.wrong = [f"{type(error).__name__} at {where}: {str(error)[-1500:]}"]
    finally:
        house.end()
        LIVE.remove(house)
    return result


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def missing(fault: Fault) -> str:
    """What is not here that the fault needs, "" when nothing."""
    if fault.needs and sys.platform != "linux":
        return "needs Linux"
    if fault.needs == "faketime" and not fault_machine.faketime():
        return "libfaketime is not here: apt-get install faketime"
    if fault.agent != "scripted":
        try:
            program(fault.agent)
        except AgentMissing as error:
            return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main())
