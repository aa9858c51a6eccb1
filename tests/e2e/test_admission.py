"""Admission in real nights: what the machine or the owner does not allow does not start, and people are told why."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.household import Night

pytestmark = pytest.mark.slow
FOUR = "max_running = 4\nbackoff_base = 0.5\nreset_grace = 0.1\n"


@pytest.fixture
def night(tmp_path: Path) -> Night:
    made = Night(tmp_path / "home")
    made.repo("good")
    return made


def held(night: Night) -> str:
    """Why what waits does, all of it in one text."""
    rows = night.sql("SELECT value FROM meta WHERE key = 'held'")
    return " ".join(json.loads(rows[0][0]).values()) if rows else ""


def crowd(night: Night, group: str) -> Sequence[object]:
    """A scene that notes how many of its group are at work while it is."""
    folder = night.home / group
    folder.mkdir(exist_ok=True)
    there = "ls | grep -c at-"
    return (
        {"run": f"cd {folder} && touch at-{{ticket}} && {there} > seen-{{ticket}}; true"},
        {"wait": 0.4},
        {"run": f"cd {folder} && {there} > seen2-{{ticket}}; rm at-{{ticket}}"},
        {"write": {"path": "{ticket}.txt", "text": "done\n"}},
        {"commit": "Do {ticket}"},
    )


def most_at_once(night: Night, group: str) -> int:
    """The most of a group that were ever at work together."""
    return max(int(file.read_text()) for file in (night.home / group).glob("seen*"))


def all_in_review(night: Night, *tickets: str) -> bool:
    return night.runs() == dict.fromkeys(tickets, "in_review")


def test_nothing_starts_while_memory_is_below_the_floor_and_it_does_when_the_floor_is_lowered(night: Night):
    night.limits = f"{FOUR}min_memory_mb = 100000000\n"
    night.ticket("ONE", "good")
    with night.up():
        night.until(lambda: "memory: " in held(night))
        assert night.runs() == {"ONE": "queued"}
        assert night.attempts("ONE") == []
        assert "GB free, 97656.2 GB must be" in held(night)
    night.limits = FOUR
    night.save()
    assert night.run("up", "--until-idle").code == 0
    assert all_in_review(night, "ONE")


def test_never_more_of_a_label_than_it_is_allowed_while_others_go_on(night: Night):
    night.limits = f"{FOUR}[limits.labels]\nheavy = 1\n"
    for key in ("H-1", "H-2", "H-3"):
        night.ticket(key, "good", *crowd(night, "heavy"), labels=["heavy"])
    for key in ("L-1", "L-2"):
        night.ticket(key, "good", labels=["light"])
    with night.up():
        night.until(lambda: "label heavy has 1 of 1 at work" in held(night))
        night.until(lambda: all_in_review(night, "H-1", "H-2", "H-3", "L-1", "L-2"))
    assert most_at_once(night, "heavy") == 1


@pytest.mark.parametrize(
    ("limits", "repository", "words"),
    [
        ("[limits.boards]\nfolder = 2\n", "", "board folder has 2 of 2 at work"),
        ("[limits.lanes]\nscripted = 2\n", "", "lane scripted has 2 of 2 at work"),
        ("", "max_running = 2\n", "repository small has 2 of 2 at work"),
    ],
    ids=["board", "lane", "repository"],
)
def test_boards_lanes_and_repositories_have_limits_of_their_own(night: Night, limits: str, repository: str, words: str):
    night.repo("small", repository)
    night.limits = FOUR + limits
    keys = [f"T-{n}" for n in range(1, 6)]
    for key in keys:
        night.ticket(key, "small", *crowd(night, "all"))
    with night.up():
        night.until(lambda: words in held(night))
        night.until(lambda: all_in_review(night, *keys))
    assert most_at_once(night, "all") <= 2


def test_the_next_session_starts_when_one_that_is_starting_has_spoken(night: Night):
    folder = night.home / "at"
    folder.mkdir()
    night.limits = f"{FOUR}starting = 2\n"
    waits = f"touch {folder}/$$; while ! test -e {folder}/speak; do sleep 0.05; done"
    works = f"echo hello; while ! test -e {folder}/end; do sleep 0.05; done"
    commits = "echo $$ > it.txt; git add -A; git commit -qm it"
    night.agent("slow", ["/bin/sh", "-c", f"{waits}; {works}; {commits}"])
    keys = ("A-1", "A-2", "A-3", "A-4")
    for key in keys:
        night.ticket(key, "good", labels=["agent:slow"])
    with night.up():
        night.until(lambda: "ramp: 2 sessions have not said a word yet, 2 may" in held(night))
        night.until(lambda: len(list(folder.iterdir())) == 2)
        assert sorted(night.runs().values()) == ["queued", "queued", "working", "working"]
        (folder / "speak").touch()
        night.until(lambda: len(list(folder.iterdir())) == 5)
        (folder / "end").touch()
        night.until(lambda: all_in_review(night, *keys))


def test_after_a_session_was_killed_for_its_memory_fewer_run_at_once_also_after_a_restart(night: Night):
    first = ("K-1", "K-2", "K-3")
    for key in first:
        night.ticket(key, "good")
    assert night.run("up", "--until-idle").code == 0
    now = datetime.now(UTC)
    began, ended = ((now - timedelta(minutes=m)).isoformat() for m in (9, 5))
    with closing(sqlite3.connect(night.state / "nightcrew.sqlite")) as rows, rows:
        rows.execute("UPDATE attempts SET started_at = ?, ended_at = ?", (began, ended))
        rows.execute("UPDATE attempts SET oom = 1 WHERE run_id = (SELECT id FROM runs WHERE key = 'K-1')")
    later = tuple(f"M-{n}" for n in range(1, 6))
    for key in later:
        night.ticket(key, "good", *crowd(night, "all"))
    with night.up():
        night.until(lambda: "memory: lowered to 2 at once" in held(night))
        night.until(lambda: all_in_review(night, *first, *later))
    assert most_at_once(night, "all") <= 2
