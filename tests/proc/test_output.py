"""What programs print is followed to its end, and short commands say what they said."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from nightcrew import proc
from tests.proc.eyes import Start, all_lines, commands_with, eventually


async def test_an_orphan_that_holds_the_output_does_not_keep_us_waiting(start: Start, tmp_path: Path) -> None:
    process = await start("sh", "-c", "sleep 60 & echo hi; exit 3")
    async with asyncio.timeout(5):
        assert await all_lines(tmp_path / "out", process) == [b"hi"]
        assert await process.wait() == 3
    assert await proc.end(process) == 0


async def test_a_lot_on_stderr_blocks_nobody(start: Start, tmp_path: Path) -> None:
    process = await start("sh", "-c", "head -c 300000 /dev/zero >&2; echo done")
    assert await all_lines(tmp_path / "out", process) == [b"done"]
    assert (tmp_path / "err").stat().st_size == 300_000


async def test_a_line_of_50_megabytes_is_cut_and_the_next_one_is_whole(start: Start, tmp_path: Path) -> None:
    process = await start("sh", "-c", "head -c 50000000 /dev/zero; echo; echo next")
    lines = await all_lines(tmp_path / "out", process, limit=1000)
    assert lines == [b"\0" * 1000, b"next"]
    assert [isinstance(line, proc.Cut) for line in lines] == [True, False]


async def test_any_bytes_come_through_and_a_torn_last_line_too(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"\xff\xfe\n\n\0\r\ntorn \xc3")
    assert await all_lines(tmp_path / "out", lambda: True) == [b"\xff\xfe", b"", b"\0\r", b"torn \xc3"]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
async def test_a_line_of_exactly_the_limit_is_whole_and_one_byte_more_is_cut(tmp_path: Path, limit: int) -> None:
    (tmp_path / "out").write_bytes(b"x" * limit + b"\n" + b"y" * (limit + 1) + b"\nz")
    lines = await all_lines(tmp_path / "out", lambda: True, limit=limit)
    assert lines == [b"x" * limit, b"y" * limit, b"z"]
    assert [isinstance(line, proc.Cut) for line in lines] == [False, True, False]


async def test_following_goes_on_from_an_offset(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"one\ntwo\nth")
    [first] = [batch async for batch in proc.lines(tmp_path / "out", lambda: True) if batch != [b"th"]]
    assert (first, first.end) == ([b"one", b"two"], 8)
    (tmp_path / "out").write_bytes(b"one\ntwo\nthree\n")
    assert await all_lines(tmp_path / "out", lambda: True, start=first.end) == [b"three"]


async def test_a_file_that_is_not_there_yet_is_waited_for_and_one_that_never_comes_is_empty(tmp_path: Path) -> None:
    over = asyncio.Event()
    following = asyncio.create_task(all_lines(tmp_path / "late", over.is_set))
    await asyncio.sleep(0.05)
    (tmp_path / "late").write_text("here\n")
    over.set()
    assert await following == [b"here"]
    assert await all_lines(tmp_path / "never", lambda: True) == []


async def test_the_end_of_the_process_is_seen_at_once(start: Start, tmp_path: Path) -> None:
    process = await start("sh", "-c", "sleep 0.1; echo last")
    async with asyncio.timeout(5):
        assert [batch async for batch in proc.lines(tmp_path / "out", process, poll=60)] == [[b"last"]]


async def test_an_endless_orphan_does_not_keep_the_followers_following(start: Start, tmp_path: Path) -> None:
    process = await start("sh", "-c", "while :; do echo y; done & sleep 0.05")
    async with asyncio.timeout(20):
        async for _ in proc.lines(tmp_path / "out", process, poll=0.01):
            pass
        await proc.end(process, 0)


async def test_a_command_says_what_it_said() -> None:
    done = await proc.run(["sh", "-c", "cat; echo err >&2; exit 4"], input=b"in" * 100_000)
    assert (done.code, done.stdout, done.stderr, done.timed_out, done.cut) == (4, b"in" * 100_000, b"err\n", False, 0)


async def test_much_output_keeps_its_head_and_its_tail() -> None:
    done = await proc.run(["sh", "-c", "echo first; yes | head -c 3000000; echo last"], limit=1000)
    assert done.stdout.startswith(b"first\n")
    assert done.stdout.endswith(b"last\n")
    assert done.cut == 3_000_000 + len("first\nlast\n") - 1000
    assert len(done.stdout) < 1100
    assert (await proc.run(["head", "-c", "1000", "/dev/zero"], limit=1000)).stdout == b"\0" * 1000


@pytest.mark.parametrize("mark_it", [True, False])
async def test_a_command_out_of_time_is_ended_with_all_it_started(token: str, mark: str, mark_it: bool) -> None:
    script = f"sleep 300.{token} & echo so far; sleep 300.{token}"
    done = await proc.run(["sh", "-c", script], timeout=0.2, mark=mark if mark_it else "")
    assert (done.code, done.stdout, done.timed_out) == (-signal.SIGTERM, b"so far\n", True)
    assert commands_with(token) == {}


async def test_a_marked_command_leaves_nothing_behind_even_when_it_ends_well(token: str, mark: str) -> None:
    done = await proc.run(["sh", "-c", f"setsid sleep 300.{token} & echo ok"], mark=mark)
    assert (done.code, done.stdout) == (0, b"ok\n")
    assert commands_with(token) == {}


async def test_an_orphan_that_holds_the_pipe_does_not_hang_a_command(token: str) -> None:
    done = await proc.run(["sh", "-c", f"sleep 300.{token} & echo ok"])
    assert (done.code, done.stdout, done.timed_out) == (0, b"ok\n", False)
    assert done.seconds < 10
    for pid in commands_with(token):
        os.kill(pid, signal.SIGKILL)


async def test_a_cancelled_command_is_ended_with_all_it_started(token: str) -> None:
    running = asyncio.create_task(proc.run(["sh", "-c", f"sleep 300.{token} & sleep 300.{token}"]))
    await eventually(lambda: len(commands_with(f"300.{token}")) >= 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert commands_with(token) == {}


async def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(proc.ProgramNotFound, match="nightcrew-no-such-program"):
        await proc.run(["nightcrew-no-such-program"])


async def test_many_commands_leave_no_file_descriptor_open() -> None:
    await proc.run(["true"])
    before = len(list(Path("/dev/fd").iterdir()))
    await asyncio.gather(*(proc.run(["sh", "-c", "echo $0; exit 1"], mark="test-fds") for _ in range(20)))
    assert len(list(Path("/dev/fd").iterdir())) == before
