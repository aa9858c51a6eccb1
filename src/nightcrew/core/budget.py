"""Budget: what was spent, by scope, against the caps (I4): asked before every dispatch, and while a session streams.

An attempt counts for the day and the night in which it ends; one that runs still, for those that are now.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from statistics import median

from nightcrew.core.model import Budget, Caps, Usage
from nightcrew.core.outcome import Outcome, Stop

RATE_WINDOW = timedelta(minutes=3)
"""What "the last few minutes" are to the breaker on the rate of spend."""
RATE_FLOOR = 500_000
"""Tokens in that window below which no session is too fast: a small one may be many times the usual."""
RATE_KNOWN = 10
"""Ended sessions of an agent it takes to know what is usual."""
TRIPS = 3
"""So many sessions that were too fast within `TRIPS_WINDOW` are no accident of a ticket: the lane is closed."""
TRIPS_WINDOW = timedelta(minutes=30)

Amount = tuple[int, float]
"""Tokens, and US dollars."""


@dataclass(frozen=True)
class Entry:
    """An attempt as the ledger has it. One that still runs has the outcome "running", and `at` is now.

    `seconds` are of the whole attempt; `cost` is computed with `prices`, "" when the model is not in that table.
    """

    run_id: str
    number: int
    at: datetime
    ticket: str
    repo: str
    lane: str
    agent: str
    model: str = ""
    reported_model: str = ""
    outcome: str = ""
    usage: Usage = Usage()
    cost: float = 0.0
    prices: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> tuple[str, int]:
        return self.run_id, self.number

    @property
    def amount(self) -> Amount:
        """Its tokens; and its money, as reported or as computed: the larger."""
        return self.usage.tokens, max(self.usage.money, self.cost)


@dataclass(frozen=True)
class Spend:
    """Tokens and money by scope: "ticket:<run id>", "repo:<name>", "lane:<name>", "day", "night"; running sessions
    included."""

    by: Mapping[str, tuple[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Over:
    """A cap that is reached: which (a field of Caps, or "attempt"), of what ("tokens" or "money"), in one sentence."""

    cap: str
    kind: str
    says: str

    @property
    def stop(self) -> Stop:
        """What it means for a session that runs."""
        return Stop(Outcome.TOKEN_CAP if self.kind == "tokens" else Outcome.MONEY_CAP, self.says, self.cap)


def scopes(run_id: str, repo: str, lane: str) -> tuple[str, ...]:
    """What a session of this run on this lane counts for."""
    return (f"ticket:{run_id}", f"repo:{repo}", f"lane:{lane}", "day", "night")


def tally(entries: Iterable[Entry], day: datetime, night: datetime) -> dict[str, Amount]:
    """What the entries come to, by scope. `day` and `night` are when those that are now began."""
    by: dict[str, Amount] = {}
    for entry in entries:
        ticket, repo, lane, *_ = scopes(entry.run_id, entry.repo, entry.lane)
        counts = [ticket, *((repo, lane, "day") if entry.at >= day else ()), *(("night",) if entry.at >= night else ())]
        for scope in counts:
            by[scope] = plus(by.get(scope, (0, 0.0)), entry.amount)
    return by


def plus(one: Amount, other: Amount) -> Amount:
    return one[0] + other[0], one[1] + other[1]


def over(spend: Spend, scoped: Iterable[str], caps: Caps) -> Over | None:
    """The first cap that is reached by one of these scopes, tokens before money; None when all have room."""
    listed = tuple(scoped)
    for kind in ("tokens", "money"):
        for scope in listed:
            cap, _, name = scope.partition(":")
            used = spend.by.get(scope, (0, 0.0))[kind == "money"]
            limit = getattr(getattr(caps, cap), kind)
            if limit and used >= limit:
                return Over(cap, kind, _reached(cap, name, kind, used, limit))
    return None


def _reached(cap: str, name: str, kind: str, used: float, limit: float) -> str:
    who = {"ticket": "this ticket", "repo": f"repository {name}", "lane": f"lane {name}"}.get(cap, "the crew")
    when = {"ticket": "", "night": " this night"}.get(cap, " today")
    then = {"ticket": "", "night": "; it goes on at noon, or once that is raised"}.get(
        cap, "; it goes on at midnight, or once that is raised"
    )
    return f"{who} has used {amount(used, kind)}{when}, [limits.{cap}] {kind} is {amount(limit, kind)}{then}"


def amount(number: float, kind: str) -> str:
    """Tokens or money for people."""
    return f"{number:,.0f} tokens" if kind == "tokens" else f"${number:,.2f}"


def attempt_over(used: Amount, budget: Budget) -> Over | None:
    """Whether an attempt has used up its own budget."""
    for kind, spent, limit in (("tokens", used[0], budget.tokens), ("money", used[1], budget.money)):
        if limit and spent >= limit:
            says = f"{amount(spent, kind)} used, the cap of an attempt is {amount(limit, kind)} ([limits.attempt])"
            return Over("attempt", kind, says)
    return None


def repeats(same_calls: int, last: str, budget: Budget) -> Stop | None:
    """Why a session that makes the same tool call over and over has to end."""
    if not budget.same_calls or same_calls < budget.same_calls:
        return None
    return Stop(Outcome.AGENT_ERROR, f"the same tool call {same_calls} times in a row: {last}")


# -- the rate of spend -------------------------------------------------------------------------------------------------
def usual(ended: Sequence[Entry]) -> float:
    """Tokens a minute that are usual: the median of these attempts; 0 when they are too few to say."""
    rates = [e.usage.tokens * 60 / e.seconds for e in ended if e.seconds > 0 and e.usage.tokens]
    return median(rates) if len(rates) >= RATE_KNOWN else 0.0


def too_fast(told: Sequence[tuple[datetime, int]], usually: float, factor: float) -> str:
    """Why a session spends too fast, "" when it does not. `told` is how much it had used when, oldest first.

    What is told at once was used since the last time something was told: a session that tells all at its end is not
    too fast. Less than a minute counts as one.
    """
    if not usually or not factor or len(told) < 2:
        return ""
    (began, before), (now, used) = told[0], told[-1]
    minutes = max((now - began).total_seconds() / 60, 1.0)
    if used - before < RATE_FLOOR or (used - before) / minutes <= factor * usually:
        return ""
    return (
        f"it used {used - before:,} tokens in {minutes:.0f} min, {usually:,.0f} a minute are usual: "
        f"more than [limits] rate_factor ({factor:g}) times that"
    )


def in_window(told: Sequence[tuple[datetime, int]], now: datetime) -> int:
    """How many of the first ones `too_fast` needs no more: the last one before the window is where it begins."""
    return max(sum(at <= now - RATE_WINDOW for at, _ in told) - 1, 0)


def tripped(why: str, agent: str, trips: Sequence[datetime], now: datetime) -> Stop:
    """What follows when a session is too fast. Several within half an hour are no fault of their tickets.

    `trips` are all of that agent, this one included.
    """
    lately = sum(now - at <= TRIPS_WINDOW for at in trips)
    if lately < TRIPS:
        return Stop(Outcome.TOKEN_CAP, why, "rate")
    return Stop(Outcome.MISCONFIGURED, f"{lately} sessions of {agent} spent too fast within half an hour: {why}")


# -- which model answers -----------------------------------------------------------------------------------------------
ANY_MODEL = frozenset({"", "default", "best"})
PLANS = {"opusplan": ("opus", "sonnet")}
_EFFORT = r"-(minimal|low|medium|high|xhigh)$"
_VENDORS = (
    r"^(?:(?:us|eu|apac|global|us-gov|jp|au|ca)\.)?(?:anthropic|openai|google|meta|mistral|amazon|deepseek|qwen)[.]"
)
_DATE = r"[-@](?:20\d{6}|20\d\d-\d\d-\d\d)(?=-|$)"


def plain_model(name: str) -> str:
    """A model's name without what says where it is served or of which day it is.

    >>> plain_model("us.anthropic.claude-opus-4-1-20250805-v1:0"), plain_model("models/gpt-5-2025-08-07")
    ('claude-opus-4-1', 'gpt-5')
    """
    found = name.strip().lower().rpartition("/")[2]
    found = re.sub(_VENDORS, "", re.sub(r"\[.*?\]", "", found))
    found = re.sub(r"-v\d+(:\d+)?$", "", found)
    found = re.sub(r"[-:@](latest|default)$", "", re.sub(_DATE, "", found))
    return re.sub(r"[._:\s]+", "-", re.sub(_EFFORT, "", found)).strip("-")


@lru_cache(maxsize=1024)  # asked whenever a session says something
def same_model(allowed: str, reported: str) -> bool:
    """Whether the reported model is the allowed one: by name, or by the name of its line ("sonnet", "codex")."""
    one, other = plain_model(allowed), plain_model(reported)
    if one in ANY_MODEL or other == "" or allowed.startswith("arn:"):
        return True  # an ARN may stand for any model: only the provider knows
    if one in PLANS:
        return any(same_model(each, reported) for each in PLANS[one])
    asked, told = _words(one), _words(other)
    return asked == told or _line(asked, other) or _line(told, one)


def _words(plain: str) -> Counter[str]:
    words = plain.split("-")
    return Counter(words[:-1] if len(words) > 2 and words[-1] == "0" else words)  # 4-0 is 4


def _line(short: Counter[str], long: str) -> bool:
    """Whether the short name means the long one: only its maker's word is left out, and the version with it."""
    more = _words(long)
    if short - more:
        return False
    maker, versioned = long.partition("-")[0], any(word.isdigit() for word in short)
    return all(word == maker or (word.isdigit() and not versioned) for word in more - short)


def wrong_model(agent: str, asked: str, reported: str, ladder: Sequence[str]) -> str:
    """Why the model that the provider reports is none that may be used, "" when it may.

    Allowed are those of the agent's ladder and the one that was asked for; with neither, any.
    """
    allowed = [*ladder, *([asked] if asked or not ladder else [])]
    if not reported or any(same_model(name, reported) for name in allowed):
        return ""
    return (
        f'the provider reports the model "{reported}", but "{asked or "the default"}" was asked for: '
        f"[agents.{agent}] models names {', '.join(ladder) or 'none'}; correct it, or add the model if you mean it"
    )


# -- the rest of the night ---------------------------------------------------------------------------------------------
def rate(entries: Iterable[Entry], now: datetime, longest: timedelta = timedelta(hours=1)) -> tuple[Amount, timedelta]:
    """What was used in the last hour, each attempt's spend spread evenly over its time; and how long that was.

    It is less than an hour when the first of them began later.
    """
    spans = [(entry.at - timedelta(seconds=entry.seconds), entry) for entry in entries]
    began = max(min((start for start, _ in spans), default=now), now - longest)
    used: Amount = (0, 0.0)
    for start, entry in spans:
        inside = (entry.at - max(start, began)).total_seconds()
        share = min(inside / entry.seconds, 1.0) if entry.seconds > 0 else float(entry.at >= began)
        tokens, money = entry.amount
        used = plus(used, (round(tokens * max(share, 0.0)), money * max(share, 0.0)))
    return used, now - began


def projected(spent: Amount, used: Amount, within: timedelta, left: timedelta) -> Amount:
    """What it comes to when the rate stays: `used` `within` that time, for what is `left`."""
    times = left / within if within > timedelta() else 0.0
    return spent[0] + round(used[0] * times), spent[1] + used[1] * times
