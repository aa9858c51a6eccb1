"""What a cleaning asks our rows, in few and small answers."""

from __future__ import annotations

import sqlalchemy as sa

from nightcrew.core.lifecycle import ENDED
from nightcrew.core.model import RunState
from nightcrew.store import Store
from nightcrew.tables import attempts, runs


def unsettled(store: Store) -> dict[str, set[int]]:
    """The attempts that are under way or not folded into their run yet, by run."""
    found: dict[str, set[int]] = {}
    with store.begin() as c:
        for row in c.execute(sa.select(attempts.c.run_id, attempts.c.number).where(attempts.c.settled.is_(False))):
            found.setdefault(str(row.run_id), set()).add(int(row.number))
    return found


def heads(store: Store) -> dict[str, set[str]]:
    """Every commit that a run's attempts ended with: what we may have pushed."""
    found: dict[str, set[str]] = {}
    with store.begin() as c:
        for row in c.execute(sa.select(attempts.c.run_id, attempts.c.head).where(attempts.c.head != "")):
            found.setdefault(str(row.run_id), set()).add(str(row.head))
    return found


def in_use(store: Store, name: str) -> bool:
    """Whether a run whose branch ends with `/name` may still work on it, asked at this moment."""
    done = [state.value for state in (*ENDED, RunState.IN_REVIEW)]
    open_one = sa.exists().where(attempts.c.run_id == runs.c.id, attempts.c.settled.is_(False))
    query = sa.select(runs.c.id).where(
        runs.c.branch.endswith(f"/{name}", autoescape=True), sa.or_(runs.c.state.not_in(done), open_one)
    )
    with store.begin() as c:
        return c.execute(query).first() is not None
