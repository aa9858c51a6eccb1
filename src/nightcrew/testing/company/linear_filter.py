"""Linear's filters, orders and pages, over plain dictionaries in the schema's own words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

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
    if key == "null" or row is None:
        return key == "null" and (row is None) is bool(value)
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
        "containsIgnoreCase": lambda: value.lower() in str(there).lower(),
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
    """A connection: rows after a cursor, at most `first` of them, the newest first."""
    order, after = str(asked.get("orderBy") or "createdAt"), asked.get("after")
    rows = sorted(rows, key=lambda row: str(row.get(order, "")), reverse=True)
    start = next((n + 1 for n, row in enumerate(rows) if row["id"] == after), 0) if after else 0
    shown = rows[start : start + (asked.get("first") or 50)]
    more = start + len(shown) < len(rows)
    return {"nodes": shown, "pageInfo": {"hasNextPage": more, "endCursor": shown[-1]["id"] if shown else None,
                                         "hasPreviousPage": start > 0, "startCursor": None}}  # fmt: skip
