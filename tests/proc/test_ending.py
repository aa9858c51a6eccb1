"""Programs are ended with everything they started, and nothing else is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nightcrew import proc
from nightcrew.proc import table
from tests.proc.eyes import NASTY, STARTER, Start, eventually, nasty, survivors


async def test_nothing_of_a_nasty_tree_outlives_its_end(
    start: Start, tmp_path: Path, token: str, cgroups: bool
) -> None:
    process = await nasty(start, tmp_path, token, "respawner")
    assert await proc.end(process, grace=0.05) == 0
    assert survivors(token) == {}
    assert process.returncode == -signal.SIGKILL
    assert not process.handle.cgroup or not Path(process.handle.cgroup).exists()


async def test_a_tree_is_ended_by_its_handle_alone(start: Start, tmp_path: Path, token: str, cgroups: bool) -> None:
    process = await nasty(start, tmp_path, token)
    handle = proc.Handle.from_json(process.handle.to_json())
    assert proc.alive(handle)
    assert await proc.end(handle, grace=0) == 0
    await process.wait(5)
    assert not proc.alive(handle)
    assert survivors(token) == {}


async def test_a_restarted_nightcrew_finds_and_ends_what_a_killed_one_left(
    tmp_path: Path, token: str, mark: str, cgroups: bool
) -> None:
    argv = [sys.executable, "-c", STARTER, str(tmp_path), mark, sys.executable, "-S", "-c", NASTY, token]
    starter = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    assert starter.stdout
    handle = proc.Handle.from_json((await starter.stdout.readline()).decode())
    starter.kill()
    await starter.wait()

    assert proc.alive(handle)
    assert handle.pid in {left.pid for left in proc.leftovers(mark)}
    assert any(f"sleep 300.{token}" in left.command and left.mark == mark for left in proc.leftovers(mark))
    assert not any("$code" in left.command for left in proc.leftovers(mark))
    assert await proc.sweep(mark) >= 5
    assert survivors(token) == {}
    assert proc.leftovers(mark) == []
    assert await proc.sweep(mark) == 0


async def test_a_sweep_leaves_other_marks_alone(start: Start, mark: str, cgroups: bool) -> None:
    mine, other = await start("sleep", "60", mark=f"{mark}1:a"), await start("sleep", "60", mark=f"{mark}10:a")
    assert 1 <= await proc.sweep(f"{mark}1:") <= 1 + mine.handle.reaper  # its shim
    assert await mine.wait(5) == -signal.SIGKILL
    assert other.returncode is None
    assert {left.mark for left in proc.leftovers(mark)} == {f"{mark}10:a"}


@pytest.mark.parametrize("change", [{"started": "1"}, {"boot_id": "another boot"}, {"started": ""}])
async def test_a_foreign_process_with_the_same_pid_is_never_touched(start: Start, change: dict[str, str]) -> None:
    stranger = await start("sleep", "60", mark="")
    real = json.loads(stranger.handle.to_json())
    handle = proc.Handle.from_json(json.dumps({**real, "mark": "test-nobody", "cgroup": "", **change}))
    assert not proc.alive(handle)
    assert await proc.end(handle, grace=0.1) == 0
    assert stranger.returncode is None
    assert proc.signs(handle).processes <= 1


async def test_a_handle_that_names_our_own_group_or_init_does_no_harm() -> None:
    for pid in (0, 1, -1, os.getpgrp()):
        assert await proc.end(proc.Handle(pid, "1", table.boot_id(), "test-nobody", ""), grace=0) == 0


@pytest.mark.parametrize(
    "text", ["{}", "[]", "3", '{"pid": "1", "started": "", "boot_id": "", "mark": "", "cgroup": ""}']
)
def test_a_handle_that_was_never_written_by_us_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no handle"):
        proc.Handle.from_json(text)


async def test_a_polite_program_may_finish_its_work_after_sigterm(start: Start, tmp_path: Path) -> None:
    await_term = 'trap "echo saved; exit 7" TERM; echo ready; while :; do sleep 0.01; done'
    process = await start("sh", "-c", await_term, rc=tmp_path / "rc")
    await eventually(lambda: (tmp_path / "out").read_text() == "ready\n")
    assert await proc.end(process, grace=5) == 0
    assert (tmp_path / "out").read_text() == "ready\nsaved\n"
    assert (process.returncode, proc.exit_code(tmp_path / "rc")) == (7, 7)


async def test_ending_twice_or_after_the_end_is_fine(start: Start) -> None:
    process = await start("true")
    assert await process.wait(5) == 0
    assert [await proc.end(process), await proc.end(process), await proc.end(process.handle)] == [0, 0, 0]


async def test_a_cancelled_end_kills_at_once(start: Start, tmp_path: Path) -> None:
    process = await start("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    await eventually(lambda: (tmp_path / "out").read_text() == "ready\n")
    ending = asyncio.create_task(proc.end(process, grace=60))
    await asyncio.sleep(0.05)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert await process.wait(5) == -signal.SIGKILL


async def test_signs_of_life_cover_the_whole_tree_and_not_its_zombies(
    start: Start, tmp_path: Path, cgroups: bool
) -> None:
    busy = "i=0; while :; do i=$((i+1)); done"
    zombie = "import os, time; os.fork() or os._exit(0); print('ready', flush=True); time.sleep(300)"
    script = f"""sh -c '{busy}' & exec "{sys.executable}" -S -c "{zombie}" """
    process = await start("sh", "-c", script)
    await eventually(lambda: b"ready" in (tmp_path / "out").read_bytes())
    before = proc.signs(process.handle)
    await eventually(lambda: proc.signs(process.handle).cpu_seconds > before.cpu_seconds)
    assert proc.signs(process.handle).processes == 2 + process.handle.reaper  # the shim that stays
    await proc.end(process, 0)
    await eventually(lambda: proc.signs(process.handle) == proc.Signs(0, 0, 0))


async def test_signs_count_bytes_read_and_written(start: Start, tmp_path: Path, cgroups: bool) -> None:
    process = await start("sh", "-c", "head -c 1000000 /dev/zero; echo; echo ready >&2; sleep 60")
    await eventually(lambda: (tmp_path / "err").read_text() == "ready\n")
    assert proc.signs(process.handle).io_bytes > 1_000_000 or sys.platform == "darwin"


async def test_where_there_is_no_proc_ps_tells_the_same(start: Start, mark: str) -> None:
    process = await start("sleep", "60", mark=mark.replace(":", ""))
    listed = {row.pid: (row, command) for row, command in table.ps_rows(table._ps("ax"))}
    row, command = listed[process.handle.pid]
    assert (row.group, row.parent, row.zombie) == (process.handle.pid, os.getpid(), False)
    assert table.mark_in(command.replace(" ", "\0").encode()) == process.handle.mark
    assert len(row.started.split()) == 5
