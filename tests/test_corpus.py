"""Every recorded stream of a real agent is read as what it was. `tests/corpus/<agent>-<version>/<scenario>.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew.core.outcome import Ending, Outcome
from nightcrew.ports import Agent

CORPUS = Path(__file__).parent / "corpus"
ADAPTERS = {"claude": "Claude", "codex": "Codex"}


@dataclass(frozen=True)
class Case:
    """One recorded run: `expect` holds the outcome, and `resets_at` (exact) or `resets_near` (told in words)."""

    name: str
    kind: str
    stdout: tuple[str, ...]
    stderr: str
    exit_code: int
    now: datetime
    expect: dict[str, Any]

    def read(self, lines: list[bytes] | None = None) -> Ending:
        """As the adapter reads it, or as it would read `lines` in place of what was recorded."""
        said = [line.encode() for line in self.stdout] if lines is None else lines
        return agent(self.kind).read(said, self.exit_code, self.stderr, self.now)


def agent(kind: str) -> Agent:
    """The adapter, with the settings it has by itself."""
    made: Agent = getattr(import_module(f"nightcrew.adapters.agents.{kind}"), ADAPTERS[kind])(kind, {})
    return made


def case(file: Path) -> Case:
    held = json.loads(file.read_text(encoding="utf-8"))
    kind = file.parent.name.partition("-")[0]
    return Case(
        f"{file.parent.name}/{file.stem}", kind, tuple(held["stdout"]), held["stderr"], held["exit_code"],
        datetime.fromisoformat(held["now"]), held["expect"],
    )  # fmt: skip


CASES = [case(file) for file in sorted(CORPUS.glob("*/*.json"))]
FAILED = {kind: [one for one in CASES if one.kind == kind and one.expect["outcome"] != "done"] for kind in ADAPTERS}


@pytest.mark.parametrize("recorded", CASES, ids=lambda one: one.name)
def test_a_recorded_run_is_read_as_what_it_was(recorded: Case) -> None:
    told = recorded.read()
    assert told.outcome == recorded.expect["outcome"], told
    assert told.evidence
    if (exact := recorded.expect.get("resets_at")) is not None:
        assert told.resets_at == exact
    if (near := recorded.expect.get("resets_near")) is not None:
        assert told.resets_at is not None
        assert abs(told.resets_at - near) <= 60


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_agent_has_successes_and_every_kind_of_provider_fault_on_record(kind: str) -> None:
    outcomes = {one.expect["outcome"] for one in CASES if one.kind == kind}
    assert outcomes >= {
        "done", "rate_limited", "overloaded", "logged_out", "out_of_credit", "misconfigured", "context_full", "crashed",
    }  # fmt: skip


# ---- the same streams, damaged

Damage = Callable[[list[bytes]], list[bytes]]
WRONG: tuple[object, ...] = (None, True, False, 0, -1, 2**70, 1.5, "", "success", "completed", [], {}, [None], "\ud83d")
KEYS = ("type", "subtype", "is_error", "result", "message", "error", "usage", "session_id", "rate_limit_info",
        "errors", "item", "params", "method", "stop_reason", "terminal_reason", "api_error_status",
        "parent_tool_use_id")  # fmt: skip


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """Drop, double, cut or overwrite one line, or put a wrong value into one of its fields."""
    at = draw(st.integers(0, 40))
    how = draw(st.sampled_from(["drop", "double", "cut", "noise", "field"]))
    noise, cut = draw(st.binary(max_size=30)), draw(st.integers(0, 400))
    key, value = draw(st.sampled_from(KEYS)), draw(st.sampled_from(WRONG))

    def damage(lines: list[bytes]) -> list[bytes]:
        if not lines:
            return [noise]
        where = at % len(lines)
        line = lines[where]
        new = {"drop": [], "double": [line, line], "cut": [line[:cut]], "noise": [noise, line, noise]}
        return [*lines[:where], *new.get(how, [field(line, key, value)]), *lines[where + 1 :]]

    return damage


def field(line: bytes, key: str, value: object) -> bytes:
    try:
        event = json.loads(line)
    except ValueError:
        return line
    return json.dumps({**event, key: value}).encode() if isinstance(event, dict) else line


@pytest.mark.parametrize("kind", ADAPTERS)
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(data=st.data(), harm=st.lists(damages(), min_size=1, max_size=2))
def test_a_damaged_failure_is_never_read_as_done(kind: str, data: st.DataObject, harm: list[Damage]) -> None:
    recorded = data.draw(st.sampled_from(FAILED[kind]))
    lines = [line.encode() for line in recorded.stdout]
    for damage in harm:
        lines = damage(lines)
    assert recorded.read(lines).outcome not in {Outcome.DONE, Outcome.BLOCKED}, recorded.name


@pytest.mark.parametrize("kind", ADAPTERS)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(data=st.data(), harm=st.lists(damages(), min_size=1, max_size=6))
def test_a_damaged_stream_never_raises(kind: str, data: st.DataObject, harm: list[Damage]) -> None:
    recorded = data.draw(st.sampled_from([one for one in CASES if one.kind == kind]))
    lines = [line.encode() for line in recorded.stdout]
    for damage in harm:
        lines = damage(lines)
    assert recorded.read(lines).outcome in set(Outcome)
