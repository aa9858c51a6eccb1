"""Webhooks wake the loop early, and nothing depends on them: a whole crew on the GitHub stand-in, which sends them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from nightcrew.testing.company.github import GitHub
from tests.e2e.company import CompanyNight, writes

pytestmark = pytest.mark.slow

WEB, KEY, SECRET = "acme/web", "web#1", "a long secret"


@dataclass
class HookedNight(CompanyNight):
    """A crew that scans every `scan_every` seconds and listens on `port`."""

    port: int = 0
    scan_every: float = 600

    def save(self) -> None:
        super().save()
        text = (self.home / "nightcrew.toml").read_text().replace("scan_every = 0.4", f"scan_every = {self.scan_every}")
        self.file("nightcrew.toml", f'{text}\n[webhooks]\nlisten = "127.0.0.1:{self.port}"\n')

    @property
    def hook(self) -> str:
        return f"http://127.0.0.1:{self.port}/webhooks/github"

    def said(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.log() if line["event"] == event]


@pytest.fixture
def github(tmp_path: Path) -> Iterator[GitHub]:
    with GitHub(tmp_path / "github") as running:
        running.state.repository(WEB, {"README.md": "# Web\n"})
        yield running
    assert running.violations == []


@pytest.fixture
def night(tmp_path: Path, github: GitHub) -> HookedNight:
    made = HookedNight(tmp_path / "home", env={"GITHUB_TOKEN": "ghp_nightcrew", "HOOKS": SECRET}, port=free())
    made.board = (f'kind = "github"\nurl = "{github.url}"\nrepos = ["{WEB}"]\nlabels = ["nightcrew"]\n'
                  'webhook_secret = "$HOOKS"\n')  # fmt: skip
    made.forge = f'kind = "github"\nurl = "{github.url}"\n'
    made.places["web"] = f'url = "{github.clone_url(WEB)}"\n'
    made.plays(KEY, writes("a.txt", "1\n", "Do it"))
    return made


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def scans(github: GitHub) -> int:
    """How often the board was looked at: each look begins with this question."""
    return sum("/issues?state=all&sort=updated" in exchange.path for exchange in github.log)


def up(night: HookedNight) -> None:
    """Wait until its first scan is over; it listens before that."""
    night.until(lambda: bool(night.sql("SELECT 1 FROM meta WHERE key = 'scanned_at'")))


def pulls(github: GitHub) -> int:
    return sum(bool(issue.pull) for issue in github.state.places[WEB].issues.values())


def test_a_delivery_starts_its_ticket_within_two_seconds_and_twelve_are_one_scan(
    night: HookedNight, github: GitHub
) -> None:
    with night.up():
        up(night)
        assert scans(github) == 1
        github.state.issue(WEB, "Do it", labels=("nightcrew",))
        sent = time.time()
        assert github.deliver("issues", night.hook, SECRET, times=12) == [202] * 12
        night.until(lambda: night.runs() == {KEY: "in_review"})
        night.until(lambda: "nightcrew: review" in github.state.places[WEB].issues[1].labels)
    (started,) = night.sql("SELECT at FROM events WHERE kind = 'attempt.started'")
    took = datetime.fromisoformat(started[0]).timestamp() - sent
    assert took < 2
    assert scans(github) == 2
    assert pulls(github) == 1
    assert [line["deliveries"] for line in night.said("webhooks.woke")] == [12]


def test_a_wrong_secret_and_a_replay_change_nothing_also_after_a_restart(night: HookedNight, github: GitHub) -> None:
    with night.up():
        up(night)
        github.state.issue(WEB, "Do it", labels=("nightcrew",))
        assert github.deliver("issues", night.hook, "another", times=3) == [400] * 3
        assert github.deliver("issues", night.hook, SECRET, first="one") == [202]
        night.until(lambda: night.runs() == {KEY: "in_review"})
        before = scans(github)
        assert github.deliver("issues", night.hook, SECRET, first="one") == [200]
    with night.up():
        night.until(lambda: len(night.said("webhooks.on")) == 2)
        night.until(lambda: scans(github) == before + 1)  # that of its start
        assert github.deliver("issues", night.hook, SECRET, first="one") == [200]
        assert github.deliver("issues", night.hook, SECRET, first="two") == [202]
        night.until(lambda: scans(github) == before + 2)
    assert len(night.said("webhooks.woke")) == 2


def test_with_webhooks_lost_the_next_scan_finds_the_ticket(night: HookedNight, github: GitHub) -> None:
    night.scan_every = 1
    night.save()
    with night.up():
        up(night)
        github.state.issue(WEB, "Do it", labels=("nightcrew",))
        night.until(lambda: night.runs() == {KEY: "in_review"})
    assert night.said("webhooks.woke") == []


def test_a_port_that_is_taken_is_told_in_a_sentence_and_the_night_goes_on(night: HookedNight, github: GitHub) -> None:
    github.state.issue(WEB, "Do it", labels=("nightcrew",))
    with socket.create_server(("127.0.0.1", night.port)), night.up():
        night.until(lambda: night.runs() == {KEY: "in_review"})
    told = (night.home / "up.err").read_text()
    assert told.count("cannot be listened on (Address already in use); without them") == 1
    assert "Traceback" not in told


def test_a_secret_that_is_not_there_is_told_at_the_start(night: HookedNight, github: GitHub) -> None:
    del night.env["HOOKS"]
    with night.up():
        up(night)
    assert "[board] webhook_secret: the environment has no HOOKS" in (night.home / "up.err").read_text()
    assert SECRET not in json.dumps(night.log())
