"""What Jira's board costs, reads and shows, beyond what every board promises. Cloud unless Data Center is named."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nightcrew.adapters.boards.jira import JiraBoard
from nightcrew.adapters.boards.jira.memory import WHOLE_EVERY
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError
from nightcrew.testing.company.jira import Jira
from nightcrew.testing.company.jira_state import Workflow
from nightcrew.testing.company.jira_views import as_text
from nightcrew.testing.company.standin import LOST
from tests.services.made import jira_board as board

pytestmark = pytest.mark.slow

SEARCH = {"cloud": "POST /rest/api/3/search/jql", "data-center": "POST /rest/api/2/search"}
BULK = "POST /rest/api/3/issue/bulkfetch"
ISSUE = "/rest/api/3/issue/{issueIdOrKey}"
BOTH = pytest.mark.parametrize("api", ["cloud", "data-center"])
STRICT = Workflow(
    (("To Do", "new"), ("In Progress", "indeterminate"), ("In Review", "indeterminate"), ("Done", "done"),
     ("Won't Do", "done")),
    (("To Do", "In Progress"), ("In Progress", "In Review"), ("In Review", "In Progress"), ("In Review", "Done"),
     ("In Progress", "Won't Do"), ("Done", "To Do")), first=500,
)  # fmt: skip
LINK = "https://forge.example/acme/web/pull/7"


def an_hour_ago(jira: Jira) -> None:
    """What is made from now on was made an hour ago."""
    jira.state.clock = lambda: datetime.now(UTC) - timedelta(hours=1)


def as_of_now(jira: Jira) -> None:
    jira.state.clock = lambda: datetime.now(UTC)


def notes(jira: Jira, key: str = "ENG-1") -> list[str]:
    return [as_text(c.body) if isinstance(c.body, dict) else c.body for c in jira.state.find(key).comments]


async def states(one: JiraBoard) -> dict[str, TicketState]:
    return {ticket.key: ticket.state for ticket in (await one.scan()).tickets}


# -- what it costs -----------------------------------------------------------------------------------------------------
@BOTH
async def test_an_unchanged_board_of_500_costs_one_request_answered_with_an_empty_list(jira: Jira, api: str) -> None:
    an_hour_ago(jira)
    for n in range(500):
        jira.state.issue("ENG", f"Ticket {n}", "text\n\n" * 20, labels=("nightcrew",))
    as_of_now(jira)
    one = board(jira, labels=["nightcrew"], api=api)
    assert len((await one.scan()).tickets) == 500
    whole = jira.counts()
    assert (whole[SEARCH[api]], sum(whole.values())) == (5, 6)  # and one for who we are
    for _ in range(WHOLE_EVERY - 1):
        jira.log.clear()
        assert len((await one.scan()).tickets) == 500
        assert jira.counts() == {SEARCH[api]: 1}
    jira.log.clear()
    assert len((await one.scan()).tickets) == 500
    assert jira.counts() == {SEARCH[api]: 5}


async def test_what_changed_is_read_by_id_once(jira: Jira) -> None:
    an_hour_ago(jira)
    for n in range(3):
        jira.state.issue("ENG", f"Ticket {n}")
    as_of_now(jira)
    one = board(jira)
    await one.scan()
    jira.log.clear()
    jira.state.put("ENG-2", "Done")
    assert set(await states(one)) == {"ENG-1", "ENG-3"}
    assert set(await states(one)) == {"ENG-1", "ENG-3"}
    assert jira.counts() == {SEARCH["cloud"]: 2, BULK: 1}
    jira.state.put("ENG-2", "To Do")
    jira.state.issue("ENG", "New")
    assert set(await states(one)) == {"ENG-1", "ENG-2", "ENG-3", "ENG-4"}


async def test_what_left_by_moving_or_deleting_is_healed_by_the_next_whole_look(jira: Jira) -> None:
    jira.state.project("OPS")
    for n in range(3):
        jira.state.issue("ENG", f"Ticket {n}")
    one = board(jira)
    await one.scan()
    jira.state.delete("ENG-1")
    jira.state.transfer("ENG-2", "OPS")
    for _ in range(WHOLE_EVERY):
        seen = set(await states(one))
    assert seen == {"ENG-3"}
    (moved,) = await one.fetch(["ENG-1", "OPS-1"])
    assert moved.left == "it moved to the project OPS"


async def test_a_move_costs_six_requests_the_next_five_and_the_same_again_one(jira: Jira) -> None:
    jira.state.issue("ENG", "One")
    one = board(jira)
    await one.move("ENG-1", TicketState.WORKING, "first")
    jira.log.clear()
    await one.move("ENG-1", TicketState.REVIEW, "second", LINK)
    assert jira.counts() == {BULK: 1, f"GET {ISSUE}/transitions": 1, f"PUT {ISSUE}": 1, f"POST {ISSUE}/remotelink": 1,
                             f"PUT {ISSUE}/comment/{{id}}": 1}  # fmt: skip
    await one.move("ENG-1", TicketState.WORKING, "third")
    jira.log.clear()
    await one.move("ENG-1", TicketState.WORKING, "third")
    assert jira.counts() == {BULK: 1}


@BOTH
async def test_another_process_that_says_the_same_writes_nothing_but_the_link_anew(jira: Jira, api: str) -> None:
    jira.state.issue("ENG", "One")
    note = "**All** pass, see [it](https://x.example/1)."
    await board(jira, api=api).move("ENG-1", TicketState.REVIEW, note, LINK)
    was = jira.state.find("ENG-1").updated
    jira.log.clear()
    await board(jira, api=api).move("ENG-1", TicketState.REVIEW, note, LINK)
    wrote = [e.what for e in jira.log if e.what.startswith("P") and "search" not in e.what and "bulk" not in e.what]
    assert [what.rpartition("/")[2] for what in wrote] == ["remotelink"]
    assert jira.state.find("ENG-1").updated == was


# -- an index that lags ------------------------------------------------------------------------------------------------
@BOTH
async def test_what_we_wrote_is_seen_at_once_however_search_lags(jira: Jira, api: str) -> None:
    for title in ("One", "Over"):
        jira.state.issue("ENG", title)
    one = board(jira, api=api)
    await one.scan()
    jira.state.lag = 100
    await one.move("ENG-1", TicketState.WORKING, "note")
    await one.move("ENG-2", TicketState.DONE, "note")
    assert await states(one) == {"ENG-1": TicketState.WORKING}
    made = await one.add("Two")
    assert await states(one) == {"ENG-1": TicketState.WORKING, made.key: TicketState.OPEN}
    await one.move(made.key, TicketState.DONE)
    for _ in range(WHOLE_EVERY):
        assert await states(one) == {"ENG-1": TicketState.WORKING}
    assert jira.state.late


async def test_what_people_do_is_seen_when_search_shows_it(jira: Jira) -> None:
    jira.state.issue("ENG", "One", labels=("nightcrew",))
    one = board(jira, labels=["nightcrew"])
    await one.scan()
    jira.state.lag = 2
    jira.state.relabel("ENG-1", remove=["nightcrew"])
    assert [len(await states(one)) for _ in range(3)] == [1, 1, 0]


async def test_what_was_read_by_its_id_is_not_undone_by_a_search_that_lags(jira: Jira) -> None:
    jira.state.issue("ENG", "One")
    one = board(jira)
    await one.scan()
    jira.state.lag = 100
    jira.state.put("ENG-1", "In Progress")
    assert [t.state for t in await one.fetch(["ENG-1"])] == [TicketState.WORKING]
    for _ in range(WHOLE_EVERY):
        assert await states(one) == {"ENG-1": TicketState.WORKING}


async def test_a_change_that_search_shows_minutes_after_it_was_made_is_seen(jira: Jira) -> None:
    times = [datetime.now(UTC).replace(second=30)]

    def now() -> datetime:
        return times[-1]

    jira.state.clock = now
    jira.state.issue("ENG", "One")
    one = board(jira)
    one.issues.now = lambda: now().timestamp()
    await one.scan()
    times.append(times[-1] + timedelta(seconds=10))
    jira.state.lag = 1
    jira.state.put("ENG-1", "In Progress")
    assert await states(one) == {"ENG-1": TicketState.OPEN}
    times.append(times[-1] + timedelta(minutes=4))
    assert await states(one) == {"ENG-1": TicketState.WORKING}


async def test_cloud_is_told_which_issues_we_wrote(jira: Jira) -> None:
    jira.state.lag = 100
    one = board(jira, jql='priority = "Medium"')
    made = await one.add("Found by a query although search does not know it yet")
    assert await states(one) == {made.key: TicketState.OPEN}
    assert [t.left for t in await one.fetch([made.id])] == [""]


# -- states and workflows ----------------------------------------------------------------------------------------------
async def test_the_workflows_own_statuses_show_the_state_and_labels_the_rest(jira: Jira) -> None:
    jira.state.project("WEB", STRICT)
    issue = jira.state.issue("WEB", "One", labels=("bug",))
    one = board(jira, projects=["WEB"])
    for state, status, labels in (
        (TicketState.WORKING, "In Progress", {"bug"}),
        (TicketState.BLOCKED, "In Progress", {"bug", "nightcrew-blocked"}),
        (TicketState.WORKING, "In Progress", {"bug"}), (TicketState.REVIEW, "In Review", {"bug"}),
        (TicketState.FAILED, "In Review", {"bug", "nightcrew-failed"}), (TicketState.DONE, "Done", {"bug"}),
        (TicketState.OPEN, "To Do", {"bug"}), (TicketState.FAILED, "In Progress", {"bug", "nightcrew-failed"}),
        (TicketState.CLOSED, "Won't Do", {"bug"}),
    ):  # fmt: skip
        await one.move("WEB-1", state, "note")
        assert (issue.status.name, set(issue.labels)) == (status, labels)
        assert [t.state for t in await board(jira, projects=["WEB"]).fetch(["WEB-1"])] == [state]


async def test_a_move_that_the_workflow_does_not_offer_names_those_that_it_does(jira: Jira) -> None:
    jira.state.project("WEB", STRICT)
    issue = jira.state.issue("WEB", "One", status="In Progress")
    one = board(jira, projects=["WEB"], write_states={"blocked": "Waiting"})
    with pytest.raises(BoardError, match=r"WEB-1 .* from 'In Progress' to what shows done: .* offers 'In Review', "):
        await one.move("WEB-1", TicketState.DONE)
    with pytest.raises(BoardError, match=r"to 'Waiting', as \[board\] write_states.blocked says"):
        await one.move("WEB-1", TicketState.BLOCKED)
    assert (issue.status.name, issue.labels) == ("In Progress", [])


async def test_whoever_drags_a_blocked_card_back_to_to_do_opens_it_again(jira: Jira) -> None:
    jira.state.issue("ENG", "One")
    one = board(jira)
    await one.move("ENG-1", TicketState.BLOCKED, "needs a key")
    assert await states(one) == {"ENG-1": TicketState.BLOCKED}
    jira.state.put("ENG-1", "To Do")
    assert await states(one) == {"ENG-1": TicketState.OPEN}
    await one.move("ENG-1", TicketState.WORKING)
    assert jira.state.find("ENG-1").labels == []


async def test_states_can_be_written_under_own_names(jira: Jira) -> None:
    flow = (("Ready", "new"), ("Coding", "indeterminate"), ("Testing", "indeterminate"), ("Stuck", "new"),
            ("Shipped", "done"))  # fmt: skip
    jira.state.project("WEB", Workflow(flow, first=700))
    issue = jira.state.issue("WEB", "One")
    told = {"projects": ["WEB"], "write_states": {"review": "testing", "blocked": "Stuck"},
            "write_labels": {"working": "crew"}}  # fmt: skip
    one = board(jira, **told)
    for state, status, labels in ((TicketState.WORKING, "Coding", ["crew"]), (TicketState.REVIEW, "Testing", []),
                                  (TicketState.BLOCKED, "Stuck", []), (TicketState.DONE, "Shipped", [])):  # fmt: skip
        await one.move("WEB-1", state)
        assert (issue.status.name, issue.labels) == (status, labels)
        assert [t.state for t in await board(jira, **told).fetch(["WEB-1"])] == [state]


@pytest.mark.parametrize(("settings", "given"), [
    ({}, "Won't Do"), ({"resolutions": {"closed": "duplicate"}}, "Duplicate"),
])  # fmt: skip
async def test_a_resolution_is_given_where_the_workflow_asks_for_one(
    jira: Jira, settings: dict[str, object], given: str
) -> None:
    jira.state.project("WEB", Workflow((("To Do", "new"), ("Doing", "indeterminate"), ("Done", "done")), asks=True))
    first, second = jira.state.issue("WEB", "One"), jira.state.issue("WEB", "Two")
    one = board(jira, projects=["WEB"], **settings)
    await one.move("WEB-1", TicketState.DONE)
    await one.move("WEB-2", TicketState.CLOSED)
    assert (first.resolution, second.resolution) == ("Done", given)
    assert [t.state for t in await one.fetch(["WEB-1", "WEB-2"])] == [TicketState.DONE, TicketState.CLOSED]


async def test_an_issue_that_nobody_has_is_assigned_to_us_where_that_is_wished(jira: Jira) -> None:
    for assignee in ("", "bob"):
        jira.state.issue("ENG", "One", assignee=assignee)
    for key in ("ENG-1", "ENG-2"):
        await board(jira, assign=True).move(key, TicketState.WORKING)
    assert [i.assignee for i in jira.state.issues.values()] == ["nightcrew", "bob"]
    await board(jira).move("ENG-2", TicketState.REVIEW)


# -- writes whose answer is lost ---------------------------------------------------------------------------------------
@BOTH
@pytest.mark.parametrize("what", [
    "POST {}/issue", "POST {}/issue/{{issueIdOrKey}}/transitions", "POST {}/issue/{{issueIdOrKey}}/comment",
    "POST {}/issue/{{issueIdOrKey}}/remotelink", "PUT {}/issue/{{issueIdOrKey}}",
])  # fmt: skip
async def test_what_was_written_without_an_answer_is_found_again(jira: Jira, api: str, what: str) -> None:
    for n in range(3):
        jira.state.issue("ENG", f"Other {n}")
    jira.state.lag = 3
    jira.trouble.next(what.format("/rest/api/3" if api == "cloud" else "/rest/api/2"), LOST)
    one = board(jira, api=api)
    ticket = await one.add("One")
    await one.move(ticket.id, TicketState.REVIEW, "note", LINK)
    await one.move(ticket.id, TicketState.BLOCKED, "note", LINK)
    issues = [i for i in jira.state.issues.values() if i.summary == "One"]
    assert [(i.status.name, i.labels, len(i.comments), len(i.links)) for i in issues] == [
        ("In Progress", ["nightcrew-blocked"], 1, 1)
    ]
    assert any(e.trouble == LOST for e in jira.log)


async def test_a_comment_that_somebody_deleted_is_written_anew(jira: Jira) -> None:
    issue = jira.state.issue("ENG", "One")
    one = board(jira)
    await one.move("ENG-1", TicketState.WORKING, "first")
    issue.comments.clear()
    await one.move("ENG-1", TicketState.WORKING, "second")
    assert ["second" in note for note in notes(jira)] == [True]


async def test_nobody_elses_comment_is_taken_for_ours(jira: Jira) -> None:
    jira.state.issue("ENG", "One")
    jira.state.say("ENG-1", "eve", "**nightcrew**: mine", {"nightcrew": {"is": "progress"}})
    await board(jira).move("ENG-1", TicketState.WORKING, "note")
    assert [said.author for said in jira.state.find("ENG-1").comments] == ["eve", "nightcrew"]


async def test_where_an_issue_takes_no_more_comments_the_move_succeeds_without(
    jira: Jira, caplog: pytest.LogCaptureFixture
) -> None:
    issue = jira.state.issue("ENG", "One")
    jira.state.most_comments = 0
    with caplog.at_level(logging.WARNING):
        await board(jira).move("ENG-1", TicketState.REVIEW, "note", LINK)
    assert (issue.status.name, list(issue.links)) == ("In Progress", [f"nightcrew:{LINK}"])
    assert [record.message for record in caplog.records] == ["board.comments_full"]


async def test_the_pull_request_is_one_link_that_is_resolved_in_the_end(jira: Jira) -> None:
    issue = jira.state.issue("ENG", "One")
    one = board(jira)
    await one.move("ENG-1", TicketState.REVIEW, "note", LINK)
    assert [t.links for t in await one.fetch(["ENG-1"])] == [(LINK,)]
    await one.move("ENG-1", TicketState.DONE, "merged", LINK)
    assert [(shown["object"]["title"], shown["object"]["status"]) for shown in issue.links.values()] == [
        ("Pull request 7", {"resolved": True})
    ]


# -- which tickets -----------------------------------------------------------------------------------------------------
async def test_every_part_of_the_selection_takes_and_says_why_not(jira: Jira) -> None:
    flow = (("Backlog", "new"), ("Ready", "new"), ("In Progress", "indeterminate"), ("Done", "done"))
    jira.state.project("WEB", Workflow(flow, first=900))
    right: dict[str, Any] = {"labels": ("crew",), "status": "Ready", "assignee": "nightcrew", "by": "bob"}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"labels": ("other",)}, "it has not the label 'crew'"), ({"status": "Backlog"}, "its status is 'Backlog'"),
        ({"assignee": "ada"}, "it is not assigned to me"), ({"priority": "Low"}, "the query `jql` does not find it"),
        ({"by": "eve"}, "its reporter Eve is not one whose tickets are taken"),
    ]  # fmt: skip
    for more in ({}, *(more for more, _ in wrong)):
        jira.state.issue("WEB", "One", **(right | more))
    one = board(jira, projects=["WEB"], labels=["crew"], statuses=["ready"], assignee="me",
                jql='priority = High OR priority = "Medium"',
                reporters=[jira.state.people["bob"].account, "ADA@acme.example"])  # fmt: skip
    assert set(await states(one)) == {"WEB-1"}
    found = await one.fetch([f"WEB-{n}" for n in range(1, 7)])
    assert [t.left for t in found] == ["", *(why for _, why in wrong)]
    assert [t.left for t in await one.considered()] == [t.left for t in reversed(found)]
    for number in range(2, 7):  # what is set right is seen as well
        issue = jira.state.find(f"WEB-{number}")
        issue.labels, issue.assignee, issue.reporter, issue.priority = ["crew"], "nightcrew", "bob", "High"
        jira.state.put(issue.key, "Ready")
    assert len(await states(one)) == 6


async def test_what_we_work_stays_selected_whatever_the_query_and_the_statuses_say(jira: Jira) -> None:
    jira.state.issue("ENG", "One")
    one = board(jira, jql='status = "To Do"', statuses=["To Do"], write_states={"working": "In Progress"})
    await one.scan()
    await one.move("ENG-1", TicketState.WORKING, "note")
    for again in (one, board(jira, jql='status = "To Do"', statuses=["To Do"])):
        assert await states(again) == {"ENG-1": TicketState.WORKING}
        assert [t.left for t in await again.fetch(["ENG-1"])] == [""]


async def test_customers_give_no_work_unless_a_member_labels_it_or_they_are_let_in(jira: Jira) -> None:
    jira.state.issue("ENG", "One", by="carl", labels=("nightcrew",))
    assert await states(board(jira)) == {}
    assert set(await states(board(jira, labels=["nightcrew"]))) == {"ENG-1"}
    assert set(await states(board(jira, reporters=["*"]))) == {"ENG-1"}


@BOTH
async def test_an_idle_hour_of_30_scans_costs_at_most_31_requests(jira: Jira, api: str) -> None:
    an_hour_ago(jira)
    for n in range(50):
        jira.state.issue("ENG", f"Ticket {n}")
    one = board(jira, api=api)
    for _ in range(30):
        await one.scan()
    jira.log.clear()
    for _ in range(30):
        await one.scan()
    assert len(jira.log) <= 31
