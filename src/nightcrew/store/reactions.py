"""What was done about each pull request: rows that are added, and marked as done, never removed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import msgspec
import sqlalchemy as sa

from nightcrew.core.followup import Past
from nightcrew.tables import reactions

Begin = Callable[[], AbstractContextManager[sa.Connection]]


class Reactions:
    """The rows, one short transaction a call."""

    def __init__(self, begin: Begin) -> None:
        self._begin = begin

    def of(self, run_ids: Collection[str]) -> Mapping[str, tuple[Past, ...]]:
        """What was done for these runs, oldest first."""
        found: defaultdict[str, list[Past]] = defaultdict(list)
        if run_ids:
            query = sa.select(reactions).where(reactions.c.run_id.in_(run_ids)).order_by(reactions.c.at)
            with self._begin() as c:
                for row in c.execute(query).mappings():
                    known = {str(key): value for key, value in row.items() if value is not None}
                    past = msgspec.convert(known, Past)
                    found[past.run_id].append(past)
        return {run_id: tuple(rows) for run_id, rows in found.items()}

    def remember(self, past: Past) -> None:
        """Add it, or change it when it is there."""
        with self._begin() as c:
            put(c, past)

    def done(self, past: Past) -> None:
        """Nothing of it is left to do."""
        self.remember(replace(past, done=True))


def put(c: sa.Connection, past: Past) -> None:
    """Within a transaction: add it, or change it when it is there."""
    row = msgspec.to_builtins(past)
    key = ("run_id", "pull", "cause", "fingerprint")
    where = [reactions.c[name] == row[name] for name in key]
    if not c.execute(reactions.update().where(*where).values(**row)).rowcount:
        c.execute(reactions.insert().values(**row))
