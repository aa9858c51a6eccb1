"""What people see of nightcrew on a Linear board, and that it is there once whatever goes wrong."""

from __future__ import annotations

from uuid import uuid4

import pytest

from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError
from nightcrew.testing.company.linear import Linear
from nightcrew.testing.company.standin import CUT, LOST
from tests.services.made import linear_board as board

pytestmark = pytest.mark.slow


async def test_the_pull_request_is_attached_once_and_the_comment_is_one(linear: Linear) -> None:
    linear.state.issue("One")
    (ticket,) = (await board(linear).scan()).tickets
    for state in (TicketState.WORKING, TicketState.REVIEW, TicketState.DONE):
        for one in (board(linear), board(linear)):
            await one.move(ticket.id, state, "note", "https://forge.example/1")
    assert linear.state.links("ENG-1") == ["https://forge.example/1"]
    (said,) = linear.state.said("ENG-1")
    assert "is done" in said["body"]
    assert linear.state.named("ENG-1")["state"]["name"] == "Done"


async def test_a_state_that_the_team_has_no_word_for_is_named(linear: Linear) -> None:
    linear.state.issue("One")
    linear.state.teams["ENG"]["labels"] = []
    one = board(linear)
    (ticket,) = (await one.scan()).tickets
    with pytest.raises(BoardError, match="no label and no state 'nightcrew: blocked'"):
        await one.move(ticket.id, TicketState.BLOCKED)
    about = await board(linear).about()
    assert about["places"] == [("ENG", "Engineering")]
    assert "nightcrew: blocked" in str(about["missing"])
    with pytest.raises(BoardError, match="no team NOPE"):
        await board(linear, team="NOPE").scan()


async def test_a_claim_is_one_change_of_state_label_and_delegate(
    linear: Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINEAR_API_KEY", "lin_oauth_app")
    linear.state.label("agent at work")
    linear.state.issue("Has it", labels=["agent at work"], state="Done")
    linear.state.issue("One", labels=["nightcrew", "bug"])
    one = board(linear, labels=["nightcrew"], write_states={"working": "agent at work"})
    (ticket,) = (await one.scan()).tickets
    await one.move(ticket.id, TicketState.WORKING)
    issue = linear.state.named(ticket.id)
    assert (issue["state"]["name"], issue["delegate"]["name"]) == ("In Progress", "app")
    assert {label["name"] for label in issue["labels"]} == {"nightcrew", "bug", "agent at work"}
    assert [what for what, _ in linear.costs].count("Claim") == 1
    await one.move(ticket.id, TicketState.REVIEW)
    assert {label["name"] for label in issue["labels"]} == {"nightcrew", "bug"}


async def test_a_started_state_with_a_meaning_of_its_own_is_not_written_for_working(linear: Linear) -> None:
    states = linear.state.teams["ENG"]["states"]
    states.append({"id": str(uuid4()), "name": "Needs you", "type": "started", "position": -1.0})
    linear.state.issue("One")
    one = board(linear, write_states={"blocked": "Needs you"})
    (ticket,) = (await one.scan()).tickets
    shown = []
    for state in (TicketState.BLOCKED, TicketState.WORKING):
        await one.move(ticket.id, state)
        shown.append(linear.state.named(ticket.id)["state"]["name"])
    assert shown == ["Needs you", "In Progress"]


async def test_a_label_made_meanwhile_is_found(linear: Linear) -> None:
    labels, linear.state.teams["ENG"]["labels"] = linear.state.teams["ENG"]["labels"], []
    linear.state.issue("One")
    one = board(linear)
    (ticket,) = (await one.scan()).tickets
    linear.state.teams["ENG"]["labels"] = labels
    await one.move(ticket.id, TicketState.BLOCKED)
    assert [label["name"] for label in linear.state.named(ticket.id)["labels"]] == ["nightcrew: blocked"]


async def test_a_label_of_the_workspace_that_no_issue_has_yet_is_found(linear: Linear) -> None:
    linear.state.teams["ENG"]["labels"] = []
    linear.state.team("WEB", "Web")  # its label of that name is not ours to set
    linear.state.label("Nightcrew: blocked")
    linear.state.issue("One")
    one = board(linear)
    (ticket,) = (await one.scan()).tickets
    await one.move(ticket.id, TicketState.BLOCKED)
    assert linear.state.named(ticket.id)["labels"] == linear.state.labels


async def test_a_state_or_label_that_somebody_replaced_is_looked_for_anew(linear: Linear) -> None:
    linear.state.issue("One")
    one = board(linear)
    (ticket,) = (await one.scan()).tickets
    team = linear.state.teams["ENG"]
    team["states"] = [row if row["type"] != "started" else {**row, "id": str(uuid4())} for row in team["states"]]
    await one.move(ticket.id, TicketState.WORKING)
    assert linear.state.named(ticket.id)["state"] == linear.state.state("ENG", "In Progress")
    team["labels"] = [{**row, "id": str(uuid4())} for row in team["labels"]]
    await one.move(ticket.id, TicketState.BLOCKED)
    assert [row["name"] for row in linear.state.named(ticket.id)["labels"]] == ["nightcrew: blocked"]


async def test_nobody_is_mentioned_whatever_an_agent_writes(app: Linear) -> None:
    (ticket,) = (await board(app).scan()).tickets
    await board(app).move(ticket.id, TicketState.BLOCKED, "Ask https://linear.app/acme/profiles/ada.l about it.")
    said = [app.state.said("ENG-1")[0]["body"], *(one["content"]["body"] for one in app.state.activities.values())]
    assert [("/profiles/" in text, "Ask @ada.l about it." in text) for text in said] == [(False, True)] * 2


async def test_an_unchanged_note_writes_nothing(linear: Linear) -> None:
    linear.state.issue("One")
    one = board(linear)
    (ticket,) = (await one.scan()).tickets
    await one.move(ticket.id, TicketState.WORKING, "note")
    before = linear.state.named("ENG-1")["updatedAt"]
    await one.move(ticket.id, TicketState.WORKING, "note")
    await board(linear).move(ticket.id, TicketState.WORKING, "note")
    assert linear.state.named("ENG-1")["updatedAt"] == before


async def test_a_comment_that_somebody_deleted_is_made_again(linear: Linear) -> None:
    linear.state.issue("One")
    (ticket,) = (await board(linear).scan()).tickets
    await board(linear).move(ticket.id, TicketState.WORKING)
    linear.state.unsay(linear.state.said("ENG-1")[0]["id"])
    for state in (TicketState.REVIEW, TicketState.DONE):
        await board(linear).move(ticket.id, state)
    assert ["is done" in said["body"] for said in linear.state.said("ENG-1")] == [True]


async def test_another_account_makes_its_own_comment(linear: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    linear.state.issue("One")
    (ticket,) = (await board(linear).scan()).tickets
    await board(linear).move(ticket.id, TicketState.WORKING)
    monkeypatch.setenv("LINEAR_API_KEY", "lin_oauth_app")
    await board(linear).move(ticket.id, TicketState.DONE)
    assert [said["user"]["name"] for said in linear.state.said("ENG-1")] == ["nightcrew", "app"]


@pytest.mark.parametrize("what", ["Issues", "Claim", "AttachPr", "Comments", "CommentCreate"])
async def test_whichever_answer_of_a_move_is_lost_it_is_done_once(linear: Linear, what: str) -> None:
    linear.state.issue("One")
    one = board(linear)
    (ticket,) = (await one.scan()).tickets
    linear.trouble.next(what, LOST)
    for again in (one, one, board(linear)):
        await again.move(ticket.id, TicketState.REVIEW, "note", "https://forge.example/1")
    assert LOST in {exchange.trouble for exchange in linear.log}
    assert linear.counts()["POST /graphql CommentCreate"] == len(linear.state.said("ENG-1")) == 1
    assert linear.state.links("ENG-1") == ["https://forge.example/1"]


# -- an app ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def app(linear: Linear, monkeypatch: pytest.MonkeyPatch) -> Linear:
    monkeypatch.setenv("LINEAR_API_KEY", "lin_oauth_app")
    linear.state.issue("One")
    return linear


def kinds(linear: Linear) -> list[str]:
    return [one["content"]["type"] for one in linear.state.activities.values()]


async def test_an_app_is_the_delegate_and_tells_one_session_also_after_a_restart(app: Linear) -> None:
    (ticket,) = (await board(app).scan()).tickets
    for state, link in ((TicketState.WORKING, ""), (TicketState.REVIEW, "https://forge.example/1")):
        for _ in range(2):
            await board(app).move(ticket.id, state, "on it", link)
    await board(app).move(ticket.id, TicketState.BLOCKED, "no key", "https://forge.example/1")
    assert app.state.named("ENG-1")["delegate"]["name"] == "app"
    assert len(app.state.sessions) == len(app.state.said("ENG-1")) == 1
    assert kinds(app) == ["thought", "action", "response", "error"]


async def test_a_session_whose_answer_was_lost_is_not_begun_twice(app: Linear) -> None:
    one = board(app)
    (ticket,) = (await one.scan()).tickets
    app.trouble.next("AgentSessionOnIssue", LOST)
    await one.move(ticket.id, TicketState.WORKING, "on it")
    await one.move(ticket.id, TicketState.REVIEW, "look")
    assert len(app.state.sessions) == 1
    assert ["to be reviewed" in said["body"] for said in app.state.said("ENG-1")] == [True]


@pytest.mark.parametrize("how", ["we were killed before the comment", "a person delegated it to us"])
async def test_a_session_that_is_there_already_is_the_one(app: Linear, how: str) -> None:
    (ticket,) = (await board(app).scan()).tickets
    app.state.session(app.state.issue("Another")["id"])
    if "killed" in how:
        app.trouble.next("CommentCreate", CUT)
        with pytest.raises(BoardError):
            await board(app).move(ticket.id, TicketState.WORKING, "on it")
    else:
        app.state.session(ticket.id)
    await board(app).move(ticket.id, TicketState.REVIEW, "look")
    assert len([one for one in app.state.sessions.values() if one["issue"]["id"] == ticket.id]) == 1
    assert {one["session"] for one in app.state.activities.values()} == {
        one["id"] for one in app.state.sessions.values() if one["issue"]["id"] == ticket.id
    }


@pytest.mark.parametrize("off", [True, False])
async def test_without_sessions_the_comment_says_it_all(
    linear: Linear, monkeypatch: pytest.MonkeyPatch, off: bool
) -> None:
    if off:
        monkeypatch.setenv("LINEAR_API_KEY", "lin_oauth_app")
    linear.state.issue("One")
    one = board(linear, **({"agent_sessions": "off"} if off else {}))
    (ticket,) = (await one.scan()).tickets
    await one.move(ticket.id, TicketState.WORKING, "on it")
    assert not linear.state.sessions
    assert len(linear.state.said("ENG-1")) == 1
