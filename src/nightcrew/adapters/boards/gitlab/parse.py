"""A GitLab issue as its REST shows it -> a ticket, by the settings of the board."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from nightcrew.adapters.gitlab_api import PACE, URL, is_path
from nightcrew.core.model import Ticket, TicketState
from nightcrew.errors import ConfigError

LABELS = {
    TicketState.WORKING: "nightcrew::working", TicketState.REVIEW: "nightcrew::review",
    TicketState.BLOCKED: "nightcrew::blocked", TicketState.FAILED: "nightcrew::failed",
    TicketState.CLOSED: "nightcrew::closed",
}  # fmt: skip
DONE_LABEL = "nightcrew::done"
PRIORITIES = {
    "priority::urgent": 1, "priority::high": 2, "priority::medium": 3, "priority::low": 4, "priority::1": 1,
    "priority::2": 2, "priority::3": 3, "priority::4": 4, "p0": 1, "p1": 2, "p2": 3, "p3": 4,
}  # fmt: skip
MARK = re.compile(r"^<!-- nightcrew:add:[0-9a-f-]+ -->\n?")
NEEDS = re.compile(r"requires::?\s*", re.I)
ORDER = (TicketState.CLOSED, TicketState.OTHER, TicketState.DONE, TicketState.BLOCKED, TicketState.FAILED,
         TicketState.REVIEW, TicketState.WORKING)  # fmt: skip
"""Which of several labels decides."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[board]` with kind "gitlab"."""

    projects: tuple[str, ...]  # whose issues: "group/name"
    labels: tuple[str, ...] = ()  # an issue needs one of these; () = none is needed
    assignee: str = ""  # a user name; "" = whoever
    milestone: str = ""  # its title; "" = any, or none
    authors: tuple[str, ...] = ()  # user names, or "*"; () = with `labels` everybody, else those who may push
    people: tuple[str, ...] = ()  # who may say "stop"; () = those who may push
    states: dict[str, TicketState] = {}  # labels -> our states, besides those we write
    write_states: dict[TicketState, str] = {}  # our states -> the label written
    close_done: bool = True  # a done ticket is a closed issue; else an open one with a label
    priorities: dict[str, int] = {}  # labels -> 1 (urgent) .. 4 (low), before the usual ones
    blockers: bool = True  # ask GitLab what blocks an issue (a paid feature there)
    url: str = URL  # an own server's address
    token: str = ""  # "$NAME"; "" = $GITLAB_TOKEN
    pace: int = PACE  # comments and issues written in a minute, at most
    webhook_secret: str = ""  # "$NAME": the secret token of GitLab's webhooks; "" = none are taken


class Reader:
    """Reads issues as the settings say. Raises ConfigError for settings that contradict themselves."""

    def __init__(self, where: str, settings: Settings) -> None:
        self.settings = settings
        done = {} if settings.close_done else {TicketState.DONE: DONE_LABEL}
        self.writes = LABELS | done | settings.write_states
        _check(where, settings)
        self.means = {label.lower(): state for state, label in self.writes.items()}
        self.means |= {label.lower(): state for label, state in settings.states.items()}
        self.priorities = PRIORITIES | {label.lower(): number for label, number in settings.priorities.items()}
        self.wanted = {label.lower() for label in settings.labels}

    def ticket(self, board: str, project: str, raw: Mapping[str, Any], known: Known | None = None,
               trusted: bool = True) -> Ticket:  # fmt: skip
        """The issue as a ticket. `trusted`: its author may push; `known` is what its own row does not say."""
        names, known = list(raw["labels"]), known or Known()
        return Ticket(
            board=board, id=f"{project}#{raw['iid']}", key=f"{project.rpartition('/')[2]}#{raw['iid']}",
            title=" ".join(raw["title"].split()), body=MARK.sub("", raw["description"] or "").strip(),
            state=self.state(raw), project=project, priority=self._priority(names),
            labels=tuple(name for name in names if not self._ours(name)), blocked_by=tuple(known.blocked_by),
            requires=tuple(NEEDS.sub("", name) for name in names if NEEDS.match(name)),
            created_at=datetime.fromisoformat(raw["created_at"]), url=raw["web_url"], author=author(raw),
            closes=f"Closes {project}#{raw['iid']}", links=tuple(known.links), left=self.left(raw, trusted),
            stop=known.stop,
        )  # fmt: skip

    def state(self, raw: Mapping[str, Any]) -> TicketState:
        """A closed one is done, unless a label, a move or a duplicate says it was closed; an open one by its labels."""
        found = {self.means[name.lower()] for name in raw["labels"] if name.lower() in self.means}
        if raw["state"] == "closed":
            links = raw.get("_links") or {}
            gone = TicketState.CLOSED in found or raw.get("moved_to_id") or links.get("closed_as_duplicate_of")
            return TicketState.CLOSED if gone else TicketState.DONE
        return next((state for state in ORDER if state in found), TicketState.OPEN)

    def left(self, raw: Mapping[str, Any], trusted: bool = True) -> str:
        """Why the selection does not take it, "" when it does."""
        names, settings = {name.lower() for name in raw["labels"]}, self.settings
        if self.wanted and not self.wanted & names:
            return f"it has not the label {' or '.join(repr(label) for label in settings.labels)}"
        people = [one["username"].lower() for one in raw.get("assignees") or []]
        if settings.assignee and settings.assignee.lower() not in people:
            return f"it is not assigned to {settings.assignee}"
        if settings.milestone and (raw.get("milestone") or {}).get("title") != settings.milestone:
            return f"it is not in the milestone {settings.milestone!r}"
        if not self._may_ask(raw, trusted):
            return f"its author {author(raw)} is not one whose tickets are taken"
        return ""

    def asks_who(self) -> bool:
        """Whether it matters if an issue's author may push: where nothing else says whose issues are taken."""
        return not self.settings.authors and not self.wanted

    def _may_ask(self, raw: Mapping[str, Any], trusted: bool) -> bool:
        allowed = {name.lower() for name in self.settings.authors}
        if allowed:
            return "*" in allowed or author(raw).lower() in allowed
        return bool(self.wanted) or trusted  # only a project's members can set a label

    def _ours(self, label: str) -> bool:
        """Whether it says something that a ticket has a field for, or that all tickets here have."""
        return label.lower() in self.means or label.lower() in self.priorities or label.lower() in self.wanted

    def _priority(self, names: Iterable[str]) -> int:
        return min((self.priorities[n.lower()] for n in names if n.lower() in self.priorities), default=5)

    def priority_label(self, number: int) -> str:
        """The label that says this priority, "" for none."""
        own = {v: k for k, v in reversed(self.settings.priorities.items())}
        return own.get(number) or next((k for k, v in PRIORITIES.items() if v == number), "")

    def relabel(self, raw: Mapping[str, Any], state: TicketState) -> tuple[list[str], list[str]]:
        """The labels to add and to take away so that ours shows `state`; nobody else's is touched."""
        wanted, there = self.writes.get(state, ""), {name.lower() for name in raw["labels"]}
        add = [wanted] if wanted and wanted.lower() not in there else []
        return add, [name for name in raw["labels"] if name.lower() in self.means and name.lower() != wanted.lower()]


class Known(msgspec.Struct, frozen=True):
    """What is known of an issue besides its own row."""

    blocked_by: Sequence[str] = ()
    links: Sequence[str] = ()
    stop: str = ""


def _check(where: str, settings: Settings) -> None:
    if TicketState.OTHER in settings.write_states:
        raise ConfigError(f"{where} write_states.other: this is what we do not know; it is never written.",
                          hint="Leave it out.")  # fmt: skip
    for name in settings.projects:
        if not is_path(name):
            raise ConfigError(f"{where} projects: {name!r} is no project.", hint='Write "GROUP/NAME".')
    if not settings.projects:
        raise ConfigError(f"{where} projects: none is named.", hint='Write projects = ["GROUP/NAME"].')


def author(raw: Mapping[str, Any]) -> str:
    """Who wrote an issue or a comment; an account that was deleted is GitLab's ghost."""
    return str((raw.get("author") or {}).get("username") or "ghost")
