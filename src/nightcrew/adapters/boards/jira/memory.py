"""What is known of the issues of some projects, kept up to date by asking only what changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil

from nightcrew.adapters.boards.jira import jql
from nightcrew.adapters.boards.jira.api import AT_ONCE, RECONCILED, Api, get
from nightcrew.adapters.boards.jira.parse import ENDS, Known, Raw, Reader, Settings, category
from nightcrew.adapters.boards.jira.stops import Stops
from nightcrew.core.model import TicketState
from nightcrew.transport import Refused

WHOLE_EVERY = 15  # looks; a whole one heals what changes alone do not tell
OVERLAP = 5  # minutes asked for again: a change is found this much later than it is dated, at most
LONGEST = 24 * 60  # minutes; what is older is not asked for as a change
OURS = 15  # looks for which an index is not believed about what we wrote
WATCHED = 200  # issues that are worked, asked for wherever they are
AFRESH = 3  # looks at which that is read by its id


@dataclass
class Issues:
    """The issues that may be tickets, by id: those that are not over.

    Search answers from an index that lags. So what changed is read by id, nothing goes back to an older time, and what
    we wrote ourselves is looked at by id for a while, besides being named to Cloud's search.
    """

    api: Api
    told: Settings
    reader: Reader
    stops: Stops
    me: Callable[[], str]
    now: Callable[[], float] = time.time
    open: dict[str, Raw] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)  # id -> the change that was taken over
    ended: set[str] = field(default_factory=set)  # known to be over
    going: set[str] = field(default_factory=set)  # known not to be
    taken: dict[str, bool] = field(default_factory=dict)  # whether `jql` takes it
    links: dict[str, list[str]] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=dict)  # id -> the change up to which links were asked
    ours: dict[str, int] = field(default_factory=dict)  # id -> looks since we wrote it
    since: float = 0.0
    looks: int = 0

    @property
    def whole(self) -> bool:
        """Whether the next look is at everything."""
        return self.looks % WHOLE_EVERY == 0 or self._minutes(self.now()) > LONGEST

    def _minutes(self, now: float) -> int:
        return ceil(max(now - self.since, 0) / 60) + OVERLAP

    async def look(self) -> None:
        """Take over what changed: one request, answered with an empty list, while nothing did."""
        start = self.now()
        if self.whole:
            await self._whole()
        else:
            await self._changed(self._minutes(start))
        self.since = start
        self.looks += 1
        self.ours = {one: looks + 1 for one, looks in self.ours.items() if looks < OURS}
        await self._stops(row for row in self.open.values() if self.takes(row))

    async def _whole(self) -> None:
        found: dict[str, Raw] = {}
        async for page in self.api.pages(jql.selected(self.told) + jql.OLDEST_FIRST, fresh=self.ours):
            found |= {str(row["id"]): row for row in page}
        old = self.open
        self.open, self.ended, self.going = {}, set(), set()
        self.taken = dict.fromkeys(found, True)
        for name, row in found.items():
            self.take(old[name] if name in old and newer(old[name], row) else row)
        kept = {*self.open, *self.ours}
        self.stamps = {name: stamp for name, stamp in self.stamps.items() if name in kept}
        self.links = {name: links for name, links in self.links.items() if name in kept}
        self.linked = {name: stamp for name, stamp in self.linked.items() if name in kept}
        self.stops.forget(kept)
        await self._by_id(self.ours)

    async def _changed(self, minutes: int) -> None:
        """The changed ones are read by id: there no index lags. What is worked is seen to go, wherever it goes."""
        worked = [name for name, row in self.open.items() if self._worked(row)][:WATCHED]
        try:
            found = await self._found(jql.changed(self.told, minutes, worked))
        except Refused:
            if not worked:
                raise
            # No search may name an issue that is not there any more, or not for us.
            await self._by_id(worked)
            found = await self._found(jql.changed(self.told, minutes))
        fresh = [one for one, looks in self.ours.items() if looks < AFRESH]
        await self._by_id(dict.fromkeys([*found, *fresh]))

    async def _found(self, query: str) -> list[str]:
        """The ids of what a search finds and is not known as it is now."""
        found: list[str] = []
        async for page in self.api.pages(query, ("updated",), fresh=self.ours):
            found += [str(row["id"]) for row in page if self.stamps.get(str(row["id"])) != row["fields"]["updated"]]
        return found

    def _worked(self, row: Raw) -> bool:
        return self.reader.state(row) not in (TicketState.OPEN, TicketState.OTHER)

    async def _by_id(self, ids: Iterable[str]) -> None:
        wanted = list(ids)
        if not wanted:
            return
        rows = await self.api.rows(wanted)
        await self.judge(rows)
        for name in set(wanted) - {str(row["id"]) for row in rows}:
            self.open.pop(name, None)  # it is not there any more
        for row in rows:
            self.take(row)

    def take(self, row: Raw) -> None:
        """One issue as it is now, unless it is known as it was later."""
        name = str(row["id"])
        if name in self.open and newer(self.open[name], row):
            return
        self.stamps[name] = row["fields"]["updated"]
        over = category(row["fields"].get("status")) == "done"
        (self.ended if over else self.going).add(name)
        (self.going if over else self.ended).discard(name)
        if self.reader.state(row) in ENDS:
            self.open.pop(name, None)
        else:
            self.open[name] = row

    def wrote(self, name: str) -> None:
        """We changed that issue."""
        self.ours.pop(name, None)
        self.ours[name] = 0

    async def newest(self) -> list[Raw]:
        """The issues of our projects that are not over, whatever the selection: one page of those made last."""
        rows: list[Raw] = []
        async for page in self.api.pages(f"{jql.place(self.told)} AND statusCategory != Done ORDER BY created DESC"):
            rows = page
            break
        await self.judge(rows)
        return rows

    async def judge(self, rows: Sequence[Raw]) -> None:
        """Ask whether `jql` takes these. What is being worked is taken: it is we who changed it."""
        asked = [str(row["id"]) for row in rows if self.told.jql.strip() and self._asks(row)]
        for start in range(0, len(asked), RECONCILED):
            some = asked[start : start + RECONCILED]
            found: set[str] = set()
            async for page in self.api.pages(jql.among(self.told, some), ("updated",), fresh=some):
                found |= {str(row["id"]) for row in page}
            self.taken |= {one: one in found for one in some}

    def _asks(self, row: Raw) -> bool:
        return self.reader.state(row) is TicketState.OPEN and not self.reader.left(row, self.me())

    def left(self, row: Raw) -> str:
        """Why `jql` does not take it, "" when it does."""
        refused = self.told.jql.strip() and self._asks(row) and not self.taken.get(str(row["id"]), False)
        return "the query `jql` does not find it" if refused else ""

    def takes(self, row: Raw) -> bool:
        return not self.reader.left(row, self.me()) and not self.left(row)

    async def _stops(self, rows: Iterable[Raw]) -> None:
        """Whether somebody said "stop": asked only of what is being worked, and only when it changed."""
        asked = [row for row in rows if self._worked(row)]
        for start in range(0, len(asked), AT_ONCE):
            await asyncio.gather(*map(self.stops.look, asked[start : start + AT_ONCE]))

    async def details(self, rows: Sequence[Raw]) -> None:
        """What an issue's own fields do not say, for those that are taken: "stop", and the links it shows."""
        await self.judge(rows)
        some = [row for row in rows if self.takes(row) and self.reader.state(row) not in ENDS]
        await self._stops(some)
        for start in range(0, len(some), AT_ONCE):
            await asyncio.gather(*map(self._links, some[start : start + AT_ONCE]))

    async def _links(self, row: Raw) -> None:
        name, stamp = str(row["id"]), row["fields"]["updated"]
        if self.linked.get(name) != stamp:
            found = await get(self.api, f"/issue/{name}/remotelink")
            self.links[name] = [str(one["object"]["url"]) for one in found if (one.get("object") or {}).get("url")]
            self.linked[name] = stamp

    def known(self, name: str) -> Known:
        """All of this as the reader takes it."""
        stop, links = self.stops.said.get(name, ""), self.links.get(name, ())
        return Known(stop, links, self.ended, self.going)


def newer(one: Raw, other: Raw) -> bool:
    """Whether the first was changed later."""
    first, second = one["fields"]["updated"], other["fields"]["updated"]
    return bool(first != second and datetime.fromisoformat(first) > datetime.fromisoformat(second))
