"""How Linear's words are read: an issue, its limits, its deliveries; and the settings."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from nightcrew import transport
from nightcrew.adapters.boards.linear import LinearBoard
from nightcrew.adapters.boards.linear import parse as reading
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError, ConfigError, NightcrewError
from nightcrew.testing.company.linear import Linear
from nightcrew.testing.company.linear_quota import PERIOD, Bucket
from nightcrew.transport import Answer

NOW = 1_764_000_000.0
ISSUE: dict[str, Any] = {
    "id": "3f4e9c1a-07a5-4b6e-9c53-0d2a1b7c8e90", "identifier": "ENG-412", "number": 412,
    "title": "  Login page  fails on Safari ", "description": "It fails.\n\n- always\n", "priority": 2,
    "url": "https://linear.app/acme/issue/ENG-412/login-page-fails", "createdAt": "2026-11-20T08:15:30.123Z",
    "updatedAt": "2026-11-26T22:00:00.000Z", "archivedAt": None, "trashed": None,
    "state": {"id": "s1", "name": "Todo", "type": "unstarted", "position": 1},
    "team": {"id": "t1", "key": "ENG", "name": "Engineering"},
    "project": {"id": "p1", "slugId": "a1b2c3d4e5f6", "name": "Web"},
    "assignee": {"id": "u1", "name": "Ada Lovelace", "email": "ada@acme.example", "isMe": False}, "delegate": None,
    "creator": {"id": "u2", "name": "Bob Noyce", "email": "bob@acme.example", "isMe": False},
    "labels": {"nodes": [{"id": "l1", "name": "bug"}, {"id": "l2", "name": "requires: macos"},
                         {"id": "l3", "name": "nightcrew"}]},
    "attachments": {"nodes": [{"id": "a1", "url": "https://github.com/acme/web/pull/9"}]},
    "inverseRelations": {"nodes": [
        {"id": "r1", "type": "blocks", "issue": {"id": "b1", "identifier": "ENG-1", "state": {
            "name": "In Progress", "type": "started"}, "team": {"key": "ENG"}}},
        {"id": "r2", "type": "related", "issue": {"id": "b2", "identifier": "ENG-2", "state": {
            "name": "Todo", "type": "unstarted"}, "team": {"key": "ENG"}}},
    ]},
}  # fmt: skip


def reader(**settings: Any) -> reading.Reader:
    return reading.Reader(reading.Settings(team="ENG", **settings))


def test_an_issue_is_read_as_a_ticket() -> None:
    ticket = reader(labels=("nightcrew",)).ticket("board", ISSUE, lambda blocker: True, "ada said stop")
    assert (ticket.board, ticket.id, ticket.key) == ("board", ISSUE["id"], "ENG-412")
    assert (ticket.title, ticket.body) == ("Login page fails on Safari", "It fails.\n\n- always")
    assert (ticket.state, ticket.priority, ticket.project) == (TicketState.OPEN, 2, "Web")
    assert (ticket.labels, ticket.requires) == (("bug", "requires: macos"), ("macos",))
    assert (ticket.blocked_by, ticket.links) == (("b1",), ("https://github.com/acme/web/pull/9",))
    assert (ticket.url, ticket.closes, ticket.stop, ticket.left) == (
        ISSUE["url"], "Fixes ENG-412", "ada said stop", "",
    )  # fmt: skip
    assert ticket.author == "Bob Noyce"
    assert ticket.created_at
    assert ticket.created_at.isoformat() == "2026-11-20T08:15:30.123000+00:00"


@pytest.mark.parametrize(("settings", "left"), [
    ({}, ""), ({"project": "a1b2c3d4e5f6"}, ""), ({"project": "web"}, ""), ({"assignee": "ada@acme.example"}, ""),
    ({"project": "Site"}, "it is not in the project Site"),
    ({"labels": ("agent", "night")}, "it has not the label 'agent' or 'night'"),
    ({"authors": ("ada", "BOB@acme.example")}, ""),
    ({"authors": ("ada",)}, "its author Bob Noyce is not one whose tickets are taken"),
    ({"assignee": "me"}, "it is not assigned to me"), ({"assignee": "none"}, "it is assigned"),
])  # fmt: skip
def test_why_an_issue_is_not_taken_is_said(settings: dict[str, Any], left: str) -> None:
    assert reader(**settings).left(ISSUE) == left


@pytest.mark.parametrize("authors", [("none",), ("me",), ("",)])
def test_what_nobody_in_the_workspace_wrote_is_of_no_author(authors: tuple[str, ...]) -> None:
    assert "its author nobody" in reader(authors=authors).left({**ISSUE, "creator": None})


@pytest.mark.parametrize(("linears", "ours"), [(0, 5), (1, 1), (2, 2), (3, 3), (4, 4)])
def test_no_priority_comes_last(linears: int, ours: int) -> None:
    assert reader().ticket("b", {**ISSUE, "priority": float(linears)}, lambda b: True).priority == ours


def resets(kind: str, left: int, seconds: float, most: int = 0) -> dict[str, str]:
    told = {"remaining": str(left), "reset": f"{(NOW + seconds) * 1000:.0f}"} | ({"limit": str(most)} if most else {})
    return {f"x-ratelimit-{kind}-{name}": value for name, value in told.items()}


@pytest.mark.parametrize(("status", "headers", "code", "wait"), [
    (200, resets("requests", 0, 90), "", None), (400, {}, "INPUT_ERROR", None), (429, {}, "", 60),
    (400, {"retry-after": "7"}, "RATELIMITED", 7), (400, {"retry-after": "soon"}, "RATELIMITED", 60),
    (400, resets("complexity", 0, 90), "RATELIMITED", 90), (200, resets("complexity", 0, 90), "RATELIMITED", 90),
    (400, resets("complexity", 0, 90) | resets("requests", 7, 900), "RATELIMITED", 90),
    (400, resets("complexity", 70, 900, 1000) | resets("requests", 499, 9, 500), "RATELIMITED", 900),
    (400, resets("requests", 0, 90_000), "RATELIMITED", 3600), (400, resets("requests", 0, -5), "RATELIMITED", 60),
])  # fmt: skip
def test_a_limit_is_read_from_what_linear_says(
    status: int, headers: dict[str, str], code: str, wait: float | None
) -> None:
    data = {"errors": [{"message": "m", "extensions": {"code": code}}]}
    limit = reading.limits(Answer(status, headers, data), NOW)
    assert (limit and limit.wait) == wait


def test_a_bucket_that_was_emptied_fills_evenly() -> None:
    bucket = Bucket(3600)
    assert bucket.fill(NOW) == 3600
    bucket.left = 0
    assert bucket.full_at() == NOW + PERIOD
    assert [bucket.fill(NOW + seconds) for seconds in (0, 10, 1800, 9000)] == [0, 10, 1800, 3600]


def signed(raw: bytes, secret: bytes = b"s") -> dict[str, str]:
    return {"linear-signature": hmac.new(secret, raw, hashlib.sha256).hexdigest(), "linear-delivery": "d1"}


def test_a_delivery_is_believed_when_it_is_signed_and_young() -> None:
    raw = json.dumps({"webhookTimestamp": NOW * 1000}).encode()
    for now, expected in ((NOW - 60, "d1"), (NOW + 60, "d1"), (NOW + 61, None), (NOW - 61, None)):
        assert reading.verify_webhook("s", raw, signed(raw), now) == expected
    assert reading.verify_webhook("other", raw, signed(raw), NOW) is None
    assert reading.verify_webhook("s", raw + b" ", signed(raw), NOW) is None
    for headers in ({}, {"linear-signature": ""}, {"linear-signature": "\udcff\u00e9"}):
        assert reading.verify_webhook("s", raw, headers, NOW) is None


@pytest.mark.parametrize("raw", [b"", b"[]", b"3", b"{}", b'{"webhookTimestamp": "x"}', b"\xff", b'{"webhookTimestamp'])
def test_a_signed_delivery_that_says_no_time_is_refused(raw: bytes) -> None:
    assert reading.verify_webhook("s", raw, signed(raw), NOW) is None


def test_what_the_stand_in_sends_is_believed_by_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "s")
    raw, headers = Linear(clock=lambda: NOW).delivery("Issue", "s")
    one = LinearBoard("b", {"team": "ENG", "webhook_secret": "$HOOK"}, Path("/"))
    assert one.delivery(raw, headers, NOW + 5) == headers["linear-delivery"]
    assert one.delivery(raw, headers, NOW + 500) is None
    with pytest.raises(ConfigError, match="webhook_secret"):
        LinearBoard("b", {"team": "ENG"}, Path("/")).delivery(raw, headers, NOW)


@pytest.mark.parametrize(("settings", "said"), [
    ({}, r"\[board\] team"), ({"team": "ENG", "colour": "red"}, "colour"),
    ({"team": "ENG", "states": {"Todo": "nice"}}, "states"), ({"team": "ENG", "agent_sessions": "yes"}, "agent_sess"),
    ({"team": "ENG", "labels": ["Ready"], "states": {"ready": "open"}}, "'ready' also stands for a state"),
])  # fmt: skip
def test_settings_that_cannot_be_used_are_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as told:
        LinearBoard("b", settings, Path("/"))
    assert told.value.hint


async def test_a_token_that_is_missing_or_refused_is_said_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINEAR_API_KEY", raising=False)
    with Linear() as linear:
        one = LinearBoard("b", {"team": "ENG", "url": linear.address}, Path("/"))
        for token, kind in (("", ConfigError), ("lin_api_wrong_one", BoardError)):
            monkeypatch.setenv("LINEAR_API_KEY", token)
            told: pytest.ExceptionInfo[NightcrewError]
            with pytest.raises(kind) as told:
                await one.scan()
            assert told.value.hint
            assert "wrong_one" not in f"{told.value.sentence()} {told.value!r} {one!r} {vars(one)}"
    await transport.close()
