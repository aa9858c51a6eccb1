"""Child processes: started on files, followed to the end, and ended with everything they started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from nightcrew import proc
from nightcrew.errors import NightcrewError
from nightcrew.proc import cgroup, table

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
        time.sleep(0.01)

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


@pytest.fixture
def token() -> str:
    return str(uuid4().int)[:12]


@pytest.fixture
def mark(token: str) -> str:
    return f"test-{token}:"


@pytest.fixture(params=["with a cgroup", "without a cgroup"])
def cgroups(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether programs get a cgroup here; both ways are tried where one may be written."""
    if request.param == "without a cgroup":
        monkeypatch.setenv("NIGHTCREW_CGROUPS", "off")
    return bool(cgroup._home())


@pytest.fixture
async def start(tmp_path: Path, mark: str) -> AsyncIterator[Start]:
    """Start a program in tmp_path with output in `out` and `err`; everything is ended afterwards."""
    started: list[proc.Process] = []

    async def begin(*argv: str, **more: object) -> proc.Process:
        files = {"stdout": tmp_path / "out", "stderr": tmp_path / "err"}
        process = await proc.start(argv, **{"cwd": tmp_path, "env": ENV, "mark": mark, **files, **more})  # type: ignore[arg-type]
        started.append(process)
        return process

    yield begin
    for process in started:
        await proc.end(process, 0)


def commands_with(token: str) -> dict[int, str]:
    """pid -> command line of all running processes that name the token, by `ps` and not by our own eyes."""
    listed = subprocess.run(
        ["ps", "ax", "-o", "pid=,stat=,command="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return {int(row[0]): row[2] for row in rows if len(row) == 3 and token in row[2] and not row[1].startswith("Z")}


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


async def test_nothing_of_a_nasty_tree_outlives_its_end(
    start: Start, tmp_path: Path, token: str, cgroups: bool
) -> None:
    process = await nasty(start, tmp_path, token, "respawner")
    assert await proc.end(process, grace=0.05) == 0
    left = {pid: command for pid, command in commands_with(token).items() if cgroups or f"{token}4" not in command}
    for pid in commands_with(token):  # what only a cgroup can find is ours to tidy up
        os.kill(pid, signal.SIGKILL)
    assert left == {}
    assert process.returncode == -signal.SIGKILL
    assert not process.handle.cgroup or not Path(process.handle.cgroup).exists()


async def test_a_tree_is_ended_by_its_handle_alone(start: Start, tmp_path: Path, token: str) -> None:
    process = await nasty(start, tmp_path, token)
    handle = proc.Handle.from_json(process.handle.to_json())
    assert proc.alive(handle)
    assert await proc.end(handle, grace=0) == 0
    await process.wait(5)
    assert not proc.alive(handle)
    if handle.cgroup:
        assert commands_with(token) == {}
    for pid in commands_with(token):
        os.kill(pid, signal.SIGKILL)


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
    assert any(token in left.command and left.mark == mark for left in proc.leftovers(mark))
    assert await proc.sweep(mark) >= 5
    left = {pid: command for pid, command in commands_with(token).items() if cgroups or f"{token}4" not in command}
    for pid in commands_with(token):
        os.kill(pid, signal.SIGKILL)
    assert left == {}
    assert proc.leftovers(mark) == []
    assert await proc.sweep(mark) == 0


async def test_a_sweep_leaves_other_marks_alone(start: Start, mark: str) -> None:
    mine, other = await start("sleep", "60", mark=f"{mark}1:a"), await start("sleep", "60", mark=f"{mark}10:a")
    assert await proc.sweep(f"{mark}1:") == 1
    assert await mine.wait(5) == -signal.SIGKILL
    assert other.returncode is None
    assert [left.pid for left in proc.leftovers(mark)] == [other.handle.pid]


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


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", -9), ("kill -15 $$", -15)]
)
async def test_the_exit_code_is_the_same_live_and_from_the_file(
    start: Start, tmp_path: Path, script: str, code: int, cgroups: bool
) -> None:
    (tmp_path / "rc").write_text("99\n")
    process = await start("sh", "-c", script, rc=tmp_path / "rc")
    assert await process.wait(5) == code
    assert proc.exit_code(tmp_path / "rc") == code
    assert await (await start("sh", "-c", script)).wait(5) == code


@pytest.mark.parametrize("text", ["", "1", "seven\n", "-3\n", "\xff\n"])
def test_an_exit_code_that_was_not_fully_written_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "rc").write_bytes(text.encode("latin-1"))
    assert proc.exit_code(tmp_path / "rc") is None
    assert proc.exit_code(tmp_path / "no such file") is None


async def test_waiting_gives_up_after_its_timeout_and_the_program_lives_on(start: Start) -> None:
    process = await start("sleep", "60")
    assert await process.wait(0.05) is None
    assert proc.alive(process.handle)


async def test_the_environment_is_what_was_given_and_the_mark(start: Start, tmp_path: Path, mark: str) -> None:
    process = await start("env", env={"PATH": ENV["PATH"], "ONLY": "this"}, rc=tmp_path / "rc")
    await process.wait(5)
    lines = set((tmp_path / "out").read_text().splitlines())
    assert {"ONLY=this", f"NIGHTCREW_MARK={mark}"} <= lines
    assert {line.split("=")[0] for line in lines} <= {"ONLY", "NIGHTCREW_MARK", "PATH", "PWD", "SHLVL", "_", "OLDPWD"}


async def test_arguments_are_never_read_by_a_shell(start: Start, tmp_path: Path) -> None:
    words = ["$(touch pwned)", "; touch pwned", "a b", "`touch pwned`", "*", ""]
    process = await start("printf", "<%s>", *words, rc=tmp_path / "rc")
    await process.wait(5)
    assert (tmp_path / "out").read_text() == "".join(f"<{word}>" for word in words)
    assert not (tmp_path / "pwned").exists()


async def test_a_program_that_is_not_there_is_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "no-program").write_text("#!/bin/sh\n")
    for name in ("nightcrew-no-such-program", "./no-program", "/no/such/program"):
        with pytest.raises(proc.ProgramNotFound, match=name):
            await start(name)


async def test_a_missing_folder_or_an_impossible_argument_is_said_plainly(start: Start, tmp_path: Path) -> None:
    with pytest.raises(NightcrewError, match="is not there"):
        await start("true", cwd=tmp_path / "gone")
    with pytest.raises(NightcrewError, match="cannot be started"):
        await start("echo", "a\0b")
    with pytest.raises(NightcrewError, match="cannot be opened"):
        await start("true", stdout=tmp_path / "no" / "folder")


async def test_a_program_reads_the_file_it_is_given(start: Start, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello\n")
    process = await start("cat", stdin=tmp_path / "in", rc=tmp_path / "rc")
    assert await all_lines(tmp_path / "out", process) == [b"hello"]


async def test_a_conversation_on_stdin_and_its_end(start: Start, tmp_path: Path) -> None:
    process = await start("cat", two_way=True, rc=tmp_path / "rc")
    process.write(b"one\n")
    await eventually(lambda: (tmp_path / "out").read_bytes() == b"one\n")
    process.write(b"two" * 500_000)
    process.close_stdin()
    assert await process.wait(10) == 0
    assert (tmp_path / "out").read_bytes() == b"one\n" + b"two" * 500_000


async def test_writing_to_a_program_that_does_not_read_neither_blocks_nor_raises(start: Start) -> None:
    deaf, gone = await start("sleep", "60", two_way=True), await start("true", two_way=True)
    await gone.wait(5)
    began = time.monotonic()
    for process in (deaf, gone):
        process.write(b"x" * 1_000_000)
        process.write(b"y")
        process.close_stdin()
        process.write(b"z")
    assert time.monotonic() - began < 0.5
    assert await proc.end(deaf, 0) == 0


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


def test_no_token_of_ours_passes_the_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("GITHUB_TOKEN", "SSH_AUTH_SOCK", "GIT_DIR", "GIT_ASKPASS", "ANTHROPIC_API_KEY", "NIGHTCREW_MARK", "LCX")
    for name in (*secrets, "LC_TIME", "TZ", "NAMED"):
        monkeypatch.setenv(name, "here")
    env = proc.base_env(allow=["NAMED", "*"], extra={"EXTRA": "1"})
    assert not set(secrets) & set(env)
    assert (env["LC_TIME"], env["TZ"], env["NAMED"], env["EXTRA"]) == ("here", "here", "here", "1")
    assert "NAMED" not in proc.base_env()


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
    assert proc.signs(process.handle).processes == 2
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
