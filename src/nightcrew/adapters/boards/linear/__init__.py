"""Linear as a board: the workflow's states, one comment, an attachment, and agent sessions for an app."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from nightcrew.adapters.boards.linear import queries
from nightcrew.adapters.boards.linear.memory import PAGE, Issues
from nightcrew.adapters.boards.linear.parse import ENDED, Raw, Reader, Settings, limits, same_team, verify_webhook
from nightcrew.adapters.boards.linear.showing import Showing, unmentioned
from nightcrew.adapters.boards.linear.workflow import ENDS, NoLabel, Workflow
from nightcrew.adapters.visible import says_stop
from nightcrew.core.model import Ticket, TicketState
from nightcrew.errors import BoardError, ConfigError
from nightcrew.ports import Scan
from nightcrew.settings import read_settings, secret
from nightcrew.transport import Answer, Lost, Refused, Service, told_as

__all__ = ["LinearBoard", "Settings"]

HOLDS = {"labels", "priority"}
OPEN = TicketState.OPEN
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
KEY = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,9})-(\d{1,9})")


class LinearBoard:
    """The issues of one team. A ticket's id is Linear's own, its key what people say: ENG-12.

    An unchanged board costs one request of less than 400 points. Raises BoardError in one sentence.
    """

    def __init__(self, name: str, settings: Mapping[str, object], home: Path) -> None:
        self.name = name
        cures = {"team": 'Name the team by its key: team = "ENG".', "states": f"Our states: {', '.join(TicketState)}."}
        self.settings = told = read_settings(Settings, "[board]", settings, cures)
        self.reader = Reader(told)
        if clash := sorted(self.reader.wanted & set(self.reader.means)):
            raise ConfigError(f"[board] labels: {clash[0]!r} also stands for a state.",
                              hint="A label that selects must stay when the state changes: use another.")  # fmt: skip
        base, _, last = told.url.rstrip("/").rpartition("/")
        self.service, self._path = Service("Linear", base, self._headers, limits, writes=2), f"/{last}"
        self.issues = Issues(self._ask, told, self._claimed, self._stops, self._now)
        self._team: Raw = {}
        self._me: Raw = {}
        self._labels: dict[str, str] = {}  # of the workspace, as far as they were looked for
        self._ahead = 0.0  # seconds that Linear's clock is ahead of ours
        self._showing: Showing | None = None

    async def _headers(self) -> Mapping[str, str]:
        token = secret("[board]", "token", self.settings.token or "$LINEAR_API_KEY")
        return {"authorization": token if token.startswith("lin_api_") else f"Bearer {token}"}

    async def _ask(self, query: str, variables: Raw, *, again: bool = True) -> Any:
        """The data of one request. Raises a Fault, also for errors in an answer; `again`: it may be sent twice."""
        asked = {"query": query, "variables": variables}
        if query.lstrip().startswith("mutation"):
            answer = await self.service.write("POST", self._path, asked, again=again)
        else:
            answer = await self.service.ask(self._path, asked)
        self._compare(answer)
        data = answer.data if isinstance(answer.data, dict) else {}
        if data.get("errors") or not isinstance(data.get("data"), dict):
            raise Refused("Linear", "a request", answer)
        return data["data"]

    def _compare(self, answer: Answer) -> None:
        """Look at Linear's clock: what changed since the last look is asked for by its time, not by ours."""
        with suppress(TypeError, ValueError):
            self._ahead = parsedate_to_datetime(answer.headers.get("date", "")).timestamp() - time.time()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(time.time() + self._ahead, UTC)

    def _claimed(self, raw: Raw) -> bool:
        return self.reader.state(raw) not in (TicketState.OPEN, TicketState.OTHER)

    def _stops(self, said: Raw) -> bool:
        """Whether a comment says "stop" and its author is heard.

        Ours say more than "stop", so the owner of a personal key is heard.
        """
        return says_stop(unmentioned(said["body"], self._me)) and self._may_stop(said)

    def _may_stop(self, said: Raw) -> bool:
        user = said.get("user") or {}
        if not user or user.get("app") or said.get("botActor") or said.get("externalUser"):
            return False
        people = {word.lower() for word in self.settings.people}
        return not people or user["name"].lower() in people or user["email"].lower() in people

    async def scan(self) -> Scan:
        """See `Board.scan`."""
        with told_as(BoardError):
            await self._known()
            await self.issues.look()
        tickets = [self._ticket(raw) for raw in self.issues.open.values()]
        return Scan(tuple(ticket for ticket in tickets if not ticket.left))

    def _ticket(self, raw: Raw) -> Ticket:
        stop = self.issues.stop(raw["id"]) if self._claimed(raw) else ""
        return self.reader.ticket(self.name, raw, self.issues.blocks, stop)

    async def _known(self) -> Raw:
        """The team with its states and labels, and who we are; asked once. Raises BoardError when there is no team."""
        if not self._team:
            self._me = (await self._ask(queries.WHO, {}))["viewer"]
            found = (await self._ask(queries.TEAM, {"teamKey": self.settings.team}))["teams"]["nodes"]
            if not found:
                raise BoardError(f"Linear shows us no team {self.settings.team}.",
                                 hint="Correct [board] team, or give the token access to it.")  # fmt: skip
            self._team = found[0]
            self._showing = self._showing or Showing(self._ask, self._me, self.settings.agent_sessions == "auto")
        return self._team

    async def _workflow(self) -> Workflow:
        team = await self._known()
        own = {str(one["name"]).lower(): str(one["id"]) for one in team["labels"]["nodes"]}
        return Workflow(self.reader, team, self._me, self._labels | own)

    async def fetch(self, ids: Sequence[str]) -> list[Ticket]:
        """See `Board.fetch`; by id or key."""
        wanted = list(dict.fromkeys(ids))
        uuids = [word for word in wanted if UUID.fullmatch(word)]
        keys = [m for word in wanted if (m := KEY.fullmatch(word)) and m[1].lower() == self.settings.team.lower()]
        if not uuids and not keys:
            return []
        with told_as(BoardError):
            await self._known()
            rows = await self._rows(uuids, [int(m[2]) for m in keys])
        order = {word.lower(): n for n, word in enumerate(wanted)}
        last = len(order)
        tickets = [self._ticket(row) for row in rows]
        return sorted(tickets, key=lambda t: min(order.get(t.id, last), order.get(t.key.lower(), last)))

    async def _rows(self, ids: list[str], numbers: list[int]) -> list[Raw]:
        if numbers:
            asked = {"team": same_team(self.settings), "number": {"in": numbers}}
            found = (await self._ask(queries.WHICH, {"filter": asked, "first": len(numbers)}))["issues"]["nodes"]
            ids = list(dict.fromkeys([*ids, *(row["id"] for row in found)]))
        rows: list[Raw] = []
        for start in range(0, len(ids), PAGE):
            rows += await self.issues.some(ids[start : start + PAGE])
        if claimed := [row["id"] for row in rows if self._claimed(row)]:
            await self.issues.listen(claimed)
        return rows

    async def move(self, ticket_id: str, state: TicketState, note: str = "", link: str = "") -> None:
        """See `Board.move`: state, label and delegate in one request, one comment, an attachment."""
        if state is TicketState.OTHER:
            raise BoardError(f"{ticket_id} cannot be moved to {state}: there is no such state on Linear.")
        with told_as(BoardError):
            await self._known()
            rows = await self.issues.some([ticket_id]) if UUID.fullmatch(ticket_id) else []
            if not rows:
                self.issues.open.pop(ticket_id, None)
                raise BoardError(f"{ticket_id} is not on the board {self.name}.")
            raw = rows[0]
            self.issues.take(raw)  # it may have gone to another team since the last look
            if raw["state"]["type"] in ENDED and state not in (*ENDS, TicketState.OPEN):
                return  # a person ended it meanwhile
            await self._put(raw, state)
            new = bool(link) and link not in {a["url"] for a in raw["attachments"]["nodes"]}
            if new:
                await self._ask(queries.ATTACH, {"issueId": ticket_id, "url": link, "title": "Pull request"})
            assert self._showing, "made with the team"
            await self._showing.show(ticket_id, state, note, link, new=new)

    async def _put(self, raw: Raw, state: TicketState) -> None:
        """Change the issue itself. A state or label that somebody replaced since we looked is looked for anew."""
        if raw["team"]["key"].lower() != self.settings.team.lower():
            return  # the states and labels of another team are not ours to set
        change = await self._change(raw, state)
        try:
            if change:
                await self._ask(queries.UPDATE, {"id": raw["id"], "input": change})
        except Refused:
            self._team, self._labels = {}, {}
            if (anew := await self._change(raw, state)) == change:
                raise
            await self._ask(queries.UPDATE, {"id": raw["id"], "input": anew})

    async def _change(self, raw: Raw, state: TicketState) -> Raw:
        """What has to change. A label or state that the team lacks may have been made since, or in the workspace."""
        try:
            return (await self._workflow()).change(raw, state)
        except BoardError as error:
            if not isinstance(error, NoLabel) or not await self._found(error.label):
                self._team = {}
            return (await self._workflow()).change(raw, state)

    async def _found(self, label: str) -> bool:
        """Whether the workspace has such a label, or the team has it now."""
        wanted = {"name": {"eqIgnoreCase": label}, "team": {"or": [{"null": True}, same_team(self.settings)]}}
        rows = (await self._ask(queries.LABELS, {"filter": wanted}))["issueLabels"]["nodes"]
        self._labels |= {label.lower(): row["id"] for row in rows}
        return bool(rows)

    async def add(self, title: str, body: str = "", fields: Mapping[str, object] | None = None) -> Ticket:
        """See `Board.add`: a new issue of the team, with what the selection asks for."""
        given = dict(fields or {})
        if unknown := sorted(set(given) - HOLDS):
            raise BoardError(
                f"A Linear issue cannot be given {unknown[0]}.", hint=f"It holds: {', '.join(sorted(HOLDS))}."
            )
        with told_as(BoardError):
            made = await self._new(title, body, given)
            try:
                await self._ask(queries.CREATE, {"input": made}, again=False)
            except Lost:
                if not await self.issues.some([made["id"]]):
                    raise
            (raw,) = await self.issues.some([made["id"]])
        return self._ticket(raw)

    async def _new(self, title: str, body: str, given: Mapping[str, object]) -> Raw:
        """The issue to be made; its id is ours, so that it is found when the answer is lost."""
        asked = given.get("labels", ())
        names = [*self.settings.labels[:1], *(asked if isinstance(asked, list | tuple) else [asked])]
        work = await self._workflow()
        labels = {await self._label(work, str(name)) for name in names}
        right = [one["id"] for one in work.states if self.reader.state({"state": one, "labels": {"nodes": []}}) is OPEN]
        priority = given.get("priority", 5)
        made: Raw = {"id": str(uuid4()), "teamId": work.team["id"], "title": title, "description": body,
                     "labelIds": sorted(labels),
                     "priority": priority if isinstance(priority, int) and priority < 5 else 0}  # fmt: skip
        if right:
            made["stateId"] = right[0]
        if self.settings.assignee.lower() == "me":
            made["delegateId" if self._me["app"] else "assigneeId"] = self._me["id"]
        return made

    async def _label(self, work: Workflow, name: str) -> str:
        known = work.labels.get(name.lower()) or (await self._found(name) and self._labels[name.lower()])
        if not known:
            raise BoardError(f"The team {work.team['key']} has no label {name!r}.", hint="Make it in Linear first.")
        return known

    def watched(self) -> tuple[Path, ...]:
        """Nothing: Linear is no folder."""
        return ()

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        """See `Hooked.delivery`: signed with the webhook's secret, and no older than a minute."""
        told = secret("[board]", "webhook_secret", self.settings.webhook_secret)
        return verify_webhook(told, raw, headers, now)

    async def considered(self) -> list[Ticket]:
        """See `Previewing.considered`."""
        with told_as(BoardError):
            await self._known()
            return [self._ticket(row) for row in await self.issues.newest()]

    async def about(self) -> dict[str, object]:
        """Who we are there, the teams there are, and what is missing in ours."""
        with told_as(BoardError):
            self._me = (await self._ask(queries.WHO, {}))["viewer"]
            teams = (await self._ask(queries.TEAMS, {}))["teams"]["nodes"]
            missing: list[str] = []
            try:
                work = await self._workflow()
                for error in work.missing():
                    if not isinstance(error, NoLabel) or not await self._found(error.label):
                        missing.append(error.sentence())
            except (BoardError, ConfigError) as error:
                missing.append(error.sentence())
        mine = self.settings.team.lower()
        places = sorted(((t["key"], t["name"]) for t in teams), key=lambda place: place[0].lower() != mine)
        return {"login": self._me["name"], "places": places, "missing": missing}
