"""What happens to projects on a GitLab while nightcrew works there."""

from __future__ import annotations

from functools import partial

import pytest

from nightcrew import transport
from nightcrew.core.model import Repo, TicketState
from nightcrew.errors import ForgeError
from nightcrew.testing.company.gitlab import GitLab
from nightcrew.testing.company.gitlab_state import Merge
from nightcrew.testing.company.standin import ERROR, LATE
from tests.services.made import gitlab_board
from tests.services.made import gitlab_forge as forge

pytestmark = pytest.mark.slow

WEB = "acme/crew/web"
LIST = "GET /api/v4/projects/{id}/merge_requests"


board = partial(gitlab_board, projects=[WEB])


async def test_a_project_that_moved_is_read_and_written_under_its_old_path(gitlab: GitLab) -> None:
    issue = gitlab.state.issue(WEB, "One")
    waits = gitlab.state.issue(WEB, "Two", blocked_by=((WEB, 1),))
    waits.blocked_by = [("acme/site", 1)]
    old = Repo("web", gitlab.clone_url(WEB), forge="lab")
    gitlab.state.rename(WEB, "acme/site")
    one = board(gitlab)
    assert {t.id: bool(t.blocked_by) for t in (await one.scan()).tickets} == {f"{WEB}#1": False, f"{WEB}#2": True}
    await one.move(f"{WEB}#1", TicketState.WORKING, "note")
    assert issue.labels == ["nightcrew::working"]
    assert len([note for note in issue.notes() if not note.system]) == 1
    await one.move(f"{WEB}#1", TicketState.DONE, "note")
    assert {t.id: bool(t.blocked_by) for t in (await one.scan()).tickets} == {f"{WEB}#2": False}
    gitlab.state.places["acme/site"].bare.commit("a/ü", "change", {"a": "1"})
    made = await forge(gitlab).open(old, "a/ü", "title", "body")
    assert await forge(gitlab).find(old, "a/ü") == made
    await forge(gitlab).say(old, made.number, "Hello", "k")


async def test_a_fault_in_the_middle_of_a_long_list_loses_nothing(gitlab: GitLab) -> None:
    one, there, old = forge(gitlab), gitlab.state.places[WEB], Repo("web", gitlab.clone_url(WEB), forge="lab")
    sha = there.bare.sha("refs/heads/main")
    for n in range(1, 121):
        at = f"2026-01-01T00:{n // 60:02}:{n % 60:02}.000Z"
        there.merges[n] = Merge(n, n, "t", "", "ada", at, at, state="closed", source=f"b{n}", sha=sha)
    for state in ("closed", "merged"):
        for merge in there.merges.values():
            merge.state = state
            gitlab.state.touch(merge)
        gitlab.trouble.orders += [(LIST, LATE), *[(LIST, ERROR)] * transport.TRIES]
        with pytest.raises(ForgeError):
            await one.list(old)
        assert [pull.state for pull in await one.list(old)] == [state] * 120
