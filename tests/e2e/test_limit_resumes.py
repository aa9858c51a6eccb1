"""The fault that stops others for good: three real Claude sessions are told "You've hit your session limit" at once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nightcrew.core.model import LaneState
from nightcrew.testing.anthropic import AnthropicEndpoint
from nightcrew.testing.endpoints import Asked
from tests.e2e.night import Morning, Night, asked_for, assert_published, assert_quiet, until, work
from tests.e2e.test_night_claude import ClaudeSide

pytestmark = [pytest.mark.slow, pytest.mark.real_agent("claude")]
KEYS = ("ONE-1", "TWO-1", "THREE-1")
AHEAD = 12.0  # seconds until the reset that the provider states
WITHIN = 5.0  # seconds after it within which all three must be at work again


async def test_three_sessions_at_their_limit_resume_by_themselves_within_5_seconds_of_the_reset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side = ClaudeSide()
    limit = {**side.wrong["limit"], "limits": {"resets_in": AHEAD}, "lasts": AHEAD, "times": -1}
    script = {key: [limit, side.shell(work(key)), {"text": f"{key} is done."}] for key in KEYS}
    async with AnthropicEndpoint({"limit": script}, bodies=True) as endpoint, Night(tmp_path / "night") as night:
        url = endpoint.url("limit")
        night.environ = side.environ(url)
        night.configure(side.table(url), max_running=3, starting=3, max_load=0)
        for key in KEYS:
            night.ticket(key)
        async with night.running("up", "--until-idle") as nightcrew:
            await until(lambda: _parked(night), "all three are told of the limit, and the lane is parked")
            assert night.lane().state is LaneState.LIMITED
            with night.app() as app:
                assert [run.consumed for run in app.store.runs()] == [0, 0, 0]
            await night.ended(nightcrew)
        morning = await night.morning()
        assert_quiet(night, morning)
        _held(morning, endpoint)
    started, answered = _after_the_reset(morning, endpoint.asked)
    with capsys.disabled():
        print(f"\nseconds after the reset: started {started}, asked its model and was answered {answered}")
    assert min(started.values()) >= 0
    assert max(started.values()) < WITHIN


def _parked(night: Night) -> bool:
    if night.lane().state is LaneState.UP:
        return False
    with night.app() as app:
        attempts = [attempt for run in app.store.runs() for attempt in app.store.attempts_of(run.id)]
        return [attempt.outcome for attempt in attempts] == ["rate_limited"] * len(KEYS)


def _held(morning: Morning, endpoint: AnthropicEndpoint) -> None:
    """Nothing was lost or paid for: one attempt each counts, the last; its session is the one that was limited."""
    for key in KEYS:
        story = morning[key]
        assert_published(story)
        assert (story.outcomes, story.run.consumed) == (["rate_limited", "done"], 1)
        assert story.attempts[0].usage.tokens == 0
        assert story.attempts[1].resume
        assert story.sessions[0] == story.sessions[1]
        assert {call.session for call in asked_for(endpoint, key)} == {story.sessions[0]}
    assert morning.lanes["claude"].state is LaneState.UP
    assert len(morning.happened("lane.limited")) == 1


def _after_the_reset(morning: Morning, asked: list[Asked]) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds from the latest reset that was stated until each session was resumed, and until its model worked."""
    reset = max(morning[key].attempts[0].resets_at or math.inf for key in KEYS)
    works = {call.session: call.at for call in reversed(asked) if call.step == "tools"}
    resumed = {key: morning[key].attempts[1].started_at for key in KEYS}
    return (
        {key: round(at.timestamp() - reset, 2) for key, at in resumed.items() if at},
        {key: round(works[morning[key].sessions[0]] - reset, 2) for key in KEYS},
    )
