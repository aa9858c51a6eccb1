"""A Jira issue -> a ticket, by the settings of the board; and what those settings may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import datetime
from typing import Any, Literal

import msgspec

from nightcrew.core.model import Ticket, TicketState
from nightcrew.errors import ConfigError

Raw = dict[str, Any]
FIELDS = ("summary", "description", "status", "priority", "labels", "components", "project", "reporter", "assignee",
          "created", "updated", "issuelinks", "resolution")  # fmt: skip
"""All that is read of an issue."""
CATEGORIES = {"new": TicketState.OPEN, "indeterminate": TicketState.WORKING, "done": TicketState.DONE}
NAMES = {"backlog": TicketState.OTHER, "blocked": TicketState.BLOCKED, "on hold": TicketState.BLOCKED}
"""Statuses that say more than their category does."""
ENDED = re.compile(r"won.?t|cancel|reject|declin|duplicate|invalid|abandon|obsolete|cannot reproduce|not .*bug", re.I)
"""How statuses and resolutions are called that say that a ticket was not done."""
LABELS = {
    TicketState.REVIEW: "nightcrew-review", TicketState.BLOCKED: "nightcrew-blocked",
    TicketState.FAILED: "nightcrew-failed", TicketState.CLOSED: "nightcrew-closed",
}  # fmt: skip
"""Shown where the workflow has no status for it."""
ENDS = (TicketState.DONE, TicketState.CLOSED)
ORDER = (TicketState.BLOCKED, TicketState.FAILED, TicketState.REVIEW)
"""Which of several labels decides."""
PRIORITIES = {"highest": 1, "high": 2, "medium": 3, "low": 4, "lowest": 5, "blocker": 1, "critical": 1, "urgent": 1,
              "major": 2, "minor": 4, "trivial": 5}  # fmt: skip
NEEDS = re.compile(r"requires::?", re.I)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[board]` with kind "jira"."""

    url: str  # "https://acme.atlassian.net", or an own server's address
    projects: tuple[str, ...]  # keys of the projects whose issues are taken: "ENG"
    api: Literal["cloud", "data-center"] = "cloud"  # "data-center" for an own server
    email: str = ""  # whose token it is (Cloud); "$NAME" is taken from the environment
    token: str = ""  # "$NAME" of an API token (Cloud) or a personal access token; "" = $JIRA_TOKEN
    labels: tuple[str, ...] = ()  # an issue needs one of these; () = none is needed
    jql: str = ""  # what else is asked of an issue that is not yet worked
    statuses: tuple[str, ...] = ()  # issues are taken from these; () = from all "to do" but a backlog
    assignee: str = ""  # "me", an account id, an address or a user name; "" = whoever
    reporters: tuple[str, ...] = ()  # of whom issues are taken, or "*"; () = all but customers, with `labels` them too
    people: tuple[str, ...] = ()  # who may say "stop"; () = those to whom issues can be assigned
    states: dict[str, TicketState] = {}  # statuses -> our states, besides what their category says
    write_states: dict[TicketState, str] = {}  # our states -> the status written
    write_labels: dict[TicketState, str] = {}  # our states -> a label shown besides
    resolutions: dict[TicketState, str] = {}  # done, closed -> the resolution given where one is asked for
    priorities: dict[str, int] = {}  # names -> 1 (urgent) .. 5, before the usual ones
    blocks: str = "Blocks"  # the type of links that say what blocks an issue
    assign: bool = False  # an unassigned issue is assigned to us when it is worked
    issue_type: str = "Task"  # of what `nightcrew add` makes
    site: str = ""  # what addresses of issues begin with, where that is not `url`
    webhook_secret: str = ""  # "$NAME"; "" = none are taken


class Known(msgspec.Struct, frozen=True):
    """What is known of an issue besides its own fields."""

    stop: str = ""
    links: Sequence[str] = ()
    ended: Set[str] = frozenset()  # ids of issues that are known to be over
    going: Set[str] = frozenset()  # and of those that are not


class Reader:
    """Reads issues as the settings say. Raises ConfigError for settings that contradict themselves.

    `plain` reads a body, `words` are what a user may be called in the settings, in lower case.
    """

    def __init__(self, where: str, settings: Settings, plain: Callable[[object], str],
                 words: Callable[[Raw], set[str]]) -> None:  # fmt: skip
        check(where, settings)
        self.settings, self.plain, self.words = settings, plain, words
        self.labels = LABELS | settings.write_labels
        self.shows = {label.lower(): state for state, label in self.labels.items()}
        self.wanted = {label.lower() for label in settings.labels}
        self.projects = {project.upper() for project in settings.projects}
        self.from_ = {name.lower() for name in settings.statuses}
        self.names = NAMES | dict.fromkeys(self.from_, TicketState.OPEN)
        # Where two of our states share a status, the one that comes first in our list is what the status means.
        writes = sorted(settings.write_states.items(), key=lambda one: list(TicketState).index(one[0]), reverse=True)
        self.names |= {name.lower(): state for state, name in writes}
        self.names |= {name.lower(): state for name, state in settings.states.items()}
        self.priorities = PRIORITIES | {name.lower(): number for name, number in settings.priorities.items()}

    def ticket(self, board: str, raw: Raw, known: Known | None = None, left: str = "", me: str = "") -> Ticket:
        """The issue as a ticket. `left` is why the selection does not take it where its own fields do not say so."""
        fields, known = raw["fields"], known or Known()
        names = [str(label) for label in fields.get("labels") or []]
        parts = [str(one["name"]) for one in fields.get("components") or []]
        return Ticket(
            board=board, id=str(raw["id"]), key=raw["key"], title=" ".join(str(fields.get("summary") or "").split()),
            body=self.plain(fields.get("description")).strip(), state=self.state(raw), project=_project(fields),
            priority=self.priorities.get(_name(fields.get("priority")), 5),
            labels=tuple(dict.fromkeys([*(name for name in names if not self._ours(name)), *parts])),
            blocked_by=tuple(self._blockers(fields, known)),
            requires=tuple(NEEDS.sub("", name) for name in names if NEEDS.match(name)),
            created_at=datetime.fromisoformat(fields["created"]), url=f"{self._site()}/browse/{raw['key']}",
            author=shown(fields.get("reporter")), closes=f"Fixes {raw['key']}", links=tuple(known.links),
            left=self.left(raw, me) or left, stop=known.stop,
        )  # fmt: skip

    def _site(self) -> str:
        return (self.settings.site or self.settings.url).rstrip("/")

    def _blockers(self, fields: Raw, known: Known) -> Iterable[str]:
        for link in fields.get("issuelinks") or []:
            blocker = link.get("inwardIssue")
            if blocker and _name(link.get("type")) == self.settings.blocks.lower():
                done = category((blocker.get("fields") or {}).get("status")) == "done"
                if (done or blocker["id"] in known.ended) and blocker["id"] not in known.going:
                    continue
                yield str(blocker["id"])

    # -- states --------------------------------------------------------------------------------------------------------
    def means(self, status: Mapping[str, Any] | None) -> TicketState:
        """What a status says, without any label."""
        name, kind = _name(status), category(status)
        if name in self.names:
            return self.names[name]
        found = CATEGORIES.get(kind, TicketState.OTHER)
        if found is TicketState.WORKING and "review" in name:
            return TicketState.REVIEW
        if found is TicketState.DONE and ENDED.search(name):
            return TicketState.CLOSED
        return TicketState.OTHER if found is TicketState.OPEN and self.from_ else found

    def state(self, raw: Raw) -> TicketState:
        """What an issue's status says; while it is going on its labels say more, when it is over its resolution does.

        So whoever moves a blocked issue back to "to do" opens it again, whatever its labels.
        """
        fields = raw["fields"]
        found = self.means(fields.get("status"))
        said = {self.shows[name.lower()] for name in fields.get("labels") or [] if name.lower() in self.shows}
        if found is TicketState.DONE:
            gone = TicketState.CLOSED in said or ENDED.search(_name(fields.get("resolution")))
            return TicketState.CLOSED if gone else TicketState.DONE
        if found in (TicketState.OPEN, TicketState.OTHER, TicketState.CLOSED):
            return found
        return next((state for state in ORDER if state in said), found)

    def relabel(self, raw: Raw, state: TicketState, status: Mapping[str, Any] | None) -> list[dict[str, str]]:
        """What is to be done to its labels so that ours show `state`, given its status; nobody else's is touched."""
        there = [str(name) for name in raw["fields"].get("labels") or []]
        needed = state in self.settings.write_labels or self.means(status) is not state
        wanted = self.labels.get(state, "") if needed else ""
        gone = [name for name in there if name.lower() in self.shows and name.lower() != wanted.lower()]
        add = [wanted] if wanted and wanted.lower() not in {name.lower() for name in there} else []
        return [*({"add": name} for name in add), *({"remove": name} for name in gone)]

    def _ours(self, label: str) -> bool:
        """Whether it says something that a ticket has a field for, or that all tickets here have."""
        return label.lower() in self.shows or label.lower() in self.wanted

    # -- selection -----------------------------------------------------------------------------------------------------
    def left(self, raw: Raw, me: str = "") -> str:
        """Why the selection does not take it, as far as the issue itself says; "" when it does. `me`: our own id."""
        fields, settings = raw["fields"], self.settings
        if _project(fields).upper() not in self.projects:
            return f"it moved to the project {_project(fields)}"
        if self.wanted and not self.wanted & {str(name).lower() for name in fields.get("labels") or []}:
            return f"it has not the label {' or '.join(repr(label) for label in settings.labels)}"
        wish = settings.assignee.lower()
        if wish and (me.lower() if wish == "me" else wish) not in self.words(fields.get("assignee") or {}):
            return f"it is not assigned to {settings.assignee}"
        if self.from_ and self.means(fields.get("status")) is TicketState.OTHER:
            return f"its status is {_said(fields.get('status'))!r}"
        if not self._may_ask(fields.get("reporter") or {}):
            return f"its reporter {shown(fields.get('reporter'))} is not one whose tickets are taken"
        return ""

    def _may_ask(self, reporter: Raw) -> bool:
        allowed = {name.lower() for name in self.settings.reporters}
        if allowed:
            return "*" in allowed or bool(allowed & self.words(reporter))
        return bool(self.wanted) or reporter.get("accountType") != "customer"  # only members can set a label

    def priority_name(self, number: int) -> str:
        """The name of that priority as Jira has it, "" for none."""
        own = {v: k for k, v in reversed(self.settings.priorities.items())}
        return own.get(number) or next((k.title() for k, v in PRIORITIES.items() if v == number and number < 5), "")


# -- small words -------------------------------------------------------------------------------------------------------
def category(status: Mapping[str, Any] | None) -> str:
    """The key of a status' category: new, indeterminate, done; "" for none."""
    return str(((status or {}).get("statusCategory") or {}).get("key") or "")


def shown(user: Mapping[str, Any] | None) -> str:
    """What people call a user; "nobody" where there is none."""
    return str((user or {}).get("displayName") or (user or {}).get("name") or "nobody")


def _name(named: Mapping[str, Any] | None) -> str:
    return _said(named).lower()


def _said(named: Mapping[str, Any] | None) -> str:
    return str((named or {}).get("name") or "").strip()


def _project(fields: Raw) -> str:
    return str((fields.get("project") or {}).get("key") or "")


# -- settings ----------------------------------------------------------------------------------------------------------
def check(where: str, told: Settings) -> None:
    """Raises ConfigError for settings that cannot be meant."""
    if not re.match(r"https?://[^/\s]+", told.url):
        raise ConfigError(f"{where} url: {told.url!r} is no address.", hint='Like url = "https://acme.atlassian.net".')
    for name in told.projects:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ConfigError(f"{where} projects: {name!r} is no key of a project.",
                              hint='It is what its tickets begin with: "ENG" for ENG-12.')  # fmt: skip
    for key, words in (("labels", told.labels), ("write_labels", tuple(told.write_labels.values()))):
        if bad := next((word for word in words if not word or re.search(r"\s", word)), None):
            raise ConfigError(f"{where} {key}: {bad!r} has a space; Jira's labels have none.", hint="Write a hyphen.")
    if both := {w.lower() for w in told.labels} & {w.lower() for w in (LABELS | told.write_labels).values()}:
        raise ConfigError(f"{where} write_labels: {both.pop()!r} also selects tickets.", hint="Take another label.")
    bare = re.sub(r"\"[^\"]*\"|'[^']*'", "", told.jql)
    if not _balanced(bare):
        raise ConfigError(f"{where} jql: its brackets do not match.", hint="Close every bracket that is opened.")
    if re.search(r"\border\s+by\b", bare, re.I):
        raise ConfigError(f"{where} jql: it says ORDER BY.", hint="Leave the order out: nightcrew sorts by priority.")
    if TicketState.OTHER in told.write_states or TicketState.OTHER in told.write_labels:
        raise ConfigError(f"{where} write_states.other: this is what we do not know; it is never written.",
                          hint="Leave it out.")  # fmt: skip
    if told.api == "cloud" and not told.email and "/ex/jira/" not in told.url:
        raise ConfigError(f"{where} email: Jira Cloud asks whose token it is.",
                          hint='Write email = "you@example.com", or api = "data-center".')  # fmt: skip


def _balanced(text: str) -> bool:
    """Whether every bracket is closed after it was opened: what is not could escape the bound to our projects."""
    depth = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return False
    return depth == 0
