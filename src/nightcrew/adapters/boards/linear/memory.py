"""What is known of one team's issues, kept up to date by asking only what changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from nightcrew.adapters.boards.linear import queries
from nightcrew.adapters.boards.linear.parse import ENDED, Raw, Settings, people, selection
from nightcrew.adapters.visible import says_stop

Ask = Callable[[str, Raw], Awaitable[Any]]
WHOLE_EVERY = 30  # looks; a whole one heals what changes alone do not tell
PAGE, STAMPS = 50, 100
OVERLAP = timedelta(seconds=120)
"""Changes of that long before the newest one are asked for again: rows move while they are listed."""
SKEW = timedelta(seconds=600)
"""What our clock may differ from Linear's. Nothing older than the last look and this is asked for again."""


@dataclass
class Issues:
    """The issues of the team that may be tickets, by id: those that are not ended.

    `claimed` says whether we work on an issue: only there is it asked whether somebody said "stop".
    """

    ask: Ask
    told: Settings
    claimed: Callable[[Raw], bool]
    may_stop: Callable[[Raw], bool]
    open: dict[str, Raw] = field(default_factory=dict)
    strange: set[str] = field(default_factory=set)  # not of the authors whose issues are taken
    stamps: dict[str, str] = field(default_factory=dict)  # id -> the change that was taken over
    stops: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)  # seen to end since the last whole look
    seen: str = ""
    looks: int = 0
    looked: datetime = datetime.min.replace(tzinfo=UTC)
    behind: bool = True

    async def look(self) -> None:
        """Take over what changed: one small request while nothing did."""
        began = datetime.now(UTC)
        self.behind = self.behind or self.looks % WHOLE_EVERY == 0
        if self.behind:
            await self._whole()
            self.behind = False
        else:
            await self._changes()
        self.looks, self.looked = self.looks + 1, began

    async def _whole(self) -> None:
        live = {"state": {"type": {"nin": list(ENDED)}}}
        rows = await self._pages(queries.OPEN, {"and": [selection(self.told), live]}, PAGE)
        self.open, self.ended = {row["id"]: row for row in rows}, set()
        for row in rows:
            await self.details(row)
        self.seen = max([self.seen, *(row["updatedAt"] for row in rows)])

    async def _changes(self) -> None:
        since = {"updatedAt": {"gt": max(_before(self.seen), _stamp(self.looked - SKEW))}} if self.seen else {}
        rows = await self._pages(queries.STAMPS, {"team": {"key": {"eq": self.told.team}}, **since}, STAMPS)
        new = [row["id"] for row in rows if self.stamps.get(row["id"]) != row["updatedAt"]]
        for start in range(0, len(new), PAGE):
            for row in await self.some(new[start : start + PAGE]):
                self.take(row)
                await self.details(row)
        self.seen = max([self.seen, *(row["updatedAt"] for row in rows)])

    async def _pages(self, query: str, wanted: Raw, first: int) -> list[Raw]:
        found: list[Raw] = []
        after = None
        while True:
            page = (await self.ask(query, {"filter": wanted, "first": first, "after": after}))["issues"]
            found += page["nodes"]
            if not page["pageInfo"]["hasNextPage"]:
                return found
            after = page["pageInfo"]["endCursor"]

    async def some(self, ids: Sequence[str]) -> list[Raw]:
        """These issues as they are now, and whether their authors are ours to listen to."""
        wanted = {"id": {"in": list(ids)}}
        rows: list[Raw] = (await self.ask(queries.SOME, {"filter": wanted, "first": len(ids)}))["issues"]["nodes"]
        if self.told.authors and rows:
            asked = {"filter": {"and": [wanted, {"creator": people(self.told.authors)}]}, "first": len(ids)}
            ours = {row["id"] for row in (await self.ask(queries.WHICH, asked))["issues"]["nodes"]}
            self.strange = (self.strange | set(ids)) - ours
        return rows

    def take(self, row: Raw) -> None:
        """One issue as it is now."""
        if row["state"]["type"] in ENDED or row.get("trashed") or row.get("archivedAt"):
            self.open.pop(row["id"], None)
            self.ended.add(row["id"])
        else:
            self.open[row["id"]] = row
            self.ended.discard(row["id"])

    async def details(self, row: Raw) -> None:
        """What an issue's own row does not say: whether somebody said "stop"."""
        if row["id"] in self.open and self.stamps.get(row["id"]) != row["updatedAt"] and self.claimed(row):
            self.stops[row["id"]] = await self._stop(row["id"])
        self.stamps[row["id"]] = row["updatedAt"]

    async def _stop(self, issue: str) -> str:
        newest, after = "", None
        while True:
            asked = {"id": issue, "first": 50, "after": after}
            page = (await self.ask(queries.COMMENTS, asked))["comments"]
            for said in page["nodes"]:
                if says_stop(said["body"]) and self.may_stop(said):
                    at = said["createdAt"]
                    newest = max(newest, f"{at} {said['id']} {said['user']['name']}")
            if not page["pageInfo"]["hasNextPage"]:
                break
            after = page["pageInfo"]["endCursor"]
        at, _, rest = newest.partition(" ")
        return f"{rest.partition(' ')[2]} said stop at {at} (comment {rest.partition(' ')[0]})" if newest else ""


def _before(stamp: str) -> str:
    return _stamp(datetime.fromisoformat(stamp) - OVERLAP)


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
