"""GitLab issues as a board: labels show what nightcrew does, one comment tells how far it is."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from nightcrew.adapters.boards.gitlab.memory import Issues, Raw, Shared, stamp
from nightcrew.adapters.boards.gitlab.parse import Reader, Settings, author
from nightcrew.adapters.gitlab_api import (
    REPORTER,
    Account,
    Members,
    at,
    harmless,
    is_path,
    lacking,
    login,
    service,
    verify,
)
from nightcrew.adapters.visible import MARK, progress
from nightcrew.core.model import Ticket, TicketState
from nightcrew.errors import BoardError
from nightcrew.ports import Problem, Scan
from nightcrew.settings import read_settings, secret
from nightcrew.transport import Fault, Lost, Refused, Service, told_as

__all__ = ["GitLabBoard", "Settings"]

HOLDS = {"labels", "priority"}
MOST_CONSIDERED = 100
ENDS = (TicketState.DONE, TicketState.CLOSED)


class GitLabBoard:
    """The issues of some projects. A ticket's id is `group/name#12`.

    An unchanged board costs one request for each project, answered with an empty list. Raises BoardError in one
    sentence.
    """

    def __init__(self, name: str, settings: Mapping[str, object], home: Path) -> None:
        self.name = name
        cures = {"projects": 'Name the projects whose issues are tickets: projects = ["GROUP/NAME"].',
                 "states": f"Our states: {', '.join(TicketState)}."}  # fmt: skip
        self.settings = told = read_settings(Settings, "[board]", settings, cures)
        self.reader = Reader("[board]", told)
        self.account = Account("[board]", told.url, told.token)
        self.service: Service = service(self.account, told.pace)
        self.members = Members(self.service)
        self._shared = Shared(blockers=told.blockers)
        self._label = told.labels[0] if len(told.labels) == 1 else ""
        self._names = {project.lower(): project for project in told.projects}
        self.issues = {project: self._of(project) for project in told.projects}
        self._notes: dict[str, tuple[int, str]] = {}  # ticket -> our comment, and what it says
        self._login = ""

    def _of(self, project: str) -> Issues:
        return Issues(
            self.service, project, working=self._working, takes=lambda raw, trusted: not self.reader.left(raw, trusted),
            trusts=lambda raw: self._trusts(project, raw), may_stop=lambda said: self._may_stop(project, said),
            shared=self._shared, names=lambda path: self._names.get(path.lower(), path), label=self._label,
        )  # fmt: skip

    def _working(self, raw: Raw) -> bool:
        return self.reader.state(raw) is not TicketState.OPEN

    async def _trusts(self, project: str, raw: Raw) -> bool:
        if not self.reader.asks_who():
            return True
        number = int((raw.get("author") or {}).get("id") or 0)
        return (await self.members.may_write(project, [number]))[number]

    async def _may_stop(self, project: str, said: Raw) -> bool:
        who, people = author(said), {name.lower() for name in self.settings.people}
        if who == self._login:
            return False
        if people:
            return who.lower() in people
        number = int(said["author"]["id"])
        return (await self.members.may_write(project, [number]))[number] and not await self.members.robot(
            said["author"]
        )

    async def scan(self) -> Scan:
        """See `Board.scan`. A project that cannot be read is a problem, as long as another one can."""
        tickets: list[Ticket] = []
        problems: list[Problem] = []
        for project, issues in self.issues.items():
            try:
                await self._who()
                await issues.look()
            except Refused as refused:
                problems.append(Problem(project, refused.sentence()))
            except Fault as fault:
                raise BoardError(str(fault), hint=fault.hint) from fault
        for issues in self.issues.values():
            found = [self._ticket(issues, raw) for raw in issues.open.values()]
            tickets += [t for t in found if not t.left and t.state is not TicketState.DONE]
        if problems and len(problems) == len(self.issues):
            raise BoardError(problems[0].message)
        return Scan(tuple(tickets), tuple(problems))

    def _ticket(self, issues: Issues, raw: Raw) -> Ticket:
        known, trusted = issues.known(raw["iid"]), issues.trusted.get(raw["iid"], False)
        return self.reader.ticket(self.name, issues.project, raw, known, trusted or not self.reader.asks_who())

    async def _who(self) -> None:
        """Our own login, asked once: our words must not be taken for a person's."""
        self._login = self._login or await login(self.service)

    async def fetch(self, ids: Sequence[str]) -> list[Ticket]:
        """See `Board.fetch`; by id or key."""
        found = []
        for word in dict.fromkeys(ids):
            if place := self._place(word):
                with told_as(BoardError):
                    try:
                        found.append(self._ticket(*await self._read(*place)))
                    except Refused as refused:
                        if not self._absent(refused, place[0]):
                            raise
        return list({ticket.id: ticket for ticket in found}.values())

    def _place(self, word: str) -> tuple[str, int] | None:
        """Project and number of an id or a key."""
        path, _, number = word.rpartition("#")
        here = self._names.get(path.lower()) or next((p for p in self.issues if path == p.rpartition("/")[2]), "")
        where = here or (path if is_path(path) else "")
        return (where, int(number)) if where and re.fullmatch(r"\d{1,12}", number) else None

    def _absent(self, refused: Refused, project: str) -> bool:
        """Whether the issue is not there. That a project of ours is not there is no word about its issues."""
        return refused.status == 404 and not (project in self.issues and "project" in str(refused.data).lower())

    async def _read(self, project: str, number: int) -> tuple[Issues, Raw]:
        """An issue as it is now. Raises Refused when it is not there."""
        raw: Raw = (await self.service.get(f"{at(project)}/issues/{number}")).data
        issues = self.issues.get(project) or self._of(project)
        issues.trusted[number] = await self._trusts(project, raw)
        if issues.asked.get(number) != stamp(raw) and project in self.issues:
            await self._who()
            await issues.details(raw)
        return issues, raw

    async def move(self, ticket_id: str, state: TicketState, note: str = "", link: str = "") -> None:
        """See `Board.move`: a label, one comment; done and closed are said by closing the issue.

        The merge request is linked by the closing keyword in its text (`Ticket.closes`), as GitLab itself does.
        """
        if state is TicketState.OTHER:
            raise BoardError(f"{ticket_id} cannot be moved to {state}: there is no such state on GitLab.")
        place = self._place(ticket_id)
        if place is None:
            raise BoardError(f"{ticket_id} is not on the board {self.name}.")
        with told_as(BoardError):
            path = f"{at(place[0])}/issues/{place[1]}"
            raw: Raw = (await self.service.get(path)).data
            if self.reader.state(raw) in ENDS and state not in (*ENDS, TicketState.OPEN):
                return  # a person ended it meanwhile
            if changes := self._changes(raw, state):
                await self.service.write("PUT", path, changes, again=True)
            await self._tell(ticket_id, path, progress(state, note, link))

    def _changes(self, raw: Raw, state: TicketState) -> dict[str, str]:
        """One request changes labels and state together; labels one by one, so that nobody else's change is lost."""
        add, remove = self.reader.relabel(raw, state)
        changes = {"add_labels": ",".join(add), "remove_labels": ",".join(remove)}
        ends = state is TicketState.CLOSED or (state is TicketState.DONE and self.settings.close_done)
        if ends != (raw["state"] == "closed"):
            changes["state_event"] = "close" if ends else "reopen"
        return {key: value for key, value in changes.items() if value}

    async def _tell(self, ticket_id: str, path: str, text: str) -> None:
        """The one comment, found again by its hidden mark."""
        body = f"{MARK}\n{harmless(text)}"
        mine = self._notes.get(ticket_id) or await self._mine(path)
        if mine is None:
            mine = (await self._write(path, body), body)
        elif mine[1] != body:
            try:
                await self.service.write("PUT", f"{path}/notes/{mine[0]}", {"body": body}, again=True)
            except Refused as refused:
                if refused.status != 404:
                    raise
                mine = (await self._write(path, body), body)  # somebody deleted it
        self._notes[ticket_id] = (mine[0], body)

    async def _write(self, path: str, body: str) -> int:
        try:
            made = await self.service.write("POST", f"{path}/notes", {"body": body})
        except Lost:
            if (found := await self._mine(path)) is None:
                raise
            return found[0]
        return int(made.data["id"])

    async def _mine(self, path: str) -> tuple[int, str] | None:
        await self._who()
        async for page in self.service.pages(f"{path}/notes", {"sort": "asc", "per_page": 100}):
            for said in page.data:
                if author(said) == self._login and said["body"].startswith(MARK):
                    return said["id"], said["body"]
        return None

    async def add(self, title: str, body: str = "", fields: Mapping[str, object] | None = None) -> Ticket:
        """See `Board.add`: a new issue of the first project, with what the selection asks for."""
        given = dict(fields or {})
        if unknown := sorted(set(given) - HOLDS):
            raise BoardError(
                f"A GitLab issue cannot be given {unknown[0]}.", hint=f"It holds: {', '.join(sorted(HOLDS))}."
            )
        project, mark = self.settings.projects[0], f"<!-- nightcrew:add:{uuid.uuid4()} -->"
        priority = self.reader.priority_label(_number(given.get("priority", 5)))
        labels = [*self.settings.labels[:1], *_words(given.get("labels", ())), *([priority] if priority else [])]
        asked: dict[str, object] = {"title": title, "description": f"{mark}\n{harmless(body)}"}
        asked |= {"labels": ",".join(labels)} if labels else {}
        with told_as(BoardError):
            raw = await self._make(project, asked | await self._selected(project), mark)
            issues = self.issues[project]
            issues.trusted[raw["iid"]] = await self._trusts(project, raw)
        issues.take(raw)
        return self._ticket(issues, raw)

    async def _selected(self, project: str) -> dict[str, object]:
        """What else the selection asks for. Raises BoardError when GitLab knows no such person or milestone."""
        asked: dict[str, object] = {}
        for name, path, query, key in (
            (self.settings.assignee, "/users", {"username": self.settings.assignee}, "assignee_ids"),
            (self.settings.milestone, f"{at(project)}/milestones",
             {"title": self.settings.milestone, "include_ancestors": "true"}, "milestone_id"),
        ):  # fmt: skip
            if name:
                rows = (await self.service.get(path, query)).data
                if not rows:
                    raise BoardError(f"{project} has no {key.partition('_')[0]} {name}.", hint="Look at [board].")
                asked[key] = [rows[0]["id"]] if key == "assignee_ids" else rows[0]["id"]
        return asked

    async def _make(self, project: str, asked: Mapping[str, object], mark: str) -> Raw:
        path = f"{at(project)}/issues"
        try:
            made: Raw = (await self.service.write("POST", path, asked)).data
        except Lost:
            query = {"state": "all", "order_by": "created_at", "sort": "desc", "per_page": 50}
            rows: list[Raw] = (await self.service.get(path, query)).data
            found = [row for row in rows if (row["description"] or "").startswith(mark)]
            if not found:
                raise
            return found[0]
        return made

    def watched(self) -> tuple[Path, ...]:
        """Nothing: GitLab is no folder."""
        return ()

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        """See `Hooked.delivery`. GitLab tells no time."""
        return verify(raw, headers, secret("[board]", "webhook_secret", self.settings.webhook_secret))

    async def considered(self) -> list[Ticket]:
        """See `Previewing.considered`: one request for each project; blockers are not asked."""
        query = {"state": "opened", "order_by": "created_at", "sort": "desc", "per_page": MOST_CONSIDERED}
        found: list[Ticket] = []
        with told_as(BoardError):
            for project in self.issues:
                for raw in (await self.service.get(f"{at(project)}/issues", query)).data:
                    trusted = await self._trusts(project, raw)
                    found.append(self.reader.ticket(self.name, project, raw, trusted=trusted))
        return sorted(found, key=lambda ticket: str(ticket.created_at), reverse=True)[:MOST_CONSIDERED]

    async def about(self) -> dict[str, object]:
        """Who we are there, which projects we are in, and what we may not do."""
        query = {"membership": "true", "archived": "false", "simple": "true", "order_by": "last_activity_at",
                 "per_page": 100}  # fmt: skip
        with told_as(BoardError):
            await self._who()
            rows = (await self.service.get("/projects", query)).data
            missing = await lacking(self.service, self.issues, REPORTER, "label and comment issues")
        places = [(row["path_with_namespace"], row["name_with_namespace"]) for row in rows]
        return {"login": self._login, "places": places, "missing": missing}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 5


def _words(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
