"""What a tree may use is held by the kernel where it may be asked to, and by our own looks elsewhere."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from nightcrew import proc
from nightcrew.proc import cgroup
from tests.proc.eyes import Start, commands_with, eventually, survivors

MB = 1 << 20
A_MINUTE = 60

HOG = """
import sys, time
held = []
for _ in range(24):  # 192 MB, and no more whatever happens
    held.append(b"x" * (8 << 20))
    time.sleep(0.005)
print("full", flush=True)
time.sleep(300)
"""

# Each forks as often as it may; the depth bounds it where nothing else does: 2 ** depth processes.
BOMB = """
import os, sys, time
until = time.monotonic() + 60
for _ in range(int(sys.argv[2])):
    while time.monotonic() < until:
        try:
            os.fork()
            break
        except OSError:
            time.sleep(0.01)
while time.monotonic() < until:
    time.sleep(1)
"""


def kernel_holds(process: proc.Process) -> tuple[bool, bool]:
    return cgroup.limited(process.handle.cgroups)


async def test_a_memory_hog_is_ended_by_the_kernel_or_told_by_us(
    start: Start, tmp_path: Path, token: str, cgroups: bool
) -> None:
    limits = proc.Limits(memory=64 * MB, processes=100)
    process = await start(sys.executable, "-S", "-c", HOG, token, rc=tmp_path / "rc", limits=limits)
    if kernel_holds(process)[0]:
        assert proc.over(process.handle, limits) == ""
        assert await process.wait(A_MINUTE) == -signal.SIGKILL
        assert (tmp_path / "out").read_text() == ""
        for _ in range(2):  # before the end, and after it
            assert proc.oom(process.handle)
            assert 48 * MB < proc.peak(process.handle) <= 64 * MB
            assert await proc.end(process, 0) == 0
    else:
        await eventually(lambda: "its limit is 64 MB" in proc.over(process.handle, limits), A_MINUTE)
        assert proc.memory(process.handle) > 64 * MB
        assert await proc.end(process, 0) == 0
        assert 64 * MB < proc.peak(process.handle) < 400 * MB
        assert not proc.oom(process.handle)
    assert survivors(token) == {}
    assert not any(Path(folder).exists() for folder in process.handle.cgroups)


async def test_what_a_tree_holds_is_measured_without_any_limit_on_it(
    start: Start, tmp_path: Path, cgroups: bool
) -> None:
    process = await start(sys.executable, "-S", "-c", HOG, limits=proc.Limits(processes=100))
    await eventually(lambda: (tmp_path / "out").read_text() == "full\n", A_MINUTE)
    assert 192 * MB < proc.memory(process.handle) < 300 * MB
    assert proc.over(process.handle, proc.Limits(memory=1000 * MB, processes=100)) == ""
    await proc.end(process, 0)
    assert 192 * MB < proc.peak(process.handle) < 300 * MB
    assert not proc.oom(process.handle)


async def test_a_small_program_is_within_its_limits_and_was_never_out_of_memory(
    start: Start, tmp_path: Path, cgroups: bool
) -> None:
    limits = proc.Limits(64 * MB, 50, 100)
    process = await start("sh", "-c", "echo hi; read -r line; exit 3", two_way=True, rc=tmp_path / "rc", limits=limits)
    await eventually(lambda: (tmp_path / "out").read_text() == "hi\n")
    assert proc.over(process.handle, limits) == ""
    assert 0 < proc.memory(process.handle) < 64 * MB
    process.close_stdin()
    assert await process.wait(A_MINUTE) == 3
    assert await proc.end(process) == 0
    assert (proc.oom(process.handle), proc.memory(process.handle)) == (False, 0)
    assert 0 < proc.peak(process.handle) < 64 * MB


@pytest.mark.slow
async def test_a_fork_bomb_stays_within_its_limit_and_leaves_nothing(
    start: Start, token: str, cgroups: bool, tmp_path: Path
) -> None:
    limits = proc.Limits(processes=40)
    process = await start(sys.executable, "-S", "-c", BOMB, token, "7", rc=tmp_path / "rc", limits=limits)
    if kernel_holds(process)[1]:
        await eventually(lambda: len(commands_with(token)) >= 38, A_MINUTE)
        for _ in range(20):
            assert len(commands_with(token)) <= 40
    else:
        await eventually(lambda: "its limit is 40" in proc.over(process.handle, limits), A_MINUTE)
    assert await proc.end(process, 0) == 0
    assert survivors(token) == {}


async def test_the_share_of_the_cpu_is_what_was_asked_for(start: Start, cgroups: bool) -> None:
    process = await start("sleep", "60", limits=proc.Limits(cpu_weight=50))
    found = [Path(folder, name) for folder in process.handle.cgroups for name in ("cpu.weight", "cpu.shares")]
    asked = {"cpu.weight": "50", "cpu.shares": "512"}
    for file in filter(Path.exists, found):
        assert file.read_text().strip() == asked[file.name]
        await eventually(lambda folder=file.parent: cgroup.members(str(folder)) == {process.handle.pid})  # type: ignore[misc]


async def test_without_limits_only_what_ends_the_tree_is_made(start: Start, cgroups: bool) -> None:
    process = await start("sleep", "60")
    assert process.handle.beside == ()
    assert bool(process.handle.cgroup) == cgroups


async def test_a_handle_of_an_older_nightcrew_is_read(start: Start) -> None:
    process = await start("sleep", "60", limits=proc.Limits(processes=9))
    said = process.handle.to_json()
    assert proc.Handle.from_json(said) == process.handle
    older = {key: value for key, value in json.loads(said).items() if key not in ("beside", "reaper")}
    read = proc.Handle.from_json(json.dumps(older))
    assert (read.pid, read.cgroup, read.beside, read.reaper) == (process.handle.pid, process.handle.cgroup, (), False)
    assert await proc.end(read, 0) == 0
    assert await process.wait(5) == -signal.SIGKILL
