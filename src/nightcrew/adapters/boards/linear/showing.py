"""What nightcrew says on an issue: one comment that is kept up to date, and for an app an agent session."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Protocol

from nightcrew.adapters.boards.linear import queries
from nightcrew.adapters.boards.linear.parse import Raw
from nightcrew.adapters.visible import progress, stable_uuid
from nightcrew.core.model import TicketState
from nightcrew.transport import Fault, Lost, Refused

log = logging.getLogger("nightcrew.boards.linear")
SAYS = {
    TicketState.OPEN: "thought", TicketState.WORKING: "thought", TicketState.REVIEW: "response",
    TicketState.DONE: "response", TicketState.CLOSED: "response",
}  # fmt: skip
"""Linear's kinds of activity; whatever needs a person is an error, which ends no session for good."""
SESSION = re.compile(r"\n\nAgent session `([0-9a-f-]{36})`\s*$")
PROFILE = re.compile(r"https?://linear\.app/[\w-]+/profiles/([\w.%-]+)", re.I)
"""How Linear's Markdown mentions somebody: the address of their profile. A plain @name mentions nobody."""
COMMENTS = 3  # a comment that a person deleted keeps its id: the next one is made under another


class Ask(Protocol):
    """See `LinearBoard._ask`."""

    def __call__(self, query: str, variables: Raw, *, again: bool = True) -> Awaitable[Any]: ...


def unmentioned(text: str, me: Raw | None = None) -> str:
    """The text with names for people's addresses, so that it calls nobody; a mention of us reads as people say it.

    >>> unmentioned("https://linear.app/acme/profiles/crew stop", {"name": "Acme Crew", "displayName": "crew"})
    '@nightcrew stop'
    """
    text = PROFILE.sub(r"@\1", text)
    ours = "|".join(re.escape(me[key]) for key in ("name", "displayName") if me.get(key)) if me else ""
    return re.sub(rf"@(?:{ours})(?!\w)", "@nightcrew", text, flags=re.I) if ours else text


@dataclass
class Showing:
    """Shows states. `me` is who we are, `sessions` whether an app tells what it does in agent sessions."""

    ask: Ask
    me: Raw
    sessions: bool
    said: dict[str, str] = field(default_factory=dict)  # issue -> what its comment says
    known: dict[str, str] = field(default_factory=dict)  # issue -> its session, "" when it can have none

    async def show(self, issue: str, state: TicketState, note: str, link: str, *, new: bool) -> None:
        """Say it in the comment, and where something is new in the session; `new`: the link was not there before."""
        text = unmentioned(progress(state, note, link))
        if self.said.get(issue) == text:
            return
        mark, there = await self._there(issue)
        session = await self._session(issue, there or "", link) if self.me.get("app") and self.sessions else ""
        body = f"{text}\n\nAgent session `{session}`" if session else text
        if there != body:
            await self._tell_session(session, state, text, link if new else "")
            await self._tell(issue, mark, there, body)
        self.said[issue] = text

    # -- the comment -------------------------------------------------------------------------------------------------
    def _marks(self, issue: str) -> list[str]:
        """The ids our comment may have: they follow from the issue and from who we are, so it is found again."""
        return [stable_uuid("nightcrew", "progress", issue, self.me["id"], str(n)) for n in range(COMMENTS)]

    async def _there(self, issue: str) -> tuple[str, str | None]:
        """The id of our comment and what it says; None when there is none."""
        marks = self._marks(issue)
        asked = {"said": {"id": {"in": marks}}, "first": COMMENTS, "after": None}
        found = (await self.ask(queries.COMMENTS, asked))["comments"]["nodes"]
        return (str(found[0]["id"]), str(found[0]["body"])) if found else (marks[0], None)

    async def _tell(self, issue: str, mark: str, there: str | None, body: str) -> None:
        """Make the comment or change it. Raises a Fault when it is not there in the end."""
        if there is None:
            made = await self._made(issue, body)
            if made is None:
                return
            mark, there = made
        if there != body:
            await self.ask(queries.SAY_ANEW, {"id": mark, "body": body})

    async def _made(self, issue: str, body: str) -> tuple[str, str] | None:
        """Make the comment; when its answer was lost or it is there already, its id and what it says."""
        for mark in self._marks(issue):
            try:
                await self.ask(queries.SAY, {"id": mark, "issueId": issue, "body": body}, again=False)
            except (Lost, Refused) as fault:
                there, text = await self._there(issue)
                if text is not None:
                    return there, text
                failed = fault
                if isinstance(fault, Lost):
                    break  # it never came to be: the same id is free
            else:
                return None
        raise failed

    # -- the agent session -------------------------------------------------------------------------------------------
    async def _session(self, issue: str, there: str, link: str) -> str:
        """The issue's one session, "" when it can have none. Its id is kept in the comment."""
        if issue not in self.known:
            found = SESSION.search(there)
            self.known[issue] = found[1] if found else await self._ours(issue) or await self._begun(issue, link)
        return self.known[issue]

    async def _ours(self, issue: str) -> str:
        """The session that there is: begun before a crash, or by Linear when a person delegated the issue to us."""
        try:
            rows = (await self.ask(queries.SESSIONS, {}))["agentSessions"]["nodes"]
        except Refused as refused:  # then it is not to be known
            log.warning("session.unknown", extra={"ticket": issue, "error": str(refused)})
            return ""
        mine = [
            row for row in rows if (row["issue"] or {}).get("id") == issue and row["appUser"]["id"] == self.me["id"]
        ]
        return str(mine[0]["id"]) if mine else ""

    async def _begun(self, issue: str, link: str) -> str:
        urls = [{"label": "Pull request", "url": link}] if link else []
        try:
            made = await self.ask(queries.SESSION, {"issueId": issue, "externalUrls": urls}, again=False)
        except (Lost, Refused) as fault:
            if isinstance(fault, Lost) and (there := await self._ours(issue)):
                return there
            # It may still come to be and has no id of ours: a second one would be worse than none.
            log.warning("session.none", extra={"ticket": issue, "error": str(fault)})
            return ""
        return str(made["agentSessionCreateOnIssue"]["agentSession"]["id"])

    async def _tell_session(self, session: str, state: TicketState, text: str, link: str) -> None:
        """What is new, each with an id that follows from it; that it cannot be told stops nothing."""
        if not session:
            return
        told: list[Raw] = [{"type": SAYS.get(state, "error"), "body": text}]
        if link:
            told.insert(0, {"type": "action", "action": "Opened a pull request", "parameter": link})
        for content in told:
            mark = stable_uuid("nightcrew", "activity", session, *map(str, content.values()))
            try:
                await self.ask(queries.ACTIVITY, {"id": mark, "sessionId": session, "content": content})
            except Fault as fault:
                log.warning("session.untold", extra={"session": session, "error": str(fault)})
