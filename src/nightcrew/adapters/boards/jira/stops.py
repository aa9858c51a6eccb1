"""Who said "stop" in a comment, and whether they may."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from datetime import UTC, datetime

from nightcrew.adapters.boards.jira.api import Api, get
from nightcrew.adapters.boards.jira.parse import Raw, Settings, shown
from nightcrew.adapters.visible import says_stop
from nightcrew.transport import Refused

log = logging.getLogger("nightcrew.boards.jira")
BELIEVED = 3600.0  # seconds for which it is believed who may be assigned issues
PAGE, PAGES = 50, 5  # comments of one answer, and how many of those are read


@dataclass
class Stops:
    """The newest "stop" on an issue, by somebody who may say it. `site` is what addresses begin with."""

    api: Api
    told: Settings
    me: Callable[[], str]
    site: str
    said: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)  # id -> the change up to which comments were asked
    members: dict[tuple[str, str], tuple[float, bool]] = field(default_factory=dict)

    async def look(self, row: Raw) -> None:
        """Ask for the comments of an issue, unless it is as it was."""
        name, stamp = str(row["id"]), row["fields"]["updated"]
        if self.asked.get(name) != stamp:
            self.said[name] = await self._newest(row)
            self.asked[name] = stamp

    def forget(self, kept: Container[str]) -> None:
        """Remember only these."""
        self.said = {name: said for name, said in self.said.items() if name in kept}
        self.asked = {name: stamp for name, stamp in self.asked.items() if name in kept}

    async def _newest(self, row: Raw) -> str:
        start = 0
        for _ in range(PAGES):
            query = {"orderBy": "-created", "startAt": start, "maxResults": PAGE, **self.api.comments()}
            answer = await get(self.api, f"/issue/{row['id']}/comment", query)
            found = answer["comments"]
            # The order is asked for, and not relied on.
            for said in sorted(found, key=lambda one: _at(one["created"]), reverse=True):
                if says_stop(self.api.plain(said.get("body"))) and await self._may(row, said):
                    return self._told(row, said)
            start += len(found)
            if start >= answer["total"] or not found:
                return ""
        return ""

    def _told(self, row: Raw, said: Raw) -> str:
        when = _at(said["created"]).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        where = f"{self.site}/browse/{row['key']}?focusedCommentId={said['id']}"
        return f"{shown(said['author'])} said stop at {when} ({where})"

    async def _may(self, row: Raw, said: Raw) -> bool:
        """Whether to listen; never to our own login."""
        who = said.get("author") or {}
        if self.api.id_of(who) in ("", self.me()):
            return False
        people = {name.lower() for name in self.told.people}
        if people:
            return bool(people & self.api.words(who))
        return self.api.person(who) and await self._member(row["fields"]["project"]["key"], self.api.id_of(who))

    async def _member(self, project: str, who: str) -> bool:
        """Whether issues of the project may be assigned to them: Jira's word for those who work there."""
        until, known = self.members.get((project, who), (0.0, False))
        if until < time.monotonic():
            known = await self._assignable(project, who)
            self.members[project, who] = (time.monotonic() + BELIEVED, known)
        return known

    async def _assignable(self, project: str, who: str) -> bool:
        asked = {"project": project, "maxResults": 50, **self.api.asking_for(who)}
        try:
            found = await get(self.api, "/user/assignable/search", asked)
        except Refused as refused:
            if refused.status not in (401, 403):
                raise
            log.warning("board.people_unknown", extra={"project": project, "error": str(refused)})
            return True  # we may not look; then Jira's permission to comment decides
        return any(self.api.id_of(one) == who for one in found)


def _at(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)
