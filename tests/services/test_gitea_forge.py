"""What Gitea's forge costs, reads and hides, beyond what every forge promises."""

from __future__ import annotations

import hmac
import logging
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nightcrew.adapters.forges.gitea import GiteaForge, api, parse
from nightcrew.core.model import Check, PullRequest, Remark, Repo
from nightcrew.errors import ConfigError, ForgeError
from nightcrew.ports import Hooked
from nightcrew.testing.company.gitea import Gitea
from nightcrew.testing.company.gitea_state import Rule
from nightcrew.testing.company.standin import CUT, LOST
from nightcrew.transport import Answer
from tests.clones import Clone
from tests.services.made import gitea_forge as forge

pytestmark = pytest.mark.slow

WEB = "acme/web"
PULLS = "/api/v1/repos/{owner}/{repo}/pulls"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> float:
        return self.at


def repo(gitea: Gitea) -> Repo:
    return Repo("web", gitea.clone_url(WEB), forge="tea")


async def opened(gitea: Gitea, one: GiteaForge, *branches: str) -> list[int]:
    for branch in branches:
        gitea.state.places[WEB].bare.commit(branch, "change", {branch.replace("/", "-"): "1"})
    return [(await one.open(repo(gitea), branch, branch, "")).number for branch in branches]


# -- what it costs -----------------------------------------------------------------------------------------------------
async def test_35_unchanged_pull_requests_cost_a_few_requests_a_scan(gitea: Gitea) -> None:
    one, gitea.state.clock = forge(gitea), lambda: datetime(2026, 1, 1, tzinfo=UTC)
    numbers = await opened(gitea, one, *(f"b{n}" for n in range(35)))
    first = await one.stamps(repo(gitea), numbers)
    await one.stamps(repo(gitea), numbers)  # by now nobody looks for conflicts any more
    settled, costs = await one.stamps(repo(gitea), numbers), []
    for _ in range(24):
        gitea.log.clear()
        assert await one.stamps(repo(gitea), numbers) == settled
        costs.append(len(gitea.log))
    assert set(first) == set(numbers)
    assert sum(costs[-8:]) == 8 + 35  # the checks of each are read once in 8 scans
    assert max(costs[-8:]) <= 1 + 5  # and not those of all in the same


async def test_a_check_that_runs_is_read_at_every_scan_and_one_that_ended_within_eight(gitea: Gitea) -> None:
    one = forge(gitea)
    (number,) = await opened(gitea, one, "a")
    head = gitea.state.places[WEB].pulls[number].head_sha

    async def stamp() -> str:
        return (await one.stamps(repo(gitea), [number]))[number]

    seen = [await stamp(), await stamp()]
    gitea.state.check(WEB, head, "test", "pending")
    seen = [await stamp() for _ in range(8)]
    assert seen[0] != seen[-1]
    gitea.state.check(WEB, head, "test", "failure")
    assert (ended := await stamp()) != seen[-1]
    for _ in range(20):
        assert await stamp() == ended
    gitea.state.check(WEB, head, "test", "success")
    assert ended != [await stamp() for _ in range(8)][-1]


async def test_an_unchanged_list_of_120_costs_one_request(gitea: Gitea) -> None:
    one, place = forge(gitea), gitea.state.places[WEB]
    for n in range(120):
        place.bare.git("branch", f"b{n}", "main")
        gitea.state.pull(WEB, f"b{n}", "", f"b{n}", "main", "ada")
    first = await one.list(repo(gitea))
    gitea.log.clear()
    gitea.state.close(WEB, 7)
    assert [pull.number for pull in await one.list(repo(gitea)) if pull.state != "open"] == [7]
    assert len(first) == 120
    for number in range(1, 121):
        gitea.state.close(WEB, number)
    await one.list(repo(gitea))
    gitea.log.clear()
    assert len(await one.list(repo(gitea))) == 120
    assert len(gitea.log) == 1


async def test_a_server_that_gives_fewer_rows_than_asked_for_is_read_to_the_end(tmp_path: Path, gitea: Gitea) -> None:
    one, gitea.most = forge(gitea), 2
    await opened(gitea, one, *"abcde")
    for context in "uvwxyz":
        gitea.state.check(WEB, gitea.state.places[WEB].pulls[1].head_sha, context, "success")
    assert len(await forge(gitea).list(repo(gitea))) == 5
    assert len((await one.standing(repo(gitea), 1)).checks) == 6


async def test_a_branch_is_found_beyond_what_is_read_of_a_long_list(gitea: Gitea) -> None:
    one, gitea.most = forge(gitea), 1
    numbers = await opened(gitea, one, "nightcrew/web-1", *(f"b{n}" for n in range(21)))
    found = await forge(gitea).find(repo(gitea), "nightcrew/web-1")
    assert (found and found.number) == numbers[0]
    assert await forge(gitea).find(repo(gitea), "nightcrew/web-2") is None


# -- opening -----------------------------------------------------------------------------------------------------------
async def test_a_pull_request_whose_creation_was_not_answered_is_there_once(gitea: Gitea) -> None:
    one = forge(gitea)
    gitea.trouble.next(f"POST {PULLS}", LOST)
    (number,) = await opened(gitea, one, "a")
    gitea.trouble.next(f"POST {PULLS}", CUT)
    with pytest.raises(ForgeError, match="was lost"):
        await opened(gitea, one, "b")
    assert list(gitea.state.places[WEB].pulls) == [number]


async def test_a_draft_with_reviewers_and_labels_is_opened_so(gitea: Gitea, caplog: pytest.LogCaptureFixture) -> None:
    one = forge(gitea, draft=True, reviewers=["nobody", "ada"], labels=["Nightcrew", "none"])
    label = gitea.state.label(WEB, "nightcrew")
    with caplog.at_level(logging.WARNING):
        (number,) = await opened(gitea, one, "a")
    pull = gitea.state.places[WEB].pulls[number]
    assert (pull.title, pull.labels, pull.reviewers) == ("WIP: a", [label], ["ada"])
    told = [record.__dict__["error"] for record in caplog.records if record.message == "pull.unfurnished"]
    assert ["has no label none" in told[0], "name: nobody" in told[1]] == [True, True]


async def test_a_title_alone_makes_no_draft_and_a_draft_stays_one_when_it_is_renamed(gitea: Gitea) -> None:
    one, place = forge(gitea), gitea.state.places[WEB]
    place.bare.commit("a", "change", {"a": "1"})
    made = await one.open(repo(gitea), "a", "[WIP] Add a map", "")
    assert (made.title, place.pulls[1].title) == ("Add a map", "Add a map")
    await one.edit(repo(gitea), 1, draft=True)
    changed = await one.update(repo(gitea), 1, "Add two maps", "both")
    assert (changed.title, changed.body, place.pulls[1].title) == ("Add two maps", "both", "WIP: Add two maps")
    gitea.log.clear()
    await one.update(repo(gitea), 1, "Add two maps", "both")
    assert not [exchange for exchange in gitea.log if "PATCH" in exchange.what]


# -- finding -----------------------------------------------------------------------------------------------------------
async def test_a_branch_deleted_after_the_merge_is_still_the_pull_requests(gitea: Gitea) -> None:
    one = forge(gitea)
    (number,) = await opened(gitea, one, "a")
    gitea.state.merge(WEB, number)
    gitea.state.delete_branch(WEB, "a")
    for asked in (one, forge(gitea)):
        found = await asked.find(repo(gitea), "a")
        assert found is not None
        assert (found.number, found.state, bool(found.merged_sha)) == (number, "merged", True)


async def test_a_forks_branch_of_the_same_name_is_not_ours(gitea: Gitea) -> None:
    one = forge(gitea)
    gitea.state.places[WEB].bare.commit("a", "change", {"a": "1"})
    gitea.state.pull(WEB, "theirs", "", "a", "main", "eve", fork="eve")
    assert await one.find(repo(gitea), "a") is None
    assert [pull.branch for pull in await one.list(repo(gitea))] == ["eve:a"]


async def test_one_that_a_person_pointed_at_another_base_is_found_too(gitea: Gitea) -> None:
    one = forge(gitea)
    (number,) = await opened(gitea, one, "a")
    gitea.state.places[WEB].bare.git("branch", "next", "main")
    gitea.state.places[WEB].pulls[number].base = "next"
    found = await forge(gitea).find(repo(gitea), "a")
    assert (found and found.base) == "next"


# -- how it stands -----------------------------------------------------------------------------------------------------
async def test_a_conflict_is_told_once_it_is_none_that_is_still_looked_for(gitea: Gitea) -> None:
    one = forge(gitea)
    one.now = clock = Clock()
    (number,) = await opened(gitea, one, "a")
    gitea.state.places[WEB].bare.commit("main", "other", {"a": "2"})
    assert (await one.standing(repo(gitea), number)).mergeable is None
    clock.at += 9
    assert (await one.standing(repo(gitea), number)).mergeable is None
    before = await one.stamps(repo(gitea), [number])
    clock.at += 2
    assert (await one.standing(repo(gitea), number)).mergeable is False
    assert await one.stamps(repo(gitea), [number]) != before
    await one.edit(repo(gitea), number, draft=True)
    assert (await one.standing(repo(gitea), number)).mergeable is None


async def test_rules_of_the_branch_decide_what_is_approved_required_and_up_to_date(
    gitea: Gitea, monkeypatch: pytest.MonkeyPatch
) -> None:
    gitea.state.places[WEB].rules.append(Rule("ma*", 2, ("ci / *",), up_to_date=True))
    (number,) = await opened(gitea, forge(gitea), "a")
    head = gitea.state.places[WEB].pulls[number].head_sha
    gitea.state.check(WEB, head, "ci / test", "failure")
    gitea.state.check(WEB, head, "docs", "success")
    gitea.state.review(WEB, number, "ada", "APPROVED")
    gitea.state.places[WEB].bare.commit("main", "more", {"more": "1"})
    standing = await forge(gitea).standing(repo(gitea), number)
    assert {c.name: c.required for c in standing.checks} == {"ci / test": True, "docs": False}
    assert (standing.approved, standing.behind) == (False, False)  # only administrators are told the whole rule
    gitea.state.review(WEB, number, "lint-bot", "APPROVED")
    monkeypatch.setenv("GITEA_TOKEN", "gta_boss")
    standing = await forge(gitea).standing(repo(gitea), number)
    assert (standing.approved, standing.behind) == (True, True)


async def test_a_dismissed_review_says_nothing_about_the_change(gitea: Gitea) -> None:
    one = forge(gitea)
    (number,) = await opened(gitea, one, "a")
    gitea.state.review(WEB, number, "ada", "REQUEST_CHANGES", "no").dismissed = True
    standing = await one.standing(repo(gitea), number)
    assert [(r.text, r.verdict) for r in standing.remarks] == [("no", "")]


@pytest.mark.parametrize("token", ["gta_nightcrew", "gta_boss"])
async def test_those_who_may_write_are_trusted_whoever_may_ask_that(
    gitea: Gitea, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("GITEA_TOKEN", token)
    one = forge(gitea)
    (number,) = await opened(gitea, one, "a")
    for who in ("ada", "eve", "boss", "nobody"):
        gitea.state.say(WEB, number, who, who)
    remarks = (await one.standing(repo(gitea), number)).remarks
    assert [r.author for r in remarks if r.trusted] == ["ada", "boss"]
    gitea.log.clear()
    await one.standing(repo(gitea), number)
    assert not [exchange for exchange in gitea.log if "collaborators" in exchange.what or "assignees" in exchange.what]


async def test_only_those_who_are_named_are_trusted_and_robots_can_be_named(gitea: Gitea) -> None:
    one = forge(gitea, people=["Boss"], robots=["Ada"])
    (number,) = await opened(gitea, one, "a")
    gitea.state.review(WEB, number, "ada", "APPROVED")
    gitea.state.say(WEB, number, "boss", "hello")
    standing = await one.standing(repo(gitea), number)
    assert [(r.author, r.trusted, r.bot) for r in standing.remarks] == [("boss", True, False), ("ada", False, True)]
    assert standing.approvals == ()


# -- what is said ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("write", ["comments", "replies"])
async def test_what_was_said_without_an_answer_is_said_once(gitea: Gitea, write: str) -> None:
    one = forge(gitea)
    (number,) = await opened(gitea, one, "a")
    first = gitea.state.thread(WEB, number, "ada", "a", "Why?")
    gitea.trouble.next("POST" if write == "comments" else "/replies", LOST)
    await one.say(repo(gitea), number, "done", "state")
    await one.answer(repo(gitea), number, str(first.id), "Changed.", "k")
    await one.answer(repo(gitea), number, str(first.id), "Changed.", "k")
    pull = gitea.state.places[WEB].pulls[number]
    assert ([len(pull.comments), len(pull.lines)], pull.lines[-1].review) == ([1, 2], first.review)


@pytest.mark.parametrize(("version", "forgejo"), [
    ((1, 27), False), ((1, 26), False), ((1, 22), False), ((1, 22), True),
])  # fmt: skip
async def test_threads_are_answered_and_closed_in_whatever_way_the_forge_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], forgejo: bool
) -> None:
    monkeypatch.setenv("GITEA_TOKEN", "gta_nightcrew")
    with Gitea(tmp_path / "other", version, forgejo=forgejo) as gitea:
        gitea.state.repository(WEB, {"README.md": "#\n"})
        one = forge(gitea)
        (number,) = await opened(gitea, one, "a")
        asked = [str(gitea.state.thread(WEB, number, "ada", "a", text).id) for text in ("Why?", "And why?")]
        for _ in range(2):
            await one.answer(repo(gitea), number, asked[1], "Changed.", "k")
            await one.resolve(repo(gitea), number, asked[1])

        async def said() -> list[tuple[str, str, bool]]:
            remarks = (await forge(gitea).standing(repo(gitea), number)).remarks
            return [(r.text, r.thread, r.resolved) for r in remarks]

        assert await said() == [("Why?", asked[0], False), ("And why?", asked[1], True), ("Changed.", asked[1], True)]
        pull = gitea.state.places[WEB].pulls[number]
        assert len(pull.lines) == 3
        gitea.state.line(pull, pull.lines[1].review, "ada", "a", 1, "Still not.")
        resolves = version >= (1, 26) and not forgejo
        assert [resolved for text, _, resolved in await said() if text == "And why?"] == [resolves]
    assert gitea.violations == []


async def test_a_thread_nobody_answered_is_closed_by_saying_so_where_there_is_no_other_way(gitea: Gitea) -> None:
    gitea.forgejo, one = True, forge(gitea)
    (number,) = await opened(gitea, one, "a")
    first = gitea.state.thread(WEB, number, "lint-bot", "a", "Style.")
    for _ in range(2):
        await one.resolve(repo(gitea), number, str(first.id))
    remarks = (await one.standing(repo(gitea), number)).remarks
    assert [(r.text, r.resolved) for r in remarks] == [("Style.", True), ("Resolved.", True)]
    with pytest.raises(ForgeError, match="no thread 99"):
        await one.resolve(repo(gitea), number, "99")


# -- checks ------------------------------------------------------------------------------------------------------------
async def test_a_check_of_another_system_has_no_log_and_cannot_run_again(gitea: Gitea) -> None:
    one = forge(gitea)
    (number,) = await opened(gitea, one, "a")
    head = gitea.state.places[WEB].pulls[number].head_sha
    asked = {"context": "woodpecker", "state": "error", "target_url": "https://ci.example/7"}
    await one.service.write("POST", f"/repos/{WEB}/statuses/{head}", asked)
    (check,) = (await one.standing(repo(gitea), number)).checks
    assert (check.name, check.state, check.url) == ("woodpecker", "failed", "https://ci.example/7")
    assert await one.log(repo(gitea), check) == ""
    with pytest.raises(ForgeError, match="woodpecker is no check of Actions"):
        await one.rerun(repo(gitea), check)


async def test_a_forge_that_cannot_run_a_check_again_says_so_with_the_cure(gitea: Gitea) -> None:
    gitea.forgejo, one = True, forge(gitea)
    (number,) = await opened(gitea, one, "a")
    gitea.state.check(WEB, gitea.state.places[WEB].pulls[number].head_sha, "test", "failure", "flaky")
    (check,) = (await one.standing(repo(gitea), number)).checks
    with pytest.raises(ForgeError) as told:
        await one.rerun(repo(gitea), check)
    assert "Gitea can since 1.26" in told.value.hint
    assert (await one.log(repo(gitea), check)) == "flaky"
    gitea.forgejo = False
    gitea.trouble.next("rerun-failed-jobs", LOST)
    await one.rerun(repo(gitea), check)
    assert [c.state for c in (await one.standing(repo(gitea), number)).checks] == ["running"]


# -- merging -----------------------------------------------------------------------------------------------------------
async def settled(gitea: Gitea, one: GiteaForge, number: int) -> str:
    await one.standing(repo(gitea), number)
    return (await one.standing(repo(gitea), number)).pull.head


async def test_the_forge_merges_itself_once_all_is_green_and_is_told_so_once(gitea: Gitea) -> None:
    one = forge(gitea)
    (number,) = await opened(gitea, one, "a")
    head = await settled(gitea, one, number)
    gitea.state.check(WEB, head, "test", "pending")
    with pytest.raises(ForgeError, match="not at 000000000000 any more"):
        await one.merge(repo(gitea), number, "0" * 40, "green")
    gitea.trouble.next("/merge", LOST)
    for _ in range(2):
        assert (await one.merge(repo(gitea), number, head, "green")).state == "open"
    assert (await forge(gitea).standing(repo(gitea), number)).merging
    gitea.state.touch(gitea.state.places[WEB].pulls[number], "pull_cancel_scheduled_merge")
    assert not (await one.standing(repo(gitea), number)).merging
    gitea.state.check(WEB, head, "test", "success")
    assert (await one.standing(repo(gitea), number)).pull.state == "merged"


async def test_there_is_no_queue_and_it_says_what_to_set_instead(gitea: Gitea) -> None:
    with pytest.raises(ForgeError) as told:
        await forge(gitea).merge(repo(gitea), 1, "0" * 40, "queue")
    assert 'merge = "green"' in told.value.hint


async def test_a_merge_without_an_answer_is_a_merge_and_is_done_as_the_repository_allows(gitea: Gitea) -> None:
    one, place = forge(gitea), gitea.state.places[WEB]
    place.styles = ("merge",)
    (number,) = await opened(gitea, one, "a")
    head = await settled(gitea, one, number)
    gitea.trouble.next("/merge", LOST)
    merged = await one.merge(repo(gitea), number, head, "now")
    assert (merged.state, merged.merged_sha) == ("merged", place.bare.sha("refs/heads/main"))
    assert len(place.bare.git("log", "-1", "--format=%P", "main").split()) == 2


async def test_while_it_is_looked_for_conflicts_it_is_refused_in_the_forges_words(gitea: Gitea) -> None:
    one = forge(gitea)
    (number,) = await opened(gitea, one, "a")
    gitea.state.places[WEB].pulls[number].checking = 99
    with pytest.raises(ForgeError, match=r"405.*try again later"):
        await one.merge(repo(gitea), number, gitea.state.places[WEB].pulls[number].head_sha, "now")


# -- credentials and settings ------------------------------------------------------------------------------------------
def test_nobody_pushes_without_the_token_and_nothing_shows_it(
    gitea: Gitea, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = forge(gitea, token="gta_nightcrew")
    env = one.git_env(repo(gitea))
    assert "gta_nightcrew" not in repr(env) + repr(one.settings) + repr(one.service)
    clone = Clone(tmp_path / "clone", repo(gitea).url, env)
    clone.push("a", one="1")
    assert "Authorization" not in (tmp_path / "clone/.git/config").read_text()
    for token in ("gta_nobody", "gta_eve"):
        monkeypatch.setenv("GITEA_TOKEN", token)
        stranger = Clone(tmp_path / token[4:], repo(gitea).url, forge(gitea).git_env(repo(gitea)))
        with pytest.raises(subprocess.CalledProcessError) as told:
            stranger.push("b", one="1")
        assert token not in str(told.value) + str(told.value.stderr)
    assert gitea.state.places[WEB].bare.sha("refs/heads/b") == ""


async def test_a_token_that_is_not_accepted_is_told_and_not_shown(
    gitea: Gitea, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITEA_TOKEN", "gta_nobody")
    with pytest.raises(ForgeError) as told:
        await forge(gitea).list(repo(gitea))
    assert "gta_nobody" not in told.value.sentence()
    assert "give a new one" in told.value.hint


def test_over_ssh_git_uses_the_persons_own_key(gitea: Gitea) -> None:
    assert forge(gitea).git_env(Repo("web", "git@codeberg.org:acme/web.git")) == {}


def test_mistakes_in_the_settings_are_named_with_their_cure(gitea: Gitea, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, where, cure in (
        ({}, r"\[forges.tea\] url", 'url = "https://codeberg.org"'),
        ({"url": "https://x", "merge": "octopus"}, r"\[forges.tea\] merge", '"squash"'),
        ({"url": "https://x", "tokn": "y"}, r"\[forges.tea\] tokn: unknown key", "`token`"),
    ):
        with pytest.raises(ConfigError, match=where) as told:
            GiteaForge("tea", settings, Path("/"))
        assert cure in told.value.hint
    with pytest.raises(ConfigError, match="does not say which repository"):
        forge(gitea).git_env(Repo("web", "https://codeberg.org/acme"))
    monkeypatch.delenv("GITEA_TOKEN")
    with pytest.raises(ConfigError, match="the environment has no GITEA_TOKEN"):
        forge(gitea).git_env(repo(gitea))


async def test_it_tells_who_it_is_and_what_it_may_not_do(gitea: Gitea, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await forge(gitea).about(repo(gitea)) == {"login": "nightcrew", "places": [], "missing": []}
    gitea.state.scopes["gta_ada"] = frozenset({"read:user"})
    for token, words in (("gta_eve", "may not push to acme/web"), ("gta_ada", "may not read acme/web")):
        monkeypatch.setenv("GITEA_TOKEN", token)
        missing = (await forge(gitea).about(repo(gitea)))["missing"]
        assert words in str(missing)


# -- reading -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("status", "headers", "wait"), [
    (200, {}, None), (403, {}, None), (429, {"retry-after": "30"}, 30), (429, {}, 60), (503, {}, None),
    (503, {"retry-after": "7"}, 7), (429, {"retry-after": "Thu, 01 Jan 1970 00:18:20 GMT"}, 100),
    (429, {"retry-after": "soon"}, 60),
])  # fmt: skip
def test_a_limit_is_read_from_what_stands_before_the_forge(
    status: int, headers: dict[str, str], wait: float | None
) -> None:
    limit = api.limits(Answer(status, headers, {}, ""), 1000.0)
    assert (limit and limit.wait) == wait


def test_a_pull_request_is_read_as_the_service_shows_it() -> None:
    """As Codeberg answers, cut to what is read; the branch was deleted after the merge."""
    here = {"owner": {"login": "acme"}, "full_name": "acme/web"}
    raw = {
        "id": 90, "number": 12, "title": "WIP: Add a map", "body": None, "state": "closed", "draft": True,
        "merged": True, "merged_at": "2026-11-27T04:30:00+01:00", "merge_commit_sha": "c" * 40,
        "html_url": "https://codeberg.org/acme/web/pulls/12", "created_at": "2026-11-27T04:12:00+01:00",
        "base": {"label": "main", "ref": "main", "sha": "b" * 40, "repo_id": 3, "repo": here},
        "head": {"label": "nightcrew/web-1", "ref": "refs/pull/12/head", "sha": "a" * 40, "repo_id": 3, "repo": here},
    }  # fmt: skip
    assert parse.parse_pull(raw, "web") == PullRequest(
        "web", 12, "nightcrew/web-1", "main", "Add a map", "", "merged", "a" * 40,
        "https://codeberg.org/acme/web/pulls/12", created_at="2026-11-27T03:12:00Z", merged_sha="c" * 40,
    )  # fmt: skip


def test_commit_statuses_are_read_as_actions_writes_them() -> None:
    address = "/acme/web/actions/runs/14/jobs/1"
    rows = [
        {"id": 7, "context": "CI / test (push)", "status": "pending", "target_url": address},
        {"id": 9, "context": "CI / test (push)", "status": "failure", "target_url": address},
        {"id": 8, "context": "ci/lint", "status": "warning", "target_url": ""},
    ]
    origin = "https://git.example/"
    checks = parse.parse_checks(rows, "abc", ["CI / *"], origin)
    assert checks == (
        Check("CI / test (push)", "failed", "abc/9", f"https://git.example{address}", True),
        Check("ci/lint", "passed", "abc/8", origin),
    )
    runs = [{"id": n, "html_url": f"https://git.example/acme/web/actions/runs/{n - 100}"} for n in (104, 114)]
    jobs = [{"id": 1, "name": "build", "html_url": ""}, {"id": 2, "name": "test", "html_url": ""}]
    assert [found and found["id"] for found in (parse.run_of(checks[0], runs), parse.run_of(checks[1], runs))] == [
        114, None,
    ]  # fmt: skip
    assert (parse.job_of(checks[0], jobs) or {})["id"] == 2
    jobs[0]["html_url"] = f"https://git.example{address}"
    assert (parse.job_of(checks[0], jobs) or {})["id"] == 1


def test_what_is_said_is_read_in_order_with_who_said_it() -> None:
    ada, we = {"id": 5, "login": "Ada"}, {"id": 6, "login": "nightcrew"}
    line = {"pull_request_review_id": 40, "path": "map.py", "position": 0, "original_position": 8, "resolver": None}
    lines = [
        {"id": 3, "body": "Why?", "user": ada, "created_at": "2026-11-27T04:12:02+01:00", **line},
        {"id": 4, "body": f"{parse.mark('k')}{parse.mark('re-3')}\nSo.", "user": we, **line,
         "created_at": "2026-11-27T04:12:03+01:00", "pull_request_review_id": 41},
        {"id": 5, "body": f"{parse.mark('re-3')}\nForged.", "user": ada, **line, "position": 9,
         "created_at": "2026-11-27T04:12:03+01:00", "pull_request_review_id": 42},
    ]  # fmt: skip
    reviews = [{"id": 2, "user": None, "state": "REQUEST_CHANGES", "body": "No.", "dismissed": False,
                "submitted_at": "2026-11-27T03:12:01Z"},
               {"id": 9, "user": ada, "state": "REQUEST_REVIEW", "body": "", "dismissed": False,
                "submitted_at": "2026-11-27T03:12:01Z"}]  # fmt: skip
    actions = {"id": 1, "body": "Built.", "user": {"id": -2, "login": "helper"}, "created_at": "2026-11-27T03:12:00Z"}
    threads = parse.threads(reversed(lines), "nightcrew")
    remarks = parse.parse_remarks([actions], reviews, threads, "nightcrew", {"ada"}, ())
    at = "2026-11-27T03:12:0"
    assert remarks == (
        Remark("1", "helper", "Built.", f"{at}0Z", bot=True),
        Remark("r2", "Ghost", "No.", f"{at}1Z", verdict="changes"),
        Remark("3", "Ada", "Why?", f"{at}2Z", "3", "map.py", 8, trusted=True),
        Remark("4", "nightcrew", "So.", f"{at}3Z", "3", "map.py", 8, mine=True),
        Remark("5", "Ada", "Forged.", f"{at}3Z", "5", "map.py", 9, trusted=True),
    )


def test_webhooks_are_taken_when_they_are_signed_with_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "word")
    one = GiteaForge("tea", {"url": "https://codeberg.org", "webhook_secret": "$HOOK"}, Path("/"))
    headers = {"x-gitea-delivery": "one", "x-gitea-signature": hmac.digest(b"word", b"{}", "sha256").hex()}
    assert isinstance(one, Hooked)
    assert one.delivery(b"{}", headers, 0) == "one"
    assert one.delivery(b"[]", headers, 0) is None
    assert one.delivery(b"{}", {"x-gitea-signature": "é"}, 0) is None
    with pytest.raises(ConfigError, match=r"webhook_secret: there is none"):
        GiteaForge("tea", {"url": "https://codeberg.org"}, Path("/")).delivery(b"{}", headers, 0)
