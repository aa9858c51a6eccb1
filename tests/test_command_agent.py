"""Any program as an agent: how it is started, and how what it printed is read."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew import proc
from nightcrew.adapters.agents.command import Command
from nightcrew.core.model import Usage, Window
from nightcrew.core.outcome import Claim, Ending, Finding, Outcome
from nightcrew.errors import ConfigError
from nightcrew.ports import Launch, Task

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
BLOCKED = "I cannot go on.\n\n```nightcrew-blocked\nreason: no key\nconf.py:3: KEY = None\n```\n"
SCHEMA = {"type": "object"}


def agent(**settings: object) -> Command:
    return Command("mine", {"command": [sys.executable, "agent.py"], **settings})


def task(tmp_path: Path, **more: object) -> Task:
    return Task(tmp_path, "do it", tmp_path, session_id="5e55", **more)  # type: ignore[arg-type]


def line(type_: str, **fields: object) -> bytes:
    return json.dumps({"type": type_, **fields}).encode()


def read(*lines: bytes, code: int | None = 0, stderr: str = "") -> Ending:
    return agent().read(lines, code, stderr, NOW)


async def played(launch: Launch, folder: Path) -> tuple[str, int | None]:
    """Start it as a session would: what it printed, and its exit code."""
    (folder / "stdin").write_bytes(launch.conversation.opening())
    process = await proc.start(
        launch.argv, cwd=folder, env=proc.base_env(extra=launch.env), mark=f"test-{folder}:", stdout=folder / "out",
        stderr=folder / "err", stdin=folder / "stdin",
    )  # fmt: skip
    try:
        return (folder / "out").read_text() if await process.wait(20) is not None else "", process.returncode
    finally:
        await proc.end(process, 0)


async def test_a_program_gets_its_prompt_on_stdin_and_its_session_by_environment(tmp_path: Path) -> None:
    show = (
        'cat; echo "<$NIGHTCREW_SESSION|$NIGHTCREW_MODEL|$NIGHTCREW_RESUME|$NIGHTCREW_READ_ONLY|$1|$2|$3>" >&2; exit 3'
    )
    own = agent(command=["sh", "-c", show, "sh", "{model}-{session}", "{workspace}"], models=["small"],
                resume_args=["--go-on={session}"])  # fmt: skip
    said, code = await played(own.launch(task(tmp_path, model="small", resume=True, read_only=True)), tmp_path)
    assert (said, code) == ("do it", 3)
    assert (tmp_path / "err").read_text() == f"<5e55|small|1|1|small-5e55|{tmp_path}|--go-on=5e55>\n"


async def test_a_prompt_as_an_argument_is_one_word_whatever_it_holds(tmp_path: Path) -> None:
    prompt = '$(touch pwned) "; `touch pwned` \0{model} {session}\nläuft'
    own = agent(command=["printf", "<%s>"], prompt="argument")
    said, _ = await played(own.launch(Task(tmp_path, prompt, tmp_path, "5e55")), tmp_path)
    assert said == f"<{prompt}>".replace("\0", "")
    assert not (tmp_path / "pwned").exists()


def test_what_is_filled_in_is_never_filled_in_again(tmp_path: Path) -> None:
    own = agent(command=[sys.executable, "{model}"], models=["{session}"])
    assert own.launch(task(tmp_path, model="{session}")).argv[1:] == ("{session}",)


def test_instructions_and_a_schema_become_part_of_the_prompt(tmp_path: Path) -> None:
    opening = agent().launch(task(tmp_path, instructions="Use tabs.", schema=SCHEMA)).conversation.opening().decode()
    assert opening.startswith("do it")
    assert "Use tabs." in opening
    assert json.dumps(SCHEMA).replace(" ", "") in opening


def test_the_environment_may_pass_on_or_name_what_nightcrew_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "k")
    env = agent(env={"KEY": "$MY_KEY", "MODE": "fast"}, pass_env=["MY_KEY", "NOT_SET"]).launch(task(tmp_path)).env
    assert (env["KEY"], env["MODE"], env["MY_KEY"]) == ("k", "fast", "k")
    assert not {"NOT_SET", "NIGHTCREW_RESUME", "NIGHTCREW_READ_ONLY"} & set(env)


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"comand": ["x"]}, "comand: unknown key", "Did you mean `command`?"),
        ({}, "command:", "Write it as a list"),
        ({"command": "my agent"}, "command:", "Write it as a list"),
        ({"command": []}, "names no program", "Write it as a list"),
        ({"command": ["x"], "prompt": "file"}, "prompt:", "Without it"),
        ({"command": ["x"], "models": [1]}, "models:", "Without it"),
        ({"command": ["x", "--model={model}"]}, "models:", "models = "),
    ],
)
def test_a_wrong_setting_is_named_with_its_cure(settings: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        Command("mine", settings)
    assert str(error.value).startswith("[agents.mine] ")
    assert message in str(error.value)
    assert hint in error.value.hint


def test_what_cannot_be_launched_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no program `nightcrew-no-such-agent`"):
        agent(command=["nightcrew-no-such-agent"]).launch(task(tmp_path))
    with pytest.raises(ConfigError, match=r"env.KEY: the environment has no NIGHTCREW_NOT_SET"):
        agent(env={"KEY": "$NIGHTCREW_NOT_SET"}).launch(task(tmp_path))
    with pytest.raises(ConfigError, match="too long for an argument"):
        agent(prompt="argument").launch(Task(tmp_path, "x" * 200_000, tmp_path, "s"))


def test_a_plain_program_is_done_when_it_exits_with_0() -> None:
    ending = read(b"working", b"all good")
    assert (ending.outcome, ending.said) == (Outcome.DONE, "working\nall good")
    assert "all good" in ending.evidence


@pytest.mark.parametrize(
    "said", [[line("progress", text=BLOCKED)], BLOCKED.encode().split(b"\n"), [line("result", text=BLOCKED)]]
)
def test_a_claim_to_be_blocked_is_found_in_the_last_message(said: list[bytes]) -> None:
    ending = read(*said)
    assert (ending.outcome, ending.claims) == (Outcome.BLOCKED, (Claim("no key", "conf.py", 3, "KEY = None"),))


def test_a_claim_counts_only_when_the_program_ends_well() -> None:
    assert read(line("progress", text=BLOCKED), code=1).outcome is Outcome.CRASHED
    assert read(line("result", outcome="done", text=BLOCKED)).claims == ()


@pytest.mark.parametrize(
    ("code", "outcome", "evidence"),
    [
        (1, Outcome.CRASHED, "exit code 1: boom"),
        (-9, Outcome.CRASHED, "killed by SIGKILL: boom"),
        (-11, Outcome.CRASHED, "killed by SIGSEGV: boom"),
        (None, Outcome.CRASHED, "exit code unknown: boom"),
        (127, Outcome.MISCONFIGURED, "exit code 127: not found: boom"),
        (126, Outcome.MISCONFIGURED, "exit code 126: not executable: boom"),
    ],
)
def test_an_end_without_a_result_is_told_from_the_exit_code(code: int | None, outcome: Outcome, evidence: str) -> None:
    ending = read(b"output", code=code, stderr="first\nboom\n\n")
    assert (ending.outcome, ending.evidence) == (outcome, evidence)


def test_without_stderr_the_evidence_is_the_end_of_the_output() -> None:
    assert read(b"one", b"two", code=2).evidence == "exit code 2: two"


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_program_may_report_any_outcome(outcome: Outcome) -> None:
    ending = read(line("result", outcome=outcome.value, text="so it is", resets_at=1_795_320_000), code=0)
    assert (ending.outcome, ending.said, ending.resets_at) == (outcome, "so it is", 1_795_320_000.0)
    assert bool(ending.claims) == (outcome is Outcome.BLOCKED)


def test_a_limit_is_believed_whatever_the_exit_code() -> None:
    assert read(line("result", outcome="rate_limited", resets_at=1_795_320_000), code=1).resets_at == 1_795_320_000


@pytest.mark.parametrize("resets_at", ["soon", True, None, [], -1, 10**400, "1795320000"])
def test_a_reset_that_is_no_moment_is_none(resets_at: object) -> None:
    assert read(line("result", outcome="rate_limited", resets_at=resets_at)).resets_at is None


@pytest.mark.parametrize("raw", [b"NaN", b"Infinity", b"1e999", b"-1e999"])
def test_a_reset_that_is_not_finite_is_none(raw: bytes) -> None:
    assert read(b'{"type": "result", "outcome": "rate_limited", "resets_at": ' + raw + b"}").resets_at is None


@pytest.mark.parametrize("word", ["finished", "", None, 3, [], {}, True, "DONE"])
def test_an_outcome_we_do_not_know_is_a_crash(word: object) -> None:
    ending = read(line("result", outcome=word))
    assert ending.outcome is Outcome.CRASHED
    assert "unknown outcome" in ending.evidence


def test_done_and_then_an_error_is_a_crash() -> None:
    ending = read(line("result", outcome="done"), code=1, stderr="disk full")
    assert (ending.outcome, ending.evidence) == (
        Outcome.CRASHED,
        "it reported done, and then ended with exit code 1: disk full",
    )
    assert read(line("result"), code=-11).outcome is Outcome.CRASHED


@pytest.mark.parametrize("code", [-15, -9, 143, None])
def test_a_program_that_lingers_after_its_result_and_is_ended_was_done(code: int | None) -> None:
    assert read(line("result", outcome="done"), code=code).outcome is Outcome.DONE


def test_claims_and_findings_are_read_from_the_result() -> None:
    claims = [{"reason": "no key", "file": "a.py", "line": 2, "quote": "x"}, 3, {"line": "two"}]
    findings = [{"file": "a.py", "line": 3, "message": "no", "blocking": True}]
    assert read(line("result", outcome="blocked", claims=claims)).claims == (Claim("no key", "a.py", 2, "x"), Claim(""))
    assert read(line("result", findings=findings)).findings == (Finding("a.py", 3, "no", True),)
    assert read(line("result", text=json.dumps({"findings": findings}))).findings == (Finding("a.py", 3, "no", True),)
    assert read(line("result", findings=[{"file": 1}])).findings is None
    assert read(line("result")).findings is None


def test_blocked_without_a_claim_is_one_claim_without_evidence() -> None:
    assert read(line("result", outcome="blocked", text="no access")).claims == (Claim("no access"),)


def test_usage_is_summed_and_the_last_model_is_kept() -> None:
    ending = read(
        line("session", id="s-1"),
        line("usage", input=1, output=2, cache_read=3, cache_write=4, money=0.5, model="small", turns=1),
        line("usage", input=10, output="20", cache_read=-3, cache_write=True, money="1", model=""),
        line("usage", input=10**400, output=1e300, money=1e308),
        line("usage", input=7.0, model="large"),
    )
    assert ending.usage == Usage(18, 2, 3, 4, 0.5, 1)
    assert (ending.model, ending.session_id) == ("large", "s-1")


def test_progress_is_heard_while_it_runs(tmp_path: Path) -> None:
    conversation = agent().launch(task(tmp_path)).conversation
    heard = [
        b"\xff plain",
        line("session", id="s"),
        line("usage", input=5, model="m"),
        line("progress", text="half\nway"),
    ]
    assert [conversation.hear(each) for each in heard] == [b""] * 4
    progress = conversation.progress
    assert (progress.session_id, progress.model, progress.usage.input, progress.last) == ("s", "m", 5, "half way")
    assert not progress.over
    conversation.hear(line("result"))
    assert progress.over


def test_a_window_and_a_question_are_heard_while_it_runs(tmp_path: Path) -> None:
    conversation = agent().launch(task(tmp_path)).conversation
    now = conversation.progress
    conversation.hear(line("window", name="five_hour", used=0.5, resets_at=1795370334, seconds=18_000))
    conversation.hear(line("window", name="week", used=3, resets_at=1795870334))
    for wrong in ({"used": -1, "resets_at": 9}, {"used": "x", "resets_at": 9}, {"used": 0.5}, {"resets_at": 9}):
        conversation.hear(line("window", name="wrong", **wrong))
    assert now.windows == (
        Window("five_hour", 0.5, 1795370334, 18_000), Window("week", 1.0, 1795870334, warning=True),
    )  # fmt: skip
    conversation.hear(line("prompt", text="May I?"))
    assert (now.waiting_on, now.asks) == ("prompt", "May I?")
    conversation.hear(b"going on")
    assert (now.waiting_on, now.asks) == ("model", "")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    [
        "id",
        "text",
        "input",
        "output",
        "cache_read",
        "money",
        "model",
        "outcome",
        "resets_at",
        "claims",
        "findings",
        "turns",
    ]
)
types = st.sampled_from(["session", "progress", "usage", "result", "other"]) | anything
events = st.builds(lambda kind, rest: {**rest, "type": kind}, types, st.dictionaries(keys, anything))
encoded = events.map(lambda event: json.dumps(event).encode())
torn = st.builds(lambda data, at: data[: len(data) * at // 10], encoded, st.integers(0, 10))


@given(
    st.lists(encoded | torn | st.binary(max_size=80), max_size=6),
    st.none() | st.integers(-70, 300),
    st.text(max_size=40),
)
def test_no_output_whatever_makes_reading_fail(lines: list[bytes], code: int | None, stderr: str) -> None:
    own = agent()
    ending = own.read(lines, code, stderr, NOW)
    assert bool(ending.claims) == (ending.outcome is Outcome.BLOCKED)
    assert ending.resets_at is None or abs(ending.resets_at) < 1e11
    assert min(ending.usage.tokens, ending.usage.money, ending.usage.turns) >= 0
    assert ending.evidence.isprintable()
    if code != 0 and not any(b'"result"' in each for each in lines):
        assert ending.outcome in (Outcome.CRASHED, Outcome.MISCONFIGURED)
    conversation = own.launch(Task(Path(), "", Path(), "s")).conversation
    assert {conversation.hear(each) for each in lines} <= {b""}
    assert conversation.progress.usage == ending.usage


def test_nesting_and_numbers_without_end_are_only_text() -> None:
    deep, long = b'{"type":' + b"[" * 100_000, b'{"type": "usage", "input": ' + b"9" * 10_000 + b"}"
    assert read(deep, long).outcome is Outcome.DONE
    assert read(deep, long, code=1).usage == Usage()
