"""How Jira is asked: Cloud by its API v3, Data Center by v2; what its answers say about limits."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol

from nightcrew.adapters.boards.jira import adf, wiki
from nightcrew.adapters.boards.jira.parse import FIELDS, Raw, Settings
from nightcrew.settings import secret
from nightcrew.transport import Answer, Limit, Refused, Service

PAGE = 100  # issues of one answer
RECONCILED = 50  # issues that a search can be asked to look at afresh
MOST = 100  # pages of one list
AT_ONCE = 8  # requests about single issues that are under way at the same time
PROPERTY = "nightcrew"  # of a comment or an issue: what nightcrew made says so there
ANCHOR = "{anchor:nightcrew-progress}"
"""Says it on Data Center: nothing is seen of it."""
UNSAID = {"jira-burst-based": 5.0, "jira-per-issue-on-write": 30.0}
"""Seconds to wait where no end is said; a minute for any other limit."""


class Api(Protocol):
    """What differs between the two. Users are known by `id_of`, bodies are made by `body` and read by `plain`."""

    service: Service
    names: dict[str, str]
    reconciles: bool

    def pages(self, jql: str, fields: Sequence[str] = FIELDS, fresh: Iterable[str] = ()) -> AsyncIterator[list[Raw]]:
        """What a search finds, page by page. `fresh` are ids of issues not to be taken from an index that lags."""

    async def rows(self, ids: Sequence[str], properties: bool = False) -> list[Raw]:
        """These issues (ids or keys) as they are now; those that are not there are left out."""

    def body(self, markdown: str) -> Any: ...
    def plain(self, body: object) -> str: ...
    def progress(self, markdown: str) -> Raw:
        """Our comment, so that it is found again."""

    def is_progress(self, comment: Raw, me: str) -> bool: ...
    def comments(self) -> Mapping[str, str]:
        """How comments are asked for."""

    def rewriting(self) -> Mapping[str, str]:
        """How a comment is changed, so that nobody gets a mail about it."""

    def id_of(self, user: Raw) -> str: ...
    def words(self, user: Raw) -> set[str]: ...
    async def meet(self, words: Iterable[str]) -> list[str]:
        """Look for the people who are called so in the settings; those who are not found."""

    def person(self, user: Raw) -> bool:
        """Whether it is somebody of the house: no robot, no customer, no one who left."""

    def as_user(self, name: str) -> dict[str, str]:
        """A user of that id, in what is written."""

    def asking_for(self, name: str) -> dict[str, str]:
        """The same in what is asked."""

    def places(self) -> AsyncIterator[tuple[str, str]]:
        """Key and name of the projects there are."""


def api(told: Settings) -> Api:
    """Jira as the settings say."""
    return Cloud(told) if told.api == "cloud" else DataCenter(told)


async def get(jira: Api, path: str, query: Mapping[str, Any] | None = None) -> Any:
    """Read. Raises a Fault."""
    return (await jira.service.get(path, query, scope=scope("GET", path))).data


async def write(jira: Api, method: str, path: str, json: Any, *, again: bool = False,
                query: Mapping[str, Any] | None = None) -> Any:  # fmt: skip
    """Change something; with `again` doing it twice is doing it once. Raises a Fault."""
    sent = jira.service.write(method, path, json, params=query, again=again, scope=scope(method, path))
    return (await sent).data


class Cloud:
    """Jira Cloud."""

    reconciles = True

    def __init__(self, told: Settings) -> None:
        self.told = told
        self.names: dict[str, str] = {}
        self.addresses: dict[str, str] = {}  # of people in the settings, by account: most hide theirs
        self.service = Service("Jira", f"{told.url.rstrip('/')}/rest/api/3", self._headers, limits)

    async def _headers(self) -> Mapping[str, str]:
        token = secret("[board]", "token", self.told.token or "$JIRA_TOKEN")
        if not self.told.email:
            return {"authorization": f"Bearer {token}", "accept": "application/json"}
        who = secret("[board]", "email", self.told.email)
        return {"authorization": f"Basic {b64encode(f'{who}:{token}'.encode()).decode()}", "accept": "application/json"}

    async def pages(
        self, jql: str, fields: Sequence[str] = FIELDS, fresh: Iterable[str] = ()
    ) -> AsyncIterator[list[Raw]]:
        asked: Raw = {"jql": jql, "fields": list(fields), "maxResults": PAGE}
        if numbers := [int(one) for one in fresh][-RECONCILED:]:
            asked["reconcileIssues"] = numbers
        for _ in range(MOST):
            found = (await self.service.ask("/search/jql", asked, scope=scope("POST", "/search/jql"))).data
            yield found["issues"]
            if found.get("isLast", True) or not found.get("nextPageToken"):
                return
            asked["nextPageToken"] = found["nextPageToken"]

    async def rows(self, ids: Sequence[str], properties: bool = False) -> list[Raw]:
        found: list[Raw] = []
        for start in range(0, len(ids), PAGE):
            asked: Raw = {"issueIdsOrKeys": list(ids[start : start + PAGE]), "fields": list(FIELDS)}
            asked |= {"properties": [PROPERTY]} if properties else {}
            path = "/issue/bulkfetch"
            found += (await self.service.ask(path, asked, scope=scope("POST", path))).data["issues"]
        return found

    def body(self, markdown: str) -> Any:
        return adf.document(markdown)

    def plain(self, body: object) -> str:
        return adf.text(body, self.names)

    def progress(self, markdown: str) -> Raw:
        return {"body": adf.document(markdown), "properties": [{"key": PROPERTY, "value": {"is": "progress"}}]}

    def is_progress(self, comment: Raw, me: str) -> bool:
        marks = {one["key"]: one.get("value") for one in comment.get("properties") or []}
        return PROPERTY in marks and self.id_of(comment.get("author") or {}) == me

    def comments(self) -> Mapping[str, str]:
        return {"expand": "properties"}

    def rewriting(self) -> Mapping[str, str]:
        return {"notifyUsers": "false"}

    def id_of(self, user: Raw) -> str:
        return str(user.get("accountId") or "")

    def words(self, user: Raw) -> set[str]:
        address = self.addresses.get(self.id_of(user), "")
        return {str(user[key]).lower() for key in ("accountId", "emailAddress") if user.get(key)} | {address} - {""}

    async def meet(self, words: Iterable[str]) -> list[str]:
        lost: list[str] = []
        for word in sorted({word.lower() for word in words if "@" in word}):
            found = (await self.service.get("/user/search", {"query": word, "maxResults": 2})).data
            if len(found) == 1:  # an address is nobody else's
                self.addresses[self.id_of(found[0])] = word
            else:
                lost.append(word)
        return lost

    def person(self, user: Raw) -> bool:
        return user.get("accountType", "atlassian") == "atlassian" and user.get("active") is not False

    def as_user(self, name: str) -> dict[str, str]:
        return {"accountId": name}

    def asking_for(self, name: str) -> dict[str, str]:
        return {"accountId": name}

    async def places(self) -> AsyncIterator[tuple[str, str]]:
        for page in range(MOST):
            query = {"startAt": page * 50, "maxResults": 50, "orderBy": "-lastIssueUpdatedTime"}
            found = (await self.service.get("/project/search", query)).data
            for one in found["values"]:
                yield one["key"], one["name"]
            if found.get("isLast", True):
                return


class DataCenter:
    """Jira Data Center: no `reconcileIssues`, no document format, no way to ask for many issues by id."""

    reconciles = False

    def __init__(self, told: Settings) -> None:
        self.told = told
        self.names: dict[str, str] = {}
        self.service = Service("Jira", f"{told.url.rstrip('/')}/rest/api/2", self._headers, limits)

    async def _headers(self) -> Mapping[str, str]:
        token = secret("[board]", "token", self.told.token or "$JIRA_TOKEN")
        return {"authorization": f"Bearer {token}", "accept": "application/json"}

    async def pages(
        self, jql: str, fields: Sequence[str] = FIELDS, fresh: Iterable[str] = ()
    ) -> AsyncIterator[list[Raw]]:
        start = 0
        for _ in range(MOST):
            asked = {"jql": jql, "fields": list(fields), "startAt": start, "maxResults": PAGE}
            found = (await self.service.ask("/search", asked, scope=scope("POST", "/search"))).data
            yield found["issues"]
            start += len(found["issues"])  # a server may give less than it is asked for
            if start >= found["total"] or not found["issues"]:
                return

    async def rows(self, ids: Sequence[str], properties: bool = False) -> list[Raw]:
        found: list[Raw | None] = []
        for start in range(0, len(ids), AT_ONCE):
            found += await asyncio.gather(*(self._row(one, properties) for one in ids[start : start + AT_ONCE]))
        return [row for row in found if row]

    async def _row(self, name: str, properties: bool) -> Raw | None:
        query = {"fields": ",".join(FIELDS)} | ({"properties": PROPERTY} if properties else {})
        try:
            row: Raw = (await self.service.get(f"/issue/{name}", query, scope=scope("GET", "/issue/*"))).data
        except Refused as refused:
            if refused.status != 404:
                raise
            return None
        return row

    def body(self, markdown: str) -> Any:
        return markdown

    def plain(self, body: object) -> str:
        return wiki.plain(body, self.names)

    def progress(self, markdown: str) -> Raw:
        return {"body": f"{ANCHOR}{wiki.markup(markdown)}"}

    def is_progress(self, comment: Raw, me: str) -> bool:
        return str(comment.get("body")).startswith(ANCHOR) and self.id_of(comment.get("author") or {}) == me

    def comments(self) -> Mapping[str, str]:
        return {}

    def rewriting(self) -> Mapping[str, str]:
        return {}

    def id_of(self, user: Raw) -> str:
        return str(user.get("name") or "")

    def words(self, user: Raw) -> set[str]:
        return {str(user[key]).lower() for key in ("name", "key", "emailAddress") if user.get(key)}

    async def meet(self, words: Iterable[str]) -> list[str]:
        return []

    def person(self, user: Raw) -> bool:
        return user.get("active") is not False

    def as_user(self, name: str) -> dict[str, str]:
        return {"name": name}

    def asking_for(self, name: str) -> dict[str, str]:
        return {"username": name}

    async def places(self) -> AsyncIterator[tuple[str, str]]:
        for one in (await self.service.get("/project")).data:
            yield one["key"], one["name"]


# -- limits ------------------------------------------------------------------------------------------------------------
def scope(method: str, path: str) -> str:
    """The places of a request, for limits: its endpoint, and for a write the issue it changes.

    >>> scope("POST", "/issue/10001/transitions"), scope("GET", "/issue/10001/comment")
    ('POST:/issue/*/transitions issue/10001', 'GET:/issue/*/comment')
    """
    found = re.match(r"/issue/([\w-]+)", path)
    endpoint = f"{method}:" + re.sub(r"/(issue|comment)/(?!bulkfetch\b)[\w-]+", r"/\1/*", path)
    return f"{endpoint} issue/{found[1]}" if found and method != "GET" and found[1] != "bulkfetch" else endpoint


def limits(answer: Answer, now: float) -> Limit | None:
    """Jira Cloud says which of its limits it is; a burst closes that endpoint, too many writes that issue, else all."""
    if answer.status != 429:
        return None
    reason = answer.headers.get("ratelimit-reason", "")
    endpoint, _, issue = answer.scope.partition(" ")
    where = {"jira-burst-based": endpoint, "jira-per-issue-on-write": issue}.get(reason, "")
    wait = _seconds(answer.headers, now)
    said = reason.removeprefix("jira-").replace("-", " ") or "rate limit"
    if wait is None:
        return Limit(UNSAID.get(reason, 60.0), f"{said}, without a stated end", where)
    return Limit(max(wait, 0.1), said, where)


def _seconds(headers: Mapping[str, str], now: float) -> float | None:
    with suppress(KeyError, ValueError):
        return float(headers["retry-after"])
    with suppress(KeyError, ValueError):
        left = datetime.fromisoformat(headers["x-ratelimit-reset"]).timestamp() - now
        return left if left > 0 else None
    return None
