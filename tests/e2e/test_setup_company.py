"""Setting a board up, and seeing what a night would take from it: the real command line, the GitHub stand-in."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from nightcrew.config import load
from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.github_state import Pull
from nightcrew.testing.company.linear import Linear
from tests.conftest import Repository
from tests.e2e.company import CompanyNight, writes
from tests.e2e.household import Night
from tests.e2e.test_cli import ANSI

pytestmark = pytest.mark.slow

WEB, API, TOKEN = "acme/web", "acme/api", "ghp_nightcrew"
OURS = ("nightcrew",)


@pytest.fixture
def github(tmp_path: Path) -> Iterator[GitHub]:
    """A company with two repositories and a few issues."""
    with GitHub(tmp_path / "github") as running:
        state = running.state
        for name in (WEB, API):
            state.repository(name, {"README.md": f"# {name}\n"})
        state.issue(WEB, "Show the new logo", labels=OURS)
        state.issue(WEB, "Fix the login page", labels=(*OURS, "priority: high"))
        state.issue(WEB, "Say hello", labels=(*OURS, "priority: urgent"), blocked_by=(2,))
        state.issue(WEB, "Run the iOS tests", labels=(*OURS, "requires:ios"))
        state.issue(WEB, "Somebody is at it", labels=(*OURS, "nightcrew: working"))
        state.issue(WEB, "Not for \x1b[31mrobots\u202e", "Please.")
        yield running
    assert running.violations == []


@pytest.fixture
def night(tmp_path: Path, github: GitHub) -> CompanyNight:
    """nightcrew.toml for that company; it is not up yet."""
    made = CompanyNight(tmp_path / "home", env={"GITHUB_TOKEN": TOKEN})
    made.board = f'kind = "github"\nurl = "{github.url}"\nrepos = ["{WEB}"]\nlabels = ["nightcrew"]\n'
    made.forge = f'kind = "github"\nurl = "{github.url}"\n'
    made.places["web"] = f'url = "{github.clone_url(WEB)}"\n'
    made.limits = made.limits.replace("max_running = 4", "max_running = 1")
    for number in range(1, 7):
        made.plays(f"web#{number}", writes(f"{number}.txt", "done\n", "Do it"))
    return made


def written(github: GitHub) -> list[str]:
    """What was asked of the service besides reading."""
    return [exchange.what for exchange in github.log if not exchange.what.startswith("GET ")]


def foreseen(night: Night, *more: str) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
    told = night.run("board", "preview", "--json", *more).json
    taken = [(row["ticket"], row["repo"], row["rule"], row["stage"], row["waits_for"]) for row in told["taken"]]
    return taken, {row["ticket"]: row["why"] for row in told["left_out"]}


# -- the preview -------------------------------------------------------------------------------------------------------
def test_the_preview_tells_what_would_be_taken_in_order_and_changes_nothing(
    night: CompanyNight, github: GitHub
) -> None:
    before = sorted(path.name for path in night.home.iterdir())
    taken, left = foreseen(night)
    assert taken == [
        ("web#2", "web", "project", "ready", ""),
        ("web#1", "web", "project", "waits", "a free slot: 1 of 1 are taken"),
        ("web#3", "web", "project", "waits", "web#2"),
        ("web#4", "web", "project", "stuck", "needs a node with ios; this one has linux"),
    ]  # fmt: skip
    assert left == {"web#5": "somebody works on it already: the board shows it as working"}
    assert foreseen(night, "--all")[1] == left | {"web#6": "it has not the label 'nightcrew'"}
    assert written(github) == []
    assert sorted(path.name for path in night.home.iterdir()) == before


def test_the_night_takes_exactly_those_in_that_order(night: CompanyNight, github: GitHub) -> None:
    order = [key for key, _, _, stage, _ in foreseen(night)[0] if stage in ("ready", "waits")]
    with night.up():
        night.until(lambda: {key for key, state in night.runs().items() if state == "in_review"} == {*order[:2]})
        for issue in list(github.state.places[WEB].issues.values()):
            if issue.pull:
                github.state.merge(WEB, issue.number)
        night.until(lambda: night.runs().get(order[2]) == "in_review")
    began = night.sql("SELECT key FROM attempts JOIN runs ON runs.id = run_id ORDER BY attempts.started_at")
    assert [key for (key,) in began] == order
    assert night.runs()["web#4"] == "queued"
    assert "web#5" not in night.runs()


def test_while_it_is_up_and_after_it_the_preview_knows_what_was_begun(night: CompanyNight, github: GitHub) -> None:
    github.state.relabel(WEB, 3, remove=OURS)
    with night.up():
        night.until(lambda: [night.runs().get(f"web#{n}") for n in (1, 2)] == ["in_review", "in_review"])
        taken, left = foreseen(night)
        assert [(key, stage) for key, _, _, stage, _ in taken] == [("web#4", "stuck")]
        pulls = dict(night.sql("SELECT key, pull_request FROM runs"))
        assert {key: left[key] for key in ("web#1", "web#2")} == {
            key: f"its pull request #{pulls[key]} waits for review" for key in ("web#1", "web#2")
        }
    github.state.relabel(WEB, 4, remove=OURS)
    assert foreseen(night)[1]["web#4"] == "the ticket is not for us any more: it has not the label 'nightcrew'"
    assert night.runs()["web#4"] == "queued"


def test_a_ticket_with_a_pull_request_of_a_person_is_left_to_it(
    night: CompanyNight, github: GitHub, tmp_path: Path
) -> None:
    clone = Repository(tmp_path / "ada")
    place = github.state.places[WEB]
    subprocess.run(["git", "clone", "-q", str(tmp_path / "github" / f"{WEB}.git"), str(clone.path)], check=True)
    clone.git("switch", "-q", "-c", "ada/logo")
    clone.commit("logo", logo_svg="<svg/>\n")
    clone.git("push", "-q", "origin", "HEAD")
    with github.turn:
        issue = github.state.issue(WEB, "The new logo", "Fixes #1", author="ada")
        issue.pull = Pull("ada/logo", "main", github.state.id(), place.bare.sha("refs/heads/ada/logo"))
    left = foreseen(night)[1]
    assert left["web#1"] == f"{github.url}/{WEB}/pull/{issue.number} is open for it already"


@pytest.mark.parametrize("columns", [80, 60])
def test_the_preview_fits_into_the_terminal_and_steers_it_not(
    night: CompanyNight, github: GitHub, columns: int
) -> None:
    night.env |= {"COLUMNS": str(columns)}
    github.state.issue(WEB, "A title that is far too long for any table " * 4, labels=OURS, blocked_by=(1, 2, 3, 4))
    said = night.run("board", "preview", "--all")
    assert said.code == 0
    shown = said.out + night.run("doctor", "--no-agents").out + night.run("board", "check").out
    assert [line for line in shown.splitlines() if len(line) > columns] == []
    assert not {"\x1b", "\u202e"} & set(said.out)
    assert "5 tickets would be taken from board github, in this order (1 at the first look," in " ".join(
        said.out.split()
    )
    assert "web#4: needs a node with ios; this one has" in " ".join(said.out.split())
    assert "Requests: GitHub " in said.out


def test_a_board_that_cannot_be_read_is_one_sentence(night: CompanyNight, github: GitHub) -> None:
    night.env = {"GITHUB_TOKEN": "ghp_expired"}
    said = night.run("board", "preview")
    assert said.code == 1
    assert "401" in said.sentence
    assert "ghp_" not in said.err
    assert night.run("board", "check").code == 1
    said = night.run("board", "preview", "--board", "githib")
    assert (said.code, "Did you mean github?" in said.sentence) == (2, True)


# -- what the credential may do ----------------------------------------------------------------------------------------
def test_check_and_doctor_tell_who_we_are_and_what_is_missing_and_no_credential(
    night: CompanyNight, github: GitHub
) -> None:
    told = night.run("board", "check", "--json").json
    assert [(row["what"], row["login"], row["missing"]) for row in told["services"]] == [
        ("board", "nightcrew", []), ("forge", "nightcrew", []),
    ]  # fmt: skip
    assert [place["id"] for place in told["services"][0]["places"]] == [WEB, API]
    github.state.scopes["nightcrew"] = "read:user"
    said = night.run("board", "check")
    assert said.code == 1
    assert "none of the scopes repo, public_repo (it has: read:user)" in " ".join(said.out.split())
    night.env = {"GITHUB_TOKEN": "ghp_eve"}
    doctor = night.run("doctor", "--no-agents", "--json").json
    rows = {row["what"]: (row["check"], row["evidence"]) for row in doctor["checks"]}
    assert rows["login board github"] == ("ok", "logged in as eve; nothing is missing")
    verdict, evidence = rows["login forge hub"]
    assert verdict == "FAIL"
    assert f"It may not push to {WEB}" in evidence
    assert "ghp_" not in said.out + str(doctor)
    assert written(github) == []


# -- init --------------------------------------------------------------------------------------------------------------
class Newcomer:
    """Somebody with a clone of acme/web and no nightcrew.toml."""

    def __init__(self, folder: Path, github: GitHub) -> None:
        folder.mkdir()
        self.night = Night(folder / "home", env={"GITHUB_TOKEN": TOKEN})
        self.web, self.github = folder / "home" / "web", github
        bare = github.state.root / f"{WEB}.git"
        subprocess.run(["git", "clone", "-q", str(bare), str(self.web)], check=True)
        Repository(self.web).git("remote", "set-url", "origin", github.clone_url(WEB))

    @property
    def argv(self) -> list[str]:
        return ["init", "--board", "github", "--url", self.github.url]

    def init(self, *more: str, **env: str) -> Any:
        self.night.env |= env
        return self.night.run(*self.argv, *more, cwd=self.web)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.web.iterdir() if path.name != ".git")

    def talks(self, words: Sequence[str], *answers: tuple[str, str]) -> tuple[int, str]:
        """The command on a terminal of 80 columns; each answer is typed once what comes before it was printed."""
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        env = {key: value for key, value in self.night.environ().items() if key != "COLUMNS"} | {"TERM": "xterm"}
        left, shown, since = list(answers), b"", 0
        with subprocess.Popen(self.night.argv(*words), cwd=self.web, env=env, stdin=theirs, stdout=theirs,
                              stderr=theirs, start_new_session=True) as process:  # fmt: skip
            os.close(theirs)
            with suppress(OSError):  # Linux says so when the other side is closed
                while chunk := os.read(ours, 65536):
                    shown += chunk
                    if left and left[0][0].encode() in shown[since:]:
                        since = len(shown)
                        os.write(ours, f"{left.pop(0)[1]}\n".encode())
        os.close(ours)
        assert left == []
        return process.returncode, ANSI.sub("", shown.decode()).replace("\r\n", "\n")


@pytest.fixture
def newcomer(tmp_path: Path, github: GitHub) -> Iterator[Newcomer]:
    yield Newcomer(tmp_path / "newcomer", github)
    assert written(github) == []  # whatever was typed, nothing was changed on the board


def test_without_a_token_it_says_where_to_get_one_and_writes_nothing(newcomer: Newcomer) -> None:
    said = newcomer.init("--yes", GITHUB_TOKEN="")
    assert said.code == 2
    assert "The environment has no GITHUB_TOKEN" in said.sentence
    assert "export GITHUB_TOKEN=" in said.sentence
    said = newcomer.init("--yes", "--token-env", "BOT")
    assert "The environment has no BOT" in said.sentence
    assert (newcomer.files(), newcomer.github.log) == (["README.md"], [])


@pytest.mark.parametrize(
    ("token", "what"), [("ghp_expired", "401"), ("ghp_eve", f"It may not push to {WEB}")], ids=["expired", "too little"]
)
def test_a_token_that_is_not_enough_is_told_before_anything_is_written(
    newcomer: Newcomer, token: str, what: str
) -> None:
    said = newcomer.init("--yes", GITHUB_TOKEN=token)
    assert said.code == 1
    assert said.out == ""
    assert what in said.err
    assert token not in said.err
    assert newcomer.files() == ["README.md"]


def test_nothing_is_written_until_told_to(newcomer: Newcomer) -> None:
    said = newcomer.init()
    assert (said.code, said.out) == (0, "Nothing was written. `--yes` writes it, `--dry-run` shows it.\n")
    assert "4 tickets would be taken" in said.err
    shown = newcomer.init("--dry-run")
    assert newcomer.files() == ["README.md"]
    told = newcomer.init("--yes", "--json").json
    assert (told["login"], told["places"], told["forge"], told["written"]) == ("nightcrew", [WEB], "github", True)
    assert [row["ticket"] for row in told["preview"]["taken"]] == ["web#2", "web#1", "web#3", "web#4"]
    assert (newcomer.web / "nightcrew.toml").read_text() == shown.out
    assert newcomer.files() == [".nightcrew", "README.md", "nightcrew.toml"]
    assert "is there already; nothing was changed" in newcomer.init("--yes").sentence


def test_what_is_written_is_what_was_previewed_and_passes_the_doctor(newcomer: Newcomer) -> None:
    before = newcomer.init("--yes", "--json").json["preview"]["taken"]
    night, text = newcomer.night, (newcomer.web / "nightcrew.toml").read_text()
    assert TOKEN not in text
    assert night.run("board", "preview", "--json", cwd=newcomer.web).json["taken"] == before
    checks = night.run("doctor", "--no-agents", "--json", cwd=newcomer.web).json["checks"]
    assert [row for row in checks if row["check"] == "FAIL"] == []
    assert {"login board github", "login forge github"} <= {row["what"] for row in checks}


def test_on_a_terminal_it_asks_lists_previews_and_takes_no_for_an_answer(newcomer: Newcomer) -> None:
    words = ["init", "--url", newcomer.github.url]
    code, shown = newcomer.talks(
        words, ("Number or name", "2"), ("Number or name", ""), ("(- for all)", ""), ("[y/N]", "")
    )
    assert code == 0
    for line in ("   2  github   GitHub Issues", "   1  acme/web", "   2  acme/api", "Logged in to GitHub Issues as"):
        assert line in shown
    assert shown.index("4 tickets would be taken") < shown.index("Write nightcrew.toml?")
    assert shown.endswith("Nothing was written.\n")
    assert newcomer.files() == ["README.md"]
    assert [line for line in shown.splitlines() if len(line) > 80] == []


def test_on_a_terminal_yes_writes_what_was_chosen(newcomer: Newcomer) -> None:
    newcomer.github.state.issue(API, "Speed it up")
    code, shown = newcomer.talks(
        ["init", "--url", newcomer.github.url], ("Number or name", "github"), ("Number or name", "7"),
        ("none of them", "1, acme/api"), ("(- for all)", "-"), ("[y/N]", "y"),
    )  # fmt: skip
    assert code == 0
    assert "Wrote nightcrew.toml" in shown
    config = load(newcomer.web / "nightcrew.toml", {})
    ((_, settings),) = config.boards.values()
    assert (settings["repos"], "labels" in settings) == ([WEB, API], False)
    assert config.repos[0].projects == (API,)
    assert "api#1" in shown


def test_a_folder_is_still_what_enter_gives_where_no_service_is_guessed(newcomer: Newcomer) -> None:
    code, shown = newcomer.talks(["init"], ("Number or name [1]", ""), ("[y/N]", "y"))
    assert (code, "Wrote nightcrew.toml" in shown) == (0, True)
    assert newcomer.files() == [".nightcrew", "README.md", "nightcrew.toml", "tickets"]
    assert newcomer.github.log == []


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--board trello", "There is no board of kind 'trello'"), ("--board githb", "Did you mean github?"),
        ("--label x", "--label means nothing for a folder"), ("--board github --team ENG", "Use --repo-slug"),
        ("--board github --set x", "this is not KEY=VALUE"), ("--board github --set labls=x", "Did you mean `labels`?"),
        ("--board github --url acme.example", "'acme.example' is no address of a server"),
        ("--board github --url http://127.0.0.1:http", "is no address of a server"),
        ("--board github --set people=ada", "Expected `array`"),
        ("--board github --token-env ghp_s3cret", "--token-env takes the name of an environment variable"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_sentence(newcomer: Newcomer, words: str, what: str) -> None:
    said = newcomer.night.run("init", *words.split(), cwd=newcomer.web)
    assert said.code == 2
    assert what in said.sentence
    assert "s3cret" not in said.err
    assert newcomer.files() == ["README.md"]


def test_a_service_that_is_not_there_is_one_sentence_with_its_cure(newcomer: Newcomer) -> None:
    said = newcomer.night.run("init", "--board", "github", "--url", "http://127.0.0.1:9", "--yes", cwd=newcomer.web)
    assert (said.code, "GitHub at http://127.0.0.1:9 cannot be reached" in said.sentence) == (1, True)
    assert "Look at its address and at your network" in said.sentence
    assert newcomer.files() == ["README.md"]


@pytest.mark.parametrize("questions", range(4))
def test_who_goes_away_at_a_question_leaves_nothing_behind(newcomer: Newcomer, questions: int) -> None:
    asked = (("Number or name", "github"), ("Number or name", ""), ("(- for all)", ""), ("[y/N]", ""))
    ends = (asked[questions][0], "\x04")
    code, shown = newcomer.talks(["init", "--url", newcomer.github.url], *asked[:questions], ends)
    assert (code, shown.splitlines()[-1]) == (130, "nightcrew: Stopped before the answer; nothing was changed.")
    assert newcomer.files() == ["README.md"]


def test_any_setting_of_the_board_can_be_given(newcomer: Newcomer) -> None:
    more = ("authors=['ada', \"b'ob\"]", "pace=30", 'states={"in QA" = "working"}', "assignee=ada")
    newcomer.init("--yes", "--label", 'q"a\n', *(word for one in more for word in ("--set", one)))
    ((_, settings),) = load(newcomer.web / "nightcrew.toml", {}).boards.values()
    assert settings["authors"] == ["ada", "b'ob"]
    assert (settings["pace"], settings["states"], settings["assignee"]) == (30, {"in QA": "working"}, "ada")
    assert settings["labels"] == ['q"a\n']


def test_a_repository_elsewhere_must_be_named(newcomer: Newcomer) -> None:
    Repository(newcomer.web).git("remote", "remove", "origin")
    said = newcomer.init()
    assert said.code == 2
    assert "there is: acme/web, acme/api. Name it with --repo-slug." in said.err
    told = newcomer.init("--repo-slug", API, "--yes", "--json").json
    assert (told["places"], told["forge"]) == ([API], "local")
    config = load(newcomer.web / "nightcrew.toml", {})
    assert (config.repos[0].projects, config.repos[0].url) == ((API,), str(newcomer.web))


# -- a tracker that is not where the code is ---------------------------------------------------------------------------
def test_a_linear_team_is_joined_and_the_only_repository_takes_its_tickets_of_any_project(tmp_path: Path) -> None:
    with Linear() as linear:
        state = linear.state
        state.team("OPS", "Operations")
        for title, project in (("Fix the login page", "Web"), ("Nobody knows where", "")):
            state.issue(title, labels=("nightcrew",), project=project)
        changed = [issue["updatedAt"] for issue in state.issues.values()]
        night = Night(tmp_path / "home", env={"LINEAR_API_KEY": "lin_api_nightcrew"})
        web = night.bare_folder("web")
        web.commit("first", README_md="# Web\n")
        argv = ["init", "--board", "linear", "--url", linear.address]
        said = night.run(*argv, "--yes", cwd=web.path)
        assert (said.code, "there is: ENG, OPS. Name it with --team." in said.err) == (2, True)
        told = night.run(*argv, "--team", "ENG", "--yes", "--json", cwd=web.path).json
        assert (told["login"], told["places"], told["forge"]) == ("nightcrew", ["ENG"], "local")
        assert {row["ticket"]: row["rule"] for row in told["preview"]["taken"]} == {"ENG-1": "only", "ENG-2": "only"}
        assert told["preview"]["left_out"] == []
        assert load(web.path / "nightcrew.toml", {}).repos[0].projects == ()
        assert [issue["updatedAt"] for issue in state.issues.values()] == changed
        assert not state.comments
    assert linear.violations == []
