"""What Jira's adapter reads and says: "stop", limits, payloads, settings, the credential."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nightcrew.adapters.boards.jira import jql
from nightcrew.adapters.boards.jira.api import Cloud, limits
from nightcrew.adapters.boards.jira.parse import Known, Reader, Settings
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError, ConfigError
from nightcrew.ports import Hooked, Previewing, Served
from nightcrew.testing.company.jira import Jira
from nightcrew.transport import Answer
from tests.services.made import jira_board as board

ISSUE = "/rest/api/3/issue/{issueIdOrKey}"
BOTH = pytest.mark.parametrize("api", ["cloud", "data-center"])
LINK = "https://forge.example/acme/web/pull/7"


# -- stop --------------------------------------------------------------------------------------------------------------
async def test_stop_is_heard_from_members_who_may_mention_us_and_never_from_our_own_login(jira: Jira) -> None:
    issue = jira.state.issue("ENG", "One")
    one = board(jira)
    await one.move("ENG-1", TicketState.WORKING, "note")
    jira.state.say("ENG-1", "nightcrew", "stop")
    assert [t.stop for t in (await one.scan()).tickets] == [""]
    mention = {"type": "mention", "attrs": {"id": jira.state.people["nightcrew"].account, "text": "@Night Crew"}}
    words = [mention, {"type": "text", "text": " stop"}]
    said = jira.state.say("ENG-1", "bob", {"version": 1, "type": "doc", "content": [
        {"type": "paragraph", "content": words}]})  # fmt: skip
    (heard,) = [t.stop for t in (await one.scan()).tickets]
    assert heard.startswith("Bob Noyce said stop at 20")
    assert heard.endswith(f"({jira.url}/browse/{issue.key}?focusedCommentId={said.id})")


@BOTH
async def test_named_people_alone_may_say_stop(jira: Jira, api: str) -> None:
    jira.state.issue("ENG", "One", status="In Progress")
    eve = jira.state.people["eve"]
    named = board(jira, api=api, people=[eve.account if api == "cloud" else "eve"])
    jira.state.say("ENG-1", "eve", "stop!")
    jira.state.say("ENG-1", "ada", "stop")
    assert [t.stop[:8] for t in (await named.scan()).tickets] == ["Eve said"]
    assert [t.stop[:8] for t in (await board(jira, api=api).scan()).tickets] == ["Ada Love"]


async def test_comments_are_asked_for_only_where_something_is_worked_and_changed(jira: Jira) -> None:
    jira.state.clock = lambda: datetime.now(UTC) - timedelta(hours=1)
    for status in ("To Do", "In Progress"):
        jira.state.issue("ENG", "One", status=status)
    one = board(jira)
    for _ in range(3):
        await one.scan()
    assert jira.counts()[f"GET {ISSUE}/comment"] == 1
    jira.state.clock = lambda: datetime.now(UTC)
    jira.state.say("ENG-1", "ada", "stop")
    await one.scan()
    assert jira.counts()[f"GET {ISSUE}/comment"] == 1


# -- limits ------------------------------------------------------------------------------------------------------------
RESET = {"x-ratelimit-reset": datetime.fromtimestamp(1120, UTC).strftime("%Y-%m-%dT%H:%MZ")}
OF = "POST:/issue/*/comment issue/10001"


@pytest.mark.parametrize(("status", "headers", "limit"), [
    (200, {"retry-after": "3"}, None), (503, {"retry-after": "3"}, None),
    (429, {"ratelimit-reason": "jira-burst-based", "retry-after": "2"}, (2, "POST:/issue/*/comment")),
    (429, {"ratelimit-reason": "jira-per-issue-on-write", "retry-after": "2"}, (2, "issue/10001")),
    (429, {"ratelimit-reason": "jira-quota-tenant-based", "retry-after": "1800"}, (1800, "")),
    (429, {"ratelimit-reason": "jira-quota-global-based", **RESET}, (80, "")),
    (429, {"ratelimit-reason": "jira-burst-based"}, (5, "POST:/issue/*/comment")),
    (429, {"ratelimit-reason": "jira-per-issue-on-write"}, (30, "issue/10001")),
    (429, {"ratelimit-reason": "jira-quota-global-based"}, (60, "")), (429, {"retry-after": "soon"}, (60, "")),
    (429, {"retry-after": "0"}, (0.1, "")), (429, {}, (60, "")),
])  # fmt: skip
def test_a_limit_is_read_with_what_it_closes(status: int, headers: dict[str, str], limit: tuple[float, str]) -> None:
    found = limits(Answer(status, headers, scope=OF), 1000.0)
    assert (found and (found.wait, found.scope)) == limit


async def test_a_burst_closes_its_endpoint_too_many_writes_their_issue_and_a_quota_everything(jira: Jira) -> None:
    for n in range(2):
        jira.state.issue("ENG", f"Ticket {n}")
    one = board(jira)
    one.service.patience = 0
    await one.scan()
    jira.limited.append(("/search/jql", {"Retry-After": "300", "RateLimit-Reason": "jira-burst-based"}))
    with pytest.raises(BoardError, match="burst based"):
        await one.scan()
    await one.move("ENG-1", TicketState.WORKING, "note")  # another endpoint
    first = jira.state.find("ENG-1").id
    jira.limited.append((f"/{first}/comment/", {"RateLimit-Reason": "jira-per-issue-on-write"}))
    with pytest.raises(BoardError, match="per issue on write"):
        await one.move("ENG-1", TicketState.WORKING, "other")
    await one.move("ENG-2", TicketState.WORKING, "note")  # another issue
    assert len(await one.fetch(["ENG-1"])) == 1  # read, not written
    jira.limited.append(("bulkfetch", {"Retry-After": "900", "RateLimit-Reason": "jira-quota-global-based"}))
    for _ in range(2):
        with pytest.raises(BoardError, match="quota global based"):
            await one.fetch(["ENG-1"])
    sent = len(jira.log)
    with pytest.raises(BoardError, match="asks us to wait"):
        await one.move("ENG-2", TicketState.REVIEW, "note")
    assert len(jira.log) == sent


# -- what an issue says ------------------------------------------------------------------------------------------------
def payload(**more: Any) -> dict[str, Any]:
    """As Jira Cloud answers, much left out that is not read."""
    who = {"self": "https://acme.atlassian.net/rest/api/3/user?accountId=5b1", "accountId": "5b1", "active": True,
           "avatarUrls": {}, "displayName": "Ada Lovelace", "accountType": "atlassian"}  # fmt: skip

    def status(name: str, key: str) -> dict[str, Any]:
        return {"self": "s", "description": "", "iconUrl": "i", "name": name, "id": "3",
                "statusCategory": {"self": "s", "id": 4, "key": key, "colorName": "yellow", "name": "x"}}  # fmt: skip

    def linked(number: str, key: str) -> dict[str, Any]:
        fields = {"summary": "Other", "status": status("x", key), "priority": {"id": "3", "name": "Medium"}}
        return {"id": number, "key": f"ENG-{number}", "self": "s", "fields": fields}

    kind = {"id": "10000", "name": "Blocks", "inward": "is blocked by", "outward": "blocks", "self": "s"}
    words = [{"type": "text", "text": "It "}, {"type": "text", "text": "fails", "marks": [{"type": "strong"}]}]
    body = {"version": 1, "type": "doc", "content": [{"type": "paragraph", "content": words}]}
    fields = {
        "summary": " Fix  it ", "description": body, "status": status("In Progress", "indeterminate"),
        "priority": {"self": "s", "iconUrl": "i", "name": "High", "id": "2"},
        "labels": ["bug", "Requires:macOS", "nightcrew-blocked", "crew"], "components": [{"id": "1", "name": "web"}],
        "project": {"id": "10000", "key": "ENG", "name": "Engineering"}, "reporter": who, "assignee": None,
        "created": "2026-01-04T17:31:51.081+0200", "updated": "2026-01-04T15:40:00.000+0000", "resolution": None,
        "issuelinks": [{"id": "1", "type": kind, "inwardIssue": linked("10002", "new")},
                       {"id": "2", "type": kind, "inwardIssue": linked("10003", "done")},
                       {"id": "3", "type": kind, "outwardIssue": linked("10004", "new")}],
    }  # fmt: skip
    return {"expand": "names", "id": "10006", "key": "ENG-6", "self": "s", "fields": fields | more}


def reader(**settings: Any) -> Reader:
    told = Settings(url="https://acme.atlassian.net/", projects=("ENG",), email="a@b.example", **settings)
    cloud = Cloud(told)
    return Reader("[board]", told, cloud.plain, cloud.words)


def test_what_an_issue_says_becomes_a_ticket() -> None:
    ticket = reader(labels=("crew",)).ticket("b", payload(), Known("ada said stop", ["u"]))
    assert (ticket.id, ticket.key, ticket.title, ticket.body) == ("10006", "ENG-6", "Fix it", "It **fails**")
    assert (ticket.state, ticket.priority, ticket.project) == (TicketState.BLOCKED, 2, "ENG")
    assert (ticket.labels, ticket.requires) == (("bug", "Requires:macOS", "web"), ("macOS",))
    assert (ticket.author, ticket.closes, ticket.blocked_by) == ("Ada Lovelace", "Fixes ENG-6", ("10002",))
    assert ticket.created_at == datetime(2026, 1, 4, 15, 31, 51, 81000, UTC)
    assert ticket.url == "https://acme.atlassian.net/browse/ENG-6"
    assert (ticket.links, ticket.stop) == (("u",), "ada said stop")
    assert ticket.left == ""


def test_an_issue_that_lacks_nearly_everything_is_still_a_ticket() -> None:
    bare = {"summary": None, "description": None, "priority": None, "labels": None, "reporter": None, "status": None,
            "issuelinks": None, "components": None}  # fmt: skip
    ticket = reader().ticket("b", payload(**bare))
    assert (ticket.title, ticket.body, ticket.state, ticket.priority) == ("", "", TicketState.OTHER, 5)
    assert ticket.author == "nobody"


@pytest.mark.parametrize(("name", "key", "more", "state"), [
    ("To Do", "new", {}, TicketState.OPEN), ("Backlog", "new", {}, TicketState.OTHER),
    ("Odd", "undefined", {}, TicketState.OTHER), ("Code Review", "indeterminate", {}, TicketState.REVIEW),
    ("On Hold", "new", {}, TicketState.BLOCKED), ("Closed", "done", {}, TicketState.DONE),
    ("Cancelled", "done", {}, TicketState.CLOSED), ("Mine", "indeterminate", {}, TicketState.DONE),
    ("Closed", "done", {"resolution": {"name": "Won't Do"}}, TicketState.CLOSED),
    ("Closed", "done", {"labels": ["nightcrew-closed"]}, TicketState.CLOSED),
    ("Doing", "indeterminate", {"labels": ["NightCrew-Review"]}, TicketState.REVIEW),
    ("To Do", "new", {"labels": ["nightcrew-blocked"]}, TicketState.OPEN),
])  # fmt: skip
def test_a_status_means_what_its_name_and_its_category_say(
    name: str, key: str, more: dict[str, Any], state: TicketState
) -> None:
    status = {"name": name, "id": "1", "statusCategory": {"key": key}}
    told = reader(states={"mine": TicketState.DONE})
    assert told.state(payload(**({"labels": [], "status": status} | more))) is state


def test_words_of_the_settings_are_quoted_in_a_query() -> None:
    told = Settings(url="https://x", projects=("ENG",), labels=('a" OR "b',), jql="a = 1 OR b = 2",
                    reporters=("ada@x.example",), write_states={TicketState.BLOCKED: "Stuck"})  # fmt: skip
    assert jql.selected(told) == (
        'project in ("ENG") AND statusCategory != Done AND labels in ("a\\" OR \\"b") AND '
        '(((a = 1 OR b = 2)) OR statusCategory = "In Progress" OR status in ("Stuck"))'
    )


@BOTH
async def test_blockers_are_those_that_are_not_over(jira: Jira, api: str) -> None:
    jira.state.project("OPS")
    for n in range(3):
        jira.state.issue("ENG", f"Ticket {n}")
    far = jira.state.issue("OPS", "Far")
    near = jira.state.find("ENG-1")
    jira.state.blocks("ENG-1", "ENG-3")
    jira.state.blocks("OPS-1", "ENG-3")
    jira.state.blocks("ENG-2", "ENG-3", kind="Gantt")
    one = board(jira, api=api)

    async def blockers() -> list[tuple[str, ...]]:
        return [t.blocked_by for t in (await one.scan()).tickets if t.key == "ENG-3"]

    assert await blockers() == [(near.id, far.id)]
    jira.state.put("ENG-1", "Done")
    assert await blockers() == [(far.id,)]
    jira.state.put("ENG-1", "To Do")
    assert await blockers() == [(near.id, far.id)]
    (ticket,) = await board(jira, api=api, blocks="gantt").fetch(["ENG-3"])
    assert ticket.blocked_by == (jira.state.find("ENG-2").id,)


# -- settings and credential -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("settings", "message"), [
    ({"url": "acme"}, "'acme' is no address"), ({"projects": ["My project"]}, "'My project' is no key of a project"),
    ({"labels": ["a b"]}, "labels: 'a b' has a space"), ({"write_labels": {"failed": "a b"}}, "write_labels: 'a b'"),
    ({"labels": ["nightcrew-failed"]}, "'nightcrew-failed' also selects tickets"),
    ({"jql": 'a = 1) OR (b = 2'}, "jql: its brackets do not match"),
    ({"jql": 'text ~ "x" order by rank'}, "jql: it says ORDER BY"), ({"email": ""}, "email: Jira Cloud asks whose"),
    ({"write_states": {"other": "x"}}, "write_states.other"), ({"api": "server"}, "api: "),
    ({"projcts": []}, "projcts: unknown key"), ({"states": {"x": "y"}}, "states: "),
])  # fmt: skip
def test_settings_that_cannot_be_used_are_named(jira: Jira, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        board(jira, **settings)
    board(jira, jql='summary ~ "order by"')


async def test_a_query_or_a_project_that_jira_does_not_know_is_told_in_its_words(jira: Jira) -> None:
    with pytest.raises(BoardError, match="The value 'NOPE' does not exist for the field 'project'"):
        await board(jira, projects=["NOPE"]).scan()
    with pytest.raises(BoardError, match="Field 'sprnt' does not exist"):
        await board(jira, jql="sprnt = 1").scan()
    with pytest.raises(ConfigError, match="projects: none is named"):
        await board(jira, projects=[]).scan()


@BOTH
async def test_what_it_may_not_do_is_told(jira: Jira, monkeypatch: pytest.MonkeyPatch, api: str) -> None:
    for n in range(60):
        jira.state.project(f"P{n}")
    one = board(jira, api=api)
    about = await one.about()
    assert isinstance(one, Served)
    assert isinstance(one, Previewing)
    assert (about["login"], about["missing"]) == ("nightcrew@acme.example", [])
    assert (len(about["places"]), about["places"][0]) == (61, ("ENG", "Engineering"))
    assert len((await board(jira, api=api, projects=[]).about())["places"]) == 61
    jira.state.denied["nightcrew"] = {"LINK_ISSUES"}
    odd = board(jira, api=api, projects=["ENG", "NOPE"], write_states={"review": "QA"})
    assert (await odd.about())["missing"] == [
        "It may not link pull requests in ENG (LINK_ISSUES).", "ENG has no status 'QA' ([board] write_states.review).",
        "Jira shows us no project NOPE.",
    ]  # fmt: skip
    jira.state.issue("ENG", "One")
    with pytest.raises(BoardError, match=r"403.*LINK_ISSUES"):
        await one.move("ENG-1", TicketState.REVIEW, "note", LINK)
    monkeypatch.setenv("JIRA_TOKEN", "wrong")
    with pytest.raises(BoardError, match="401") as told:
        await board(jira, api=api).scan()
    assert "wrong" not in told.value.sentence()
    monkeypatch.delenv("JIRA_TOKEN")
    with pytest.raises(ConfigError, match="the environment has no JIRA_TOKEN"):
        await board(jira, api=api).scan()


async def test_what_an_issue_cannot_hold_is_refused_before_it_is_made(jira: Jira) -> None:
    for fields, message in (({"id": "7"}, "cannot be given id"), ({"labels": ["a b"]}, "no labels with a space")):
        with pytest.raises(BoardError, match=message):
            await board(jira).add("One", "", fields)
    with pytest.raises(BoardError, match="issuetype"):
        await board(jira, issue_type="Epos").add("One")
    assert jira.state.issues == {}


async def test_a_ticket_is_added_with_what_the_selection_asks_for(jira: Jira) -> None:
    one = board(jira, labels=["crew", "other"], assignee="me", priorities={"Low": 2})
    ticket = await one.add("One", "# Why\n\n- a\n- b", {"labels": "bug", "priority": 2})
    issue = jira.state.find(ticket.key)
    assert (issue.labels, issue.assignee, issue.priority) == (["crew", "bug"], "nightcrew", "Low")
    assert (ticket.body, ticket.priority, ticket.labels, ticket.left) == ("# Why\n\n- a\n- b", 2, ("bug",), "")


def test_a_webhook_is_ours_when_it_is_signed_and_new(jira: Jira, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "s3cret")
    one = board(jira, webhook_secret="$HOOK")
    assert isinstance(one, Hooked)
    raw = b'{"timestamp": 1000000}'
    signed = hmac.new(b"s3cret", raw, hashlib.sha256).hexdigest()
    headers = {"x-hub-signature": f"sha256={signed}", "x-atlassian-webhook-identifier": "d1"}
    assert [one.delivery(raw, headers, now) for now in (1000.0, 1500.0, 2000.0)] == ["d1", "d1", None]
    assert one.delivery(raw + b" ", headers, 1000.0) is None
    assert one.delivery(raw, {"x-hub-signature": "ä"}, 1000.0) is None
    with pytest.raises(ConfigError, match="webhook_secret"):
        board(jira).delivery(raw, headers, 1000.0)
