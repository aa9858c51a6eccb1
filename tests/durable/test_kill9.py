"""The bench, small: kill -9 at random moments and at points while eight tickets are worked."""

from __future__ import annotations

import pytest
from bench.kill9 import play

from tests.durable.world import World


@pytest.mark.slow
def test_twelve_kills_over_eight_tickets_leave_eight_pull_requests(world: World) -> None:
    result = play(world, kills=12, tickets=8, repos=("alpha", "beta"), seed=7)
    assert result["as_it_should_be"], result
    assert (result["pull_requests"], result["mounts_left"]) == (8, 0)
