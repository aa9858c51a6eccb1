"""What Linear's board costs, reads and shows, beyond what every board promises."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from graphql import build_schema, parse, validate

from nightcrew import transport
from nightcrew.adapters.boards.linear import LinearBoard, queries
from nightcrew.adapters.boards.linear import parse as reading
from nightcrew.adapters.boards.linear.memory import WHOLE_EVERY
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError, ConfigError
from nightcrew.testing.company import linear as company
from nightcrew.testing.company.linear import Linear
from nightcrew.transport import Answer

NOW = 1_764_000_000.0


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> Iterator[Linear]:
    monkeypatch.setenv("LINEAR_API_KEY", "lin_api_nightcrew")
    with Linear() as running:
        yield running
    assert running.violations == []


@pytest.fixture(autouse=True)
async def closed() -> AsyncIterator[None]:
    yield
    await transport.close()


def board(linear: Linear, **settings: object) -> LinearBoard:
    return LinearBoard("b", {"url": linear.address, "team": "ENG", **settings}, Path("/"))


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
    linear.state.issue("Other author", project="Site")
    one = board(linear, project="Site", authors=["bob"], assignee="bob@acme.example")
    assert [t.title for t in (await one.scan()).tickets] == ["Ours"]
    left = {t.title: t.left for t in await one.fetch(["ENG-1", "ENG-2", "ENG-3"])}
    assert left["Ours"] == ""
    assert "project" in left["Other project"]
    assert "author" in left["Other author"]


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


async def test_an_app_is_the_delegate_and_tells_a_session(linear: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAR_API_KEY", "lin_oauth_app")
    linear.state.issue("One")
    one = board(linear)
    (ticket,) = (await one.scan()).tickets
    await one.move(ticket.id, TicketState.WORKING, "on it")
    await one.move(ticket.id, TicketState.BLOCKED, "no key")
    assert linear.state.named("ENG-1")["delegate"]["name"] == "app"
    assert len(linear.state.sessions) == 1
    assert [a["content"]["type"] for a in linear.state.activities.values()] == ["thought", "error"]


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


async def test_used_up_points_are_waited_for_and_nothing_is_asked_meanwhile(linear: Linear) -> None:
    linear.left["complexity"] = 100
    one = board(linear)
    one.service.patience = 0
    for _ in range(2):
        with pytest.raises(BoardError, match="Linear asks us to wait"):
            await one.scan()
    assert len(linear.log) == 2  # who we are, and the team


@pytest.mark.parametrize(("status", "headers", "code", "wait"), [
    (200, {}, "", None), (400, {}, "INPUT_ERROR", None), (429, {}, "", 60),
    (400, {"retry-after": "7"}, "RATELIMITED", 7),
    (400, {"x-ratelimit-complexity-remaining": "0", "x-ratelimit-complexity-reset": f"{(NOW + 90) * 1000:.0f}"},
     "RATELIMITED", 90),
])  # fmt: skip
def test_a_limit_is_read_from_what_linear_says(
    status: int, headers: dict[str, str], code: str, wait: float | None
) -> None:
    data = {"errors": [{"message": "m", "extensions": {"code": code}}]}
    limit = reading.limits(Answer(status, headers, data), NOW)
    assert (limit and limit.wait) == wait


def test_a_delivery_is_believed_when_it_is_signed_and_young() -> None:
    raw = json.dumps({"webhookTimestamp": NOW * 1000}).encode()
    signed = {"linear-signature": hmac.new(b"s", raw, hashlib.sha256).hexdigest(), "linear-delivery": "d1"}
    assert reading.verify_webhook(raw, signed, "s", NOW + 59) == "d1"
    assert reading.verify_webhook(raw, signed, "s", NOW + 61) is None
    assert reading.verify_webhook(raw, signed, "other", NOW) is None
    assert reading.verify_webhook(raw + b" ", signed, "s", NOW) is None
    assert reading.verify_webhook(raw, {}, "s", NOW) is None


async def test_what_the_stand_in_sends_is_believed(linear: Linear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "s")
    assert board(linear).delivery(b"{}", {}, NOW) is None
    raw = json.dumps({"webhookTimestamp": NOW * 1000}).encode()
    signed = {"Linear-Signature": hmac.new(b"s", raw, hashlib.sha256).hexdigest(), "Linear-Delivery": "d1"}
    assert board(linear, webhook_secret="$HOOK").delivery(raw, signed, NOW) == "d1"


def test_settings_that_cannot_be_used_are_named(linear: Linear) -> None:
    with pytest.raises(ConfigError, match=r"\[board\] team"):
        LinearBoard("b", {}, Path("/"))
