"""A simulated week, by the real decisions: what pacing is worth, and that the owner's share is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nightcrew.core.model import Policy
from nightcrew.testing.week import Shape, simulate

WEEK = Shape()
SMALL = Shape(days=2.0, five_hour=4e6, seven_day=12e6)


@pytest.mark.slow
def test_pacing_finishes_at_least_15_percent_more_tickets_than_dispatching_blindly():
    blind, paced = simulate(WEEK, Policy(pace=False), 0), simulate(WEEK, Policy(), 0)
    assert paced.finished >= 1.15 * blind.finished
    assert paced.rewritten < blind.rewritten / 2
    assert paced.rejected < blind.rejected / 2
    assert paced.used > 0.95 * blind.used  # it is not by leaving anything unused


@pytest.mark.parametrize("pace", [True, False])
@pytest.mark.parametrize("keep_back", [0.1, 0.2, 0.5])
def test_the_share_kept_back_is_never_used(keep_back, pace):
    for seed, shape in enumerate((SMALL, replace(SMALL, slots=4), replace(SMALL, owner=0.05, night_hours=24.0))):
        week = simulate(shape, Policy(keep_back=keep_back, pace=pace), seed)
        assert max(peak for _, peak in week.peaks) <= 1 - keep_back
        assert week.rejected == 0


def test_what_is_ours_is_used_nearly_to_its_end():
    week = simulate(replace(WEEK, seven_day=40e6), Policy(keep_back=0.2), 1)
    assert 0.75 < dict(week.peaks)["seven_day"] <= 0.8


def test_the_same_seed_is_the_same_week():
    assert simulate(SMALL, Policy(), 3) == simulate(SMALL, Policy(), 3)
