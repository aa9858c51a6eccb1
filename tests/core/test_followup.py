"""The reaction table, row by row, and over pull requests nobody thought of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.core.followup import CLEAN, UPDATED, Cause, Did, Past, Reaction, judged, react, says
from nightcrew.core.model import Check, FollowUp, PullRequest, Remark, Standing

NOW = datetime(2026, 11, 27, 3, tzinfo=UTC)
PULL = PullRequest("web", 7, "nightcrew/a", "main", "t", "", head="h1", url="u")
FRESH = Standing(PULL, base_head="b1", mergeable=True)
POLICY = FollowUp()
OURS = tuple(f"h{n}" for n in range(10))
RED = (Check("test", "failed", "1"), Check("lint", "passed"))
GREEN = (Check("test", "passed"),)


def said(text: str = "Rename it.", *, minutes: float = 10, **more: object) -> Remark:
    at = (NOW - timedelta(minutes=minutes)).isoformat()
    fields: dict[str, object] = {"id": text, "author": "ada", "text": text, "at": at, "trusted": True}
    return Remark(**(fields | more))  # type: ignore[arg-type]


def reacted(standing: Standing, *past: Past, policy: FollowUp = POLICY, flaky: tuple[str, ...] = (),
            ours: tuple[str, ...] = OURS) -> tuple[Cause, Did] | None:  # fmt: skip
    found = react(standing, ours, past, policy, NOW, flaky)
    return (found.cause, found.did) if found else None


def did(standing: Standing, *before: Past, **how: object) -> Past:
    """What is remembered after reacting, all of it done."""
    found = react(standing, OURS, before, POLICY, NOW, **how)  # type: ignore[arg-type]
    assert found is not None
    return replace(found.past("r", standing, NOW), done=True)


def with_checks(*checks: Check, head: str = "h1", **more: object) -> Standing:
    return replace(FRESH, pull=replace(PULL, head=head), checks=checks, **more)  # type: ignore[arg-type]


def test_a_fresh_one_waits() -> None:
    assert reacted(FRESH) is None
    assert says(FRESH) == "no checks; waits for a review"


@pytest.mark.parametrize(("standing", "wanted"), [
    (with_checks(*RED), (Cause.CHECKS, Did.AGENT)),
    (with_checks(Check("test", "failed"), Check("e2e", "running")), (Cause.CHECKS, Did.NOTE)),
    (with_checks(Check("test", "failed", required=True), Check("e2e", "running")), (Cause.CHECKS, Did.AGENT)),
    (with_checks(*GREEN), None),
    (with_checks(*GREEN, approved=True), (Cause.READY, Did.NOTE)),
    (with_checks(*GREEN, approved=True, draft=True), None),
    (with_checks(*GREEN, approved=True, mergeable=None), None),
    (with_checks(*GREEN, behind=True), (Cause.BEHIND, Did.UPDATE)),
    (replace(FRESH, mergeable=False), (Cause.CONFLICT, Did.AGENT)),
    (replace(with_checks(*RED), mergeable=False), (Cause.CONFLICT, Did.AGENT)),
    (replace(FRESH, remarks=(said(),)), (Cause.REVIEW, Did.AGENT)),
    (replace(FRESH, remarks=(said("", verdict="changes"),)), (Cause.REVIEW, Did.AGENT)),
    (replace(FRESH, remarks=(said(minutes=1),)), None),
    (replace(FRESH, remarks=(said(), said("And more.", minutes=1))), None),
    (replace(FRESH, remarks=(said(trusted=False),)), None),
    (replace(FRESH, remarks=(said(mine=True),)), None),
    (replace(FRESH, remarks=(said(resolved=True, thread="t"),)), None),
    (replace(FRESH, remarks=(said(verdict="approved"),)), None),
    (replace(FRESH, remarks=(said("@bob what do you think?"),)), None),
    (replace(FRESH, remarks=(said("@nightcrew please rename"),)), (Cause.REVIEW, Did.AGENT)),
    (replace(FRESH, remarks=(said(bot=True, thread="t"),)), (Cause.BOTS, Did.AGENT)),
    (replace(FRESH, remarks=(said("coverage 80 %", bot=True),)), None),
    (replace(FRESH, remarks=(said(thread="t", trusted=False), said("As you say", bot=True, thread="t"))), None),
    (with_checks(*GREEN, approved=True, remarks=(said(minutes=1),)), None),
])  # fmt: skip
def test_each_row_of_the_table(standing: Standing, wanted: tuple[Cause, Did] | None) -> None:
    assert reacted(standing) == wanted


def test_each_thing_is_done_once() -> None:
    for standing in (with_checks(*RED), replace(FRESH, mergeable=False), replace(FRESH, remarks=(said(),))):
        assert reacted(standing, did(standing)) is None


def test_red_again_on_a_new_head_sends_the_agent_again_and_then_it_is_given_up_once() -> None:
    past: list[Past] = []
    for n in range(POLICY.check_rounds):
        past.append(did(with_checks(*RED, head=f"h{n}"), *past))
        assert past[-1].did is Did.AGENT
    last = with_checks(*RED, head="h9")
    assert reacted(last, *past) == (Cause.CHECKS, Did.SAY)
    assert reacted(last, *past, did(last, *past)) is None


def test_when_people_ask_for_something_the_count_begins_anew() -> None:
    rounds = [did(with_checks(*RED, head=f"h{n}")) for n in range(POLICY.check_rounds)]
    asked = replace(did(replace(FRESH, remarks=(said(),))), at=NOW + timedelta(minutes=1))
    assert reacted(with_checks(*RED, head="h9"), *rounds, asked) == (Cause.CHECKS, Did.AGENT)


@pytest.mark.parametrize(("bad", "well"), [
    (replace(FRESH, mergeable=False), FRESH),
    (with_checks(*RED), with_checks(Check("test", "passed"), Check("lint", "passed"))),
])  # fmt: skip
def test_what_was_seen_well_since_is_counted_anew(bad: Standing, well: Standing) -> None:
    past: list[Past] = []

    def seen(standing: Standing, head: str) -> Did | None:
        now = NOW + timedelta(minutes=len(past))
        standing = replace(standing, pull=replace(PULL, head=head))
        found = react(standing, (), past, POLICY, now)
        past.extend([replace(found.past("r", standing, now), done=True)] if found else [])
        return found.did if found else None

    for n in range(0, 8, 2):  # each time one try is enough
        assert seen(bad, f"h{n}") is Did.AGENT
        assert seen(replace(well, mergeable=None, checks=()), f"h{n + 1}") is None  # it is not known yet
        assert seen(well, f"h{n + 1}") is Did.NOTE
        assert seen(well, f"h{n + 1}") is None
    tries = [seen(bad, f"g{n}") for n in range(9)]
    assert tries[-1] is Did.SAY
    assert Did.NOTE not in tries


def test_a_check_that_was_red_and_is_not_there_yet_is_not_mended() -> None:
    red = did(with_checks(*RED))
    assert reacted(with_checks(Check("lint", "passed"), head="h2"), red) is None
    assert reacted(with_checks(Check("lint", "passed"), Check("test", "passed"), head="h2"), red) is not None


def test_a_flaky_check_is_run_once_more_before_an_agent_is_sent() -> None:
    red = with_checks(*RED)
    assert reacted(red, flaky=("test",)) == (Cause.CHECKS, Did.RERUN)
    assert reacted(red, policy=FollowUp(flaky=("te*",))) == (Cause.CHECKS, Did.RERUN)
    again = did(red, flaky=("test",))
    assert reacted(red, again, flaky=("test",)) is None
    again = replace(again, at=NOW - timedelta(minutes=5))
    assert reacted(red, again, flaky=("test",)) == (Cause.CHECKS, Did.AGENT)
    assert reacted(red, replace(again, done=False), flaky=("test",)) is None


def test_what_was_asked_is_answered_when_the_new_head_is_there() -> None:
    asked = replace(FRESH, remarks=(said(thread="t"),))
    past = replace(did(asked), done=False)
    assert past.threads == ("t",)
    assert reacted(asked, past) is None
    new = replace(asked, pull=replace(PULL, head="h2"))
    assert reacted(new, past) == (Cause.REVIEW, Did.ANSWER)
    assert reacted(new, replace(past, done=True)) is None


def test_a_thread_in_which_we_had_the_last_word_waits_for_people() -> None:
    remarks = (said(thread="t"), said("Done.", mine=True, thread="t"))
    assert reacted(replace(FRESH, remarks=remarks)) is None
    assert reacted(replace(FRESH, remarks=(*remarks, said("Not quite.", thread="t")))) == (Cause.REVIEW, Did.AGENT)


def test_a_head_that_is_not_ours_is_noted_once_and_nothing_is_overwritten() -> None:
    moved = replace(FRESH, pull=replace(PULL, head="theirs"))
    assert reacted(moved) == (Cause.MOVED, Did.NOTE)
    assert reacted(moved, did(moved)) is None


@pytest.mark.parametrize("how", ["now", "green", "queue"])
def test_it_is_merged_only_where_the_owner_wants_that(how: str) -> None:
    ready, policy = with_checks(*GREEN, approved=True), FollowUp(merge=how)
    assert reacted(ready, policy=policy) == (Cause.READY, Did.MERGE)
    assert reacted(replace(ready, approved=False), policy=policy) is None
    assert reacted(replace(ready, merging=True), policy=policy) is None


def test_an_approval_outlives_our_merges_of_the_base_and_nothing_else() -> None:
    updates = [Past("r", 7, Cause.BEHIND, f"{UPDATED}{was}:{made}", Did.NOTE, NOW, done=True, head=made)
               for was, made in (("h1", "h2"), ("h2", "h3"))]  # fmt: skip
    for head, approved in (("h1", True), ("h2", True), ("h3", True), ("h4", False)):
        standing = replace(FRESH, pull=replace(PULL, head=head), approvals=("h1",))
        assert judged(standing, updates).approved is approved
    assert not judged(replace(FRESH, approvals=("",)), ()).approved  # nobody knows of which commit
    assert judged(replace(FRESH, approved=True), ()).approved  # the rules of the repository say so


def test_what_the_queue_gives_back_goes_to_an_agent() -> None:
    ready, policy = with_checks(*GREEN, approved=True), FollowUp(merge="queue")
    found = react(ready, ("h1",), (), policy, NOW)
    assert found is not None
    queued = replace(found.past("r", ready, NOW), done=True)
    assert reacted(replace(ready, merging=True), queued, policy=policy) is None
    assert reacted(ready, queued, policy=policy) == (Cause.QUEUE, Did.AGENT)


def test_checks_that_never_end_do_not_hide_one_that_failed() -> None:
    red = with_checks(Check("test", "failed"), Check("approve the deployment", "running"))
    noted = did(red)
    assert reacted(red, noted) is None
    assert reacted(red, replace(noted, at=NOW - timedelta(hours=2))) == (Cause.CHECKS, Did.AGENT)


def test_who_wanted_changes_and_approves_then_wants_nothing_any_more() -> None:
    wanted, fine = said(verdict="changes"), said("Fine.", verdict="approved", minutes=5)
    assert reacted(replace(FRESH, remarks=(wanted, fine))) is None
    assert reacted(replace(FRESH, remarks=(fine, wanted))) == (Cause.REVIEW, Did.AGENT)
    assert reacted(replace(FRESH, remarks=(wanted, replace(fine, author="bob")))) == (Cause.REVIEW, Did.AGENT)


def test_who_asks_again_after_it_was_given_up_is_heard() -> None:
    policy, asked = FollowUp(review_rounds=2), [said(str(n)) for n in range(4)]
    past: list[Past] = []
    for n, wanted in enumerate([Did.AGENT, Did.AGENT, Did.SAY, Did.AGENT]):
        standing = replace(FRESH, remarks=tuple(asked[: n + 1]))
        found = react(standing, OURS, past, policy, NOW)
        assert found
        assert found.did is wanted
        past.append(replace(found.past("r", standing, NOW + timedelta(minutes=n)), done=True))
        assert react(standing, OURS, past, policy, NOW) is None


def test_robots_that_never_have_enough_are_given_up_and_hold_nothing_up() -> None:
    policy, past = FollowUp(bot_rounds=1, merge="now"), list[Past]()
    for n, wanted in enumerate([Did.AGENT, Did.SAY, Did.SAY]):
        remarks = tuple(said(str(m), bot=True, thread=str(m)) for m in range(n + 1))
        ready = with_checks(*GREEN, approved=True, remarks=remarks)
        found = react(ready, OURS, past, policy, NOW)
        assert found
        assert (found.cause, found.did) == (Cause.BOTS, wanted)
        past.append(replace(found.past("r", ready, NOW + timedelta(minutes=n)), done=True))
        assert reacted(ready, *past, policy=policy) == (Cause.READY, Did.MERGE)


checks = st.builds(Check, st.sampled_from(["test", "lint", "e2e"]), st.sampled_from(["passed", "failed", "running"]),
                   required=st.booleans())  # fmt: skip
remarks = st.builds(
    Remark, id=st.sampled_from("abcd"), author=st.sampled_from(["ada", "eve"]), text=st.sampled_from(["x", "", "@b y"]),
    at=st.integers(0, 20).map(lambda m: (NOW - timedelta(minutes=m)).isoformat()), thread=st.sampled_from(["", "t"]),
    trusted=st.booleans(), bot=st.booleans(), mine=st.booleans(), resolved=st.booleans(),
    verdict=st.sampled_from(["", "approved", "changes"]),
)  # fmt: skip
standings = st.builds(
    Standing, st.sampled_from(["h1", "h2", "h3"]).map(lambda head: replace(PULL, head=head)),
    base_head=st.sampled_from(["b1", "b2"]), draft=st.booleans(), mergeable=st.sampled_from([True, False, None]),
    behind=st.booleans(), checks=st.lists(checks, max_size=3).map(tuple),
    remarks=st.lists(remarks, max_size=3).map(tuple), approved=st.booleans(), merging=st.booleans(),
)  # fmt: skip


@given(st.lists(standings, max_size=40))
def test_no_agent_is_sent_twice_for_one_thing_nor_without_end(seen: list[Standing]) -> None:
    past: list[Past] = []
    for n, standing in enumerate(seen):
        now = NOW + timedelta(minutes=n)
        found = react(standing, ("h1", "h2"), past, POLICY, now)
        if found:
            assert (found.cause, found.fingerprint) not in {(p.cause, p.fingerprint) for p in past}
            past.append(replace(found.past("r", standing, now), done=True))
            for remark in found.remarks:
                assert (remark.trusted, remark.mine) == (True, False)
    sent = [p.cause for p in past if p.did is Did.AGENT]
    clean = sum(p.cause is Cause.CHECKS and p.fingerprint.startswith(CLEAN) for p in past)
    assert sent.count(Cause.BOTS) <= POLICY.bot_rounds * (1 + sent.count(Cause.REVIEW))
    assert sent.count(Cause.CHECKS) <= POLICY.check_rounds * (1 + sent.count(Cause.REVIEW) + clean)


@given(standings)
def test_nothing_is_ever_merged_that_is_red_unapproved_a_draft_or_in_conflict(standing: Standing) -> None:
    found = react(standing, ("h1", "h2", "h3"), (), FollowUp(merge="now"), NOW)
    if found and found.did is Did.MERGE:
        assert (standing.approved, standing.mergeable, standing.draft) == (True, True, False)
        assert all(check.state == "passed" for check in standing.checks)


def test_a_reaction_to_people_is_not_done_before_they_are_answered() -> None:
    standing = replace(FRESH, remarks=(said(),))
    found = react(standing, ("h1",), (), POLICY, NOW)
    assert isinstance(found, Reaction)
    assert not found.past("r", standing, NOW).done
    assert "Rename it." in found.feedback
