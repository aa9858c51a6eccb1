"""Lanes as their owner meets them: `nightcrew lanes`, and nights in which a login is lost and comes back."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nightcrew.testing.anthropic import AnthropicEndpoint
from tests.e2e import night as real_night
from tests.e2e.agents import program
from tests.e2e.household import PYTHON, WORK, Night
from tests.e2e.oauth import TokenEndpoint
from tests.e2e.test_cli import ANSI, on_terminal

pytestmark = pytest.mark.slow
LOGGED_OUT = {"result": {"outcome": "logged_out", "text": "Not logged in"}}
WORK_OF_ONE = json.loads(json.dumps(WORK).replace("{ticket}", "ONE"))
TICKETS = ("ONE", "TWO", "THREE")


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """One repository, and an agent whose login is a file."""
    made = Night(tmp_path / "home")
    made.repo("good")
    login = [sys.executable, "-c", "open('logged-in', 'w').write('yes'); print('welcome', 'back')"]
    made.agent("scripted", more=f"login = {json.dumps(login)}\n")
    return made


def lanes(night: Night) -> dict[str, dict[str, Any]]:
    return {row["lane"]: row for row in night.run("lanes", "--json").json["lanes"]}


def state(night: Night, lane: str = "scripted") -> str:
    """Read from the database itself."""
    return next((str(row[0]) for row in night.sql("SELECT state FROM lanes WHERE name = ?", lane)), "up")


def alarms(night: Night) -> list[dict[str, Any]]:
    return [json.loads(row[0]) for row in night.sql("SELECT data FROM events WHERE kind = 'alarm'")]


def consumed(night: Night) -> dict[str, int]:
    return {key: int(count) for key, count in night.sql("SELECT key, consumed FROM runs")}


def in_two_hours() -> int:
    """As Claude Code's file says it, in milliseconds."""
    return int(time.time() + 7200) * 1000


def log_out(night: Night, *tickets: str) -> None:
    """Each of these is told once that the login has expired, and does its work the next time."""
    for key in tickets:
        work = json.loads(json.dumps(WORK).replace("{ticket}", key))
        night.scenes[key] = {"attempts": [[LOGGED_OUT], work]}
        night.ticket(key, "good")


# ---- a login is lost in the night


@pytest.mark.parametrize("back", ["login", "resume"])
def test_an_expired_login_is_one_alarm_and_the_night_goes_on_by_itself_once_it_is_back(night: Night, back: str) -> None:
    log_out(night, *TICKETS)
    with night.up() as up:
        night.until(lambda: state(night) == "logged_out")
        night.until(lambda: not night.sql("SELECT 1 FROM attempts WHERE phase != 'ended' OR settled = 0"))
        assert set(night.runs().values()) == {"queued"}
        assert set(consumed(night).values()) == {0}
        (alarm,) = alarms(night)
        assert (alarm["lane"], alarm["cure"]) == ("scripted", "`nightcrew lanes login scripted`")
        row = lanes(night)["scripted"]
        assert (row["state"], "Not logged in" in row["evidence"], bool(row["told_at"])) == ("logged_out", True, True)
        assert "nightcrew lanes login scripted" in night.run("status").out
        words = ("login", "scripted", "--done") if back == "login" else ("resume", "scripted")
        assert night.run("lanes", *words).code == 0
        night.until(lambda: set(night.runs().values()) == {"in_review"})
        assert up.poll() is None
    assert set(consumed(night).values()) == {1}
    assert len(alarms(night)) == 1
    assert state(night) == "up"
    outcomes = [night.attempts(key) for key in TICKETS]
    assert all(told[-1] == "done" and set(told[:-1]) <= {"logged_out"} for told in outcomes), outcomes


def test_logging_in_on_a_terminal_runs_the_agents_own_program_and_takes_the_lane_back(night: Night) -> None:
    log_out(night, "ONE")
    assert night.run("up", "--until-idle").code == 0
    assert state(night) == "logged_out"
    told = night.run("lanes", "login", "scripted")  # there is no terminal: it is said what to run
    assert ("welcome back" in told.out, "nightcrew lanes login scripted --done" in told.out) == (False, True)
    shown = ANSI.sub("", on_terminal(night, ["lanes", "login", "scripted"], columns=80))
    assert "welcome back" in shown
    assert "Lane scripted is used again. It is carried out at the next `nightcrew up`." in " ".join(shown.split())
    assert (night.home / "logged-in").read_text() == "yes"
    assert night.run("up", "--until-idle").code == 0
    assert night.runs() == {"ONE": "in_review"}


def test_a_login_program_that_fails_leaves_the_lane_out(night: Night) -> None:
    night.agent("scripted", more=f'login = [{PYTHON}, "-c", "raise SystemExit(3)"]\n')
    log_out(night, "ONE")
    night.run("up", "--until-idle")
    assert "ended with exit code 3" in on_terminal(night, ["lanes", "login", "scripted"], columns=80)
    assert night.sql("SELECT count(*) FROM orders") == [(0,)]
    assert night.sql("SELECT state FROM lanes WHERE name = 'scripted'") == [("logged_out",)]


# ---- orders


def test_a_paused_lane_starts_nothing_until_it_is_resumed(night: Night) -> None:
    night.ticket("ONE", "good")
    night.ticket("TWO", "good")
    said = night.run("lanes", "pause", "scripted")
    assert said.out == "Nothing new starts on lane scripted. It is carried out at the next `nightcrew up`.\n"
    assert night.run("up", "--until-idle").code == 0
    assert set(night.runs().values()) == {"queued"}
    assert (state(night), alarms(night)) == ("paused", [])
    assert night.run("lanes", "resume", "--json").json["ordered"] == "lane-resume"
    assert night.run("up", "--until-idle").code == 0
    assert set(night.runs().values()) == {"in_review"}


def test_a_probe_is_one_call_that_tells_how_the_lane_is_and_takes_it_back_when_it_answers(night: Night) -> None:
    night.script = {"attempts": [[LOGGED_OUT], [{"say": "ready"}]]}
    night.save()
    silent = night.run("lanes", "probe", "scripted")
    assert (silent.code, "logged_out" in silent.out, "Not logged in" in silent.out) == (1, True, True)
    assert night.run("lanes", "pause", "scripted").code == 0
    night.script = {"attempts": [[{"say": "ready"}]]}
    log_out(night, "ONE")
    night.run("up", "--until-idle")
    assert state(night) == "paused"
    answers = night.run("lanes", "probe", "scripted", "--json").json
    assert (answers["answers"], answers["outcome"], answers["ordered"]) == (True, "done", "lane-resume")
    assert list((night.state / "probes").iterdir()) == []


@pytest.mark.parametrize("words", ["pause nobody", "resume nobody", "login nobody", "probe nobody"])
def test_a_lane_that_is_not_there_is_named_with_those_that_are(night: Night, words: str) -> None:
    night.ticket("ONE", "good")
    said = night.run("lanes", *words.split())
    assert (said.code, said.sentence) == (2, "nightcrew: There is no lane nobody. Known: scripted.")


# ---- the table


def test_the_table_shows_every_account_its_login_and_windows_within_80_columns(night: Night) -> None:
    night.agent("other", ["/bin/true"], 'account = "a-rather-long-account@example.com"\nprovider = "llm.example.com"\n')
    night.agents["claude"] = 'config_dir = "~/.claude-work"\n'
    night.agents["opus"] = 'kind = "claude"\nconfig_dir = "~/.claude-work"\nmodels = ["opus"]\n'
    (night.home / ".claude-work").mkdir()
    held = {"accessToken": "made-up-secret", "refreshToken": "made-up-secret", "expiresAt": in_two_hours()}
    (night.home / ".claude-work" / ".credentials.json").write_text(json.dumps({"claudeAiOauth": held}))
    go = night.home / "go"
    wait = {"run": f"while ! test -e {go}; do sleep 0.1; done"}
    night.ticket("ONE", "good", {"window": {"name": "five_hour", "used": 0.62, "resets_in": 7200}}, wait, *WORK)
    with night.up():
        night.until(lambda: "five_hour" in str(night.sql("SELECT windows FROM lanes WHERE name = 'scripted'")))
        rows = lanes(night)
        out = night.run("lanes").out
        shown = on_terminal(night, ["lanes"], columns=80)
        go.touch()
        night.until(lambda: night.runs() == {"ONE": "in_review"})
    (window,) = rows["scripted"]["windows"]
    assert (window["name"], window["used"]) == ("five_hour", 0.62)
    assert "window five_hour: 62% used, begins anew" in " ".join(out.split())
    assert list(rows) == ["scripted", "true@a-rather-long-account@example.com", "claude@claude-work"]
    assert rows["scripted"]["sessions"] == 1
    assert rows["claude@claude-work"]["agents"] == ["claude", "opus"]
    assert (rows["claude@claude-work"]["login"]["kind"], rows["claude@claude-work"]["login"]["ok"]) == ("file", True)
    assert "1 session at work" in out
    assert "renewed by Claude Code" in " ".join(out.split())
    assert "made-up-secret" not in out + json.dumps(rows)
    lines = ANSI.sub("", shown).splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert lines[0].split() == ["LANE", "PROVIDER", "ACCOUNT", "AGENT", "STATE", "UNTIL"]


def test_doctor_finds_copies_of_one_login(night: Night) -> None:
    for name in ("one", "two"):
        (folder := night.home / name).mkdir()
        held = {"accessToken": "a", "refreshToken": "made-up", "expiresAt": in_two_hours()}
        (folder / ".credentials.json").write_text(json.dumps({"claudeAiOauth": held}))
        night.agents[name] = f'kind = "claude"\nconfig_dir = "{folder}"\n'
    night.save()
    rows = {row["what"]: row for row in night.run("doctor", "--no-agents", "--json").json["checks"]}
    for name in ("one", "two"):
        assert rows[f"lane claude@{name}"]["check"] == "warn"
        assert "Copies log one another out" in rows[f"lane claude@{name}"]["evidence"]
    assert rows["lane scripted"]["check"] == "ok"


# ---- the real Claude Code


@pytest.fixture
async def endpoint(tmp_path: Path) -> AsyncIterator[TokenEndpoint]:
    (tmp_path / "tls").mkdir()
    async with TokenEndpoint(tmp_path / "tls").serving() as serving:
        yield serving


@pytest.mark.real_agent("claude")
async def test_claudes_refused_login_parks_its_lane_until_a_person_logged_in_again(
    endpoint: TokenEndpoint, tmp_path: Path
) -> None:
    """The login has expired and its refresh token was used elsewhere; then one login serves all three at once."""
    account, tickets = tmp_path / "account", ("OUT-1", "OUT-2", "OUT-3")
    endpoint.login(account)
    endpoint.good = "refresh-used-elsewhere"
    script = {key: [{"tools": [{"name": "Bash", "input": {"command": real_night.work(key)}}]}, {"text": "Done."}]
              for key in tickets}  # fmt: skip
    async with AnthropicEndpoint({"night": script}) as provider, real_night.Night(tmp_path / "night") as night:
        night.environ = {**endpoint.environ(), "ANTHROPIC_BASE_URL": provider.url("night", "each")}
        table = {"program": str(program("claude")), "config_dir": str(account)}
        lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
        night.configure(f"[agents.claude]\n{lines}\n", max_running=3)
        for key in tickets:
            night.ticket(key)
        async with night.running("up", "--until-idle") as up:
            await night.ended(up)
        lane, before = "claude@account", await night.morning()
        assert before.lanes[lane].state == "logged_out"
        assert len(before.happened("alarm")) == 1
        assert {story.run.consumed for story in before.stories.values()} == {0}
        still = await night.call("lanes", "login", lane, "--done")
        assert (still.code, "still logged out" in still.err) == (1, True)
        endpoint.login(account)  # a person did; the access token has expired again by now
        assert (await night.call("lanes", "login", lane, "--done")).code == 0
        await night.up()
        after = await night.morning()
    for story in after.stories.values():
        real_night.assert_published(story)
        assert story.run.consumed == 1
    assert endpoint.renewed == 1
    assert len(after.happened("alarm")) == 1


def test_what_was_on_its_way_when_the_lane_closed_is_given_back_and_says_so(night: Night) -> None:
    go = night.home / "go"
    night.repo("slow", f'[repos.hooks]\nbefore_run = "while [ ! -e {go} ]; do sleep 0.05; done"\n')
    night.scenes["ONE"] = {"attempts": [[{"limit": {"seconds_ahead": 5}}]], "on_resume": {"attempts": [WORK_OF_ONE]}}
    night.ticket("ONE", "good")
    night.ticket("TWO", "slow")
    with night.up():
        night.until(lambda: state(night) == "limited")
        go.touch()
        night.until(lambda: set(night.runs().values()) == {"in_review"})
    assert night.attempts("TWO") == ["rate_limited", "done"]
    assert consumed(night) == {"ONE": 1, "TWO": 1}
    (why,) = night.sql("SELECT evidence FROM attempts WHERE stage = 'starting'")
    assert why[0].startswith("not started: lane scripted is limited until")
    assert len(night.sql("SELECT 1 FROM events WHERE kind = 'lane.limited'")) == 1


FORGETFUL = """cat >/dev/null
echo '{{"type": "session", "id": "s-1"}}'
if [ -n "$NIGHTCREW_RESUME" ]; then
    echo '{{"type": "result", "outcome": "misconfigured", "text": "No conversation found"}}'; exit 1
elif [ -e {began} ]; then
    echo done >ONE.txt; git add -A; git commit -qm "Do ONE"
else
    touch {began}; exec tail -f /dev/null
fi
"""


def test_a_session_that_its_agent_has_forgotten_after_a_kill_is_begun_anew_and_closes_no_lane(night: Night) -> None:
    began = night.home / "began"
    agent = night.file("agent.sh", FORGETFUL.format(began=began))
    night.agent("scripted", ["/bin/sh", str(agent)])
    night.ticket("ONE", "good")
    with night.up() as up:
        night.until(began.exists)
        night.until(lambda: bool(night.sql("SELECT 1 FROM attempts WHERE heard_at IS NOT NULL")))
        up.kill()
    assert night.run("up", "--until-idle").code == 0
    assert night.attempts("ONE") == ["misconfigured", "done"]
    assert night.runs() == {"ONE": "in_review"}
    assert (state(night), alarms(night)) == ("up", [])
