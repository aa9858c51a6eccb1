"""What GitLab's board and forge share: who we are there, its limits, paths of projects, who may do what."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlsplit

from nightcrew.errors import ConfigError
from nightcrew.settings import secret
from nightcrew.transport import Answer, Limit, Refused, Service

URL = "https://gitlab.com"
UNSAID = 60.0  # seconds to wait for a limit whose end is not said: all of GitLab's count by the minute
PACE = 30
"""Comments, issues and merge requests in a minute: gitlab.com takes 60 of one login, which board and forge share."""
OTHER = 0.05  # what any other write counts: there are 2,000 requests of any kind in a minute
CREATES = re.compile(r"/(?:issues|notes|merge_requests)$")
REPORTER, DEVELOPER = 20, 30  # access levels
HOUR = 3600.0  # seconds for which an access level is believed
Json = dict[str, Any]

_COMMAND = re.compile(r"^([ \t]*)/(?=[a-z])", re.M | re.I)
_DRAFT = re.compile(r"^\s*(?:draft:|\[draft\]|\(draft\))\s*", re.I)
_ROBOT = re.compile(r"(?:project|group)_\d+_bot(?:_|$)|.*\[bot\]$")


def limits(answer: Answer, now: float) -> Limit | None:
    """A 429, with or without headers that say when it ends: gitlab.com's own are known to lack them."""
    if answer.status != 429:
        return None
    after, reset = (_number(answer.headers.get(name)) for name in ("retry-after", "ratelimit-reset"))
    if after is not None:
        return Limit(max(after, 0.1), "rate limit")
    if reset is not None and reset > now:
        return Limit(max(reset - now, 1.0), "rate limit")
    return Limit(UNSAID, "rate limit without a stated end")


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,12}(?:\.\d+)?", text.strip()) else None


def project_path(address: str, base: str = URL) -> str:
    """`group/name` of a repository's address, whatever its scheme and however deep; `base` is where GitLab is.

    Raises ConfigError when there is none in it.

    >>> [project_path(u) for u in ("https://gitlab.com/acme/web.git", "git@gitlab.com:acme/crew/web")]
    ['acme/web', 'acme/crew/web']
    >>> project_path("https://example.com/gitlab/acme/web/", "https://example.com/gitlab")
    'acme/web'
    """
    http = address.startswith(("http://", "https://"))
    path, remote = re.subn(r"^(?:[a-z][a-z0-9+.-]*://[^/]+/|[^/:]+:)", "", address)
    path = path.strip("/").removesuffix(".git")
    root = urlsplit(base).path.strip("/")
    path = path.removeprefix(f"{root}/") if http and root else path
    if not remote or not is_path(path):
        raise ConfigError(f"{address} does not say which GitLab project it is.",
                          hint="Write it as https://HOST/GROUP/NAME.git.")  # fmt: skip
    return path


def is_path(text: str) -> bool:
    """Whether it is a project's path: a group, perhaps deeper ones, and a name."""
    return bool(re.fullmatch(r"[\w.-]+(?:/[\w.-]+)+", text))


def at(project: str) -> str:
    """Where the API has that project: its path is one word there, with its slashes encoded."""
    return f"/projects/{quote(project, safe='')}"


@dataclass(frozen=True)
class Account:
    """The login nightcrew uses: a personal, project or group access token; the latter two are robots of their own."""

    where: str  # the table in the configuration, for messages
    url: str
    token: str = ""

    async def headers(self) -> Mapping[str, str]:
        """Headers with the token. Raises ConfigError when there is none."""
        return {"authorization": f"Bearer {self.current()}", "accept": "application/json"}

    def current(self) -> str:
        """The token itself. Raises ConfigError when there is none."""
        return secret(self.where, "token", self.token or "$GITLAB_TOKEN")


@dataclass(eq=False)
class GitLab(Service):
    """GitLab as a service. It leads a reader on from a moved project's old path; a writer has to know its number."""

    async def write(self, method: str, path: str, json: Any = None, *, params: Mapping[str, Any] | None = None,
                    again: bool = False, scope: str = "") -> Answer:  # fmt: skip
        """See `Service.write`."""
        try:
            return await super().write(method, path, json, params=params, again=again, scope=scope)
        except Refused as refused:
            if refused.status != 405 or "moved project" not in str(refused.data):
                raise
        project, rest = path.split("/")[2], path.split("/")[3:]
        number = (await self.get(f"/projects/{project}")).data["id"]
        there = "/".join(("/projects", str(number), *rest))
        return await super().write(method, there, json, params=params, again=again, scope=scope)


def service(account: Account, pace: int = PACE) -> Service:
    """GitLab, no faster than it takes comments: `pace` in a minute."""
    base = f"{account.url.rstrip('/')}/api/v4"
    return GitLab("GitLab", base, account.headers, limits, pace=(pace, 60.0), weight=weight)


def weight(method: str, path: str) -> float:
    """What a write counts against the pace."""
    return 1.0 if method == "POST" and CREATES.search(path) else OTHER


@dataclass
class Members:
    """Who may do what in a project, believed for an hour; and who is a robot, believed for good."""

    service: Service
    known: dict[tuple[str, int], tuple[float, int]] = field(default_factory=dict)  # -> (until, access level)
    robots: dict[int, bool] = field(default_factory=dict)

    async def level(self, project: str, user: int) -> int:
        """The access level a user has there, by the groups above too; 0 for none."""
        until, level = self.known.get((project, user), (0.0, 0))
        if until < time.monotonic():
            try:
                found = await self.service.get(f"{at(project)}/members/all/{user}")
                level = int(found.data["access_level"])
            except Refused as refused:
                if refused.status not in (403, 404):
                    raise
                level = 0
            self.known[project, user] = (time.monotonic() + HOUR, level)
        return level

    async def may_write(self, project: str, users: Iterable[int]) -> dict[int, bool]:
        """Which of these users may push there."""
        return {user: await self.level(project, user) >= DEVELOPER for user in set(users)}

    async def robot(self, user: Mapping[str, Any]) -> bool:
        """Whether this author is a program: told by its name, else by its account."""
        number = int(user["id"])
        if number not in self.robots:
            self.robots[number] = bool(_ROBOT.match(user["username"])) or await self._asked(number)
        return self.robots[number]

    async def _asked(self, number: int) -> bool:
        try:
            return bool((await self.service.get(f"/users/{number}")).data.get("bot"))
        except Refused:
            return False


async def login(service: Service) -> str:
    """Who we are there."""
    return str((await service.get("/user")).data["username"])


async def lacking(service: Service, projects: Iterable[str], level: int, to_do: str) -> list[str]:
    """What the token may not do, as sentences: its scopes, then its access level in each of the projects."""
    missing = []
    try:
        scopes = (await service.get("/personal_access_tokens/self")).data.get("scopes", [])
    except Refused:  # a server older than 15.5 does not say
        scopes = ["api"]
    if "api" not in scopes:
        missing.append(f"Its token has the scope {', '.join(scopes) or 'none'}; it needs: api.")
    for project in projects:
        try:
            may = (await service.get(at(project))).data.get("permissions") or {}
        except Refused as refused:
            gone = f"GitLab shows us no project {project}."
            missing.append(gone if refused.status == 404 else refused.sentence())
            continue
        if max((int(part["access_level"]) for part in may.values() if part), default=0) < level:
            missing.append(f"It may not {to_do} in {project}: its role there must be at least {ROLES[level]}.")
    return missing


ROLES = {REPORTER: "Reporter", DEVELOPER: "Developer"}


def harmless(text: str) -> str:
    r"""The text with no line that GitLab takes for a command: whoever wrote it would act with our rights.

    >>> print(harmless("Done.\n/merge\n /close\nsee /usr/bin"))
    Done.
    \/merge
     \/close
    see /usr/bin
    """
    return _COMMAND.sub(r"\1\\/", text)


def plain_title(title: str) -> str:
    """A merge request's title without what makes it a draft.

    >>> [plain_title(t) for t in ("Draft: Fix it", "[draft] (Draft) Fix", "Drafting: it")]
    ['Fix it', 'Fix', 'Drafting: it']
    """
    while found := _DRAFT.match(title):
        title = title[found.end() :]
    return title


def utc(stamp: str) -> str:
    """A time as GitLab writes it, whatever its zone, as ISO 8601 in UTC.

    >>> utc("2026-11-27T05:04:03.081+02:00"), utc("2026-11-27T03:04:03Z")
    ('2026-11-27T03:04:03.081Z', '2026-11-27T03:04:03.000Z')
    """
    return datetime.fromisoformat(stamp).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def verify(raw: bytes, headers: Mapping[str, str], token: str) -> str | None:
    """The id of a webhook's delivery, the same when it is sent again; None when its secret token is not `token`.

    Header names in lower case. An older server gives no id: then what it says is one.

    >>> headers = {"x-gitlab-token": "word", "x-gitlab-event-uuid": "13792a34"}
    >>> verify(b"{}", headers, "word"), verify(b"{}", headers, "other"), verify(b"{}", {}, "word")
    ('13792a34', None, None)
    """
    if not token or not hmac.compare_digest(headers.get("x-gitlab-token", "").encode(), token.encode()):
        return None
    return headers.get("idempotency-key") or headers.get("x-gitlab-event-uuid") or sha256(raw).hexdigest()
