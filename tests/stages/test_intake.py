"""Which pull requests are for a ticket, and whether it is still to be worked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nightcrew.core.model import PullRequest, Run, Ticket, TicketState
from nightcrew.core.schedule import WORKABLE
from nightcrew.stages.intake import gone, is_for

TICKET = Ticket("b", "acme/web#12", "web#12", "t", closes="Closes acme/web#12", links=("https://x.example/pull/9",))
LINEAR = Ticket("b", "uuid", "ENG-12", "t", closes="Fixes ENG-12")
RUN = Run("b:acme/web#12", "b", "acme/web#12", "web#12", "t", shown="working")


def pull(body: str, url: str = "https://github.com/acme/web/pull/3") -> PullRequest:
    return PullRequest("web", 3, "someone/branch", "main", "t", body, url=url)


@pytest.mark.parametrize(("ticket", "found", "expected"), [
    (TICKET, pull("Fixes #12"), True),
    (TICKET, pull("closes: acme/web#12."), True),
    (replace(TICKET, closes="Closes Acme/Web#12"), pull("Fixes #12"), True),
    (replace(TICKET, url="https://x.example/i/12"), pull("Fixes https://x.example/i/12"), True),
    (replace(TICKET, url="https://x.example/i/12"), pull("Fixes https://x.example/i/123"), False),
    (TICKET, pull("Fixes #123"), False),
    (TICKET, pull("Fixes #12", "https://github.com/acme/api/pull/3"), False),
    (TICKET, pull("see #12"), False),
    (TICKET, pull("<!-- nightcrew ticket=other:acme/web#12 -->"), True),
    (TICKET, pull("<!-- nightcrew ticket=other:acme/web#1 -->"), False),
    (TICKET, pull("", "https://x.example/pull/9"), True),
    (LINEAR, pull("Resolves ENG-12"), True),
    (LINEAR, pull("Resolves ENG-120"), False),
    (replace(LINEAR, closes=""), pull("Resolves ENG-12"), False),
])  # fmt: skip
def test_a_pull_request_is_for_a_ticket_when_it_says_so(ticket: Ticket, found: PullRequest, expected: bool) -> None:
    assert is_for(found, ticket) is expected


def test_a_ticket_is_worked_until_a_person_says_otherwise() -> None:
    assert gone(TICKET, RUN, WORKABLE) == ""
    assert "closed" in gone(replace(TICKET, state=TicketState.CLOSED), RUN, WORKABLE)
    assert gone(replace(TICKET, state=TicketState.BLOCKED), replace(RUN, shown="blocked"), WORKABLE) == ""
    assert "no label" in gone(replace(TICKET, left="no label"), RUN, WORKABLE)
    assert gone(None, RUN, WORKABLE)
