"""Every command as its user meets it: what it prints, what it exits with, and what the world is like after it."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from uuid import uuid4

import pytest

from nightcrew.cli import COMMANDS
from tests.conftest import Repository
from tests.e2e.household import WORK, Night

pytestmark = pytest.mark.slow
RESETS = int(time.time()) + 3600
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONG = "A title that is far too long for any table that somebody would like to read in a terminal of eighty columns"


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """A folder with one repository."""
    made = Night(tmp_path / "home")
    made.repo("good")
    return made


def waits_for(go: Path) -> list[str]:
    """An agent that says hello, and does its work once `go` is there."""
    script = f"echo hello; while ! test -e {go}; do sleep 0.05; done; echo it > it.txt; git add -A; git commit -qm it"
    return ["/bin/sh", "-c", f"{script}; echo bye"]


def processes() -> str:
    return subprocess.run(["ps", "-axo", "args"], capture_output=True, text=True, check=True).stdout


# -- after a night -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def morning(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """After a night: one pull request, one failed ticket with rescued work, one that no rule routes."""
    night = Night(tmp_path_factory.mktemp("morning") / "home")
    night.limits += "max_attempts = 1\n"
    night.repo("good", '[repos.gates]\ncommands = ["test ! -e FAILS.txt"]\n')
    night.repo("other")
    night.ticket("ONE", "good", *WORK, title=LONG)
    night.ticket("FAILS", "good", *WORK)
    night.ticket("ASTRAY")
    night.file("out.jsonl", json.dumps({"type": "result", "outcome": "rate_limited", "resets_at": RESETS}) + "\n")
    assert night.run("up", "--until-idle").code == 0
    assert night.runs() == {"ONE": "in_review", "FAILS": "failed", "ASTRAY": "unrouted"}
    return night


LOOKS = [
    "status", "status --all", "show ONE", "show fails", "logs ONE", "logs ONE --events", "logs ONE -f", "route ONE",
    "route ASTRAY", "report", "classify --agent command --exit-code 1 out.jsonl", "pr list", "pr list --all",
    "pr show 1 --repo good", "pr diff 1 --repo good", "pr comment 1 hello --repo good", "rescue list",
    "rescue restore FAILS", "doctor --no-agents", "pause", "resume", "lanes", "spend", "conflicts", "clean --dry-run",
    "lanes resume", "add Another", "up --once", "retry FAILS", "board preview", "board preview --all", "board check",
]  # fmt: skip


@pytest.mark.parametrize("words", LOOKS)
def test_json_is_exactly_one_object(morning: Night, words: str):
    said = morning.run(*words.split(), "--json")
    assert said.code == 0
    assert isinstance(said.json, dict)


def test_every_command_was_asked_for_json():
    elsewhere = {"init", "stop", "demo"}
    assert {words.split()[0] for words in LOOKS} | elsewhere == set(COMMANDS)


READ = ["status", "pr list --all", "rescue list", "doctor --no-agents", "lanes", "spend", "board preview"]


@pytest.mark.parametrize("words", [*READ, "show ONE"])
def test_what_people_read_fits_into_80_columns_and_is_plain_when_piped(morning: Night, words: str):
    said = morning.run(*words.split())
    assert [
        line for line in said.out.splitlines() if len(line) > 80 and "file://" not in line and "/" not in line
    ] == []
    assert "\x1b" not in said.out


@pytest.mark.parametrize("words", READ)
def test_tables_never_wrap_on_a_terminal_of_80_columns(morning: Night, words: str):
    shown = on_terminal(morning, words.split(), columns=80)
    assert [line for line in ANSI.sub("", shown).splitlines() if len(line) > 80] == []
    assert "\x1b[" in shown


def test_no_color_is_respected(morning: Night):
    morning.env = {"NO_COLOR": "1"}
    shown = on_terminal(morning, ["status"], columns=80)
    morning.env = {}
    assert ANSI.sub("", shown) == shown


def test_show_tells_attempts_gates_and_evidence(morning: Night):
    out = morning.run("show", "FAILS").out
    for word in ("FAILS: Do FAILS", "attempt 1: gate_failed", "gate commands: refused", "test ! -e FAILS.txt", "log:"):
        assert word in out


def test_show_knows_a_ticket_whatever_its_case(morning: Night):
    assert morning.show("one")["ticket"] == "ONE"


def test_route_explains_rule_by_rule(morning: Night):
    out = morning.run("route", "ONE").out.splitlines()
    assert out[0] == "good: the ticket names good."
    assert out[1].split()[:2] == ["repo", "match"]


def test_classify_says_why_and_until_when(morning: Night):
    said = morning.run("classify", "--agent", "command", "--exit-code", "1", "out.jsonl", "--json").json
    assert (said["outcome"], said["resets_at"]) == ("rate_limited", RESETS)
    assert said["evidence"]


def test_the_report_says_what_needs_a_person(morning: Night):
    text = morning.run("report").out
    needs = text.split("## Needs you")[1].split("##")[0]
    assert "FAILS" in needs
    assert "ASTRAY" in needs


def test_rescued_work_comes_back_as_a_branch_in_the_owners_repository(morning: Night):
    said = morning.run("rescue", "restore", "FAILS", "--json").json
    good = Repository(morning.home / "good")
    assert good.sha(said["branch"]) == said["sha"]
    assert good.git("show", f"{said['branch']}:FAILS.txt") == "done"
    assert good.git("branch", "--show-current") == "main"


# -- wrong use ---------------------------------------------------------------------------------------------------------
WRONG = {
    "statsu": "Did you mean 'status'?",
    "status --jso": "'--json'",
    "show": "Missing argument 'TICKET'",
    "show ONEE": "Did you mean ONE?",
    "route ONEE": "Did you mean ONE?",
    "logs ASTRAY": "ASTRAY has no log yet",
    "stop ONE": "ONE is in_review: there is nothing to stop",
    "retry ONE": "ONE is in_review: there is nothing to retry",
    "pr lst": "Did you mean 'list'?",
    "pr show 1": "There are several repositories; name one with --repo",
    "pr show 99 --repo good": "good has no pull request #99",
    "pr show 1 --repo goood": "Did you mean good?",
    "pr merge 99 --repo good": "#99",
    "rescue restore ONE": "Nothing was rescued for ONE",
    "add x --board nowhere": "There is no board 'nowhere'",
    "classify --agent nobody out.jsonl": "there is no such adapter",
    "demo --agent nobody": "There is no demo agent 'nobody'",
    "demo --dir .": "is not empty",
    "--config nowhere.toml status": "there is no such file",
}


@pytest.mark.parametrize("json_too", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("words", WRONG)
def test_wrong_use_is_one_sentence_on_stderr_with_what_was_probably_meant(morning: Night, words: str, json_too: bool):
    said = morning.run(*words.split(), *(["--json"] if json_too else []))
    assert said.code == (1 if words == "pr merge 99 --repo good" else 2)
    assert WRONG[words] in said.sentence


def test_a_folder_without_configuration_says_what_to_do(tmp_path: Path, night: Night):
    said = night.run("status", cwd=tmp_path)
    assert said.code == 2
    assert "Run `nightcrew init`" in said.sentence


# -- the first steps ---------------------------------------------------------------------------------------------------
def test_from_init_to_a_pull_request(tmp_path: Path, night: Night):
    repo = Repository(night.home / "good")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "claude").write_text("#!/bin/sh\necho 2.1.0\n")
    (tools / "claude").chmod(0o755)
    night.env = {"PATH": f"{tools}:{os.environ['PATH']}"}
    made = night.run("init", "--json", cwd=repo.path).json
    assert made["agents"] == {"claude": "2.1.0"}
    assert "is there already" in night.run("init", cwd=repo.path).sentence
    config = Path(made["config"])
    text = config.read_text()
    assert night.run("status", cwd=repo.path).code == 0
    scripted = 'kind = "command"\ncommand = ["/bin/sh", "-c", "cat > p.txt; git add -A; git commit -qm p"]\n'
    config.write_text(re.sub(r"(?m)^\[agents\.claude\].*$", lambda m: f"[agents.claude]\n{scripted}", text))
    ticket = night.run("add", "Write it down", "--body", "-", "--json", stdin="In p.txt, please.\n", cwd=repo.path).json
    assert ticket["ticket"] == "NC-1"
    assert "1 new on the board" in night.run("status", cwd=repo.path).out
    assert night.run("up", "--until-idle", cwd=repo.path).code == 0
    (pull,) = night.run("pr", "list", "--json", cwd=repo.path).json["pull_requests"]
    assert "In p.txt, please." in repo.git("show", f"{pull['head']}:p.txt")
    merged = night.run("pr", "merge", "1", "--json", cwd=repo.path).json
    assert merged["state"] == "merged"
    assert "NC-1: Write it down" in repo.git("log", "--format=%B", "main")


def test_doctor_launches_the_agent_as_a_run_would_and_says_what_it_said(night: Night):
    night.agent("talker", ["/bin/sh", "-c", "cat > /dev/null; echo ready; git status --short"])
    night.agent("liar", ["/bin/sh", "-c", "echo no login >&2; exit 1"])
    night.save()
    said = night.run("doctor")
    lines = {" ".join(line.split()[:3]): line for line in said.out.splitlines()}
    assert said.code == 1
    assert "said 'ready' after" in lines["ok agent talker"]
    assert "no login" in lines["FAIL agent liar"]
    assert not list(night.state.glob("workspaces/doctor-*"))


# -- a running crew ----------------------------------------------------------------------------------------------------
def test_a_saved_ticket_is_being_worked_within_a_second(night: Night):
    night.agent("clock", ["/bin/sh", "-c", "echo $$ > began.txt; git add -A; git commit -qm began"])
    night.ticket("WARM", "good", labels=["agent:clock"])
    waits = []
    with night.up():
        night.until(lambda: night.runs().get("WARM") == "in_review")
        for key in ("A", "B", "C"):
            night.ticket(key, "good", labels=["agent:clock"])
            saved = time.time()
            night.until(lambda key=key: night.runs().get(key) == "in_review")
            (began,) = night.state.glob(f"attempts/{key.lower()}-*/1/try-0/stdout")  # nothing is ever written to it
            waits.append(began.stat().st_mtime - saved)
    print("seconds from the saved ticket to its running agent:", [round(wait, 2) for wait in waits])
    assert min(waits) < 1.0


def test_stop_ends_the_whole_tree_rescues_the_work_and_shows_it_on_the_board(night: Night):
    name = f"86398.{uuid4().int % 10**6}"
    half = f"echo half > half.txt; (setsid sleep {name} &) ; sleep {name}"
    go = night.home / "go"
    night.agent(
        "stuck", ["/bin/sh", "-c", f"test -e {go} || {{ {half}; }}; echo it > it.txt; git add -A; git commit -qm i"]
    )
    night.ticket("ONE", "good", labels=["agent:stuck"])
    with night.up():
        night.until(lambda: processes().count(name) >= 2)
        assert night.run("stop", "ONE").out == "ONE is being stopped.\n"
        night.until(lambda: night.runs() == {"ONE": "cancelled"} and night.front("ONE")["state"] == "blocked")
        assert name not in processes()
        night.until(lambda: night.run("rescue", "list", "--json").json["rescued"] != [])
        (kept,) = night.run("rescue", "list", "--json").json["rescued"]
        branch = night.run("rescue", "restore", "ONE", "--json").json["branch"]
        assert kept["ticket"] == "ONE"
        assert Repository(night.home / "good").git("show", f"{branch}:half.txt") == "half"
        go.touch()
        assert night.run("retry", "ONE").out == "ONE starts again.\n"
        night.until(lambda: night.runs() == {"ONE": "in_review"})


def test_pause_starts_nothing_new_and_resume_goes_on(night: Night):
    go = night.home / "go"
    night.agent("waiter", waits_for(go))
    night.ticket("ONE", "good", labels=["agent:waiter"])
    with night.up():
        night.until(lambda: night.runs() == {"ONE": "working"})
        assert "Nothing new starts" in night.run("pause").out
        night.until(lambda: night.status()["paused"])
        night.ticket("TWO", "good")
        night.until(lambda: night.runs().get("TWO") == "queued")
        go.touch()
        night.until(lambda: night.runs() == {"ONE": "in_review", "TWO": "queued"})
        assert ", paused: nothing new starts" in night.run("status").out
        night.run("resume")
        night.until(lambda: night.runs() == {"ONE": "in_review", "TWO": "in_review"})


def test_logs_follow_an_agent_to_the_end_of_its_work(night: Night):
    go = night.home / "go"
    night.agent("waiter", waits_for(go))
    night.ticket("ONE", "good", labels=["agent:waiter"])
    with night.up():
        night.until(lambda: night.runs() == {"ONE": "working"})
        argv = night.argv("logs", "ONE", "-f")
        with subprocess.Popen(argv, cwd=night.home, env=night.environ(), stdout=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            assert follower.stdout.readline() == "hello\n"
            go.touch()
            assert follower.stdout.read() == "bye\n"
        assert follower.returncode == 0
        assert night.runs() == {"ONE": "in_review"}


def test_an_order_for_a_crew_that_is_not_up_waits_for_it(night: Night):
    night.ticket("ONE", "nowhere")
    night.run("up", "--once")
    assert "carried out at the next `nightcrew up`" in night.run("stop", "ONE").out
    night.run("up", "--once")
    assert night.runs() == {"ONE": "cancelled"}


def test_on_a_terminal_no_line_wraps_and_the_progress_line_goes_away(night: Night):
    go = night.home / "go"
    night.agent("waiter", waits_for(go))
    night.ticket("ONE", "good", title=LONG, labels=["agent:waiter"])
    night.ticket("TWO", "nowhere" * 30)
    shown = on_terminal(night, ["up", "--until-idle"], 80, lambda seen: b"ONE working" in seen and go.touch())
    drawn = [ANSI.sub("", part) for line in shown.splitlines() for part in line.split("\r")]
    assert [part for part in drawn if len(part) > 80] == []
    assert re.search("ONE (preparing|working|checking|publishing)", ANSI.sub("", shown))
    assert shown.count("attempt 1 starts") == 1
    table = shown[shown.rindex("TICKET") :]
    assert not re.search("preparing|working|checking|publishing", table)


def test_the_demo_goes_as_scripted(night: Night, tmp_path: Path):
    said = night.run("demo", "--once", "--json", cwd=tmp_path)
    assert said.code == 0
    told = said.json
    counts = {key: told[key] for key in ("tickets", "pull_requests", "duplicates", "processes_left", "lost_work")}
    assert counts == {"tickets": 8, "pull_requests": 7, "duplicates": 0, "processes_left": 0, "lost_work": 0}
    assert told["as_scripted"]
    assert not Path(told["folder"]).exists()


def on_terminal(night: Night, words: list[str], columns: int, watch: Callable[[bytes], object] = len) -> str:
    """What the command writes to a terminal this wide, its codes included; `watch` sees what is there as it comes."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {**night.environ(), "TERM": "xterm-256color"}
    del env["COLUMNS"]
    with subprocess.Popen(night.argv(*words), cwd=night.home, env=env, stdin=theirs, stdout=theirs, stderr=theirs,
                          start_new_session=True):  # fmt: skip
        os.close(theirs)
        shown = b""
        for chunk in _chunks(ours):
            shown += chunk
            watch(shown)
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def _chunks(fd: int) -> Iterator[bytes]:
    with suppress(OSError):  # Linux says so when the other side is closed
        while chunk := os.read(fd, 65536):
            yield chunk


def test_help_is_quick_and_names_every_command(night: Night):
    said = night.run("--help")
    assert [name for name in COMMANDS if f"  {name} " not in said.out] == []
    assert "Exit codes: 0 done; 1 it failed; 2 wrong use or configuration; 3 already" in said.out


def test_the_json_of_show_is_what_programs_need(morning: Night):
    told = json.loads(json.dumps(morning.show("ONE")))
    (attempt,) = told["attempts_list"]
    assert {gate["gate"]: gate["passed"] for gate in attempt["gates"]} == {
        "changed": True,
        "scope": True,
        "commands": True,
    }
    assert Path(attempt["log"]).is_dir()
