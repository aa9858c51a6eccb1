"""What nightcrew itself costs while many agents talk: CPU of one core and memory, once all sessions run.

    python bench/streams.py --agents 35 --rate 20      asked: below 20 % of a core and 200 MB
    python bench/streams.py --agents 350 --rate 1      asked: all survive, below 350 MB

Every agent is a real process in a real workspace that prints JSON lines of 500 bytes, commits, and gets a pull request.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from night import stage

AGENT = """#!/usr/bin/perl
$| = 1; my $pad = "x" x 440; my $n = {lines};
my $line = <STDIN>;
for my $i (1 .. $n) {{ print qq({{"type":"progress","text":"$i $pad"}}\\n); select(undef, undef, undef, {pause}); }}
open(my $f, ">", "done-$$.txt"); print $f "$line $$"; close $f;
exec "sh", "-c", "git add -A && git commit -qm Work";
"""


def used(pid: int) -> tuple[float, float]:
    """CPU seconds and resident megabytes of one process, without its children."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"), rss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=35)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--window", type=float, default=20.0, help="seconds measured")
    args = parser.parse_args()
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.exists() else None) as folder:
        home = Path(folder)
        stage(home, args.agents, args.agents, 0)
        seconds = args.window + 30 + args.agents / 3
        script = AGENT.format(lines=int(args.rate * seconds), pause=1 / args.rate)
        (home / "agent.sh").write_text(script)
        command = [sys.executable, "-m", "nightcrew", "-c", str(home / "nightcrew.toml")]
        up = subprocess.Popen([*command, "up", "--until-idle", "--json"], stdout=subprocess.DEVNULL)
        began = time.monotonic()
        while running(home) < args.agents and time.monotonic() - began < 180:
            time.sleep(0.5)
        started = time.monotonic() - began
        cpu, peak, at = used(up.pid)[0], 0.0, time.monotonic()
        while time.monotonic() - at < args.window:
            time.sleep(0.5)
            peak = max(peak, used(up.pid)[1])
        share = (used(up.pid)[0] - cpu) / (time.monotonic() - at) * 100
        alive = running(home)
        up.wait()
        status = json.loads(subprocess.run([*command, "status", "--json"], check=True, capture_output=True).stdout)
        print(json.dumps({"agents": args.agents, "lines_per_second": args.rate, "all_running_after": round(started, 1),
                          "running": alive, "cpu_percent_of_a_core": round(share, 1), "megabytes": round(peak, 1),
                          "counts": status["counts"]}))  # fmt: skip


def running(home: Path) -> int:
    """Sessions that print now."""
    logs = list((home / ".nightcrew" / "attempts").glob("*/1/try-0/stdout"))
    return sum(not (log.parent / "rc").exists() and log.stat().st_size > 0 for log in logs)


if __name__ == "__main__":
    main()
