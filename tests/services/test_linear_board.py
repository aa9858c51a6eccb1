"""What Linear's board costs, reads and shows, beyond what every board promises."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from graphql import build_schema, parse, validate

from nightcrew.adapters.boards.linear import queries
from nightcrew.adapters.boards.linear.memory import WHOLE_EVERY
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError
from nightcrew.testing.company import linear as company
from nightcrew.testing.company.linear import Linear
from nightcrew.testing.company.linear_quota import PERIOD
from tests.services.made import linear_board as board

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("query", queries.ALL, ids=lambda q: q.split("(")[0].split()[1])
def test_every_request_fits_the_official_schema(query: str) -> None:
    text = (Path(company.__file__).parent / "schemas" / "linear.graphql").read_text()
    assert validate(build_schema(text, assume_valid=True), parse(query)) == []


async def test_an_unchanged_board_of_500_costs_one_request_of_less_than_400_points(linear: Linear) -> None:
    for n in range(500):
        linear.state.issue(f"Ticket {n}", labels=("nightcrew",))
    for issue in linear.state.issues.values():
        issue["updatedAt"] = "2026-11-01T03:00:00.000Z"
    one = board(linear, labels=["nightcrew"])
    assert len((await one.scan()).tickets) == 500
    assert max(cost for _, cost in linear.costs) < company.MOST
    for _ in range(WHOLE_EVERY - 1):
        linear.costs.clear()
        assert len((await one.scan()).tickets) == 500
        ((_, cost),) = linear.costs
        assert cost <= 400


async def test_each_change_is_seen_with_two_requests(linear: Linear) -> None:
    issue = linear.state.issue("First", labels=("nightcrew",))
    one = board(linear, labels=["nightcrew"])
    await one.scan()
    linear.costs.clear()
    issue["title"] = "Second"
    linear.state.touch(issue)
    assert [t.title for t in (await one.scan()).tickets] == ["Second"]
    linear.state.move("ENG-1", "Canceled")
    assert (await one.scan()).tickets == ()
    assert len(linear.costs) == 4
    await one.scan()
    assert len(linear.costs) == 5


async def test_what_an_issue_says_becomes_a_ticket(linear: Linear) -> None:
    first = linear.state.issue("First")
    linear.state.issue(" Fix   it ", "It fails.", labels=("bug",), priority=2, project="Site", blocked_by=["ENG-1"])
    ticket = next(t for t in (await board(linear).scan()).tickets if t.key == "ENG-2")
    assert (ticket.title, ticket.body, ticket.priority, ticket.labels) == ("Fix it", "It fails.", 2, ("bug",))
    assert (ticket.project, ticket.blocked_by, ticket.closes) == ("Site", (first["id"],), "Fixes ENG-2")
    assert [t.key for t in await board(linear).fetch(["ENG-2", "ENG-99", ticket.id])] == ["ENG-2"]


async def test_a_blocker_that_is_done_blocks_no_more(linear: Linear) -> None:
    linear.state.issue("First")
    linear.state.issue("Second", blocked_by=["ENG-1"])
    one = board(linear)
    assert [t.blocked_by != () for t in (await one.scan()).tickets if t.key == "ENG-2"] == [True]
    linear.state.move("ENG-1", "Done")
    assert [t.blocked_by for t in (await one.scan()).tickets] == [()]


@pytest.mark.parametrize(("state", "expected"), [
    ("Triage", TicketState.OTHER), ("Backlog", TicketState.OTHER), ("Todo", TicketState.OPEN),
    ("In Progress", TicketState.WORKING), ("In Review", TicketState.REVIEW),
])  # fmt: skip
async def test_the_workflow_says_what_may_be_worked(linear: Linear, state: str, expected: TicketState) -> None:
    linear.state.issue("One", state=state)
    assert [t.state for t in (await board(linear).scan()).tickets] == [expected]


async def test_the_selection_is_linears_own_filter(linear: Linear) -> None:
    ours = linear.state.issue("Ours", project="Site", author="bob")
    ours["assignee"] = linear.state.users["bob"]
    linear.state.issue("Other project", author="bob")
    linear.state.issue("Other author", project="Site")["assignee"] = linear.state.users["bob"]
    one = board(linear, project="Site", authors=["bob"], assignee="bob@acme.example")
    assert [t.title for t in (await one.scan()).tickets] == ["Ours"]
    left = {t.title: t.left for t in await one.fetch(["ENG-1", "ENG-2", "ENG-3"])}
    assert left["Ours"] == ""
    assert "project" in left["Other project"]
    assert "author" in left["Other author"]


async def test_used_up_points_are_waited_for_and_nothing_is_asked_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAR_API_KEY", "lin_api_nightcrew")
    at = time.time()
    with Linear(complexity=1000, clock=lambda: at) as linear:
        one = board(linear)
        one.service.now = lambda: at
        for _ in range(2):
            with pytest.raises(BoardError, match="Linear asks us to wait"):
                await one.scan()
        assert len(linear.log) == 3  # who we are, the team, and the first page
        linear.buckets["complexity"].size = 100_000  # a better plan
        at += PERIOD
        assert (await one.scan()).tickets == ()
        assert linear.violations == []


# -- what is seen ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ahead", [-5400.0, 5400.0])
async def test_changes_are_asked_for_by_linears_own_clock(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    monkeypatch.setenv("LINEAR_API_KEY", "lin_api_nightcrew")
    at = time.time() + ahead
    with Linear(clock=lambda: at) as linear:
        for n in range(120):
            linear.state.issue(f"Ticket {n}")
        at += 600
        one = board(linear)
        await one.scan()
        linear.state.move("ENG-1", "In Progress")
        linear.costs.clear()
        assert {t.key: t.state for t in (await one.scan()).tickets}["ENG-1"] is TicketState.WORKING
        assert [what for what, _ in linear.costs] == ["Changes", "Issues"]


async def test_an_archived_issue_is_gone_and_says_so(linear: Linear) -> None:
    linear.state.issue("One")
    one = board(linear)
    await one.scan()
    linear.state.archive("ENG-1")
    for late in (one, board(linear)):
        assert (await late.scan()).tickets == ()
        assert [t.left for t in await late.fetch(["ENG-1"])] == ["it is archived"]


async def test_an_issue_that_goes_to_another_team_while_it_is_worked_is_seen_to_go(linear: Linear) -> None:
    linear.state.team("OPS", "Operations")
    linear.state.issue("One", state="In Progress")
    one = board(linear)
    (ticket,) = (await one.scan()).tickets
    linear.state.send("ENG-1", "OPS")
    assert (await one.scan()).tickets == ()
    assert [t.left for t in await one.fetch([ticket.id])] == ["it moved to the team OPS"]


async def test_an_issue_that_went_before_it_was_claimed_is_seen_to_go_when_it_is(linear: Linear) -> None:
    linear.state.team("OPS", "Operations")
    linear.state.issue("One")
    one = board(linear)
    (ticket,) = (await one.scan()).tickets
    linear.state.send("ENG-1", "OPS")
    await one.move(ticket.id, TicketState.WORKING, "on it")
    assert linear.state.named(ticket.id)["state"] == linear.state.state("OPS", "Todo")
    assert ((await one.scan()).tickets, len(linear.state.said(ticket.id))) == ((), 1)


async def test_a_blocker_of_another_team_is_seen_to_end_and_to_come_back(linear: Linear) -> None:
    linear.state.team("OPS", "Operations")
    first = linear.state.issue("First", team="OPS")
    linear.state.issue("Second", blocked_by=["OPS-1"])
    one = board(linear)
    assert [t.blocked_by for t in (await one.scan()).tickets] == [(first["id"],)]
    linear.state.move("OPS-1", "Done")
    assert [t.blocked_by for t in (await one.scan()).tickets] == [()]


async def test_a_blocker_that_was_deleted_blocks_nobody(linear: Linear) -> None:
    linear.state.issue("First")
    linear.state.issue("Second", blocked_by=["ENG-1"])
    one = board(linear)
    assert {t.title: len(t.blocked_by) for t in (await one.scan()).tickets} == {"First": 0, "Second": 1}
    linear.state.trash("ENG-1")
    for _ in range(WHOLE_EVERY + 1):
        assert {t.title: len(t.blocked_by) for t in (await one.scan()).tickets} == {"Second": 0}
    assert [t.blocked_by for t in await board(linear).fetch(["ENG-2"])] == [()]


async def test_an_application_is_assigned_an_issue_by_being_its_delegate(
    linear: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINEAR_API_KEY", "lin_oauth_app")
    linear.state.issue("Ours")["delegate"] = linear.state.users["app"]
    linear.state.issue("Not ours")["assignee"] = linear.state.users["ada"]
    one = board(linear, assignee="me")
    made = await one.add("Made by us")
    assert {t.title for t in (await one.scan()).tickets} == {"Ours", "Made by us"}
    assert (made.left, linear.state.named(made.id)["assignee"]) == ("", None)
    with linear.turn:
        linear.state.named("ENG-1")["delegate"] = None
        linear.state.touch(linear.state.named("ENG-1"))
    assert {t.title for t in (await one.scan()).tickets} == {"Made by us"}


async def test_a_project_is_named_by_what_its_address_ends_with_too(linear: Linear) -> None:
    linear.state.issue("Ours", project="New Site")
    linear.state.issue("Other", project="Site")
    slug = f"new-site-{linear.state.project('New Site')['slugId']}"
    for project in (slug, slug.upper(), slug[-12:], "new site"):
        one = board(linear, project=project)
        assert [t.title for t in (await one.scan()).tickets] == ["Ours"]
        assert {t.title: bool(t.left) for t in await one.fetch(["ENG-1", "ENG-2"])} == {"Ours": False, "Other": True}


async def test_a_blocker_that_is_opened_again_blocks_again(linear: Linear) -> None:
    linear.state.issue("First", state="Done")
    linear.state.issue("Second", blocked_by=["ENG-1"])
    one = board(linear)
    assert [t.blocked_by for t in (await one.scan()).tickets] == [()]
    linear.state.move("ENG-1", "Todo")
    assert [t.blocked_by != () for t in (await one.scan()).tickets if t.key == "ENG-2"] == [True]


async def test_the_25th_blocker_blocks_too(linear: Linear) -> None:
    keys = [linear.state.issue(f"First {n}", state="Done")["identifier"] for n in range(24)]
    last = linear.state.issue("Last")
    linear.state.issue("Blocked", blocked_by=[*keys, last["identifier"]])
    assert [t.blocked_by for t in (await board(linear).scan()).tickets if t.title == "Blocked"] == [(last["id"],)]
    assert max(cost for _, cost in linear.costs) < company.MOST


async def test_capitals_of_labels_and_names_make_no_difference(linear: Linear) -> None:
    linear.state.issue("One", labels=["nightcrew"], project="Site")
    linear.state.assign("ENG-1", "ada")
    one = board(linear, team="eng", labels=["NightCrew"], project="SITE", assignee="ADA", authors=["Ada@Acme.example"])
    for _ in range(2):
        assert [t.left for t in (await one.scan()).tickets] == [""]
        linear.state.touch(linear.state.named("ENG-1"))


@pytest.mark.parametrize(("assignee", "titles"), [
    ("me", {"ours"}), ("none", {"nobody's"}), ("ada", {"ada's"}), ("", {"ours", "nobody's", "ada's"}),
])  # fmt: skip
async def test_the_assignee_selects(linear: Linear, assignee: str, titles: set[str]) -> None:
    for title, who in (("ours", "nightcrew"), ("nobody's", ""), ("ada's", "ada")):
        linear.state.assign(linear.state.issue(title)["id"], who)
    one = board(linear, assignee=assignee)
    assert {t.title for t in (await one.scan()).tickets} == titles
    assert {t.title for t in await one.fetch(["ENG-1", "ENG-2", "ENG-3"]) if not t.left} == titles


async def test_what_is_left_out_is_shown_with_the_reason(linear: Linear) -> None:
    linear.state.issue("Taken", labels=["nightcrew"])
    linear.state.issue("No label")
    linear.state.issue("Of bob", labels=["nightcrew"], author="bob")
    linear.state.issue("Over", state="Done")
    found = await board(linear, labels=["nightcrew"], authors=["ada"]).considered()
    assert [(t.title, t.left) for t in found] == [
        ("Of bob", "its author bob is not one whose tickets are taken"),
        ("No label", "it has not the label 'nightcrew'"), ("Taken", ""),
    ]  # fmt: skip
    assert max(cost for _, cost in linear.costs) < company.MOST


# -- "stop" ------------------------------------------------------------------------------------------------------------
async def test_stop_is_heard_in_the_one_request_although_a_comment_changes_no_issue(linear: Linear) -> None:
    linear.state.stirs = False
    for n in range(500):
        linear.state.issue(f"Ticket {n}", state="In Progress")
    for issue in linear.state.issues.values():
        issue["updatedAt"] = "2026-11-01T03:00:00.000Z"
    one = board(linear)
    await one.scan()
    said = [linear.state.say("ENG-7", "ada", text) for text in ("please do not stop", "stop")]
    linear.costs.clear()
    heard = {t.key: t.stop for t in (await one.scan()).tickets if t.stop}
    assert heard == {"ENG-7": f"ada said stop at {said[1]['createdAt']} (comment {said[1]['id']})"}
    ((_, cost),) = linear.costs
    assert cost <= 400


async def test_the_newest_of_many_stops_is_heard(linear: Linear) -> None:
    linear.state.issue("One", state="In Progress")
    one = board(linear)
    await one.scan()
    for _ in range(40):
        last = linear.state.say("ENG-1", "ada", "Stop.")
    assert [last["id"] in t.stop for t in (await one.scan()).tickets] == [True]
    assert [last["id"] in t.stop for t in (await board(linear).scan()).tickets] == [True]


@pytest.mark.parametrize(("author", "people", "heard"), [
    ("ada", [], True), ("ada", ["ada@acme.example"], True), ("bob", ["ada@acme.example"], False),
    ("nightcrew", [], True), ("app", [], False), ("eve", [], False),
])  # fmt: skip
async def test_people_are_heard_programs_and_strangers_are_not(
    linear: Linear, author: str, people: list[str], heard: bool
) -> None:
    linear.state.issue("One", state="In Progress")
    linear.state.say("ENG-1", author, "@nightcrew stop")
    assert [t.stop != "" for t in (await board(linear, people=people).scan()).tickets] == [heard]


@pytest.mark.parametrize("text", [
    "@Acme Crew stop", "@crew stop!", "https://linear.app/acme/profiles/crew stop", "stop",
])  # fmt: skip
async def test_we_are_told_to_stop_by_whatever_name_we_have_there(
    linear: Linear, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("LINEAR_API_KEY", "lin_oauth_app")
    linear.state.users["app"] |= {"name": "Acme Crew", "displayName": "crew"}
    linear.state.issue("One", state="In Progress")
    linear.state.say("ENG-1", "ada", text)
    linear.state.say(linear.state.issue("Two", state="In Progress")["id"], "ada", "@bob stop")
    assert [t.title for t in (await board(linear).scan()).tickets if t.stop] == ["One"]


async def test_an_idle_hour_of_30_scans_costs_at_most_31_requests(linear: Linear) -> None:
    one = board(linear)
    for _ in range(WHOLE_EVERY):
        await one.scan()
    linear.log.clear()
    for _ in range(30):
        await one.scan()
    assert len(linear.log) <= 31
