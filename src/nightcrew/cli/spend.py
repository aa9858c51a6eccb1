"""`nightcrew spend`: what the crew used, what a merged pull request costs, what the caps leave."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import click

from nightcrew.app import App
from nightcrew.cli.show import as_json, cells, fitted, say, width, wrapped
from nightcrew.core import budget
from nightcrew.core.budget import Amount, Entry, Spend
from nightcrew.core.model import Caps, Run, Usage
from nightcrew.core.report import plain
from nightcrew.meter import began

MORNING = time(8)
WAYS: Mapping[str, Callable[[Entry], str]] = {
    "day": lambda e: f"{e.at.astimezone():%Y-%m-%d}",
    "repo": lambda e: e.repo or "none",
    "model": lambda e: e.reported_model or e.model or "default",
    "ticket": lambda e: e.ticket or e.run_id,
    "outcome": lambda e: e.outcome,
    "lane": lambda e: e.lane,
}
COUNTS = ("input", "output", "cache_read", "cache_write")
COLUMNS = {"attempts": "ATTEMPTS", "input": "IN", "output": "OUT", "cache_read": "C.READ", "cache_write": "C.WRITE",
           "tokens": "TOKENS", "money": "REPORTED", "cost": "COMPUTED"}  # fmt: skip


@click.command()
@click.option("--by", type=click.Choice(list(WAYS)), default="day", show_default=True, help="What a line stands for.")
@click.option("--days", type=click.IntRange(1, 3650), default=7, show_default=True, help="How far back, with today.")
@as_json
@click.pass_obj
def spend(config: Path | None, by: str, days: int, as_json: bool) -> None:
    """What was spent: tokens, money as reported and as computed, what a merged pull request costs, and the caps.

    An attempt counts for the day on which it ended; one that still runs, for today. Money is computed from the tokens
    and the bundled price table; for a model that is not in it, it is what the agent reported.
    """
    app, now = App.load(config), datetime.now(UTC)
    since = _midnight(now, days)
    running = app.meter.running()
    entries = [*app.store.ledger.since(since), *running]
    tonight = _tonight(app, now, running) if app.running() else None
    data = {
        "by": by, "days": days, "since": since.isoformat(), "rows": _rows(entries, WAYS[by]),
        "total": _row("total", entries), "merged": _merged(entries, app.store.ledger.merged(since)),
        "caps": _caps(app.meter.spend(), app.config.policy.caps, app.store.runs(ended=False)), "tonight": tonight,
        "prices": sorted({e.prices for e in entries if e.prices}),
    }  # fmt: skip
    say(as_json, data, lambda: _text(data))


def _midnight(now: datetime, days: int) -> datetime:
    here = now.astimezone().date() - timedelta(days=days - 1)
    return datetime.combine(here, time()).astimezone()


# -- what is told ------------------------------------------------------------------------------------------------------
def _rows(entries: Sequence[Entry], way: Callable[[Entry], str]) -> list[dict[str, Any]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(way(entry), []).append(entry)
    return [_row(name, groups[name]) for name in sorted(groups)]


def _row(name: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """What these come to. `cost` is computed money, `priced` how many of the attempts it was computed for."""
    total = sum((entry.usage for entry in entries), Usage())
    return {
        "name": name, "attempts": len(entries), **{key: getattr(total, key) for key in COUNTS}, "tokens": total.tokens,
        "turns": total.turns, "money": round(total.money, 4), "cost": round(sum(e.cost for e in entries), 4),
        "priced": sum(bool(e.prices) for e in entries), "seconds": round(sum(e.seconds for e in entries), 1),
    }  # fmt: skip


def _merged(entries: Iterable[Entry], merged: Mapping[str, int]) -> list[dict[str, Any]]:
    """What a merged pull request costs, by repository: all that was spent there, failures too, by those merged."""
    spent: dict[str, Amount] = {}
    for entry in entries:
        spent[entry.repo] = budget.plus(spent.get(entry.repo, (0, 0.0)), entry.amount)
    return [
        {"repo": repo, "merged": n, "tokens": tokens, "money": round(money, 4),
         "tokens_each": round(tokens / n) if n else None, "money_each": round(money / n, 4) if n else None}
        for repo, (tokens, money) in sorted(spent.items()) for n in [merged.get(repo, 0)]
    ]  # fmt: skip


def _caps(spent: Spend, caps: Caps, active: Iterable[Run]) -> list[dict[str, Any]]:
    """Each cap that is set, for each that it holds for, with what is left; of tickets, active ones past half of it."""
    keys = {f"ticket:{run.id}": run.key for run in active}
    found = []
    for scope, used in sorted({"day": (0, 0.0), "night": (0, 0.0), **spent.by}.items()):
        cap, _, name = scope.partition(":")
        for kind, number in zip(("tokens", "money"), used, strict=True):
            limit = getattr(getattr(caps, cap), kind)
            if limit and (cap != "ticket" or (scope in keys and number >= limit / 2)):
                found.append({"cap": cap, "of": keys.get(scope, name), "kind": kind, "used": number, "limit": limit,
                              "left": max(limit - number, 0)})  # fmt: skip
    return found


def _tonight(app: App, now: datetime, running: Sequence[Entry]) -> dict[str, Any]:
    """What this night comes to when it goes on as in the last hour: until 8 in the morning, after that until noon."""
    _, night = began(now)
    here = night.astimezone()
    until = datetime.combine(here.date() + timedelta(days=1), MORNING).astimezone()
    if now >= until:
        until = datetime.combine(here.date() + timedelta(days=1), here.time()).astimezone()
    entries = [*app.store.ledger.since(night), *running]
    used, within = budget.rate(entries, now)
    spent = (sum(e.amount[0] for e in entries), sum(e.amount[1] for e in entries))
    tokens, money = budget.projected(spent, used, within, until - now)
    return {
        "since": here.isoformat(), "until": until.isoformat(), "spent_tokens": spent[0],
        "spent_money": round(spent[1], 4), "rate_seconds": round(within.total_seconds()), "rate_tokens": used[0],
        "rate_money": round(used[1], 4), "tokens": tokens, "money": round(money, 4),
    }  # fmt: skip


# -- for people --------------------------------------------------------------------------------------------------------
def _text(data: dict[str, Any]) -> str:
    if not data["rows"]:
        return "\n".join([f"Nothing was spent in {_days(data['days'])}.", *_paragraph([_caps_text(data["caps"])])])
    merged = [wrapped(_merged_text(each, data["days"])) for each in data["merged"] if each["repo"]]
    tonight = [wrapped(_tonight_text(data["tonight"]))] if data["tonight"] else []
    rows = [{**row, **{key: _short(row[key], key in ("money", "cost")) for key in COLUMNS}}
            for row in (*data["rows"], data["total"])]  # fmt: skip
    parts = [_table({"name": data["by"].upper(), **COLUMNS}, rows), *_prices_text(data)]
    return "\n".join([*parts, *_paragraph(merged), *_paragraph([_caps_text(data["caps"])]), *_paragraph(tonight)])


def _paragraph(lines: Sequence[str]) -> list[str]:
    said = [line for line in lines if line]
    return ["", *said] if said else []


def _prices_text(data: Mapping[str, Any]) -> list[str]:
    rest = data["total"]["attempts"] - data["total"]["priced"]
    if not data["prices"]:
        return []
    said = f"COMPUTED is by {', '.join(data['prices'])}"
    return [wrapped(f"{said}; {rest} attempts without a price there count as reported." if rest else f"{said}.")]


def _days(days: int) -> str:
    return "the last day" if days == 1 else f"the last {days} days"


def _table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """The first column to the left, numbers to the right; the head and the total stand out."""
    (first, head), *others = columns.items()
    widths = {key: max(len(name), *(len(row[key]) for row in rows)) for key, name in others}
    room = max(width() - sum(w + 1 for w in widths.values()), 8)
    shown = [dict(columns), *({**row, first: fitted(plain(row[first], 200), room)} for row in rows)]
    left = max(len(head), *(cells(row[first]) for row in shown))
    lines = [
        " ".join([row[first] + " " * (left - cells(row[first])), *(row[key].rjust(w) for key, w in widths.items())])
        for row in shown
    ]
    return "\n".join(click.style(line, bold=True) if n == 0 or line.startswith("total ") else line
                     for n, line in enumerate(lines))  # fmt: skip


def _short(number: float, money: bool) -> str:
    """1234567 as 1.2M, dollars as $3.40."""
    if money:
        return f"${number:,.2f}"
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size * 0.99995:
            return f"{number / size:.1f}{letter}" if number < size * 99.95 else f"{number / size:.0f}{letter}"
    return f"{number:.0f}"


def _both(tokens: float, money: float) -> str:
    return f"${money:,.2f} and {_short(tokens, False)} tokens"


def _merged_text(each: Mapping[str, Any], days: int) -> str:
    spent = _both(each["tokens"], each["money"])
    if not each["merged"]:
        return f"{each['repo']}: nothing was merged in {_days(days)}, {spent} were spent."
    price = _both(each["tokens_each"], each["money_each"])
    return f"{each['repo']}: a merged pull request costs {price} ({each['merged']} merged, {spent} spent)."


def _caps_text(caps: Iterable[Mapping[str, Any]]) -> str:
    rows = [_cap_row(cap) for cap in caps]
    return _table({"cap": "CAP", "used": "USED", "limit": "OF", "left": "LEFT"}, rows) if rows else ""


def _cap_row(cap: Mapping[str, Any]) -> dict[str, str]:
    name = f"{cap['cap']} {cap['of']}".strip() + f" {cap['kind']}"
    numbers = {key: _short(cap[key], cap["kind"] == "money") for key in ("used", "limit", "left")}
    return {"cap": name, **numbers, **({} if cap["left"] else {"left": "reached"})}


def _tonight_text(night: Mapping[str, Any]) -> str:
    until = datetime.fromisoformat(night["until"])
    return (
        f"This night until {until:%H:%M}: about {_both(night['tokens'], night['money'])}. "
        f"So far it is {_both(night['spent_tokens'], night['spent_money'])}; the rest goes on at the rate of the last "
        f"{max(night['rate_seconds'] / 60, 1):.0f} min ({_both(night['rate_tokens'], night['rate_money'])})."
    )
