"""What is known of one team's issues, kept up to date by asking only what changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from nightcrew.adapters.boards.linear import queries
from nightcrew.adapters.boards.linear.parse import ENDED, Raw, Settings, blockers, over, same_team, selection

Ask = Callable[[str, Raw], Awaitable[Any]]
WHOLE_EVERY = 30  # looks; a whole one heals what changes alone do not tell
PAGE, STAMPS, WORDS, NEWEST = 50, 100, 15, 100
WATCHED = 200  # issues of other teams, and ours that are worked, asked for by id
OVERLAP = timedelta(seconds=120)
"""Changes of that long before the last look are asked for again: rows move while they are listed."""
STOP = {"body": {"containsIgnoreCase": "stop"}}


@dataclass
class Issues:
    """The issues of the team that may be tickets, by id: those that are not ended.

    `claimed` says whether we work on an issue, `stops` whether a comment tells us to stop; `now` is Linear's clock.
    """

    ask: Ask
    told: Settings
    claimed: Callable[[Raw], bool]
    stops: Callable[[Raw], bool]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    open: dict[str, Raw] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)  # id -> the change that was taken over
    words: dict[str, tuple[str, str]] = field(default_factory=dict)  # id -> when "stop" was last said, and by whom
    ended: set[str] = field(default_factory=set)  # seen to end since the last whole look
    looks: int = 0
    looked: datetime | None = None
    behind: bool = True

    async def look(self) -> None:
        """Take over what changed: one small request while nothing did."""
        began = self.now()
        self.behind = self.behind or self.looks % WHOLE_EVERY == 0
        if self.behind or self.looked is None:
            await self._whole()
            self.behind = False
        else:
            await self._changes({"updatedAt": {"gt": _stamp(self.looked - OVERLAP)}})
        self.looks, self.looked = self.looks + 1, began

    async def _whole(self) -> None:
        live = {"state": {"type": {"nin": list(ENDED)}}}
        rows = await self._pages(queries.OPEN, {"filter": {"and": [selection(self.told), live]}, "first": PAGE})
        found = {row["id"]: await self._deep(row) for row in rows}
        said = await self._said({"team": same_team(self.told), **live})
        self.open, self.words, self.ended = found, {}, set()
        self.stamps = {row["id"]: row["updatedAt"] for row in found.values()}
        self._hear(said)

    async def _changes(self, since: Raw) -> None:
        """What changed on the board, and who said "stop": in one request, whether or not a comment changes an issue."""
        place = {"or": [{"team": same_team(self.told)}, {"id": {"in": self._watched()}}]}
        wanted = {"filter": {**place, **since}, "first": STAMPS}
        said = {"said": {"issue": {"team": same_team(self.told)}, **STOP, **since}}
        first = await self.ask(queries.CHANGES, {**wanted, **said, "words": WORDS})
        rows = await self._pages(queries.STAMPS, wanted, first)
        self._hear(await self._pages(queries.COMMENTS, {**said, "first": PAGE}, first, "comments"))
        new = [row["id"] for row in rows if self.stamps.get(row["id"]) != row["updatedAt"]]
        for start in range(0, len(new), PAGE):
            for row in await self.some(new[start : start + PAGE]):
                self.take(row)

    def _watched(self) -> list[str]:
        """Issues whose change matters although they are in another team, or go there."""
        ours = [row["id"] for row in self.open.values() if self.claimed(row)]
        others = {b["id"] for row in self.open.values() for b in blockers(row)
                  if b["team"]["key"].lower() != self.told.team.lower()}  # fmt: skip
        return [*ours, *sorted(others)][:WATCHED]

    async def _pages(self, query: str, asked: Raw, page: Raw | None = None, of: str = "issues") -> list[Raw]:
        """All rows; `page` is the first answer when it is there already."""
        found: dict[str, Raw] = {}
        page = page or await self.ask(query, {**asked, "after": None})
        while True:
            found |= {row["id"]: row for row in page[of]["nodes"]}
            if not page[of]["pageInfo"]["hasNextPage"]:
                return list(found.values())
            page = await self.ask(query, {**asked, "after": page[of]["pageInfo"]["endCursor"]})

    async def some(self, ids: Sequence[str]) -> list[Raw]:
        """These issues as they are now."""
        wanted = {"id": {"in": list(ids)}}
        found = (await self.ask(queries.SOME, {"filter": wanted, "first": len(ids)}))["issues"]["nodes"]
        return [await self._deep(row) for row in found]

    async def newest(self) -> list[Raw]:
        """The team's issues that are not ended, whatever the selection: one page of those made last."""
        live = {"team": same_team(self.told), "state": {"type": {"nin": list(ENDED)}}}
        asked = {"filter": live, "first": NEWEST, "after": None}
        rows: list[Raw] = (await self.ask(queries.OPEN, asked))["issues"]["nodes"]
        return sorted(rows, key=lambda row: str(row["createdAt"]), reverse=True)

    async def _deep(self, row: Raw) -> Raw:
        """The issue with all its labels, links and blockers: its own row tells only the first of them."""
        lists = (row["labels"], row["attachments"], row["inverseRelations"])
        if all(len(one["nodes"]) < queries.INNER for one in lists):
            return row
        whole = (await self.ask(queries.WHOLE, {"filter": {"id": {"in": [row["id"]]}}}))["issues"]["nodes"]
        return dict(whole[0]) if whole else row

    def take(self, row: Raw) -> None:
        """One issue as it is now. One of another team is of interest as a blocker, and when it was ours."""
        self.stamps[row["id"]] = row["updatedAt"]
        if over(row):
            self.open.pop(row["id"], None)
            self.ended.add(row["id"])
            return
        self.ended.discard(row["id"])
        if row["id"] in self.open or row["team"]["key"].lower() == self.told.team.lower():
            self.open[row["id"]] = row

    def blocks(self, blocker: Raw) -> bool:
        """Whether a blocker, as an issue's own row tells of it, is still to be waited for."""
        if blocker["id"] in self.open:
            return True
        return blocker["id"] not in self.ended and not over(blocker)

    # -- "stop" ------------------------------------------------------------------------------------------------------
    async def listen(self, ids: Sequence[str]) -> None:
        """Hear anew what was said on these issues."""
        said = await self._said({"id": {"in": list(ids)}})
        for issue in ids:
            self.words.pop(issue, None)
        self._hear(said)

    async def _said(self, where: Raw) -> list[Raw]:
        return await self._pages(queries.COMMENTS, {"said": {"issue": where, **STOP}, "first": PAGE}, of="comments")

    def _hear(self, comments: Sequence[Raw]) -> None:
        for said in comments:
            if self.stops(said):
                issue, at = said["issue"]["id"], said["createdAt"]
                word = (at, f"{said['user']['name']} said stop at {at} (comment {said['id']})")
                self.words[issue] = max(word, self.words.get(issue, ("", "")))

    def stop(self, issue: str) -> str:
        """The newest "stop" of an issue, "" when there is none."""
        return self.words.get(issue, ("", ""))[1]


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
