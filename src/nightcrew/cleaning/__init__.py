"""Cleaning: what is over goes when it is old enough, by `nightcrew clean` and by itself every night. Work stays (I2).

First everything is looked at and nothing is changed; then each thing goes by itself, if it is still as it was seen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from nightcrew.cleaning.files import look_at_files
from nightcrew.cleaning.house import Facts, Go, House, Thing, facts, house_of
from nightcrew.cleaning.places import look_at_places
from nightcrew.cleaning.refs import look_at_refs
from nightcrew.core.limits import Keep
from nightcrew.crew import INFRA, Crew, sentence
from nightcrew.errors import NightcrewError
from nightcrew.store import Store, keeping

__all__ = ["ASKED", "CLEANED", "House", "Thing", "clean", "look", "nightly", "told"]

log = logging.getLogger("nightcrew.cleaning")
LOOK_EVERY = 1.0  # seconds between two looks whether it is time
AFTER_FAULT = 60.0
EVERY = timedelta(hours=20)  # a night that starts a little earlier than the last one is cleaned too
QUIET_FOR = timedelta(hours=2)  # after which it does not wait for a quiet moment any longer
ASKED, CLEANED, AT = "clean_asked", "cleaned", "cleaned_at"
"""Where a person's wish, the last cleaning's account, and its time are kept."""


async def look(house: House) -> list[Thing]:
    """What would go now, and what is kept although it looks as if it could. Changes nothing."""
    known = await asyncio.to_thread(_facts, house.store)
    parts = [await look_at_places(house, known), await look_at_files(house, known), await look_at_refs(house, known),
             await _history(house)]  # fmt: skip
    return [thing for part in parts for thing in part]


async def clean(crew: Crew, house: House) -> list[Thing]:
    """Remove what may go, one thing after another, each told by an event; what there was, as it turned out.

    A thing that cannot be removed stops no other: it comes back as kept, with the reason.
    """
    done = [await _gone(crew, house.store, thing, thing.go) if thing.go else thing for thing in await look(house)]
    gone = [thing for thing in done if thing.go]
    log.info("cleaned", extra={"gone": len(gone), "bytes": sum(thing.bytes for thing in gone)})
    return done


async def nightly(crew: Crew, keep: Keep) -> None:
    """Clean once a day, in a quiet moment when there is one, and whenever a person asks. Runs for ever."""
    while True:
        await asyncio.sleep(LOOK_EVERY)
        try:
            await _when_due(crew, keep)
        except Exception:  # a cleaning that cannot be done stops no night
            log.exception("clean.failed")
            await asyncio.sleep(AFTER_FAULT)


async def _when_due(crew: Crew, keep: Keep) -> None:
    asked = crew.store.get(ASKED)
    if not asked and not _due(crew):
        return
    things = await clean(crew, house_of(crew, keep, directed=True))
    crew.store.put(CLEANED, {"asked": asked, **told(things)})
    crew.store.put(AT, crew.now())
    if crew.store.get(ASKED) == asked:
        crew.store.put(ASKED, None)


def told(things: Sequence[Thing]) -> Mapping[str, object]:
    """An account: what went (or would go), what is kept and why, and how many bytes it is all together."""
    gone = [thing for thing in things if thing.go]
    kept = [thing.row() for thing in things if not thing.go]
    return {"gone": [thing.row() for thing in gone], "kept": kept, "bytes": sum(thing.bytes for thing in gone)}


def _facts(store: Store) -> Facts:
    return facts(store.runs(), keeping.unsettled(store), keeping.heads(store))


def _due(crew: Crew) -> bool:
    """Whether the last cleaning is a day ago and nobody is at work, or nobody ever pauses. A new house waits a day."""
    at = datetime.fromisoformat(crew.store.get(AT) or crew.store.once(AT, crew.now()))
    late = crew.now() - at - EVERY
    return late > QUIET_FOR or (late > timedelta() and not crew.live)


async def _gone(crew: Crew, store: Store, thing: Thing, go: Go) -> Thing:
    try:
        await go(crew)
    except INFRA as error:
        return replace(thing, why=f"it cannot be removed: {sentence(error)}", go=None)
    if thing.kind != "compress":
        store.event("cleaned", thing.run_id, what=thing.kind, name=thing.what, why=thing.why, bytes=thing.bytes)
    return thing


async def _history(house: House) -> list[Thing]:
    """The engine's records of attempts that ended long ago."""
    if not house.keep.history_days:
        return []
    before = house.now - timedelta(days=house.keep.history_days)
    try:
        known = await house.history.ended_before(before)
    except NightcrewError as error:
        return [Thing("history", "the engine's records", f"they cannot be read: {sentence(error)}")]
    open_ones = {f"{run}:{n}" for run, numbers in keeping.unsettled(house.store).items() for n in numbers}
    ids = [one for one in known if one not in open_ones]

    async def go(_: Crew) -> None:
        await house.history.forget(ids)

    why = f"they ended more than {house.keep.history_days:g} days ago"
    return [Thing("history", f"the engine's records of {len(ids)} attempts", why, go=go)] if ids else []
