"""What a night costs each service: 50 tickets with blockers and priorities on every board and forge, then an idle hour.

Asked: 50 pull requests, none twice, and at most 31 requests to each service in a second idle hour (30 scans).
    python bench/pairs.py [--tickets 50] [--board github] [--forge github] [--trouble 0.05] [--settle 0]
With --trouble that share of requests goes wrong: lost answers, cut connections, 5xx, pages of HTML, limits, delays.
An idle hour is pressed into seconds here. Linear and Jira are asked for the changes of the last 2 and 5 minutes, so that
what the night changed is answered again in it; --settle 330 waits that long first, as a real hour would.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.e2e.pairs import Pair, pair

from nightcrew.testing.company.sides import BOARDS, FORGES

SCANS = 30  # in an hour, one every 120 s


def night(one: Pair, tickets: int, trouble: float, settle: float) -> dict[str, object]:
    one.fill(tickets)
    for service in one.services.values():
        service.trouble.share = trouble
    began = time.monotonic()
    with one.night.up():
        seen: set[int] = set()
        while set(one.night.runs().values()) != {"merged"} or len(one.night.runs()) < tickets:
            for pull in one.forge.pulls():
                if pull.state == "open" and pull.number not in seen:
                    seen.add(pull.number)
                    one.forge.merge(pull.number)
            assert time.monotonic() - began < 300, one.night.told()
            time.sleep(0.2)
        one.night.until(lambda: {shown.state for shown in one.board.shown()} == {"done"})
        seconds, night_cost = time.monotonic() - began, one.counts()
        for service in one.services.values():
            service.trouble.share = 0
        _idle(one)
        time.sleep(settle)
        idle = _idle(one)  # the second idle hour: what the night left behind is settled
    pulls = one.forge.pulls()
    return {
        "pull_requests": len(pulls), "twice": len(pulls) - len({pull.branch for pull in pulls}),
        "seconds": round(seconds, 1), "requests": night_cost, "idle_hour": idle,
        "misshown": len(one.misshown()),  # not done, not one comment, or not linked to its own pull request
        "violations": sum(len(s.violations) for s in one.services.values()),
    }  # fmt: skip


def _scans(one: Pair) -> str:
    return str(one.night.sql("SELECT value FROM meta WHERE key = 'scanned_at'"))


def _idle(one: Pair) -> dict[str, dict[str, int]]:
    """Requests in so many scans with nothing to do, and how many of them were answered 304."""
    time.sleep(1)
    before, free, seen, count, began = one.counts(), one.unchanged(), _scans(one), 0, time.monotonic()
    while count < SCANS:
        assert time.monotonic() - began < 60, f"only {count} scans\n{one.night.told()}"
        time.sleep(0.02)
        now = _scans(one)
        count, seen = count + (now != seen), now
    after, free_after = one.counts(), one.unchanged()
    return {name: {"requests": after[name] - before[name], "unchanged": free_after[name] - free[name]}
            for name in after}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickets", type=int, default=50)
    parser.add_argument("--trouble", type=float, default=0.0)
    parser.add_argument("--settle", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--board", choices=BOARDS)
    parser.add_argument("--forge", choices=FORGES)
    args = parser.parse_args()
    shm = Path("/dev/shm")
    for board in [args.board] if args.board else BOARDS:
        for forge in [args.forge] if args.forge else FORGES:
            scratch = tempfile.TemporaryDirectory(dir=shm if shm.exists() else None)
            with scratch as folder, pair(board, forge, Path(folder)) as one:
                print(
                    json.dumps({"board": board, "forge": forge, **night(one, args.tickets, args.trouble, args.settle)}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
