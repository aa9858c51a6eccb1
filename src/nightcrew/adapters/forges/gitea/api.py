"""Gitea's REST, which Forgejo shares: its limits, its pages, the name of a repository."""

from __future__ import annotations

import hmac
import re
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

from nightcrew.errors import ConfigError
from nightcrew.transport import Answer, Limit, Service

PAGE = 50  # rows asked for at once: the most a server gives unless it was told otherwise; it may give fewer
MOST = 20  # pages of one list
UNSAID = 60.0  # seconds to wait for a limit whose end is not said
Json = dict[str, Any]


def service(base: str, token: Callable[[], str]) -> Service:
    """Requests to the forge at `base`, which is named by its host; `token` is asked before each."""

    async def headers() -> Mapping[str, str]:
        return {"authorization": f"token {token()}", "accept": "application/json"}

    return Service(urlsplit(base).netloc or "Gitea", f"{base.rstrip('/')}/api/v1", headers, limits)


def limits(answer: Answer, now: float) -> Limit | None:
    """Gitea has no limits of its own; what stands before a public one says 429, or 503 with a time to wait."""
    after = answer.headers.get("retry-after", "").strip()
    if answer.status == 429 or (answer.status == 503 and after):
        return Limit(_wait(after, now), "rate limit" if after else "rate limit without a stated end")
    return None


def _wait(after: str, now: float) -> float:
    """Seconds told as a number or as the date it ends at."""
    if re.fullmatch(r"\d{1,9}(?:\.\d+)?", after):
        return max(float(after), 0.1)
    try:
        return max(parsedate_to_datetime(after).timestamp() - now, 1.0)
    except ValueError:
        return UNSAID


def verify(raw: bytes, headers: Mapping[str, str], secret: str) -> str | None:
    """The id of a webhook's delivery that was signed with `secret`, else None; Forgejo signs as Gitea does.

    Header names in lower case.

    >>> headers = {"x-gitea-signature": hmac.digest(b"word", b"{}", "sha256").hex(), "x-gitea-delivery": "72d3162e"}
    >>> verify(b"{}", headers, "word"), verify(b"[]", headers, "word"), verify(b"{}", headers, "other")
    ('72d3162e', None, None)
    """
    right = hmac.digest(secret.encode(), raw, "sha256").hex()
    genuine = hmac.compare_digest(headers.get("x-gitea-signature", "").encode(), right.encode())
    return headers.get("x-gitea-delivery") or None if genuine else None


def slug(url: str) -> str:
    """`owner/name` of a repository's address: of http(s) its last two parts, for a forge may live below a path.

    Raises ConfigError when there is none in it.

    >>> [slug(u) for u in ("https://codeberg.org/acme/web.git", "git@git.io:acme/web", "ssh://git@git.io:22/acme/web/")]
    ['acme/web', 'acme/web', 'acme/web']
    >>> slug("https://example.com/gitea/acme/web")
    'acme/web'
    """
    path = re.sub(r"^(?:[a-z][a-z0-9+.-]*://[^/]+/|[^/:]+:)", "", url).strip("/").removesuffix(".git")
    found = re.fullmatch(r"(?:[^\s?#]+/)?([\w.-]+/[\w.-]+)", path)
    if not found:
        raise ConfigError(f"{url} does not say which repository it is.",
                          hint="Write it as https://HOST/OWNER/NAME.git.")  # fmt: skip
    return found[1]


def at(slug_: str, *parts: str | int) -> str:
    """The path of something in a repository; each part is quoted, for a branch's name may hold a slash."""
    return "/".join((f"/repos/{slug_}", *(quote(str(part), safe="") for part in parts)))


async def pages(service: Service, path: str, params: Mapping[str, Any] | None = None, most: int = MOST,
                key: str = "") -> AsyncIterator[tuple[list[Json], Answer]]:  # fmt: skip
    """The rows of a list page by page, each with its answer; `key` names them where the answer is an object.

    A server may give fewer rows than are asked for, so a short page is not the end: its count says so.
    """
    seen = 0
    for page in range(1, most + 1):
        answer = await service.get(path, {**(params or {}), "page": page, "limit": PAGE})
        rows = (answer.data[key] if key else answer.data) or []
        seen += len(rows)
        yield rows, answer
        if not rows or not _more(answer, seen, len(rows)):
            return


def total(answer: Answer) -> int | None:
    """How many rows the list has in all, None when that is not told."""
    if (told := answer.headers.get("x-total-count", "")).isdigit():
        return int(told)
    return answer.data.get("total_count") if isinstance(answer.data, dict) else None


def _more(answer: Answer, seen: int, last: int) -> bool:
    told = total(answer)
    return bool(answer.next) or last >= PAGE if told is None else seen < told


async def rows(service: Service, path: str, params: Mapping[str, Any] | None = None, key: str = "") -> list[Json]:
    """All rows of a list, up to 1,000."""
    return [row async for some, _ in pages(service, path, params, key=key) for row in some]
