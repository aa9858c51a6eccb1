"""What codex counts: the tokens of a thread, and how much of its provider's windows is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nightcrew.adapters.agents.codex.faults import Event, count_at, inner, text_at
from nightcrew.core.model import Usage, Window

__all__ = ["Tokens", "usage_of", "windows_in"]

NAMES = {18_000: "five_hour", 604_800: "seven_day"}


def windows_in(event: Event) -> Iterator[Window]:
    """The windows that an `account/rateLimits/updated` names; where a limit has a name of its own, with that before."""
    limits = inner(event, "params", "rateLimits")
    limit, warns = text_at(limits, "limitId"), bool(text_at(limits, "rateLimitReachedType"))
    taken = ""
    for which in ("primary", "secondary"):
        seconds, resets = count_at(limits, which, "windowDurationMins") * 60, count_at(limits, which, "resetsAt")
        if resets:
            used, name = count_at(limits, which, "usedPercent") / 100, NAMES.get(seconds, which)
            name, taken = (which, taken) if name == taken else (name, name)
            name = name if limit in ("", "codex") else f"{limit}/{name}"
            yield Window(name[:60], min(used, 1.0), float(resets), float(seconds), warning=warns or used >= 1)


@dataclass
class Tokens:
    """One thread's tokens. Codex counts from the thread's first turn; `base` is what earlier sessions used."""

    base: Usage | None = None
    total: Usage = field(default_factory=Usage)

    def hear(self, usage: object, *, answered: bool, fresh: bool) -> bool:
        """Take a count; True when it grew by an answer of the model."""
        total, last = usage_of(inner(usage, "total")), usage_of(inner(usage, "last"))
        if self.base is None:
            # Before anything was answered, a resumed thread tells what it had used already.
            self.base = Usage() if fresh else _minus(total, last) if answered else total
            self.total = self.base
        grew = total.tokens > self.total.tokens
        self.total = total
        return grew

    @property
    def spent(self) -> Usage:
        """What this session used."""
        return _minus(self.total, self.base or Usage())


def usage_of(counts: object) -> Usage:
    """Codex counts what came from or went to the cache as part of the input; we do not."""

    def at(camel: str, snake: str) -> int:
        return count_at(counts, camel) or count_at(counts, snake)

    read = at("cachedInputTokens", "cached_input_tokens")
    written = at("cacheWriteInputTokens", "cache_write_input_tokens")
    sent = max(at("inputTokens", "input_tokens") - read - written, 0)
    return Usage(input=sent, output=at("outputTokens", "output_tokens"), cache_read=read, cache_write=written)


def _minus(one: Usage, other: Usage) -> Usage:
    return Usage(
        input=max(one.input - other.input, 0),
        output=max(one.output - other.output, 0),
        cache_read=max(one.cache_read - other.cache_read, 0),
        cache_write=max(one.cache_write - other.cache_write, 0),
    )
