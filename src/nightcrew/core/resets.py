"""When a limit ends, from what a provider says about it: epochs, durations, HTTP dates, clock times in a named zone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo

__all__ = ["reset_from_epoch", "reset_from_header", "reset_from_text"]

_FARTHEST = timedelta(days=400).total_seconds()
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_UNITS = {"ms": 0.001, "millisecond": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0,
          "minute": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0}  # fmt: skip

_LEAD = r"\b(?:resets?|try again|retry(?:ing)?|regain access|available(?: again)?|renews?|until|wait)\b"
_UNIT = r"(?:milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
_SPAN = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,9}})?)\s*({_UNIT})", re.I)
_DURATION = re.compile(
    rf"{_LEAD}\s*(?:in|after|for)?\s*(?:about\s+)?((?:\d{{1,9}}(?:\.\d{{1,9}})?\s*{_UNIT}[\s,]*(?:and\s+)?){{1,6}})",
    re.I,
)
_HEADER = re.compile(
    r"retry[-_ ]after(?P<ms>[-_ ]ms)?[\"']?\s*[:= ]\s*[\"']?"
    r"(?P<value>\d{1,9}(?:\.\d{1,9})?(?![\d.]*\s*[a-z:\d])|[a-z]{3}, \d{1,2} [a-z]{3} \d{4} \d\d:\d\d:\d\d gmt)",
    re.I,
)
_EPOCH = re.compile(
    r"(?:\bresets?(?:[-_ ]?at)?[\"']?\s*[:=]?\s*|limit reached\|)(\d{10}(?:\d{3})?)(?:\.\d+)?(?!\d)", re.I
)
_CLOCK = r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d)(?::\d\d)?)?\s*(?P<half>[ap]\.?m\b\.?)?"
_DAY = (
    r"(?:(?P<iso>\d{4}-\d\d-\d\d)"
    rf"|(?P<month>{'|'.join(_MONTHS)})[a-z]*\.?\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s+(?P<year>20\d\d))?"
    rf"|(?P<name>today|tomorrow|{'|'.join(_DAYS)})[a-z]*)"
)
_ZONE = r"(?:\s*\(?(?P<zone>[A-Z][A-Za-z_]*(?:/[A-Za-z0-9_+-]+){1,2}|UTC|GMT|Z)\b\)?)?(?P<offset>[+-]\d\d:?\d\d)?"
_MOMENT = re.compile(
    rf"{_LEAD}(?:\s+(?:at|on|after|by))?:?\s+(?:{_DAY}(?:(?:,|\s+at|T|\s)\s*{_CLOCK})?|{_CLOCK.replace('P<', 'P<b_')})"
    rf"(?-i:{_ZONE})",
    re.I,
)  # fmt: skip


def reset_from_epoch(value: object, now: datetime) -> float | None:
    """An epoch in seconds or milliseconds as epoch seconds; None for what is none or lies more than 400 days off."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    seconds = seconds / 1000 if seconds > 1e11 else seconds
    return seconds if math.isfinite(seconds) and abs(seconds - now.timestamp()) < _FARTHEST else None


def reset_from_header(value: str, now: datetime) -> float | None:
    """A Retry-After header, seconds or an HTTP date, as epoch seconds; None when it is neither."""
    try:
        seconds = now.timestamp() + float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    return reset_from_epoch(seconds, now)


def reset_from_text(text: str, now: datetime) -> float | None:
    """When the limit that `text` tells of ends, in epoch seconds; None when it does not say.

    A clock time without a date is the next one; one without a zone is in `now`'s. The minute that is running counts as
    still to come, since the providers cut the seconds off.
    """
    text = text[:4000]
    return next((at for at in _readings(text, now) if at is not None), None)


def _readings(text: str, now: datetime) -> Iterator[float | None]:
    if found := _EPOCH.search(text):
        yield reset_from_epoch(int(found[1]), now)
    if found := _HEADER.search(text):
        value = str(float(found["value"]) / 1000) if found["ms"] else found["value"]
        yield reset_from_header(value, now)
    if found := _DURATION.search(text):
        spans = [float(amount) * _UNITS[_unit(unit)] for amount, unit in _SPAN.findall(found[1])]
        yield reset_from_epoch(now.timestamp() + sum(spans), now)
    for moment in _MOMENT.finditer(text):
        yield _moment(moment, now)


def _unit(word: str) -> str:
    word = word.lower()
    return word if word in _UNITS else word.removesuffix("s")


def _moment(found: re.Match[str], now: datetime) -> float | None:
    zone = _zone(found["zone"], found["offset"], now)
    try:
        here = now.astimezone(zone)
        clock = _clock(found)
        if clock is None:
            return None
        at = min((day for day in _days(found, here, clock) if _ahead(day, here)), default=None)
        return reset_from_epoch(at.timestamp(), now) if at else None
    except (ValueError, OverflowError, OSError):
        return None


def _ahead(at: datetime, here: datetime) -> bool:
    return at + timedelta(minutes=1) > here


def _clock(found: re.Match[str]) -> time | None:
    """The stated time of day, midnight for a bare date, None for a bare number (which is no time)."""
    hour, minute, half = (found[name] or found[f"b_{name}"] for name in ("hour", "minute", "half"))
    if hour is None:
        return time()
    if minute is None and half is None:
        return None
    number = int(hour)
    if half:
        if not 1 <= number <= 12:
            return None
        number = number % 12 + (12 if half[0] in "pP" else 0)
    return time(number, int(minute or 0))


def _days(found: re.Match[str], here: datetime, clock: time) -> Iterator[datetime]:
    """The moments the words may mean, nearest first."""
    for day in _dates(found, here.date()):
        yield datetime.combine(day, clock, here.tzinfo)


def _dates(found: re.Match[str], today: date) -> Iterator[date]:
    if found["iso"]:
        yield date.fromisoformat(found["iso"])
    elif found["month"]:
        month, day = _MONTHS.index(found["month"].lower()) + 1, int(found["day"])
        years = [int(found["year"])] if found["year"] else [today.year, today.year + 1]
        yield from (date(year, month, day) for year in years)
    elif (name := (found["name"] or "").lower()) in _DAYS:
        ahead = (_DAYS.index(name) - today.weekday()) % 7
        yield from (today + timedelta(days=ahead + week) for week in (0, 7))
    elif name:
        yield today + timedelta(days=name == "tomorrow")
    else:
        yield from (today + timedelta(days=ahead) for ahead in (0, 1))


def _zone(name: str | None, offset: str | None, now: datetime) -> tzinfo:
    if offset:
        sign = -1 if offset[0] == "-" else 1
        hours, minutes = int(offset[1:3]), int(offset[-2:])
        return timezone(sign * timedelta(hours=min(hours, 23), minutes=min(minutes, 59)))
    if name in {"UTC", "GMT", "Z"}:
        return UTC
    try:
        return ZoneInfo(name) if name else now.tzinfo or UTC
    except (KeyError, ValueError, OSError):
        return now.tzinfo or UTC
