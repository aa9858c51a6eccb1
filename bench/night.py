"""oh-my-symphony's measured job (docs/design.md): 20 tickets, 10 slots, a 2 s agent; theirs takes 10.2 s, the ideal is 4 s.

Ours with real workspaces, commits, gates and pull requests:  python bench/night.py [--tickets 20] [--slots 10] [--seconds 2]
Prints one JSON object; `seconds` is from the first tick to idle, `total` includes starting and stopping the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def stage(home: Path, tickets: int, slots: int, seconds: float) -> None:
    repo = home / "repo"
    repo.mkdir(parents=True)
    (repo / "README.md").write_text("bench\n")
    for n in range(200):
        (repo / f"file{n}.txt").write_text("line\n" * 20)
    run = lambda *a: subprocess.run(["git", "-c", "user.name=b", "-c", "user.email=b@b", *a], cwd=repo, check=True)  # noqa: E731
    run("init", "-q", "-b", "main")
    run("add", "-A")
    run("commit", "-qm", "start")
    (home / "tickets").mkdir()
    for n in range(tickets):
        (home / "tickets" / f"T-{n}.md").write_text(f"---\ntitle: Ticket {n}\nrepo: repo\n---\nDo it.\n")
    agent = home / "agent.sh"
    agent.write_text(
        f'#!/bin/sh\nread line\nsleep {seconds}\necho "$$ $line" > "done-$$.txt"\ngit add -A\ngit commit -qm "Work"\n'
    )
    agent.chmod(0o755)
    (home / "nightcrew.toml").write_text(
        f'[board]\nkind = "folder"\npath = "tickets"\n[limits]\nmax_running = {slots}\n'
        f'[agents.bench]\nkind = "command"\ncommand = ["{agent}"]\n'
        '[[repos]]\nname = "repo"\npath = "repo"\n[repos.gates]\ncommands = ["test -s README.md"]\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickets", type=int, default=20)
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.exists() else None) as folder:
        home = Path(folder)
        stage(home, args.tickets, args.slots, args.seconds)
        began = time.monotonic()
        command = [sys.executable, "-m", "nightcrew", "-c", str(home / "nightcrew.toml")]
        subprocess.run([*command, "up", "--until-idle", "--json"], check=True, stdout=subprocess.DEVNULL)
        total = time.monotonic() - began
        pulls = json.loads(subprocess.run([*command, "pr", "list", "--json"], check=True, capture_output=True).stdout)
        status = json.loads(subprocess.run([*command, "status", "--json"], check=True, capture_output=True).stdout)
        events = [e for row in status["tickets"] for e in _events(command, row["ticket"])]
        first, last = min(e["at"] for e in events), max(e["at"] for e in events)
        print(json.dumps({"tickets": args.tickets, "slots": args.slots, "agent_seconds": args.seconds,
                          "pull_requests": len(pulls["pull_requests"]), "seconds": round(_span(first, last), 2),
                          "total": round(total, 2), "counts": status["counts"]}))  # fmt: skip


def _events(command: list[str], ticket: str) -> list[dict]:
    shown = subprocess.run([*command, "show", ticket, "--json"], check=True, capture_output=True).stdout
    return json.loads(shown)["events"]


def _span(first: str, last: str) -> float:
    from datetime import datetime  # noqa: PLC0415

    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


if __name__ == "__main__":
    main()
