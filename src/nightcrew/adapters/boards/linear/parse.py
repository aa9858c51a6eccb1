"""A Linear issue -> a ticket, by the settings of the board; and what its answers say about limits and deliveries."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from nightcrew.core.model import Ticket, TicketState
from nightcrew.transport import Answer, Limit

Raw = dict[str, Any]
API = "https://api.linear.app/graphql"
KINDS = {"requests": "requests", "complexity": "complexity points"}
PRIORITIES = {0: 5, 1: 1, 2: 2, 3: 3, 4: 4}  # Linear: 0 none, 1 urgent .. 4 low
TYPES = {
    "unstarted": TicketState.OPEN, "started": TicketState.WORKING, "completed": TicketState.DONE,
    "canceled": TicketState.CLOSED, "duplicate": TicketState.CLOSED, "triage": TicketState.OTHER,
    "backlog": TicketState.OTHER,
}  # fmt: skip
LABELS = {TicketState.BLOCKED: "nightcrew: blocked", TicketState.FAILED: "nightcrew: failed"}
"""States that Linear's usual workflow has no word for are shown by a label."""
ENDED = ("completed", "canceled", "duplicate")
NEEDS = "requires:"
UNSAID = 60.0  # seconds to wait for a limit whose end is not said
HOUR = 3600.0  # seconds; the span of all of Linear's limits, so none is waited for longer
WINDOW = 60.0  # seconds that a delivery may be old
_ADDED = re.compile(r"\n*<!-- nightcrew:add -->\s*$")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[board]` with kind "linear"."""

    team: str  # its key, as in ENG-12
    token: str = ""  # "$NAME" of a personal key or an app's token; "" = $LINEAR_API_KEY
    project: str = ""  # the id in its address, or its name; "" = any
    labels: tuple[str, ...] = ()  # an issue needs one of these; () = none is needed
    assignee: str = ""  # "me", "none", a name or an address; "" = whoever
    authors: tuple[str, ...] = ()  # names or addresses of those whose issues are taken; () = everybody in the team
    people: tuple[str, ...] = ()  # names or addresses of those who may say "stop"; () = everybody in the workspace
    states: dict[str, TicketState] = {}  # the workflow's states or labels -> ours, besides what their type says
    write_states: dict[TicketState, str] = {}  # our states -> the state or label written
    delegate: bool = True  # an app shows that it works an issue by being its delegate
    agent_sessions: Literal["auto", "off"] = "auto"  # "auto": an app tells what it does in an agent session, too
    webhook_secret: str = ""  # "$NAME"; "" = deliveries are not believed
    url: str = API  # where its GraphQL is


class Reader:
    """Reads issues as the settings say."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.labels = {**LABELS, **settings.write_states}
        self.means = {name.lower(): state for state, name in self.labels.items()}
        self.means |= {name.lower(): state for name, state in settings.states.items()}
        self.wanted = {label.lower() for label in settings.labels}

    def ticket(self, board: str, raw: Raw, blocks: Callable[[Raw], bool], stop: str = "") -> Ticket:
        """The issue as a ticket. `blocks` says of a blocker, as the issue tells of it, whether it still is one."""
        names = [label["name"] for label in raw["labels"]["nodes"]]
        return Ticket(
            board=board, id=raw["id"], key=raw["identifier"], title=" ".join(raw["title"].split()),
            body=_ADDED.sub("", raw["description"] or "").strip(), state=self.state(raw),
            project=(raw["project"] or {}).get("name", ""), priority=PRIORITIES.get(int(raw["priority"]), 5),
            labels=tuple(name for name in names if not self._ours(name)),
            blocked_by=tuple(b["id"] for b in blockers(raw) if blocks(b)),
            requires=tuple(n[len(NEEDS) :].strip() for n in names if n.lower().startswith(NEEDS)),
            created_at=datetime.fromisoformat(raw["createdAt"]), url=raw["url"], closes=f"Fixes {raw['identifier']}",
            links=tuple(a["url"] for a in raw["attachments"]["nodes"]), stop=stop, left=self.left(raw),
            author=(raw["creator"] or {}).get("name", ""),
        )  # fmt: skip

    def state(self, raw: Raw) -> TicketState:
        """What the workflow's state means; an issue that is going on says more by its labels."""
        state = raw["state"]
        if raw.get("trashed"):
            return TicketState.CLOSED
        found = self.means.get(state["name"].lower()) or TYPES.get(state["type"], TicketState.OTHER)
        if found is TicketState.WORKING and "review" in state["name"].lower():
            found = TicketState.REVIEW
        if state["type"] in ENDED:
            return found
        labels = {
            self.means[n.lower()] for n in (la["name"] for la in raw["labels"]["nodes"]) if n.lower() in self.means
        }
        return next((one for one in (TicketState.BLOCKED, TicketState.FAILED, *labels) if one in labels), found)

    def left(self, raw: Raw) -> str:
        """Why the selection does not take it, as far as the issue itself says; "" when it does."""
        told, labels = self.settings, {label["name"].lower() for label in raw["labels"]["nodes"]}
        project, who = raw["project"] or {}, raw["assignee"] or {}
        ours = told.assignee.lower() == "me" and (raw["delegate"] or {}).get("isMe")
        if raw["team"]["key"].lower() != told.team.lower():
            return f"it moved to the team {raw['team']['key']}"
        if raw.get("archivedAt"):
            return "it is archived"
        if told.project and not _names(told) & {project.get("slugId", "").lower(), project.get("name", "").lower()}:
            return f"it is not in the project {told.project}"
        if self.wanted and not self.wanted & labels:
            return f"it has not the label {' or '.join(repr(label) for label in told.labels)}"
        if told.assignee and not ours and not _is(who, told.assignee):
            return "it is assigned" if told.assignee.lower() == "none" else f"it is not assigned to {told.assignee}"
        author = raw["creator"] or {}  # none: a program made it, or somebody from outside
        if told.authors and not (author and any(_is(author, word) for word in told.authors)):
            return f"its author {author.get('name') or 'nobody'} is not one whose tickets are taken"
        return ""

    def _ours(self, label: str) -> bool:
        return label.lower() in self.means or label.lower() in self.wanted


def over(raw: Raw) -> bool:
    """Whether an issue is done with: ended, archived or deleted."""
    return raw["state"]["type"] in ENDED or bool(raw.get("trashed") or raw.get("archivedAt"))


def blockers(raw: Raw) -> list[Raw]:
    """The issues that block this one, whatever their state."""
    return [one["issue"] for one in raw["inverseRelations"]["nodes"] if one["type"] == "blocks"]


def _is(user: Mapping[str, Any], word: str) -> bool:
    if word.lower() == "none":
        return not user
    if word.lower() == "me":
        return bool(user.get("isMe"))
    return word.lower() in (str(user.get("name", "")).lower(), str(user.get("email", "")).lower())


def selection(told: Settings) -> Raw:
    """The settings as Linear's own filter, as deaf to capitals as `Reader.left` is."""
    found: list[Raw] = [{"team": same_team(told)}]
    if told.project:
        names = [{"eqIgnoreCase": name} for name in sorted(_names(told))]
        found.append({"project": {"or": [{key: name} for key in ("slugId", "name") for name in names]}})
    if told.labels:
        found.append({"labels": {"some": {"or": [{"name": {"eqIgnoreCase": label}} for label in told.labels]}}})
    if told.assignee:
        nobody, me = told.assignee.lower() == "none", told.assignee.lower() == "me"
        has: Raw = {"assignee": {"null": True} if nobody else users([told.assignee])}
        # Whoever assigns an issue to an application makes it the delegate: applications are no assignees.
        found.append({"or": [has, {"delegate": users(["me"])}]} if me else has)
    if told.authors:
        found.append({"creator": users(told.authors)})
    return {"and": found}


def _names(told: Settings) -> set[str]:
    """What the project may be called, in lower case: an address ends with its name and its id."""
    return {told.project.lower(), *re.findall(r"-([0-9a-f]{12})$", told.project.lower())}


def same_team(told: Settings) -> Raw:
    """A filter of teams."""
    return {"key": {"eqIgnoreCase": told.team}}


def users(words: Sequence[str]) -> Raw:
    """A filter of users by name or address; "me" is us."""
    wanted: list[Raw] = []
    for word in words:
        same = {"eqIgnoreCase": word}
        wanted += [{"isMe": {"eq": True}}] if word.lower() == "me" else [{"name": same}, {"email": same}]
    return {"or": wanted}


def limits(answer: Answer, now: float) -> Limit | None:
    """Linear says HTTP 400 with RATELIMITED, and the end in epoch milliseconds."""
    errors = answer.data.get("errors") if isinstance(answer.data, dict) else None
    codes = {(e.get("extensions") or {}).get("code") for e in errors or [] if isinstance(e, dict)}
    if answer.status != 429 and "RATELIMITED" not in codes:
        return None
    ends = {kind: _number(answer, f"x-ratelimit-{kind}-reset") / 1000 - now for kind in KINDS}
    kind = min(ends, key=lambda one: _share(answer, one))  # a bucket that is not empty may hold too little
    wait = _number(answer, "retry-after") or ends[kind]
    if wait <= 0:
        return Limit(UNSAID, "rate limit, without a stated end")
    return Limit(min(wait, HOUR), f"the {KINDS[kind]} of this hour are used up")


def _share(answer: Answer, kind: str) -> float:
    """How much of a bucket is left, 1.0 when that is not said."""
    most, left = (_number(answer, f"x-ratelimit-{kind}-{word}", -1) for word in ("limit", "remaining"))
    return (left / most if most > 0 else float(left > 0)) if left >= 0 else 1.0


def _number(answer: Answer, name: str, default: float = 0.0) -> float:
    try:
        found = float(answer.headers.get(name, default))
    except ValueError:
        return default
    return found if math.isfinite(found) else default


def verify_webhook(secret: str, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
    """The id of a delivery, None when it is not genuine or more than a minute off `now` (epoch seconds).

    `raw` is its body as it came, header names are in lower case. Never raises on garbage.
    """
    good = hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(good.encode(), headers.get("linear-signature", "").encode("utf-8", "replace")):
        return None
    try:
        told = msgspec.json.decode(raw)["webhookTimestamp"] / 1000
    except (msgspec.DecodeError, KeyError, TypeError, OverflowError):
        return None
    return headers.get("linear-delivery") or good if abs(now - told) <= WINDOW else None
