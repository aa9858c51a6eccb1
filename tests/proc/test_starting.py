"""Programs are started on files, and their end is known."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nightcrew import proc
from nightcrew.errors import NightcrewError
from nightcrew.proc import child
from tests.proc.eyes import ENV, Start, all_lines, eventually


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


async def test_the_end_is_noticed_where_the_system_has_no_pidfd(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_pidfd", lambda pid: -1)  # as on macOS
    process = await start("sh", "-c", "sleep 0.05; echo last; exit 3")
    assert await all_lines(tmp_path / "out", process) == [b"last"]
    assert await process.wait(5) == 3
    assert (await proc.run(["sh", "-c", "sleep 60"], timeout=0.05)).timed_out


async def test_waiting_gives_up_after_its_timeout_and_the_program_lives_on(start: Start) -> None:
    process = await start("sleep", "60")
    assert await process.wait(0.05) is None
    assert proc.alive(process.handle)


async def test_the_environment_is_what_was_given_and_the_mark(
    start: Start, tmp_path: Path, mark: str, cgroups: bool
) -> None:
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


def test_no_token_of_ours_passes_the_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("GITHUB_TOKEN", "SSH_AUTH_SOCK", "GIT_DIR", "GIT_ASKPASS", "ANTHROPIC_API_KEY", "NIGHTCREW_MARK", "LCX")
    for name in (*secrets, "LC_TIME", "TZ", "NAMED"):
        monkeypatch.setenv(name, "here")
    env = proc.base_env(allow=["NAMED", "*"], extra={"EXTRA": "1"})
    assert not set(secrets) & set(env)
    assert (env["LC_TIME"], env["TZ"], env["NAMED"], env["EXTRA"]) == ("here", "here", "here", "1")
    assert "NAMED" not in proc.base_env()
