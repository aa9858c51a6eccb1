"""What a session is doing is told from all its signs of life together, and it is ended for good reasons only (I8)."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.core.liveness import Life, Signals, question, verdict
from nightcrew.core.model import Budget

BUDGET = Budget()
QUIET = Signals(heard=300, transcript=inf, cpu=inf, io=inf, tree=inf)
SIGNS = ("heard", "transcript", "cpu", "io", "tree")

ages = st.one_of(st.floats(0, 1e6), st.just(inf))
limits = st.one_of(st.just(0.0), st.floats(1, 1e4))
budgets = st.builds(
    lambda stall, prompt, zombie: Budget(stall_seconds=stall, prompt_seconds=prompt, zombie_seconds=zombie),
    limits, limits, limits,
)  # fmt: skip
signals = st.builds(
    Signals, ages, ages, ages, ages, ages, st.sampled_from(["model", "tool", "prompt", "x"]), st.floats(0, 1e6),
    st.integers(0, 9), st.lists(st.text(max_size=9), max_size=3).map(tuple), st.sampled_from([0.0, 0.5, 9.0, 1e5]),
    st.booleans(), st.sampled_from(["", "Proceed? {0} [y/N]"]), st.booleans(),
)  # fmt: skip
healthy = signals.map(lambda s: replace(s, gone=False, zombie=0.0, asks="", waiting_on="tool"))


@given(signals, budgets)
def test_every_verdict_has_evidence_and_only_a_lifeless_session_is_ended(s: Signals, budget: Budget) -> None:
    told = verdict(s, budget)
    assert told.evidence
    assert not told.end or told.life in (Life.DEAD, Life.ZOMBIE, Life.PROMPT, Life.SILENT)


@given(healthy, budgets, st.sampled_from(SIGNS))
def test_one_sign_of_life_within_the_limit_keeps_a_session_alive_whatever_the_others_say(
    s: Signals, budget: Budget, sign: str
) -> None:
    assert not verdict(replace(s, **{sign: budget.stall_seconds}), budget).end


@given(healthy, st.floats(1, 1e4))
def test_silence_on_every_signal_beyond_the_limit_ends_it_whatever_it_waits_for(s: Signals, limit: float) -> None:
    silent = replace(s, **{sign: max(getattr(s, sign), limit * 1.01) for sign in SIGNS})
    told = verdict(silent, Budget(stall_seconds=limit))
    assert (told.life, told.end) == (Life.SILENT, True)


@given(signals, budgets, st.sampled_from(SIGNS), st.floats(0, 1e5))
def test_a_later_sign_of_life_never_ends_what_went_on_without_it(
    s: Signals, budget: Budget, sign: str, later: float
) -> None:
    if not verdict(s, budget).end:
        assert not verdict(replace(s, **{sign: min(getattr(s, sign), later)}), budget).end


@given(signals)
def test_without_limits_only_what_is_gone_is_ended(s: Signals) -> None:
    told = verdict(s, Budget(stall_seconds=0, prompt_seconds=0, zombie_seconds=0))
    assert told.end == s.gone


def test_a_silent_compile_is_healthy_and_says_why() -> None:
    told = verdict(replace(QUIET, heard=1200, cpu=2, waiting_on="tool", tools=("cc1plus", "make")), BUDGET)
    assert (told.life, told.end) == (Life.TOOL, False)
    assert told.evidence == "no event for 1200 s, but its tree used CPU 2 s ago: cc1plus, make"


def test_a_tool_that_waits_for_ever_without_a_sign_is_silent_though_its_processes_live() -> None:
    told = verdict(replace(QUIET, heard=901, waiting_on="tool", processes=4, tools=("sleep",)), BUDGET)
    assert (told.life, told.end) == (Life.SILENT, True)
    assert "waiting on the tool" in told.evidence
    assert "running: sleep" in told.evidence


@pytest.mark.parametrize(
    ("seconds", "life"),
    [(3, Life.WORKING), (60, Life.MODEL), (440, Life.MODEL), (500, Life.SILENT), (899, Life.SILENT)],
)
def test_a_session_that_waits_for_its_model_is_shown_as_silent_long_before_it_is_ended(
    seconds: float, life: Life
) -> None:
    told = verdict(replace(QUIET, heard=seconds), BUDGET)
    assert (told.life, told.end) == (life, False)


def test_a_stopped_session_is_told_to_be_stopped() -> None:
    assert "its processes are stopped" in verdict(replace(QUIET, heard=1000, stopped=True), BUDGET).evidence


@pytest.mark.parametrize(("seconds", "end"), [(5, False), (59, True)])
def test_a_zombie_is_found_within_its_limit(seconds: float, end: bool) -> None:
    told = verdict(replace(QUIET, heard=seconds, zombie=seconds), BUDGET)
    assert (told.life, told.end) == (Life.ZOMBIE, end)
    assert "zombie" in told.evidence


def test_a_question_the_stream_tells_of_is_waited_for_whatever_else_moves() -> None:
    asked = replace(QUIET, heard=1, cpu=0, waiting_on="prompt", asks="Do you trust the files in this folder?")
    assert verdict(replace(asked, waited=30), BUDGET).life is Life.PROMPT
    told = verdict(replace(asked, waited=58), BUDGET)
    assert (told.life, told.end) == (Life.PROMPT, True)
    assert "Do you trust" in told.evidence


def test_a_question_that_was_only_printed_ends_nothing_while_anything_moves() -> None:
    asked = replace(QUIET, heard=600, asks="Proceed? [y/N]")
    assert verdict(asked, BUDGET).end
    for sign in ("transcript", "cpu", "io", "tree"):
        assert not verdict(replace(asked, **{sign: 20.0}), BUDGET).end
    assert verdict(replace(asked, heard=20), BUDGET).life is Life.PROMPT


@pytest.mark.parametrize(
    "output",
    [
        "Cloning\nProceed? [y/N] ", "Overwrite src/a.py? (yes/no): ", "Do you trust the files in this folder? ",
        "Press Enter to continue", "Password: ", "\x1b[1mEnter passphrase for key '/home/a/.ssh/id': \x1b[0m",
        "working...\rAre you sure? ", "Are you sure you want to continue connecting (yes/no/[fingerprint])? ",
        "\x1b[2J\x1b[1;1HDo\x1b[1Cyou\x1b[1Ctrust\x1b[1Cthe\x1b[1Cfiles in this folder?\n\x1b[3;1H❯ 1. Yes\n  2. No\n",
    ],
)  # fmt: skip
def test_a_dialog_is_recognised_in_what_was_printed_last(output: str) -> None:
    assert question(output)


@pytest.mark.parametrize(
    "output",
    [
        "", "\n", "Proceed? [y/N]\nyes\n",
        "Compiling foo v1.2.3", "[12/90] building", '{"type": "text", "text": "[y/N]',
        "Do you trust me? I do, and so should everybody else.",
        "the password: hunter2 was wrong\n", "running tests: ", "  ....F..",
    ],
)  # fmt: skip
def test_ordinary_output_is_no_question(output: str) -> None:
    assert question(output) == ""


@given(st.text(max_size=300))
def test_any_output_is_read_without_a_fault(output: str) -> None:
    assert len(question(output)) <= 200
    assert question(output + "\n") == "" or "\x1b[" in output
