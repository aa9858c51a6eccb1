"""A storm of 429: 35 sessions, and a provider that refuses everything for ten minutes (a second stands for each)."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.household import Night

pytestmark = pytest.mark.slow
SESSIONS = 35
MINUTE = 1.0  # seconds that stand for one
MINUTES = 10
TOKENS = 1000  # of one session that is answered
REPOS = ("shop", "site", "tool")

AGENT = """\
cat >/dev/null
date +%s.%N >>{home}/calls/$(basename "$PWD")
if [ -e {home}/storm ]; then
  echo '{refused}'
  exit 1
fi
echo '{used}'
pwd >it.txt && git add -A && git commit -qm Work
"""


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """35 tickets for one lane, in the middle of a storm."""
    made = Night(tmp_path / "home")
    (made.home / "storm").touch()
    (made.home / "calls").mkdir()
    made.limits = (
        f"max_running = {SESSIONS}\nstarting = {SESSIONS}\nmax_load = 0\nmin_memory_mb = 0\n"
        f"probe_seconds = {MINUTE}\nbackoff_base = {MINUTE / 2}\nbackoff_max = {MINUTE}\n"
    )
    refused = json.dumps({"type": "result", "outcome": "rate_limited", "text": "429 Too many requests"})
    used = json.dumps({"type": "usage", "input": TOKENS, "turns": 1})
    script = made.file("agent.sh", AGENT.format(home=made.home, refused=refused, used=used))
    made.agent("scripted", ["/bin/sh", str(script)])
    for repo in REPOS:
        made.repo(repo)
    for number in range(SESSIONS):
        made.ticket(f"T-{number}", REPOS[number % len(REPOS)])
    return made


def test_a_storm_of_429_is_sat_out_with_one_probe_a_minute_and_costs_nothing(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    with night.up("--until-idle") as up:
        night.until(lambda: bool(told(night)) and all_ended(night))
        began = datetime.now().timestamp()
        night.until(lambda: datetime.now().timestamp() >= began + MINUTES * MINUTE)
        assert consumed(night) == 0
        (night.home / "storm").unlink()
        over = datetime.now().timestamp()
        night.until(lambda: up.poll() is not None, 240)
        assert up.returncode == 0
    probes, minutes = between(night, told(night), over), (over - told(night)) / MINUTE
    wave = len(between(night, 0, told(night)))
    asked = sum(at < over for at in calls(night)) - wave
    with capsys.disabled():
        print(f"\nfirst wave {wave}, then {asked} calls in {minutes:.0f} minutes of storm, {len(calls(night))} in all")
    assert 1 <= asked <= len(probes) <= minutes + 1
    assert all(later - earlier >= MINUTE for earlier, later in pairwise(probes))
    assert_all_finished(night)


def assert_all_finished(night: Night) -> None:
    """One attempt of each ticket counts, the one that was answered; there is one pull request each, and no more."""
    assert set(night.runs().values()) == {"in_review"}
    assert consumed(night) == SESSIONS
    pulls = night.run("pr", "list", "--json").json["pull_requests"]
    assert len(pulls) == SESSIONS
    assert len({pull["branch"] for pull in pulls}) == SESSIONS
    used = [json.loads(row[0])["input"] for row in night.sql("SELECT usage FROM attempts WHERE outcome = 'done'")]
    assert used == [TOKENS] * SESSIONS
    burnt = night.sql("SELECT usage FROM attempts WHERE outcome <> 'done'")
    assert {sum(json.loads(row[0]).values()) for row in burnt} == {0}
    assert night.sql("SELECT DISTINCT outcome FROM attempts WHERE outcome <> 'done'") == [("rate_limited",)]
    assert [entry for entry in Path("/proc").glob("[0-9]*") if names(entry, night.home)] == []


def calls(night: Night) -> list[float]:
    """When the provider was asked, as the agents themselves wrote it down."""
    return sorted(float(line) for file in (night.home / "calls").iterdir() for line in file.read_text().split())


def told(night: Night) -> float:
    """When the lane was first told to be limited; 0 while it was not."""
    found = night.sql("SELECT min(at) FROM events WHERE kind = 'lane.limited'")
    return stamp(found[0][0]) if found and found[0][0] else 0.0


def between(night: Night, begin: float, end: float) -> list[float]:
    """When attempts were started within that time."""
    starts = sorted(stamp(row[0]) for row in night.sql("SELECT started_at FROM attempts"))
    return [at for at in starts if begin < at < end]


def all_ended(night: Night) -> bool:
    """Whether the first wave is over: nothing is left of it, and every ticket that was in it waits."""
    return night.sql("SELECT count(*) FROM attempts WHERE outcome IS NULL OR outcome = ''") == [(0,)]


def consumed(night: Night) -> int:
    return int(night.sql("SELECT sum(consumed) FROM runs")[0][0])


def stamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def names(entry: Path, home: Path) -> bool:
    """Whether a process's command line names our folder (Linux)."""
    try:
        return str(home).encode() in (entry / "cmdline").read_bytes()
    except OSError:
        return False
