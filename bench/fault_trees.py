"""Faults of what agents start: daemons, servers, respawners, fork bombs, memory hogs. Nothing may outlive its attempt."""

from __future__ import annotations

import socket

from fault_house import STALL, House
from fault_look import Fault, Faults

FAULTS = Faults()
CLEAN = "setsid env -i /usr/bin/env PATH=$PATH"
"""A session of its own, and nothing of our environment: no mark to be found by."""
QUIET = "</dev/null >/dev/null 2>&1 &"
DAEMON = """\
import os, signal, sys, time
os.chdir("/")
os.fork() and os._exit(0)
os.setsid()
os.fork() and os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(1000)
"""
RESPAWNER = """\
import os, signal, sys, time
os.chdir("/")
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
def keep():
    while True:
        if (child := os.fork()) == 0:
            os.setsid()
            time.sleep(1000)
        os.waitpid(child, 0)
# Two that watch over each other's work, each in a session of its own.
if os.fork() == 0:
    os.setsid()
keep()
"""
SERVER = """\
import os, socket, sys, time
os.chdir("/")
held = socket.socket()
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
held.bind(("127.0.0.1", int(sys.argv[1])))
held.listen()
time.sleep(1000)
"""
BOMB = """\
import os, time
for _ in range(400):
    try:
        if os.fork() == 0:
            time.sleep(1000)
    except OSError:
        pass  # as many as there may be
    time.sleep(0.005)
time.sleep(float(os.environ.get("BOMB_WAITS", "0")))
os._exit(0)
"""
HOG = """\
import time
held = []
while len(held) < 25:  # 1.6 GB, if nobody minds
    held.append(bytearray(64 << 20))
    time.sleep(0.1)
time.sleep(20)
"""


def leaves(name: str, what: str, file: str, text: str, **expected: object) -> None:
    """T-1's agent starts the program, in a session of its own without our mark, and does its work."""

    def play(house: House) -> None:
        program = house.program(file, text)
        house.rogue(f"{CLEAN} {program} {QUIET} sleep 0.5")
        house.tickets()
        house.night()

    FAULTS.append(Fault(name, what, play, **expected))  # type: ignore[arg-type]


leaves("daemon left", "the agent leaves a daemon: forked twice, no session, no environment, deaf", "daemon.py", DAEMON)
leaves(
    "respawner left", "the agent leaves two programs that start a new child whenever one dies", "respawn.py", RESPAWNER
)
leaves("fork bomb", "the agent forks 400 processes that never end, and ends itself", "bomb.py", BOMB, takes=2)


def bounded_bomb(house: House) -> None:
    house.attempt += "processes = 60\n"
    house.rogue(f"BOMB_WAITS=3 {house.program('bomb.py', BOMB)}")
    house.tickets()
    most = 0

    def ended() -> bool:
        nonlocal most
        most = max(most, len(house.bombs("bomb.py")))
        return process.poll() is not None

    with house.up("--until-idle") as process:
        house.until(ended, 90)
        house.ended_now()
    house.must(most <= 90, f"{most} processes at once, where 60 are allowed")


def port(house: House) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    server = house.program("server.py", SERVER)
    house.limits = house.limits.replace("max_running = 3", "max_running = 1")
    house.rogue(f"{CLEAN} {server} {number} {QUIET} sleep 0.5")
    house.rogue(f"timeout 0.5 {server} {number}; [ $? = 124 ] || exit 9", key="T-2")
    house.tickets()
    house.night()


def hog(house: House) -> None:
    house.attempt += "memory_mb = 400\n"
    house.rogue(f"echo half >half.txt; git add -A; git commit -qm Half; {house.program('hog.py', HOG)}")
    house.tickets()
    house.night()
    most, killed = house.sql("SELECT max(peak_memory), max(oom) FROM attempts")[0]
    house.must(most < 500 << 20, f"it had {most >> 20} MB, where 400 are allowed")
    house.must(bool(killed), "that it was ended for its memory is not told")


FAULTS += [
    Fault("fork bomb within limits", "the agent forks without end where 60 processes are allowed; then it does its work",
          bounded_bomb, told={"T-1": "((crashed|stalled) )?done"}, takes=5 + STALL, needs="linux"),
    Fault("port held", "the agent leaves a server that holds a port; the next ticket needs that port", port, takes=3),
    Fault("memory hog", "the agent takes memory without end where 400 MB are allowed", hog,
          told={"T-1": "(crashed )?done"}, takes=2, needs="linux"),
]  # fmt: skip
