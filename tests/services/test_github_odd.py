"""What happens to repositories, issues, people and apps on a GitHub while nightcrew works there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from nightcrew.adapters.forges.github import GitHubForge
from nightcrew.adapters.forges.github.parse import parse_pull
from nightcrew.core.model import Repo, TicketState
from nightcrew.errors import BoardError, ConfigError, ForgeError
from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.standin import ERROR, LIMITED
from tests.services.made import github_board as board
from tests.services.made import github_forge as forge

pytestmark = pytest.mark.slow

WEB, API = "acme/web", "acme/api"


def repo(github: GitHub) -> Repo:
    return Repo("web", github.clone_url(WEB), forge="hub")


async def opened(github: GitHub, one: GitHubForge, branch: str = "a") -> int:
    github.state.places[WEB].bare.commit(branch, "change", {branch: "1"})
    return (await one.open(repo(github), branch, branch, "")).number


@pytest.fixture
def app(github: GitHub, tmp_path: Path) -> dict[str, object]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    shown, plain = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (tmp_path / "app.pem").write_bytes(pem)
    github.state.apps["7"] = key.public_key().public_bytes(serialization.Encoding.PEM, shown)
    return {"app": "7", "key": str(tmp_path / "app.pem")}


# -- repositories and issues that move ---------------------------------------------------------------------------------
async def test_a_renamed_repository_is_worked_under_its_old_name(github: GitHub) -> None:
    github.state.issue(WEB, "One")
    blocked = github.state.issue(WEB, "Two", blocked_by=(1,))
    github.state.rename(WEB, "acme/website")
    one = board(github)
    assert {t.id: t.blocked_by for t in (await one.scan()).tickets} == {f"{WEB}#1": (), f"{WEB}#2": (f"{WEB}#1",)}
    await one.move(f"{WEB}#1", TicketState.DONE, "note")
    assert {t.id: t.blocked_by for t in (await one.scan()).tickets} == {f"{WEB}#2": ()}
    assert [t.id for t in await board(github).fetch([f"{WEB}#1", f"{WEB}#2"])] == [f"{WEB}#1", f"{WEB}#2"]
    await one.move(f"{WEB}#2", TicketState.WORKING)
    assert blocked.labels == ["nightcrew: working"]
    assert len(blocked.comments) == 1


async def test_pull_requests_of_a_renamed_repository_are_opened_and_found(
    github: GitHub, app: dict[str, object]
) -> None:
    one, old = forge(github, **app), repo(github)
    github.state.places[WEB].bare.commit("a", "change", {"a": "1"})
    github.state.rename(WEB, "acme/website")
    made = await one.open(old, "a", "title", "body")
    assert await one.find(old, "a") == made
    assert await one.list(old) == [made]
    await one.say(old, made.number, "Hello", "k")
    assert [c.body for c in github.state.places["acme/website"].issues[made.number].comments] == [
        "<!-- nightcrew:k -->\nHello"
    ]


async def test_an_issue_that_was_transferred_is_gone_and_its_new_place_is_not_taken_for_it(github: GitHub) -> None:
    issue = github.state.issue(WEB, "One")
    github.state.issue(WEB, "Two")
    one = board(github, repos=[WEB, API])
    await one.scan()
    github.state.transfer(WEB, 1, API)
    assert await one.fetch([f"{WEB}#1"]) == await board(github).fetch([f"{WEB}#1"]) == []
    with pytest.raises(BoardError, match="transferred to another repository"):
        await one.move(f"{WEB}#1", TicketState.WORKING)
    assert (issue.labels, issue.comments) == ([], [])
    assert [t.id for t in await one.fetch([f"{API}#1"])] == [f"{API}#1"]


async def test_the_settings_may_write_a_repository_in_another_case(github: GitHub) -> None:
    github.state.issue(WEB, "One")
    github.state.issue(WEB, "Two", blocked_by=(1,))
    cards = github.state.board("acme", 7)
    for number in (1, 2):
        github.state.card(cards, WEB, number, "Todo")
    one = board(github, repos=["Acme/Web"], project="acme/7")
    found = {t.id: t.blocked_by for t in (await one.scan()).tickets}
    assert found == {"Acme/Web#1": (), "Acme/Web#2": ("Acme/Web#1",)}
    await one.move("Acme/Web#1", TicketState.WORKING)
    assert [card[2] for card in cards.cards.values()] == ["In Progress", "Todo"]


async def test_a_repository_that_we_may_not_read_just_now_says_nothing_of_its_tickets(github: GitHub) -> None:
    github.state.issue(WEB, "One")
    one = board(github, repos=[WEB, API])
    await one.scan()
    place = github.state.places.pop(WEB)  # GitHub says 404 where it means "no permission"
    with pytest.raises(BoardError, match=r"/repos/acme/web \(404\)"):
        await one.fetch([f"{WEB}#1"])
    github.state.places[WEB] = place
    assert [t.id for t in await one.fetch([f"{WEB}#1"])] == [f"{WEB}#1"]


async def test_an_archived_repository_is_told_when_it_is_set_up(github: GitHub) -> None:
    github.state.places[WEB].archived = True
    for about in (await board(github).about(), await forge(github).about(repo(github))):
        assert "acme/web is archived" in str(about["missing"])
    assert (await board(github, repos=[API]).about())["missing"] == []


# -- blockers and stops ------------------------------------------------------------------------------------------------
async def test_a_blocker_that_is_opened_again_blocks_again(github: GitHub) -> None:
    github.state.issue(WEB, "One")
    github.state.issue(WEB, "Two", blocked_by=(1,))
    one = board(github)
    for change, waits in ((None, True), (github.state.close_issue, False), (github.state.reopen, True)):
        if change:
            change(WEB, 1)
        assert [bool(t.blocked_by) for t in (await one.scan()).tickets if t.id == f"{WEB}#2"] == [waits]
        assert [bool(t.blocked_by) for t in await one.fetch([f"{WEB}#2"])] == [waits]


async def test_stop_is_heard_also_where_a_projects_card_alone_shows_the_work(github: GitHub) -> None:
    cards = github.state.board("acme", 7)
    issue = github.state.issue(WEB, "One")
    github.state.card(cards, WEB, 1, "Todo")
    one = board(github, project="acme/7")
    await one.scan()
    await one.move(f"{WEB}#1", TicketState.WORKING)
    assert issue.labels == []
    assert [t.stop for t in (await one.scan()).tickets] == [""]
    github.state.say(WEB, 1, "ada", "stop")
    assert [t.stop.partition(" at ")[0] for t in (await one.scan()).tickets] == ["ada said stop"]


async def test_what_deleted_accounts_said_stops_nothing_and_breaks_nothing(github: GitHub) -> None:
    github.state.access["ghost"] = "COLLABORATOR"
    github.state.issue(WEB, "One", author="ghost", labels=("nightcrew", "nightcrew: working"))
    github.state.say(WEB, 1, "ghost", "stop")
    one, hub = board(github, labels=["nightcrew"], people=["ada"]), forge(github)
    assert [t.stop for t in (await one.scan()).tickets] == [""]
    await one.move(f"{WEB}#1", TicketState.WORKING, "note")
    number = await opened(github, hub)
    github.state.say(WEB, number, "ghost", "What about this?")
    await hub.say(repo(github), number, "Hello", "k")
    assert [r.author for r in (await hub.standing(repo(github), number)).remarks] == ["ghost", "nightcrew"]


# -- pull requests -----------------------------------------------------------------------------------------------------
async def test_one_reviewer_who_cannot_be_asked_keeps_nobody_else_from_being_asked(
    github: GitHub, caplog: pytest.LogCaptureFixture
) -> None:
    number = await opened(github, forge(github, reviewers=["nightcrew", "nobody", "ada"], labels=["crew"]))
    issue = github.state.places[WEB].issues[number]
    assert issue.pull is not None
    assert (issue.pull.reviewers, issue.labels) == (["ada"], ["crew"])
    assert [r.message for r in caplog.records] == ["pull.unfurnished"] * 2


async def test_where_github_sells_no_drafts_the_pull_request_is_opened_ready(github: GitHub) -> None:
    github.state.places[WEB].drafts = False
    number = await opened(github, forge(github, draft=True))
    assert not (await forge(github).standing(repo(github), number)).draft


async def test_a_forks_pull_request_is_not_ours_though_its_branch_has_the_name(github: GitHub) -> None:
    github.state.fork(WEB, "a", "eve", "Closes #1")
    one = forge(github)
    assert await one.find(repo(github), "a") is None
    number = await opened(github, one)
    assert [pull.branch for pull in await one.list(repo(github))] == ["a", "eve:a"]
    found = await one.find(repo(github), "a")
    assert found is not None
    assert found.number == number


def test_a_pull_request_whose_fork_was_deleted_can_be_read() -> None:
    raw = {
        "number": 1,
        "title": "t",
        "body": None,
        "state": "closed",
        "html_url": "u",
        "created_at": "2026-11-27T00:00:00Z",
        "head": {"ref": "a", "label": "eve:a", "sha": "1", "repo": None},
        "base": {"ref": "main", "repo": {"id": 1}},
    }
    assert parse_pull(raw, "web").branch == "eve:a"


async def test_it_is_found_also_when_the_repository_has_another_owner_by_now(github: GitHub) -> None:
    made = await opened(github, forge(github))
    old = repo(github)
    github.state.rename(WEB, "acme-inc/web")
    found = await forge(github).find(old, "a")
    assert found is not None
    assert found.number == made


async def test_a_pull_request_that_is_not_there_any_more_keeps_no_other_from_being_looked_at(github: GitHub) -> None:
    one = forge(github)
    number = await opened(github, one)
    assert list(await one.stamps(repo(github), [number, 99])) == [number]
    with pytest.raises(ForgeError, match="Could not resolve to a Repository"):
        await one.stamps(Repo("gone", f"{github.url}/acme/gone.git"), [1])


async def test_of_more_than_a_hundred_checks_all_are_read(github: GitHub) -> None:
    one = forge(github)
    number = await opened(github, one)
    head = github.state.places[WEB].bare.sha("refs/heads/a")
    for n in range(230):
        github.state.check(WEB, head, f"job {n}", "completed", "failure" if n == 229 else "success")
    checks = (await one.standing(repo(github), number)).checks
    assert [c.name for c in checks if c.state == "failed"] == ["job 229"]
    assert len(checks) == 230


async def test_what_is_green_already_is_merged_at_once_where_the_forge_would_not_wait_for_it(github: GitHub) -> None:
    one = forge(github)
    number = await opened(github, one)
    await one.standing(repo(github), number)  # GitHub finds out whether it merges
    head = (await one.standing(repo(github), number)).pull.head
    assert (await one.merge(repo(github), number, head, "green")).state == "merged"


async def test_an_organizations_member_who_may_only_read_is_not_heard(github: GitHub) -> None:
    github.state.access |= {"rob": "MEMBER", "sue": "COLLABORATOR"}
    github.state.readers = {"rob"}
    for author in ("rob", "sue"):
        github.state.issue(WEB, f"By {author}", author=author)
    one, hub = board(github), forge(github)
    assert [t.title for t in (await one.scan()).tickets] == ["By sue"]
    assert [t.left for t in await one.fetch([f"{WEB}#1"])] == ["its author rob is not one whose tickets are taken"]
    assert {t.title: bool(t.left) for t in await one.considered()} == {"By rob": True, "By sue": False}
    await one.move(f"{WEB}#2", TicketState.WORKING)
    for author, stop in (("rob", ""), ("sue", "sue said stop")):
        github.state.say(WEB, 2, author, "stop")
        assert [t.stop.partition(" at ")[0] for t in (await one.scan()).tickets] == [stop]
    number = await opened(github, hub)
    for author in ("rob", "sue"):
        github.state.review(WEB, number, author, "APPROVED")
    standing = await hub.standing(repo(github), number)
    assert {r.author: r.trusted for r in standing.remarks} == {"rob": False, "sue": True}


async def test_when_graphql_is_used_up_the_board_and_the_list_are_still_read(github: GitHub) -> None:
    github.state.issue(WEB, "One")
    one, hub = board(github), forge(github)
    number = await opened(github, hub)
    github.points = 0
    for _ in range(2):
        with pytest.raises(ForgeError, match="asks us to wait"):
            await hub.standing(repo(github), number)
    assert github.counts()["POST /graphql"] == 1
    assert len(await hub.list(repo(github))) == 1
    assert len((await one.scan()).tickets) == 1


# -- apps --------------------------------------------------------------------------------------------------------------
async def test_what_an_app_says_is_known_as_its_own(github: GitHub, app: dict[str, object]) -> None:
    number = await opened(github, forge(github, **app))
    for text in ("Hello", "Hello", "Hello again"):
        await forge(github, **app).say(repo(github), number, text, "k")
    said = github.state.thread(WEB, number, "ada", "a", "Why?")
    thread = (await forge(github).standing(repo(github), number)).remarks[-1].thread
    for _ in range(2):
        await forge(github, **app).answer(repo(github), number, thread, "Because.", "t")
    remarks = (await forge(github, **app).standing(repo(github), number)).remarks
    assert [(r.text, r.mine) for r in remarks] == [("Hello again", True), ("Why?", False), ("Because.", True)]
    assert len(github.state.places[WEB].issues[number].threads[said.id]) == 2


async def test_an_app_keeps_one_progress_comment(github: GitHub, app: dict[str, object]) -> None:
    issue = github.state.issue(WEB, "One")
    github.state.say(WEB, 1, "ada", "<!-- nightcrew:progress -->\nmine, not the app's")
    for note in ("first", "second"):
        await board(github, **app).move(f"{WEB}#1", TicketState.WORKING, note)
    assert [c.author for c in issue.comments] == ["ada", "nightcrew[bot]"]
    assert "second" in issue.comments[1].body


async def test_an_app_that_several_owners_installed_uses_each_ones_token_for_its_repositories(
    github: GitHub, app: dict[str, object]
) -> None:
    github.state.repository("other/lib", {"README.md": "#\n"})
    for name in (WEB, "other/lib"):
        github.state.issue(name, name)
        github.state.places[name].bare.commit("a", "change", {"a": "1"})
    one, hub = board(github, repos=[WEB, "other/lib"], **app), forge(github, **app)
    assert {t.id for t in (await one.scan()).tickets} == {f"{WEB}#1", "other/lib#1"}
    for name in (WEB, "other/lib"):
        await one.move(f"{name}#1", TicketState.WORKING)
    repos = [Repo(name, github.clone_url(name), forge="hub") for name in (WEB, "other/lib")]
    await asyncio.gather(*(hub.open(each, "a", "title", "") for each in repos))
    assert [len(await hub.list(each)) for each in repos] == [1, 1]
    assert len({str(hub.git_env(each)) for each in repos}) == 2
    github.state.without_app = {"other"}
    scan = await board(github, repos=[WEB, "other/lib"], **app).scan()
    assert ([t.id for t in scan.tickets], [p.where for p in scan.problems]) == ([f"{WEB}#1"], ["other/lib"])


@pytest.mark.parametrize(("kind", "says"), [(ERROR, "no token now"), (LIMITED, "asks us to wait")])
async def test_that_an_app_gets_no_token_just_now_is_an_outage_and_no_mistake(
    github: GitHub, app: dict[str, object], kind: str, says: str
) -> None:
    for part in ("/installation", "/access_tokens"):
        github.trouble.next(part, kind)
        with pytest.raises(BoardError, match=says):
            await board(github, **app).scan()
        github.trouble.next(part, kind)
        with pytest.raises(ForgeError, match=says):
            forge(github, **app).git_env(repo(github))
    with pytest.raises(BoardError, match=r"gives it no token \(404\).*is installed"):
        await board(github, installation=5, **app).scan()
    with pytest.raises(ConfigError, match=r"gives it no token \(404\)"):
        forge(github, installation=5, **app).git_env(repo(github))
