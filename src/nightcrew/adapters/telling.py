"""How an adapter tells an end, as data: the rules it goes through, in words that the documentation shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nightcrew.core.outcome import Ending, Outcome

__all__ = ["Rule", "first"]

T = TypeVar("T")


@dataclass(frozen=True)
class Rule(Generic[T]):
    """One way to tell an end. `says` names the field, or what is seen; `tell` returns None where that says nothing.

    `values` is what each value of the field means, where the field has values; `kinds` are the outcomes it may come to
    besides; `by_words` says that the words of an error decide among outcomes.
    """

    says: str
    tell: Callable[[T], Ending | None]
    values: Mapping[str, Outcome] = field(default_factory=dict)
    kinds: tuple[Outcome, ...] = ()
    by_words: bool = False

    @property
    def outcomes(self) -> frozenset[Outcome]:
        """All it may come to, words aside."""
        return frozenset({*self.values.values(), *self.kinds})


def first(rules: Iterable[Rule[T]], seen: T) -> tuple[Rule[T], Ending]:
    """The first rule that tells something, and what. The last one of `rules` always does."""
    return next((rule, told) for rule in rules if (told := rule.tell(seen)) is not None)
