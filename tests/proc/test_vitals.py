"""What the system shows of a tree of processes: work and not ticking, traffic, zombies, files that changed."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew import proc
from nightcrew.proc import traffic, vitals
from tests.conftest import Repository
from tests.proc.eyes import ENV, Start, eventually

linux = sys.platform == "linux"


@given(st.lists(st.floats(0.1, 30), max_size=50))
def test_what_ticks_slower_than_the_leak_never_counts_as_work(gaps: list[float]) -> None:
    bucket = vitals.Bucket(leak=1.0, enough=5.0)
    assert not any(bucket.add(0.9 * gap, gap) for gap in gaps)


@given(st.floats(0.1, 3))
def test_steady_work_above_the_leak_always_shows_in_the_end(gap: float) -> None:
    bucket = vitals.Bucket(leak=1.0, enough=5.0)
    assert any(bucket.add(2 * gap, gap) for _ in range(100))


def test_traffic_is_counted_by_connection_where_the_system_shows_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            inode = os.fstat(client.fileno()).st_ino
            before = traffic.connections().get(inode, 0)
            peer.sendall(b"x" * 10_000)
            client.recv(10_000, socket.MSG_WAITALL)
            after = traffic.connections().get(inode, 0)
            assert (after - before >= 10_000) is linux
            assert (inode in (traffic.sockets_of(os.getpid()) or ())) is linux


def test_a_process_that_may_not_be_asked_is_told_from_one_without_sockets() -> None:
    assert traffic.sockets_of(2**22 + 1) is None
    with subprocess.Popen(["/bin/sleep", "300"], stdin=subprocess.DEVNULL) as sleeper:
        assert traffic.sockets_of(sleeper.pid) == (set() if linux else None)
        sleeper.kill()


async def seen(process: proc.Process, looks: int = 40) -> list[vitals.Seen]:
    """Many looks at a program, each at processes as they are then."""
    found, eyes = [], vitals.Vitals(process.handle)
    for _ in range(looks):
        found.append(await asyncio.to_thread(eyes.look, time.monotonic()))
        await asyncio.sleep(0.05)
    return found


async def test_the_busiest_tools_are_named_and_their_work_is_seen(start: Start, tmp_path: Path) -> None:
    program = (
        "import subprocess; subprocess.Popen(['sleep', '300'])\nsubprocess.run(['sh', '-c', 'while :; do :; done'])"
    )
    process = await start(sys.executable, "-S", "-c", program, rc=tmp_path / "rc")
    found = await seen(process)
    assert any(one.cpu for one in found)
    assert found[-1].programs == ("sh", "sleep")
    assert (found[-1].dead, found[-1].gone, found[-1].stopped) == ("", False, False)


async def test_a_program_whose_main_thread_ended_is_no_zombie_where_threads_are_seen(
    start: Start, tmp_path: Path
) -> None:
    number = {"x86_64": 60}.get(os.uname().machine, 93)
    program = (
        "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(300,)).start()\n"
        "print('ready', flush=True)\n"
        f"ctypes.CDLL(None).syscall({number}, 0) if {linux} else time.sleep(300)"
    )
    process = await start(sys.executable, "-S", "-c", program, rc=tmp_path / "rc")
    await eventually(lambda: b"ready" in (tmp_path / "out").read_bytes(), 60)
    assert {one.dead for one in await seen(process)} == {""}


async def test_a_program_that_ended_behind_our_back_is_gone(start: Start, tmp_path: Path) -> None:
    process = await start("/bin/sleep", "300", rc=tmp_path / "rc")
    eyes = vitals.Vitals(process.handle)
    await asyncio.to_thread(eyes.look, time.monotonic())
    await proc.end(process, 0)
    async with asyncio.timeout(60):
        while not (await asyncio.to_thread(eyes.look, time.monotonic())).gone:
            await asyncio.sleep(0.1)


def newest(root: Path, most: int = 1000) -> int:
    return sum(vitals.traces(root, most))


@pytest.mark.parametrize("act", ["write", "touch", "rename", "delete", "chmod", "commit"])
def test_any_change_of_a_workspace_leaves_a_trace(repo: Repository, act: str) -> None:
    before, file = newest(repo.path), repo.path / "src" / "data.txt"
    match act:
        case "write":
            file.write_text("three\n")
        case "touch":
            os.utime(file, (1, 1))
        case "rename":
            file.rename(file.with_name("other.txt"))
        case "delete":
            file.unlink()
        case "chmod":
            file.chmod(0o600)
        case "commit":
            repo.git("commit", "--allow-empty", "-m", "x")
    assert newest(repo.path) != before


def test_reading_a_workspace_and_asking_git_leave_none(repo: Repository) -> None:
    before = newest(repo.path)
    (repo.path / "src" / "data.txt").read_text()
    repo.git("status")
    assert newest(repo.path) == before


def test_a_walk_is_bounded_follows_no_link_and_runs_nothing_planted(repo: Repository, tmp_path: Path) -> None:
    (repo.path / "loop").symlink_to(repo.path)
    (repo.path / ".git" / "hooks" / "fsmonitor").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    (repo.path / ".git" / "hooks" / "fsmonitor").chmod(0o755)
    repo.git("config", "core.fsmonitor", ".git/hooks/fsmonitor")
    assert len(list(vitals.traces(repo.path, 3))) <= 5
    assert len(list(vitals.traces(repo.path, 1000))) < 20
    assert not (tmp_path / "ran").exists()
    assert list(vitals.traces(tmp_path / "nowhere", 10)) == []


def test_the_end_of_a_file_is_read_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"x" * 9000 + b"\xff? [y/N] ")
    assert vitals.tail(tmp_path / "out", 9) == "\ufffd? [y/N] "[-9:]
    assert (vitals.tail(tmp_path / "no"), vitals.stamp(tmp_path / "no"), vitals.stamp("a\0b")) == ("", (0, 0), (0, 0))


async def test_one_look_serves_many_within_a_second(start: Start) -> None:
    await start("/bin/sleep", "300", env=ENV)
    first = vitals.look()
    assert vitals.look() is first or time.monotonic() - first.at > vitals.FRESH
