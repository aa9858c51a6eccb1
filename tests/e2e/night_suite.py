"""What a night must come to, whatever the agent: the suite that `TestClaude` and `TestCodex` inherit."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from nightcrew.core.model import LaneState
from nightcrew.testing.endpoints import Endpoint
from tests.e2e.night import (
    KEY_LINE,
    PYTHON,
    Morning,
    Night,
    Said,
    asked_for,
    assert_published,
    assert_quiet,
    blocked,
    edit,
    told,
    until,
    work,
)

Json = dict[str, Any]
FOR_EVER = "tail -f /dev/null"
DAEMON = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(1000)"


class Side(Protocol):
    """What differs between the agents: how their provider speaks, and how they are set up."""

    name: str
    wrong: Mapping[str, Json]  # what its provider answers: "limit", "overload", "full", "expired"
    outlives: bool  # whether it goes on for long when nightcrew is killed

    def shell(self, command: str) -> Json:
        """The model asks for this command."""

    def endpoint(self, scripts: Json) -> Endpoint:
        """Its provider."""

    def table(self, url: str, program: str = "") -> str:
        """Its table in nightcrew.toml; `program` takes the real one's place."""

    def environ(self, url: str) -> dict[str, str]:
        """What the owner's shell says: the login."""


@dataclass
class Scene:
    """One night about to begin: the provider is up, and everything lies ready."""

    side: Side
    endpoint: Endpoint
    night: Night
    signs: Path  # a folder in which tools show that they run, and are told to go on

    def set(self, script: str, *tickets: str, program: str = "", **limits: float) -> None:
        """Lay the night out, or lay it out anew with another script. The tickets are worked in this order."""
        url = self.endpoint.url(script)
        self.night.environ = self.side.environ(url)
        self.night.configure(self.side.table(url, program), **limits)
        for number, key in enumerate(tickets, 1):
            self.night.ticket(key, number)


class Nights:
    """The nights. A class that inherits them has `side`."""

    side: Side

    @pytest.fixture
    async def scene(self, tmp_path: Path) -> AsyncIterator[Scene]:
        signs = tmp_path / "signs"
        signs.mkdir()
        async with self.side.endpoint(scripts(self.side, signs)) as endpoint, Night(tmp_path / "night") as night:
            yield Scene(self.side, endpoint, night, signs)

    async def test_work_becomes_one_pull_request_each_and_only_proven_excuses_count(self, scene: Scene) -> None:
        scene.set("work", "OK-1", "FORGOT-1", "STUCK-1", "EXCUSE-1", "FULL-1")
        await scene.night.up()
        morning = await scene.night.morning()
        assert {key: story.outcomes for key, story in morning.stories.items()} == {
            "OK-1": ["done"], "FORGOT-1": ["done"], "STUCK-1": ["blocked"], "EXCUSE-1": ["gate_failed", "done"],
            "FULL-1": ["context_full", "done"],
        }  # fmt: skip
        for key in ("OK-1", "FORGOT-1", "EXCUSE-1", "FULL-1"):
            assert_published(morning[key])
        assert_quiet(scene.night, morning)
        consumed = {key: story.run.consumed for key, story in morning.stories.items()}
        assert consumed == {"OK-1": 1, "FORGOT-1": 1, "STUCK-1": 0, "EXCUSE-1": 2, "FULL-1": 2}
        self._commits(scene, morning)
        self._stuck(morning)
        full = morning["FULL-1"].attempts
        assert [attempt.resume for attempt in full] == [False, False]
        assert full[0].session_id != full[1].session_id
        shown = (await scene.night.call("show", "EXCUSE-1", "--json")).json
        assert [attempt["outcome"] for attempt in shown["attempts_list"]] == ["gate_failed", "done"]
        assert (shown["state"], shown["pull_request"]) == ("in_review", morning["EXCUSE-1"].run.pull_request)

    def _commits(self, scene: Scene, morning: Morning) -> None:
        """The agent's own commit where it made one, nightcrew's where it did not; what it cost is known."""
        upstream = scene.night.upstream
        ok, forgot = morning["OK-1"], morning["FORGOT-1"]
        assert upstream.git("log", "-1", "--format=%s", ok.pulls[0].head) == "Work on OK-1"
        assert upstream.git("log", "-1", "--format=%an", forgot.pulls[0].head) == "nightcrew"
        assert ok.attempts[0].usage.turns == 2
        assert ok.attempts[0].usage.tokens > 1000
        assert ok.run.usage == ok.attempts[0].usage

    def _stuck(self, morning: Morning) -> None:
        stuck, excuse = morning["STUCK-1"], morning["EXCUSE-1"]
        assert (stuck.run.state, stuck.on_board, stuck.pulls) == ("blocked", "blocked", [])
        assert "nobody gave us the key" in stuck.run.reason
        assert KEY_LINE in stuck.attempts[0].evidence
        refused = excuse.attempts[0].gates[0]
        assert (refused.gate, refused.passed) == ("evidence", False)
        assert "does not stand at settings.py:3" in refused.evidence

    async def test_a_session_limit_is_waited_for_and_the_same_session_goes_on(self, scene: Scene) -> None:
        """OTHER-1 is at work when LIMIT-1 hits the limit: that it ends well must not open the lane before the reset."""
        night = scene.night
        scene.set("limit", "OTHER-1", "LIMIT-1")
        async with night.running("up", "--until-idle") as nightcrew:
            await until(lambda: night.lane().state is LaneState.LIMITED, "the lane is parked")
            parked = night.lane()
            (scene.signs / "go").touch()
            await night.ended(nightcrew)
        morning = await night.morning()
        limited = morning["LIMIT-1"]
        assert (limited.outcomes, limited.run.consumed) == (["rate_limited", "done"], 1)
        assert limited.attempts[1].resume
        assert limited.attempts[0].session_id == limited.attempts[1].session_id
        for key in ("LIMIT-1", "OTHER-1"):
            assert_published(morning[key])
        assert_quiet(night, morning)
        self._waited(scene, morning, parked.until)
        assert morning.lanes[self.side.name].state is LaneState.UP
        assert len(morning.happened("lane.limited")) == 1

    def _waited(self, scene: Scene, morning: Morning, until: Any) -> None:
        first, second = morning["LIMIT-1"].attempts
        assert first.resets_at is not None
        assert until.timestamp() == pytest.approx(first.resets_at + 0.2, abs=0.01)
        assert second.started_at is not None
        assert second.started_at >= until
        asked = asked_for(scene.endpoint, "LIMIT-1")
        assert len({call.session for call in asked}) == 1
        early = [call for call in asked if call.at < first.resets_at]
        assert {call.step for call in early} == {"error"}
        assert told(asked[-1], "Make limit_1.py", "You were interrupted")

    async def test_an_overload_is_waited_out_and_a_silent_provider_is_noticed(self, scene: Scene) -> None:
        night = scene.night
        scene.set("trouble", "BUSY-1", "SILENT-1", "PINGS-1", max_running=3, stall=5)
        await night.up()
        morning = await night.morning()
        assert {key: story.outcomes for key, story in morning.stories.items()} == {
            "BUSY-1": ["overloaded", "done"], "SILENT-1": ["stalled", "done"], "PINGS-1": ["stalled", "done"],
        }  # fmt: skip
        for key, story in morning.stories.items():
            assert_published(story)
            assert story.run.consumed == 1
            first, second = story.attempts
            assert (second.resume, second.session_id) == (True, first.session_id)
            asked = asked_for(scene.endpoint, key)
            assert len({call.session for call in asked}) == 1
            assert told(asked[-1], f"Make {key.lower().replace('-', '_')}.py", "You were interrupted")
        assert_quiet(night, morning)
        assert len(morning.happened("lane.overloaded")) == 1
        assert "waiting on the model" in morning["PINGS-1"].attempts[0].evidence

    async def test_an_expired_login_raises_one_alarm_and_drops_no_ticket(self, scene: Scene) -> None:
        night = scene.night
        scene.set("expired", "LOGIN-1", "LATER-1", max_running=1)
        said = await night.up()
        assert f"lane {self.side.name} is logged out" in said.out
        morning = await night.morning()
        assert {key: story.run.state for key, story in morning.stories.items()} == dict.fromkeys(
            ("LOGIN-1", "LATER-1"), "queued"
        )
        assert (morning["LOGIN-1"].outcomes, morning["LATER-1"].outcomes) == (["logged_out"], [])
        assert morning["LOGIN-1"].run.consumed == 0
        assert morning.lanes[self.side.name].state is LaneState.LOGGED_OUT
        assert len(morning.happened("lane.logged_out")) == len(morning.happened("alarm")) == 1
        assert_quiet(night, morning)
        row = await self._doctor(scene, 1)
        assert row["check"] == "FAIL"
        assert row["evidence"].startswith("logged_out: ")
        cure = "`nightcrew lanes` names its lane: `nightcrew lanes login LANE`, then this again."
        assert row["evidence"].endswith(cure)
        await self._log_in_again(scene)

    async def _log_in_again(self, scene: Scene) -> None:
        night = scene.night
        scene.set("good", max_running=1)
        row = await self._doctor(scene, 0)
        assert (row["check"], "said 'ready'" in row["evidence"]) == ("ok", True), row
        assert (await night.call("resume")).code == 0
        await night.up()
        morning = await night.morning()
        assert (morning["LOGIN-1"].outcomes, morning["LATER-1"].outcomes) == (["logged_out", "done"], ["done"])
        for story in morning.stories.values():
            assert_published(story)
            assert story.run.consumed == 1
        assert morning.lanes[self.side.name].state is LaneState.UP
        assert_quiet(night, morning)

    async def test_after_kill_9_the_leftovers_are_ended_and_the_same_sessions_go_on(self, scene: Scene) -> None:
        night, signs = scene.night, scene.signs
        scene.set("killed", "TOOL-1", "MODEL-1")
        async with night.running("up", "--until-idle") as nightcrew:
            await until((signs / "begun").exists, "the tool runs")
            await until(lambda: bool(asked_for(scene.endpoint, "MODEL-1")), "the model is asked")
            await until(lambda: all(s.heard_at for s in night.attempts()), "both sessions were heard of")
            nightcrew.send_signal(signal.SIGKILL)
            await nightcrew.wait()
        left = night.marked()
        assert any(DAEMON in process.command for process in left), left
        if self.side.outlives:
            assert any(FOR_EVER in process.command for process in left), left
        before = len(scene.endpoint.asked)
        await night.up()
        morning = await night.morning()
        assert_quiet(night, morning)
        assert [process for process in left if alive(process.pid)] == []
        for key in ("TOOL-1", "MODEL-1"):
            story = morning[key]
            assert_published(story)
            assert (story.outcomes, story.run.attempts, story.run.consumed) == (["done"], 1, 1)
            asked = asked_for(scene.endpoint, key)
            assert {call.session for call in asked} == {story.attempts[0].session_id}
            assert asked[0] in scene.endpoint.asked[:before]
            assert told(asked[-1], f"Make {key.lower().replace('-', '_')}.py", "You were interrupted")

    async def test_an_agent_that_is_not_installed_is_said_to_be_and_its_tickets_wait(self, scene: Scene) -> None:
        scene.set("good", "OK-1", program="no-such-agent")
        row = await self._doctor(scene, 1)
        assert row["check"] == "FAIL"
        assert f"[agents.{self.side.name}] program: there is no `no-such-agent` on the PATH." in row["evidence"]
        said = await scene.night.up()
        assert f"lane {self.side.name} is misconfigured" in said.out
        status = (await scene.night.call("status", "--json")).json
        assert [(lane["state"], "no-such-agent" in lane["evidence"]) for lane in status["lanes"]] == [
            ("misconfigured", True)
        ]
        assert status["counts"] == {"queued": 1}
        morning = await scene.night.morning()
        assert (morning["OK-1"].run.state, morning["OK-1"].run.consumed) == ("queued", 0)
        assert morning.lanes[self.side.name].state is LaneState.MISCONFIGURED

    async def _doctor(self, scene: Scene, code: int) -> Json:
        """What doctor says of the agent."""
        said: Said = await scene.night.call("doctor", "--json")
        assert said.code == code, said
        rows: list[Json] = [row for row in said.json["checks"] if row["what"] == f"agent {self.side.name}"]
        failed = [row for row in said.json["checks"] if row["check"] == "FAIL"]
        assert failed == (rows if code else [])
        return rows[0]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def scripts(side: Side, signs: Path) -> Json:
    """What the provider answers, by script and by a word of the conversation (the first that fits)."""

    def does(key: str, before: str = "") -> list[Json]:
        return [side.shell(before + work(key)), {"text": f"{key} is done."}]

    told_to_go = f"until [ -e {signs}/go ]; do sleep 0.1; done; "
    return {
        "work": {
            "context_full:": does("FULL-1"),  # what a fresh session is told of the one before
            "is not proven": does("EXCUSE-1"),
            "OK-1": does("OK-1"),
            "FORGOT-1": [side.shell(edit("FORGOT-1")), {"text": "It is all in place."}],
            "STUCK-1": [{"text": blocked("nobody gave us the key", f"settings.py:3: {KEY_LINE}")}],
            "EXCUSE-1": [{"text": blocked("the key is revoked", "settings.py:3: API_KEY_REVOKED = True")}],
            "FULL-1": [side.wrong["full"]],
        },
        "limit": {
            "OTHER-1": does("OTHER-1", told_to_go),
            "LIMIT-1": [{**side.wrong["limit"], "limits": {"resets_in": 7}, "lasts": 7, "times": -1}, *does("LIMIT-1")],
        },
        "trouble": {
            "BUSY-1": [side.wrong["overload"], *does("BUSY-1")],
            "SILENT-1": [{"text": "Let me", "hang": "body"}, *does("SILENT-1")],
            "PINGS-1": [{"text": "Let me", "hang": "ping"}, *does("PINGS-1")],
        },
        "expired": [side.wrong["expired"]],
        "good": {
            "the single word: ready": [{"text": "ready"}],
            "LOGIN-1": does("LOGIN-1"),
            "LATER-1": does("LATER-1"),
        },
        "killed": {
            "TOOL-1": [
                side.shell(f'{PYTHON} -c "{DAEMON}" >{os.devnull} 2>&1; touch {signs}/begun; {FOR_EVER}'),
                *does("TOOL-1"),
            ],
            "MODEL-1": [{"text": "Let me", "hang": "body"}, *does("MODEL-1")],
        },
    }
