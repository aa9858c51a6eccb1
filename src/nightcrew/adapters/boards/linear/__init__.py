"""Linear as a board: the workflow's states, one comment, an attachment, and agent sessions for an app."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from nightcrew.adapters.boards.linear import queries
from nightcrew.adapters.boards.linear.memory import PAGE, Issues
from nightcrew.adapters.boards.linear.parse import ENDED, LABELS, Raw, Reader, Settings, limits, verify_webhook
from nightcrew.adapters.visible import progress, stable_uuid
from nightcrew.core.model import Ticket, TicketState
from nightcrew.errors import BoardError, ConfigError
from nightcrew.ports import Scan
from nightcrew.settings import read_settings, secret
from nightcrew.transport import Fault, Lost, Refused, Service, told_as

__all__ = ["LinearBoard", "Settings"]

log = logging.getLogger("nightcrew.boards.linear")
HOLDS = {"labels", "priority"}
ENDS = {TicketState.DONE: "completed", TicketState.CLOSED: "canceled"}
STARTS = {TicketState.OPEN: "unstarted", TicketState.WORKING: "started", TicketState.REVIEW: "started"}
SAYS = {TicketState.WORKING: "thought", TicketState.REVIEW: "response", TicketState.DONE: "response"}
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)


class LinearBoard:
    """The issues of one team. A ticket's id is Linear's own, its key what people say: ENG-12.

    An unchanged board costs one request of less than 400 points. Raises BoardError in one sentence.
    """

    def __init__(self, name: str, settings: Mapping[str, object], home: Path) -> None:
        self.name = name
        cures = {"team": 'Name the team by its key: team = "ENG".', "states": f"Our states: {', '.join(TicketState)}."}
        self.settings = told = read_settings(Settings, "[board]", settings, cures)
        self.reader = Reader(told)
        self.service = Service("Linear", told.url, self._headers, limits, writes=2)
        self.issues = Issues(self._ask, told, self._claimed, self._may_stop)
        self._team: Raw = {}
        self._me: Raw = {}
        self._said: dict[str, str] = {}
        self._sessions: dict[str, str] = {}

    async def _headers(self) -> Mapping[str, str]:
        token = secret("[board]", "token", self.settings.token or "$LINEAR_API_KEY")
        return {"authorization": token if token.startswith("lin_api_") else f"Bearer {token}"}

    async def _ask(self, query: str, variables: Raw, *, again: bool = True) -> Any:
        """The data of one request. Raises a Fault, also for errors in an answer; `again`: it may be sent twice."""
        asked = {"query": query, "variables": variables}
        if query.lstrip().startswith("mutation"):
            answer = await self.service.write("POST", "", asked, again=again)
        else:
            answer = await self.service.ask("", asked)
        data = answer.data if isinstance(answer.data, dict) else {}
        if data.get("errors") or not isinstance(data.get("data"), dict):
            raise Refused("Linear", "a request", answer)
        return data["data"]

    def _claimed(self, raw: Raw) -> bool:
        return self.reader.state(raw) not in (TicketState.OPEN, TicketState.OTHER)

    def _may_stop(self, said: Raw) -> bool:
        user = said.get("user") or {}
        if not user or user.get("isMe") or user.get("app") or said.get("botActor") or said.get("externalUser"):
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
        known = self.issues
        left = "its author is not one whose tickets are taken" if raw["id"] in known.strange else ""
        return self.reader.ticket(self.name, raw, frozenset(known.ended), known.stops.get(raw["id"], ""), left)

    async def _known(self) -> Raw:
        """The team with its states and labels, and who we are; asked once. Raises BoardError when there is no team."""
        if not self._team:
            self._me = (await self._ask(queries.WHO, {}))["viewer"]
            found = (await self._ask(queries.TEAM, {"teamKey": self.settings.team}))["teams"]["nodes"]
            if not found:
                raise BoardError(f"Linear shows us no team {self.settings.team}.",
                                 hint="Correct [board] team, or give the token access to it.")  # fmt: skip
            self._team = found[0]
        return self._team

    async def fetch(self, ids: Sequence[str]) -> list[Ticket]:
        """See `Board.fetch`; by id or key."""
        wanted = list(dict.fromkeys(ids))
        uuids = [word for word in wanted if UUID.fullmatch(word)]
        keys = [m for word in wanted if (m := re.fullmatch(r"([A-Za-z][A-Za-z0-9_]{0,9})-(\d{1,9})", word))]
        if not uuids and not keys:
            return []
        with told_as(BoardError):
            await self._known()
            numbers = [int(m[2]) for m in keys if m[1].lower() == self.settings.team.lower()]
            if numbers:
                asked = {"team": {"key": {"eq": self.settings.team}}, "number": {"in": numbers}}
                found = (await self._ask(queries.WHICH, {"filter": asked, "first": PAGE}))["issues"]["nodes"]
                uuids += [row["id"] for row in found]
            rows = await self._rows(list(dict.fromkeys(uuids)))
        order = {word: n for n, word in enumerate(wanted)}
        tickets = [self._ticket(row) for row in rows]
        return sorted(tickets, key=lambda t: min(order.get(t.id, len(order)), order.get(t.key, len(order))))

    async def _rows(self, ids: list[str]) -> list[Raw]:
        rows: list[Raw] = []
        for start in range(0, len(ids), PAGE):
            for row in await self.issues.some(ids[start : start + PAGE]):
                await self.issues.details(row)
                rows.append(row)
        return rows

    async def move(self, ticket_id: str, state: TicketState, note: str = "", link: str = "") -> None:
        """See `Board.move`: state, label and delegate in one request, one comment, an attachment."""
        if state is TicketState.OTHER:
            raise BoardError(f"{ticket_id} cannot be moved to {state}: there is no such state on Linear.")
        with told_as(BoardError):
            team = await self._known()
            rows = await self.issues.some([ticket_id]) if UUID.fullmatch(ticket_id) else []
            if not rows:
                raise BoardError(f"{ticket_id} is not on the board {self.name}.")
            raw = rows[0]
            if raw["state"]["type"] in ENDED and state not in (*ENDS, TicketState.OPEN):
                return  # a person ended it meanwhile
            if change := self._change(team, raw, state):
                await self._ask(queries.UPDATE, {"id": ticket_id, "input": change})
            if link and link not in {a["url"] for a in raw["attachments"]["nodes"]}:
                await self._ask(queries.ATTACH, {"issueId": ticket_id, "url": link, "title": "Pull request"})
            text = progress(state, note, link)
            if self._me.get("app") and self.settings.agent_sessions:
                await self._tell_session(ticket_id, state, text, link)
            await self._tell(ticket_id, text)

    def _change(self, team: Raw, raw: Raw, state: TicketState) -> Raw:
        """What of the issue is not yet as it should be."""
        wanted = self._wanted(team, state, raw)
        label = self._label(team, state)
        there = {one["id"] for one in raw["labels"]["nodes"]}
        ours = {one["id"] for one in team["labels"]["nodes"] if one["name"].lower() in self.reader.means}
        change: Raw = {}
        if wanted and wanted != raw["state"]["id"]:
            change["stateId"] = wanted
        if label and label not in there:
            change["addedLabelIds"] = [label]
        if gone := sorted((there & ours) - {label}):
            change["removedLabelIds"] = gone
        if self.settings.delegate and self._me.get("app") and state is TicketState.WORKING and not raw["delegate"]:
            change["delegateId"] = self._me["id"]
        return change

    def _wanted(self, team: Raw, state: TicketState, raw: Raw) -> str:
        """The workflow's state to be shown, "" for the one it has."""
        states = sorted(team["states"]["nodes"], key=lambda one: one["position"])
        named = self.reader.settings.write_states.get(state, "").lower()
        if found := next((one["id"] for one in states if one["name"].lower() == named), ""):
            return str(found)
        if self.reader.state({**raw, "labels": {"nodes": []}}) is state:
            return ""  # it says so already, by whatever name
        kind = {**STARTS, **ENDS}.get(state, "")
        right = [one for one in states if one["type"] == kind]
        if state is TicketState.REVIEW:
            right = [one for one in right if "review" in one["name"].lower()] or right
        if kind and not right:
            raise BoardError(
                f"The team {team['key']} has no state for {state}.", hint=f"Set [board] write_states.{state}."
            )
        return str(right[0]["id"]) if right else ""

    def _label(self, team: Raw, state: TicketState) -> str:
        """The label to be shown, "" for none. Raises BoardError when the team lacks it."""
        name = self.reader.labels.get(state, "").lower()
        if any(one["name"].lower() == name for one in team["states"]["nodes"]):
            return ""
        found = next((one["id"] for one in team["labels"]["nodes"] if one["name"].lower() == name), "")
        if name and not found:
            raise BoardError(f"The team {team['key']} has no label and no state {self.reader.labels[state]!r}.",
                             hint=f"Make the label in Linear, or set [board] write_states.{state}.")  # fmt: skip
        return str(found)

    async def _tell(self, issue: str, text: str) -> None:
        """The one comment, whose id follows from the issue: it is found again after a restart and a lost answer."""
        mark = stable_uuid("nightcrew", "progress", issue)
        if self._said.get(issue) == text:
            return
        there = await self._comment(mark)
        if there is None:
            try:
                await self._ask(queries.SAY, {"id": mark, "issueId": issue, "body": text}, again=False)
            except (Lost, Refused):
                if await self._comment(mark) != text:
                    raise
        elif there != text:
            await self._ask(queries.SAY_ANEW, {"id": mark, "body": text})
        self._said[issue] = text

    async def _comment(self, mark: str) -> str | None:
        try:
            return str((await self._ask(queries.COMMENT, {"id": mark}))["comment"]["body"])
        except Refused:
            return None

    async def _tell_session(self, issue: str, state: TicketState, text: str, link: str) -> None:
        """What an app does is told in its agent session as well; that it cannot be stops nothing."""
        try:
            if issue not in self._sessions:
                urls = [{"label": "Pull request", "url": link}] if link else []
                made = await self._ask(queries.SESSION, {"issueId": issue, "externalUrls": urls}, again=False)
                self._sessions[issue] = made["agentSessionCreateOnIssue"]["agentSession"]["id"]
            session, kind = self._sessions[issue], SAYS.get(state, "error")
            mark = stable_uuid("nightcrew", "activity", session, state, text)
            content = {"type": kind, "body": text}
            await self._ask(queries.ACTIVITY, {"id": mark, "sessionId": session, "content": content})
        except Fault as fault:
            log.warning("session.untold", extra={"ticket": issue, "error": str(fault)})

    async def add(self, title: str, body: str = "", fields: Mapping[str, object] | None = None) -> Ticket:
        """See `Board.add`: a new issue of the team, with what the selection asks for."""
        given = dict(fields or {})
        if unknown := sorted(set(given) - HOLDS):
            raise BoardError(
                f"A Linear issue cannot be given {unknown[0]}.", hint=f"It holds: {', '.join(sorted(HOLDS))}."
            )
        with told_as(BoardError):
            made = self._new(await self._known(), title, body, given)
            try:
                await self._ask(queries.CREATE, {"input": made}, again=False)
            except Lost:
                if not await self.issues.some([made["id"]]):
                    raise
            (raw,) = await self.issues.some([made["id"]])
        self.issues.take(raw)
        return self._ticket(raw)

    def _new(self, team: Raw, title: str, body: str, given: Mapping[str, object]) -> Raw:
        """The issue to be made; its id is ours, so that it is found when the answer is lost."""
        asked = given.get("labels", ())
        names = [*self.settings.labels[:1], *(asked if isinstance(asked, list | tuple) else [str(asked)])]
        known = {one["name"].lower(): one["id"] for one in team["labels"]["nodes"]}
        if missing := [str(name) for name in names if str(name).lower() not in known]:
            raise BoardError(f"The team {team['key']} has no label {missing[0]!r}.", hint="Make it in Linear first.")
        right = sorted((s for s in team["states"]["nodes"] if s["type"] == "unstarted"), key=lambda s: s["position"])
        priority = given.get("priority", 5)
        made: Raw = {"id": str(uuid4()), "teamId": team["id"], "title": title, "description": body,
                     "labelIds": [known[str(name).lower()] for name in names],
                     "priority": priority if isinstance(priority, int) and priority < 5 else 0}  # fmt: skip
        if right:
            made["stateId"] = right[0]["id"]
        if self.settings.assignee.lower() == "me":
            made["assigneeId"] = self._me["id"]
        return made

    def watched(self) -> tuple[Path, ...]:
        """Nothing: Linear is no folder."""
        return ()

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        """The id of a genuine webhook delivery, else None; see `Hooked`."""
        if not self.settings.webhook_secret:
            return None
        lower = {name.lower(): value for name, value in headers.items()}
        told = secret("[board]", "webhook_secret", self.settings.webhook_secret)
        return verify_webhook(raw, lower, told, now or time.time())

    async def about(self) -> dict[str, object]:
        """Who we are there, the teams there are, and what is missing in ours."""
        with told_as(BoardError):
            self._me = (await self._ask(queries.WHO, {}))["viewer"]
            teams = (await self._ask(queries.TEAMS, {}))["teams"]["nodes"]
            missing: list[str] = []
            try:
                team = await self._known()
                for state in (*STARTS, *ENDS, *LABELS):
                    self._label(team, state)
            except (BoardError, ConfigError) as error:
                missing.append(error.sentence())
        return {"login": self._me["name"], "places": [(t["key"], t["name"]) for t in teams], "missing": missing}
