"""What an ended attempt says about its lane and its provider, and who may start there."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.core import lanes
from nightcrew.core.model import OUT, STARTING, Attempt, Lane, LaneState, Policy, Seat, Window
from nightcrew.core.outcome import RULES, LaneEffect, Outcome

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
POLICY = Policy()
SEAT = Seat("anthropic", "", "claude")
PROVIDER = "provider:anthropic"
LATER = NOW + timedelta(hours=4)


def ended(outcome: Outcome, **more: object) -> Attempt:
    kept = Attempt("b:1", 1, "claude", "sonnet", "session", False, 1, outcome=outcome.value, evidence="because")
    return replace(kept, started_at=NOW, **more)


def after(known: dict[str, Lane], attempt: Attempt, now: datetime = NOW, policy: Policy = POLICY) -> dict[str, Lane]:
    return {**known, **{lane.name: lane for lane in lanes.after(known, SEAT, attempt, policy, now)}}


def test_a_limit_parks_the_lane_until_the_stated_reset():
    lane = after({}, ended(Outcome.RATE_LIMITED, resets_at=LATER.timestamp()))["claude"]
    assert (lane.state, lane.until, lane.probe) == (LaneState.LIMITED, LATER + timedelta(seconds=2), False)
    assert lanes.opens(lane, lane.until, tried=True)  # the provider said when: all may go on then
    assert not lanes.opens(lane, LATER, tried=False)


def test_an_attempt_given_back_before_its_agent_was_started_says_nothing_of_the_lane():
    limited = after({}, ended(Outcome.RATE_LIMITED, resets_at=LATER.timestamp()))
    held = ended(Outcome.RATE_LIMITED, stage=STARTING)
    assert after(limited, held, LATER + timedelta(minutes=1)) == limited  # settled after the reset: it parks nothing
    assert after({}, held) == {}


def test_a_limit_that_does_not_say_until_when_is_tried_by_one_after_a_minute():
    lane = after({}, ended(Outcome.RATE_LIMITED))["claude"]
    assert lane.until >= NOW + timedelta(seconds=POLICY.probe_seconds)
    assert lanes.opens(lane, lane.until, tried=False)
    assert not lanes.opens(lane, lane.until, tried=True)


def test_a_limit_without_a_reset_from_before_a_known_one_closes_the_lane_no_longer():
    limited = after({}, ended(Outcome.RATE_LIMITED, resets_at=LATER.timestamp()), NOW + timedelta(seconds=5))
    assert after(limited, ended(Outcome.RATE_LIMITED), LATER + timedelta(minutes=1)) == limited


def test_of_two_stated_resets_the_later_one_holds():
    first = ended(Outcome.RATE_LIMITED, resets_at=LATER.timestamp())
    both = after(after({}, first), ended(Outcome.RATE_LIMITED, resets_at=NOW.timestamp() + 60))
    assert both["claude"].until == LATER + timedelta(seconds=POLICY.reset_grace)
    assert after(both, ended(Outcome.RATE_LIMITED))["claude"] == both["claude"]


def test_an_overload_is_the_providers_and_rests_all_its_lanes():
    known = after({}, ended(Outcome.OVERLOADED))
    assert known[PROVIDER].state is LaneState.OVERLOADED
    assert "claude" not in known


def test_sessions_that_break_together_are_one_failure():
    known = after({}, ended(Outcome.OVERLOADED))
    for second in range(34):
        together = replace(ended(Outcome.OVERLOADED), started_at=NOW - timedelta(minutes=1))
        known = after(known, together, NOW + timedelta(seconds=second / 10))
    assert known[PROVIDER].failures == 1


def test_a_provider_that_goes_on_failing_is_tried_once_a_minute_at_most_and_ever_more_seldom():
    known, now, waits = after({}, ended(Outcome.OVERLOADED)), NOW, []
    for _ in range(6):
        waits.append((known[PROVIDER].until - now).total_seconds())
        now = known[PROVIDER].until
        known = after(known, replace(ended(Outcome.OVERLOADED), started_at=now), now + timedelta(seconds=1))
        now += timedelta(seconds=1)
    assert waits[0] == POLICY.backoff_base
    assert all(wait >= POLICY.probe_seconds for wait in waits[1:])
    assert waits == sorted(waits)


def test_an_overload_shortens_no_limit_and_opens_no_lane_that_is_out():
    parked = Lane(PROVIDER, LaneState.LIMITED, LATER, "session limit", NOW, 1)
    assert after({PROVIDER: parked}, ended(Outcome.OVERLOADED))[PROVIDER] == parked
    out = Lane("claude", LaneState.LOGGED_OUT, None, "logged out", NOW, 1)
    assert after({"claude": out}, ended(Outcome.RATE_LIMITED, resets_at=NOW.timestamp()))["claude"] == out


def test_three_fast_failures_park_the_lane():
    known: dict[str, Lane] = {}
    for expected in (LaneState.UP, LaneState.UP, LaneState.OVERLOADED):
        known = after(known, ended(Outcome.FAST_FAIL))
        assert known["claude"].state is expected


def test_a_success_puts_lane_and_provider_right_again_and_keeps_what_windows_said():
    windows = (Window("five_hour", 0.5, LATER.timestamp()),)
    known = {name: Lane(name, LaneState.OVERLOADED, NOW, "529", NOW - timedelta(hours=1), 7, True, windows)
             for name in ("claude", PROVIDER)}  # fmt: skip
    known = after(known, ended(Outcome.DONE))
    assert known == {name: Lane(name, windows=windows) for name in known}


def test_what_began_before_the_limit_was_told_does_not_lift_it():
    known = {"claude": Lane("claude", LaneState.LIMITED, LATER, "limit", NOW, 1)}
    older = replace(ended(Outcome.GATE_FAILED), started_at=NOW - timedelta(minutes=5))
    assert after(known, older) == known
    assert after(known, replace(older, started_at=NOW + timedelta(hours=5)))["claude"] == Lane("claude")


@pytest.mark.parametrize("outcome", [o for o, r in RULES.items() if r.lane is LaneEffect.OUT])
def test_what_only_a_person_can_mend_takes_the_lane_out(outcome):
    lane = after({}, ended(outcome))["claude"]
    assert lane.state in OUT
    assert (lane.until, lane.evidence) == (None, "because")
    assert after({"claude": lane}, ended(Outcome.DONE))["claude"] == lane  # only a person takes it back in


def test_a_session_the_agent_does_not_know_leaves_the_lane_up():
    assert after({}, ended(Outcome.MISCONFIGURED, resume=True)) == {}


@given(
    st.lists(st.tuples(st.sampled_from(list(Outcome)), st.integers(0, 4000), st.booleans()), max_size=40),
    st.floats(0, 1),
)
def test_whatever_happens_a_lane_says_why_it_is_closed_and_how_it_opens_again(history, jitter):
    known: dict[str, Lane] = {}
    now = NOW
    for outcome, seconds, stated in history:
        now += timedelta(seconds=seconds)
        resets = now.timestamp() + 100 if stated else None
        attempt = replace(ended(outcome, resets_at=resets), started_at=now - timedelta(seconds=seconds / 2))
        known |= {lane.name: lane for lane in lanes.after(known, SEAT, attempt, POLICY, now, jitter)}
        for lane in known.values():
            if lane.state is not LaneState.UP:
                assert lane.evidence
                assert lanes.says(lane, now)
                assert lane.told_at is not None
            if lane.state in (LaneState.LIMITED, LaneState.OVERLOADED):
                assert lane.until is not None
                assert lanes.opens(lane, lane.until, tried=False)
