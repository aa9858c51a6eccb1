"""What is old enough to go, over heaps of logs nobody thought of."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew.core.keeping import DAY, Logs, branches, logs_to_compress, logs_to_delete, over, past
from nightcrew.core.limits import Keep
from nightcrew.core.model import Run, RunState, branch_for

NOW = 1_000_000_000.0
MB = 1 << 20
RUN = Run("folder:1", "folder", "1", "T-1", "Do it")

one_log = st.integers(0, 50 * MB).flatmap(
    lambda size: st.builds(
        Logs,
        folder=st.uuids().map(str),
        bytes=st.just(size),
        at=st.floats(NOW - 100 * DAY, NOW),
        plain=st.integers(0, size),
        over=st.booleans(),
    )
)
heaps = st.lists(one_log, max_size=20, unique_by=lambda one: one.folder)
FEW = settings(max_examples=40)  # each is a heap of things
keeps = st.builds(Keep, compress_days=st.floats(0, 50), logs_days=st.floats(0, 120), logs_mb=st.integers(0, 200))


@FEW
@given(heaps, keeps)
def test_no_log_of_a_run_that_is_not_over_goes(logs: list[Logs], keep: Keep):
    goes = logs_to_delete(logs, keep, NOW)
    assert all(one.over for one in logs if one.folder in goes)


@FEW
@given(heaps, keeps)
def test_what_stays_fits_or_belongs_to_runs_that_are_not_over(logs: list[Logs], keep: Keep):
    goes = logs_to_delete(logs, keep, NOW)
    stays = [one for one in logs if one.folder not in goes]
    packed = {one.folder for one in logs_to_compress(stays, keep, NOW)}
    size = sum(one.bytes - (one.plain - one.plain // 4 if one.folder in packed else 0) for one in stays)
    assert not keep.logs_mb or size <= keep.logs_mb * MB or not any(one.over for one in stays)


@FEW
@given(heaps, keeps)
def test_of_two_logs_of_ended_runs_the_older_one_goes_first(logs: list[Logs], keep: Keep):
    goes = logs_to_delete(logs, keep, NOW)
    stays = [one.at for one in logs if one.over and one.folder not in goes]
    assert all(one.at <= min(stays, default=NOW) for one in logs if one.folder in goes)


@FEW
@given(heaps, keeps, st.floats(0, 50))
def test_what_goes_today_goes_tomorrow(logs: list[Logs], keep: Keep, days: float):
    later = NOW + days * DAY
    aged = replace(keep, logs_mb=0)
    assert set(logs_to_delete(logs, aged, NOW)) <= set(logs_to_delete(logs, aged, later))
    assert {o.folder for o in logs_to_compress(logs, keep, NOW)} <= {
        o.folder for o in logs_to_compress(logs, keep, later)
    }


@FEW
@given(heaps)
def test_zero_is_for_ever_and_without_end(logs: list[Logs]):
    keep = Keep(compress_days=0, logs_days=0, logs_mb=0)
    assert (dict(logs_to_delete(logs, keep, NOW)), logs_to_compress(logs, keep, NOW)) == ({}, [])


@pytest.mark.parametrize("state", RunState)
def test_a_run_is_over_when_nobody_will_go_on_with_it(state: RunState):
    ended = {RunState.FAILED, RunState.DUPLICATE, RunState.MERGED, RunState.CLOSED, RunState.CANCELLED}
    assert over(replace(RUN, state=state)) == (state in ended)
    assert over(replace(RUN, state=state, pull_request=3)) == (state in {RunState.MERGED, RunState.CLOSED})


def test_a_reopened_run_has_a_branch_for_each_time():
    first, second = branches(replace(RUN, cycle=1))
    assert (first, second) == (branch_for("folder", "1", "T-1"), branch_for("folder", "1", "T-1", 1))
    assert not past(NOW, 1, NOW)
