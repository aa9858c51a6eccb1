"""What GitHub's board and forge share: who we are there, its limits, its GraphQL, the name of a repository."""

from __future__ import annotations

import asyncio
import hmac
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2 as httpx

from nightcrew.errors import ConfigError
from nightcrew.settings import secret
from nightcrew.transport import Answer, Limit, Limited, Refused, Service, Unreachable

API = "https://api.github.com"
VERSION = "2022-11-28"
FRESH = 300.0  # seconds that a short-lived token must still be good for
HOUR = 3600.0  # seconds for which it is believed who may write
AGAIN = 600.0  # seconds after which gh is asked again for its login
GH = 20.0  # seconds that it may take to tell
UNSAID = 60.0  # seconds to wait for a limit whose end is not said (GitHub's documentation)
PACE = 40
"""New content in a minute: GitHub allows 80 to one login, which board and forge share."""
OTHER = 0.3  # what a write counts that creates no content: GitHub allows 180 of any kind in a minute
CREATES = re.compile(r"/(?:issues|comments|pulls|replies|graphql)$")
WRITERS = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
GRAPHQL = "graphql"  # it has a quota of its own: when that is used up, REST goes on
VIEWER = "query Viewer { viewer { login } }"
Json = dict[str, Any]


def limits(answer: Answer, now: float) -> Limit | None:
    """A primary or secondary limit: 403 or 429 by REST, an error in a 200 by GraphQL."""
    over = answer.status in (403, 429) or (answer.status == 200 and _graphql_limited(answer.data))
    if not over:
        return None
    after, reset = (_number(answer.headers.get(name)) for name in ("retry-after", "x-ratelimit-reset"))
    if after is not None:
        return Limit(max(after, 0.1), "secondary rate limit")
    if answer.headers.get("x-ratelimit-remaining") == "0":
        scope = GRAPHQL if answer.headers.get("x-ratelimit-resource") == GRAPHQL else ""
        return Limit(max((now + UNSAID if reset is None else reset) - now, 1.0), "primary rate limit", scope)
    if answer.status in (200, 429) or "rate limit" in answer.text.lower():
        return Limit(UNSAID, "rate limit without a stated end")
    return None


def _number(text: str | None) -> float | None:
    """What a header says; None also for a date, as a proxy may write one."""
    return float(text) if text and re.fullmatch(r"\d{1,12}(?:\.\d+)?", text.strip()) else None


def verify(raw: bytes, headers: Mapping[str, str], secret: str, now: float) -> str | None:
    """The id of a webhook's delivery that was signed with `secret`, else None. GitHub tells no time: `now` is unused.

    Header names in lower case.

    >>> signature = "sha256=" + hmac.digest(b"word", b"{}", "sha256").hex()
    >>> headers = {"x-hub-signature-256": signature, "x-github-delivery": "72d3162e"}
    >>> verify(b"{}", headers, "word", 0), verify(b"[]", headers, "word", 0), verify(b"{}", headers, "other", 0)
    ('72d3162e', None, None)
    """
    right = "sha256=" + hmac.digest(secret.encode(), raw, "sha256").hex()
    genuine = hmac.compare_digest(headers.get("x-hub-signature-256", "").encode(), right.encode())
    return headers.get("x-github-delivery") or None if genuine else None


def _graphql_limited(data: Any) -> bool:
    """By type (RATE_LIMITED, lately RATE_LIMIT) or, as a secondary limit is told, by the message alone."""
    errors = data.get("errors") if isinstance(data, dict) else None
    told = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    return any("rate limit" in f"{e.get('type')} {e.get('message')}".lower().replace("_", " ") for e in told)


def slug(url: str) -> str:
    """`owner/name` of a repository's address, whatever its scheme. Raises ConfigError when there is none in it.

    >>> [slug(u) for u in ("https://github.com/acme/web.git", "git@github.com:acme/web", "ssh://git@gh.io:22/acme/web/")]
    ['acme/web', 'acme/web', 'acme/web']
    """
    path = re.sub(r"^(?:[a-z][a-z0-9+.-]*://[^/]+/|[^/:]+:)", "", url).strip("/").removesuffix(".git")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        raise ConfigError(f"{url} does not say which GitHub repository it is.",
                          hint="Write it as https://github.com/OWNER/NAME.git.")  # fmt: skip
    return path


_ABOUT: ContextVar[str] = ContextVar("repository", default="")


@dataclass
class Account:
    """The login nightcrew uses: a token, the one of `gh`, or an installation of a GitHub App.

    `token` is "$NAME" of a variable, or "gh"; with `app`, `key` is the app's private key (a file, or "$NAME") and
    `installation` its number, found by itself for `repository` when it is 0.
    """

    where: str  # the table in the configuration, for messages
    url: str
    token: str = ""
    app: str = ""
    key: str = ""
    installation: int = 0
    repository: str = ""  # the one asked about where none is told
    _held: dict[str, tuple[str, float]] = field(default_factory=dict)  # owner -> the token, and until when it is good

    def about(self, repository: str) -> None:
        """What this task asks next is about that repository: each owner has an installation of its own."""
        _ABOUT.set(repository)

    def _asked(self) -> str:
        return _ABOUT.get() or self.repository

    def _owner(self) -> str:
        return self._asked().partition("/")[0].lower() if self.app and not self.installation else ""

    async def headers(self) -> Mapping[str, str]:
        """Headers with a token that is good now."""
        return {"authorization": f"Bearer {await self.current()}", "accept": "application/vnd.github+json",
                "x-github-api-version": VERSION}  # fmt: skip

    async def current(self) -> str:
        """The token itself. Raises ConfigError when there is none, a Fault when GitHub gives an app none."""
        owner = self._owner()
        if self._stale(owner):
            self._held[owner] = await asyncio.to_thread(self._anew)
        return self._held[owner][0]

    def current_now(self) -> str:
        """The same without a loop; asks GitHub at most once an hour."""
        owner = self._owner()
        if self._stale(owner):
            self._held[owner] = self._anew()
        return self._held[owner][0]

    def _stale(self, owner: str) -> bool:
        return self._held.get(owner, ("", 0.0))[1] - time.time() < FRESH

    def _anew(self) -> tuple[str, float]:
        if self.app:
            return self._of_app()
        # What gh is logged in with may change while we run.
        return self.plain(), time.time() + FRESH + AGAIN if self.token == "gh" else float("inf")  # noqa: S105

    def plain(self) -> str:
        """The token of the settings, or the one `gh` is logged in with."""
        if self.token != "gh":  # noqa: S105 - the word that means: ask gh
            return secret(self.where, "token", self.token or "$GITHUB_TOKEN")
        host = gh_host(self.url)
        program, said, why = shutil.which("gh"), "", "gh is not on the PATH"
        if program:
            argv, why = [program, "auth", "token", "--hostname", host], f"gh is not logged in to {host}"
            try:
                said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=GH).stdout.strip()
            except (OSError, subprocess.TimeoutExpired) as error:
                why = f"gh does not tell its login ({type(error).__name__})"
        if not said:
            raise ConfigError(f'{self.where} token = "gh": {why}.', hint=f"Run `gh auth login --hostname {host}`.")
        return said

    def _of_app(self) -> tuple[str, float]:
        """An installation's token: an hour, with its own quota."""
        signed = {"authorization": f"Bearer {self._signed()}", "accept": "application/vnd.github+json"}
        try:
            with httpx.Client(timeout=30, headers=signed, follow_redirects=True) as client:
                number = self.installation
                if not number:
                    number = self._given(client.get(f"{self.url}/repos/{self._asked()}/installation"))["id"]
                data = self._given(client.post(f"{self.url}/app/installations/{number}/access_tokens"))
        except httpx.TransportError as error:
            raise Unreachable(f"GitHub at {self.url} cannot be reached: {error}.") from error
        return str(data["token"]), datetime.fromisoformat(data["expires_at"]).timestamp()

    def _given(self, answer: httpx.Response) -> Json:
        """What GitHub gives the app. That it cannot now is an outage; only that it will not is the owner's to mend."""
        if answer.status_code in (200, 201):
            found: Json = answer.json()
            return found
        if limit := limits(Answer(answer.status_code, answer.headers, text=answer.text), time.time()):
            raise Limited("GitHub", limit.wait, limit.why)
        if answer.status_code >= 500:
            raise Unreachable(f"GitHub at {self.url} gives the app no token now ({answer.status_code}).")
        raise ConfigError(f"{self.where} app = {self.app!r}: GitHub gives it no token ({answer.status_code}).",
                          hint="Check the app's key, and that it is installed on the repository.")  # fmt: skip

    def _signed(self) -> str:
        """The app's own word for who it is, good for nine minutes."""
        try:
            import jwt  # noqa: PLC0415 - an extra, needed for apps alone
        except ImportError as error:
            raise ConfigError(f"{self.where} app: a GitHub App needs one more library.",
                              hint="Install nightcrew[github-app].") from error  # fmt: skip
        text = secret(self.where, "key", self.key) if self.key.startswith("$") else self._file()
        now = int(time.time())
        try:
            return str(jwt.encode({"iat": now - 60, "exp": now + 540, "iss": self.app}, text, algorithm="RS256"))
        except (ValueError, jwt.PyJWTError) as error:
            raise ConfigError(f"{self.where} key: this is no private key.", hint="Give the app's .pem file.") from error

    def _file(self) -> str:
        try:
            return Path(self.key).expanduser().read_text()
        except OSError as error:
            raise ConfigError(f"{self.where} key: {self.key} cannot be read: {error.strerror}.",
                              hint="Give the path of the app's .pem file.") from error  # fmt: skip


def service(account: Account, pace: int = PACE) -> Service:
    """GitHub as a service: one writer at a time and no faster than it wants."""
    return Service("GitHub", account.url, account.headers, limits, writes=1, pace=(pace, 60.0), weight=weight)


def weight(method: str, path: str) -> float:
    """What a write counts against the pace."""
    return 1.0 if method == "POST" and CREATES.search(path) else OTHER


def gh_host(url: str) -> str:
    """What `gh` calls the GitHub whose API is there.

    >>> gh_host(API), gh_host("https://api.acme.ghe.com"), gh_host("https://git.acme.example:8443/api/v3")
    ('github.com', 'acme.ghe.com', 'git.acme.example:8443')
    """
    host = urlsplit(url).netloc
    return host.removeprefix("api.") if host.endswith((".github.com", ".ghe.com")) else host


def graphql_path(url: str) -> str:
    """Where GraphQL is: beside /api/v3 on an own server."""
    return f"{url.removesuffix('/v3')}/graphql" if url.endswith("/api/v3") else f"{url}/graphql"


async def graphql(service: Service, query: str, variables: Mapping[str, object], *, again: bool = True,
                  part: str = "") -> Json:  # fmt: skip
    """The data of one GraphQL request; with `again` it may be sent twice. Raises a Fault, also for errors in a 200.

    Where `part` of the data is there, that something in it is not found is no error: it is null.
    """
    asked = {"query": query, "variables": dict(variables)}
    if query.lstrip().startswith("mutation"):
        answer = await service.write("POST", graphql_path(service.base), asked, again=again, scope=GRAPHQL)
    else:
        answer = await service.ask(graphql_path(service.base), asked, scope=GRAPHQL)
    data: Json = answer.data if isinstance(answer.data, dict) else {}
    errors, found = data.get("errors"), data.get("data")
    missing = part and errors and found and found.get(part) and all(e.get("type") == "NOT_FOUND" for e in errors)
    if (errors and not missing) or not isinstance(found, dict):
        raise Refused("GitHub", "a GraphQL request", answer)
    return found


@dataclass
class Writers:
    """Who may write to a repository, believed for an hour.

    An association alone does not say so: an organization's member, or a collaborator, may be one who only reads.
    """

    service: Service
    known: dict[tuple[str, str], tuple[float, bool]] = field(default_factory=dict)  # -> (until, may)

    async def may(self, repo: str, who: Mapping[str, Any] | None, association: str) -> bool:
        """Whether this author may; of a robot its association alone is known."""
        if who is None or association not in WRITERS:
            return False
        if association == "OWNER" or _robot(who):
            return True
        until, may = self.known.get((repo, who["login"]), (0.0, False))
        if until < time.monotonic():
            may = await self._asked(repo, who["login"])
            self.known[repo, who["login"]] = (time.monotonic() + HOUR, may)
        return may

    async def _asked(self, repo: str, login: str) -> bool:
        try:
            path = f"/repos/{repo}/collaborators/{quote(login, safe='')}/permission"
            return (await self.service.get(path)).data["permission"] in ("admin", "write")
        except Refused as refused:
            if refused.status not in (403, 404):
                raise
            return refused.status == 403  # whoever may not push is not told: the association has to do


def _robot(who: Mapping[str, Any]) -> bool:
    return "Bot" in (who.get("type"), who.get("__typename"))


def wrote(by: Mapping[str, Any] | None, me: str) -> bool:
    """Whether `me` is that author, None for a deleted account; an app is `name[bot]` by REST and `name` by GraphQL.

    >>> [wrote({"login": "crew", "type": kind}, "crew[bot]") for kind in ("Bot", "User")]
    [True, False]
    """
    if by is None:
        return False
    return bool(by["login"] == me or (_robot(by) and by["login"].removesuffix("[bot]") == me.removesuffix("[bot]")))


async def login(service: Service) -> str:
    """Who we are there. An app is no user: its installation is asked as the viewer, who is told as `name[bot]`."""
    try:
        return str((await service.get("/user")).data["login"])
    except Refused as refused:
        if refused.status != 403:
            raise
    return str((await graphql(service, VIEWER, {}))["viewer"]["login"])
