"""What nightcrew shows on an issue: its status, a label, one comment, the pull request as a link."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nightcrew.adapters.boards.jira.api import MOST, Api, get, write
from nightcrew.adapters.boards.jira.parse import Raw, Reader, Settings
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError
from nightcrew.transport import Lost, Refused

log = logging.getLogger("nightcrew.boards.jira")
LONGEST = 30_000  # characters of a comment as it is sent; Jira takes some more
PAGE = 100
GOING = frozenset({TicketState.WORKING, TicketState.REVIEW})
WISHES: dict[TicketState, tuple[frozenset[TicketState], ...]] = {
    TicketState.REVIEW: (frozenset({TicketState.REVIEW}), frozenset({TicketState.WORKING})),
    TicketState.BLOCKED: (frozenset({TicketState.BLOCKED}), GOING),
    TicketState.FAILED: (frozenset({TicketState.FAILED}), GOING),
    TicketState.CLOSED: (frozenset({TicketState.CLOSED}), frozenset({TicketState.DONE})),
}
"""What a status may mean where it is to show that state, best first; a label says the rest."""
USUAL = {TicketState.WORKING: "progress", TicketState.DONE: "done"}
"""What the usual one of several statuses that mean the same is called."""
RESOLUTIONS = {TicketState.DONE: "Done", TicketState.CLOSED: "Won't Do"}


# -- the workflow, pure ------------------------------------------------------------------------------------------------
def shows(reader: Reader, status: Raw, state: TicketState) -> bool:
    """Whether the status is the best there can be for that state, whatever the workflow offers."""
    named = reader.settings.write_states.get(state, "").lower()
    return status["name"].lower() == named if named else reader.means(status) is state


def choose(reader: Reader, key: str, status: Raw, offered: Sequence[Raw], state: TicketState) -> Raw | None:
    """The transition that leads to what shows `state`; None when the issue is to stay where it is.

    By the name in `write_states` or by what its target means. Raises BoardError naming the possible ones.
    """
    open_ = [one for one in offered if one.get("isAvailable", True) and one["to"]["id"] != status["id"]]
    named = reader.settings.write_states.get(state, "")
    if named:
        if found := [one for one in open_ if one["to"]["name"].lower() == named.lower()]:
            return min(found, key=_asks)
        raise _no_way(key, status, open_, f"{named!r}, as [board] write_states.{state} says")
    for wish in WISHES.get(state, (frozenset({state}),)):
        if reader.means(status) in wish:
            return None
        if found := [one for one in open_ if reader.means(one["to"]) in wish]:
            usual = USUAL.get(TicketState.WORKING if wish is GOING else state, "")
            return min(found, key=lambda one: (_asks(one), usual not in one["to"]["name"].lower()))
    raise _no_way(key, status, open_, f"what shows {state}")


def _asks(transition: Raw) -> bool:
    """Whether its screen asks for something that we do not know: then another way is better."""
    asked = (transition.get("fields") or {}).items()
    return any(key != "resolution" and one.get("required") and not one.get("hasDefaultValue") for key, one in asked)


def _no_way(key: str, status: Raw, offered: Sequence[Raw], wanted: str) -> BoardError:
    names = ", ".join(dict.fromkeys(repr(str(one["to"]["name"])) for one in offered)) or "nothing"
    hint = "Name one of these in [board] write_states, or add the transition to the project's workflow."
    return BoardError(f"{key} cannot be moved from {status['name']!r} to {wanted}: its workflow offers {names}.",
                      hint=hint)  # fmt: skip


def resolved(reader: Reader, transition: Raw, state: TicketState) -> Raw:
    """The resolution, as a transition to an end may ask for it."""
    asks = (transition.get("fields") or {}).get("resolution")
    if not asks or state not in RESOLUTIONS:
        return {}
    names = [str(one["name"]) for one in asks.get("allowedValues") or []]
    wish = reader.settings.resolutions.get(state, RESOLUTIONS[state])
    found = next((name for name in names if name.lower() == wish.lower()), "")
    if not found and asks.get("required") and not asks.get("hasDefaultValue"):
        found = next(iter(names), "")
    return {"fields": {"resolution": {"name": found}}} if found else {}


def fitting(jira: Api, text: str) -> str:
    """As much of a comment as Jira takes: what it becomes may be far longer than it is."""
    text = text[:LONGEST]
    while len(json.dumps(jira.progress(text)["body"], ensure_ascii=False)) > LONGEST:
        text = text[: len(text) * 9 // 10]
    return text


# -- writing -----------------------------------------------------------------------------------------------------------
@dataclass
class Showing:
    """Writes to issues. Each write is done once, however often it is asked for and whatever answers are lost."""

    api: Api
    told: Settings
    reader: Reader
    me: Callable[[], str]
    _notes: dict[str, tuple[str, str]] = field(default_factory=dict)  # issue -> our comment, and its text
    _links: dict[tuple[str, str], bool] = field(default_factory=dict)  # issue and address -> whether it is over

    async def status(self, raw: Raw, state: TicketState) -> Raw:
        """Move it. The status it has then. Raises BoardError when its workflow does not let it."""
        status: Raw = raw["fields"]["status"]
        if shows(self.reader, status, state):
            return status
        path = f"/issue/{raw['id']}/transitions"
        offered = (await get(self.api, path, {"expand": "transitions.fields"}))["transitions"]
        chosen = choose(self.reader, raw["key"], status, offered, state)
        if chosen is None:
            return status
        asked = {"transition": {"id": chosen["id"]}, **resolved(self.reader, chosen, state)}
        try:
            await write(self.api, "POST", path, asked)
        except (Lost, Refused):
            found = await self.api.rows([raw["id"]])
            if not found or found[0]["fields"]["status"]["id"] != chosen["to"]["id"]:
                raise
        target: Raw = chosen["to"]
        return target

    async def fields(self, raw: Raw, state: TicketState, status: Mapping[str, Any]) -> None:
        """Our labels, one by one so that nobody else's change is lost; and the assignee of what nobody has."""
        update: dict[str, object] = {}
        if labels := self.reader.relabel(raw, state, status):
            update["labels"] = labels
        if self.told.assign and state is TicketState.WORKING and not raw["fields"].get("assignee"):
            update["assignee"] = [{"set": self.api.as_user(self.me())}]
        if update:
            await write(self.api, "PUT", f"/issue/{raw['id']}", {"update": update}, again=True)

    async def link(self, raw: Raw, link: str, over: bool) -> None:
        """The pull request as a link of the issue; the same address is the same link."""
        if self._links.get((raw["id"], link)) is over:
            return
        number = re.search(r"/(\d+)/?$", link)
        asked = {
            "globalId": f"nightcrew:{link}"[:255], "relationship": "pull request",
            "application": {"type": "nightcrew", "name": "nightcrew"},
            "object": {"url": link, "title": f"Pull request {number[1] if number else ''}".strip(),
                       "status": {"resolved": over}},
        }  # fmt: skip
        await write(self.api, "POST", f"/issue/{raw['id']}/remotelink", asked, again=True)
        self._links[raw["id"], link] = over

    async def tell(self, raw: Raw, text: str) -> None:
        """The one comment. Where an issue has as many comments as it may, it is left out."""
        name, text = str(raw["id"]), fitting(self.api, text)
        said = self.api.progress(text)
        mine = self._notes.get(name) or await self._mine(name)
        try:
            if mine is None:
                mine = (await self._say(name, said), "")
            elif self._same(mine[1], text):
                text = mine[1]
            elif not await self._say_anew(name, mine[0], said):
                mine = (await self._say(name, said), "")  # somebody deleted it
        except Refused as refused:
            if refused.status != 413:
                raise
            log.warning("board.comments_full", extra={"ticket": raw["key"], "error": str(refused)})
            return
        self._notes[name] = (mine[0], text)

    def _same(self, there: str, text: str) -> bool:
        return there == text or there == self.api.plain(self.api.progress(text)["body"])

    async def _say(self, name: str, said: Raw) -> str:
        try:
            made = await write(self.api, "POST", f"/issue/{name}/comment", said)
        except Lost:
            if (found := await self._mine(name)) is None:
                raise
            return found[0]
        return str(made["id"])

    async def _say_anew(self, name: str, comment: str, said: Raw) -> bool:
        """Whether the comment is still there to be changed."""
        path = f"/issue/{name}/comment/{comment}"
        try:
            await write(self.api, "PUT", path, said, again=True, query=self.api.rewriting())
        except Refused as refused:
            if refused.status != 404:
                raise
            return False
        return True

    async def _mine(self, name: str) -> tuple[str, str] | None:
        """Our comment and what it says, found by its mark."""
        start = 0
        for _ in range(MOST):
            query = {"startAt": start, "maxResults": PAGE, **self.api.comments()}
            answer = await get(self.api, f"/issue/{name}/comment", query)
            for said in answer["comments"]:
                if self.api.is_progress(said, self.me()):
                    return str(said["id"]), self.api.plain(said["body"])
            start += len(answer["comments"])  # a server may give less than it is asked for
            if start >= answer["total"] or not answer["comments"]:
                return None
        return None
