"""How far many sessions pass a cap of the day that they all stream towards:  python bench/caps.py [--sessions 35]

Every session is a real process that reports a turn of 1,000 tokens a second. Promised is at most one turn for each.
Prints one JSON object; exits with 1 when the cap was passed by more, or when a ticket lost an attempt.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.e2e.household import Night

TURN = 1000


def play(night: Night, sessions: int, cap: int) -> dict[str, object]:
    """Run until every session has ended; what the ledger says then."""
    night.limits = f"max_running = {sessions}\nstarting = {sessions}\nmax_load = 0\n[limits.day]\ntokens = {cap}\n"
    night.repo("good")
    turn = ({"usage": {"input": TURN, "turns": 1}}, {"wait": 1})
    for number in range(sessions):
        night.ticket(f"T-{number}", "good", *(turn * 120))
    with night.up():
        night.until(lambda: night.sql("SELECT count(*) FROM spend")[0][0] == sessions, patience=180)
        night.until(lambda: set(night.runs().values()) == {"queued"}, patience=60)
    ((used, outcomes),) = night.sql("SELECT sum(input), count(DISTINCT outcome) FROM spend")
    ((consumed,),) = night.sql("SELECT sum(consumed) FROM runs")
    over = used - cap
    return {
        "sessions": sessions, "cap": cap, "used": used, "over": over, "turns_over": over / TURN,
        "allowed": sessions, "consumed": consumed, "outcomes": outcomes,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=35)
    parser.add_argument("--cap", type=int, default=400_000)
    args = parser.parse_args()
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.exists() else None) as folder:
        told = play(Night(Path(folder) / "home"), args.sessions, args.cap)
    print(json.dumps(told))
    sys.exit(told["turns_over"] > args.sessions or told["consumed"] > 0)


if __name__ == "__main__":
    main()
