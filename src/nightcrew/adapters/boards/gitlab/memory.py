"""What is known of one project's issues, kept up to date by asking only what changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from nightcrew.adapters.boards.gitlab.parse import Known
from nightcrew.adapters.gitlab_api import at, utc
from nightcrew.adapters.visible import says_stop
from nightcrew.transport import Answer, Refused, Service

Raw = dict[str, Any]
log = logging.getLogger("nightcrew.boards.gitlab")
WHOLE_EVERY = 30  # looks; a whole one heals what changes alone do not tell
LAG = timedelta(seconds=2)  # a change may be shown this much later than it is dated
UNSAID = timedelta(minutes=5)  # how far a clock may be off where the service does not tell its own
AT_ONCE = 8  # requests about single issues that are under way at the same time
AFRESH = 50  # issues whose blockers are asked again by each whole look, unchanged as they are


@dataclass
class Shared:
    """What the projects of one board know together: which issues are open, and whether GitLab tells of blockers."""

    open: dict[str, bool] = field(default_factory=dict)
    blockers: bool = True


@dataclass
class Issues:
    """The issues of one project that may be tickets, by number: the open ones.

    `working` says whether we work on an issue: only there is it asked whether somebody said "stop"; only of others it
    is asked what blocks them. `takes` says whether the selection takes it, `trusts` whether its author may push.
    """

    service: Service
    project: str
    working: Callable[[Raw], bool]
    takes: Callable[[Raw, bool], bool]
    trusts: Callable[[Raw], Awaitable[bool]]
    may_stop: Callable[[Raw], Awaitable[bool]]
    shared: Shared = field(default_factory=Shared)
    names: Callable[[str], str] = str  # a project's path as the settings write it
    label: str = ""  # the one label asked for, "" when there is none or there are several
    open: dict[int, Raw] = field(default_factory=dict)
    trusted: dict[int, bool] = field(default_factory=dict)
    blockers: dict[int, list[str]] = field(default_factory=dict)
    links: dict[int, list[str]] = field(default_factory=dict)
    stops: dict[int, str] = field(default_factory=dict)
    asked: dict[int, str] = field(default_factory=dict)  # the change up to which the rest was asked
    since: str = ""  # from when on changes are asked for: what was newest one look before the last
    newest: str = ""
    looks: int = 0

    @property
    def path(self) -> str:
        return f"{at(self.project)}/issues"

    async def look(self) -> None:
        """Take over what changed: one request, answered with an empty list, while nothing did."""
        if self.looks % WHOLE_EVERY == 0:
            await self._whole()
        else:
            await self._changed()
        self.looks += 1
        for row in self.open.values():
            self.trusted[row["iid"]] = await self.trusts(row)
        rows = [row for row in self.open.values() if self.takes(row, self.trusted[row["iid"]])]
        await self._all([row for row in rows if self.asked.get(row["iid"]) != stamp(row)])

    async def _whole(self) -> None:
        query = {"state": "opened", "per_page": 100} | ({"labels": self.label} if self.label else {})
        found: dict[int, Raw] = {}
        start = ""
        async for page in self.service.pages(self.path, query):
            start = start or _dated(page)
            found |= {row["iid"]: row for row in page.data}
        self.open, self.since, self.newest = found, start, start
        for row in found.values():
            self.shared.open[self._id(row)] = True
        known = sorted(number for number in self.asked if number in found)
        turn = self.looks // WHOLE_EVERY * AFRESH % max(len(known), 1)
        afresh = {*known[turn : turn + AFRESH], *(number for number, some in self.blockers.items() if some)}
        self.asked = {number: self.asked[number] for number in known if number not in afresh}

    async def _changed(self) -> None:
        """What changed since the look before the last: twice asked, nothing is missed that was written late."""
        query = {"state": "all", "updated_after": self.since, "order_by": "updated_at", "sort": "asc", "per_page": 100}
        times = [self.newest]
        async for page in self.service.pages(self.path, query):
            for row in page.data:
                self.take(row)
                times.append(_after(row["updated_at"]))
        self.since, self.newest = self.newest, max(times)

    def take(self, row: Raw) -> None:
        """One issue as it is now."""
        self.shared.open[self._id(row)] = row["state"] == "opened"
        if row["state"] == "opened":
            self.open[row["iid"]] = row
        else:
            self.open.pop(row["iid"], None)

    async def _all(self, rows: list[Raw]) -> None:
        for start in range(0, len(rows), AT_ONCE):
            await asyncio.gather(*map(self.details, rows[start : start + AT_ONCE]))

    async def details(self, row: Raw) -> None:
        """What an issue's own row does not say: who blocks it, what closes it, whether somebody said "stop"."""
        number = row["iid"]
        if self.working(row):
            self.stops[number] = await self._stop(row) if row.get("user_notes_count") else ""
        elif row["state"] == "opened":
            self.blockers[number] = await self._blockers(number) if self.shared.blockers else []
            self.links[number] = await self._closed_by(number) if row.get("merge_requests_count") else []
        self.asked[number] = stamp(row)

    async def _blockers(self, number: int) -> list[str]:
        try:
            rows = (await self.service.get(f"{self.path}/{number}/links")).data
        except Refused as refused:
            if refused.status not in (403, 404):
                raise
            if self.shared.blockers:  # told once: the licence has none, or we may not see them
                self.shared.blockers = False
                log.warning("board.no_blockers", extra={"project": self.project, "error": str(refused)})
            return []
        found = [row for row in rows if row["link_type"] == "is_blocked_by"]
        for row in found:
            self.shared.open[self._id(row)] = row["state"] == "opened"
        return [self._id(row) for row in found]

    async def _closed_by(self, number: int) -> list[str]:
        with suppress(Refused):
            rows = (await self.service.get(f"{self.path}/{number}/closed_by", {"per_page": 100})).data
            return [row["web_url"] for row in rows if row["state"] == "opened"]
        return []

    async def _stop(self, row: Raw) -> str:
        """The newest "stop" of somebody who may say it."""
        query = {"order_by": "created_at", "sort": "desc", "activity_filter": "only_comments", "per_page": 100}
        async for page in self.service.pages(f"{self.path}/{row['iid']}/notes", query, most=5):
            for said in page.data:
                if not said["system"] and says_stop(said["body"]) and await self.may_stop(said):
                    who, where = said["author"]["username"], f"{row['web_url']}#note_{said['id']}"
                    return f"{who} said stop at {utc(said['created_at'])} ({where})"
        return ""

    def known(self, number: int) -> Known:
        """All of this as the reader takes it; of the blockers those that are still open."""
        waits = [name for name in self.blockers.get(number, []) if self.shared.open.get(name, True)]
        return Known(waits, self.links.get(number, []), self.stops.get(number, ""))

    def _id(self, row: Raw) -> str:
        """An issue's id; the paths of other projects are told by the row alone."""
        full = str((row.get("references") or {}).get("full") or f"{self.project}#{row['iid']}")
        return f"{self.names(full.rpartition('#')[0])}#{row['iid']}"


def stamp(row: Raw) -> str:
    """Another word after each change; what is counted may change without a new date."""
    return f"{row['updated_at']} {row.get('user_notes_count', 0)} {row.get('merge_requests_count', 0)}"


def _dated(answer: Answer) -> str:
    """When the service gave that answer, by its own clock, less what it may lag behind."""
    told = answer.headers.get("date")
    with suppress(TypeError, ValueError):
        return _iso(parsedate_to_datetime(told or "") - LAG)
    return _iso(datetime.fromtimestamp(time.time(), UTC) - UNSAID)


def _after(at: str) -> str:
    """The millisecond after that time: GitLab shows no finer ones, and asks for "since" with the time itself."""
    return _iso(datetime.fromisoformat(at) + timedelta(milliseconds=1))


def _iso(at: datetime) -> str:
    return utc(at.isoformat())
