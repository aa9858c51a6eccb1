"""Open pull requests where people do the unexpected in the middle of our work: real program, real git, stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.standin import ERROR
from tests.e2e.company import writes
from tests.e2e.test_followup import FIRST, KEY, WEB, Followed, github, night

__all__ = ["github"]

pytestmark = pytest.mark.slow


def waiting(tmp_path: Path, then: str = "two.txt") -> list[object]:
    """The steps of a round that says so, waits for a file and then writes one."""
    wait = f"while ! test -e {tmp_path}/go; do read -t 0.1 _ < <(:) || true; sleep 0.05; done"
    return [{"say": "on it"}, {"run": f"bash -c '{wait}'"}, *writes(then, "two\n", f"Add {then}")]


def at_work(one: Followed) -> None:
    """Ask for something, and wait until an agent is at it."""
    one.github.state.say(WEB, one.issue.number, "ada", "Please add two.txt")
    one.night.until(lambda: len(one.night.attempts(KEY)) == 2)
    one.night.until(lambda: one.night.sql("SELECT last FROM attempts WHERE number = 2")[0][0] == "on it")


def test_a_change_that_a_person_puts_on_the_base_meanwhile_costs_no_second_attempt(
    tmp_path: Path, github: GitHub
) -> None:
    made = night(tmp_path, github, waiting(tmp_path))
    with made.up():
        made.until(lambda: made.sql("SELECT last FROM attempts") == [("on it",)])
        theirs = github.state.places[WEB].bare.commit("main", "a person's", {"two.txt": "two\n"})
        (tmp_path / "go").touch()
        made.until(lambda: made.runs() == {KEY: "duplicate"})
        made.until(lambda: "nightcrew: blocked" in github.state.places[WEB].issues[1].labels)
    assert made.attempts(KEY) == ["done"]
    assert made.sql("SELECT reason FROM runs") == [(f"the same change is already in commit {theirs[:12]} of the base",)]
    assert [issue for issue in github.state.places[WEB].issues.values() if issue.pull] == []


def test_a_pull_request_closed_while_a_round_is_worked_is_not_opened_again(tmp_path: Path, github: GitHub) -> None:
    one = Followed(night(tmp_path, github, FIRST, waiting(tmp_path)), github)
    with one.night.up():
        head = one.opened()
        at_work(one)
        github.state.close_issue(WEB, one.issue.number)
        (tmp_path / "go").touch()
        one.night.until(lambda: one.night.runs() == {KEY: "closed"} or len(one.pulls) == 2)
        one.night.until(lambda: one.place.issues[1].state == "closed")
    assert len(one.pulls) == 1
    assert one.head == head


def test_a_pull_request_merged_while_a_round_is_worked_gets_nothing_pushed_after_it(
    tmp_path: Path, github: GitHub
) -> None:
    one = Followed(night(tmp_path, github, FIRST, waiting(tmp_path)), github)
    with one.night.up():
        head = one.opened()
        at_work(one)
        github.state.merge(WEB, one.issue.number)
        (tmp_path / "go").touch()
        one.night.until(lambda: one.night.runs() == {KEY: "merged"})
        one.night.until(lambda: "is done" in one.place.issues[1].comments[0].body)
    assert len(one.pulls) == 1
    assert one.head == head


def test_what_a_person_pushes_while_a_round_is_worked_is_kept_and_the_round_lands_on_top(
    tmp_path: Path, github: GitHub
) -> None:
    find = f"grep -o 'rebase --onto [0-9a-f]* [0-9a-f]*' {tmp_path}/home/.nightcrew/attempts/*/3/prompt.md | head -1"
    rebase = [{"run": f"git -c user.name=a -c user.email=a@b.c $({find})"}]
    one = Followed(night(tmp_path, github, FIRST, waiting(tmp_path), rebase), github)
    with one.night.up():
        one.opened()
        at_work(one)
        theirs = one.place.bare.commit(one.pull.head, "a person's", {"theirs.txt": "theirs\n"})
        (tmp_path / "go").touch()
        second = one.moved(theirs)
    assert one.place.bare.contains(second, theirs)
    assert one.night.attempts(KEY) == ["done", "gate_failed", "done"]
    assert one.place.bare.git("show", f"{second}:two.txt") == "two"


def test_who_asks_for_changes_and_then_approves_asks_for_nothing_nor_does_a_review_that_was_dismissed(
    tmp_path: Path, github: GitHub
) -> None:
    made = night(tmp_path, github)
    made.places["web"] = made.places["web"].replace("quiet = 0.2", "quiet = 2")
    made.save()
    one = Followed(made, github)
    with one.night.up():
        head = one.opened()
        github.state.review(WEB, one.issue.number, "ada", "CHANGES_REQUESTED", "Please rename it.")
        github.state.access["bob"] = "MEMBER"
        github.state.review(WEB, one.issue.number, "bob", "DISMISSED", "Use another name.")
        github.state.review(WEB, one.issue.number, "ada", "APPROVED", "Ah, I see. Fine.")
        one.passes(head)
        one.night.until(lambda: ("ready", "note", 1) in one.night.reactions(KEY) or len(one.night.attempts(KEY)) > 1)
    assert one.night.attempts(KEY) == ["done"]


def test_after_a_round_that_failed_a_person_who_asks_again_is_heard(tmp_path: Path, github: GitHub) -> None:
    nothing = [{"say": "I would not change that."}]
    made = night(tmp_path, github, FIRST, nothing, nothing, writes("two.txt", "two\n", "Add two.txt"))
    made.limits += "max_attempts = 2\n"
    made.save()
    one = Followed(made, github)
    with one.night.up():
        head = one.opened()
        github.state.say(WEB, one.issue.number, "ada", "Please add two.txt")
        one.night.until(lambda: one.night.runs() == {KEY: "failed"})
        github.state.say(WEB, one.issue.number, "ada", "I do want it.")
        second = one.moved(head)
    assert one.place.bare.git("show", f"{second}:two.txt") == "two"
    assert "I do want it." in one.prompt(4)


def test_a_retry_is_not_taken_back_though_the_board_was_told_of_the_failure_by_half(
    tmp_path: Path, github: GitHub
) -> None:
    made = night(tmp_path, github, [*waiting(tmp_path)[:2], {"result": "refused"}], waiting(tmp_path))
    made.limits += "max_attempts = 1\n"
    made.save()
    one = Followed(made, github)
    with one.night.up():
        one.night.until(lambda: one.night.sql("SELECT shown FROM runs") == [("working",)])
        github.trouble.orders = [("PATCH /repos/{owner}/{repo}/issues/comments", ERROR)] * 50
        (tmp_path / "go").touch()
        one.night.until(lambda: one.place.issues[1].labels[-1] == "nightcrew: failed")
        assert one.night.sql("SELECT state, shown FROM runs") == [("failed", "working")]
        (tmp_path / "go").unlink()
        one.night.run("retry", KEY)
        looks = github.counts()["GET /repos/{owner}/{repo}/issues"]
        one.night.until(lambda: github.counts()["GET /repos/{owner}/{repo}/issues"] > looks + 3)
        (tmp_path / "go").touch()
        github.trouble.orders.clear()
        one.night.until(lambda: one.night.runs()[KEY] in ("in_review", "cancelled"))
    assert one.night.runs() == {KEY: "in_review"}


def test_brought_up_to_date_with_the_base_that_a_person_chose_not_with_ours(tmp_path: Path, github: GitHub) -> None:
    one = Followed(night(tmp_path, github), github)
    place = one.place
    release = place.bare.commit("release", "theirs", {"release.txt": "1\n"})
    with one.night.up():
        head = one.opened()
        with github.turn:
            place.strict, one.pull.base = True, "release"
            ours = place.bare.commit("main", "not for it", {"main.txt": "1\n"})
            github.state.touch(one.issue)
        second = one.moved(head)
    assert place.bare.contains(second, release)
    assert not place.bare.contains(second, ours)


def test_a_pull_request_that_conflicts_with_the_base_that_a_person_chose_is_merged_with_that(
    tmp_path: Path, github: GitHub
) -> None:
    merge = "git merge $(sed -n 's/.*(git merge \\([0-9a-f]*\\)).*/\\1/p' {prompt} | head -1) || true"
    prompt = f"{tmp_path}/home/.nightcrew/attempts/*/2/prompt.md"
    resolve = [{"run": merge.format(prompt=prompt)}, {"write": {"path": "app.txt", "text": "both\n"}},
               {"run": "git add -A && git commit -qm 'Merge release'"}]  # fmt: skip
    one = Followed(night(tmp_path, github, writes("app.txt", "ours\n", "Do it"), resolve), github)
    with one.night.up():
        head = one.opened()
        with github.turn:
            release = one.place.bare.commit("release", "theirs", {"app.txt": "theirs\n"})
            one.pull.base = "release"
            github.state.touch(one.issue)
        second = one.moved(head)
    assert one.place.bare.contains(second, release)
