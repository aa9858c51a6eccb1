"""The kill matrix: whatever an agent starts, and however it hides it, none of it is left after the end (I5)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nightcrew import proc
from nightcrew.proc import reaper, table
from tests.proc.eyes import STARTER, Start, commands_with, eventually, survivors

A_MINUTE = 60

# argv: the token, the kind. Each child names the token, and lives for a minute or two at most whatever we do wrong.
KINDS = r"""
import os, signal, sys, time
token, kind = sys.argv[1:3]

def sleeper(env=None):
    os.execve("/bin/sleep", ["sleep", "100." + token], os.environ if env is None else env)

def child(act):
    pid = os.fork()
    if pid == 0:
        act()
        os._exit(1)
    return pid

def daemon(act):
    def between():
        os.setsid()
        if os.fork():
            os._exit(0)
        act()
    os.waitpid(child(between), 0)

def respawner(pause):
    until = time.monotonic() + 100
    while time.monotonic() < until:
        if os.fork():
            os._exit(0)
        time.sleep(pause)

def server():
    import socket
    os.setsid()
    listening = socket.create_server(("127.0.0.1", 0))
    open("port.new", "w").write(str(listening.getsockname()[1]))
    os.rename("port.new", "port")
    time.sleep(100)

def deaf():
    for each in range(1, 32):
        if each not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(each, signal.SIG_IGN)
    sleeper()

def nested():  # a daemon that is a subreaper itself and has a daemon
    import ctypes
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    daemon(lambda: sleeper({}))
    time.sleep(100)

def leaderless():  # its main thread ends, another goes on: it looks like a zombie
    import ctypes, threading
    threading.Thread(target=time.sleep, args=(100,)).start()
    ctypes.CDLL(None).pthread_exit(None)

{
    "plain": lambda: child(sleeper),
    "setsid": lambda: child(lambda: (os.setsid(), sleeper())),
    "daemon": lambda: daemon(sleeper),
    "daemon with an empty environment": lambda: daemon(lambda: sleeper({})),
    "deaf": lambda: child(deaf),
    "stopped": lambda: os.kill(child(sleeper), signal.SIGSTOP),
    "a subreaper of its own": lambda: daemon(nested),
    "a thread without its leader": lambda: daemon(leaderless),
    "server": lambda: daemon(server),
    "respawner": lambda: daemon(lambda: respawner(0.005)),
    "fast respawner": lambda: daemon(lambda: respawner(0.0005)),
    "twenty of each": lambda: [daemon(lambda: sleeper({})) or child(sleeper) for _ in range(20)],
    "one that kills the shim": lambda: (daemon(sleeper), os.kill(os.getppid(), signal.SIGKILL)),
}[kind]()
print("ready", flush=True)
if "stay" in sys.argv:
    time.sleep(100)
"""

NASTY = [
    "plain", "setsid", "daemon", "daemon with an empty environment", "deaf", "stopped", "a subreaper of its own",
    "a thread without its leader", "server", "respawner", "fast respawner", "twenty of each",
]  # fmt: skip
everywhere = pytest.mark.parametrize("kind", NASTY)


async def begin(start: Start, tmp_path: Path, token: str, kind: str, *stay: str) -> proc.Process:
    process = await start(sys.executable, "-S", "-c", KINDS, token, kind, *stay, rc=tmp_path / "rc")
    await eventually(lambda: (tmp_path / "out").read_text() == "ready\n", A_MINUTE)
    return process


@everywhere
async def test_nothing_is_left_when_a_running_agent_is_ended(
    start: Start, tmp_path: Path, token: str, kind: str, cgroups: bool
) -> None:
    process = await begin(start, tmp_path, token, kind, "stay")
    assert await proc.end(process, 0.01) == 0
    assert survivors(token) == {}
    assert not proc.alive(process.handle)


@everywhere
async def test_nothing_is_left_when_an_agent_ended_by_itself(
    start: Start, tmp_path: Path, token: str, kind: str, cgroups: bool
) -> None:
    process = await begin(start, tmp_path, token, kind)
    assert await process.wait(A_MINUTE) == proc.exit_code(tmp_path / "rc") == 0
    assert await proc.end(process, 0) == 0
    assert survivors(token) == {}
    assert process.returncode == 0


@pytest.mark.slow
@everywhere
async def test_nothing_is_left_when_nightcrew_was_killed_and_starts_again(
    tmp_path: Path, token: str, mark: str, kind: str, cgroups: bool
) -> None:
    argv = [sys.executable, "-c", STARTER, str(tmp_path), mark, sys.executable, "-S", "-c", KINDS, token, kind]
    starter = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    assert starter.stdout
    handle = proc.Handle.from_json((await starter.stdout.readline()).decode())
    starter.kill()
    await starter.wait()
    await eventually(lambda: proc.exit_code(tmp_path / "rc") == 0, A_MINUTE)
    assert await proc.sweep(mark, [handle]) >= 0
    assert survivors(token) == {}
    assert proc.leftovers(mark) == []


async def test_a_port_is_free_after_the_end(start: Start, tmp_path: Path, token: str, cgroups: bool) -> None:
    process = await begin(start, tmp_path, token, "server")
    await eventually((tmp_path / "port").exists, A_MINUTE)
    port = int((tmp_path / "port").read_text())
    socket.create_connection(("127.0.0.1", port), 5).close()
    await proc.end(process, 0)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else the connection above holds it a minute
        taken.bind(("127.0.0.1", port))


async def test_an_agent_that_kills_its_shim_hides_nothing_that_bears_the_mark(
    start: Start, tmp_path: Path, token: str, cgroups: bool
) -> None:
    process = await begin(start, tmp_path, token, "one that kills the shim", "stay")
    assert await process.wait(A_MINUTE) == -signal.SIGKILL
    assert await proc.end(process, 0) == 0
    assert survivors(token) == {}


async def test_what_was_seen_in_a_tree_is_ended_with_it_though_nothing_tells_it_any_more(
    start: Start, tmp_path: Path, token: str, cgroups: bool
) -> None:
    process = await begin(start, tmp_path, token, "daemon with an empty environment")
    await eventually(lambda: len(proc.left_behind(process.handle)) == 1, A_MINUTE)
    if process.handle.reaper:
        os.kill(process.handle.pid, signal.SIGKILL)
    assert await proc.end(process, 0) == 0
    assert survivors(token) == {}


async def test_what_an_agent_left_is_listed_without_our_own_shim(
    start: Start, tmp_path: Path, token: str, mark: str, cgroups: bool
) -> None:
    process = await begin(start, tmp_path, token, "daemon with an empty environment")
    assert await process.wait(A_MINUTE) == 0
    await eventually(lambda: any(f"100.{token}" in words for words in commands_with(token).values()), A_MINUTE)
    [left] = proc.left_behind(process.handle)
    assert (left.command, left.mark) == (f"sleep 100.{token}", mark)
    assert left.pid in {each.pid for each in proc.leftovers(mark)}
    await proc.end(process, 0)
    assert proc.left_behind(process.handle) == []


async def test_a_clean_agent_leaves_nothing_and_no_shim(start: Start, tmp_path: Path, cgroups: bool) -> None:
    process = await start("sh", "-c", "sleep 0.01 & wait; exit 5", rc=tmp_path / "rc")
    assert await process.wait(A_MINUTE) == 5
    assert proc.left_behind(process.handle) == []
    await process.gone(A_MINUTE)
    assert not proc.alive(process.handle)


async def test_a_shim_that_stays_buries_what_it_adopted(start: Start, tmp_path: Path, cgroups: bool) -> None:
    script = "for i in 1 2 3 4 5; do (sleep 0.05 & exec true); done; echo ready; read -r line"
    process = await start("sh", "-c", script, two_way=True, rc=tmp_path / "rc")
    await eventually(lambda: (tmp_path / "out").read_text() == "ready\n")
    if process.handle.reaper:
        await eventually(lambda: len(reaper.children(process.handle.pid)) == 1, A_MINUTE)
    process.close_stdin()
    assert await process.wait(A_MINUTE) == 1


async def test_an_agent_gets_the_signals_and_descriptors_it_would_get_from_a_plain_shell(
    start: Start, tmp_path: Path, cgroups: bool
) -> None:
    await (await start("ls", "/dev/fd", rc=tmp_path / "rc")).wait(A_MINUTE)
    assert (tmp_path / "out").read_text().split() == ["0", "1", "2", "3"]  # 3: the folder it lists
    script = "trap '' USR1; sh -c 'kill -PIPE $$; echo ignored'; kill -XFSZ $$; echo ignored"
    process = await start("sh", "-c", script, rc=tmp_path / "rc")
    assert await process.wait(A_MINUTE) == -signal.SIGXFSZ
    assert "ignored" not in (tmp_path / "out").read_text()


@pytest.mark.slow
async def test_a_shim_outlives_nightcrew_as_long_as_there_is_something_left_and_no_longer(
    tmp_path: Path, token: str, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTCREW_CGROUPS", "off")
    argv = [sys.executable, "-c", STARTER, str(tmp_path), mark, "sh", "-c", "(sleep 0.5 &) ; echo ready"]
    starter = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    assert starter.stdout
    handle = proc.Handle.from_json((await starter.stdout.readline()).decode())
    starter.kill()
    await starter.wait()
    await eventually(lambda: proc.exit_code(tmp_path / "rc") == 0, A_MINUTE)
    await eventually(lambda: table.row(handle.pid) is None, A_MINUTE)
    await eventually(lambda: proc.leftovers(mark) == [], A_MINUTE)
