"""What GitLab's board costs, reads and shows, beyond what every board promises."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nightcrew.adapters import gitlab_api
from nightcrew.adapters.boards.gitlab.memory import WHOLE_EVERY
from nightcrew.adapters.boards.gitlab.parse import Known, Reader, Settings
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError, ConfigError
from nightcrew.ports import Hooked
from nightcrew.testing.company.gitlab import GitLab
from nightcrew.testing.company.gitlab_state import Merge
from nightcrew.testing.company.standin import LOST
from nightcrew.transport import Answer
from tests.services.made import gitlab_board as board

pytestmark = pytest.mark.slow

WEB = "acme/web"
LIST = "GET /api/v4/projects/{id}/issues"
LINKS = "GET /api/v4/projects/{id}/issues/{issue_iid}/links"


@pytest.fixture
def yesterday(gitlab: GitLab) -> None:
    """Everything so far happened a day ago, a second apart, then goes on so."""
    seconds = itertools.count()
    start = datetime.now(UTC) - timedelta(days=1)
    gitlab.state.clock = lambda: start + timedelta(seconds=next(seconds))


async def test_an_unchanged_board_of_500_costs_one_request_answered_with_an_empty_list(
    gitlab: GitLab, yesterday: None
) -> None:
    for n in range(500):
        gitlab.state.issue(WEB, f"Ticket {n}", labels=("nightcrew",))
    one = board(gitlab, labels=["nightcrew"])
    assert len((await one.scan()).tickets) == 500
    assert gitlab.counts() == {"GET /api/v4/user": 1, LIST: 5, LINKS: 500}
    for _ in range(WHOLE_EVERY - 1):
        gitlab.log.clear()
        assert len((await one.scan()).tickets) == 500
        assert gitlab.counts() == {LIST: 1}
    gitlab.log.clear()
    assert len((await one.scan()).tickets) == 500
    assert gitlab.counts() == {LIST: 5, LINKS: 50}  # the whole again, and of some what blocks them


async def test_where_blockers_are_not_asked_for_a_first_look_costs_the_pages_alone(gitlab: GitLab) -> None:
    for n in range(150):
        gitlab.state.issue(WEB, f"Ticket {n}")
    await board(gitlab, authors=["*"], blockers=False).scan()
    assert gitlab.counts() == {"GET /api/v4/user": 1, LIST: 2}


async def test_each_change_is_seen_by_one_request_and_an_old_one_is_asked_for_no_more(gitlab: GitLab) -> None:
    later = itertools.count(60)
    gitlab.state.clock = lambda: datetime.now(UTC) + timedelta(seconds=next(later))
    issue = gitlab.state.issue(WEB, "First", labels=("nightcrew",))
    one = board(gitlab, labels=["nightcrew"], blockers=False)
    await one.scan()
    gitlab.log.clear()
    issue.title = "Second"
    gitlab.state.touch(issue)
    assert [t.title for t in (await one.scan()).tickets] == ["Second"]
    gitlab.state.close(issue)
    assert (await one.scan()).tickets == ()
    gitlab.state.reopen(issue)
    assert len((await one.scan()).tickets) == 1
    assert gitlab.counts() == {LIST: 3}
    await one.scan()
    newest = one.issues[WEB].since
    assert newest > issue.changed
    assert len((await one.scan()).tickets) == 1


async def test_a_change_that_is_shown_late_is_seen_by_the_next_look(gitlab: GitLab) -> None:
    one = board(gitlab, authors=["*"])
    gitlab.state.issue(WEB, "First")
    await one.scan()
    late = gitlab.state.now()
    gitlab.state.issue(WEB, "Second")
    await one.scan()
    gitlab.state.issue(WEB, "Late").changed = late
    assert {t.title for t in (await one.scan()).tickets} == {"First", "Second", "Late"}


async def test_more_changes_than_one_page_shows_are_all_seen(gitlab: GitLab) -> None:
    issues = [gitlab.state.issue(WEB, f"Ticket {n}") for n in range(120)]
    one = board(gitlab, authors=["*"], blockers=False)
    await one.scan()
    for issue in issues:
        gitlab.state.close(issue)
    assert (await one.scan()).tickets == ()


async def test_blockers_are_ids_of_issues_that_are_still_open_in_whichever_project(gitlab: GitLab) -> None:
    near = gitlab.state.issue(WEB, "Near")
    far = gitlab.state.issue("acme/crew/api", "Far")
    gitlab.state.issue(WEB, "Third", blocked_by=((WEB, near.iid), ("acme/crew/api", far.iid)))
    one = board(gitlab, authors=["*"])

    async def blockers() -> list[tuple[str, ...]]:
        return [t.blocked_by for t in (await one.scan()).tickets if t.title == "Third"]

    assert await blockers() == [(f"{WEB}#1", "acme/crew/api#1")]
    assert [t.state for t in await one.fetch(["acme/crew/api#1"])] == [TicketState.OPEN]
    gitlab.state.close(near)
    assert await blockers() == [("acme/crew/api#1",)]
    gitlab.state.close(far)
    for _ in range(WHOLE_EVERY):
        found = await blockers()
    assert found == [()]


async def test_a_licence_without_blockers_is_asked_but_once(gitlab: GitLab, caplog: pytest.LogCaptureFixture) -> None:
    gitlab.state.places[WEB].licensed = False
    for n in range(20):
        gitlab.state.issue(WEB, f"Ticket {n}")
    one = board(gitlab, authors=["*"])
    scan = await one.scan()
    assert (len(scan.tickets), scan.problems) == (20, ())
    assert [r.message for r in caplog.records if r.name == "nightcrew.boards.gitlab"] == ["board.no_blockers"]
    assert gitlab.counts()[LINKS] <= 8  # those that were under way at once
    gitlab.log.clear()
    gitlab.state.issue(WEB, "One more")
    await one.scan()
    assert LINKS not in gitlab.counts()


async def test_a_merge_request_that_closes_an_issue_is_shown_on_it(gitlab: GitLab) -> None:
    gitlab.state.issue(WEB, "One")
    one, place = board(gitlab, authors=["*"]), gitlab.state.places[WEB]
    now, sha = gitlab.state.now(), place.bare.commit("a", "change", {"a": "1"})
    place.merges[1] = Merge(1, 1, "t", f"Closes {WEB}#1", "bob", now, now, source="a", sha=sha)
    (ticket,) = (await one.scan()).tickets
    assert ticket.links == (f"{gitlab.url}/{WEB}/-/merge_requests/1",)


async def test_without_a_label_only_those_who_may_push_give_us_work(gitlab: GitLab) -> None:
    for author in ("eve", "gil", "ada"):
        gitlab.state.issue(WEB, f"{author}'s", author=author)
    one = board(gitlab)
    assert [t.title for t in (await one.scan()).tickets] == ["ada's"]
    (left,) = await one.fetch(["web#1"])
    assert left.left == "its author eve is not one whose tickets are taken"
    assert [t.title for t in (await board(gitlab, authors=["EVE"]).scan()).tickets] == ["eve's"]
    assert len((await board(gitlab, authors=["*"]).scan()).tickets) == 3


async def test_assignee_and_milestone_select_and_new_tickets_get_them(gitlab: GitLab) -> None:
    gitlab.state.places[WEB].milestones["v1"] = 5
    gitlab.state.issue(WEB, "Other")
    one = board(gitlab, assignee="bob", milestone="v1")
    ticket = await one.add("Ours")
    assert [t.title for t in (await one.scan()).tickets] == ["Ours"]
    issue = gitlab.state.places[WEB].issues[2]
    assert (issue.assignees, issue.milestone, ticket.left) == (["bob"], "v1", "")
    issue.milestone = ""
    assert [t.left for t in await one.fetch(["web#1", "web#2"])] == [
        "it is not assigned to bob", "it is not in the milestone 'v1'",
    ]  # fmt: skip
    with pytest.raises(BoardError, match="acme/web has no assignee nobody"):
        await board(gitlab, assignee="nobody").add("Two")


def payload(**more: Any) -> dict[str, Any]:
    """An issue as the documentation of GitLab's REST shows one."""
    who = {"id": 18, "username": "alex", "name": "Alex", "state": "active", "web_url": "https://g.example/alex"}
    return {
        "id": 76, "iid": 6, "project_id": 1, "title": " Fix   it ", "description": "It fails.\n", "state": "opened",
        "created_at": "2026-01-04T17:31:51.081+02:00", "updated_at": "2026-01-04T15:31:51.081Z", "closed_at": None,
        "labels": ["P1", "Requires::macOS", "bug", "nightcrew::review"], "milestone": None, "assignees": [],
        "author": who, "user_notes_count": 1, "merge_requests_count": 0, "confidential": False,
        "web_url": "https://g.example/acme/web/-/issues/6", "moved_to_id": None,
        "references": {"short": "#6", "relative": "#6", "full": "acme/web#6"}, **more,
    }  # fmt: skip


def test_what_an_issue_says_becomes_a_ticket() -> None:
    reader = Reader("[board]", Settings(projects=(WEB,)))
    ticket = reader.ticket("b", WEB, payload(), Known(["acme/web#1"], ["u"], "ada said stop"))
    assert (ticket.id, ticket.key, ticket.title, ticket.body) == (f"{WEB}#6", "web#6", "Fix it", "It fails.")
    assert (ticket.priority, ticket.labels, ticket.requires) == (2, ("Requires::macOS", "bug"), ("macOS",))
    assert (ticket.author, ticket.closes, ticket.state) == ("alex", f"Closes {WEB}#6", TicketState.REVIEW)
    assert ticket.created_at == datetime(2026, 1, 4, 15, 31, 51, 81000, UTC)
    assert (ticket.blocked_by, ticket.links, ticket.stop) == (("acme/web#1",), ("u",), "ada said stop")
    assert ticket.url == "https://g.example/acme/web/-/issues/6"


@pytest.mark.parametrize(("more", "state"), [
    ({}, TicketState.DONE), ({"moved_to_id": 9}, TicketState.CLOSED), ({"labels": ["nope"]}, TicketState.CLOSED),
    ({"_links": {"closed_as_duplicate_of": "https://g.example/1"}}, TicketState.CLOSED),
    ({"labels": ["nightcrew::closed"]}, TicketState.CLOSED), ({"labels": ["nightcrew::working"]}, TicketState.DONE),
])  # fmt: skip
def test_a_closed_issue_is_done_unless_it_says_otherwise(more: dict[str, Any], state: TicketState) -> None:
    reader = Reader("[board]", Settings(projects=(WEB,), states={"nope": TicketState.CLOSED}))
    assert reader.state(payload(state="closed", **more)) is state


async def test_a_label_of_ours_shows_the_state_and_no_other_label_is_touched(gitlab: GitLab) -> None:
    gitlab.state.places[WEB].licensed = False  # no scope takes a label away by itself
    issue = gitlab.state.issue(WEB, "One", labels=("bug", "team::a"))
    one = board(gitlab, write_states={"working": "flow::in progress", "open": "flow::ready"})
    for state, label in ((TicketState.WORKING, "flow::in progress"), (TicketState.REVIEW, "nightcrew::review"),
                         (TicketState.OPEN, "flow::ready")):  # fmt: skip
        await one.move(f"{WEB}#1", state, "note")
        assert set(issue.labels) == {"bug", "team::a", label}
    await one.move(f"{WEB}#1", TicketState.DONE, "note", "https://x.example/1")
    assert (issue.labels, issue.state) == (["bug", "team::a"], "closed")
    (said,) = [note for note in issue.notes() if not note.system]
    assert "https://x.example/1" in said.body


async def test_a_move_costs_three_requests_and_the_same_again_but_one(gitlab: GitLab) -> None:
    gitlab.state.issue(WEB, "One")
    one = board(gitlab)
    await one.move(f"{WEB}#1", TicketState.WORKING, "note")
    gitlab.log.clear()
    await one.move(f"{WEB}#1", TicketState.REVIEW, "other")
    assert sorted(e.what.partition(" ")[0] for e in gitlab.log) == ["GET", "PUT", "PUT"]
    gitlab.log.clear()
    await one.move(f"{WEB}#1", TicketState.REVIEW, "other")
    assert [e.what.partition(" ")[0] for e in gitlab.log] == ["GET"]


async def test_done_can_be_a_label_instead_of_closing(gitlab: GitLab) -> None:
    issue = gitlab.state.issue(WEB, "One")
    one = board(gitlab, close_done=False)
    await one.move(f"{WEB}#1", TicketState.DONE)
    assert (issue.state, issue.labels) == ("opened", ["nightcrew::done"])
    assert (await one.scan()).tickets == ()
    assert [t.state for t in await one.fetch(["web#1"])] == [TicketState.DONE]


async def test_no_line_of_a_note_or_a_ticket_commands_gitlab(gitlab: GitLab) -> None:
    one = board(gitlab)
    ticket = await one.add("One", "text\n/close\n  /label ~bug")
    await one.move(ticket.id, TicketState.WORKING, "Done.\n/close\n/label ~bug\nsee /usr/bin")
    issue = gitlab.state.places[WEB].issues[1]
    assert (issue.state, issue.labels) == ("opened", ["nightcrew::working"])
    (said,) = [note for note in issue.notes() if not note.system]
    assert said.body.endswith("Done.\n\\/close\n\\/label ~bug\nsee /usr/bin")
    gitlab.state.obey(gitlab.state.places[WEB], issue, "ada", "/close")
    assert issue.state == "closed"  # a person's does


async def test_a_comment_that_somebody_deleted_is_written_anew(gitlab: GitLab) -> None:
    issue = gitlab.state.issue(WEB, "One")
    one = board(gitlab)
    await one.move(f"{WEB}#1", TicketState.WORKING, "first")
    issue.threads.clear()
    await one.move(f"{WEB}#1", TicketState.WORKING, "second")
    assert ["second" in note.body for note in issue.notes() if not note.system] == [True]


@pytest.mark.parametrize(
    "what", ["POST /api/v4/projects/{id}/issues", "POST /api/v4/projects/{id}/issues/{issue_iid}/notes"]
)
async def test_what_was_written_without_an_answer_is_found_again(gitlab: GitLab, what: str) -> None:
    one = board(gitlab)
    gitlab.trouble.next(what, LOST)
    ticket = await one.add("One")
    await one.move(ticket.id, TicketState.WORKING, "note")
    (issue,) = gitlab.state.places[WEB].issues.values()
    assert len([note for note in issue.notes() if not note.system]) == 1


async def test_robots_guests_and_we_ourselves_stop_nothing_and_named_people_do(gitlab: GitLab) -> None:
    gitlab.state.issue(WEB, "One", labels=("nightcrew::working",))
    one, named = board(gitlab), board(gitlab, people=["gil"])
    for who in ("lint-bot", "eve", "nightcrew", "gil", "nightcrew"):
        gitlab.state.say(WEB, 1, who, "stop")
    assert [t.stop for t in (await one.scan()).tickets] == [""]
    (heard,) = [t.stop for t in (await named.scan()).tickets]
    assert heard.startswith("gil said stop at 20")
    assert f"{gitlab.url}/{WEB}/-/issues/1#note_" in heard


async def test_a_project_that_is_not_there_stops_no_other(gitlab: GitLab) -> None:
    gitlab.state.issue(WEB, "One")
    scan = await board(gitlab, projects=[WEB, "acme/gone"]).scan()
    assert ([t.title for t in scan.tickets], [p.where for p in scan.problems]) == (["One"], ["acme/gone"])
    with pytest.raises(BoardError, match="404"):
        await board(gitlab, projects=["acme/gone"]).scan()


async def test_a_ticket_is_gone_only_when_its_project_says_so(gitlab: GitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await board(gitlab).fetch([f"{WEB}#99", "acme/elsewhere#1"]) == []
    for token, why in (("glpat-eve", "Project Not Found"), ("wrong", "401")):
        monkeypatch.setenv("GITLAB_TOKEN", token)
        with pytest.raises(BoardError, match=why):
            await board(gitlab).fetch([f"{WEB}#1"])


async def test_what_it_may_not_do_is_told(gitlab: GitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    about = await board(gitlab).about()
    assert (about["login"], about["missing"]) == ("nightcrew", [])
    others = [("acme/crew/web", "Acme / Crew / Web"), ("acme/crew/api", "Acme / Crew / Api")]
    assert about["places"] == [(WEB, "Acme / Web"), *others]
    monkeypatch.setenv("GITLAB_TOKEN", "glpat-gil")
    gitlab.state.scopes["glpat-gil"] = ["read_api"]
    assert (await board(gitlab).about())["missing"] == [
        "Its token has the scope read_api; it needs: api.",
        "It may not label and comment issues in acme/web: its role there must be at least Reporter.",
    ]
    monkeypatch.delenv("GITLAB_TOKEN")
    with pytest.raises(ConfigError, match="the environment has no GITLAB_TOKEN"):
        await board(gitlab).scan()


@pytest.mark.parametrize(("settings", "message"), [
    ({"projects": ["web"]}, "'web' is no project"), ({"projects": []}, "none is named"),
    ({"write_states": {"other": "x"}}, "write_states.other"), ({"labls": []}, "labls: unknown key"),
])  # fmt: skip
def test_settings_that_cannot_be_used_are_named(gitlab: GitLab, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        board(gitlab, **settings)


@pytest.mark.parametrize(("status", "headers", "wait"), [
    (200, {"ratelimit-remaining": "0", "ratelimit-reset": "1100"}, None), (403, {"retry-after": "30"}, None),
    (429, {"retry-after": "30", "ratelimit-reset": "1100"}, 30), (429, {"ratelimit-reset": "1045"}, 45),
    (429, {"ratelimit-reset": "900"}, 60), (429, {"retry-after": "soon"}, 60), (429, {}, 60),
])  # fmt: skip
def test_a_limit_is_read_from_what_gitlab_says(status: int, headers: dict[str, str], wait: float | None) -> None:
    limit = gitlab_api.limits(Answer(status, headers), 1000.0)
    assert (limit and limit.wait) == wait


async def test_a_limit_without_a_stated_end_is_told_and_drops_nothing(gitlab: GitLab) -> None:
    gitlab.state.issue(WEB, "One")
    one = board(gitlab, authors=["*"])
    await one.scan()
    gitlab.silent, gitlab.quota = True, 0
    with pytest.raises(BoardError, match="asks us to wait 60 s"):
        await one.scan()
    sent = len(gitlab.log)
    with pytest.raises(BoardError, match="asks us to wait"):
        await one.fetch([f"{WEB}#1"])
    assert len(gitlab.log) == sent


def test_a_webhook_is_ours_when_its_token_is(gitlab: GitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "s3cret")
    one = board(gitlab, webhook_secret="$HOOK")
    assert isinstance(one, Hooked)
    headers = {"x-gitlab-token": "s3cret", "x-gitlab-event-uuid": "e1"}
    told = [headers, headers | {"idempotency-key": "d1"}, headers | {"x-gitlab-token": "ä"}, {}]
    assert [one.delivery(b"{}", some, 0.0) for some in told] == ["e1", "d1", None, None]
    gitlab.state.issue(WEB, "One")
    sent = gitlab._delivery("Issue Hook", "d2", "s3cret")
    assert one.delivery(sent["content"], sent["headers"], 0.0) == "d2"
    with pytest.raises(ConfigError, match="webhook_secret"):
        board(gitlab).delivery(b"{}", headers, 0.0)


@pytest.mark.parametrize("address", ["https://gitlab.com/acme", "/srv/web", "https://gitlab.com/", "git@host:web.git"])
def test_an_address_without_a_project_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="does not say which GitLab project it is"):
        gitlab_api.project_path(address)
