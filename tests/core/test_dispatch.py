"""What waits for what: sessions for their lane, finished work for its reviewer, lanes for one who goes first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from nightcrew.core import lanes, lifecycle, pacing
from nightcrew.core.model import (
    Attempt,
    GateSettings,
    Lane,
    LaneState,
    Policy,
    Repo,
    Run,
    RunState,
    Seat,
    Ticket,
    Usage,
    Window,
)
from nightcrew.core.outcome import Outcome
from nightcrew.core.schedule import Start, View, decide, held, idle

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
POLICY = Policy()
SEAT = Seat("anthropic", "", "claude")
TICKET = Ticket("b", "1", "K-1", "a title", repo="one")
RUN = Run("b:1", "b", "1", "K-1", "a title", repo="one", branch="nightcrew/k-1", shown="open", created_at=NOW)
BOTH = View(tickets=(TICKET,), runs=(RUN,), repos=(Repo("one", "/one"),), agents=("claude", "codex"),
            ladders={"claude": (), "codex": ()})  # fmt: skip
ONE = replace(BOTH, agents=("claude",))
REVIEWED = replace(ONE, runs=(replace(RUN, pending_head="abc"),),
                   repos=(Repo("one", "/one", gates=GateSettings(review="codex")),))  # fmt: skip
RESUMED = replace(RUN, session_id="s", agent="claude")
AT_WORK = replace(RUN, id="b:9", ticket_id="9", key="K-9", state=RunState.WORKING)
SESSION = Attempt("b:9", 1, "claude", "", "", False, 0, "session", started_at=NOW)


def starts(view: View, policy: Policy = POLICY) -> list[Start]:
    return [action for action in decide(view, NOW, policy) if isinstance(action, Start)]


def limited(name: str, until: datetime = NOW + timedelta(hours=5)) -> dict[str, Lane]:
    return {name: Lane(name, LaneState.LIMITED, until, "limit", NOW)}


def out(name: str, state: LaneState) -> dict[str, Lane]:
    return {name: Lane(name, state, None, "by a test", NOW)}


# ---- a session waits for its own lane


def test_a_session_waits_for_its_own_lane_when_that_is_merely_full():
    view = replace(BOTH, runs=(RESUMED, AT_WORK), attempts=(SESSION,))
    policy = Policy(lanes={"claude": 1})
    assert starts(view, policy) == []
    assert held(view, NOW, policy) == {RUN.id: "lane claude has 1 of 1 at work"}
    (freed,) = starts(replace(view, runs=(RESUMED,), attempts=()), policy)
    assert (freed.agent, freed.resume) == ("claude", True)


def test_a_session_waits_while_the_login_of_its_lane_is_renewed():
    view = replace(BOTH, runs=(RESUMED, AT_WORK), attempts=(SESSION,), renewing=frozenset({"claude"}))
    assert starts(view) == []
    assert list(held(view, NOW, POLICY)) == [RUN.id]


def test_what_has_no_session_yet_takes_the_next_lane_when_the_first_is_full():
    view = replace(BOTH, runs=(RUN, AT_WORK), attempts=(SESSION,))
    assert [start.agent for start in starts(view, Policy(lanes={"claude": 1}))] == ["codex"]


def test_a_session_leaves_a_lane_that_is_limited_even_when_it_is_full_too():
    view = replace(BOTH, runs=(RESUMED, AT_WORK), attempts=(SESSION,), lanes=limited("claude"))
    (moved,) = starts(view, Policy(lanes={"claude": 1}))
    assert (moved.agent, moved.resume) == ("codex", False)


# ---- finished work


@pytest.mark.parametrize("lane", [*limited("claude").values(), *out("claude", LaneState.LOGGED_OUT).values()])
def test_finished_work_is_published_while_the_lane_of_its_worker_is_closed(lane: Lane):
    view = replace(ONE, runs=(replace(RUN, pending_head="abc"),), lanes={"claude": lane})
    assert [start.run.id for start in starts(view)] == [RUN.id]
    assert not idle(view)


def test_finished_work_takes_no_place_on_the_lane_of_its_worker():
    done = replace(RUN, pending_head="abc", priority=1)
    view = replace(ONE, runs=(done, replace(RUN, id="b:2", ticket_id="2", key="K-2")))
    assert [start.run.id for start in starts(view, Policy(lanes={"claude": 1}))] == ["b:1", "b:2"]


def test_of_all_finished_work_one_goes_first_to_a_reviewer_that_does_not_say_until_when_it_is_limited():
    done = tuple(replace(REVIEWED.runs[0], id=f"b:{n}", ticket_id=str(n), key=f"K-{n}") for n in range(4))
    lane = Lane("codex", LaneState.LIMITED, NOW, "limit", NOW - timedelta(minutes=1), 1, probe=True)
    view = replace(REVIEWED, runs=done, lanes={"codex": lane})
    assert len(starts(view)) == 1
    assert len(held(view, NOW, POLICY)) == 3
    assert len(starts(replace(view, lanes={}))) == 4


def test_finished_work_is_still_finished_after_an_outage_before_its_gates():
    run = replace(RESUMED, state=RunState.WORKING, pending_head="abc")
    ended = Attempt(RUN.id, 2, "claude", "", "s", True, 1, outcome="infra", stage="preparing", evidence="forge down")
    assert lifecycle.settle(run, ended, POLICY, NOW).pending_head == "abc"


# ---- when nothing will happen by itself


@pytest.mark.parametrize("state", [LaneState.LOGGED_OUT, LaneState.PAUSED])
@pytest.mark.parametrize("name", ["codex", "provider:codex"])
def test_a_night_is_over_when_the_reviewer_of_all_that_is_left_is_out(name: str, state: LaneState):
    view = replace(REVIEWED, lanes=out(name, state))
    assert (starts(view), idle(view)) == ([], True)
    assert not idle(replace(view, lanes=limited("codex")))  # that one comes back by itself


def test_a_night_is_over_when_the_provider_of_all_that_is_left_is_paused():
    view = replace(ONE, lanes=out("provider:claude", LaneState.PAUSED))
    assert (starts(view), idle(view)) == ([], True)
    assert not idle(replace(view, agents=("claude", "codex")))


# ---- lanes that are tried


def tries(resets_in: float, seconds: int, at_once: int, takes: int = 1) -> int:
    """How many attempts `at_once` tickets make within the time, each refused after `takes` seconds."""
    known, now, count = {"claude": Lane("claude")}, NOW, 0
    running: list[Attempt] = []
    for _ in range(seconds):
        for ended in [a for a in running if a.started_at and now - a.started_at >= timedelta(seconds=takes)]:
            running.remove(ended)
            refused = replace(ended, outcome="rate_limited", evidence="limit", resets_at=now.timestamp() + resets_in)
            known |= {lane.name: lane for lane in lanes.after(known, SEAT, refused, POLICY, now)}
            now += timedelta(milliseconds=10)
        told = known["claude"].told_at
        while len(running) < at_once:
            tried = any(told is None or a.started_at is None or a.started_at >= told for a in running)
            if not lanes.opens(known["claude"], now, tried):
                break
            running.append(replace(SESSION, started_at=now))
            count += 1
            now += timedelta(milliseconds=10)
        now += timedelta(seconds=1)
    return count


@pytest.mark.parametrize("resets_in", [-300.0, 0.0, 2.0])
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_stated_reset_that_is_over_or_nearly_so_again_and_again_does_not_make_a_lane_spin(
    resets_in: float, at_once: int
):
    assert tries(resets_in, seconds=300, at_once=at_once) <= 2 * at_once + 5  # then one a minute, ever more seldom


def test_the_first_stated_reset_is_believed_however_near_it_is():
    told = lanes.after({}, SEAT, refusal(NOW.timestamp() + 3), POLICY, NOW)
    assert [(lane.until, lane.probe) for lane in told] == [(NOW + timedelta(seconds=3 + POLICY.reset_grace), False)]


def refusal(resets_at: float) -> Attempt:
    return replace(SESSION, outcome="rate_limited", evidence="limit", resets_at=resets_at)


@pytest.mark.parametrize("outcome", [Outcome.STALLED, Outcome.CRASHED, Outcome.TIMED_OUT])
@pytest.mark.parametrize("state", [LaneState.LIMITED, LaneState.OVERLOADED])
def test_who_goes_first_and_ends_without_an_answer_does_not_open_the_lane(outcome: Outcome, state: LaneState):
    known = {"claude": Lane("claude", state, NOW, "limit", NOW - timedelta(minutes=1), 3, probe=True)}
    mute = replace(SESSION, outcome=outcome.value, evidence="nothing was heard")
    assert lanes.after(known, SEAT, mute, POLICY, NOW + timedelta(minutes=15)) == []
    spoke = replace(mute, usage=Usage(input=5))
    opened = {lane.name: lane.state for lane in lanes.after(known, SEAT, spoke, POLICY, NOW + timedelta(minutes=15))}
    assert opened == {"claude": LaneState.UP}


# ---- windows that are over


@pytest.mark.parametrize("keep_back", [0.0, 0.1, 0.5, 0.9])
def test_a_lane_whose_window_is_over_bears_at_least_one_who_asks(keep_back: float):
    load = pacing.Load((), 200_000, 50_000)
    for capacity in (0.0, 1.0, 1e4, 1e6):
        over = Window("five_hour", 0.3, NOW.timestamp() - 10, 18000, NOW.timestamp() - 600, capacity=capacity)
        assert pacing.slots(Lane("claude", windows=(over,)), load, NOW, Policy(keep_back=keep_back)) > 0
