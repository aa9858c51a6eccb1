"""Faults of the machine and of nightcrew itself: killed, stopped, locked, out of disk, the clock wrong."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fault_house import House, pause
from fault_look import Faults
from tests.e2e.household import Disk

FAULTS = Faults()
WHERE = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/local/lib/faketime", "/opt/homebrew/lib/faketime")
STOPPED, LOCKED, HELD = 30.0, 8.0, 4.0


def three(house: House, *steps: object, resumed: object = None) -> None:
    """All three agents commit half of the work, then do `steps`, then the rest (at once when the session goes on)."""
    for key in ("T-1", "T-2", "T-3"):
        half = [{"write": {"path": f"{key}.half", "text": "half\n"}}, {"commit": "Half"}]
        whole = [{"write": {"path": f"{key}.txt", "text": "done\n"}}, {"commit": "Whole"}]
        house.scenes[key] = {"attempts": [[*half, *steps, *whole]], "on_resume": {"attempts": [whole]}}
    house.tickets()


def halves(house: House) -> Callable[[], bool]:
    """Whether every session has made its first commit."""
    return lambda: all(any(b'"sha"' in p.read_bytes() for p in house.sessions(k)) for k in ("T-1", "T-2", "T-3"))


@FAULTS.add("kill -9", "kill -9 of nightcrew while three sessions work; started again", takes=0)
def kill_9(house: House) -> None:
    three(house, "hang")
    with house.up() as process:
        house.until(halves(house))
        house.kill(process)
    house.night()


@FAULTS.add("kill -9 five times", "kill -9 of nightcrew five times, a second after each start", takes=5)
def kill_often(house: House) -> None:
    three(house, {"wait": 2})
    for _ in range(5):
        with house.up() as process:
            pause(1)
            house.kill(process)
    house.night()


@FAULTS.add("stopped", f"SIGSTOP of nightcrew for {STOPPED:.0f} s in mid session, then SIGCONT", takes=STOPPED)
def stopped(house: House) -> None:
    three(house, {"wait": 2})
    with house.up("--until-idle") as process:
        house.until(halves(house))
        process.send_signal(signal.SIGSTOP)
        pause(STOPPED)
        process.send_signal(signal.SIGCONT)
        process.wait(60)
        house.ended_now()


@FAULTS.add("lock lost", "the lock file of the state directory is removed while nightcrew is up; a second one is started",
       takes=3)  # fmt: skip
def lock_lost(house: House) -> None:
    three(house, {"wait": 3})
    with house.up("--until-idle") as process:
        house.until(halves(house))
        (house.state / "lock").unlink()
        second = house.run("up", "--until-idle")
        house.must(second.code == 3, f"the second one ended with {second.code}: {second.err[-200:]}")
        process.wait(60)
        house.ended_now()


@FAULTS.add("database locked", f"another program holds the database's write lock for {LOCKED:.0f} s", takes=LOCKED)
def database_locked(house: House) -> None:
    three(house, {"wait": 1})
    with house.up("--until-idle") as process:
        house.until(halves(house))
        with closing(sqlite3.connect(house.state / "nightcrew.sqlite", timeout=5, isolation_level=None)) as held:
            held.execute("BEGIN IMMEDIATE")
            pause(LOCKED)
            held.execute("ROLLBACK")
        process.wait(60)
        house.ended_now()


@FAULTS.add("git lock left", "a killed git has left its lock files in a hub", at_most=30)
def git_lock(house: House) -> None:
    house.ticket("T-1", "shop")
    house.night()
    for lock in ("packed-refs.lock", "config.lock", "refs/heads/main.lock"):
        path = house.state / "hubs" / "shop.git" / lock
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        old = time.time() - 3600
        os.utime(path, (old, old))
    house.tickets()
    house.began += time.monotonic() - house.ended  # the first night is not lost
    house.night()


@FAULTS.add("git lock held", f"another git holds a lock in the owner's repository for {HELD:.0f} s", takes=HELD,
       told={"T-1": "(infra )*done", "T-3": "(infra )*done"}, at_most=30)  # fmt: skip
def git_lock_held(house: House) -> None:
    three(house, {"wait": 1})
    with house.up("--until-idle") as process:
        house.until(halves(house))
        locks = [house.home / "shop" / ".git" / name for name in ("packed-refs.lock", "HEAD.lock", "config.lock")]
        for lock in locks:
            lock.touch()
        pause(HELD)
        for lock in locks:
            lock.unlink(missing_ok=True)
        process.wait(90)
        house.ended_now()


# -- disks -------------------------------------------------------------------------------------------------------------
@contextmanager
def on_disk(house: House, folder: Path, mount: str) -> Iterator[Disk]:
    """A file system that only nightcrew sees; what is in it is there for us when it is gone."""
    with Disk(folder, mount) as house.disk:
        yield house.disk
        if folder == house.state:
            os.system(f"cp -a '{house.disk.seen(folder)}/.' '{folder}/'")
    house.disk = None


@FAULTS.add("disk full", f"the disk of the state directory is full for {HELD:.0f} s in mid session", takes=HELD,
       told={"*": "(infra )*done"}, at_most=40, needs="linux")  # fmt: skip
def disk_full(house: House) -> None:
    three(house, {"wait": 2})
    with on_disk(house, house.state, Disk.FULL % "24m") as disk, house.up("--until-idle") as process:
        house.until(lambda: len(list(house.seen(house.state).glob("attempts/*/1/try-0/stdout"))) == 3)
        filler = disk.fill()
        pause(HELD)
        filler.unlink()
        process.wait(90)
        house.ended_now()


@FAULTS.add("workspaces read-only", f"the disk of the workspaces is read-only for {HELD:.0f} s from the start", takes=HELD,
       told={"*": "(infra )+done"}, at_most=40, needs="linux")  # fmt: skip
def read_only(house: House) -> None:
    house.crew += 'workspaces_dir = "work"\n'
    three(house)
    with on_disk(house, house.home / "work", Disk.READ_ONLY) as disk, house.up("--until-idle") as process:
        pause(HELD)
        os.system(" ".join([*disk.enter(house.home), "mount", "-o", "remount,bind,rw", str(house.home / "work")]))
        process.wait(90)
        house.ended_now()


# -- clocks ------------------------------------------------------------------------------------------------------------
def faketime() -> str:
    """Where libfaketime is, "" where it is not."""
    names = ("libfaketimeMT.so.1", "libfaketime.so.1")
    return next((str(p) for w in WHERE for n in names for p in Path("/").glob(f"{w[1:]}/{n}")), "")


def clock(house: House, says: str) -> Callable[[str], None]:
    """Give nightcrew (not its agents) a clock of its own; returns what sets it again."""
    file = house.file("clock", says)
    house.env |= {"LD_PRELOAD": faketime(), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
                  "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}  # fmt: skip

    def set_to(now: str) -> None:
        new = house.file("clock.new", now)
        new.replace(file)

    return set_to


def jump(house: House, to: str) -> None:
    """The clock jumps in mid session, when one ticket waits for a reset; and back when all is done."""
    set_to = clock(house, "+0")
    three(house, {"wait": 3})
    with house.up("--until-idle") as process:
        house.until(halves(house))
        set_to(to)
        process.wait(90)
        house.ended_now()


@FAULTS.add("clock +3 h", "the clock jumps 3 hours ahead while three sessions work", takes=3, needs="faketime")
def ahead(house: House) -> None:
    jump(house, "+3h")


@FAULTS.add("clock -3 h", "the clock jumps 3 hours back while three sessions work", takes=3, needs="faketime")
def back(house: House) -> None:
    jump(house, "-3h")


@FAULTS.add("clock +3 h and back, limited", "the clock jumps 3 hours ahead and back while a lane waits 4 s for its reset",
       told={"T-1": "rate_limited done"}, takes=5, needs="faketime", lane="limited")  # fmt: skip
def limited(house: House) -> None:
    set_to = clock(house, "+0")
    house.hit([{"limit": 4}])
    house.tickets()
    with house.up("--until-idle") as process:
        house.lane_is("limited")
        set_to("-3h")
        pause(1)
        set_to("+0")
        process.wait(90)
        house.ended_now()
