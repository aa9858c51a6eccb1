"""A GitHub issue as its REST shows it -> a ticket, by the settings of the board."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from nightcrew.adapters.github_api import API, PACE
from nightcrew.core.model import Ticket, TicketState
from nightcrew.errors import ConfigError

LABELS = {
    TicketState.WORKING: "nightcrew: working", TicketState.REVIEW: "nightcrew: review",
    TicketState.BLOCKED: "nightcrew: blocked", TicketState.FAILED: "nightcrew: failed",
}  # fmt: skip
PRIORITIES = {
    "priority: urgent": 1, "priority: high": 2, "priority: medium": 3, "priority: low": 4, "p0": 1, "p1": 2, "p2": 3,
    "p3": 4,
}  # fmt: skip
MARK = re.compile(r"^<!-- nightcrew:add:[0-9a-f-]+ -->\n?")
NEEDS = "requires:"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[board]` with kind "github"."""

    repos: tuple[str, ...]  # whose issues: "owner/name"
    labels: tuple[str, ...] = ()  # an issue needs one of these; () = none is needed
    project: str = ""  # "OWNER/NUMBER" of a project (v2): only its issues are taken, and its Status says the state
    assignee: str = ""  # a login; "" = whoever
    authors: tuple[str, ...] = ()  # logins, or "*"; () = with `labels` everybody, else those who may write
    people: tuple[str, ...] = ()  # who may say "stop"; () = those who may write
    states: dict[str, TicketState] = {}  # labels -> our states, besides those we write
    write_states: dict[TicketState, str] = {}  # our states -> the label written
    priorities: dict[str, int] = {}  # labels -> 1 (urgent) .. 4 (low), before the usual ones
    url: str = API  # an own server's is https://HOST/api/v3
    token: str = ""  # "$NAME"; "" = $GITHUB_TOKEN; "gh" = the login of the gh program
    app: str = ""  # a GitHub App's id, instead of a token
    key: str = ""  # its private key: a file, or "$NAME"
    pace: int = PACE  # comments, issues and pull requests written in a minute, at most
    installation: int = 0  # 0 = that of each repository's owner
    webhook_secret: str = ""  # "$NAME": what GitHub signs its webhooks with; "" = none are taken


class Reader:
    """Reads issues as the settings say. Raises ConfigError for settings that contradict themselves."""

    def __init__(self, where: str, settings: Settings) -> None:
        self.settings = settings
        self.writes = LABELS | settings.write_states
        if wrong := set(settings.write_states) - set(LABELS):
            raise ConfigError(f"{where} write_states.{min(wrong)}: an issue shows this by being open or closed.",
                              hint=f"Labels are written for: {', '.join(LABELS)}.")  # fmt: skip
        if settings.project and not re.fullmatch(r"[\w.-]+/\d{1,9}", settings.project):
            raise ConfigError(f"{where} project: {settings.project!r} is no project.", hint='Write "OWNER/NUMBER".')
        for name in settings.repos:
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                raise ConfigError(f"{where} repos: {name!r} is no repository.", hint='Write "OWNER/NAME".')
        self.means = {label.lower(): state for state, label in self.writes.items()}
        self.means |= {label.lower(): state for label, state in settings.states.items()}
        self.priorities = PRIORITIES | {label.lower(): number for label, number in settings.priorities.items()}
        self.wanted = {label.lower() for label in settings.labels}

    def ticket(self, board: str, repo: str, raw: Mapping[str, Any], blocked_by: Sequence[str] = (),
               stop: str = "", card: TicketState | None = None, trusted: bool = True) -> Ticket:  # fmt: skip
        """The issue as a ticket. `trusted`: its author may write."""
        names = label_names(raw)
        kept = tuple(name for name in names if not self._ours(name))
        return Ticket(
            board=board, id=f"{repo}#{raw['number']}", key=f"{repo.partition('/')[2]}#{raw['number']}",
            title=" ".join(raw["title"].split()), body=MARK.sub("", raw["body"] or "").strip(),
            state=self.state(raw, card), project=repo, priority=self._priority(names), labels=kept,
            blocked_by=tuple(blocked_by),
            requires=tuple(n[len(NEEDS) :].strip() for n in names if n.lower().startswith(NEEDS)),
            created_at=datetime.fromisoformat(raw["created_at"]), url=raw["html_url"], author=author(raw),
            closes=f"Closes {repo}#{raw['number']}", left=self.left(raw, trusted), stop=stop,
        )  # fmt: skip

    def state(self, raw: Mapping[str, Any], card: TicketState | None = None) -> TicketState:
        """Closed as completed is done, closed otherwise is closed; an open one says more by label or card."""
        if raw["state"] == "closed":
            return TicketState.CLOSED if raw.get("state_reason") in ("not_planned", "duplicate") else TicketState.DONE
        found = {self.means[name.lower()] for name in label_names(raw) if name.lower() in self.means}
        order = (TicketState.CLOSED, TicketState.OTHER, TicketState.BLOCKED, TicketState.FAILED, TicketState.REVIEW)
        shown = next((state for state in order if state in found), next(iter(found), None))
        return shown or card or TicketState.OPEN

    def left(self, raw: Mapping[str, Any], trusted: bool = True) -> str:
        """Why the selection does not take it, "" when it does."""
        names, settings = {name.lower() for name in label_names(raw)}, self.settings
        if self.wanted and not self.wanted & names:
            return f"it has not the label {' or '.join(repr(label) for label in settings.labels)}"
        people = [one["login"].lower() for one in raw.get("assignees") or []]
        if settings.assignee and settings.assignee.lower() not in people:
            return f"it is not assigned to {settings.assignee}"
        if not self._may_ask(raw, trusted):
            return f"its author {author(raw)} is not one whose tickets are taken"
        return ""

    def asks_who(self) -> bool:
        """Whether it matters if an issue's author may write: who may not can set neither a label nor a project."""
        return not (self.settings.authors or self.wanted or self.settings.project)

    def _may_ask(self, raw: Mapping[str, Any], trusted: bool) -> bool:
        allowed = {name.lower() for name in self.settings.authors}
        if allowed:
            return "*" in allowed or author(raw).lower() in allowed
        return trusted or not self.asks_who()

    def _ours(self, label: str) -> bool:
        """Whether it says something that a ticket has a field for, or that all tickets here have."""
        return label.lower() in self.means or label.lower() in self.priorities or label.lower() in self.wanted

    def _priority(self, names: Iterable[str]) -> int:
        return min((self.priorities[n.lower()] for n in names if n.lower() in self.priorities), default=5)

    def priority_label(self, number: int) -> str:
        """The label that says this priority, "" for none."""
        own = {v: k for k, v in reversed(self.settings.priorities.items())}
        return own.get(number) or next((k for k, v in PRIORITIES.items() if v == number), "")


def label_names(raw: Mapping[str, Any]) -> list[str]:
    """An issue's labels; the service may send bare names."""
    return [label if isinstance(label, str) else label["name"] for label in raw["labels"]]


def author(raw: Mapping[str, Any]) -> str:
    return str((raw.get("user") or {}).get("login") or "ghost")
