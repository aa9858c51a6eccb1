"""What GitHub's board and forge share: who we are there, its limits, its GraphQL, the name of a repository."""

from __future__ import annotations

import asyncio
import hmac
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx

from nightcrew.errors import ConfigError
from nightcrew.settings import secret
from nightcrew.transport import Answer, Limit, Refused, Service, Unreachable

API = "https://api.github.com"
VERSION = "2022-11-28"
FRESH = 300.0  # seconds that a short-lived token must still be good for
UNSAID = 60.0  # seconds to wait for a limit whose end is not said (GitHub's documentation)
PACE = 40
"""New content in a minute: GitHub allows 80 to one login, which board and forge share."""
OTHER = 0.3  # what a write counts that creates no content: GitHub allows 180 of any kind in a minute
CREATES = re.compile(r"/(?:issues|comments|pulls|replies|graphql)$")
WRITERS = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
Json = dict[str, Any]


def limits(answer: Answer, now: float) -> Limit | None:
    """A primary or secondary limit: 403 or 429 by REST, an error RATE_LIMITED in a 200 by GraphQL."""
    over = answer.status in (403, 429) or (answer.status == 200 and _graphql_limited(answer.data))
    if not over:
        return None
    if after := answer.headers.get("retry-after"):
        return Limit(max(float(after), 0.1), "secondary rate limit")
    if answer.headers.get("x-ratelimit-remaining") == "0":
        return Limit(max(float(answer.headers.get("x-ratelimit-reset", now + UNSAID)) - now, 1.0), "primary rate limit")
    if answer.status in (200, 429) or "rate limit" in answer.text.lower():
        return Limit(UNSAID, "rate limit without a stated end")
    return None


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
    errors = data.get("errors") if isinstance(data, dict) else None
    return isinstance(errors, list) and any(isinstance(e, dict) and e.get("type") == "RATE_LIMITED" for e in errors)


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
    repository: str = ""
    _held: tuple[str, float] = ("", 0.0)  # the token in use, and until when it is good

    async def headers(self) -> Mapping[str, str]:
        """Headers with a token that is good now."""
        return {"authorization": f"Bearer {await self.current()}", "accept": "application/vnd.github+json",
                "x-github-api-version": VERSION}  # fmt: skip

    async def current(self) -> str:
        """The token itself. Raises ConfigError when there is none, a Fault when GitHub gives an app none."""
        if self._held[1] - time.time() < FRESH:
            self._held = await asyncio.to_thread(self._anew)
        return self._held[0]

    def current_now(self) -> str:
        """The same without a loop; asks GitHub at most once an hour."""
        if self._held[1] - time.time() < FRESH:
            self._held = self._anew()
        return self._held[0]

    def _anew(self) -> tuple[str, float]:
        return self._of_app() if self.app else (self.plain(), float("inf"))

    def plain(self) -> str:
        """The token of the settings, or the one `gh` is logged in with."""
        if self.token != "gh":  # noqa: S105 - the word that means: ask gh
            return secret(self.where, "token", self.token or "$GITHUB_TOKEN")
        host = "github.com" if self.url == API else re.sub(r"^https?://([^/]+).*", r"\1", self.url)
        program = shutil.which("gh")
        argv = [program or "gh", "auth", "token", "--hostname", host]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20) if program else None
        if done is None or done.returncode or not done.stdout.strip():
            what = "gh is not on the PATH" if done is None else f"gh is not logged in to {host}"
            raise ConfigError(f'{self.where} token = "gh": {what}.', hint=f"Run `gh auth login --hostname {host}`.")
        return done.stdout.strip()

    def _of_app(self) -> tuple[str, float]:
        """An installation's token: an hour, with its own quota."""
        signed = {"authorization": f"Bearer {self._signed()}", "accept": "application/vnd.github+json"}
        try:
            with httpx.Client(timeout=30, headers=signed) as client:
                number = self.installation
                if not number:
                    found = client.get(f"{self.url}/repos/{self.repository}/installation")
                    number = int(found.json()["id"]) if found.status_code == 200 else 0
                made = client.post(f"{self.url}/app/installations/{number}/access_tokens")
        except httpx.TransportError as error:
            raise Unreachable(f"GitHub at {self.url} cannot be reached: {error}.") from error
        if made.status_code != 201:
            raise ConfigError(f"{self.where} app = {self.app!r}: GitHub gives it no token ({made.status_code}).",
                              hint="Check the app's key, and that it is installed on the repository.")  # fmt: skip
        data = made.json()
        return str(data["token"]), datetime.fromisoformat(data["expires_at"]).timestamp()

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


def graphql_path(url: str) -> str:
    """Where GraphQL is: beside /api/v3 on an own server."""
    return f"{url.removesuffix('/v3')}/graphql" if url.endswith("/api/v3") else f"{url}/graphql"


async def graphql(service: Service, query: str, variables: Mapping[str, object], *, again: bool = True) -> Json:
    """The data of one GraphQL request; with `again` it may be sent twice. Raises a Fault, also for errors in a 200."""
    asked = {"query": query, "variables": dict(variables)}
    if query.lstrip().startswith("mutation"):
        answer = await service.write("POST", graphql_path(service.base), asked, again=again)
    else:
        answer = await service.ask(graphql_path(service.base), asked)
    data: Json = answer.data if isinstance(answer.data, dict) else {}
    if data.get("errors") or not isinstance(data.get("data"), dict):
        raise Refused("GitHub", "a GraphQL request", answer)
    found: Json = data["data"]
    return found


async def login(service: Service) -> str:
    """Who we are there; an app has no user, it is told by the name of what it wrote."""
    with suppress(Refused):
        return str((await service.get("/user")).data["login"])
    return ""
