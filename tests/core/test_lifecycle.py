"""The outcome table as it is applied: over every outcome and random histories."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.core.lifecycle import TRANSITIONS, backoff, settle
from nightcrew.core.model import Attempt, Policy, Run, RunState, Usage
from nightcrew.core.outcome import RULES, Consumes, Outcome

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
POLICY = Policy()
RUN = Run("b:1", "b", "1", "K-1", "t", repo="r", state=RunState.WORKING, fence=1, attempts=1)
OUTAGES = [
    o for o, rule in RULES.items() if rule.consumes is Consumes.NO and o not in (Outcome.BLOCKED, Outcome.CANCELLED)
]


def ended(outcome: Outcome, **more: object) -> Attempt:
    kept = Attempt("b:1", 1, "claude", "sonnet", "session", False, 1, outcome=outcome.value, evidence="because")
    return replace(kept, **more)


def after(run: Run, *outcomes: Outcome, policy: Policy = POLICY) -> Run:
    for outcome in outcomes:
        run = settle(replace(run, state=RunState.WORKING), ended(outcome), policy, NOW)
    return run


def test_every_outcome_has_its_rule():
    assert set(RULES) == set(Outcome)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_leads_to_an_allowed_state(outcome):
    assert after(RUN, outcome).state in TRANSITIONS[RunState.WORKING]


@pytest.mark.parametrize("outcome", OUTAGES)
def test_an_outage_costs_no_attempt_climbs_nothing_and_never_drops_the_ticket(outcome):
    run = after(RUN, *[outcome] * 50)
    assert (run.consumed, run.failures, run.level, run.state) == (0, 0, 0, RunState.QUEUED)


def test_two_real_failures_climb_one_rung():
    run = after(RUN, Outcome.GATE_FAILED)
    assert run.level == 0
    assert after(run, Outcome.GATE_FAILED).level == 1


def test_an_outage_between_two_failures_does_not_hide_them():
    assert after(RUN, Outcome.GATE_FAILED, Outcome.OVERLOADED, Outcome.NO_CHANGE).level == 1


def test_a_run_gives_up_after_its_attempts_and_says_why():
    run = after(RUN, *[Outcome.GATE_FAILED] * 5)
    assert run.state is RunState.FAILED
    assert "5 attempts" in run.reason
    assert "because" in run.reason


def test_the_first_crash_and_the_first_stall_are_free_the_next_are_not():
    assert after(RUN, Outcome.CRASHED, Outcome.STALLED).consumed == 0
    assert after(RUN, Outcome.CRASHED, Outcome.CRASHED, Outcome.STALLED, Outcome.STALLED).consumed == 2


@pytest.mark.parametrize("outcome", [Outcome.STALLED, Outcome.CRASHED, Outcome.RATE_LIMITED, Outcome.TIMED_OUT])
def test_a_session_that_was_cut_short_is_resumed(outcome):
    assert after(RUN, outcome).session_id == "session"


@pytest.mark.parametrize("outcome", [Outcome.GATE_FAILED, Outcome.NO_CHANGE, Outcome.AGENT_ERROR, Outcome.CONTEXT_FULL])
def test_a_refused_result_is_worked_on_in_a_fresh_session_that_is_told_why(outcome):
    run = after(RUN, outcome)
    assert (run.session_id, run.feedback) == ("", "because")


def test_a_timeout_is_resumed_once():
    assert after(RUN, Outcome.TIMED_OUT, Outcome.TIMED_OUT).session_id == ""


@pytest.mark.parametrize("outcome", [Outcome.TOKEN_CAP, Outcome.MONEY_CAP, Outcome.REFUSED])
def test_some_ends_stop_the_run_at_once(outcome):
    assert after(RUN, outcome).state is RunState.FAILED


def test_a_session_the_agent_does_not_know_is_given_up():
    lost = ended(Outcome.MISCONFIGURED, resume=True)
    assert settle(RUN, lost, Policy(), NOW).session_id == ""


def test_work_whose_publishing_failed_is_not_done_again():
    broken = ended(Outcome.INFRA, head="abc", stage="publish")
    run = settle(RUN, broken, Policy(), NOW)
    assert (run.pending_head, run.state) == ("abc", RunState.QUEUED)
    assert run.not_before > NOW


def test_finished_work_stays_finished_when_even_the_next_start_fails():
    run = replace(RUN, pending_head="abc")
    again = settle(run, ended(Outcome.INFRA, stage="preparing"), Policy(), NOW)
    assert (again.pending_head, again.state) == ("abc", RunState.QUEUED)


def test_a_run_that_is_being_stopped_ends_cancelled_whatever_its_attempt_says():
    stopping = replace(RUN, stopping="the ticket was closed")
    assert settle(stopping, ended(Outcome.DONE, pull_request=3), Policy(), NOW).state is RunState.CANCELLED


def test_a_session_that_never_began_is_not_resumed():
    early = ended(Outcome.INFRA, stage="preparing")
    assert settle(RUN, early, Policy(), NOW).session_id == ""
    assert settle(RUN, replace(early, resume=True), Policy(), NOW).session_id == "session"


@pytest.mark.parametrize("cap", ["repo", "lane", "day", "night"])
def test_a_cap_that_others_share_is_not_the_tickets_fault(cap):
    run = settle(RUN, ended(Outcome.TOKEN_CAP, cap=cap), Policy(max_attempts=1), NOW)
    assert (run.state, run.consumed, run.session_id) == (RunState.QUEUED, 0, "session")


@pytest.mark.parametrize("cap", ["", "attempt", "ticket"])
def test_a_cap_of_its_own_stops_the_run(cap):
    assert settle(RUN, ended(Outcome.MONEY_CAP, cap=cap), Policy(), NOW).state is RunState.FAILED


@given(st.lists(st.sampled_from(list(Outcome)), max_size=40), st.integers(1, 6), st.floats(0, 1))
def test_no_history_consumes_more_than_it_may_or_leaves_the_table(outcomes, most, jitter):
    run, policy = RUN, Policy(max_attempts=most)
    for outcome in outcomes:
        run = settle(replace(run, state=RunState.WORKING), ended(outcome, usage=Usage(input=1)), policy, NOW, jitter)
        assert run.state in TRANSITIONS[RunState.WORKING]
        if run.state is not RunState.QUEUED:
            return
        assert run.consumed < most
    assert run.usage.input == len(outcomes)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_backoff_is_never_longer_than_a_quarter_over_its_cap(times, jitter):
    assert timedelta(0) < backoff(times, Policy(), jitter) <= timedelta(seconds=Policy().backoff_max * 1.25)
