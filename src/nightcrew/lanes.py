"""The lanes of a crew: what they are told while sessions run, by the people who pause them, and who hears of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from nightcrew.core import pacing
from nightcrew.core.model import OUT, Lane, LaneState
from nightcrew.core.outcome import Outcome
from nightcrew.core.view import Park, Up
from nightcrew.crew import Crew

log = logging.getLogger("nightcrew.lanes")
RENEWED_BEFORE = 300.0
"""Seconds before its end in which a short-lived login is renewed by whoever uses it first."""


def change(crew: Crew, lane: Lane, why: str = "") -> None:
    """Write a lane as it is now, and tell of it when its state is another one."""
    before = crew.store.lanes()
    crew.store.save_lane(lane)
    tell(crew, before, [lane], why)


def tell(crew: Crew, before: Mapping[str, Lane], now: Iterable[Lane], why: str = "") -> None:
    """Tell of each lane whose state is another one."""
    for kind, data in news(before, now, why):
        crew.store.event(kind, **data)


def news(before: Mapping[str, Lane], now: Iterable[Lane], why: str = "") -> list[tuple[str, dict[str, Any]]]:
    """One event for each lane whose state is another one; what a person must act on is an alarm, once."""
    found: list[tuple[str, dict[str, Any]]] = []
    for lane in now:
        if lane.state is before.get(lane.name, Lane(lane.name)).state:
            continue
        said = why or lane.evidence
        found.append(_news(f"lane.{lane.state}", lane=lane.name, evidence=said, until=lane.until))
        log.warning("lane.changed", extra={"lane": lane.name, "state": lane.state, "why": said})
        if lane.state in OUT and lane.state is not LaneState.PAUSED:
            found.append(_news("alarm", lane=lane.name, state=lane.state, evidence=said, cure=cure(lane)))
    return found


def _news(kind: str, **data: object) -> tuple[str, dict[str, Any]]:
    return kind, data


def cure(lane: Lane) -> str:
    """What a person does about a lane that is out."""
    if lane.state is LaneState.LOGGED_OUT:
        return f"`nightcrew lanes login {lane.name}`"
    return f"mend it, then `nightcrew lanes resume {lane.name}`"


def by_hand(crew: Crew, kind: str, name: str) -> None:
    """`lanes pause` and `lanes resume`: the lane of that name, or with "" all that something is known of."""
    known = crew.store.lanes()
    for lane in [known.get(name, Lane(name))] if name else list(known.values()):
        if kind == "pause":
            paused = replace(lane, state=LaneState.PAUSED, until=None, evidence="paused by hand", told_at=crew.now())
            change(crew, paused)
        elif lane.state in OUT or (name and lane.state is not LaneState.UP):
            up(crew, lane, "resumed by hand")


def up(crew: Crew, lane: Lane, why: str) -> None:
    """The lane may be used again; what its windows said is kept."""
    change(crew, Lane(lane.name, windows=lane.windows), why)


def turn(crew: Crew, action: Park | Up) -> None:
    """Take a lane back in, or park it: then its sessions end, to be gone on with when the window is over."""
    lane, why = action.lane, action.why
    if isinstance(action, Up):
        return up(crew, lane, why)
    limited = replace(lane, state=LaneState.LIMITED, until=action.until, evidence=why, told_at=crew.now(), probe=False)
    change(crew, limited)
    for attempt in crew.store.open_attempts():
        if (live := crew.live.get(attempt.run_id)) and attempt.lane == lane.name:
            live.cancel(Outcome.RATE_LIMITED, why)
    return None


def hear(crew: Crew) -> None:
    """Write down what running sessions were told of their provider's windows."""
    known, now = crew.store.lanes(), crew.now().timestamp()
    for attempt in crew.store.open_attempts():
        live = crew.live.get(attempt.run_id)
        if not live or not live.progress.windows:
            continue
        told = tuple(replace(w, told_at=w.told_at or now) for w in live.progress.windows)
        before = known.get(attempt.lane, Lane(attempt.lane))
        after = pacing.hear(before, told, crew.meter.tokens(attempt.lane))
        live.progress.windows = ()
        if after != before:
            known[attempt.lane] = after
            change(crew, after, "it answers again")


def renewing(crew: Crew) -> frozenset[str]:
    """Lanes whose short-lived login has to be renewed now: one session does that, the others wait for it."""
    ends = crew.now().timestamp() + RENEWED_BEFORE
    logins = ((agent.seat.lane, agent.login(crew.now())) for agent in crew.agents.values())
    return frozenset(lane for lane, login in logins if login.kind == "file" and (login.expires_at or ends) < ends)
