"""What the GitHub board tells before anything is set up: who we are, what is missing, what its selection leaves out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from nightcrew.adapters.boards.github import GitHubBoard
from nightcrew.errors import BoardError
from nightcrew.ports import Previewing, Served
from nightcrew.testing.company.github import GitHub

pytestmark = pytest.mark.slow

WEB, API = "acme/web", "acme/api"


def board(github: GitHub, *repos: str, **settings: object) -> GitHubBoard:
    return GitHubBoard("github", {"url": github.url, "repos": list(repos), **settings}, Path())


async def test_the_repositories_to_choose_from_are_told_before_one_is_named(github: GitHub) -> None:
    one = board(github)
    assert isinstance(one, Served)
    told = await one.about()
    assert told == {"login": "nightcrew", "places": [(WEB, WEB), (API, API)], "missing": []}
    assert (await board(github, API).about())["places"] == [(API, API), (WEB, WEB)]


@pytest.mark.parametrize(
    ("scopes", "missing"),
    [("repo, gist", 0), ("public_repo", 0), ("", 0), ("read:user", 1), ("repo:status, gist", 1)],
)
async def test_a_classic_token_without_the_scope_is_told(github: GitHub, scopes: str, missing: int) -> None:
    github.state.scopes["nightcrew"] = scopes
    told = (await board(github, WEB).about())["missing"]
    assert isinstance(told, list)
    assert len(told) == missing
    assert all(scopes in said for said in told)


async def test_a_repository_that_is_not_there_is_missing_and_a_token_that_is_not_good_an_error(
    github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = (await board(github, WEB, "acme/gone").about())["missing"]
    assert isinstance(told, list)
    assert told == ["GitHub shows us no repository acme/gone."]
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_expired")
    with pytest.raises(BoardError, match="401"):
        await board(github, WEB).about()


async def test_an_app_reaches_what_it_is_installed_on(github: GitHub, tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    shown, plain = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (tmp_path / "app.pem").write_bytes(pem)
    github.state.apps["7"] = key.public_key().public_bytes(serialization.Encoding.PEM, shown)
    told = await board(github, WEB, app="7", key=str(tmp_path / "app.pem")).about()
    assert (told["places"], told["missing"]) == ([(WEB, WEB), (API, API)], [])


async def test_what_the_selection_leaves_out_is_told_newest_first_for_one_request_each(github: GitHub) -> None:
    state = github.state
    for number in range(105):
        state.issue(WEB, f"Old {number}", labels=("nightcrew",) if number % 2 else ())
    state.clock = lambda: datetime.now(UTC) + timedelta(hours=1)
    state.issue(API, "New")
    state.close_issue(WEB, 105)
    one = board(github, WEB, API, labels=["nightcrew"])
    assert isinstance(one, Previewing)
    told = await one.considered()
    assert len(told) == 100
    assert told[0].key == "api#1"
    assert "web#105" not in {ticket.key for ticket in told}
    assert {ticket.left for ticket in told} == {"", "it has not the label 'nightcrew'"}
    assert github.counts() == {"GET /repos/{owner}/{repo}/issues": 2}
