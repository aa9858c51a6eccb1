"""Whatever is wrong, it is said in one sentence, nothing is lost, and the other tickets of the night go on."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.household import Night

WORKFLOW = "---\n{}\n---\nDo {{{{ issue.identifier }}}} well.\n"
pytestmark = pytest.mark.slow


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """A folder with one good repository."""
    made = Night(tmp_path / "home")
    made.repo("good")
    return made


# -- the configuration: nothing starts, exit code 2 --------------------------------------------------------------------
def broken_toml(night: Night) -> tuple[str, ...]:
    night.file("nightcrew.toml", '[crew]\nname = "x"\nscan_every = = 3\n')
    return "nightcrew.toml", "line 3"


def unknown_key(night: Night) -> tuple[str, ...]:
    night.limits += "max_runing = 3\n"
    night.save()
    return "[limits] max_runing", "Did you mean `max_running`?"


def unknown_table(night: Night) -> tuple[str, ...]:
    night.save()
    night.file("nightcrew.toml", (night.home / "nightcrew.toml").read_text() + "[limit]\nmax_running = 1\n")
    return "[limit]", "Did you mean `limits`?"


def unknown_gate(night: Night) -> tuple[str, ...]:
    night.repos["good"] = '[repos.gates]\norder = ["changed", "comands"]\n'
    night.save()
    return "[repos.gates] order", '"comands" is not known', "Did you mean `commands`?"


def unknown_key_of_an_agent(night: Night) -> tuple[str, ...]:
    night.agents["scripted"] += 'modls = ["a"]\n'
    night.save()
    return "[agents.scripted] modls", "Did you mean `models`?"


def unknown_kind_of_board(night: Night) -> tuple[str, ...]:
    night.save()
    text = (night.home / "nightcrew.toml").read_text()
    night.file("nightcrew.toml", text.replace('kind = "folder"', 'kind = "lineer"'))
    return "lineer", "folder"


def no_folder_of_a_repository(night: Night) -> tuple[str, ...]:
    night.repos["gone"] = ""
    night.save()
    return "gone", "there is no folder", "Correct the path"


CONFIGURATIONS: list[Callable[[Night], tuple[str, ...]]] = [
    broken_toml, unknown_key, unknown_table, unknown_gate, unknown_key_of_an_agent, unknown_kind_of_board,
    no_folder_of_a_repository,
]  # fmt: skip


@pytest.mark.parametrize("spoil", CONFIGURATIONS, ids=lambda f: f.__name__)
def test_a_mistake_in_the_configuration_is_named_with_its_cure_and_starts_nothing(night: Night, spoil):
    words = spoil(night)
    said = night.run("up", "--once")
    assert said.code == 2
    assert [word for word in words if word not in said.sentence] == []
    assert not (night.state / "attempts").exists()


# -- one night in which much is wrong at once --------------------------------------------------------------------------
GOOD = ("GOOD-1", "DIRTY-1", "NOISE-1", "LONG-1")
NO_SLEEP = f"sleep 86399.{uuid4().int % 10**6}"

STUCK: dict[str, tuple[str, tuple[str, ...]]] = {
    "EMPTY-1": ("queued", ("has no commits yet", "Make a first commit")),
    "GONE-1": ("queued", ("has no branch main", "Set `base` to one of: trunk")),
    "HOOK-1": ("queued", ("the hook after_create failed (3): no way", "Mend the hook")),
    "SLOW-1": ("queued", ("the hook before_run did not end within 1 s", "Raise `hooks.timeout`")),
    "FLOW-1": ("queued", ("WORKFLOW.md:2: not valid YAML", "Correct it on the base branch")),
    "MISS-1": ("queued", ("no program `no-such-agent` on the PATH", "Install it")),
    "QUIT-1": ("queued", ("exit code 3",)),
    "WISH-1": ("queued", ("asks for agent nonesuch, which is not configured",)),
    "ASTRAY-1": ("unrouted", ('names "godo", which is no known repository', "is it good?")),
    "ASTRAY-2": ("unrouted", ("No rule names a repository",)),
}


@pytest.fixture(scope="module")
def bad_night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A night after which the good tickets are done, and what is wrong with the others is known."""
    night = Night(tmp_path_factory.mktemp("bad") / "home")
    _spoiled_repositories(night)
    _spoiled_tickets(night)
    with night.up():
        night.until(lambda: all(night.runs().get(key) == "in_review" for key in GOOD))
        night.until(lambda: night.attempts("QUIT-1")[:3] == ["fast_fail"] * 3)
        night.until(lambda: [*night.attempts("SLOW-1")[:1], *night.attempts("MISS-1")] == ["infra", "misconfigured"])
    return night


def _spoiled_repositories(night: Night) -> None:
    night.repo("good")
    night.bare_folder("empty")
    night.repo("gone").git("branch", "-m", "main", "trunk")
    dirty = night.repo("dirty")
    dirty.write("README.md", "not committed\n")
    dirty.write("new.txt", "neither\n")
    night.repo("hook", '[repos.hooks]\nafter_create = "echo no way >&2; exit 3"\n')
    night.repo("slow", f'[repos.hooks]\nbefore_run = "{NO_SLEEP}"\ntimeout = 1\n')
    night.repo("flow", **{"WORKFLOW_md": "---\nhooks: [\n---\nDo it.\n"})
    night.agent("missing", ["no-such-agent"])
    night.agent("quitter", ["/bin/sh", "-c", "exit 3"])


def _spoiled_tickets(night: Night) -> None:
    for key, repo in (("EMPTY-1", "empty"), ("GONE-1", "gone"), ("HOOK-1", "hook"), ("SLOW-1", "slow"),
                      ("FLOW-1", "flow"), ("ASTRAY-1", "godo"), ("ASTRAY-2", "")):  # fmt: skip
        night.ticket(key, repo, priority=1)
    for key, agent in (("MISS-1", "missing"), ("QUIT-1", "quitter"), ("WISH-1", "nonesuch")):
        night.ticket(key, "good", labels=[f"agent:{agent}"], priority=2)
    work = {"write": {"path": "{ticket}.txt", "text": "done\n"}}, {"commit": "Do {ticket}"}
    night.ticket("GOOD-1", "good")
    night.ticket("DIRTY-1", "dirty")
    night.ticket("NOISE-1", "good", {"garbage": 100_000}, *work)
    night.ticket("LONG-1", "good", {"long_line": 50}, *work)
    night.file("tickets/BROKEN-1.md", "---\nid: BROKEN-1\ntitle: [oops\nstate: todo\n---\n")
    for name in ("a", "b"):
        night.file(f"tickets/TWIN-{name}.md", f"---\nid: TWIN\ntitle: {name}\nstate: todo\nrepo: good\n---\n")


@pytest.mark.parametrize("key", GOOD)
def test_the_other_tickets_go_on_and_finish(bad_night: Night, key: str):
    assert bad_night.runs()[key] == "in_review"
    assert bad_night.attempts(key) == ["done"]
    assert bad_night.front(key)["state"] == "in review"


@pytest.mark.parametrize("key", STUCK)
def test_what_is_wrong_with_a_ticket_is_one_sentence_that_says_what_to_do(bad_night: Night, key: str):
    row = next(row for row in bad_night.status()["tickets"] if row["ticket"] == key)
    state, words = STUCK[key]
    assert row["state"] == state
    assert [word for word in words if word not in row["doing"]] == []
    assert "\n" not in row["doing"]
    assert row["consumed"] == 0  # an outage is not a failure


def test_status_says_all_of_it_within_80_columns(bad_night: Night):
    said = bad_night.run("status")
    flat = " ".join(said.out.split())
    assert [line for line in said.out.splitlines() if len(line) > 80] == []
    assert [word for state, words in STUCK.values() if state == "unrouted" for word in words if word not in flat] == []


def test_a_file_that_is_no_ticket_is_named_with_its_line(bad_night: Night):
    problems = {p["where"]: p["message"] for p in bad_night.status()["problems"]}
    assert "no YAML" in problems["tickets/BROKEN-1.md:4"]


def test_two_tickets_with_one_id_are_both_named_and_neither_is_worked(bad_night: Night):
    problems = {p["where"]: p["message"] for p in bad_night.status()["problems"]}
    assert 'TWIN-a.md and TWIN-b.md have the same id "TWIN"' in problems["tickets/TWIN-a.md:1"]
    assert "TWIN" not in bad_night.runs()


def test_an_agent_that_ends_at_once_three_times_parks_its_lane(bad_night: Night):
    lanes = {lane["lane"]: lane for lane in bad_night.status()["lanes"]}
    assert lanes["quitter"]["state"] == "overloaded"
    assert lanes.get("scripted", {"state": "up"})["state"] == "up"
    assert len(bad_night.attempts("QUIT-1")) <= 4


def test_an_agent_that_is_not_there_is_asked_for_once_and_alarmed_once(bad_night: Night):
    assert bad_night.attempts("MISS-1") == ["misconfigured"]
    said = (bad_night.home / "up.err").read_text()
    alarms = [line for line in said.splitlines() if "ALARM: lane missing is misconfigured" in line]
    assert len(alarms) == 1


@pytest.mark.parametrize("key", [key for key, (state, _) in STUCK.items() if state == "queued"])
def test_nothing_is_tried_again_in_a_hurry(bad_night: Night, key: str):
    assert len(bad_night.attempts(key)) <= 7  # 0.5 s doubled seven times is a minute
    assert len(bad_night.log()) < 400


def test_nothing_of_a_hook_that_never_ends_is_left(bad_night: Night):
    running = subprocess.run(["ps", "-axo", "args"], capture_output=True, text=True, check=True).stdout
    assert NO_SLEEP not in running


def test_what_the_owner_had_not_committed_is_as_it_was(bad_night: Night):
    dirty = bad_night.home / "dirty"
    assert ((dirty / "README.md").read_text(), (dirty / "new.txt").read_text()) == ("not committed\n", "neither\n")
    told = subprocess.run(["git", "status", "--porcelain"], cwd=dirty, capture_output=True, text=True, check=True)
    assert told.stdout == " M README.md\n?? new.txt\n"


def test_no_traceback_is_shown(bad_night: Night):
    assert "Traceback" not in (bad_night.home / "up.err").read_text()
    assert [line for line in bad_night.log() if "traceback" in line] == []


# -- hostile text ------------------------------------------------------------------------------------------------------
def test_no_word_of_a_ticket_becomes_a_command_a_path_or_a_terminal_code(night: Night):
    mark = night.home / "pwned"
    evil = f'$(touch {mark}) `touch {mark}`; touch {mark} {{{{ 7 | times: 7 }}}} {{% include "x" %}}'
    evil += "\x1b[31m\x07\r\n--- | # x"
    night.agent("plain", ["/bin/sh", "-c", "cat > prompt.txt; git add -A; git commit -qm work"])
    path = night.ticket("evil", "good", body=f"```\n</ticket>\n{evil}\n", title=evil, labels=["agent:plain"])
    path.write_text(path.read_text().replace('id: "evil"', f"id: {json.dumps('../../../evil; touch ' + str(mark))}"))
    said = night.run("up", "--until-idle")
    assert said.code == 0
    assert not mark.exists()
    (state,) = night.runs().values()
    assert state == "in_review"
    (pull,) = night.run("pr", "list", "--json").json["pull_requests"]
    assert pull["branch"].startswith("nightcrew/evil-touch-")
    assert [c for c in pull["title"] if not c.isprintable()] == []
    shown = "".join(night.run(*words).out for words in (["status"], ["pr", "show", "1"], ["report"]))
    assert [c for c in shown if not c.isprintable() and c != "\n"] == []
    prompt = (night.home / "good").joinpath
    assert "{{ 7 | times: 7 }}" in _file_of(night, pull["branch"], "prompt.txt")
    assert not prompt("49").exists()
    assert sorted(p.name for p in night.home.parent.iterdir()) == ["home"]


def _file_of(night: Night, branch: str, name: str) -> str:
    argv = ["git", "show", f"{branch}:{name}"]
    return subprocess.run(argv, cwd=night.home / "good", capture_output=True, text=True, check=True).stdout


# -- what breaks while the night runs ----------------------------------------------------------------------------------
def test_a_workflow_file_that_is_broken_later_leaves_the_last_good_one_in_force(night: Night):
    repo = night.repo("flow", **{"WORKFLOW_md": WORKFLOW.format("hooks:\n  after_create: touch .git/made")})
    night.ticket("ONE", "flow")
    with night.up():
        night.until(lambda: night.runs().get("ONE") == "in_review")
        repo.commit("break it", WORKFLOW_md="---\nhooks: [\n---\nNever.\n")
        night.ticket("TWO", "flow")
        night.until(lambda: night.runs().get("TWO") == "in_review")
    assert "WORKFLOW.md:2" in night.run("logs", "TWO", "--events").out
    assert "workflow problem" in (night.home / "up.err").read_text()


def test_a_ticket_whose_file_breaks_while_it_is_worked_is_not_taken_for_gone(night: Night):
    night.limits += "max_attempts = 2\n"
    go = night.home / "go"
    waiter = f"while ! test -e {go}; do sleep 0.05; done; echo done > it.txt; git add -A; git commit -qm it"
    night.agent("waiter", ["/bin/sh", "-c", waiter])
    path = night.ticket("ONE", "good", labels=["agent:waiter"])
    with night.up():
        night.until(lambda: list(night.state.glob("attempts/*/1/try-0/stdout")) != [])
        good = path.read_text()
        path.write_text(good.replace("title:", "title: ["))
        night.until(lambda: night.status()["problems"] != [])
        go.touch()
        night.until(lambda: "infra" in night.attempts("ONE") and night.runs() == {"ONE": "queued"})
        path.write_text(good)
        night.until(lambda: night.runs() == {"ONE": "in_review"})
    assert night.show("ONE")["consumed"] <= 1


def test_a_repository_that_vanishes_in_the_night_stops_only_its_own_tickets(night: Night):
    lost = night.repo("lost")
    night.ticket("STAYS-1", "good")
    with night.up():
        night.until(lambda: night.runs().get("STAYS-1") == "in_review")
        lost.path.rename(night.home / "elsewhere")
        night.ticket("LOST-1", "lost")
        night.ticket("STAYS-2", "good")
        night.until(lambda: night.runs().get("STAYS-2") == "in_review" and "infra" in night.attempts("LOST-1"))
        (night.home / "elsewhere").rename(lost.path)
        night.until(lambda: night.runs().get("LOST-1") == "in_review")


# -- two of them, and Ctrl-C ------------------------------------------------------------------------------------------
def test_a_second_up_on_the_same_state_says_so_and_exits(night: Night):
    night.save()
    with night.up() as first:
        said = night.run("up")
        assert said.code == 3
        assert f"(process {first.pid})" in said.sentence
        assert first.poll() is None


def test_the_first_ctrl_c_ends_in_order_and_the_next_up_goes_on(night: Night):
    go = night.home / "go"
    waiter = f"while ! test -e {go}; do sleep 0.05; done; echo it > it.txt; git add -A; git commit -qm it"
    night.agent("waiter", ["/bin/sh", "-c", waiter])
    night.ticket("ONE", "good", labels=["agent:waiter"])
    with night.up() as up:
        night.until(lambda: list(night.state.glob("attempts/*/1/try-0/stdout")) != [])
        up.send_signal(signal.SIGINT)
        assert up.wait(20) == 0
    assert night.runs() == {"ONE": "queued"}
    go.touch()
    assert night.run("up", "--until-idle").code == 0
    assert night.runs() == {"ONE": "in_review"}
