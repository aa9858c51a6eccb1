"""A person asks for changes to an open pull request, and what was there before stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Repository
from tests.e2e.household import Night

pytestmark = pytest.mark.slow
FIRST = [{"write": {"path": "one.txt", "text": "first\n"}}, {"commit": "First"}]
SECOND = [{"write": {"path": "one.txt", "text": "second\n"}}, {"commit": "Second"}]


@pytest.fixture
def night(tmp_path: Path) -> Night:
    made = Night(tmp_path / "home", limits="max_attempts = 2\nbackoff_base = 0.2\n")
    made.agent("scripted")
    return made


def opened(night: Night, more: str, *attempts: object) -> Repository:
    """One pull request is open, and a person has asked for changes."""
    repo = night.repo("good", more)
    night.scenes["ONE"] = {"attempts": list(attempts)}
    night.ticket("ONE", "good")
    assert night.run("up", "--until-idle").code == 0
    assert night.runs() == {"ONE": "in_review"}
    night.run("pr", "request-changes", "1", "Say it better")
    return repo


def branch(night: Night) -> str:
    return str(night.sql("SELECT branch FROM runs")[0][0])


def test_an_agent_that_changes_nothing_new_has_not_answered_the_request(night: Night) -> None:
    opened(night, "", FIRST, [{"say": "It is fine as it is."}])
    night.run("up", "--until-idle")
    assert night.attempts("ONE") == ["done", "no_change", "no_change"]
    assert night.runs() == {"ONE": "failed"}


def test_a_commit_that_a_person_pushed_meanwhile_stays_on_the_branch(night: Night) -> None:
    go = night.home / "go"
    script = f"test ! -e {go} || {{ touch {go}.in; while [ -e {go} ]; do sleep 0.05; done; }}"
    find = f"grep -o 'rebase --onto [0-9a-f]* [0-9a-f]*' {night.state}/attempts/*/3/prompt.md"
    rebase = [{"run": f"git -c user.name=a -c user.email=a@b.c $({find} | head -1)"}]
    repo = opened(night, f'[repos.hooks]\nafter_run = "{script}"\n', FIRST, SECOND, rebase)
    go.touch()
    with night.up():
        night.until(lambda: Path(f"{go}.in").exists())
        tree = repo.git("rev-parse", f"{branch(night)}^{{tree}}")
        theirs = repo.git("commit-tree", "-p", branch(night), "-m", "A person's", tree)
        repo.git("update-ref", f"refs/heads/{branch(night)}", theirs)
        go.unlink()
        night.until(lambda: night.attempts("ONE") == ["done", "gate_failed", "done"])
    assert repo.git("rev-parse", f"{branch(night)}^") == theirs
    assert repo.git("show", f"{branch(night)}:one.txt") == "second"


def test_work_that_failed_its_gates_after_a_pull_request_is_rescued(night: Night) -> None:
    bad = [{"write": {"path": "bad.txt", "text": "bad\n"}}, {"commit": "Bad"}]
    opened(night, '[repos.gates]\ncommands = ["test ! -e bad.txt"]\n', FIRST, bad)
    night.run("up", "--until-idle")
    assert night.runs() == {"ONE": "failed"}
    (kept,) = night.run("rescue", "list", "--json").json["rescued"]
    assert kept["ref"].startswith("refs/nightcrew/rescue/one-")
