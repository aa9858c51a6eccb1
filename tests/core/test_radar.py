"""The order of merging makes the least rework, the next in line is one, and no ticket waits for ever for another."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew.core import radar
from nightcrew.core.dispatch import plan
from nightcrew.core.followup import Cause, Did, Past, Reaction
from nightcrew.core.likely import Earlier, Index, likely_files, overlaps, shared
from nightcrew.core.model import Attempt, Check, FollowUp, Policy, PullRequest, Repo, Run, RunState, Standing
from nightcrew.core.radar import Clash, Conflicts, line, merge_order, next_to_rebase, rework
from nightcrew.core.schedule import React, View, decide, held
from nightcrew.core.turns import not_now

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
NAMES = tuple("abcdef")


def conflicts(*pairs: tuple[str, str, tuple[str, ...]]) -> Conflicts:
    names = dict.fromkeys(name for one, other, _ in pairs for name in (one, other))
    return Conflicts("base", {name: f"sha-{name}" for name in names}, tuple(Clash(*pair) for pair in pairs))


@st.composite
def clashing(draw: st.DrawFn, most: int = 6) -> tuple[list[str], Conflicts]:
    """Some branches, oldest first, and any conflicts between them."""
    names = [f"b{n}" for n in range(draw(st.integers(0, most)))]
    files = st.sets(st.sampled_from(["x.py", "y.py", "z.py", "w.py"]), min_size=1)
    pairs = [(a, b, tuple(sorted(draw(files)))) for a, b in combinations(names, 2) if draw(st.booleans())]
    return draw(st.permutations(names)), conflicts(*pairs)


# -- merged in order ---------------------------------------------------------------------------------------------------
@given(clashing())
def test_as_few_branches_as_possible_are_worked_over(world: tuple[list[str], Conflicts]) -> None:
    branches, known = world
    order = merge_order(branches, known)
    assert sorted(order) == sorted(branches)
    assert rework(order, known)[0] == min(rework(other, known)[0] for other in permutations(branches))


@given(clashing())
def test_the_order_is_never_worse_than_oldest_first(world: tuple[list[str], Conflicts]) -> None:
    branches, known = world
    assert rework(merge_order(branches, known), known) <= rework(branches, known)


@settings(max_examples=40, deadline=None)
@given(clashing(most=40))
def test_many_branches_are_never_worse_than_oldest_first_either(world: tuple[list[str], Conflicts]) -> None:
    branches, known = world
    order = merge_order(branches, known)
    assert sorted(order) == sorted(branches)
    assert rework(order, known) <= rework(branches, known)


def test_without_conflicts_the_oldest_goes_first() -> None:
    assert merge_order(["c", "a", "b"], Conflicts()) == ["c", "a", "b"]


def test_the_one_that_is_in_everybodys_way_goes_last() -> None:
    known = conflicts(*(("a", other, ("x",)) for other in "bcd"))
    assert merge_order(["a", "b", "c", "d"], known) == ["b", "c", "d", "a"]
    assert rework(["a", "b", "c", "d"], known) == (3, 3)
    assert rework(["b", "c", "d", "a"], known) == (1, 1)


def test_a_base_that_moved_between_two_branches_makes_no_conflict_of_them() -> None:
    merged = {
        frozenset(("base", "1")): ("x", "y"), frozenset(("base", "2")): (), frozenset(("1", "2")): ("x", "y"),
    }  # fmt: skip
    known = radar.found("base", {"a": "1", "b": "2"}, merged, {"a": ("x", "y"), "b": ("y", "z")}, {})
    assert known.between("a", "b") == known.between("b", "a") == ("y",)
    assert known.against == {"a": ("x", "y")}
    assert radar.matrix(known) == [("a", (2, 1)), ("b", (1, 0))]


# -- the next in line --------------------------------------------------------------------------------------------------
def standing(name: str, **how: object) -> Standing:
    pull = PullRequest("one", NAMES.index(name) + 1, name, "main", "a title", "", head=f"sha-{name}")
    return Standing(pull, **{"base_head": "base", "mergeable": True, **how})  # type: ignore[arg-type]


@st.composite
def standings(draw: st.DrawFn) -> dict[str, Standing]:
    return {name: standing(name, mergeable=draw(st.sampled_from([True, False, None])), behind=draw(st.booleans()),
                           approved=draw(st.booleans()), merging=draw(st.booleans()))
            for name in NAMES[: draw(st.integers(0, 6))]}  # fmt: skip


@given(standings(), clashing())
def test_at_most_one_is_brought_in_line_and_only_one_that_needs_it(
    known: dict[str, Standing], world: tuple[list[str], Conflicts]
) -> None:
    order = line(known, world[1])
    assert sorted(order) == sorted(known)
    turn = next_to_rebase(order, known, world[1])
    assert turn == "" or known[turn].mergeable is False or known[turn].behind
    assert next_to_rebase(order, known, world[1], ()) == ""
    if any(one.mergeable is False for one in known.values()) and not world[1].pairs:
        assert turn  # what conflicts with its base is not left lying


def test_what_is_behind_waits_while_one_before_it_is_ready() -> None:
    known = {"a": standing("a"), "b": standing("b", behind=True), "c": standing("c", behind=True)}
    assert next_to_rebase(line(known, Conflicts()), known, Conflicts()) == ""
    failed = {**known, "a": standing("a", checks=(Check("test", "failed"),))}
    assert next_to_rebase(line(failed, Conflicts()), failed, Conflicts()) == "b"


def test_what_people_approved_goes_first() -> None:
    known = {"a": standing("a", behind=True), "b": standing("b", behind=True, approved=True)}
    assert line(known, Conflicts()) == ["b", "a"]
    assert next_to_rebase(["b", "a"], known, Conflicts()) == "b"


def test_a_conflict_that_the_next_merge_brings_back_is_not_resolved_before_it() -> None:
    known = {"a": standing("a", approved=True), "b": standing("b", mergeable=False)}
    assert next_to_rebase(["a", "b"], known, conflicts(("a", "b", ("x",)))) == ""
    assert next_to_rebase(["a", "b"], known, Conflicts()) == "b"


# -- followed up in order ----------------------------------------------------------------------------------------------
def in_review(name: str, **more: object) -> Run:
    number = NAMES.index(name) + 1
    run = Run(name, "b", name, name.upper(), "a title", repo="one", branch=name, state=RunState.IN_REVIEW,
              shown="review", pull_request=number, created_at=NOW - timedelta(days=9 - number))  # fmt: skip
    return replace(run, **more)  # type: ignore[arg-type]


def world(known: dict[str, Standing], merge: str = "never", **more: object) -> View:
    view = View(runs=tuple(map(in_review, known)), standings=known, repos=(Repo("one", "/one"),))
    repos = (Repo("one", "/one", followup=FollowUp(merge=merge)),)
    return replace(view, repos=repos, **more)  # type: ignore[arg-type]


def reacts(view: View) -> dict[str, Cause]:
    return {a.run.id: a.reaction.cause for a in decide(view, NOW, Policy()) if isinstance(a, React) and a.reaction}


def test_of_several_in_conflict_one_is_sent_back_at_a_time() -> None:
    three = {name: standing(name, mergeable=False) for name in "abc"}
    view = world(three)
    assert reacts(view) == {"a": Cause.CONFLICT}
    sent = Past("a", 1, Cause.CONFLICT, "x", Did.AGENT, NOW, done=True)
    at_it = (in_review("a", state=RunState.WORKING), in_review("b"), in_review("c"))
    assert reacts(replace(view, runs=at_it, past={"a": (sent,)})) == {}
    assert reacts(replace(view, busy=frozenset({"a"}))) == {}  # it is being sent
    unseen = {name: three[name] for name in "bc"}
    assert reacts(replace(view, standings=unseen)) == {}  # what was done about a is not seen yet
    asked = Past("a", 1, Cause.REVIEW, "x", Did.AGENT, NOW)
    assert reacts(replace(view, runs=at_it, past={"a": (asked,)})) == {"b": Cause.CONFLICT}


def test_what_waits_for_its_turn_is_still_answered_otherwise() -> None:
    red = standing("b", mergeable=False, checks=(Check("test", "failed"),))
    assert reacts(world({"a": standing("a", mergeable=False), "b": red})) == {"a": Cause.CONFLICT, "b": Cause.CHECKS}


def test_who_is_given_up_on_does_not_stand_in_the_way() -> None:
    three = {name: standing(name, mergeable=False) for name in "ab"}
    tried = [Past("a", 1, Cause.CONFLICT, str(n), Did.AGENT, NOW, done=True) for n in range(2)]
    stopped = Past("a", 1, Cause.CONFLICT, "stopped:sha-a:base", Did.SAY, NOW, done=True)
    assert reacts(world(three, past={"a": (*tried, stopped)})) == {"b": Cause.CONFLICT}


def test_of_two_that_conflict_the_first_in_line_is_merged_first() -> None:
    both = {name: standing(name, approved=True, checks=(Check("test", "passed"),)) for name in "ab"}
    assert reacts(world(both, "now")) == {"a": Cause.READY, "b": Cause.READY}
    clash = {"one": conflicts(("a", "b", ("x",)))}
    assert reacts(world(both, "now", conflicts=clash)) == {"a": Cause.READY}


def test_nothing_is_held_where_nothing_happened() -> None:
    assert not_now(world({"a": standing("a")}), {}) == {}
    note = Reaction(Cause.READY, "x", Did.NOTE, "green")
    assert not_now(world({"a": standing("a")}), {"a": note}) == {}


# -- which files -------------------------------------------------------------------------------------------------------
FILES = ("shop/cart.py", "shop/money.py", "shop/checkout_flow.py", "web/LoginForm.tsx", "tests/test_money.py",
         "docs/index.md", "CHANGELOG.md")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("Fix rounding in shop/money.py", "shop/money.py"),
        ("`money.py` rounds the wrong way", "shop/money.py"),
        ("LoginForm forgets what was typed", "web/LoginForm.tsx"),
        ("checkout_flow loses the voucher", "shop/checkout_flow.py"),
        ("shop.cart: empty it after the order", "shop/cart.py"),
        ("The cart is not emptied", "shop/cart.py"),
        ("Write docs/vouchers.md", "docs/vouchers.md"),
    ],
)
def test_files_are_told_from_the_names_in_a_ticket(text: str, file: str) -> None:
    assert file in likely_files(text, FILES)


@pytest.mark.parametrize("text", ["", "Make it faster", "See https://example.com/shop/money.py", "Update the index"])
def test_words_that_say_nothing_lead_nowhere(text: str) -> None:
    assert likely_files(text, FILES) == frozenset()


@pytest.mark.parametrize("text", ["`round_up()` is off by a cent", "round_up loses a cent", "Fix money.RoundingRule"])
def test_files_are_told_from_what_they_define(text: str) -> None:
    defined = {"round_up": ["shop/prices.py"], "RoundingRule": ["shop/prices.py"], "main": ["shop/prices.py"],
               "cent": ["shop/cent.py"], "often": [f"{n}.py" for n in range(9)]}  # fmt: skip
    index = Index(("shop/prices.py",), (), defined)
    assert index.likely(text) == {"shop/prices.py"}
    assert index.likely("`often` and `main` are slow, every cent counts") == frozenset()


def test_files_are_told_from_what_changed_for_like_words() -> None:
    history = [Earlier(f"unrelated topic number {n}", (f"part{n}.py", "CHANGELOG.md")) for n in range(20)]
    history.append(Earlier("Charge Swiss francs for parcels", ("shop/money.py", "CHANGELOG.md")))
    found = likely_files("Parcels to Swiss addresses cost francs", FILES, history)
    assert found == {"shop/money.py"}  # never the file that every change touches


@pytest.mark.parametrize("bit", ["a", "a/", "a.", "a_", "`", "aB", "://", "é", "a-"])
def test_a_ticket_of_any_length_is_read_in_no_time(bit: str) -> None:
    assert likely_files(bit * 500_000, FILES) == frozenset()  # minutes, if it took the square of the length


texts = st.lists(st.sampled_from(["cart", "money.py", "shop/money.py", "LoginForm", "the", "a/b.py", "x" * 300, "./.",
                                  "`", "..", "/", "é.py", "\0"]) | st.text(max_size=20)).map(" ".join)  # fmt: skip
changes = st.lists(st.builds(Earlier, texts, st.lists(st.sampled_from(FILES)).map(tuple))).map(tuple)


@given(texts, changes)
def test_any_words_give_few_files_and_the_same_ones_again(text: str, history: tuple[Earlier, ...]) -> None:
    found = Index(FILES, history).likely(text)
    assert len(found) <= 12
    assert found == Index(FILES, history).likely(text)
    assert not found & Index(FILES, history).everyones


file_sets = st.frozensets(st.sampled_from("abcdefgh"), max_size=8)


@given(file_sets, file_sets)
def test_overlap_is_mutual_and_of_files_that_both_touch(mine: frozenset[str], theirs: frozenset[str]) -> None:
    assert shared(mine, theirs) == shared(theirs, mine)
    assert set(shared(mine, theirs)) <= mine & theirs
    who, files = overlaps(mine, {"x": theirs, "y": frozenset()})
    assert (who == "x") == bool(shared(mine, theirs))
    assert files == shared(mine, theirs)


# -- dispatched --------------------------------------------------------------------------------------------------------
def queued(name: str, **more: object) -> Run:
    run = Run(name, "b", name, name.upper(), "a title", repo="one", branch=name, shown="open",
              created_at=NOW + timedelta(seconds=len(name)))  # fmt: skip
    return replace(run, **more)  # type: ignore[arg-type]


def crew(runs: list[Run], at_work: tuple[str, ...], touches: dict[str, set[str]]) -> View:
    states = [replace(r, state=RunState.WORKING) if r.id in at_work else r for r in runs]
    attempts = tuple(Attempt(name, 1, "claude", "", "", False, 0, "session", started_at=NOW) for name in at_work)
    return View(runs=tuple(states), attempts=attempts, repos=(Repo("one", "/one"), Repo("two", "/two")),
                agents=("claude",), ladders={"claude": ()},
                touches={name: frozenset(files) for name, files in touches.items()})  # fmt: skip


def started(view: View, policy: Policy) -> list[str]:
    return [start.run.id for start in plan(view, (), NOW, policy).starts]


SAME = {"a": {"x.py"}, "b": {"x.py"}, "c": {"y.py"}}


def test_a_ticket_of_the_same_files_lets_others_start_first_and_says_why() -> None:
    view = crew([queued("a"), queued("b"), queued("c")], ("a",), SAME)
    assert started(view, Policy(max_running=2)) == ["c"]
    assert held(view, NOW, Policy(max_running=2)) == {"b": "waits: A works on the same files (x.py)"}


def test_no_slot_stays_idle_for_it() -> None:
    view = crew([queued("a"), queued("b"), queued("c")], ("a",), SAME)
    assert started(view, Policy(max_running=3)) == ["c", "b"]
    assert started(crew([queued("a"), queued("b")], ("a",), SAME), Policy(max_running=2)) == ["b"]
    assert held(view, NOW, Policy(max_running=3)) == {}


def test_of_two_queued_ones_of_the_same_files_the_first_starts() -> None:
    view = crew([queued("a"), queued("b"), queued("c")], (), SAME)
    assert started(view, Policy(max_running=2)) == ["a", "c"]


def test_what_waits_is_not_overtaken_by_others_of_its_files() -> None:
    files = {"a": {"x.py"}, "b": {"x.py", "y.py"}, "c": {"y.py"}, "d": {"z.py"}}
    view = crew([queued(name) for name in "abcd"], ("a",), files)
    assert started(view, Policy(max_running=2)) == ["d"]
    assert held(view, NOW, Policy(max_running=2)) == {
        "b": "waits: A works on the same files (x.py)", "c": "waits: B is to change the same files (y.py)",
    }  # fmt: skip


def test_it_can_be_switched_off_and_minds_neither_other_repositories_nor_finished_work() -> None:
    policy = Policy(max_running=2)
    view = crew([queued("a"), queued("b"), queued("c")], ("a",), SAME)
    assert started(view, replace(policy, avoid_conflicts=False)) == ["b"]
    elsewhere = crew([queued("a"), queued("b", repo="two"), queued("c")], ("a",), SAME)
    assert started(elsewhere, policy) == ["b"]
    done = crew([queued("a"), queued("b", pending_head="abc"), queued("c")], ("a",), SAME)
    assert started(done, policy) == ["b"]


@st.composite
def crews(draw: st.DrawFn) -> tuple[View, int]:
    names = [f"r{n}" for n in range(draw(st.integers(1, 8)))]
    files = {name: draw(st.sets(st.sampled_from("xyz"), max_size=2)) for name in names}
    working = tuple(name for name in names if draw(st.booleans()))
    runs = [queued(name, priority=draw(st.integers(1, 3))) for name in names]
    return crew(runs, working, files), draw(st.integers(1, 5))


@given(crews())
def test_as_many_start_as_would_without_minding_files(world: tuple[View, int]) -> None:
    view, most = world
    minding, not_minding = (Policy(max_running=most, avoid_conflicts=on) for on in (True, False))
    assert len(started(view, minding)) == len(started(view, not_minding))
    told = {*started(view, minding), *held(view, NOW, minding)}
    assert told == {run.id for run in view.runs if run.state is RunState.QUEUED}


@given(crews(), st.data())
def test_nobody_is_passed_over_for_ever(world: tuple[View, int], data: st.DataObject) -> None:
    """New tickets, of just those of its files that nobody works on, keep coming behind it: it starts all the same once
    those that ran when it came have ended."""
    view, most = world
    policy = Policy(max_running=most)
    waiting = [run for run in view.runs if run.state is RunState.QUEUED]
    first = min(waiting, key=lambda run: (run.priority, run.created_at, run.key), default=None)
    before = {attempt.run_id for attempt in view.attempts}
    runs, touches, new = {run.id: run for run in view.runs}, dict(view.touches), 0
    while first and runs[first.id].state is RunState.QUEUED:
        now_is = replace(view, runs=tuple(runs.values()), touches=touches, attempts=tuple(
            Attempt(name, 1, "claude", "", "", False, 0, "session") for name, r in runs.items()
            if r.state is RunState.WORKING
        ))  # fmt: skip
        starts = started(now_is, policy)
        runs |= {name: replace(runs[name], state=RunState.WORKING) for name in starts}
        if first.id in starts:
            break
        ends = [name for name, run in runs.items() if run.state is RunState.WORKING]
        assert before & {*ends}, "those that were there first have ended, and it has not started"
        gone = data.draw(st.sampled_from(sorted(ends)))
        del runs[gone]
        before.discard(gone)
        new += 1
        late = queued(f"new-{new}", priority=3, created_at=NOW + timedelta(days=new))
        taken = {file for name, run in runs.items() if run.state is RunState.WORKING for file in touches[name]}
        runs[late.id], touches[late.id] = late, frozenset(touches[first.id] - taken)
