"""Following pull requests up while the forge fails, or nightcrew is killed: real program, real git, stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.standin import CUT, LOST
from tests.e2e.company import writes
from tests.e2e.test_followup import FIRST, KEY, WEB, Followed, github, night

__all__ = ["github"]

pytestmark = pytest.mark.slow

COMMENT = "POST /repos/{owner}/{repo}/issues/{issue_number}/comments"
MERGE = "PUT /repos/{owner}/{repo}/pulls/{pull_number}/merge"
RERUN = "POST /repos/{owner}/{repo}/actions/runs/{run_id}/rerun-failed-jobs"


def killed_at(one: Followed, what: str, kind: str) -> None:
    """Up until that request went wrong in that way: killed there, so that what it did is not recorded, and up again."""
    one.github.trouble.orders = [(what, kind)] * 30
    with one.night.up() as process:
        one.night.until(lambda: any(e.what == what and e.trouble == kind for e in one.github.log))
        process.kill()
    one.github.trouble.orders.clear()


def opened(one: Followed) -> str:
    """Its pull request, told on the board, and nightcrew down."""
    with one.night.up():
        head = one.opened()
        one.night.until(lambda: one.night.sql("SELECT shown FROM runs") == [("review",)])
    return head


def said(one: Followed, words: str) -> int:
    return sum(words in comment.body for comment in one.issue.comments)


@pytest.mark.parametrize("kind", [CUT, LOST])
def test_killed_while_it_says_that_it_gives_up_it_says_so_once(tmp_path: Path, github: GitHub, kind: str) -> None:
    one = Followed(night(tmp_path, github, followup="check_rounds = 0\n"), github)
    one.fails(opened(one))
    killed_at(one, COMMENT, kind)
    with one.night.up():
        one.night.until(lambda: one.night.reactions(KEY) == [("checks", "say", 1)])
    assert said(one, "stopped after 0 tries") == 1


@pytest.mark.parametrize("kind", [CUT, LOST])
def test_killed_while_it_answers_it_answers_once(tmp_path: Path, github: GitHub, kind: str) -> None:
    one = Followed(night(tmp_path, github, FIRST, writes("two.txt", "two\n", "Add two.txt")), github)
    opened(one)
    github.state.say(WEB, one.issue.number, "ada", "Please add two.txt")
    killed_at(one, COMMENT, kind)
    with one.night.up():
        one.night.until(lambda: one.night.reactions(KEY) == [("review", "agent", 1), ("review", "answer", 1)])
    assert said(one, "Changed in") == 1
    assert one.night.attempts(KEY) == ["done", "done"]


@pytest.mark.parametrize("kind", [CUT, LOST])
def test_killed_while_a_flaky_check_is_run_again_it_runs_once_and_no_agent_is_sent(
    tmp_path: Path, github: GitHub, kind: str
) -> None:
    one = Followed(night(tmp_path, github, followup='flaky = ["test"]\n'), github)
    head = opened(one)
    one.fails(head)
    killed_at(one, RERUN, kind)
    with one.night.up():
        one.night.until(lambda: one.night.reactions(KEY) == [("checks", "rerun", 1)])
        assert [check.status for check in one.place.checks] == ["in_progress"]
        one.passes(head)
        one.night.until(lambda: one.reason() == "green; waits for a review")
    assert one.night.attempts(KEY) == ["done"]


@pytest.mark.parametrize("kind", [CUT, LOST])
def test_killed_while_it_merges_it_is_merged_once(tmp_path: Path, github: GitHub, kind: str) -> None:
    one = Followed(night(tmp_path, github, followup='merge = "now"\n'), github)
    one.passes(opened(one))
    before = int(one.place.bare.git("rev-list", "--count", "main"))
    github.state.review(WEB, one.issue.number, "ada", "APPROVED", "")
    killed_at(one, MERGE, kind)
    with one.night.up():
        one.night.until(lambda: one.night.runs() == {KEY: "merged"})
    assert int(one.place.bare.git("rev-list", "--count", "main")) == before + 1


def test_an_outage_while_a_flaky_check_is_run_again_sends_no_agent(tmp_path: Path, github: GitHub) -> None:
    one = Followed(night(tmp_path, github, followup='flaky = ["test"]\n'), github)
    one.fails(opened(one))
    github.trouble.orders = [(RERUN, CUT)] * 30
    told = one.night.home / "up.err"
    with one.night.up():
        one.night.until(lambda: "does not answer" in told.read_text() or len(one.night.attempts(KEY)) > 1)
        assert one.night.reactions(KEY) == [("checks", "rerun", 0)]
    assert one.night.attempts(KEY) == ["done"]


def test_an_approval_of_an_older_head_merges_nothing(tmp_path: Path, github: GitHub) -> None:
    more = writes("two.txt", "two\n", "Add two.txt")
    one = Followed(night(tmp_path, github, FIRST, more, followup='merge = "now"\n'), github)
    with one.night.up():
        head = one.opened()
        github.state.check(WEB, head, "test", "in_progress", None)
        github.state.review(WEB, one.issue.number, "ada", "APPROVED", "")
        github.state.say(WEB, one.issue.number, "ada", "And please add two.txt")
        one.passes(one.moved(head))
        one.night.until(lambda: one.reason() == "green; waits for a review" or one.night.runs() == {KEY: "merged"})
        assert one.night.runs() == {KEY: "in_review"}
        github.state.review(WEB, one.issue.number, "ada", "APPROVED", "")
        one.night.until(lambda: one.night.runs() == {KEY: "merged"})


@pytest.mark.parametrize("lost", [1, 2])
def test_a_pull_request_that_cannot_be_read_hides_no_other(tmp_path: Path, github: GitHub, lost: int) -> None:
    made, other = night(tmp_path, github), f"web#{3 - lost}"
    github.state.issue(WEB, "Do another", "Please.", labels=("nightcrew",))
    for n in (1, 2):
        made.plays(f"web#{n}", writes(f"{n}.txt", "1\n", "Do it"), writes(f"{n}.txt", "2\n", "Mend it"))
    with made.up():
        made.until(lambda: made.runs() == {KEY: "in_review", "web#2": "in_review"})
    one = Followed(made, github)
    (gone,) = [issue for issue in one.pulls if f"Closes {WEB}#{lost}" in issue.body]
    del one.place.issues[gone.number]
    one.fails(one.head)
    with made.up():
        made.until(lambda: made.attempts(other) == ["done", "done"])
