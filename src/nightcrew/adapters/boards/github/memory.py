"""What is known of one repository's issues, kept up to date by asking only what changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from nightcrew.adapters.boards.github.parse import author
from nightcrew.adapters.visible import says_stop
from nightcrew.transport import Refused, Service

Raw = dict[str, Any]
WHOLE_EVERY = 30  # looks; a whole one heals what changes alone do not tell
GUARD = {"state": "all", "sort": "updated", "direction": "desc", "per_page": 50}
"""The changed last, in any state: whatever happens to an issue puts it on top, so an unchanged answer says it all."""


@dataclass
class Shared:
    """What the repositories of one board know together: which issues are open, and what GitHub calls a repository.

    It may have been renamed since the settings were written, and the settings may write it in another case.
    """

    open: dict[str, bool] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # as GitHub has it, in lower case -> as the settings have it


@dataclass
class Issues:
    """The issues of one repository that may be tickets, by number: the open ones.

    `claimed` says whether we work on an issue: only there is it asked whether somebody said "stop". `trusts` says
    whether its author may write.
    """

    service: Service
    repo: str
    claimed: Callable[[Raw], bool]
    may_stop: Callable[[Raw], Awaitable[bool]]
    trusts: Callable[[Raw], Awaitable[bool]]
    label: str = ""  # the one label asked for, "" when there is none or there are several
    shared: Shared = field(default_factory=Shared)
    open: dict[int, Raw] = field(default_factory=dict)
    trusted: dict[int, bool] = field(default_factory=dict)
    blockers: dict[int, list[str]] = field(default_factory=dict)
    stops: dict[int, str] = field(default_factory=dict)
    asked: dict[int, str] = field(default_factory=dict)  # the change up to which blockers and comments were asked
    seen: str = ""  # the newest change that was seen
    looks: int = 0
    behind: bool = False  # all must be read anew

    async def look(self) -> None:
        """Take over what changed: one request while nothing did."""
        self.behind = self.behind or self.looks % WHOLE_EVERY == 0
        guard = await self.service.get(f"/repos/{self.repo}/issues", GUARD, etag=True)
        self.shared.names |= {repository(row).lower(): self.repo for row in guard.data[:1]}
        if self.behind or (not guard.unchanged and self._too_much(guard.data)):
            self.behind = True  # also after a fault in the middle: the next answer may be "unchanged"
            await self._whole()
            self.behind = False
        elif not guard.unchanged:
            self._take(guard.data)  # whole: a change may be shown after a later one
        self.seen = max([self.seen, *(row["updated_at"] for row in guard.data)])
        for row in self.open.values():
            self.trusted[row["number"]] = await self.trusts(row)
        await self._details(row for row in self.open.values() if self.asked.get(row["number"]) != stamp(row))
        self.looks += 1

    def _too_much(self, rows: list[Raw]) -> bool:
        return len(rows) >= GUARD["per_page"] and all(row["updated_at"] >= self.seen for row in rows)  # type: ignore[operator]

    async def _whole(self) -> None:
        query = {"state": "open", "per_page": 100} | ({"labels": self.label} if self.label else {})
        found: dict[int, Raw] = {}
        async for page in self.service.pages(f"/repos/{self.repo}/issues", query):
            found |= {row["number"]: row for row in page.data if "pull_request" not in row}
        self.open = found
        self.shared.open |= {self.id(row): True for row in found.values()}
        self.blockers.clear()
        self.asked = {n: at for n, at in self.asked.items() if n in found and not found[n].get("comments")}
        self.asked = {n: at for n, at in self.asked.items() if not _blocked(found[n])}

    def _take(self, rows: Iterable[Raw]) -> None:
        for row in rows:
            if "pull_request" not in row:
                self.take(row)

    def take(self, row: Raw) -> None:
        """One issue as it is now."""
        self.shared.open[self.id(row)] = row["state"] == "open"
        if row["state"] == "open":
            self.open[row["number"]] = row
        else:
            self.open.pop(row["number"], None)

    async def _details(self, rows: Iterable[Raw]) -> None:
        for row in list(rows):
            await self.details(row)

    async def details(self, row: Raw) -> None:
        """What an issue's own row does not say: who blocks it, whether somebody said "stop"."""
        number = row["number"]
        if _blocked(row):
            self.blockers[number] = await self._blockers(number)
        else:
            self.blockers.pop(number, None)
        if not row.get("comments"):
            self.stops.pop(number, None)
        elif self.claimed(row):
            self.stops[number] = await self._stop(number)
        self.asked[number] = stamp(row)

    async def _blockers(self, number: int) -> list[str]:
        try:
            path = f"/repos/{self.repo}/issues/{number}/dependencies/blocked_by"
            rows = (await self.service.get(path, {"per_page": 100})).data
        except Refused:  # an older server has no dependencies
            return []
        self.shared.open |= {self.id(row): row["state"] == "open" for row in rows}
        return [self.id(row) for row in rows]

    async def _stop(self, number: int) -> str:
        newest = ""
        async for page in self.service.pages(f"/repos/{self.repo}/issues/{number}/comments", {"per_page": 100}):
            for said in page.data:
                if says_stop(said["body"] or "") and await self.may_stop(said):
                    newest = f"{author(said)} said stop at {said['created_at']} ({said['html_url']})"
        return newest

    def blocked_by(self, number: int) -> list[str]:
        """The blockers that are still open."""
        return [name for name in self.blockers.get(number, []) if self.shared.open.get(name, True)]

    def id(self, row: Raw) -> str:
        """An issue's id, by the name that the settings give its repository."""
        return f"{self.shared.names.get(repository(row).lower(), repository(row))}#{row['number']}"


def stamp(row: Raw) -> str:
    """Another word after each change: times have seconds, so the comments are counted too."""
    return f"{row['updated_at']} {row.get('comments', 0)}"


def _blocked(row: Raw) -> bool:
    return bool((row.get("issue_dependencies_summary") or {}).get("total_blocked_by"))


def repository(row: Raw) -> str:
    """The repository of an issue as GitHub names it now."""
    return "/".join(row["repository_url"].rsplit("/", 2)[-2:])
