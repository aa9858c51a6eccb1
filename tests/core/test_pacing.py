"""Pacing over readings and loads nobody thought of, and the few rules worth a sentence each."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.core.model import Lane, LaneState, Policy, Window
from nightcrew.core.pacing import ANY, FEW, Load, hear, must_end, slots

NOW = datetime(2026, 11, 23, 22, 0, tzinfo=UTC)
AT = NOW.timestamp()
HOUR, DAY = 3600.0, 86400.0
SHORT = Window("five_hour", 0.0, AT + 4 * HOUR, 5 * HOUR, told_at=AT, capacity=1000.0)
LONG = Window("seven_day", 0.0, AT + 6 * DAY, 7 * DAY, told_at=AT, capacity=10_000.0)
LOAD = Load(typical=100.0, turn=2.0)

shares = st.floats(0.0, 1.0)
counts = st.integers(0, 10**7)
loads = st.builds(
    Load,
    running=st.lists(counts, max_size=40).map(tuple),
    typical=st.floats(0.0, 1e7),
    turn=st.floats(0.0, 1e5),
    most=st.floats(0.0, 1e6),
    before=st.lists(counts, max_size=3).map(tuple),
    waiting=st.lists(counts, max_size=40).map(tuple),
    ended=st.lists(counts, max_size=50).map(tuple),
)
windows = st.builds(
    Window,
    name=st.sampled_from(["five_hour", "seven_day", "seven_day_opus", "primary"]),
    used=shares,
    resets_at=st.floats(AT - 20 * DAY, AT + 7 * DAY),
    seconds=st.sampled_from([0.0, 5 * HOUR, 7 * DAY]),
    told_at=st.floats(AT - DAY, AT),
    warning=st.booleans(),
    capacity=st.sampled_from([0.0, 1.0, 1e3, 1e6, 1e9]),
)
lanes = st.builds(Lane, name=st.just("claude"), windows=st.lists(windows, max_size=4).map(tuple))
policies = st.builds(Policy, keep_back=st.sampled_from([0.0, 0.1, 0.2, 0.5]), pace=st.booleans())
garbage = st.builds(
    Window,
    name=st.text(max_size=5),
    used=st.floats(),
    resets_at=st.floats() | st.integers(),
    seconds=st.floats(),
    told_at=st.floats(),
    capacity=st.floats(),
)


def told(used: float, at: float = 0.0, window: Window = SHORT) -> tuple[Window, ...]:
    return (replace(window, used=used, told_at=AT + at, capacity=0.0),)


def after(*readings: tuple[float, float, int]) -> Window:
    """The window after these readings: share used, seconds from now, our tokens by then."""
    lane = Lane("claude")
    for used, at, tokens in readings:
        lane = hear(lane, told(used, at), tokens)
    return lane.windows[0]


@given(lanes, loads, policies)
def test_slots_are_a_number_of_sessions(lane, load, policy):
    assert 0 <= slots(lane, load, NOW, policy) <= ANY


@given(lanes, loads, policies, st.integers(0, 3), shares)
def test_the_more_is_used_the_fewer_run(lane, load, policy, number, more):
    if number >= len(lane.windows):
        return
    used = list(lane.windows)
    used[number] = replace(used[number], used=max(used[number].used, more))
    assert slots(replace(lane, windows=tuple(used)), load, NOW, policy) <= slots(lane, load, NOW, policy)


@given(lanes, loads, policies)
def test_what_may_run_is_not_ended_at_once(lane, load, policy):
    alone = replace(load, running=())
    if slots(lane, alone, NOW, policy):
        assert must_end(lane, replace(alone, running=(0,)), NOW, policy) is None


@given(lanes, loads, policies)
def test_something_runs_while_a_share_of_ours_is_left(lane, load, policy):
    share = 1 - policy.keep_back - 0.02
    windows = tuple(replace(w, used=min(w.used, share - 0.1), capacity=w.capacity and 1e9) for w in lane.windows)
    small = replace(load, running=(), turn=min(load.turn, 1e5), most=min(load.most, 1e6))
    assert slots(replace(lane, windows=windows), small, NOW, policy) >= 1


@given(shares, policies, loads)
def test_the_share_kept_back_ends_what_runs(used, policy, load):
    lane = Lane("claude", windows=(replace(SHORT, used=used),))
    if policy.keep_back and used >= 1 - policy.keep_back:
        assert must_end(lane, load, NOW, policy)
        assert slots(lane, load, NOW, policy) == 0
    if not policy.keep_back:
        assert must_end(lane, load, NOW, policy) is None


@given(st.lists(st.tuples(garbage, st.integers()), max_size=20), loads, policies)
def test_garbage_never_raises_and_never_stays(readings, load, policy):
    lane = Lane("claude")
    for reading, tokens in readings:
        lane = hear(lane, (reading,), tokens)
    for window in lane.windows:
        assert 0 <= window.used <= 1
        assert window.resets_at > window.told_at or not window.told_at
        assert 0 <= window.capacity < math.inf
    slots(lane, load, NOW, policy)
    must_end(lane, load, NOW, policy)


@given(st.lists(st.tuples(shares, counts), min_size=1, max_size=30))
def test_capacity_is_never_nonsense_whatever_is_told(readings):
    window = after(*((used, 10.0 * n, tokens) for n, (used, tokens) in enumerate(readings)))
    assert 0 <= window.capacity <= 10**7 / 0.01


@pytest.mark.parametrize("bad", [
    {"used": -0.1}, {"used": math.nan}, {"used": 92.0}, {"resets_at": AT - 1}, {"resets_at": AT * 1000},
    {"resets_at": math.nan}, {"resets_at": math.inf}, {"seconds": -1.0}, {"told_at": math.nan},
    {"resets_at": AT + 30 * HOUR},
])  # fmt: skip
def test_a_reading_that_cannot_be_is_ignored(bad):
    lane = hear(Lane("claude"), told(0.3), 100)
    assert hear(lane, (replace(SHORT, **{"used": 0.5, "told_at": AT, **bad}),), 200) == lane


def test_an_older_reading_is_ignored():
    lane = hear(Lane("claude"), told(0.3, at=60), 100)
    assert hear(lane, told(0.2, at=30), 100) == lane
    assert hear(lane, told(0.9, at=90, window=replace(SHORT, resets_at=AT + HOUR)), 100) == lane


def test_capacity_is_the_slope_and_not_what_the_owner_had_used_before():
    readings = [(0.5 + n / 100, n * 30.0, n * 1000) for n in range(31)]
    assert 80_000 < after(*readings).capacity < 100_001  # nearer to it the more is used, from the careful side


def test_what_the_owner_uses_while_we_rest_does_not_count_as_ours():
    at_work = [(n / 100, n * 30.0, n * 1000) for n in range(31)]
    rested = [(0.7, 3 * HOUR, 30_500), (0.71, 3 * HOUR + 30, 31_500)]
    assert after(*at_work, *rested).capacity == pytest.approx(after(*at_work).capacity, rel=0.05)


def test_what_the_owner_uses_beside_us_makes_us_careful():
    both = [(n / 50, n * 30.0, n * 1000) for n in range(46)]
    assert after(*both).capacity == pytest.approx(50_000, rel=0.15)


def test_the_next_window_of_that_name_is_as_large_until_measured():
    measured = [(n / 100, n * 30.0, n * 1000) for n in range(31)]
    lane = Lane("claude", windows=(after(*measured),))
    lane = hear(lane, told(0.01, 5 * HOUR, replace(SHORT, resets_at=AT + 9 * HOUR)), 31_000)
    assert lane.windows[0].capacity > 80_000
    assert (lane.windows[0].first_used, lane.windows[0].first_tokens) == (0.01, 31_000)


def test_a_lane_whose_limit_is_over_and_that_answers_is_up():
    lane = Lane("claude", LaneState.LIMITED, until=NOW, evidence="limit", told_at=NOW - timedelta(hours=1))
    assert hear(lane, told(0.1, at=5), 100).state is LaneState.UP
    assert hear(lane, told(0.1, at=-5), 100).state is LaneState.LIMITED
    assert hear(lane, told(1.0, at=5), 100).state is LaneState.LIMITED


def paced(window: Window, load: Load = LOAD, **policy: float) -> int:
    return slots(Lane("claude", windows=(window,)), load, NOW, Policy(**policy))


def test_a_lane_that_tells_nothing_is_not_held_back():
    assert slots(Lane("claude"), LOAD, NOW, Policy(keep_back=0.2)) == ANY


def test_no_more_run_than_what_is_left_can_finish():
    assert paced(replace(SHORT, used=0.5)) == 5
    assert paced(replace(SHORT, used=0.5), Load((80, 80, 80), 100.0, 2.0)) == 6  # 3 x 40 more, as long ones need
    assert paced(replace(SHORT, used=0.95)) == 1
    assert paced(replace(SHORT, used=0.5), keep_back=0.2) == 3


def test_those_that_were_cut_come_first_and_need_less():
    assert paced(replace(SHORT, used=0.5), Load((), 100.0, 2.0, waiting=(60,) * 20)) == 12


def test_tickets_that_never_end_are_not_taken_to_be_short():
    survivors = Load((), 10.0, 2.0, ended=(10, 10), waiting=(90,) * 4)
    assert paced(replace(SHORT, used=0.5), survivors) < 6


def test_near_the_end_of_a_window_never_measured_few_run():
    unknown = replace(SHORT, capacity=0.0)
    assert paced(replace(unknown, used=0.79)) == ANY
    assert paced(replace(unknown, used=0.8)) == FEW
    assert paced(replace(unknown, used=0.1, warning=True)) == FEW


def test_after_a_pause_few_ask_first():
    assert paced(replace(SHORT, told_at=AT - HOUR)) == FEW


def test_a_full_window_holds_until_it_is_over_and_no_longer():
    full = Lane("claude", windows=(replace(SHORT, used=1.0),))
    assert slots(full, LOAD, NOW, Policy()) == 0
    assert slots(full, LOAD, NOW + timedelta(hours=4), Policy()) == 10  # the next one is as large
    assert slots(full, LOAD, NOW + timedelta(days=30), Policy()) == ANY


def test_a_week_is_spread_over_its_days():
    assert paced(replace(LONG, used=0.2)) == 19  # a seventh is over, and a quarter may be ahead
    assert paced(replace(LONG, used=0.5)) == 1
    assert paced(replace(LONG, used=0.5, resets_at=AT + DAY)) == 50
    assert paced(replace(LONG, used=0.5), pace=False) == ANY


def test_sessions_end_one_turn_before_the_share_kept_back():
    lane, keep = Lane("claude", windows=(replace(SHORT, used=0.7),)), Policy(keep_back=0.2)
    assert must_end(lane, Load((50,), 100.0, 10.0), NOW, keep) is None
    why, until = must_end(lane, Load((50, 50), 100.0, 10.0), NOW, keep)
    assert (why, until) == ("70% of five_hour is used, and 20% is kept back", SHORT.resets_at)
    assert must_end(lane, Load((50, 50), 100.0, 10.0), NOW + timedelta(hours=4), keep) is None
