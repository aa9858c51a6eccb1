"""What Jira's board makes of odd workflows, odd settings and odd servers. Cloud unless Data Center is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nightcrew.adapters.boards.jira import JiraBoard
from nightcrew.adapters.boards.jira.memory import WHOLE_EVERY
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError
from nightcrew.testing.company import jira_rest
from nightcrew.testing.company.jira import Jira
from nightcrew.testing.company.jira_state import SIMPLE, Workflow
from nightcrew.testing.company.jira_views import as_document, as_text
from tests.services.made import jira_board as board

pytestmark = pytest.mark.slow

SEARCH = {"cloud": "POST /rest/api/3/search/jql", "data-center": "POST /rest/api/2/search"}
BOTH = pytest.mark.parametrize("api", ["cloud", "data-center"])
WAYS = (("To Do", "In Progress"), ("In Progress", "In Review"), ("In Review", "Done"))
STRICT = Workflow((*SIMPLE, ("In Review", "indeterminate")), WAYS, first=500)
LINK = "https://forge.example/acme/web/pull/7"


def notes(jira: Jira, key: str = "ENG-1") -> list[str]:
    return [as_text(c.body) if isinstance(c.body, dict) else c.body for c in jira.state.find(key).comments]


async def keys(one: JiraBoard) -> set[str]:
    return {ticket.key for ticket in (await one.scan()).tickets}


@BOTH
async def test_what_is_worked_is_seen_to_go_to_another_project_or_for_good_at_once(jira: Jira, api: str) -> None:
    jira.state.project("OPS", Workflow(SIMPLE, first=900))
    for n in range(4):
        jira.state.issue("ENG", f"Ticket {n}", status="In Progress")
    one = board(jira, api=api)
    await one.scan()
    jira.state.transfer("ENG-1", "OPS")
    assert await keys(one) == {"ENG-2", "ENG-3", "ENG-4"}
    jira.state.delete("ENG-2")
    assert await keys(one) == {"ENG-3", "ENG-4"}
    jira.state.delete("ENG-3")
    jira.state.transfer("ENG-4", "OPS")
    assert await keys(one) == set()
    jira.log.clear()
    assert await keys(one) == set()
    assert jira.counts() == {SEARCH[api]: 1}


@BOTH
async def test_a_project_that_is_not_there_is_told_and_the_others_go_on(jira: Jira, api: str) -> None:
    jira.state.issue("ENG", "One")
    one = board(jira, api=api, projects=["ENG", "NOPE"], jql="summary ~ One")
    assert [t.key for t in await one.considered()] == ["ENG-1"]
    scan = await one.scan()
    assert [t.key for t in scan.tickets] == ["ENG-1"]
    assert [problem.message for problem in scan.problems] == ["Jira shows us no project NOPE."]
    jira.log.clear()
    assert (await one.scan()).problems == scan.problems
    assert jira.counts() == {SEARCH[api]: 1}
    jira.state.project("NOPE")
    jira.state.issue("NOPE", "One")
    for _ in range(WHOLE_EVERY):
        scan = await one.scan()
    assert ({t.key for t in scan.tickets}, scan.problems) == ({"ENG-1", "NOPE-1"}, ())


@BOTH
async def test_a_note_of_any_length_and_any_signs_is_cut_to_what_jira_takes(jira: Jira, api: str) -> None:
    jira.state.issue("ENG", "One")
    for note in ("{" * 40_000, "`a` " * 10_000, "日本" * 20_000):
        await board(jira, api=api).move("ENG-1", TicketState.BLOCKED, note)
    (said,) = jira.state.find("ENG-1").comments
    assert "日本" * 4000 in str(said.body)


async def test_our_comment_is_found_where_a_server_gives_fewer_than_it_is_asked_for(
    jira: Jira, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jira_rest, "MOST", 20)
    jira.state.issue("ENG", "One")
    for _ in range(45):
        jira.state.say("ENG-1", "ada", as_document("no"))
    for state in (TicketState.WORKING, TicketState.BLOCKED):
        await board(jira).move("ENG-1", state)
    assert [note for note in notes(jira) if "nightcrew" in note] == notes(jira)[-1:]


@pytest.mark.parametrize("why", ["the workflow has no such way", "its screen asks for what only people know"])
async def test_what_cannot_be_moved_is_linked_and_told_all_the_same(jira: Jira, why: str) -> None:
    flow = jira.state.project("WEB", STRICT if "no such way" in why else Workflow(SIMPLE)).workflow
    flow.transitions = [replace(way, needs="Root cause") for way in flow.transitions]
    issue = jira.state.issue("WEB", "One", status="In Progress")
    one = board(jira, projects=["WEB"])
    for _ in range(2):
        with pytest.raises(BoardError, match=r"offers 'In Review'|Root cause is required"):
            await one.move("WEB-1", TicketState.DONE, "Merged.", LINK)
    assert [link["object"]["url"] for link in issue.links.values()] == [LINK]
    assert ["is done" in note and "Merged." in note for note in notes(jira, "WEB-1")] == [True]


async def test_of_two_ways_the_one_that_asks_for_nothing_is_taken(jira: Jira) -> None:
    flow = jira.state.project("WEB", Workflow(SIMPLE)).workflow
    asking = [replace(way, id=f"9{way.id}", needs="Root cause") for way in flow.transitions]
    flow.transitions = [*asking, *flow.transitions]
    issue = jira.state.issue("WEB", "One")
    for state in (TicketState.WORKING, TicketState.DONE):
        await board(jira, projects=["WEB"], write_states={"done": "Done"}).move("WEB-1", state)
    assert issue.status.name == "Done"


@BOTH
async def test_people_are_known_by_their_address_although_they_hide_it(jira: Jira, api: str) -> None:
    for n, who in enumerate(("ada", "bob")):
        key = jira.state.issue("ENG", f"Ticket {n}", by=who, status="In Progress").key
        jira.state.assign(key, who)
        jira.state.say(key, "ada", as_document("stop") if api == "cloud" else "stop")
        jira.state.say(key, "bob", as_document("stop") if api == "cloud" else "stop")
    mail = "ADA@acme.example"
    assert await keys(board(jira, api=api, assignee=mail, reporters=[mail])) == {"ENG-1"}
    one = board(jira, api=api, people=[mail])
    assert ["Ada" in ticket.stop for ticket in (await one.scan()).tickets] == [True, True]


async def test_an_address_that_nobody_has_is_told(jira: Jira) -> None:
    one = board(jira, reporters=["nobody@acme.example"])
    assert (await one.about())["missing"] == [
        "Jira finds nobody by the address nobody@acme.example: name the account id."
    ]
    jira.state.issue("ENG", "One")
    assert await keys(one) == set()


@BOTH
async def test_an_issue_that_was_deleted_before_it_was_claimed_is_known_to_be_gone(jira: Jira, api: str) -> None:
    jira.state.issue("ENG", "One")
    one = board(jira, api=api)
    (ticket,) = (await one.scan()).tickets
    jira.state.delete("ENG-1")
    with pytest.raises(BoardError, match="is not on the board"):
        await one.move(ticket.id, TicketState.WORKING)
    assert await keys(one) == set()
