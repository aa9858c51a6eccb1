"""A week of nights on a virtual clock: what pacing is worth, and whether the owner's share is left alone.

    python bench/week.py               about a minute on two cores; asked: >= 15 % more tickets, the kept share never used
    python bench/week.py --seeds 3 --json

*Blind* is everything nightcrew does but pacing: it parks a limited lane until the stated reset and resumes each session.

Where the plain case's numbers come from: 35 sessions and 20-40 tickets a night are the field's (docs/design.md): two
5-hour windows in a night of nine hours, so 10-20 tickets fill one. Windows that begin with the first use, reject with
the reset and tell their use are what the real CLIs were seen to be told. That plans are metered by the ratios of the
price tables, with a cache of five minutes, is assumed; so are 60 turns a ticket, 1,500 tokens added per turn, 10-60 s a
turn, and a week that bears ten full windows: hence the other rows, also those where pacing gains little.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from statistics import mean

from nightcrew.core.model import Policy
from nightcrew.testing.week import Shape, Week, simulate

KEEP = 0.2
POLICIES = {"blind": Policy(pace=False), "paced": Policy(), "kept": Policy(keep_back=KEEP)}
PLAIN = Shape()
SHAPES = {
    "plain": PLAIN,
    "half the plan": replace(PLAIN, five_hour=7e6, seven_day=70e6),
    "twice the plan": replace(PLAIN, five_hour=28e6, seven_day=280e6),
    "four times the plan": replace(PLAIN, five_hour=56e6, seven_day=560e6),
    "no weekly limit": replace(PLAIN, seven_day=1e12),
    "around the clock": replace(PLAIN, night_hours=24),
    "nights of 10 hours": replace(PLAIN, night_hours=10),
    "20 slots": replace(PLAIN, slots=20),
    "10 slots": replace(PLAIN, slots=10),
    "4 slots": replace(PLAIN, slots=4),
    "short tickets": replace(PLAIN, turns=30),
    "long tickets": replace(PLAIN, turns=100),
    "small contexts": replace(PLAIN, growth=700),
    "all sizes": replace(PLAIN, spread=0.8),
    "owner at work by day": replace(PLAIN, owner=0.03),
    "meter tells the least": replace(PLAIN, plain=True),
    "two weeks": replace(PLAIN, days=14),
}


def one(job: tuple[str, int]) -> tuple[str, int, dict[str, Week]]:
    name, seed = job
    return name, seed, {policy: simulate(SHAPES[name], POLICIES[policy], seed) for policy in POLICIES}


def gains(weeks: list[dict[str, Week]]) -> list[float]:
    return [w["paced"].finished / max(w["blind"].finished, 1) - 1 for w in weeks]


def line(name: str, weeks: list[dict[str, Week]]) -> str:
    def share(policy: str) -> str:
        return f"{mean((w[policy].rewritten + w[policy].lost) / w[policy].used for w in weeks):.0%}"

    done = [f"{mean(w[policy].finished for w in weeks):.0f}" for policy in POLICIES]
    rejected = [f"{mean(w[policy].rejected for w in weeks):.0f}" for policy in POLICIES]
    peaks = [f"{max(dict(w['kept'].peaks)[window] for w in weeks):.1%}" for window in ("five_hour", "seven_day")]
    gain = gains(weeks)
    cells = [name, len(weeks), " / ".join(done), f"{mean(gain):+.0%} ({min(gain):+.0%} to {max(gain):+.0%})",
             " / ".join(map(share, POLICIES)), " / ".join(rejected), " / ".join(peaks)]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="weeks of the plain case")
    parser.add_argument("--others", type=int, default=1, help="weeks of each other case")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    jobs = [(name, seed) for name in SHAPES for seed in range(options.seeds if name == "plain" else options.others)]
    found: dict[str, list[dict[str, Week]]] = {}
    with ProcessPoolExecutor() as pool:
        for name, _, weeks in pool.map(one, jobs):
            found.setdefault(name, []).append(weeks)
    if options.json:
        print(json.dumps({n: [{p: asdict(w) for p, w in week.items()} for week in ws] for n, ws in found.items()}))
    else:
        print(f"| week | seeds | tickets blind / paced / {KEEP:.0%} kept | paced against blind | tokens wasted | "
              "requests rejected | our highest use with a share kept, 5 h / 7 d |")  # fmt: skip
        print("|---|---|---|---|---|---|---|")
        for name, weeks in found.items():
            print(line(name, weeks))
    highest = max(peak for weeks in found.values() for w in weeks for _, peak in w["kept"].peaks)
    if highest > 1 - KEEP or mean(gains(found["plain"])) < 0.15:
        sys.exit(
            f"not kept: highest use {highest:.1%} of {1 - KEEP:.0%}, gain {mean(gains(found['plain'])):.0%} of 15 %"
        )


if __name__ == "__main__":
    main()
