"""kill -9 of nightcrew, again and again, while it works a board: what is left is as if nothing had happened.

    python bench/kill9.py [--kills 200] [--tickets 30] [--repos 3] [--seed 1] [--database URL|postgres] [--json]

Half of the kills come at random moments, the other half at points: before and after every durable step and every
write, as the seed decides. After each nightcrew is started again, and at last left to finish. Tickets come onto the
board one at a time, so that every kill finds work. `--database postgres` starts a server of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.durable.world import World

from nightcrew.testing.postgres import PostgresServer

REPOS = ("alpha", "beta", "gamma")
WAY = (
    "adopt", "start_attempt", "start_workflow", "prepare", "claim_branch", "push", "workspace", "make_tree", "set_run",
    "session", "start_agent", "spawn", "gates", "collect", "publish", "claim_patch", "push_branch", "open", "keep_head",
    "record", "finish_attempt", "settle", "move", "clean", "unmake",
)  # fmt: skip
"""The points in the order in which a ticket comes to them."""
GROUP = 4  # points in a row; for each row there is a new ticket, so that there is one that has not passed them yet
LATEST = 3.0  # seconds of a start until the latest random kill
PATIENCE = 8.0  # seconds until a point that is never reached is given up, and the kill comes now


def main(argv: Sequence[str] | None = None) -> int:
    """Do it and print what came of it; exit code 1 when something was lost, doubled or left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--tickets", type=int, default=30)
    parser.add_argument("--repos", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", default="", help="a PostgreSQL URL, or `postgres` for a server of its own")
    parser.add_argument("--dir", type=Path, help="where to play (default: a new folder, removed when all is well)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    home = args.dir or Path(tempfile.mkdtemp(prefix="nightcrew-kill9-"))
    with database(args.database) as url:
        result = play(World(home / "world", url), args.kills, args.tickets, REPOS[: args.repos], args.seed)
    print(json.dumps(result) if args.json else "\n".join(f"{key:20} {value}" for key, value in result.items()))
    if result["as_it_should_be"] and not args.dir:
        shutil.rmtree(home, ignore_errors=True)
    return 0 if result["as_it_should_be"] else 1


@contextmanager
def database(named: str) -> Iterator[str]:
    """The URL to use."""
    if named != "postgres":
        yield named
        return
    with PostgresServer() as server, server.database() as url:
        yield url


def play(world: World, kills: int, tickets: int, repos: Sequence[str], seed: int) -> dict[str, object]:
    """Kill it `kills` times while it works `tickets` tickets; what is left."""
    luck, began = random.Random(seed), time.monotonic()
    world.make(0, repos, waits=2.5, running=6, workspace="auto")
    done, missed = Counter[str](), Counter[str]()
    for number, at in enumerate(plan(kills, luck)):
        if number % (2 * GROUP) == 0 or number == 2 * GROUP - 1:
            add(world, tickets, repos)
        how = kill(world, at, luck)
        done[how] += 1
        missed[at] += how == "missed"
    while add(world, tickets, repos):
        pass
    last = world.start("up", "--until-idle")
    code = last.wait(600)
    verdict = world.verdict()
    attempts = [all_ for all_, _ in verdict.attempts.values()]
    consumed = [consumed for _, consumed in verdict.attempts.values()]
    result: dict[str, object] = {
        "tickets": tickets, "pull_requests": verdict.pull_requests, "duplicates": verdict.duplicates,
        "branches": verdict.branches, "commits": len(world.told()), "lost_work": len(verdict.lost),
        "processes_left": len(verdict.processes_left), "states": verdict.states, "kills": sum(done.values()),
        "kills_at_random": done["random"], "kills_at_points": done["point"], "kills_at_missed_points": done["missed"],
        "missed_points": sorted(+missed),
        "attempts": sum(attempts), "attempts_consumed": sum(consumed), "most_attempts": max(attempts, default=0),
        "mounts_left": len(world.mounts()), "exit_code": code, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    right = {"pull_requests": tickets, "duplicates": 0, "branches": tickets, "lost_work": 0, "processes_left": 0,
             "exit_code": 0, "attempts_consumed": tickets}  # fmt: skip
    return {**result, "as_it_should_be": all(result[key] == value for key, value in right.items())}


def plan(kills: int, luck: random.Random) -> list[str]:
    """Which life ends how: a few points in the order of a ticket's way, then as many random moments ("")."""
    every = [f"{point}:{when}" for point in WAY for when in ("before", "after")]
    luck.shuffle(every)
    steady, lives = cycle(every), list[str]()
    while len(lives) < kills:
        points = sorted((next(steady) for _ in range(GROUP)), key=lambda at: WAY.index(at.partition(":")[0]))
        lives += [*points, *[""] * GROUP]
    return lives[:kills]


def add(world: World, most: int, repos: Sequence[str]) -> bool:
    """The next ticket, unless there are `most` already."""
    number = len(list((world.home / "tickets").glob("*.md"))) + 1
    if number <= most:
        world.ticket(f"K-{number}", repos[number % len(repos)])
    return number < most


def kill(world: World, at: str, luck: random.Random) -> str:
    """One life of nightcrew: how it was killed (random, point, or missed: the point was not reached)."""
    process = world.start("up", at=at)
    world.wait(process, PATIENCE if at else luck.uniform(0.2, LATEST))
    if process.poll() is None:
        process.kill()
        process.wait()
        return "missed" if at else "random"
    if process.returncode != -signal.SIGKILL:
        raise SystemExit(f"nightcrew ended by itself ({process.returncode}): {world.home / 'up.log'}")
    return "point"


if __name__ == "__main__":
    sys.exit(main())
