"""A night whose repository asks for a second pair of eyes, and a person who asks for changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.household import Night

pytestmark = pytest.mark.slow
REVIEWED = '[repos.gates]\nreview = "scripted"\n'


def finding(*found: object) -> list[object]:
    return [{"result": {"outcome": "done", "text": "reviewed", "findings": list(found)}}]


def asks(line: int) -> dict[str, object]:
    return {"file": "K-1.txt", "line": line, "message": "say more", "blocking": True}


def test_a_blocking_finding_sends_the_work_back_twice_at_most_and_is_then_told_in_the_pull_request(
    tmp_path: Path,
) -> None:
    night = Night(tmp_path / "home")
    night.repo("good", REVIEWED)
    first = [{"write": {"path": "K-1.txt", "text": "done\n"}}, {"commit": "Do K-1"}]
    again = [{"append": {"path": "K-1.txt", "text": "and more\n"}}, {"commit": "Say more"}]
    night.scenes["K-1"] = {"attempts": [first, again]}
    night.script["review"] = {"attempts": [finding(asks(1))]}
    night.ticket("K-1", "good")
    assert night.run("up", "--until-idle").code == 0
    assert night.attempts("K-1") == ["gate_failed", "gate_failed", "done"]
    refused = night.show("K-1")["attempts_list"][0]
    assert "say more" in refused["evidence"]
    assert [gate["gate"] for gate in refused["gates"]][-1] == "review"
    body = night.run("pr", "show", "1", "--json").json["body"]
    assert "| review | passed |" in body
    assert "say more" in body


def test_a_reviewer_that_cites_what_is_not_there_stops_nothing(tmp_path: Path) -> None:
    night = Night(tmp_path / "home")
    night.repo("good", REVIEWED)
    work = [{"write": {"path": "K-1.txt", "text": "done\n"}}, {"commit": "Do K-1"}]
    night.scenes["K-1"] = {"attempts": [work]}
    night.script["review"] = {"attempts": [finding(asks(99))]}
    night.ticket("K-1", "good")
    assert night.run("up", "--until-idle").code == 0
    assert night.attempts("K-1") == ["done"]


def test_a_reviewer_that_breaks_costs_no_attempt_and_the_work_is_not_done_again(tmp_path: Path) -> None:
    night = Night(tmp_path / "home")
    night.repo("good", REVIEWED.replace("scripted", "reviewer"))
    work = [{"write": {"path": "K-1.txt", "text": "done\n"}}, {"commit": "Do K-1"}]
    night.scenes["K-1"] = {"attempts": [work]}
    answer = '{"type": "result", "outcome": "done", "text": "fine", "findings": []}'
    once = tmp_path / "asked"
    script = f"cat >/dev/null; test -e {once} || {{ : >{once}; exit 3; }}\necho '{answer}'\n"
    moody = night.file("reviewer.sh", script)
    night.agent("reviewer", ["/bin/sh", str(moody)])
    night.ticket("K-1", "good")
    assert night.run("up", "--until-idle").code == 0
    assert night.attempts("K-1") == ["infra", "done"]
    assert night.show("K-1")["consumed"] == 1
    assert night.runs() == {"K-1": "in_review"}


def test_a_reviewer_that_is_limited_parks_its_own_lane_and_is_asked_again_at_its_reset(tmp_path: Path) -> None:
    night = Night(tmp_path / "home")
    night.repo("good", REVIEWED.replace("scripted", "reviewer"))
    once = tmp_path / "asked"
    limit = '{"type": "result", "outcome": "rate_limited", "text": "5-hour limit", "resets_at": %s}'
    answer = '{"type": "result", "outcome": "done", "text": "fine", "findings": []}'
    soon = f"printf '{limit}\\n' $(($(date +%s) + 2)); exit 1"
    script = f"cat >/dev/null; test -e {once} || {{ : >{once}; {soon}; }}\necho '{answer}'\n"
    night.agent("reviewer", ["/bin/sh", str(night.file("reviewer.sh", script))])
    night.ticket("K-1", "good")
    assert night.run("up", "--until-idle").code == 0
    assert night.attempts("K-1") == ["rate_limited", "done"]
    assert night.show("K-1")["consumed"] == 1
    told = night.sql("SELECT data FROM events WHERE kind = 'lane.limited'")
    assert [json.loads(data)["lane"] for (data,) in told] == ["reviewer"]


def test_changes_a_person_asks_for_are_made_on_the_same_pull_request_also_when_history_is_rewritten(
    tmp_path: Path,
) -> None:
    night = Night(tmp_path / "home")
    good = night.repo("good")
    first = [{"write": {"path": "K-1.txt", "text": "done\n"}}, {"commit": "Do K-1"}]
    amend = "git add -A && git -c user.name=a -c user.email=a@a commit -q --amend -m Better"
    night.scenes["K-1"] = {
        "attempts": [first, [{"write": {"path": "K-1.txt", "text": "better\n"}}, {"run": {"command": amend}}]]
    }
    night.ticket("K-1", "good")
    assert night.run("up", "--until-idle").code == 0
    night.run("pr", "request-changes", "1", "Say it better")
    assert night.run("up", "--until-idle").code == 0
    pulls = night.run("pr", "list", "--all", "--json").json["pull_requests"]
    assert [(pull["number"], pull["state"]) for pull in pulls] == [(1, "open")]
    assert good.git("show", f"{pulls[0]['branch']}:K-1.txt") == "better"
    prompt = (night.state / "attempts").glob("*/2/prompt.md")
    assert "Say it better" in next(prompt).read_text()


ENDLESS = """cat >/dev/null
while :; do echo '{"type": "usage", "input": 1000, "output": 0, "turns": 1}'; sleep 0.1; done
"""


def endless(tmp_path: Path, more: str = "") -> Night:
    """A reviewer that never comes to an end, and spends 10,000 tokens a second."""
    night = Night(tmp_path / "home")
    night.limits += more
    night.repo("good", REVIEWED.replace("scripted", "reviewer"))
    night.agent("scripted")
    night.agent("reviewer", ["/bin/sh", str(night.file("reviewer.sh", ENDLESS))])
    night.ticket("K-1", "good", labels=["agent:scripted"])
    return night


def used(night: Night) -> int:
    return int(night.sql("SELECT sum(json_extract(usage, '$.input')) FROM attempts")[0][0])


def test_a_review_is_ended_by_the_caps_and_the_finished_work_waits(tmp_path: Path) -> None:
    night = endless(tmp_path, "\n[limits.day]\ntokens = 5000\n")
    with night.up():
        night.until(
            lambda: (
                "waits for its review: the crew has used" in str(night.sql("SELECT value FROM meta WHERE key='held'"))
            )
        )
    assert night.attempts("K-1") == ["token_cap"]
    assert night.runs() == {"K-1": "queued"}
    assert night.show("K-1")["consumed"] == 0
    assert 5000 <= used(night) <= 7000


def test_stopping_a_ticket_ends_its_review(tmp_path: Path) -> None:
    night = endless(tmp_path)
    with night.up():
        night.until(lambda: any((night.state / "attempts").glob("*/1/review-*/stdout")))
        night.run("stop", "K-1")
        night.until(lambda: night.runs() == {"K-1": "cancelled"}, 20)
    assert night.attempts("K-1") == ["cancelled"]
