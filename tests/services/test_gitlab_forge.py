"""What GitLab's forge costs, reads and hides, beyond what every forge promises."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from nightcrew.adapters import gitlab_api
from nightcrew.adapters.forges.gitlab import GitLabForge, follow
from nightcrew.adapters.forges.gitlab.parse import parse_pull
from nightcrew.core.model import Check, Repo, Standing
from nightcrew.errors import ConfigError, ForgeError
from nightcrew.testing.company.gitlab import GitLab
from nightcrew.testing.company.gitlab_state import Merge, Place
from nightcrew.testing.company.standin import LOST
from tests.clones import Clone
from tests.services.made import gitlab_forge as forge

pytestmark = pytest.mark.slow

WEB = "acme/crew/web"
M = "/api/v4/projects/{id}/merge_requests"
RETRY = "POST /api/v4/projects/{id}/jobs/{job_id}/retry"


def repo(gitlab: GitLab) -> Repo:
    return Repo("web", gitlab.clone_url(WEB), forge="lab")


def place(gitlab: GitLab) -> Place:
    return gitlab.state.places[WEB]


async def opened(gitlab: GitLab, one: GitLabForge, *branches: str) -> list[int]:
    for branch in branches:
        place(gitlab).bare.commit(branch, "change", {branch: "1"})
    return [(await one.open(repo(gitlab), branch, branch, "")).number for branch in branches]


async def settled(gitlab: GitLab, one: GitLabForge, number: int) -> Standing:
    for _ in range(5):
        if (standing := await one.standing(repo(gitlab), number)).mergeable is not None:
            return standing
    raise AssertionError("it is never found out whether it merges")


async def test_35_unchanged_merge_requests_cost_three_requests(gitlab: GitLab) -> None:
    one = forge(gitlab)
    numbers = await opened(gitlab, one, *(f"b{n}" for n in range(35)))
    await one.stamps(repo(gitlab), numbers)
    gitlab.log.clear()
    first = await one.stamps(repo(gitlab), numbers)
    assert gitlab.counts() == {f"GET {M}": 1, "GET /api/v4/projects/{id}/pipelines": 1,
                               "GET /api/v4/projects/{id}/repository/branches/{branch}": 1}  # fmt: skip
    assert await one.stamps(repo(gitlab), numbers) == first
    assert set(first) == set(numbers)


async def test_a_standing_costs_five_requests_and_one_more_with_a_pipeline(gitlab: GitLab) -> None:
    one = forge(gitlab)
    (number,) = await opened(gitlab, one, "a")
    standing = await settled(gitlab, one, number)
    gitlab.log.clear()
    await one.standing(repo(gitlab), number)
    assert len(gitlab.log) == 5  # what the project wants is known for an hour
    gitlab.state.check(place(gitlab), standing.pull.head, "test", "success")
    gitlab.log.clear()
    await one.standing(repo(gitlab), number)
    assert len(gitlab.log) == 6


async def test_an_unchanged_list_costs_one_request_that_is_answered_304(gitlab: GitLab) -> None:
    one = forge(gitlab)
    await opened(gitlab, one, "a", "b")
    first = await one.list(repo(gitlab))
    gitlab.log.clear()
    assert await one.list(repo(gitlab)) == first
    assert [exchange.status for exchange in gitlab.log] == [304]


async def test_a_list_is_read_on_only_to_what_is_known(gitlab: GitLab) -> None:
    one, there = forge(gitlab), place(gitlab)
    sha = there.bare.sha("refs/heads/main")
    for n in range(1, 251):
        at = f"2026-01-01T00:{n // 60:02}:{n % 60:02}.000Z"
        there.merges[n] = Merge(n, n, "t", "", "ada", at, at, state="closed", source=f"b{n}", sha=sha)
    assert [p.number for p in await one.list(repo(gitlab))] == list(range(250, 0, -1))
    assert len(gitlab.log) == 3
    gitlab.state.touch(there.merges[7])
    there.merges[7].state = "merged"
    gitlab.log.clear()
    assert {p.number for p in await one.list(repo(gitlab)) if p.state == "merged"} == {7}
    assert len(gitlab.log) == 1


async def test_a_merge_request_whose_creation_was_not_answered_is_found_again(gitlab: GitLab) -> None:
    one = forge(gitlab)
    gitlab.trouble.next(f"POST {M}", LOST)
    (number,) = await opened(gitlab, one, "a")
    assert list(place(gitlab).merges) == [number]


async def test_a_second_one_is_refused_in_gitlabs_words(gitlab: GitLab) -> None:
    one = forge(gitlab)
    await opened(gitlab, one, "a")
    with pytest.raises(ForgeError, match=r"409.*already exists for this source branch: !1"):
        await one.open(repo(gitlab), "a", "again", "")


async def test_a_branch_of_the_same_name_in_a_fork_is_not_ours(gitlab: GitLab) -> None:
    one, now = forge(gitlab), gitlab.state.now()
    (number,) = await opened(gitlab, one, "a")
    place(gitlab).merges[9] = Merge(9, 9, "t", "", "eve", now, now, source="a", sha="0" * 40, fork=True)
    found = await one.find(repo(gitlab), "a")
    assert found is not None
    assert (found.number, [p.number for p in await one.list(repo(gitlab))]) == (number, [number])


async def test_a_draft_is_opened_with_reviewers_and_labels(gitlab: GitLab, caplog: pytest.LogCaptureFixture) -> None:
    one = forge(gitlab, draft=True, reviewers=["ada", "nobody"], labels=["nightcrew"])
    (number,) = await opened(gitlab, one, "a")
    merge = place(gitlab).merges[number]
    assert (merge.draft, merge.labels, merge.reviewers) == (True, ["nightcrew"], {"ada": "unreviewed"})
    assert [r.message for r in caplog.records if r.name.startswith("nightcrew.forges")] == ["pull.no_reviewer"]
    changed = await one.update(repo(gitlab), number, "Better", "")
    assert (changed.title, merge.title) == ("Better", "Draft: Better")


async def test_that_labels_cannot_be_had_stops_nothing(gitlab: GitLab) -> None:
    one = forge(gitlab, labels=["nightcrew"])
    for _ in range(4):
        gitlab.trouble.next(f"PUT {M}/{{merge_request_iid}}", "error")
    (number,) = await opened(gitlab, one, "a")
    assert place(gitlab).merges[number].labels == []


async def test_a_ticket_called_draft_makes_no_draft_and_no_text_commands_gitlab(gitlab: GitLab) -> None:
    one, there = forge(gitlab), place(gitlab)
    there.bare.commit("a", "change", {"a": "1"})
    made = await one.open(repo(gitlab), "a", "Draft: a page", "Text\n/merge\n/close")
    gitlab.state.thread(there, there.merges[1], "ada", "a", "Why?")
    await one.say(repo(gitlab), made.number, "Done.\n/merge", "state")
    await one.answer(repo(gitlab), made.number, there.merges[1].threads[-2].id, "/close", "k")
    merge = there.merges[made.number]
    assert (made.title, merge.title, merge.draft, merge.state) == ("a page", "a page", False, "opened")
    assert made.body == "Text\n\\/merge\n\\/close"


async def test_a_conflict_is_told_of_a_draft_too_whose_status_names_another_reason(gitlab: GitLab) -> None:
    one = forge(gitlab, draft=True)
    (number,) = await opened(gitlab, one, "a")
    place(gitlab).bare.commit("main", "other", {"a": "2"})
    assert (await settled(gitlab, one, number)).mergeable is False
    raw = (await one.service.get(f"{gitlab_api.at(WEB)}/merge_requests/{number}")).data
    assert (raw["detailed_merge_status"], raw["has_conflicts"]) == ("draft_status", True)


async def test_only_those_who_are_named_are_trusted(gitlab: GitLab) -> None:
    one = forge(gitlab, people=["Bob"])
    (number,) = await opened(gitlab, one, "a")
    for who in ("ada", "bob"):
        gitlab.people.comment(repo(gitlab), number, who, "hello")
    assert {r.author: r.trusted for r in (await one.standing(repo(gitlab), number)).remarks} == {
        "ada": False, "bob": True,
    }  # fmt: skip


async def test_gitlabs_own_notes_are_no_remarks_and_a_verdict_is_one(gitlab: GitLab) -> None:
    one = forge(gitlab)
    (number,) = await opened(gitlab, one, "a")
    merge = place(gitlab).merges[number]
    gitlab.state.relabel(place(gitlab), merge, ("bug",))
    gitlab.state.request_changes(merge, "ada")
    (said,) = (await one.standing(repo(gitlab), number)).remarks
    assert (said.author, said.verdict, said.text, said.trusted) == ("ada", "changes", "", True)
    gitlab.state.approve(merge, "ada")  # takes the other back
    (said,) = (await one.standing(repo(gitlab), number)).remarks
    assert (said.verdict, (await one.standing(repo(gitlab), number)).approvals) == ("approved", (merge.sha,))
    gitlab.state.request_changes(merge, "bob")  # outweighs it
    assert (await one.standing(repo(gitlab), number)).approvals == ()


async def test_rules_of_the_project_decide_what_is_approved_and_up_to_date(gitlab: GitLab) -> None:
    one, there = forge(gitlab), place(gitlab)
    there.approvals, there.merge_method, there.green = 2, "ff", True
    (number,) = await opened(gitlab, one, "a")
    gitlab.state.approve(there.merges[number], "ada")
    there.bare.commit("main", "more", {"more": "1"})
    standing = await settled(gitlab, one, number)
    assert (standing.approved, standing.behind, standing.mergeable) == (False, True, True)
    gitlab.state.check(there, standing.pull.head, "test", "failed")
    gitlab.state.check(there, standing.pull.head, "lint", "failed", allow_failure=True)
    gitlab.state.approve(there.merges[number], "bob")
    standing = await one.standing(repo(gitlab), number)
    assert {c.name: (c.state, c.required) for c in standing.checks} == {
        "test": ("failed", True), "lint": ("passed", False),
    }  # fmt: skip
    assert standing.approved


@pytest.mark.parametrize(("status", "jobs", "told"), [
    ("failed", [("test", "success", False)], {"test": "passed", "pipeline": "failed"}),  # a child pipeline failed
    ("failed", [("test", "failed", False), ("docs", "skipped", False)], {"test": "failed", "docs": "passed"}),
    ("success", [("test", "success", False), ("lint", "failed", True)], {"test": "passed", "lint": "passed"}),
    ("manual", [("test", "success", False), ("ship", "manual", False)], {"test": "passed"}),
    ("running", [("test", "created", False), ("ship", "manual", False)], {"test": "running"}),
    ("failed", [], {"pipeline": "failed"}), ("canceled", [("test", "canceled", False)], {"test": "failed"}),
    ("success", [], {"pipeline": "passed"}), ("created", [], {"pipeline": "running"}),
])  # fmt: skip
def test_checks_are_the_jobs_and_the_pipeline_where_no_job_tells(
    status: str, jobs: list[tuple[str, str, bool]], told: dict[str, str]
) -> None:
    rows = [{"id": n, "name": name, "status": state, "allow_failure": may} for n, (name, state, may) in enumerate(jobs)]
    pipeline = {"id": 5, "status": status, "sha": "a", "ref": "b"}
    found = follow.checks_of(follow.Told({}, pipeline=pipeline, jobs=rows))
    assert {check.name: check.state for check in found} == told


@pytest.mark.parametrize(("sha", "ref", "ours"), [
    ("a" * 40, "feature", True), ("b" * 40, "feature", False), ("b" * 40, "refs/merge-requests/7/merge", True),
    ("b" * 40, "refs/merge-requests/7/train", True), ("b" * 40, "refs/merge-requests/71/merge", False),
])  # fmt: skip
def test_the_pipeline_of_an_earlier_head_says_nothing(sha: str, ref: str, ours: bool) -> None:
    raw = {"iid": 7, "sha": "a" * 40, "head_pipeline": {"id": 1, "sha": sha, "ref": ref}}
    assert bool(follow.head_pipeline(raw)) == ours


@pytest.mark.parametrize(("more", "told"), [
    ({}, True), ({"has_conflicts": True, "detailed_merge_status": "draft_status"}, False),
    ({"detailed_merge_status": "ci_must_pass"}, True), ({"merge_status": "checking"}, None),
    ({"detailed_merge_status": "preparing"}, None), ({"merge_status": "cannot_be_merged_recheck"}, None),
    ({"merge_status": "cannot_be_merged"}, False),
])  # fmt: skip
def test_whether_it_merges_is_read_past_the_first_reason(more: dict[str, Any], told: bool | None) -> None:
    raw = {"merge_status": "can_be_merged", "detailed_merge_status": "mergeable", "has_conflicts": False, **more}
    assert follow.mergeable(raw) is told


@pytest.mark.parametrize(("more", "merged"), [
    ({"merge_commit_sha": "m", "squash_commit_sha": "s"}, "m"), ({"squash_commit_sha": "s"}, "s"), ({}, "h"),
])  # fmt: skip
def test_what_a_merge_request_says_becomes_a_pull_request(more: dict[str, Any], merged: str) -> None:
    raw = {
        "iid": 7, "title": "Draft: Fix", "description": None, "state": "merged", "source_branch": "a", "sha": "h",
        "target_branch": "main", "web_url": "https://g.example/acme/web/-/merge_requests/7",
        "created_at": "2026-01-04T17:31:51.081+02:00", "merge_commit_sha": None, "squash_commit_sha": None, **more,
    }  # fmt: skip
    pull = parse_pull(raw, "web")
    assert (pull.number, pull.title, pull.body, pull.state, pull.merged_sha) == (7, "Fix", "", "merged", merged)
    assert (pull.created_at, pull.head) == ("2026-01-04T15:31:51.081Z", "h")
    assert parse_pull(raw | {"state": "locked"}, "web").state == "open"
    assert parse_pull(raw | {"state": "opened"}, "web").merged_sha == ""


async def test_a_job_that_runs_again_is_asked_for_once(gitlab: GitLab) -> None:
    one = forge(gitlab)
    (number,) = await opened(gitlab, one, "a")
    head = (await one.standing(repo(gitlab), number)).pull.head
    gitlab.state.check(place(gitlab), head, "test", "failed", "\x1b[31mred\x1b[0m\n")
    (check,) = (await one.standing(repo(gitlab), number)).checks
    assert await one.log(repo(gitlab), check) == "red\n"
    gitlab.trouble.next(RETRY, LOST)
    with pytest.raises(ForgeError):
        await one.rerun(repo(gitlab), check)
    await one.rerun(repo(gitlab), check)
    assert gitlab.counts()[RETRY] == 1
    assert [(j.status, j.retried) for p in place(gitlab).pipelines for j in p.jobs] == [
        ("failed", True), ("pending", False),
    ]  # fmt: skip
    with pytest.raises(ForgeError, match="is no job of GitLab"):
        await one.rerun(repo(gitlab), Check("x", "failed", ""))


async def test_a_pipeline_can_run_its_failed_jobs_again(gitlab: GitLab) -> None:
    one = forge(gitlab)
    (number,) = await opened(gitlab, one, "a")
    head = (await one.standing(repo(gitlab), number)).pull.head
    gitlab.state.check(place(gitlab), head, "test", "success")
    place(gitlab).pipelines[0].status = "failed"
    check = next(c for c in (await one.standing(repo(gitlab), number)).checks if c.state == "failed")
    assert await one.log(repo(gitlab), check) == ""
    await one.rerun(repo(gitlab), check)
    assert place(gitlab).pipelines[0].status == "running"


async def test_the_forge_itself_can_be_told_to_merge_when_green(gitlab: GitLab) -> None:
    one, there = forge(gitlab), place(gitlab)
    (number,) = await opened(gitlab, one, "a")
    head = (await settled(gitlab, one, number)).pull.head
    gitlab.state.check(there, head, "test", "running")
    with pytest.raises(ForgeError, match="409"):
        await one.merge(repo(gitlab), number, "0" * 40, "green")
    gitlab.trouble.next(f"PUT {M}/{{merge_request_iid}}/merge", LOST)
    assert (await one.merge(repo(gitlab), number, head, "green")).state == "open"
    assert there.merges[number].auto
    assert (await one.standing(repo(gitlab), number)).merging


async def test_a_merge_train_is_the_queue_where_there_is_one(gitlab: GitLab) -> None:
    one, there = forge(gitlab), place(gitlab)
    (number,) = await opened(gitlab, one, "a")
    head = (await settled(gitlab, one, number)).pull.head
    with pytest.raises(ForgeError, match="403"):
        await one.merge(repo(gitlab), number, head, "queue")
    there.trains = True
    await one.merge(repo(gitlab), number, head, "queue")
    assert there.merges[number].train


@pytest.mark.parametrize(("merge", "option", "squashed"), [
    ("squash", "default_off", True), ("squash", "never", False), ("merge", "default_off", False),
    ("rebase", "default_on", False),
])  # fmt: skip
async def test_it_is_squashed_where_that_is_wanted_and_allowed(
    gitlab: GitLab, merge: str, option: str, squashed: bool
) -> None:
    one, there = forge(gitlab, merge=merge), place(gitlab)
    there.squash_option = option
    (number,) = await opened(gitlab, one, "a")
    head = (await settled(gitlab, one, number)).pull.head
    gitlab.trouble.next(f"PUT {M}/{{merge_request_iid}}/merge", LOST)
    merged = await one.merge(repo(gitlab), number, head, "now")
    assert (merged.state, merged.merged_sha) == ("merged", there.bare.sha("refs/heads/main"))
    assert bool(there.merges[number].squash_sha) == squashed


def test_nobody_pushes_without_the_token_and_nothing_shows_it(
    gitlab: GitLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = forge(gitlab)
    env = one.git_env(repo(gitlab))
    assert "glpat-nightcrew" not in repr(env) + repr(one.settings) + repr(one.account)
    clone = Clone(tmp_path / "clone", repo(gitlab).url, env)
    clone.push("a", one="1")
    assert "Authorization" not in (tmp_path / "clone/.git/config").read_text()
    for token in ("glpat-nobody", "glpat-eve"):
        monkeypatch.setenv("GITLAB_TOKEN", token)
        stranger = Clone(tmp_path / token[6:], repo(gitlab).url, forge(gitlab).git_env(repo(gitlab)))
        with pytest.raises(subprocess.CalledProcessError) as told:
            stranger.push("b", one="1")
        assert token not in str(told.value) + str(told.value.stderr)
    assert place(gitlab).bare.sha("refs/heads/b") == ""
    assert one.git_env(Repo("web", "git@gitlab.com:acme/crew/web.git")) == {}  # by ssh: the person's own key


def test_webhooks_are_taken_where_there_is_a_secret(gitlab: GitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "s3cret")
    one, told = forge(gitlab, webhook_secret="$HOOK"), {"idempotency-key": "d"}
    assert [one.delivery(b"", told | {"x-gitlab-token": t}, 0.0) for t in ("s3cret", "x")] == ["d", None]
    with pytest.raises(ConfigError, match="webhook_secret"):
        forge(gitlab).delivery(b"{}", {}, 0.0)


async def test_what_it_may_not_do_is_told(gitlab: GitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await forge(gitlab).about(repo(gitlab)))["missing"] == []
    monkeypatch.setenv("GITLAB_TOKEN", "glpat-gil")
    missing = f"It may not push and open merge requests in {WEB}: its role there must be at least Developer."
    assert (await forge(gitlab).about(repo(gitlab)))["missing"] == [missing]
    monkeypatch.setenv("GITLAB_TOKEN", "wrong")
    with pytest.raises(ForgeError, match="401") as told:
        await forge(gitlab).list(repo(gitlab))
    assert told.value.hint


def test_settings_that_cannot_be_used_are_named(gitlab: GitLab, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'fast' is no way to merge"):
        forge(gitlab, merge="fast")
    with pytest.raises(ConfigError, match="reviewer: unknown key"):
        forge(gitlab, reviewer="ada")
    with pytest.raises(ConfigError, match="does not say which GitLab project"):
        forge(gitlab).git_env(Repo("web", "https://gitlab.com/acme"))
    monkeypatch.delenv("GITLAB_TOKEN")
    with pytest.raises(ConfigError, match="the environment has no GITLAB_TOKEN"):
        forge(gitlab).git_env(repo(gitlab))
