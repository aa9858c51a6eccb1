"""Looking for secrets in what a change adds. The secret itself is shown nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from time import monotonic

from nightcrew.core.gate import NOTHING, SUBMODULE, Detector, Entry, name, own_detectors, secrets_in
from nightcrew.git import Hub
from nightcrew.stages.gates.objects import commits, read, sizes

MAX_CONTENT = 256 << 20  # bytes of all new content together
MAX_OLD = 16 << 20  # bytes of an old version that is compared
BATCH = 1 << 20  # bytes read from git at once

BUDGET = 120.0  # seconds of looking; what takes longer was made to take long

# Only patterns of one maker's tokens: guesses by entropy or key word would stop honest work. The plugins for npm and
# OpenAI take quadratic time on texts made for it; ours for these take linear time.
PLUGINS = {
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "basic_auth": "BasicAuthDetector",
    "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "jwt": "JwtTokenDetector",
    "mailchimp": "MailchimpDetector",
    "private_key": "PrivateKeyDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
    "telegram_token": "TelegramBotTokenDetector",
    "twilio": "TwilioKeyDetector",
}


async def in_files(hub: Hub, content: Sequence[Entry], known: Mapping[str, int]) -> list[str]:
    """Where in the lines that `content` adds a secret stands, and its type. `known` are the sizes of new contents."""
    if sum(known[oid] for oid in {entry.oid for entry in content}) > MAX_CONTENT:
        return [f"more than {MAX_CONTENT >> 20} MB of new content: too much to look through for secrets"]
    before = await sizes(hub, {e.old_oid for e in content if e.old_mode not in {NOTHING, SUBMODULE}})
    readable = {**{oid: size for oid, size in before.items() if size <= MAX_OLD}, **known}
    seen: set[tuple[str, str, str]] = set()
    found: list[str] = []
    until = monotonic() + BUDGET
    for portion in _portions(content, readable):
        if monotonic() > until:
            return [*found, f"the new content could not be looked through for secrets in {BUDGET:g} s"]
        texts = await read(hub, {oid for e in portion for oid in (e.oid, e.old_oid) if oid in readable})
        found += await asyncio.to_thread(_look, portion, texts, seen)
    return found


async def in_messages(hub: Hub, base_sha: str, head_sha: str) -> list[str]:
    """The commits whose messages hold a secret: they are pushed too."""
    said = [f"{commit.sha}\n{commit.message}" for commit in await commits(hub, base_sha, head_sha)]
    return await asyncio.to_thread(_heard, said)


def when(entry: Entry) -> str:
    """In which commit, for what is no longer in the end result."""
    return f" in commit {entry.commit[:12]} (all commits are pushed: rewrite it)" if entry.commit else ""


def _portions(content: Iterable[Entry], known: Mapping[str, int]) -> Iterator[list[Entry]]:
    portion: list[Entry] = []
    total = 0
    for entry in content:
        size = known[entry.oid] + known.get(entry.old_oid, 0)
        if portion and total + size > BATCH:
            yield portion
            portion, total = [], 0
        portion.append(entry)
        total += size
    if portion:
        yield portion


def _look(portion: Iterable[Entry], texts: Mapping[str, bytes], seen: set[tuple[str, str, str]]) -> list[str]:
    found = []
    for entry in portion:
        old, new = _text(texts.get(entry.old_oid, b"")), _text(texts[entry.oid])
        for line, kind, value in secrets_in(old, new, detectors()):
            if (entry.path, kind, value) not in seen:
                seen.add((entry.path, kind, value))
                found.append(f"{name(entry.path)}:{line}: a secret ({kind}){when(entry)}")
    return found


def _heard(messages: Iterable[str]) -> list[str]:
    found = []
    for message in messages:
        sha, _, text = message.lstrip("\n").partition("\n")
        kinds = sorted({kind for _, kind, _ in secrets_in("", text, detectors())})
        found += [f"the message of commit {sha[:12]}: a secret ({kind}) (rewrite the commit)" for kind in kinds]
    return found


def _text(data: bytes) -> str:
    # Without its zero bytes, text in UTF-16 reads like any other.
    return data.replace(b"\0", b"").decode("latin-1")


@cache
def detectors() -> tuple[Detector, ...]:
    """The chosen ones of detect-secrets, and ours. Imported late: it takes a while, and few commands need it."""
    found = [getattr(import_module(f"detect_secrets.plugins.{module}"), plugin)() for module, plugin in PLUGINS.items()]
    return (*((plugin.secret_type, plugin.analyze_string) for plugin in found), *own_detectors())
