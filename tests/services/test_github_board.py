"""What GitHub's board costs, reads and shows, beyond what every board promises."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from graphql import build_schema, parse, validate

from nightcrew import transport
from nightcrew.adapters import github_api
from nightcrew.adapters.boards.github import project
from nightcrew.adapters.boards.github.memory import WHOLE_EVERY
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError, ConfigError
from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.standin import ERROR, LATE
from tests.services.made import github_board as board

pytestmark = pytest.mark.slow

WEB = "acme/web"


async def test_an_unchanged_board_of_500_costs_one_request_that_is_answered_304(github: GitHub) -> None:
    for n in range(500):
        github.state.issue(WEB, f"Ticket {n}", labels=("nightcrew",))
    one = board(github, labels=["nightcrew"])
    assert len((await one.scan()).tickets) == 500
    for _ in range(WHOLE_EVERY - 1):
        github.log.clear()
        assert len((await one.scan()).tickets) == 500
        assert [(e.what, e.status) for e in github.log] == [("GET /repos/{owner}/{repo}/issues", 304)]
    assert one.service.counts["sent"] == 7 + WHOLE_EVERY - 1  # who we are, the guard, 5 pages


async def test_each_change_is_seen_by_one_request(github: GitHub) -> None:
    seconds = itertools.count()
    github.state.clock = lambda: datetime.now(UTC) + timedelta(seconds=next(seconds))
    issue = github.state.issue(WEB, "First", labels=("nightcrew",))
    for n in range(60):
        github.state.issue(WEB, f"Noise {n}")
    one = board(github, labels=["nightcrew"])
    await one.scan()
    github.log.clear()
    issue.title = "Second"
    github.state.touch(issue)
    assert [t.title for t in (await one.scan()).tickets] == ["Second"]
    github.state.close_issue(WEB, issue.number)
    assert (await one.scan()).tickets == ()
    github.state.reopen(WEB, issue.number)
    assert len((await one.scan()).tickets) == 1
    assert len(github.log) == 3


async def test_more_changes_than_one_page_shows_are_all_seen(github: GitHub) -> None:
    issues = [github.state.issue(WEB, f"Ticket {n}", labels=("nightcrew",)) for n in range(120)]
    one = board(github, labels=["nightcrew"])
    await one.scan()
    for issue in issues:
        github.state.close_issue(WEB, issue.number)
    assert (await one.scan()).tickets == ()


async def test_a_fault_in_the_middle_of_a_long_look_loses_nothing(github: GitHub) -> None:
    issues = [github.state.issue(WEB, f"Ticket {n}", labels=("nightcrew",)) for n in range(120)]
    one = board(github, labels=["nightcrew"])
    await one.scan()
    for issue in issues:
        github.state.close_issue(WEB, issue.number)
    one.service.patience = 0
    for _ in range(transport.TRIES):
        github.trouble.orders.append(("GET /repos/{owner}/{repo}/issues", ERROR))
    github.trouble.orders.insert(0, ("GET /repos/{owner}/{repo}/issues", LATE))
    with pytest.raises(BoardError):
        await one.scan()
    assert (await one.scan()).tickets == ()


async def test_a_deleted_issue_is_left_out_and_a_refused_credential_is_told(
    github: GitHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    github.state.issue(WEB, "One")
    assert [t.id for t in await board(github).fetch([f"{WEB}#1", f"{WEB}#99"])] == [f"{WEB}#1"]
    monkeypatch.setenv("GITHUB_TOKEN", "wrong")
    with pytest.raises(BoardError, match="401"):
        await board(github).fetch([f"{WEB}#1"])


async def test_blockers_are_ids_of_issues_that_are_still_open(github: GitHub) -> None:
    first, second = github.state.issue(WEB, "First"), github.state.issue(WEB, "Second")
    github.state.issue(WEB, "Third", blocked_by=(first.number, second.number))
    one = board(github)

    async def blockers() -> list[tuple[str, ...]]:
        return [t.blocked_by for t in (await one.scan()).tickets if t.title == "Third"]

    assert await blockers() == [(f"{WEB}#1", f"{WEB}#2")]
    github.state.close_issue(WEB, first.number)
    assert await blockers() == [(f"{WEB}#2",)]


async def test_without_a_label_only_those_who_may_write_give_us_work(github: GitHub) -> None:
    github.state.issue(WEB, "A stranger's", author="eve")
    github.state.issue(WEB, "Ours", author="ada")
    assert [t.title for t in (await board(github).scan()).tickets] == ["Ours"]
    assert [t.title for t in (await board(github, authors=["EVE"]).scan()).tickets] == ["A stranger's"]
    assert len((await board(github, authors=["*"]).scan()).tickets) == 2


async def test_what_an_issue_says_becomes_a_ticket(github: GitHub) -> None:
    github.state.issue(WEB, " Fix   it ", "It fails.", labels=("P1", "Requires:macOS", "bug"))
    (ticket,) = (await board(github).scan()).tickets
    assert (ticket.id, ticket.key, ticket.title, ticket.project) == (f"{WEB}#1", "web#1", "Fix it", WEB)
    assert (ticket.priority, ticket.labels, ticket.requires) == (2, ("Requires:macOS", "bug"), ("macOS",))
    assert (ticket.author, ticket.closes, ticket.state) == ("ada", f"Closes {WEB}#1", TicketState.OPEN)
    assert ticket.url == f"{github.url}/{WEB}/issues/1"


async def test_pull_requests_are_no_tickets(github: GitHub) -> None:
    github.state.places[WEB].bare.commit("a", "change", {"a": "1"})
    one = board(github)
    await one.service.write("POST", f"/repos/{WEB}/pulls", {"title": "t", "head": "a", "base": "main", "body": ""})
    assert (await one.scan()).tickets == ()
    assert await one.fetch([f"{WEB}#1"]) == []


async def test_a_repository_that_is_not_there_stops_no_other(github: GitHub) -> None:
    github.state.issue(WEB, "One")
    scan = await board(github, repos=[WEB, "acme/gone"]).scan()
    assert ([t.title for t in scan.tickets], [p.where for p in scan.problems]) == (["One"], ["acme/gone"])
    with pytest.raises(BoardError, match="404"):
        await board(github, repos=["acme/gone"]).scan()


async def test_a_label_of_ours_shows_the_state_and_no_other_label_is_touched(github: GitHub) -> None:
    issue = github.state.issue(WEB, "One", labels=("bug",))
    one = board(github, write_states={"working": "in progress"})
    for state, label in ((TicketState.WORKING, "in progress"), (TicketState.REVIEW, "nightcrew: review")):
        await one.move(f"{WEB}#1", state, "note")
        assert issue.labels == ["bug", label]
    await one.move(f"{WEB}#1", TicketState.DONE, "note", "https://x.example/1")
    assert (issue.labels, issue.state, issue.reason) == (["bug"], "closed", "completed")
    (said,) = issue.comments
    assert "https://x.example/1" in said.body


async def test_what_it_may_not_do_is_told(github: GitHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_eve")
    about = await board(github).about()
    assert about["login"] == "eve"
    monkeypatch.setenv("GITHUB_TOKEN", "wrong")
    with pytest.raises(BoardError, match="401"):
        await board(github).scan()


@pytest.mark.parametrize(("settings", "message"), [
    ({"repos": ["web"]}, "'web' is no repository"), ({"write_states": {"done": "x"}}, "write_states.done"),
    ({"labls": []}, "labls: unknown key"),
])  # fmt: skip
def test_settings_that_cannot_be_used_are_named(github: GitHub, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        board(github, **settings)


@pytest.mark.parametrize("query", [project.OF_ORGANIZATION, project.OF_USER, project.MOVE, project.ADD])
def test_every_request_fits_the_official_schema(query: str) -> None:
    schemas = Path(github_api.__file__).parents[1] / "testing/company/schemas"
    schema = build_schema((schemas / "github.graphql").read_text(), assume_valid=True)
    assert validate(schema, parse(query)) == []


# -- projects ----------------------------------------------------------------------------------------------------------
async def test_in_a_project_its_status_says_what_is_taken_and_how_far_it_is(github: GitHub) -> None:
    cards = github.state.board("acme", 7, ("Backlog", "Todo", "In Progress", "In Review", "Done"))
    for n, status in enumerate(("Todo", "Backlog", "In Progress", "", "Done"), 1):
        github.state.issue(WEB, f"Ticket {n}", author="eve")
        github.state.card(cards, WEB, n, status)
    github.state.issue(WEB, "Not in it")
    one = board(github, project="acme/7")
    states = {t.title: t.state for t in (await one.scan()).tickets}
    assert states == {"Ticket 1": TicketState.OPEN, "Ticket 2": TicketState.OTHER, "Ticket 3": TicketState.WORKING,
                      "Ticket 4": TicketState.OTHER}  # fmt: skip
    (left,) = [t.left for t in await one.fetch([f"{WEB}#6"])]
    assert left == "it is not in the project acme/7"


async def test_a_move_moves_the_card_and_what_has_no_status_is_a_label(github: GitHub) -> None:
    cards = github.state.board("acme", 7)
    issue = github.state.issue(WEB, "One")
    item = github.state.card(cards, WEB, 1, "Todo")
    for state, status, labels in (
        (TicketState.WORKING, "In Progress", []), (TicketState.REVIEW, "In Progress", ["nightcrew: review"]),
        (TicketState.BLOCKED, "In Progress", ["nightcrew: blocked"]), (TicketState.DONE, "Done", []),
    ):  # fmt: skip
        await board(github, project="acme/7").move(f"{WEB}#1", state, "note")
        assert (cards.cards[item][2], issue.labels) == (status, labels)
        assert [t.state for t in await board(github, project="acme/7").fetch([f"{WEB}#1"])] == [state]
    assert issue.state == "closed"


async def test_a_new_ticket_is_put_into_the_project(github: GitHub) -> None:
    cards = github.state.board("acme", 7)
    one = board(github, project="acme/7")
    ticket = await one.add("New")
    assert ticket.state is TicketState.OPEN
    assert list(cards.cards.values()) == [[WEB, 1, "Todo", False]]
    assert [t.id for t in (await board(github, project="acme/7").scan()).tickets] == [ticket.id]


async def test_a_persons_project_is_found_and_one_that_is_not_there_is_named(github: GitHub) -> None:
    github.state.board("ada", 3)
    one = board(github, project="ada/3")
    assert (await one.scan()).tickets == ()
    github.log.clear()
    assert (await one.scan()).tickets == ()
    assert github.counts()["POST /graphql"] == 1
    with pytest.raises(BoardError, match="no project acme/9"):
        await board(github, project="acme/9").scan()
    with pytest.raises(ConfigError, match="'acme' is no project"):
        board(github, project="acme")


async def test_a_project_of_more_than_a_hundred_is_read_whole(github: GitHub) -> None:
    cards = github.state.board("acme", 7)
    for n in range(1, 131):
        github.state.issue(WEB, f"Ticket {n}")
        github.state.card(cards, WEB, n, "Todo")
    assert len((await board(github, project="acme/7").scan()).tickets) == 130
