"""Jira as a board, Cloud and Data Center: the workflow's statuses, a label, one comment, the pull request as a link."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nightcrew.adapters.boards.jira import adding
from nightcrew.adapters.boards.jira.api import api, get
from nightcrew.adapters.boards.jira.memory import Issues
from nightcrew.adapters.boards.jira.parse import ENDS, Raw, Reader, Settings, shown
from nightcrew.adapters.boards.jira.showing import Showing
from nightcrew.adapters.boards.jira.stops import Stops
from nightcrew.adapters.visible import progress
from nightcrew.core.model import Ticket, TicketState
from nightcrew.errors import BoardError, ConfigError
from nightcrew.ports import Problem, Scan
from nightcrew.settings import read_settings, secret
from nightcrew.transport import Refused, told_as

__all__ = ["JiraBoard", "Settings"]

log = logging.getLogger("nightcrew.boards.jira")
T = TypeVar("T")
NAME = re.compile(r"[1-9]\d{0,17}|[A-Za-z][A-Za-z0-9_]*-[1-9]\d{0,17}")
"""An issue's id or key; nothing else becomes part of an address."""
NEEDED = {
    "BROWSE_PROJECTS": "see issues", "ADD_COMMENTS": "comment", "EDIT_OWN_COMMENTS": "change its own comments",
    "EDIT_ISSUES": "label issues", "TRANSITION_ISSUES": "move issues", "LINK_ISSUES": "link pull requests",
}  # fmt: skip
CURES = {
    "url": 'Say where Jira is: url = "https://acme.atlassian.net".',
    "projects": 'Name the projects by their keys: projects = ["ENG"].', "api": 'It is "cloud" or "data-center".',
    "states": f"Our states: {', '.join(TicketState)}.",
}  # fmt: skip
STALE = 600.0  # seconds that a delivery may be old


class JiraBoard:
    """The issues of some projects. A ticket's id is Jira's own number, its key what people say: ENG-12.

    An unchanged board costs one request, answered with an empty list. Raises BoardError in one sentence.
    """

    def __init__(self, name: str, settings: Mapping[str, object], home: Path) -> None:
        self.name = name
        self.settings = told = read_settings(Settings, "[board]", settings, CURES)
        self.api = api(told)
        self.service = self.api.service
        self.reader = Reader("[board]", told, self.api.plain, self.api.words)
        stops = Stops(self.api, told, lambda: self._id, (told.site or told.url).rstrip("/"))
        self.issues = Issues(self.api, told, self.reader, stops, lambda: self._id)
        self.showing = Showing(self.api, told, self.reader, lambda: self._id)
        self._me: Raw = {}
        self._lost: list[str] = []  # addresses in the settings that nobody has

    @property
    def _id(self) -> str:
        return self.api.id_of(self._me)

    async def _known(self) -> None:
        """Who we are, asked once. Raises ConfigError where no project is named."""
        if not self.settings.projects:
            raise ConfigError("[board] projects: none is named.", hint='Write projects = ["ENG"].')
        await self._who()

    async def _who(self) -> None:
        if not self._me:
            told, me = self.settings, await get(self.api, "/myself")
            try:
                self._lost = await self.api.meet({told.assignee, *told.reporters, *told.people})
            except Refused as refused:  # we may not look at people
                log.warning("board.people_unknown", extra={"error": str(refused)})
            self._me = me
            self.api.names[self._id] = "nightcrew"  # so that a mention of us reads as people say it

    async def scan(self) -> Scan:
        """See `Board.scan`."""
        with told_as(BoardError):
            await self._known()
            await self._in_known(self.issues.look)
        rows = [row for row in self.issues.open.values() if self.issues.takes(row)]
        gone = sorted(set(self.settings.projects) - set(self.issues.told.projects))
        problems = [Problem(f"{self.name} {key}", f"Jira shows us no project {key}.") for key in gone]
        return Scan(tuple(map(self._ticket, rows)), tuple(problems))

    async def _in_known(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What is asked of our projects. Jira refuses to search where one is not there: the others go on without it."""
        if self.issues.whole:
            self.issues.told = self.settings  # it may be there again
        try:
            return await ask()
        except Refused:
            keys = self.issues.told.projects
            there = tuple([key for key in keys if await self._there(key)]) if len(keys) > 1 else keys
            if there in ((), keys):
                raise
            self.issues.told = msgspec.structs.replace(self.settings, projects=there)
            return await ask()

    async def _there(self, project: str) -> bool:
        try:
            await get(self.api, f"/project/{project.upper()}/statuses")
        except Refused as refused:
            if refused.status != 404:
                raise
            return False
        return True

    def _ticket(self, raw: Raw) -> Ticket:
        known, left = self.issues.known(str(raw["id"])), self.issues.left(raw)
        return self.reader.ticket(self.name, raw, known, left, self._id)

    async def fetch(self, ids: Sequence[str]) -> list[Ticket]:
        """See `Board.fetch`; by id or key."""
        wanted = [word for word in dict.fromkeys(ids) if NAME.fullmatch(word)]
        if not wanted:
            return []
        with told_as(BoardError):
            await self._known()
            rows = await self.api.rows(wanted)
            await self._in_known(partial(self.issues.details, rows))
        found = {}
        for row in rows:
            self.issues.take(row)
            found[str(row["id"])] = self._ticket(row)
        order = {word.upper(): place for place, word in enumerate(wanted)}
        last = len(order)
        return sorted(found.values(), key=lambda t: min(order.get(t.id, last), order.get(t.key.upper(), last)))

    async def considered(self) -> list[Ticket]:
        """See `Previewing.considered`."""
        with told_as(BoardError):
            await self._known()
            rows = await self._in_known(self.issues.newest)
        return [self._ticket(row) for row in rows]

    async def move(self, ticket_id: str, state: TicketState, note: str = "", link: str = "") -> None:
        """See `Board.move`: the status by a transition, a label where no status says it, a link and one comment."""
        if state is TicketState.OTHER:
            raise BoardError(f"{ticket_id} cannot be moved to {state}: there is no such state in Jira.")
        with told_as(BoardError):
            await self._known()
            rows = await self.api.rows([ticket_id]) if NAME.fullmatch(ticket_id) else []
            if not rows:
                self.issues.open.pop(ticket_id, None)
                raise BoardError(f"{ticket_id} is not on the board {self.name}.")
            raw = rows[0]
            if self.reader.state(raw) in ENDS and state not in (*ENDS, TicketState.OPEN):
                return  # a person ended it meanwhile
            self.issues.wrote(str(raw["id"]))
            refused = await self._put(raw, state)
            if link:
                await self.showing.link(raw, link, state is TicketState.DONE)
            await self.showing.tell(raw, progress(state, note, link))
            if refused:
                raise refused

    async def _put(self, raw: Raw, state: TicketState) -> BoardError | Refused | None:
        """Status and labels. Where its workflow does not let it, why: link and comment are shown all the same."""
        try:
            status = await self.showing.status(raw, state)
        except (BoardError, Refused) as refused:
            return refused
        await self.showing.fields(raw, state, status)
        return None

    async def add(self, title: str, body: str = "", fields: Mapping[str, object] | None = None) -> Ticket:
        """See `Board.add`: a new issue of the first project, with what the selection asks for."""
        with told_as(BoardError):
            await self._known()
            made = adding.fields_of(self.settings, self.reader, self.api, title, body, dict(fields or {}), self._id)
            name = await adding.make(self.api, self.settings.projects[0], made)
            self.issues.wrote(name)
            rows = await self.api.rows([name])
            await self.issues.judge(rows)
        if not rows:
            raise BoardError(f"The new issue {name} is not to be seen.", hint="Look whether we may browse the project.")
        self.issues.take(rows[0])
        return self._ticket(rows[0])

    def watched(self) -> tuple[Path, ...]:
        """Nothing: Jira is no folder."""
        return ()

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        """See `Hooked.delivery`: signed with the webhook's secret, and no older than ten minutes."""
        told = secret("[board]", "webhook_secret", self.settings.webhook_secret)
        signed = hmac.new(told.encode(), raw, hashlib.sha256).hexdigest()
        given = headers.get("x-hub-signature", "").removeprefix("sha256=")
        if not hmac.compare_digest(signed.encode(), given.encode()):
            return None
        try:
            fresh = abs(now - msgspec.json.decode(raw)["timestamp"] / 1000) <= STALE
        except (msgspec.DecodeError, KeyError, TypeError):
            return None
        return (headers.get("x-atlassian-webhook-identifier") or signed) if fresh else None

    # -- what our credential is good for ------------------------------------------------------------------------------
    async def about(self) -> dict[str, object]:
        """Who we are there, which projects we see, what we may not do in ours, and which statuses are not there."""
        with told_as(BoardError):
            await self._who()
            places = [one async for one in self.api.places()]
            missing = [f"Jira finds nobody by the address {word}: name the account id." for word in self._lost]
            for project in self.settings.projects:
                missing += await self._missing(project.upper())
        ours = {project.upper() for project in self.settings.projects}
        login = str(self._me.get("emailAddress") or shown(self._me))
        return {"login": login, "places": sorted(places, key=lambda one: one[0] not in ours), "missing": missing}

    async def _missing(self, project: str) -> list[str]:
        needed = NEEDED | ({"ASSIGN_ISSUES": "assign issues"} if self.settings.assign else {})
        try:
            asked = {"projectKey": project, "permissions": ",".join(needed)}
            may = (await get(self.api, "/mypermissions", asked))["permissions"]
            kinds = await get(self.api, f"/project/{project}/statuses")
        except Refused as refused:
            if refused.status != 404:
                raise
            return [f"Jira shows us no project {project}."]
        missing = [f"It may not {what} in {project} ({key})." for key, what in needed.items()
                   if not (may.get(key) or {}).get("havePermission")]  # fmt: skip
        return missing + self._statuses(project, [status for kind in kinds for status in kind["statuses"]])

    def _statuses(self, project: str, statuses: Sequence[Mapping[str, Any]]) -> list[str]:
        """What our settings name, or need, and the project's workflows have not."""
        told = self.settings
        names = {str(status["name"]).lower() for status in statuses}
        named = [(f"write_states.{state}", name) for state, name in told.write_states.items()]
        named += [("statuses", name) for name in told.statuses]
        missing = [
            f"{project} has no status {name!r} ([board] {key})." for key, name in named if name.lower() not in names
        ]
        means = {self.reader.means(status) for status in statuses}
        return missing + [
            f"{project} has no status that means {state}: set [board] write_states.{state}."
            for state in (TicketState.WORKING, TicketState.DONE)
            if state not in means and state not in told.write_states
        ]
