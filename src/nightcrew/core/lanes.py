"""Lanes: what an ended attempt says about the lane it ran on and about its provider, and who may start there now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from nightcrew.core.lifecycle import backoff, first_line
from nightcrew.core.model import OUT, STARTING, Attempt, Lane, LaneState, Policy, Seat
from nightcrew.core.outcome import RULES, LaneEffect, Outcome

OUT_STATES: dict[Outcome, LaneState] = {
    Outcome.LOGGED_OUT: LaneState.LOGGED_OUT,
    Outcome.OUT_OF_CREDIT: LaneState.NO_CREDIT,
}
"""Which kind of out an outcome means; any other that closes a lane is a misconfiguration."""
BREAKING = frozenset({LaneEffect.BREAK, LaneEffect.COUNT})


def provider_lane(seat: Seat) -> str:
    """The name under which a provider's circuit breaker is kept beside its lanes."""
    return f"provider:{seat.provider}"


def after(
    lanes: Mapping[str, Lane], seat: Seat, ended: Attempt, policy: Policy, now: datetime, jitter: float = 0.0
) -> list[Lane]:
    """What the ended attempt says: the lanes that are different now. An overload is the provider's, not the lane's.

    One whose agent was never started says nothing: what held it back was known before.
    """
    if ended.stage == STARTING:
        return []
    rule = _rule(ended)
    names = {seat.lane: rule}
    if rule is LaneEffect.BREAK:
        names = {provider_lane(seat): rule}
    elif rule is LaneEffect.NONE:
        names[provider_lane(seat)] = rule
    changed = []
    for name, effect in names.items():
        before = lanes.get(name, Lane(name))
        told = _after(before, effect, ended, policy, now, jitter)
        if told != before:
            changed.append(told)
    return changed


def _after(lane: Lane, effect: LaneEffect, ended: Attempt, policy: Policy, now: datetime, jitter: float) -> Lane:
    failures = lane.failures + 1
    told = replace(lane, evidence=first_line(ended.evidence), told_at=now, failures=failures)
    if _older(lane, ended) and (effect is LaneEffect.NONE or effect in BREAKING) and lane.state is not LaneState.UP:
        return lane  # thirty-five sessions that break together are one failure, not thirty-five
    if _closed_for(lane, now, effect):
        return lane
    match effect:
        case LaneEffect.NONE:
            silent = Outcome(ended.outcome) in (Outcome.INFRA, Outcome.CANCELLED) or _mute(ended)
            return lane if silent or lane.state in OUT else Lane(lane.name, windows=lane.windows)
        case LaneEffect.PARK:
            return _parked(lane, told, ended, policy, now, jitter)
        case LaneEffect.BREAK:
            return _broken(told, now + pause(failures, policy, jitter))
        case LaneEffect.COUNT:
            if failures < policy.fast_fails_to_park:
                return replace(lane, failures=failures)
            return _broken(told, now + pause(failures, policy, jitter))
        case LaneEffect.OUT:
            state = OUT_STATES.get(Outcome(ended.outcome), LaneState.MISCONFIGURED)
            return replace(told, state=state, until=None)


def answered(lanes: Mapping[str, Lane], seat: Seat, now: datetime) -> list[Lane]:
    """The lanes that are up again because a reviewer answered there: those that were due for a try."""
    known = [lanes[name] for name in (seat.lane, provider_lane(seat)) if name in lanes]
    closed = (LaneState.LIMITED, LaneState.OVERLOADED)
    due = [lane for lane in known if lane.state in closed and (lane.until is None or lane.until <= now)]
    return [Lane(lane.name, windows=lane.windows) for lane in due]


def _mute(ended: Attempt) -> bool:
    """It ended without one answer of the provider: no word for the lane."""
    return ended.outcome in (Outcome.STALLED, Outcome.CRASHED, Outcome.TIMED_OUT) and not ended.usage.tokens


def _older(lane: Lane, ended: Attempt) -> bool:
    """What began before the lane's trouble was told says nothing about the lane now."""
    return lane.told_at is not None and ended.started_at is not None and ended.started_at < lane.told_at


def _parked(lane: Lane, told: Lane, ended: Attempt, policy: Policy, now: datetime, jitter: float) -> Lane:
    """Limited until the stated reset, the latest of several; without one for a while, and then one goes first."""
    limited = lane.state is LaneState.LIMITED and lane.until is not None and lane.until > now
    rest = now + max(pause(told.failures, policy, jitter), timedelta(seconds=policy.probe_seconds))
    older = _older(lane, ended)
    if ended.resets_at is None:  # what began before a limit that is known, and is heard of after it, tells nothing new
        known = limited or (older and lane.state is LaneState.LIMITED)
        return lane if known else replace(told, state=LaneState.LIMITED, until=rest, probe=True)
    until = max(datetime.fromtimestamp(ended.resets_at, UTC) + timedelta(seconds=policy.reset_grace), now)
    if limited and (older or not lane.probe) and lane.until is not None and lane.until >= until:
        return lane
    if until < rest and lane.failures and not older:  # it said so before, and that was not true
        return replace(told, state=LaneState.LIMITED, until=rest, probe=True)
    # What began before the trouble may lengthen it; when the trouble was told stays, or all would be older for ever.
    at, failures = (lane.told_at, lane.failures) if older else (now, told.failures)
    return replace(told, state=LaneState.LIMITED, until=until, probe=False, told_at=at, failures=failures)


def _broken(told: Lane, until: datetime) -> Lane:
    return replace(told, state=LaneState.OVERLOADED, until=until, probe=True)


def pause(failures: int, policy: Policy, jitter: float) -> timedelta:
    """How long to leave it alone: the first time the base, then never less than `probe_seconds`."""
    wait = backoff(failures, policy, jitter)
    return wait if failures <= 1 else max(wait, timedelta(seconds=policy.probe_seconds))


def _closed_for(lane: Lane, now: datetime, effect: LaneEffect) -> bool:
    """Whether the lane is closed for longer than this would close it: an overload does not shorten a limit."""
    limited = lane.state is LaneState.LIMITED and lane.until is not None and lane.until > now
    return (limited and effect in BREAKING) or (lane.state in OUT and effect is not LaneEffect.OUT)


def _rule(ended: Attempt) -> LaneEffect:
    if ended.outcome == Outcome.MISCONFIGURED and ended.resume and ended.stage != "gates":
        return LaneEffect.NONE  # the session is gone, not the lane: the next try is a fresh session
    return RULES[Outcome(ended.outcome)].lane


def opens(lane: Lane, now: datetime, tried: bool) -> bool:
    """May one more attempt start here? Where nobody said until when it is closed, one goes first.

    `tried` says that an attempt is on its way that began after the lane's trouble was told.
    """
    match lane.state:
        case LaneState.UP:
            return True
        case LaneState.LIMITED | LaneState.OVERLOADED:
            return (lane.until is None or lane.until <= now) and not (lane.probe and tried)
        case _:
            return False


def says(lane: Lane, now: datetime) -> str:
    """Why nothing starts on it now, in words."""
    if lane.state in OUT:
        return f"lane {lane.name} is {lane.state.value.replace('_', ' ')}: {lane.evidence}"
    if lane.until and lane.until > now:
        return f"lane {lane.name} is {lane.state.value} until {lane.until.astimezone():%a %H:%M:%S}: {lane.evidence}"
    return f"lane {lane.name} is tried by one attempt first: {lane.evidence}"
