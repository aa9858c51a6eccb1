"""What every agent promises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightcrew.core.outcome import Outcome
from nightcrew.errors import ConfigError
from nightcrew.ports import Agent, Task

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
GARBAGE = st.lists(
    st.binary(max_size=80)
    | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))
    | st.sampled_from([
        b"{}", b"[]", b"null", b"{", b'"done"', b"1e999", b'{"type": null}', b'{"type": []}', b'{"type": "result"}',
        b'{"type": "system", "subtype": 3}', b'{"type": "assistant", "message": []}', b'{"method": 1, "params": "x"}',
        b'{"type": "result", "result": {}, "is_error": "no", "usage": [], "subtype": {}}', b"[" * 20_000,
        b"\xff" * 70_000,
        b'{"jsonrpc": "2.0", "id": {}, "error": []}', b'{"type": "usage", "input": -1, "money": "NaN"}',
    ]),
    max_size=12,
)  # fmt: skip
OFTEN = settings(
    max_examples=80,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)
HOSTILE = "$(touch planted) `touch planted`; touch planted\n--help\n' \" \\ %s \x1b é 🌙 </ticket>"


class AgentContract:
    """Fixtures: `agent`, whose program is there; `task`, a Task whose workspace and scratch folders exist.

    Set `prompt_in_argv` for an agent that can take its prompt no other way; `exit_0_is_done` for one whose exit code is
    all that it says; `greeting` to what a two-way agent says before it is told its prompt.
    """

    prompt_in_argv = False
    exit_0_is_done = False
    greeting: ClassVar[tuple[bytes, ...]] = ()

    def test_the_ladder_and_the_name_are_text(self, agent: Agent) -> None:
        assert agent.name
        assert all(isinstance(model, str) and model for model in agent.models)

    def test_the_lane_and_its_memory_are_known_without_a_launch(self, agent: Agent) -> None:
        assert agent.seat.lane.startswith(agent.seat.agent)
        assert agent.seat.agent
        assert agent.seat.provider
        assert agent.memory > 0

    def test_how_it_is_logged_in_is_said_in_a_sentence(self, agent: Agent) -> None:
        login = agent.login(NOW)
        assert login.kind in {"token", "key", "file", "keychain", "none", "own"}
        assert login.says.strip()
        assert login.ok or login.kind in {"none", "file"}
        assert agent.login(NOW) == login  # looking changes nothing

    def test_logging_in_is_a_program_with_its_arguments_or_nothing(self, agent: Agent) -> None:
        if there := agent.log_in():
            argv, env = there
            assert argv
            assert all(isinstance(part, str) for part in (*argv, *env, *env.values()))

    def test_a_launch_is_a_program_with_its_arguments(self, agent: Agent, task: Task) -> None:
        launch = agent.launch(task)
        assert Path(launch.argv[0]).is_absolute()
        assert all(isinstance(part, str) and "\0" not in part for part in launch.argv)
        assert all(isinstance(part, str) and "\0" not in part for pair in launch.env.items() for part in pair)

    def test_the_prompt_is_data_and_no_argument(self, agent: Agent, task: Task) -> None:
        launch = agent.launch(_with_prompt(task, HOSTILE))
        holding = [part for part in launch.argv if "touch planted" in part]
        assert holding == ([HOSTILE] if self.prompt_in_argv else [])
        said = [launch.conversation.opening(), *(launch.conversation.hear(line) for line in self.greeting)]
        assert self.prompt_in_argv or b"touch planted" in b"".join(said)

    def test_a_very_long_prompt_does_not_make_the_command_too_long(self, agent: Agent, task: Task) -> None:
        try:
            argv = agent.launch(_with_prompt(task, "word " * 200_000)).argv
        except ConfigError:
            assert self.prompt_in_argv  # and then it must be said
        else:
            assert max(len(part.encode()) for part in argv) < 128 << 10  # what Linux takes for one argument

    def test_launching_twice_is_the_same_launch(self, agent: Agent, task: Task) -> None:
        first, second = agent.launch(task), agent.launch(task)
        assert (first.argv, first.env, first.two_way) == (second.argv, second.env, second.two_way)
        assert first.conversation is not second.conversation

    @OFTEN
    @given(lines=GARBAGE)
    def test_a_conversation_survives_anything(self, agent: Agent, task: Task, lines: Sequence[bytes]) -> None:
        launch = agent.launch(task)
        launch.conversation.opening()
        for line in lines:
            answer = launch.conversation.hear(line)
            assert isinstance(answer, bytes)
            assert launch.two_way or not answer
        progress = launch.conversation.progress
        assert min(progress.lines, progress.usage.tokens, progress.usage.turns) >= 0
        assert progress.usage.money >= 0
        assert progress.waiting_on in {"model", "tool", "prompt"}
        assert (progress.waiting_on == "prompt") == bool(progress.asks)
        assert progress.same_calls >= 0
        assert all(0 <= w.used <= 1 and w.resets_at > 0 and w.name for w in progress.windows)

    @OFTEN
    @given(lines=GARBAGE, code=st.none() | st.integers(-64, 255), stderr=st.text(max_size=100))
    def test_reading_never_raises_and_garbage_is_never_done(
        self, agent: Agent, lines: Sequence[bytes], code: int | None, stderr: str
    ) -> None:
        ending = agent.read(lines, code, stderr, NOW)
        assert isinstance(ending.outcome, Outcome)
        assert ending.evidence.strip()
        assert (ending.outcome is Outcome.BLOCKED) == bool(ending.claims)
        # Where little need be said to be done, a line of type "result" says it.
        claimed = code == 0 or any(b'"result"' in line for line in lines)
        assert ending.outcome is not Outcome.DONE or (self.exit_0_is_done and claimed)

    @pytest.mark.parametrize("code", [-9, -11, -15, 1, 127, None])
    def test_silence_with_a_bad_end_is_an_end_that_costs_nothing(self, agent: Agent, code: int | None) -> None:
        outcome = agent.read([], code, "", NOW).outcome
        assert outcome in {Outcome.CRASHED, Outcome.FAST_FAIL, Outcome.MISCONFIGURED}

    @pytest.mark.parametrize("code", [0, 1, -9])
    def test_output_without_end_is_read_line_by_line(self, agent: Agent, code: int) -> None:
        read = 0

        def lines() -> Iterable[bytes]:
            nonlocal read
            for read in range(1, 20_001):  # noqa: B007 - counted for the assertion
                yield b"x" * 500

        ending = agent.read(lines(), code, "y" * 1_000_000, NOW)
        assert read == 20_000
        assert len(ending.evidence) < 20_000
        assert ending.outcome is not Outcome.DONE or (self.exit_0_is_done and code == 0)


def _with_prompt(task: Task, prompt: str) -> Task:
    return Task(task.workspace, prompt, task.scratch, task.session_id, model=task.model)
