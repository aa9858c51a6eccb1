"""The part of the documentation that says how each outcome is told: made from the rules the adapters go by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nightcrew.core import reading
from nightcrew.core.outcome import Outcome

__all__ = ["how_told"]


def how_told(told: Mapping[str, Sequence[Any]], table: Callable[[Sequence[str], Iterable[Sequence[str]]], str]) -> str:
    """How each agent tells each outcome, as Markdown: its adapter's rules (`adapters.telling.Rule`) in their order."""
    rows = [(f"`{o}`", *(_ways(o, rules) for rules in told.values())) for o in Outcome if o not in OURS]
    words = [(f"`{o}`", f"`{pattern}`") for o, pattern in reading.WORDS]
    listed = [
        f"### {name}\n\n" + table(("", "what is looked at", "what it means"), [
            (str(number), rule.says, _means(rule)) for number, rule in enumerate(rules, 1)
        ]) for name, rules in told.items()
    ]  # fmt: skip
    return f"""## How each outcome is told

From these fields (the numbers are those of the rules below), and where it says *words*, from what an error says. The
others are told by nightcrew itself, not from what an agent prints:
{", ".join(f"`{o}`" for o in sorted(OURS))}.

{table(("outcome", *told), rows)}

## The rules

Each agent's rules in order: the first that says anything decides. What they were tried on: `tests/corpus`, recorded
output of the real programs, and the same damaged in every way (`tests/test_corpus.py`).

{chr(10).join(f"{part}{chr(10)}" for part in listed)}
### The words

Looked for last, in what is known to be an error, whatever its case; the first that fits decides.

{table(("outcome", "words"), words)}"""


OURS = frozenset({
    Outcome.GATE_FAILED, Outcome.NO_CHANGE, Outcome.STALLED, Outcome.TIMED_OUT, Outcome.FAST_FAIL, Outcome.CANCELLED,
})  # fmt: skip
"""Outcomes that no adapter tells: they are seen from outside."""


def _ways(outcome: Outcome, rules: Sequence[Any]) -> str:
    """Every way an agent has to say this outcome."""
    ways = []
    for number, rule in enumerate(rules, 1):
        values = [f"`{value}`" for value, kind in rule.values.items() if kind is outcome]
        if values:
            ways.append(f"{number}: {', '.join(values)}")
        elif outcome in rule.kinds:
            ways.append(str(number))
        elif rule.by_words and any(kind is outcome for kind, _ in reading.WORDS):
            ways.append(f"{number}: words")
    return "; ".join(ways) or "-"


def _means(rule: Any) -> str:
    kinds: dict[Outcome, list[str]] = {}
    for value, kind in rule.values.items():
        kinds.setdefault(kind, []).append(f"`{value}`")
    said = [f"{', '.join(values)}: `{kind}`" for kind, values in kinds.items()]
    said += [f"`{kind}`" for kind in rule.kinds]
    return "; ".join([*said, *(["by [the words](#the-words)"] if rule.by_words else [])]) or "see the rules below it"
