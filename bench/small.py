"""The small waits a person feels: --help, status with a long history, a saved ticket to a running agent, an idle crew.

Asked: 0.3 s, 0.5 s with 6,500 runs, 1 s at most, below 3 % of a core.   python bench/small.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from night import stage
from streams import used


def timed(argv: list[str], times: int = 7) -> float:
    """The median wall time of a command, in seconds."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took.append(time.monotonic() - began)
    return round(statistics.median(took), 3)


def history(home: Path, runs: int) -> None:
    from nightcrew.app import App  # noqa: PLC0415
    from nightcrew.core.model import Run, RunState  # noqa: PLC0415
    from nightcrew.store import _row  # noqa: PLC0415
    from nightcrew.tables import events  # noqa: PLC0415
    from nightcrew.tables import runs as table  # noqa: PLC0415

    store, now = App.load(home / "nightcrew.toml").store, datetime.now(UTC)
    old = Run("folder:x", "folder", "x", "X", "An old ticket", "repo", "nightcrew/x", RunState.MERGED, shown="done")
    rows = [
        _row(
            replace(
                old,
                id=f"folder:X-{n}",
                ticket_id=f"X-{n}",
                key=f"X-{n}",
                pull_request=n + 1,
                updated_at=now - timedelta(minutes=n),
                created_at=now,
            )
        )
        for n in range(runs)
    ]
    with store.engine.begin() as c:
        c.execute(table.insert(), rows)
        c.execute(events.insert(), [{"at": r["updated_at"], "run_id": r["id"], "kind": "run.merged", "data": {}}
                                    for r in rows for _ in range(5)])  # fmt: skip


def main() -> None:
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.exists() else None) as folder:
        home = Path(folder)
        stage(home, 0, 4, 1)
        history(home, 6500)
        command = [sys.executable, "-m", "nightcrew", "-c", str(home / "nightcrew.toml")]
        result = {"help": timed([*command, "--help"]), "status_6500_runs": timed([*command, "status"])}
        up = subprocess.Popen([*command, "up", "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(4)
        waits = []
        for n in range(7):
            ticket = home / "tickets" / f"T-{n}.md"
            began = time.monotonic()
            ticket.write_text(f"---\ntitle: Ticket {n}\nrepo: repo\n---\nDo it.\n")
            while not list((home / ".nightcrew/attempts").glob(f"t-{n}-*/1/try-0/handle.json")):
                time.sleep(0.005)
            waits.append(time.monotonic() - began)
            time.sleep(1.5)
        time.sleep(3)
        cpu, at = used(up.pid)[0], time.monotonic()
        time.sleep(20)
        result["idle_percent_of_a_core"] = round((used(up.pid)[0] - cpu) / (time.monotonic() - at) * 100, 2)
        result["idle_megabytes"] = round(used(up.pid)[1], 1)
        result["saved_to_running_p50"] = round(statistics.median(waits), 3)
        result["saved_to_running_max"] = round(max(waits), 3)
        up.terminate()
        up.wait()
        print(json.dumps(result))


if __name__ == "__main__":
    main()
