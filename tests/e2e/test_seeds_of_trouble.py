"""What has opened pull requests twice, or none, elsewhere: played for real on the GitHub stand-in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.github_state import Issue, Pull
from nightcrew.testing.company.standin import CUT, ERROR, LOST, Trouble
from tests.e2e.company import CompanyNight, writes

pytestmark = pytest.mark.slow

WEB, KEY = "acme/web", "web#1"
PULLS = "/repos/{owner}/{repo}/pulls"


@pytest.fixture
def github(tmp_path: Path) -> Iterator[GitHub]:
    with GitHub(tmp_path / "github") as running:
        running.state.repository(WEB, {"README.md": "# Web\n"})
        yield running
    assert running.violations == []


def crew(github: GitHub, home: Path) -> CompanyNight:
    made = CompanyNight(home, env={"GITHUB_TOKEN": "ghp_nightcrew"})
    made.board = f'kind = "github"\nurl = "{github.url}"\nrepos = ["{WEB}"]\nlabels = ["nightcrew"]\n'
    made.forge = f'kind = "github"\nurl = "{github.url}"\n'
    made.places["web"] = f'url = "{github.clone_url(WEB)}"\n'
    made.save()
    return made


def ticket(github: GitHub, *crews: CompanyNight, title: str = "Do it") -> Issue:
    issue = github.state.issue(WEB, title, labels=("nightcrew",))
    name = f"f{issue.number}.txt"
    for one in crews:
        one.plays(f"web#{issue.number}", *(writes(name, f"{n}\n", f"Do it {n}") for n in range(4)))
    return issue


def pulls(github: GitHub) -> list[Issue]:
    return [issue for issue in github.state.places[WEB].issues.values() if issue.pull]


def pull(issue: Issue) -> Pull:
    assert issue.pull is not None
    return issue.pull


def test_two_crews_that_know_nothing_of_each_other_open_one_pull_request_for_each_ticket(
    tmp_path: Path, github: GitHub
) -> None:
    one, two = crew(github, tmp_path / "one"), crew(github, tmp_path / "two")
    with one.up(), two.up():
        with github.turn:
            issues = [ticket(github, one, two, title=f"Do {n}") for n in range(6)]
        one.until(lambda: len(pulls(github)) == 6)
        for night in (one, two):
            night.until(lambda n=night: set(n.runs().values()) <= {"in_review", "cancelled"})
        one.until(lambda: all("nightcrew: review" in issue.labels for issue in issues))
    assert len({pull(issue).head for issue in pulls(github)}) == 6
    assert all(len(issue.comments) == 1 for issue in issues)
    mine = [key for night in (one, two) for key, state in night.runs().items() if state == "in_review"]
    assert sorted(mine) == sorted(f"web#{issue.number}" for issue in issues)


def test_a_ticket_that_is_opened_again_after_its_merge_runs_again_on_a_new_branch(
    tmp_path: Path, github: GitHub
) -> None:
    night = crew(github, tmp_path / "home")
    issue = ticket(github, night)
    with night.up():
        night.until(lambda: night.runs() == {KEY: "in_review"})
        github.state.merge(WEB, pulls(github)[0].number)
        night.until(lambda: night.runs() == {KEY: "merged"} and "is done" in issue.comments[0].body)
        github.state.reopen(WEB, issue.number)
        night.until(lambda: len(pulls(github)) == 2)
        night.until(lambda: night.runs() == {KEY: "in_review"})
    first, second = pulls(github)
    assert pull(first).head != pull(second).head
    assert "opened again" in second.body
    assert f"#{first.number}" in second.body


def test_so_it_does_when_the_database_was_lost(tmp_path: Path, github: GitHub) -> None:
    night = crew(github, tmp_path / "home")
    issue = ticket(github, night)
    with night.up():
        night.until(lambda: night.runs() == {KEY: "in_review"})
    github.state.merge(WEB, pulls(github)[0].number)
    github.state.reopen(WEB, issue.number)
    github.state.relabel(WEB, issue.number, remove=("nightcrew: review",))
    other = crew(github, tmp_path / "other")
    other.scenes, other.agents = night.scenes, night.agents
    other.save()
    with other.up():
        other.until(lambda: other.runs() == {KEY: "in_review"})
    first, second = pulls(github)
    assert pull(first).head != pull(second).head


def test_an_open_pull_request_is_gone_on_with_when_the_database_was_lost(tmp_path: Path, github: GitHub) -> None:
    night = crew(github, tmp_path / "home")
    issue = ticket(github, night)
    with night.up():
        night.until(lambda: night.runs() == {KEY: "in_review"})
    github.state.relabel(WEB, issue.number, remove=("nightcrew: review",))
    claims = github.state.places[WEB].bare.git("for-each-ref", "--format=%(refname)", "refs/nightcrew")
    for ref in claims.splitlines():
        github.state.places[WEB].bare.git("update-ref", "-d", ref)
    other = crew(github, tmp_path / "other")
    other.scenes, other.agents = night.scenes, night.agents
    other.save()
    with other.up():
        other.until(lambda: other.runs() == {KEY: "in_review"})
    assert len(pulls(github)) == 1


def test_a_ticket_for_which_a_person_opened_a_pull_request_is_left_to_that(tmp_path: Path, github: GitHub) -> None:
    night, state = crew(github, tmp_path / "home"), github.state
    issue = ticket(github, night)
    place = state.places[WEB]
    head = place.bare.commit("ada/fix", "a person's", {"a.txt": "1"})
    theirs = state.issue(WEB, "Mine", f"Fixes #{issue.number}")
    theirs.pull = Pull("ada/fix", "main", state.id(), head)
    with night.up():
        night.until(lambda: night.runs() == {KEY: "blocked"})
        night.until(lambda: "nightcrew: blocked" in issue.labels)
    assert pulls(github) == [theirs]
    assert f"pull/{theirs.number} is open for this ticket already" in issue.comments[0].body


def test_a_change_that_is_open_elsewhere_already_is_not_opened_again(tmp_path: Path, github: GitHub) -> None:
    night, state = crew(github, tmp_path / "home"), github.state
    issue = ticket(github, night)
    head = state.places[WEB].bare.commit("ada/same", "the same by a person", {f"f{issue.number}.txt": "0\n"})
    theirs = state.issue(WEB, "By chance the same")
    theirs.pull = Pull("ada/same", "main", state.id(), head)
    with night.up():
        night.until(lambda: night.runs() == {KEY: "duplicate"})
        night.until(lambda: "nightcrew: blocked" in issue.labels)
    assert issue.state == "open"
    assert pulls(github) == [theirs]
    assert f"pull/{theirs.number}" in str(night.sql("SELECT reason FROM runs"))


class SilentOnceOpened(Trouble):
    """A pull request is opened, and from then on, till `over`, none is shown."""

    opened = over = False

    def choose(self, what: str) -> str:
        if what == f"POST {PULLS}":
            self.opened = True
            return LOST
        return ERROR if self.opened and not self.over and what == f"GET {PULLS}" else ""


def test_a_pull_request_that_was_merged_before_we_heard_that_it_is_open_is_ours(tmp_path: Path, github: GitHub) -> None:
    night = crew(github, tmp_path / "home")
    ticket(github, night)
    github.trouble = trouble = SilentOnceOpened()
    with night.up():
        night.until(lambda: len(pulls(github)) == 1)
        night.until(lambda: "infra" in night.attempts(KEY))
        pulls(github)[0].body = "It closes nothing by itself."
        github.state.merge(WEB, pulls(github)[0].number)
        trouble.over = True
        night.until(lambda: night.runs()[KEY] in ("merged", "failed", "in_review", "duplicate"))
    assert night.runs() == {KEY: "merged"}
    assert len(pulls(github)) == 1


@pytest.mark.parametrize("kind", [LOST, CUT, ERROR])
def test_answers_that_are_lost_on_the_way_open_nothing_twice(tmp_path: Path, github: GitHub, kind: str) -> None:
    night = crew(github, tmp_path / "home")
    issue = ticket(github, night)
    for what in ("/pulls", "/comments", "/labels", "/pulls"):
        github.trouble.next(f"POST /repos/{{owner}}/{{repo}}{what}" if what == "/pulls" else what, kind)
    with night.up():
        night.until(lambda: night.runs() == {KEY: "in_review"})
        night.until(lambda: issue.labels == ["nightcrew", "nightcrew: review"])
    assert len(pulls(github)) == 1
    assert len(issue.comments) == 1
    assert night.attempts(KEY)[-1] == "done"
    assert not re.search(r"no_change|crashed", " ".join(night.attempts(KEY)))


def test_a_ticket_closed_while_its_agent_works_opens_no_pull_request(tmp_path: Path, github: GitHub) -> None:
    night = crew(github, tmp_path / "home")
    issue = ticket(github, night)
    night.plays(KEY, [*writes("a.txt", "1\n", "Do it"), {"wait": 1.5}])
    text = (night.home / "nightcrew.toml").read_text()
    night.file("nightcrew.toml", text.replace("scan_every = 0.4", "scan_every = 600"))
    with night.up():
        night.until(lambda: bool(night.attempts(KEY)))
        github.state.close_issue(WEB, issue.number, "not_planned")
        night.until(lambda: night.runs() == {KEY: "cancelled"})
    assert pulls(github) == []
