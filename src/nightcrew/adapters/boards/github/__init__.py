"""GitHub Issues as a board: labels show what nightcrew does, one comment tells how far it is."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from nightcrew.adapters.boards.github.memory import Issues, Raw, Shared, repository, stamp
from nightcrew.adapters.boards.github.parse import Reader, Settings, author, label_names
from nightcrew.adapters.boards.github.project import Project
from nightcrew.adapters.github_api import Account, Writers, login, service, verify, wrote
from nightcrew.adapters.visible import MARK, progress
from nightcrew.core.model import Ticket, TicketState
from nightcrew.errors import BoardError, ConfigError
from nightcrew.ports import Problem, Scan
from nightcrew.settings import read_settings, secret
from nightcrew.transport import Fault, Lost, Refused, Service, told_as

__all__ = ["GitHubBoard", "Settings"]

HOLDS = {"labels", "priority"}
MOST_CONSIDERED = 100
GONE = (404, 410)  # deleted, or never there
TRANSFERRED = {"message": "it was transferred to another repository"}
ENDS = {TicketState.DONE: "completed", TicketState.CLOSED: "not_planned"}


class GitHubBoard:
    """The issues of some repositories. A ticket's id is `owner/name#12`; pull requests are no tickets.

    An unchanged board costs one request for each repository, answered 304. Raises BoardError in one sentence.
    """

    def __init__(self, name: str, settings: Mapping[str, object], home: Path) -> None:
        self.name = name
        states = f"Our states: {', '.join(TicketState)}."
        cures = {"repos": 'Name the repositories whose issues are tickets: repos = ["OWNER/NAME"].', "states": states}
        self.settings = told = read_settings(Settings, "[board]", settings, cures)
        self.reader = Reader("[board]", told)
        self.account = Account("[board]", told.url.rstrip("/"), told.token, told.app, told.key, told.installation,
                               told.repos[0] if told.repos else "")  # fmt: skip
        self.service: Service = service(self.account, told.pace)
        label = told.labels[0] if len(told.labels) == 1 else ""
        self._shared, self._writers = Shared(), Writers(self.service)
        self.issues = {repo: self._of(repo, label) for repo in told.repos}
        self.project = Project(self.service, told.project, told.states, told.write_states) if told.project else None
        self._comments: dict[str, tuple[int, str]] = {}  # ticket -> our comment, and what it says
        self._login = ""

    def _of(self, repo: str, label: str = "") -> Issues:
        return Issues(
            self.service, repo, self._claimed, lambda said: self._may_stop(repo, said),
            lambda raw: self._trusts(repo, raw), label, self._shared,
        )  # fmt: skip

    def _claimed(self, raw: Raw) -> bool:
        return self.reader.state(raw, self._card(raw)) not in (TicketState.OPEN, TicketState.OTHER)

    def _card(self, raw: Raw) -> TicketState | None:
        return self.project.state(_name(raw)) if self.project else None

    async def _trusts(self, repo: str, raw: Raw) -> bool:
        return not self.reader.asks_who() or await self._writers.may(repo, raw["user"], raw["author_association"])

    async def _may_stop(self, repo: str, said: Raw) -> bool:
        who, people = author(said), {name.lower() for name in self.settings.people}
        if who == self._login or (said["user"] or {}).get("type") == "Bot":
            return False
        if people:
            return who.lower() in people
        return await self._writers.may(repo, said["user"], said["author_association"])

    async def scan(self) -> Scan:
        """See `Board.scan`. A repository that cannot be read is a problem, as long as another one can."""
        self.account.about(self.account.repository)
        if self.project:
            with told_as(BoardError):
                await self.project.look()
        tickets: list[Ticket] = []
        problems: list[Problem] = []
        for repo, issues in self.issues.items():
            try:
                self.account.about(repo)
                await self._who()
                await issues.look()
            except (Refused, ConfigError) as error:  # the latter where an app is not installed
                problems.append(Problem(repo, error.sentence()))
            except Fault as fault:
                raise BoardError(str(fault), hint=fault.hint) from fault
            found = (self._ticket(issues, raw) for raw in issues.open.values())
            tickets += [ticket for ticket in found if not ticket.left and ticket.state is not TicketState.DONE]
        if problems and len(problems) == len(self.issues):
            raise BoardError(problems[0].message)
        return Scan(tuple(tickets), tuple(problems))

    def _ticket(self, issues: Issues, raw: Raw) -> Ticket:
        number, card = raw["number"], self._card(raw)
        stop = issues.stops.get(number, "")
        trusted = issues.trusted.get(number, False)
        made = self.reader.ticket(self.name, issues.repo, raw, issues.blocked_by(number), stop, card, trusted)
        if self.project and card is None and not made.left:
            return replace(made, left=f"it is not in the project {self.settings.project}")
        return made

    async def _who(self) -> None:
        """Our own login, asked once: our words must not be taken for a person's."""
        self._login = self._login or await login(self.service)

    async def fetch(self, ids: Sequence[str]) -> list[Ticket]:
        """See `Board.fetch`; by id or key."""
        found = []
        if self.project and ids:
            self.account.about(self.account.repository)
            with told_as(BoardError):
                await self.project.look()
        for word in dict.fromkeys(ids):
            if place := self._place(word):
                with told_as(BoardError):
                    try:
                        issues, raw = await self._read(*place)
                    except Refused as refused:
                        if refused.status not in GONE:
                            raise
                        continue
                if "pull_request" not in raw:
                    found.append(self._ticket(issues, raw))
        return list({ticket.id: ticket for ticket in found}.values())

    async def _raw(self, repo: str, number: int) -> Raw:
        """An issue as it is now. Raises Refused when it is not there, BoardError when its repository is not."""
        self.account.about(repo)
        try:
            answer = await self.service.get(f"/repos/{repo}/issues/{number}", etag=True)
        except Refused as refused:
            if refused.status == 404 and repo in self.issues:  # that we may not read a repository is no word on it
                with told_as(BoardError):
                    await self.service.get(f"/repos/{repo}")
            raise
        raw: Raw = answer.data
        if raw["number"] != number or not await self._is(repo, raw):
            raise Refused("GitHub", f"{repo}#{number}", replace(answer, status=410, data=TRANSFERRED))
        return raw

    async def _is(self, repo: str, raw: Raw) -> bool:
        """Whether that issue is of this repository, however it is called now: one elsewhere was transferred."""
        there, names = repository(raw).lower(), self._shared.names
        if there != repo.lower() and names.get(there) != repo:
            names[(await self.service.get(f"/repos/{repo}")).data["full_name"].lower()] = repo
        return there == repo.lower() or names.get(there) == repo

    def _place(self, word: str) -> tuple[str, int] | None:
        """Repository and number of an id or a key."""
        repo, _, number = word.rpartition("#")
        where = next((one for one in self.issues if repo in (one, one.partition("/")[2])), "")
        where = where or (repo if re.fullmatch(r"[\w.-]+/[\w.-]+", repo) else "")
        return (where, int(number)) if where and re.fullmatch(r"\d{1,12}", number) else None

    async def _read(self, repo: str, number: int) -> tuple[Issues, Raw]:
        """An issue as it is now. Raises Refused when it is not there."""
        raw = await self._raw(repo, number)
        issues = self.issues.get(repo) or self._of(repo)
        issues.trusted[number] = await self._trusts(repo, raw)
        if issues.asked.get(number) != stamp(raw):
            await self._who()
            await issues.details(raw)
        return issues, raw

    async def move(self, ticket_id: str, state: TicketState, note: str = "", link: str = "") -> None:
        """See `Board.move`: a label, one comment; done and closed are said by closing the issue.

        The pull request is linked by the closing keyword in its text (`Ticket.closes`), as GitHub itself does.
        """
        if state is TicketState.OTHER:
            raise BoardError(f"{ticket_id} cannot be moved to {state}: there is no such state on GitHub.")
        place = self._place(ticket_id)
        with told_as(BoardError):
            if place is None:
                raise BoardError(f"{ticket_id} is not on the board {self.name}.")
            raw = await self._raw(*place)
            if raw["state"] == "closed" and state not in (*ENDS, TicketState.OPEN):
                return  # a person ended it meanwhile
            if self.project and not self.project.id:
                await self.project.look()
            shown = await self.project.move(_name(raw), state) if self.project else False
            await self._label(*place, raw, TicketState.OPEN if shown else state)
            await self._tell(ticket_id, *place, progress(state, note, link))
            await self._close(*place, raw, state)

    async def _label(self, repo: str, number: int, raw: Raw, state: TicketState) -> None:
        """Our label of that state alone; added and removed one by one, so that nobody else's change is lost."""
        path, wanted = f"/repos/{repo}/issues/{number}/labels", self.reader.writes.get(state, "")
        there = {name.lower(): name for name in label_names(raw)}
        if self.reader.means.get(wanted.lower()) is state and wanted.lower() not in there:
            await self.service.write("POST", path, {"labels": [wanted]}, again=True)
        for name in there.values():
            if name.lower() in self.reader.means and name.lower() != wanted.lower():
                with suppress(Refused):  # somebody took it away meanwhile
                    await self.service.write("DELETE", f"{path}/{quote(name, safe='')}", again=True)

    async def _tell(self, ticket_id: str, repo: str, number: int, text: str) -> None:
        """The one comment, found again by its hidden mark."""
        body = f"{MARK}\n{text}"
        mine = self._comments.get(ticket_id) or await self._mine(repo, number)
        if mine is None:
            mine = (await self._write(repo, number, body), body)
        elif mine[1] != body:
            path = f"/repos/{repo}/issues/comments/{mine[0]}"
            try:
                await self.service.write("PATCH", path, {"body": body}, again=True)
            except Refused as refused:
                if refused.status != 404:
                    raise
                mine = (await self._write(repo, number, body), body)  # somebody deleted it
        self._comments[ticket_id] = (mine[0], body)

    async def _write(self, repo: str, number: int, body: str) -> int:
        try:
            made = await self.service.write("POST", f"/repos/{repo}/issues/{number}/comments", {"body": body})
        except Lost:
            if (found := await self._mine(repo, number)) is None:
                raise
            return found[0]
        return int(made.data["id"])

    async def _mine(self, repo: str, number: int) -> tuple[int, str] | None:
        await self._who()
        async for page in self.service.pages(f"/repos/{repo}/issues/{number}/comments", {"per_page": 100}):
            for said in page.data:
                if wrote(said["user"], self._login) and (said["body"] or "").startswith(MARK):
                    return said["id"], said["body"]
        return None

    async def _close(self, repo: str, number: int, raw: Raw, state: TicketState) -> None:
        wanted = {"state": "closed", "state_reason": ENDS[state]} if state in ENDS else {"state": "open"}
        same = raw["state"] == wanted["state"] and raw.get("state_reason") in (
            wanted.get("state_reason"),
            None,
            "reopened",
        )
        if not same:
            await self.service.write("PATCH", f"/repos/{repo}/issues/{number}", wanted, again=True)

    async def add(self, title: str, body: str = "", fields: Mapping[str, object] | None = None) -> Ticket:
        """See `Board.add`: a new issue of the first repository, with what the selection asks for."""
        given = dict(fields or {})
        if unknown := sorted(set(given) - HOLDS):
            raise BoardError(
                f"A GitHub issue cannot be given {unknown[0]}.", hint=f"It holds: {', '.join(sorted(HOLDS))}."
            )
        repo, mark = self.settings.repos[0], f"<!-- nightcrew:add:{uuid.uuid4()} -->"
        priority = self.reader.priority_label(_number(given.get("priority", 5)))
        labels = [*self.settings.labels[:1], *_words(given.get("labels", ())), *([priority] if priority else [])]
        asked: dict[str, object] = {"title": title, "body": f"{mark}\n{body}", "labels": labels}
        if self.settings.assignee:
            asked["assignees"] = [self.settings.assignee]
        with told_as(BoardError):
            raw = await self._make(repo, asked, mark)
            self.issues[repo].trusted[raw["number"]] = await self._trusts(repo, raw)
        self.issues[repo].take(raw)
        if self.project:
            with told_as(BoardError):
                await self._enlist(raw)
        return self._ticket(self.issues[repo], raw)

    async def _enlist(self, raw: Raw) -> None:
        """Put a new issue into the project, as what is to be done."""
        if self.project is None:
            return
        if not self.project.id:
            await self.project.look()
        await self.project.add(_name(raw), raw["node_id"])

    async def _make(self, repo: str, asked: Mapping[str, object], mark: str) -> Raw:
        self.account.about(repo)
        try:
            made: Raw = (await self.service.write("POST", f"/repos/{repo}/issues", asked)).data
        except Lost:
            query = {"state": "all", "sort": "created", "direction": "desc", "per_page": 30}
            rows = (await self.service.get(f"/repos/{repo}/issues", query)).data
            found = [row for row in rows if (row["body"] or "").startswith(mark)]
            if not found:
                raise
            return dict(found[0])
        return made

    def watched(self) -> tuple[Path, ...]:
        """Nothing: GitHub is no folder."""
        return ()

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        """See `Hooked.delivery`."""
        return verify(raw, headers, secret("[board]", "webhook_secret", self.settings.webhook_secret), now)

    async def considered(self) -> list[Ticket]:
        """See `Previewing.considered`: one request for each repository; blockers are not asked."""
        query = {"state": "open", "sort": "created", "direction": "desc", "per_page": MOST_CONSIDERED}
        found: list[Ticket] = []
        with told_as(BoardError):
            for repo in self.issues:
                self.account.about(repo)
                rows: list[Raw] = (await self.service.get(f"/repos/{repo}/issues", query)).data
                for raw in (row for row in rows if "pull_request" not in row):
                    found.append(self.reader.ticket(self.name, repo, raw, trusted=await self._trusts(repo, raw)))
        newest = sorted(found, key=lambda ticket: str(ticket.created_at), reverse=True)
        return newest[:MOST_CONSIDERED]

    async def about(self) -> dict[str, object]:
        """See `Served.about`: the repositories one could choose from, and what we may not do in those of the board."""
        self.account.about(self.account.repository)
        with told_as(BoardError):
            scopes = await self._scopes()
            await self._who()
            rows = [await self._may(repo) for repo in self.issues]
            places = dict.fromkeys([*self.issues, *await self._reachable()])
        missing = [f"The token has none of the scopes repo, public_repo (it has: {scopes})."] if _short(scopes) else []
        missing += [row for row in rows if row]
        return {"login": self._login, "places": [(repo, repo) for repo in places], "missing": missing}

    async def _scopes(self) -> str:
        """The scopes of a classic token; "" for any other, which does not say. Raises Refused for none that is good."""
        if self.account.app:
            return ""
        answer = await self.service.get("/user")
        self._login = str(answer.data["login"])
        return answer.headers.get("x-oauth-scopes", "").strip()

    async def _may(self, repo: str) -> str:
        """What is not allowed there, "" when all is."""
        self.account.about(repo)
        try:
            shown = (await self.service.get(f"/repos/{repo}")).data
        except Refused as refused:
            return f"GitHub shows us no repository {repo}." if refused.status == 404 else refused.sentence()
        if shown.get("archived") or not shown.get("has_issues", True):
            return f"{repo} is archived, or its issues are switched off: nothing can be written there."
        may = shown.get("permissions", {})
        writes = self.account.app or may.get("triage") or may.get("push")
        return "" if writes else f"It may not label issues of {repo} (permission: issues, write)."

    async def _reachable(self) -> list[str]:
        """The repositories that the credential reaches, the last changed first."""
        try:
            if self.account.app:
                rows = (await self.service.get("/installation/repositories", {"per_page": 100})).data["repositories"]
            else:
                rows = (await self.service.get("/user/repos", {"sort": "pushed", "per_page": 100})).data
        except Refused:
            return []
        return [row["full_name"] for row in rows if row.get("has_issues", True)]


def _name(raw: Raw) -> str:
    """An issue as GitHub names it now."""
    return f"{repository(raw)}#{raw['number']}"


def _short(scopes: str) -> bool:
    """Whether these are scopes that are too few."""
    return bool(scopes) and not {"repo", "public_repo"} & {scope.strip() for scope in scopes.split(",")}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 5


def _words(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
