"""The decision over worlds nobody thought of, and the few rules worth a sentence each."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from nightcrew.core.budget import Spend
from nightcrew.core.dispatch import IN_SESSION
from nightcrew.core.model import (
    OUT,
    Attempt,
    Cap,
    Caps,
    GateSettings,
    Lane,
    LaneState,
    Policy,
    PullRequest,
    Repo,
    Run,
    RunState,
    Seat,
    Ticket,
    TicketState,
    Usage,
)
from nightcrew.core.schedule import (
    SHOWN,
    Adopt,
    Clean,
    Fail,
    Follow,
    Reopen,
    Settle,
    Show,
    Start,
    Stop,
    Up,
    View,
    decide,
    held,
    idle,
)

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
POLICY = Policy()
REPOS = (Repo("one", "/one"), Repo("two", "/two", max_running=1))
TICKET = Ticket("b", "1", "K-1", "a title", repo="one")
RUN = Run("b:1", "b", "1", "K-1", "a title", repo="one", branch="nightcrew/k-1", shown="open", created_at=NOW)
VIEW = View(tickets=(TICKET,), runs=(RUN,), repos=REPOS, agents=("claude", "codex"),
            ladders={"claude": ("sonnet", "opus"), "codex": ()})  # fmt: skip


def only(kind: type, view: View, policy: Policy = POLICY) -> list:
    return [a for a in decide(view, NOW, policy) if isinstance(a, kind)]


def test_a_new_ticket_is_adopted_with_its_route():
    assert only(Adopt, replace(VIEW, runs=()))[0].repo == "one"


def test_a_ticket_no_rule_knows_is_shown_and_never_run():
    view = replace(VIEW, tickets=(replace(TICKET, repo="", title="?"),), runs=())
    assert [a.repo for a in only(Adopt, view)] == [""]
    assert not only(Start, replace(view, runs=(replace(RUN, state=RunState.UNROUTED),)))


def test_a_ticket_that_is_not_open_is_not_adopted():
    for state in set(TicketState) - {TicketState.OPEN}:
        assert not only(Adopt, replace(VIEW, tickets=(replace(TICKET, state=state),), runs=()))


def test_the_ladder_decides_the_model_and_a_label_overrides_it():
    assert only(Start, VIEW)[0].model == "sonnet"
    assert only(Start, replace(VIEW, runs=(replace(RUN, level=7),)))[0].model == "opus"
    assert only(Start, replace(VIEW, runs=(replace(RUN, labels=("model:haiku",)),)))[0].model == "haiku"


def test_a_limited_lane_is_left_alone_and_another_one_taken_at_once():
    parked = Lane("claude", LaneState.LIMITED, NOW + timedelta(hours=1))
    assert only(Start, replace(VIEW, lanes={"claude": parked}))[0].agent == "codex"
    assert not only(Start, replace(VIEW, lanes={"claude": parked}, agents=("claude",)))
    assert only(Start, replace(VIEW, lanes={"claude": replace(parked, until=NOW)}))[0].agent == "claude"


def test_a_session_is_resumed_only_by_the_agent_that_had_it():
    view = replace(VIEW, runs=(replace(RUN, session_id="s", agent="codex"),))
    assert (only(Start, view)[0].agent, only(Start, view)[0].resume) == ("codex", True)
    moved = only(Start, replace(view, lanes={"codex": Lane("codex", LaneState.LOGGED_OUT)}))[0]
    assert (moved.agent, moved.resume) == ("claude", False)


def test_after_an_overload_one_attempt_goes_first():
    runs = tuple(replace(RUN, id=f"b:{n}", ticket_id=str(n), key=f"K-{n}") for n in range(4))
    for name in ("claude", "provider:claude"):
        shaken = {name: Lane(name, LaneState.OVERLOADED, NOW, "529", NOW, 1, probe=True)}
        view = replace(VIEW, runs=runs, lanes=shaken, agents=("claude",))
        assert len(only(Start, view)) == 1
        assert sorted(held(view, NOW, POLICY)) == ["b:1", "b:2", "b:3"]


def test_what_ran_before_the_overload_does_not_stand_in_the_way_of_the_one_that_goes_first():
    lane = Lane("claude", LaneState.OVERLOADED, NOW, "529", NOW - timedelta(seconds=15), 1, probe=True)
    working = replace(RUN, id="b:9", state=RunState.WORKING)
    older = Attempt("b:9", 1, "claude", "", "", False, 0, "session", started_at=NOW - timedelta(minutes=5))
    view = replace(VIEW, runs=(RUN, working), attempts=(older,), lanes={"claude": lane}, agents=("claude",))
    assert len(only(Start, view)) == 1
    trying = replace(older, started_at=NOW - timedelta(seconds=1))
    assert not only(Start, replace(view, attempts=(trying,)))
    answered = replace(view, attempts=(replace(trying, usage=Usage(input=5)),))
    assert [up.lane for up in only(Up, answered)] == [lane]


def test_agents_that_share_an_account_share_its_limit():
    seats = {"claude": Seat("anthropic", "work", "claude"), "codex": Seat("anthropic", "work", "claude")}
    parked = {"claude@work": Lane("claude@work", LaneState.LIMITED, NOW + timedelta(hours=1), "limit", NOW)}
    view = replace(VIEW, lanes=parked, seats=seats)
    assert not only(Start, view)
    assert "claude@work is limited until" in held(view, NOW, POLICY)["b:1"]


def test_while_a_login_is_renewed_one_session_goes_first():
    runs = tuple(replace(RUN, id=f"b:{n}", ticket_id=str(n), key=f"K-{n}") for n in range(4))
    view = replace(VIEW, runs=runs, renewing=frozenset({"claude"}), agents=("claude",))
    assert len(only(Start, view)) == 1


def test_a_ticket_that_has_used_up_its_own_cap_fails_and_says_so():
    view = replace(VIEW, spend=Spend({f"ticket:{RUN.id}": (900, 0.0)}))
    policy = Policy(caps=Caps(ticket=Cap(tokens=800)))
    assert [(a.run.id, "800" in a.why) for a in only(Fail, view, policy)] == [(RUN.id, True)]
    assert not only(Start, view, policy)


def test_finished_work_waits_for_the_lane_of_its_reviewer():
    reviewed = Repo("one", "/one", gates=GateSettings(review="codex"))
    limited = {"codex": Lane("codex", LaneState.LIMITED, NOW + timedelta(hours=1), "limit", NOW)}
    view = replace(VIEW, runs=(replace(RUN, pending_head="abc"),), repos=(reviewed,), lanes=limited)
    assert not only(Start, view)
    assert "waits for its review" in held(view, NOW, POLICY)[RUN.id]
    assert only(Start, replace(view, lanes={}))


def test_labels_boards_and_lanes_have_limits_of_their_own():
    runs = tuple(replace(RUN, id=f"b:{n}", ticket_id=str(n), key=f"K-{n}", labels=("heavy",)) for n in range(4))
    view = replace(VIEW, runs=runs, agents=("claude",))
    for limit in ({"labels": {"heavy": 1}}, {"boards": {"b": 1}}, {"lanes": {"claude": 1}}):
        policy = Policy(**limit)
        assert len(only(Start, view, policy)) == 1
        assert all("1 of 1" in why for run, why in held(view, NOW, policy).items() if run != "b:0")


def test_a_blocked_ticket_waits_for_its_blocker():
    view = replace(VIEW, runs=(replace(RUN, blocked_by=("K-0",)),), tickets=(replace(TICKET, blocked_by=("K-0",)),))
    assert not only(Start, view)
    assert only(Start, replace(view, finished=frozenset({"K-0"})))


def test_a_ticket_a_person_closed_is_stopped_and_one_we_moved_ourselves_is_not():
    closed = replace(VIEW, tickets=(replace(TICKET, state=TicketState.CLOSED),))
    assert only(Stop, closed)
    ours = replace(closed, runs=(replace(RUN, shown="closed"),))
    assert not only(Stop, ours)
    assert only(Stop, replace(VIEW, tickets=(), gone={"1": "the ticket left the board"}))


def test_a_ticket_moved_back_is_worked_again():
    failed = replace(RUN, state=RunState.FAILED, shown="failed")
    assert only(Reopen, replace(VIEW, runs=(failed,)))
    assert not only(Reopen, replace(VIEW, runs=(replace(failed, shown="in_progress"),)))


def test_a_pull_request_is_followed():
    review = replace(RUN, state=RunState.IN_REVIEW, pull_request=4, shown="review")
    pull = PullRequest("one", 4, RUN.branch, "main", "t", "b")
    assert not only(Follow, replace(VIEW, runs=(review,), pulls={("one", RUN.branch): pull}))
    for change in ({"state": "merged"}, {"state": "closed"}, {"changes_requested": "no"}):
        assert only(Follow, replace(VIEW, runs=(review,), pulls={("one", RUN.branch): replace(pull, **change)}))


def test_a_workspace_is_cleaned_when_nobody_needs_it_and_no_start_meets_a_cleaning():
    assert only(Clean, replace(VIEW, runs=(replace(RUN, state=RunState.IN_REVIEW, workspace="/w"),)))
    assert not only(Clean, replace(VIEW, runs=(replace(RUN, workspace="/w"),)))
    assert not only(Start, replace(VIEW, cleaning=frozenset({RUN.id})))


def test_an_ended_attempt_is_settled_before_anything_starts():
    attempt = Attempt(RUN.id, 1, "claude", "", "", False, 0, phase="ended", outcome="crashed")
    view = replace(VIEW, runs=(replace(RUN, state=RunState.WORKING),), attempts=(attempt,))
    assert only(Settle, view)
    assert not only(Start, view)


def test_pausing_starts_nothing_and_still_settles():
    attempt = Attempt(RUN.id, 1, "claude", "", "", False, 0, phase="ended", outcome="done")
    view = replace(VIEW, runs=(replace(RUN, state=RunState.WORKING),), attempts=(attempt,), paused=True)
    assert only(Settle, view)
    assert not only(Start, replace(VIEW, paused=True))


runs = st.builds(
    lambda n, state, repo, priority, later, level, session, blocked: replace(
        RUN, id=f"b:{n}", ticket_id=str(n), key=f"K-{n}", state=state, repo=repo, priority=priority, level=level,
        not_before=NOW + timedelta(seconds=later) if later else None, session_id=session,
        agent="claude" if session else "",
        blocked_by=("x",) if blocked else (),
    ),
    st.integers(1, 30), st.sampled_from(list(RunState)), st.sampled_from(["one", "two", "gone"]), st.integers(1, 5),
    st.integers(-5, 5), st.integers(0, 5), st.sampled_from(["", "s"]), st.booleans(),
)  # fmt: skip
lanes = st.builds(
    Lane,
    st.just("claude"),
    st.sampled_from(list(LaneState)),
    st.sampled_from([None, NOW, NOW + timedelta(1)]),
    told_at=st.sampled_from([None, NOW]),
    probe=st.booleans(),
)


@st.composite
def views(draw):
    found = {r.id: r for r in draw(st.lists(runs, max_size=12))}
    phases = st.sampled_from(["starting", "preparing", "session", "gates", "publish", "ended"])
    attempts = tuple(
        Attempt(r.id, 1, draw(st.sampled_from(["claude", "codex"])), "", "", False, r.fence, draw(phases), "", "done")
        for r in found.values() if r.state is RunState.WORKING
    )  # fmt: skip
    tickets = tuple(
        replace(TICKET, id=r.ticket_id, key=r.key, state=draw(st.sampled_from(list(TicketState))))
        for r in found.values()
    )
    return replace(
        VIEW, runs=tuple(found.values()), tickets=tickets, attempts=attempts, lanes={"claude": draw(lanes)},
        finished=frozenset(draw(st.sampled_from([(), ("x",)]))),
    )  # fmt: skip


@given(views(), st.integers(1, 8))
def test_scheduling_never_overfills_never_doubles_and_never_starts_what_must_not_run(view, most):
    actions = decide(view, NOW, Policy(max_running=most))
    starts = [a for a in actions if isinstance(a, Start)]
    holding = [a for a in view.attempts if a.phase in IN_SESSION]
    assert len({s.run.id for s in starts}) == len(starts)
    assert len(starts) + len(holding) <= max(most, len(holding))
    for start in starts:
        assert start.run.state is RunState.QUEUED
        assert start.run.not_before is None or start.run.not_before <= NOW
        assert start.run.repo in ("one", "two")
        assert view.lanes.get(start.agent, Lane(start.agent)).state not in OUT
        assert not start.run.blocked_by or "x" in view.finished
    in_two = [r for r in view.runs if r.repo == "two" and any(a.run_id == r.id for a in holding)]
    assert len(in_two) + sum(s.run.repo == "two" for s in starts) <= max(1, len(in_two))


@given(views())
def test_the_same_view_gives_the_same_answer_and_what_is_stopped_is_not_started(view):
    actions = decide(view, NOW, Policy())
    assert actions == decide(view, NOW, Policy())
    stopped = {a.run.id for a in actions if isinstance(a, Stop | Settle | Reopen)}
    assert not stopped & {a.run.id for a in actions if isinstance(a, Start)}


@given(views())
def test_the_board_is_told_only_what_it_does_not_show(view):
    for action in decide(view, NOW, Policy()):
        if isinstance(action, Show):
            assert action.run.shown != action.state
            assert action.state in SHOWN.values()


def test_a_label_that_could_be_read_as_an_option_is_no_model():
    odd = replace(RUN, labels=("model:--dangerously-skip-permissions", "Model: -x"))
    assert only(Start, replace(VIEW, runs=(odd,)))[0].model == only(Start, VIEW)[0].model


def test_a_ticket_that_leads_elsewhere_before_anything_began_is_routed_anew():
    moved = replace(VIEW, tickets=(replace(TICKET, repo="two"),))
    assert ([a.repo for a in only(Adopt, moved)], only(Start, moved)) == (["two"], [])
    begun = replace(moved, runs=(replace(RUN, attempts=1),))
    assert not only(Adopt, begun)
    assert not only(Adopt, replace(moved, repos=(REPOS[1],)))  # its repository is not configured any more: it waits


def test_a_ticket_waits_for_a_node_with_what_it_requires_and_keeps_nobody_up():
    view = replace(
        VIEW, tickets=(replace(TICKET, requires=("macOS", "gpu")),), capabilities=frozenset({"linux", "gpu"})
    )
    assert not only(Start, view)
    assert dict(held(view, NOW, POLICY)) == {"b:1": "needs a node with macOS; this one has gpu, linux"}
    assert idle(view)
    assert only(Start, replace(view, capabilities=frozenset({"macos", "gpu"})))
