"""An agent reads the forge through nightcrew: a whole night, with a scripted agent that asks by urllib."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightcrew.testing.company.github import GitHub
from tests.e2e.company import CompanyNight, writes
from tests.e2e.household import PYTHON

WEB, KEY = "acme/web", "web#1"
pytestmark = pytest.mark.slow

ASKS = """
import json, os, urllib.error, urllib.request

def ask(path, method="GET", data=None):
    request = urllib.request.Request(os.environ["GITHUB_API_URL"] + path, data, method=method)
    request.add_header("Authorization", "Bearer " + os.environ["GITHUB_TOKEN"])
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)

place = "/repos/" + os.environ["GITHUB_REPOSITORY"]
issues = [ask(place + "/issues?state=all") for _ in range(5)]
told = {
    "issues": [status for status, _ in issues], "title": issues[0][1][0]["title"],
    "close": ask(place + "/issues/1", "PATCH", b'{"state": "closed"}')[0], "other": ask("/repos/acme/other")[0],
    "env": {name: value for name, value in os.environ.items() if name.startswith(("GITHUB_", "GH_"))},
}
open("told.json", "w").write(json.dumps(told))
"""


class ProxyNight(CompanyNight):
    def save(self) -> None:
        super().save()
        self.file(
            "nightcrew.toml", (self.home / "nightcrew.toml").read_text() + '\n[proxy]\nenabled = true\nforge = "hub"\n'
        )


@pytest.fixture
def github(tmp_path: Path) -> Iterator[GitHub]:
    with GitHub(tmp_path / "github") as running:
        running.state.repository(WEB, {"README.md": "# Web\n"})
        running.state.repository("acme/other", {"README.md": "# Other\n"})
        yield running
    assert running.violations == []


def proxied(tmp_path: Path, github: GitHub) -> ProxyNight:
    night = ProxyNight(tmp_path / "home", env={"GITHUB_TOKEN": "ghp_nightcrew"})
    night.board = f'kind = "github"\nurl = "{github.url}"\nrepos = ["{WEB}"]\nlabels = ["nightcrew"]\n'
    night.forge = f'kind = "github"\nurl = "{github.url}"\n'
    night.places["web"] = f'url = "{github.clone_url(WEB)}"\n'
    return night


def test_where_no_socket_can_be_made_it_is_told_and_the_night_goes_on(tmp_path: Path, github: GitHub) -> None:
    night = proxied(tmp_path, github)
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    night.env["TMPDIR"] = str(deep)
    night.plays(KEY, writes("a.txt", "1\n", "Do it"))
    github.state.issue(WEB, "Do it", labels=("nightcrew",))
    with night.up():
        night.until(lambda: night.runs() == {KEY: "in_review"})
    told = (night.home / "up.err").read_text()
    assert told.count("in TMPDIR (AF_UNIX path too long); they do without.") == 1
    assert "Traceback" not in told


def test_an_agent_reads_its_repository_and_nothing_else_and_its_token_ends_with_it(
    tmp_path: Path, github: GitHub
) -> None:
    night = proxied(tmp_path, github)
    night.file("asks.py", ASKS)
    night.plays(KEY, [{"run": f"{PYTHON} {night.home / 'asks.py'}"}, *writes("a.txt", "1\n", "Do it")])
    issue = github.state.issue(WEB, "Read me", labels=("nightcrew",))
    with night.up():
        night.until(lambda: night.runs() == {KEY: "in_review"})
        night.until(lambda: bool(night.sql("SELECT 1 FROM events WHERE kind = 'proxy.used'")))
    (place,) = [i for i in github.state.places[WEB].issues.values() if i.pull]
    assert place.pull
    told = json.loads(github.state.places[WEB].bare.git("show", f"{place.pull.head}:told.json"))
    assert (told["issues"], told["title"], told["close"], told["other"]) == ([200] * 5, "Read me", 403, 403)
    assert issue.state == "open"
    assert told["env"]["GITHUB_TOKEN"].startswith("nightcrew_")
    assert "ghp_nightcrew" not in json.dumps(told)
    asked = [e.path for e in github.log if e.path.endswith("/issues?state=all")]
    assert len(asked) == 1
    ((data,),) = night.sql("SELECT data FROM events WHERE kind = 'proxy.used'")
    assert json.loads(data) == {"attempt": 1, "forwarded": 1, "cached": 4, "refused": 2, "over": 0}
    assert not Path(told["env"]["GH_CONFIG_DIR"]).exists()
