"""What tests of processes look with: `ps`, and not the code that is tested."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from nightcrew import proc

ENV = proc.base_env()

# Each child carries `300.<token><digit>` in its command line, so that it is found without any mark.
NASTY = r"""
import os, signal, sys, time
token = sys.argv[1]

def sleeper(kind, env=None):
    name = "300." + token + str(kind)
    os.execve("/bin/sleep", ["sleep", name], os.environ if env is None else env)

def forked(act):
    pid = os.fork()
    if pid == 0:
        act()
        os._exit(1)
    return pid

def setsid():
    os.setsid()
    sleeper(2)

def daemon(kind, env=None):
    os.setsid()
    if os.fork():
        os._exit(0)
    sleeper(kind, env)

def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleeper(5)

def respawner():
    os.setsid()
    for _ in range(2000):  # so that a bug of ours does not leave it behind for ever
        if os.fork():
            os._exit(0)
        time.sleep(0.005)

forked(lambda: sleeper(1))
forked(setsid)
os.waitpid(forked(lambda: daemon(3)), 0)
os.waitpid(forked(lambda: daemon(4, {})), 0)
forked(deaf)
os.waitpid(forked(respawner), 0) if "respawner" in sys.argv else None
forked(lambda: os._exit(0))  # nobody waits for it: a zombie
print("ready", flush=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(300)
"""

# A nightcrew that starts something nasty, says how to find it, and is then killed.
STARTER = """
import asyncio, sys
from pathlib import Path
from nightcrew import proc

async def main(folder, mark, *argv):
    program = await proc.start(argv, cwd=folder, env=proc.base_env(), mark=mark, stdout=folder / "out",
                               stderr=folder / "err", rc=folder / "rc")
    async for _ in proc.lines(folder / "out", program, poll=0.01):
        print(program.handle.to_json(), flush=True)
    await program.wait()

asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
"""


Start = Callable[..., Awaitable[proc.Process]]


ENV = proc.base_env()


def commands_with(token: str) -> dict[int, str]:
    """pid -> command line of all running processes that name the token, by `ps` and not by our own eyes."""
    listed = subprocess.run(
        ["ps", "axww", "-o", "pid=,stat=,command="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return {int(row[0]): row[2] for row in rows if len(row) == 3 and token in row[2] and not row[1].startswith("Z")}


def survivors(token: str) -> dict[int, str]:
    """The same, and they are killed, so that a bug of ours leaves nothing behind.

    Where nothing adopts orphans (macOS) a daemon that emptied its environment is left out: nothing is known of it.
    """
    found = commands_with(token)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return {pid: words for pid, words in found.items() if sys.platform == "linux" or f"{token}4" not in words}


async def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def all_lines(path: Path, over: proc.Process | Callable[[], bool], **more: int) -> list[bytes]:
    return [line async for batch in proc.lines(path, over, poll=0.01, **more) for line in batch]


async def nasty(start: Start, tmp_path: Path, token: str, *extra: str) -> proc.Process:
    process = await start(sys.executable, "-S", "-c", NASTY, token, *extra)
    await eventually(lambda: b"ready" in (tmp_path / "out").read_bytes())
    await eventually(lambda: sum(f"300.{token}" in command for command in commands_with(token).values()) == 5)
    return process
