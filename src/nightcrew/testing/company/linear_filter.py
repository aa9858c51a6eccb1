"""Linear's filters, pages and complexity points, over plain dictionaries in the schema's own words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
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
_DURATION = re.compile(r"(-?)P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")


def fits(row: Any, wanted: Row | None) -> bool:
    """Whether a row is what a filter asks for."""
    return all(_fits(row, key, value) for key, value in (wanted or {}).items() if value is not None)


def _fits(row: Any, key: str, value: Any) -> bool:
    if key == "and":
        return all(fits(row, one) for one in value)
    if key == "or":
        return any(fits(row, one) for one in value)
    if row is None:
        return key == "null" and bool(value)
    if key in ("some", "every"):
        return (any if key == "some" else all)(fits(one, value) for one in row)
    if isinstance(row, Mapping):
        return fits(row.get(key), value)
    return _compares(row, key, value)


def _compares(there: Any, how: str, value: Any) -> bool:
    if isinstance(value, str) and isinstance(there, str) and re.match(r"\d{4}-\d\d-\d\dT", there):
        value = _moment(value)
    simple: dict[str, Callable[[], bool]] = {
        "eq": lambda: there == value, "neq": lambda: there != value, "in": lambda: there in value,
        "nin": lambda: there not in value, "gt": lambda: there > value, "gte": lambda: there >= value,
        "lt": lambda: there < value, "lte": lambda: there <= value,
        "eqIgnoreCase": lambda: str(there).lower() == value.lower(), "contains": lambda: value in there,
        "null": lambda: not value,
    }  # fmt: skip
    return simple[how]()


def _moment(word: str) -> str:
    """An ISO stamp as it is; a duration counted from now."""
    found = _DURATION.fullmatch(word)
    if not found:
        return word
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()[1:])
    span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    at = datetime.now(UTC) + (-span if found[1] else span)
    return stamp(at)


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def page(rows: Sequence[Row], asked: Row) -> dict[str, Any]:
    """A connection: rows after a cursor, at most `first` of them."""
    rows, after = list(rows), asked.get("after")
    start = next((n + 1 for n, row in enumerate(rows) if row["id"] == after), 0) if after else 0
    shown = rows[start : start + (asked.get("first") or 50)]
    more = start + len(shown) < len(rows)
    return {"nodes": shown, "pageInfo": {"hasNextPage": more, "endCursor": shown[-1]["id"] if shown else None,
                                         "hasPreviousPage": start > 0, "startCursor": None}}  # fmt: skip


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
