"""Cleaning real nights: what is old goes, what is nowhere else stays, and a dry run changes not one byte."""

from __future__ import annotations

import gzip
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Repository
from tests.e2e.household import Night

pytestmark = pytest.mark.slow
DAY = 86400


@pytest.fixture
def night(tmp_path: Path) -> Night:
    made = Night(tmp_path / "home")
    made.repo("good")
    return made


@pytest.fixture
def past(night: Night) -> Night:
    """A night that is over: DONE-1 was merged, SHUT-1 closed, OPEN-1 waits for its review, LOST-1 was stopped with
    work that nobody else has."""
    for key in ("DONE-1", "SHUT-1", "OPEN-1"):
        night.ticket(key, "good", {"say": f"I am at {key}"}, {"write": {"path": f"{key}.txt", "text": key}},
                     {"commit": f"Do {key}"})  # fmt: skip
    night.ticket("LOST-1", "good", {"write": {"path": "lost.txt", "text": "only here"}}, {"commit": "lost"}, "hang")
    with night.up():
        night.until(lambda: list(night.state.glob("workspaces/lost-1-*/lost.txt")) != [])
        night.until(lambda: list(night.runs().values()).count("in_review") == 3)
        assert night.run("stop", "LOST-1").code == 0
        night.until(lambda: night.runs()["LOST-1"] == "cancelled" and workspaces(night) == [])
    pulls = {row["title"].split()[-1]: row["number"] for row in night.run("pr", "list", "--json").json["pull_requests"]}
    numbers = {key: next(n for title, n in pulls.items() if key in title) for key in ("DONE-1", "SHUT-1")}
    assert night.run("pr", "merge", str(numbers["DONE-1"])).code == 0
    assert night.run("pr", "close", str(numbers["SHUT-1"])).code == 0
    assert night.run("up", "--once").code == 0
    assert night.runs() == {"DONE-1": "merged", "SHUT-1": "closed", "OPEN-1": "in_review", "LOST-1": "cancelled"}
    return night


def workspaces(night: Night) -> list[str]:
    root = night.state / "workspaces"
    return sorted(path.name for path in root.iterdir() if path.name != ".nightcrew") if root.exists() else []


def rows(night: Night, file: str, query: str, *values: object) -> None:
    """Change what a database says."""
    with closing(sqlite3.connect(night.state / file)) as connection, connection:
        connection.execute(query, values)


def age(night: Night, days: float) -> None:
    """Let all that is there be so many days old."""
    at = time.time() - days * DAY
    rows(night, "nightcrew.sqlite", "UPDATE runs SET updated_at = ?", datetime.fromtimestamp(at, UTC).isoformat())
    rows(night, "dbos.sqlite", "UPDATE workflow_status SET created_at = ?", int(at * 1000))
    for folder in ("attempts", "workpads", "hubs"):
        for path in (night.state / folder).rglob("*"):
            os.utime(path, (at, at), follow_symlinks=False)


def snapshot(night: Night) -> dict[str, bytes | str]:
    """Every file and link below the owner's folder, with all that is in it."""
    found = {}
    for path in sorted(night.home.rglob("*")):
        name = str(path.relative_to(night.home))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
    return found


def refs(place: Path) -> dict[str, str]:
    out = subprocess.run(["git", "--git-dir", str(place), "for-each-ref", "--format=%(refname) %(objectname)"],
                         check=True, capture_output=True, text=True).stdout  # fmt: skip
    return dict(line.split(" ") for line in out.splitlines())


def ours(night: Night, kind: str = "nightcrew") -> list[str]:
    """Our refs in the owner's repository and in the hub."""
    found = [*refs(night.home / "good" / ".git"), *refs(night.state / "hubs" / "good.git")]
    return sorted(ref for ref in found if kind in ref and "pull" not in ref)


def by_kind(account: Any, part: str = "gone") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in account[part]:
        found.setdefault(row["kind"], []).append(row["what"])
    return found


def history(night: Night) -> int:
    with closing(sqlite3.connect(night.state / "dbos.sqlite")) as connection:
        return int(connection.execute("SELECT count(*) FROM workflow_status").fetchone()[0])


def commit_of(night: Night, ref: str) -> str:
    return refs(night.state / "hubs" / "good.git")[ref]


def test_a_young_house_has_nothing_to_clean(past: Night):
    assert past.run("clean", "--dry-run", "--json").json == {"dry_run": True, "gone": [], "kept": [], "bytes": 0}
    assert past.run("clean").out == "Nothing to clean.\n"


def test_a_dry_run_lists_what_goes_and_changes_not_one_byte(past: Night):
    age(past, 100)
    before = snapshot(past)
    said = past.run("clean", "--dry-run", "--json").json
    assert snapshot(past) == before
    gone = by_kind(said)
    assert set(gone) == {"logs", "compress", "workpad", "rescue", "branch", "claim", "history"}
    assert [row["bytes"] > 0 for row in said["gone"] if row["kind"] in ("logs", "compress", "workpad")].count(
        False
    ) == 0
    did = past.run("clean", "--json").json
    assert (did["gone"], did["kept"], did["bytes"]) == (said["gone"], said["kept"], said["bytes"])


def test_what_is_past_its_time_goes_and_the_second_time_there_is_nothing(past: Night):
    lost = commit_of(past, rescued(past))
    assert history(past) == len(past.sql("SELECT number FROM attempts"))
    age(past, 100)
    assert past.run("clean").code == 0
    assert [path.name[:6] for path in (past.state / "attempts").iterdir()] == ["open-1"]
    assert [path.name[:6] for path in (past.state / "workpads").iterdir()] == ["open-1"]
    assert history(past) == 0
    left = ours(past)
    assert [ref for ref in left if "rescue" in ref] == []
    assert {ref.split("/")[-1][:6] for ref in left if "claims" not in ref} == {"open-1", "lost-1"}
    assert len([ref for ref in left if "claims" in ref]) == 1
    again = past.run("clean", "--json").json
    assert again["gone"] == []
    assert [row["why"] for row in again["kept"]] == ["its commits are nowhere else"]
    # The commits of a rescue that went are still there: a hub is never pruned, and the event says which they were.
    told = past.sql("SELECT data FROM events WHERE kind = 'cleaned' AND data LIKE '%rescue%'")
    assert any(lost in str(row[0]) for row in told)
    subprocess.run(["git", "--git-dir", str(past.state / "hubs/good.git"), "cat-file", "-e", lost], check=True)
    # Life goes on.
    past.ticket("NEXT-1", "good")
    assert past.run("up", "--until-idle").code == 0
    assert past.runs()["NEXT-1"] == "in_review"


def rescued(night: Night) -> str:
    return next(ref for ref in refs(night.state / "hubs" / "good.git") if "/rescue/lost-1" in ref)


def test_logs_are_compressed_in_place_and_can_still_be_read(past: Night):
    age(past, 2)
    before = {path: path.read_bytes() for path in past.state.glob("attempts/*/*/try-*/stdout")}
    assert len(before) == 4
    assert set(by_kind(past.run("clean", "--json").json)) == {"compress"}
    for path, text in before.items():
        assert not path.exists()
        assert gzip.decompress(path.with_name("stdout.gz").read_bytes()) == text
    assert "I am at DONE-1" in past.run("logs", "DONE-1").out
    said = past.run("logs", "OPEN-1", "--json").json
    assert "I am at OPEN-1" in said["text"]
    assert "I am at OPEN-1" in past.run("logs", "OPEN-1", "--follow").out
    assert past.run("clean", "--json").json["gone"] == []


def test_when_logs_are_too_much_the_oldest_of_ended_runs_go(past: Night):
    big = {}
    for at, key in enumerate(("open-1", "done-1", "shut-1", "lost-1")):
        big[key] = next((past.state / "attempts").glob(f"{key}-*")) / "1" / "big"
        big[key].write_bytes(b"x" * (1 << 20))
        for path in [*big[key].parent.rglob("*")]:
            os.utime(path, (time.time() - DAY / 2 + at, time.time() - DAY / 2 + at))
    past.file("nightcrew.toml", (past.home / "nightcrew.toml").read_text() + "\n[keep]\nlogs_mb = 2\n")
    assert {Path(what).parent.name[:6] for what in by_kind(past.run("clean", "--json").json)["logs"]} == {
        "done-1", "shut-1", "lost-1"
    }  # fmt: skip
    assert [key for key, path in big.items() if path.exists()] == ["open-1"]


def test_zero_keeps_everything_for_ever(past: Night):
    age(past, 1000)
    keys = ("compress_days", "logs_days", "logs_mb", "rescue_days", "branches_days", "history_days")
    zeros = "\n".join(f"{key} = 0" for key in keys)
    past.file("nightcrew.toml", (past.home / "nightcrew.toml").read_text() + f"\n[keep]\n{zeros}\n")
    assert past.run("clean", "--json").json["gone"] == []


def test_a_branch_with_somebody_elses_commits_stays_and_is_told(past: Night):
    owner = Repository(past.home / "good")
    branch = next(ref for ref in refs(owner.path / ".git") if "heads/nightcrew/done-1" in ref)
    owner.git("checkout", "-q", branch.removeprefix("refs/heads/"))
    owner.commit("mine", mine_txt="mine")
    owner.git("checkout", "-q", "main")
    other = next(ref for ref in refs(owner.path / ".git") if "heads/nightcrew/shut-1" in ref)
    owner.git("checkout", "-q", other.removeprefix("refs/heads/"))
    age(past, 20)
    account = past.run("clean", "--json").json
    assert {row["what"]: row["why"] for row in account["kept"]} == {
        f"good: {branch}": "somebody else committed to it", f"good: {other}": "it is checked out",
    }  # fmt: skip
    assert {branch, other} <= set(refs(owner.path / ".git"))


def test_work_that_is_nowhere_else_stays(past: Night):
    hub = past.state / "hubs" / "good.git"
    subprocess.run(["git", "--git-dir", str(hub), "update-ref", "-d", rescued(past)], check=True)
    work = next((ref, sha) for ref, sha in refs(hub).items() if "done/lost-1" in ref)
    age(past, 1000)
    account = past.run("clean", "--json").json
    assert [row["what"] for row in account["kept"]] == [f"good (hub): {work[0]}"]
    assert refs(hub)[work[0]] == work[1]


def test_a_workspace_whose_removal_was_cut_short_is_removed_and_an_unfinished_runs_stays(past: Night):
    done, name = (next((past.state / "attempts").glob(f"{key}-*")).name for key in ("done-1", "lost-1"))
    first, second = left_over(past, done), left_over(past, name)
    rows(past, "nightcrew.sqlite", "UPDATE runs SET workspace = ? WHERE key = 'DONE-1'", str(first))
    rows(past, "nightcrew.sqlite", "UPDATE runs SET state = 'queued', workspace = ? WHERE key = 'LOST-1'", str(second))
    account = past.run("clean", "--json").json
    assert by_kind(account) == {"workspace": [str(first)]}
    assert account["gone"][0]["why"] == "DONE-1 is merged"
    assert (first.exists(), second.exists()) == (False, True)
    assert past.sql("SELECT workspace FROM runs WHERE key = 'DONE-1'") == [("",)]


def test_a_workspace_of_no_run_is_rescued_and_removed_and_what_is_not_ours_stays(past: Night):
    with_work = left_over(past, "stray-1")
    (with_work / "new.txt").write_text("never committed")
    foreign = past.state / "workspaces" / "notes"
    foreign.mkdir()
    (foreign / "todo.txt").write_text("the owner's own")
    account = past.run("clean", "--json").json
    assert by_kind(account)["workspace"] == [str(with_work)]
    assert by_kind(account, "kept")["workspace"] == [str(foreign)]
    assert not with_work.exists()
    assert (foreign / "todo.txt").exists()
    kept = next(ref for ref in refs(past.state / "hubs" / "good.git") if "/rescue/stray-1" in ref)
    shown = ["git", "--git-dir", str(past.state / "hubs/good.git"), "show", f"{kept}:new.txt"]
    assert subprocess.run(shown, check=True, capture_output=True, text=True).stdout == "never committed"


def left_over(night: Night, name: str) -> Path:
    """A workspace as a nightcrew leaves it whose database was lost."""
    program = f"""
import asyncio
from pathlib import Path
from nightcrew.git import Hub
from nightcrew.stages import workspace
async def main():
    hub = Hub(Path({str(night.state / "hubs/good.git")!r}), {str(night.home / "good")!r})
    base = await hub.fetch_base("main")
    root = Path({str(night.state / "workspaces")!r})
    await workspace.ensure(hub, root, {name!r}, {"nightcrew/" + name!r}, base, kind="checkout")
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=night.environ())
    return night.state / "workspaces" / name


@pytest.fixture
def waiting(past: Night) -> Iterator[Night]:
    """The same house with a session at work, which waits."""
    go = past.home / "go"
    waiter = f"echo hello; while ! test -e {go}; do sleep 0.05; done; echo $$ > it.txt; git add -A; git commit -qm it"
    past.agent("waiter", ["/bin/sh", "-c", waiter])
    past.ticket("WORK-1", "good", labels=["agent:waiter"])
    with past.up():
        past.until(lambda: list(past.state.glob("attempts/work-1-*/1/try-0/stdout")) != [])
        yield past


def test_a_night_that_runs_is_cleaned_by_itself_when_asked_and_its_sessions_are_not_touched(waiting: Night):
    age(waiting, 100)
    folder = next(waiting.state.glob("attempts/work-1-*/1"))
    waiting.until(lambda: any(folder.rglob("handle.json")))  # the session is there, and all its files
    before = sorted(path.name for path in folder.rglob("*"))
    account = waiting.run("clean", "--json").json
    assert "logs" in by_kind(account)
    assert "work-1" not in str(account["gone"])
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert next(waiting.state.glob("workspaces/work-1-*")).is_dir()
    (waiting.home / "go").touch()
    waiting.until(lambda: waiting.runs()["WORK-1"] == "in_review")


def test_a_house_cleans_itself_once_a_day(waiting: Night):
    age(waiting, 100)
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    waiting.until(
        lambda: bool(waiting.sql("SELECT 1 FROM meta WHERE key = 'cleaned_at'"))
    )  # a new house says since when
    rows(waiting, "nightcrew.sqlite", "UPDATE meta SET value = json_quote(?) WHERE key = 'cleaned_at'", yesterday)
    waiting.until(lambda: history(waiting) == 1)
    waiting.until(lambda: yesterday not in str(waiting.sql("SELECT value FROM meta WHERE key = 'cleaned_at'")))
    assert waiting.runs()["WORK-1"] == "working"
