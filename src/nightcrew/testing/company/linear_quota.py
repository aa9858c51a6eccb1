"""What Linear lets a client ask: points for each request, and two buckets that leak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
)

Row = Mapping[str, Any]
PERIOD = 3600.0  # seconds


@dataclass
class Bucket:
    """`size` may be taken at once; what was taken comes back evenly, all of it in an hour. `now` is epoch seconds."""

    size: float
    left: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.size

    def fill(self, now: float) -> float:
        """What may be taken now."""
        if self.at:
            self.left = min(self.size, self.left + (now - self.at) * self.size / PERIOD)
        self.at = now
        return self.left

    def full_at(self) -> float:
        """When everything has come back."""
        return self.at + (self.size - self.left) / self.size * PERIOD


def points(document: DocumentNode, variables: Row) -> float:
    """What a request costs: 0.1 for each property, 1 for each object, connections times their size (documentation)."""
    fragments = {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
    (operation,) = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    return _points(operation.selection_set, fragments, variables)


def _points(chosen: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode], variables: Row) -> float:
    total = 0.0
    for one in chosen.selections:
        if isinstance(one, FragmentSpreadNode):
            total += _points(fragments[one.name.value].selection_set, fragments, variables)
        elif isinstance(one, InlineFragmentNode):
            total += _points(one.selection_set, fragments, variables)
        elif isinstance(one, FieldNode):
            total += _field(one, fragments, variables)
    return total


def _field(field: FieldNode, fragments: Mapping[str, FragmentDefinitionNode], variables: Row) -> float:
    if field.selection_set is None:
        return 0.1
    inside = _points(field.selection_set, fragments, variables)
    names = {one.name.value for one in field.selection_set.selections if isinstance(one, FieldNode)}
    size = 50.0 if "nodes" in names else 1.0
    for given in field.arguments or ():
        if given.name.value in ("first", "last"):
            told = given.value
            size = float(variables[told.name.value] if isinstance(told, VariableNode) else getattr(told, "value", 50))
    return size * inside if "nodes" in names else 1 + inside
