"""Every recorded stream of a real agent is read as what it was. `tests/corpus/<agent>-<version>/<scenario>.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from nightcrew.core.outcome import Ending
from nightcrew.core.reading import WORDS
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


# ---- the rules that read them, and the words about them in docs/reference/outcomes.md


@pytest.mark.parametrize("kind", ADAPTERS)
def test_what_is_said_of_a_stream_is_among_what_the_documented_rules_may_say(kind: str) -> None:
    rules = import_module(f"nightcrew.adapters.agents.{kind}").TOLD
    by_words = {outcome for outcome, _ in WORDS}
    may = {o for rule in rules for o in (*rule.outcomes, *(by_words if rule.by_words else ()))}
    assert {one.read().outcome for one in CASES if one.kind == kind} <= may
    assert all(rule.says.strip() for rule in rules)
