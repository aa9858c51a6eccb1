"""How long the conflict radar takes for a night's branches:  python bench/radar.py [--branches 35] [--files 5000]

Real git on a repository made for it: every branch changes a few files, some of them those of another branch. Prints one
JSON object: seconds for all pairs the first time, after one push, after the base moved, and as a new process finds them
remembered. Promised is less than 10 s for all pairs; exits with 1 otherwise, or when a conflict was missed or made up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nightcrew.git import Hub
from nightcrew.git.radar import Radar

ASKED = 10.0  # seconds
LINES = 60
COMMIT = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "commit", "-q", "-a", "-m"]
Edits = dict[str, dict[str, set[int]]]  # branch -> file -> lines


def git(tree: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(tree), *args], check=True, capture_output=True, text=True).stdout.strip()


def text(number: int) -> list[str]:
    return [f"def step_{number}_{line}(): return {number * line}" for line in range(LINES)]


def make(tree: Path, files: int) -> list[str]:
    """A repository of so many files, in folders of 25; their paths."""
    paths = [f"src/part_{n // 250}/area_{n // 25}/module_{n}.py" for n in range(files)]
    for number, path in enumerate(paths):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text("\n".join(text(number)) + "\n")
    git(tree.parent, "init", "-q", "-b", "main", str(tree))
    git(tree, "add", "-A")
    git(tree, *COMMIT, "all files")
    return paths


def branch(tree: Path, name: str, start: str, edits: dict[str, set[int]]) -> str:
    git(tree, "checkout", "-q", "-B", name, start)
    for path, lines in edits.items():
        now = (tree / path).read_text().splitlines()
        for line in lines:
            now[line] += f"  # by {name}"
        (tree / path).write_text("\n".join(now) + "\n")
    git(tree, *COMMIT, f"work of {name}")
    return git(tree, "rev-parse", "HEAD")


def clashes(edits: Edits) -> set[frozenset[str]]:
    """The pairs that change lines of the same file within each other's reach."""
    names = sorted(edits)
    return {
        frozenset((a, b)) for a in names for b in names if a < b
        for path in edits[a].keys() & edits[b].keys()
        if any(abs(i - j) <= 1 for i in edits[a][path] for j in edits[b][path])
    }  # fmt: skip


async def timed(radar: Radar, base: str, heads: dict[str, str]) -> tuple[float, int, set[frozenset[str]]]:
    asked, start = radar.asked, time.perf_counter()
    found = await radar.look(base, heads)
    took = time.perf_counter() - start
    return took, radar.asked - asked, {frozenset((clash.one, clash.other)) for clash in found.pairs}


async def play(folder: Path, branches: int, files: int) -> dict[str, object]:
    luck = random.Random(7)
    tree = folder / "upstream"
    paths = make(tree, files)
    base, popular = git(tree, "rev-parse", "main"), luck.sample(paths, 10)
    edits: Edits = {
        f"nightcrew/k-{n}": {p: {luck.randrange(LINES)} for p in [*luck.sample(paths, 6), *luck.sample(popular, 3)]}
        for n in range(branches)
    }
    heads = {name: branch(tree, name, base, edits[name]) for name in edits}
    hub = Hub(folder / "hub.git", f"file://{tree}")
    await hub.ensure()
    await hub.fetch_base("main")
    radar = Radar(hub)
    first, pairs, found = await timed(radar, base, heads)
    right = found == clashes(edits)
    pushed = "nightcrew/k-0"
    edits[pushed] = {**edits[pushed], paths[0]: {1}}
    heads[pushed] = branch(tree, pushed, heads[pushed], {paths[0]: {1}})
    after, again, found = await timed(radar, base, heads)
    right = right and found == clashes(edits)
    remembered, none, found = await timed(Radar(hub), base, heads)
    right = right and found == clashes(edits) and none == 0
    git(tree, "checkout", "-q", "main")
    (tree / paths[-1]).write_text("the base moved\n")
    git(tree, *COMMIT, "base")
    moved, against, _ = await timed(radar, await hub.fetch_base("main"), heads)
    loose = sum(1 for _ in (hub.path / "objects").glob("??/*"))
    return {
        "files": files, "branches": branches, "pairs": branches * (branches - 1) // 2, "in_conflict": len(found),
        "first_s": round(first, 2), "first_asked": pairs, "one_push_s": round(after, 2), "one_push_asked": again,
        "base_moved_s": round(moved, 2), "base_moved_asked": against, "new_process_s": round(remembered, 2),
        "right": right, "left_objects": loose,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--branches", type=int, default=35)
    parser.add_argument("--files", type=int, default=5000)
    args = parser.parse_args()
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.exists() else None) as folder:
        told = asyncio.run(play(Path(folder), args.branches, args.files))
    print(json.dumps(told))
    sys.exit(not told["right"] or told["first_s"] >= ASKED)


if __name__ == "__main__":
    main()
