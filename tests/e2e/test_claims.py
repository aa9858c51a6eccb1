"""Two crews that know nothing of each other on one board: who loses a claim waits quietly, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.github_state import Pull
from tests.e2e.test_seeds_of_trouble import KEY, WEB, crew, github, pulls, ticket

__all__ = ["github"]

pytestmark = pytest.mark.slow


def test_who_lost_a_claim_waits_before_it_asks_again_and_gets_it_when_it_is_given_up(
    tmp_path: Path, github: GitHub
) -> None:
    one, two = crew(github, tmp_path / "one"), crew(github, tmp_path / "two")
    two.limits = two.limits.replace("backoff_max = 2", "backoff_max = 600")
    ticket(github, one, two)
    with one.up():
        one.until(lambda: one.runs() == {KEY: "in_review"})
    github.state.relabel(WEB, 1, remove=("nightcrew: review",))  # as if that crew were dead, and a person asked again
    with two.up():
        two.until(lambda: two.runs() == {KEY: "cancelled"})
        scans = github.counts()["GET /repos/{owner}/{repo}/issues"]
        two.until(lambda: github.counts()["GET /repos/{owner}/{repo}/issues"] > scans + 5)
        assert two.attempts(KEY) == ["cancelled"]
        told = str(two.sql("SELECT reason FROM runs")[0][0])
        bare = github.state.places[WEB].bare
        (claim,) = bare.git("for-each-ref", "--format=%(refname)", "refs/nightcrew/claims").split()
        assert f"`git push <repository> :{claim}`" in told
        bare.git("update-ref", "-d", claim)
        two.run("retry", KEY)
        two.until(lambda: two.runs() == {KEY: "in_review"})
    assert len(pulls(github)) == 1


def test_a_ticket_for_which_a_person_merged_something_is_worked_only_when_asked_again(
    tmp_path: Path, github: GitHub
) -> None:
    made, state = crew(github, tmp_path / "home"), github.state
    issue = ticket(github, made)
    head = state.places[WEB].bare.commit("ada/fix", "a person's", {"a.txt": "1"})
    theirs = state.issue(WEB, "Mine", f"Fixes #{issue.number}")
    theirs.pull = Pull("ada/fix", "main", state.id(), head)
    state.merge(WEB, theirs.number)
    state.reopen(WEB, issue.number)
    with made.up():
        made.until(lambda: made.runs() == {KEY: "blocked"})
        assert f"pull/{theirs.number} is merged for this ticket already" in str(made.sql("SELECT reason FROM runs"))
        made.run("retry", KEY)
        made.until(lambda: made.runs() == {KEY: "in_review"})
    assert len(pulls(github)) == 2
