"""Pull requests beside a repository: what a merge does to it, what a person does without us, and what can go wrong."""

from __future__ import annotations

import asyncio
import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nightcrew.adapters.forges.local import LocalForge
from nightcrew.core.model import PullRequest, Repo
from nightcrew.errors import ConfigError, ForgeError
from tests.conftest import Repository

SEEN: Any = {"capture_output": True, "text": True}


@pytest.fixture
def forge(tmp_path: Path) -> LocalForge:
    return LocalForge("local", {}, tmp_path)


@pytest.fixture
def web(repo: Repository) -> Repo:
    """The owner's checkout, `main` checked out, with branch `work` one commit ahead and branch `other` another."""
    for branch in ("work", "other"):
        repo.git("checkout", "-q", "-b", branch, "main")
        repo.commit(f"{branch}: first", **{f"{branch}_txt": f"{branch}\n"})
    repo.git("checkout", "-q", "main")
    return Repo("web", str(repo.path))


def pulls(repo: Repository) -> Path:
    return repo.path / ".git/nightcrew/pulls"


def advance(repo: Repository, branch: str, **files: str) -> str:
    """One more commit on a branch, as a push brings it: no work tree sees it."""
    tree = repo.path.parent / "elsewhere"
    repo.git("worktree", "add", "-q", "--detach", str(tree), branch)
    sha = Repository(tree).commit("more", **files)
    repo.git("update-ref", f"refs/heads/{branch}", sha)
    repo.git("worktree", "remove", "--force", str(tree))
    return sha


async def opened(forge: LocalForge, web: Repo, branch: str = "work") -> PullRequest:
    return await forge.open(web, branch, "Add work", "body")


async def only(forge: LocalForge, web: Repo) -> PullRequest:
    (pull,) = await forge.list(web)
    return pull


# -- merging -----------------------------------------------------------------------------------------------------------
async def test_a_merge_makes_a_commit_that_names_the_pull_request(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    base, head = repo.sha("main"), repo.sha("work")
    repo.git("config", "user.name", "Grace")
    repo.git("config", "user.email", "grace@example.com")
    merged = await forge.merge(web, (await opened(forge, web)).number)
    assert merged.merged_sha == repo.sha("main")
    assert repo.git("log", "-1", "--format=%P|%an <%ae>|%s", "main") == (
        f"{base} {head}|Grace <grace@example.com>|Merge pull request #1: Add work"
    )
    assert "Merge pull request #1" in repo.git("reflog", "-1", "main")


async def test_a_clean_checkout_of_the_base_has_the_merged_files(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    repo.write("untracked.tmp", "mine")
    repo.write(".gitignore", "*.log\nbuild/\n")  # touched, not changed
    await forge.merge(web, (await opened(forge, web)).number)
    assert (repo.path / "work.txt").read_text() == "work\n"
    assert repo.git("status", "--porcelain") == "?? untracked.tmp"
    assert repo.git("symbolic-ref", "HEAD") == "refs/heads/main"


@pytest.mark.parametrize("staged", [False, True])
async def test_uncommitted_changes_in_the_base_refuse_the_merge_and_stay(
    forge: LocalForge, web: Repo, repo: Repository, staged: bool
) -> None:
    number = (await opened(forge, web)).number
    repo.write("calc.py", "half done\n")
    if staged:
        repo.git("add", "calc.py")
    before = (repo.sha("main"), repo.git("status", "--porcelain"))
    with pytest.raises(ForgeError, match=r"has uncommitted changes \(calc.py\)") as caught:
        await forge.merge(web, number)
    assert "Commit or stash" in caught.value.hint
    assert (repo.sha("main"), repo.git("status", "--porcelain")) == before
    assert ((repo.path / "calc.py").read_text(), (await only(forge, web)).state) == ("half done\n", "open")


async def test_a_file_of_the_owner_that_is_in_the_way_refuses_the_merge_and_stays(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    number = (await opened(forge, web)).number
    repo.write("work.txt", "the owner's own, never added")
    base = repo.sha("main")
    with pytest.raises(ForgeError, match=r"work\.txt"):
        await forge.merge(web, number)
    assert (repo.path / "work.txt").read_text() == "the owner's own, never added"
    assert (repo.sha("main"), (await only(forge, web)).state) == (base, "open")


async def test_a_checkout_of_another_branch_is_not_touched(forge: LocalForge, web: Repo, repo: Repository) -> None:
    repo.git("checkout", "-q", "other")
    repo.write("calc.py", "half done\n")
    await forge.merge(web, (await opened(forge, web)).number)
    assert repo.git("show", "main:work.txt") == "work"
    assert (repo.git("status", "--porcelain"), (repo.path / "work.txt").exists()) == ("M calc.py", False)


async def test_a_linked_work_tree_of_the_base_is_updated_and_can_name_the_repository(
    forge: LocalForge, web: Repo, repo: Repository, tmp_path: Path
) -> None:
    repo.git("checkout", "-q", "other")
    linked = tmp_path / "linked tree"
    repo.git("worktree", "add", "-q", str(linked), "main")
    there = Repo("web", str(linked))
    pull = await opened(forge, there)
    assert await forge.find(web, "work") == pull
    await forge.merge(there, pull.number)
    assert (linked / "work.txt").read_text() == "work\n"
    assert Repository(linked).git("status", "--porcelain") == ""


async def test_conflicts_name_the_files_and_leave_everything_as_it_was(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    repo.git("checkout", "-q", "-b", "theirs")
    repo.commit("theirs", calc_py="theirs\n", docs__new_md="theirs\n")
    repo.git("checkout", "-q", "main")
    number = (await opened(forge, web, "theirs")).number
    repo.commit("ours", calc_py="ours\n", docs__new_md="ours\n")
    base = repo.sha("main")
    with pytest.raises(
        ForgeError, match=r"web #1 cannot be merged into main: there are conflicts in calc.py, docs/new.md"
    ):
        await forge.merge(web, number)
    assert (repo.sha("main"), repo.git("status", "--porcelain")) == (base, "")


async def test_a_base_that_moved_since_the_last_look_is_merged_into_as_it_is(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    number = (await opened(forge, web)).number
    repo.commit("meanwhile", meanwhile_txt="x\n")
    await forge.merge(web, number)
    assert {p.name for p in repo.path.iterdir()} >= {"meanwhile.txt", "work.txt"}


async def test_merges_of_two_processes_at_once_both_arrive(
    forge: LocalForge, web: Repo, repo: Repository, tmp_path: Path
) -> None:
    numbers = [(await opened(forge, web, branch)).number for branch in ("work", "other")]
    await asyncio.gather(*(LocalForge("local", {}, tmp_path).merge(web, n) for n in [*numbers, *numbers]))
    assert repo.git("rev-list", "--merges", "--count", "main") == "2"
    assert [p.state for p in await forge.list(web)] == ["merged", "merged"]
    assert repo.git("status", "--porcelain") == ""


async def test_a_crash_after_the_merge_and_before_the_record_is_seen_as_merged(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    number = (await opened(forge, web)).number
    before = (pulls(repo) / "1.json").read_bytes()
    merged = await forge.merge(web, number)
    (pulls(repo) / "1.json").write_bytes(before)
    assert await only(forge, web) == merged
    assert repo.git("rev-list", "--merges", "--count", "main") == "1"


# -- what a person does with plain git ---------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["--no-ff", "--ff-only"])
@pytest.mark.parametrize("later", [False, True])
async def test_a_merge_by_hand_is_shown_as_merged(
    forge: LocalForge, web: Repo, repo: Repository, how: str, later: bool
) -> None:
    await opened(forge, web)
    head = repo.sha("work")
    repo.git("merge", "-q", how, "-m", "by hand", "work")
    merged = repo.sha("main")
    if later:
        repo.commit("later", later_txt="x\n")
        repo.git("branch", "-q", "-D", "work")
    pull = await only(forge, web)
    assert (pull.state, pull.head, pull.merged_sha) == ("merged", head, merged)
    assert "+work" in (await forge.diff(web, pull.number)).splitlines()
    assert (await forge.merge(web, pull.number)) == pull


async def test_new_commits_merged_by_hand_before_we_looked_are_merged_too(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    await opened(forge, web)
    head = advance(repo, "work", more_txt="more\n")
    repo.git("merge", "-q", "--no-ff", "-m", "by hand", "work")
    pull = await only(forge, web)
    assert (pull.state, pull.head) == ("merged", head)


async def test_a_branch_that_was_reset_to_its_base_is_not_merged(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    number = (await opened(forge, web)).number
    repo.git("branch", "-f", "work", "main")
    for _ in range(2):
        pull = await only(forge, web)
        assert (pull.state, pull.head) == ("open", repo.sha("main"))
    with pytest.raises(ForgeError, match="there is nothing to merge"):
        await forge.merge(web, number)
    head = advance(repo, "work", again_txt="again\n")
    assert ((await only(forge, web)).state, (await only(forge, web)).head) == ("open", head)
    assert (await forge.merge(web, number)).state == "merged"


async def test_the_commits_of_a_deleted_branch_are_kept_and_can_be_merged(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    pull = await opened(forge, web)
    repo.git("branch", "-q", "-D", "work")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    assert await forge.list(web) == [pull]
    assert "+work" in (await forge.diff(web, pull.number)).splitlines()
    await forge.merge(web, pull.number)
    assert repo.git("show", "main:work.txt") == "work"


async def test_the_ref_follows_the_head_while_open_and_is_frozen_after(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    number = (await opened(forge, web)).number
    head = advance(repo, "work", more_txt="more\n")
    await forge.list(web)
    assert repo.sha("refs/pull/1/head") == head
    closed = await forge.close(web, number)
    advance(repo, "work", most_txt="most\n")
    assert (await only(forge, web), repo.sha("refs/pull/1/head")) == (closed, head)
    assert repo.git("branch", "--list", "work").strip() == "work"


async def test_a_change_of_the_title_is_no_answer_to_a_request(forge: LocalForge, web: Repo, repo: Repository) -> None:
    number = (await opened(forge, web)).number
    await forge.request_changes(web, number, "Ada", "use two\nspaces")
    assert (await forge.update(web, number, "Better", "")).changes_requested == "use two\nspaces"
    repo.commit("on main", other_txt="x\n")
    assert (await only(forge, web)).changes_requested == "use two\nspaces"
    repo.git("branch", "-f", "work", "work~1")
    assert (await only(forge, web)).changes_requested == ""


async def test_reading_twice_writes_once(forge: LocalForge, web: Repo, repo: Repository) -> None:
    await opened(forge, web)
    advance(repo, "work", more_txt="more\n")
    await forge.list(web)
    before = (pulls(repo) / "1.json").stat()
    await forge.list(web)
    await forge.find(web, "work")
    assert (pulls(repo) / "1.json").stat() == before


# -- what can go wrong -------------------------------------------------------------------------------------------------
async def test_a_branch_without_a_commit_of_its_own_is_refused(forge: LocalForge, web: Repo, repo: Repository) -> None:
    repo.git("branch", "empty", "main")
    with pytest.raises(ForgeError, match="web: empty has no commit that main has not"):
        await opened(forge, web, "empty")
    with pytest.raises(ForgeError, match="web has no branch nowhere"):
        await forge.open(Repo("web", web.url, base="nowhere"), "work", "", "")


async def test_looking_at_a_repository_without_pull_requests_writes_nothing(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    assert await forge.list(web) == []
    assert await forge.find(web, "work") is None
    with pytest.raises(ForgeError, match="web has no pull request #1"):
        await forge.merge(web, 1)
    assert not pulls(repo).parent.exists()


@pytest.mark.parametrize("url", ["https://forge.example/a.git", "git@forge.example:a/b.git", "ssh://forge.example/a"])
async def test_an_address_of_another_machine_is_refused_with_what_to_do(forge: LocalForge, url: str) -> None:
    with pytest.raises(ForgeError, match="web: the local forge") as caught:
        await forge.list(Repo("web", url))
    assert "Clone it" in caught.value.hint


async def test_a_folder_that_is_no_repository_is_refused_also_inside_one(
    forge: LocalForge, web: Repo, repo: Repository, tmp_path: Path
) -> None:
    for folder in (tmp_path / "plain", repo.path / "docs/deeper"):
        folder.mkdir(parents=True)
        with pytest.raises(ForgeError, match="not a git repository") as caught:
            await forge.list(Repo("web", str(folder)))
        assert "git init" in caught.value.hint
    with pytest.raises(ForgeError, match="there is no repository at"):
        await forge.list(Repo("web", "nowhere"))


async def test_a_path_may_be_a_file_address_or_start_at_the_configuration(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    pull = await opened(forge, web)
    assert await forge.list(Repo("web", f"file://{repo.path}")) == [pull]
    assert await forge.list(Repo("web", repo.path.name)) == [pull]
    assert await forge.list(Repo("web", str(repo.path / ".git"))) == [pull]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"number": 1}', b"\xff"])
async def test_a_broken_record_stops_everything_and_is_named(
    forge: LocalForge, web: Repo, repo: Repository, raw: bytes
) -> None:
    await opened(forge, web)
    (pulls(repo) / "1.json").write_bytes(raw)
    with pytest.raises(ForgeError, match=r"pulls/1\.json cannot be read"):
        await forge.find(web, "work")
    with pytest.raises(ForgeError, match=r"pulls/1\.json cannot be read"):
        await opened(forge, web)


async def test_files_that_are_no_records_are_left_alone(forge: LocalForge, web: Repo, repo: Repository) -> None:
    pull = await opened(forge, web)
    for name in ("0.json", "01.json", "x.json", ".2.json.tmp", "2.json~"):
        (pulls(repo) / name).write_text("{")
    assert await forge.list(web) == [pull]
    assert (await opened(forge, web, "other")).number == 2


async def test_what_no_text_file_can_hold_is_replaced(forge: LocalForge, web: Repo) -> None:
    pull = await forge.open(web, "work", "a\udcffb", "\0\udcff")
    assert (pull.title, pull.body) == ("a?b", "\0?")
    assert (await forge.merge(web, pull.number)).state == "merged"


async def test_a_held_lock_is_waited_for_and_waiting_can_be_cancelled(
    forge: LocalForge, web: Repo, repo: Repository
) -> None:
    pull = await opened(forge, web)
    with (pulls(repo).parent / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(forge.list(web), 0.2)
        waiting = asyncio.create_task(forge.list(web))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        fcntl.flock(held, fcntl.LOCK_UN)
        assert await asyncio.wait_for(waiting, 20) == [pull]


TELL = """
from nightcrew.core.model import Repo
from nightcrew.errors import ForgeError
try:
    asyncio.run(LocalForge("local", {}, Path(".")).open(Repo("web", "upstream"), "work", "title", "body"))
except ForgeError as error:
    print(error.sentence())
"""
NOBODY = """\
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from nightcrew.adapters.forges.local import LocalForge
os.chdir(sys.argv[1])
if os.geteuid() == 0:  # root may write everything, so be somebody else
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
"""
FULL = """\
import asyncio, os, resource, sys
from pathlib import Path
from nightcrew.adapters.forges.local import LocalForge
os.chdir(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
"""


def test_a_repository_that_may_not_be_used_is_told_in_one_sentence(web: Repo, repo: Repository) -> None:
    git_dir = repo.path / ".git"
    git_dir.chmod(0o555)
    ran = subprocess.run([sys.executable, "-c", NOBODY + TELL, str(repo.path.parent)], check=False, **SEEN)
    git_dir.chmod(0o755)
    assert ran.stdout.startswith("web: "), ran.stderr
    assert ran.stdout.endswith("cannot be used: Permission denied. Check its permissions and the disk.\n")
    assert not pulls(repo).parent.exists()


async def test_a_file_where_the_records_should_be_is_told(forge: LocalForge, web: Repo, repo: Repository) -> None:
    pulls(repo).parent.write_text("mine")
    with pytest.raises(ForgeError, match=r"web: .*/\.git/nightcrew.* cannot be used: "):
        await opened(forge, web)
    assert pulls(repo).parent.read_text() == "mine"


def test_a_full_disk_is_told_in_one_sentence_and_leaves_no_half_record(web: Repo, repo: Repository) -> None:
    ran = subprocess.run([sys.executable, "-c", FULL + TELL, str(repo.path.parent)], check=False, **SEEN)
    assert "cannot be used: File too large." in ran.stdout, ran.stderr
    assert list(pulls(repo).iterdir()) == []


async def test_the_record_is_json_that_people_can_read(forge: LocalForge, web: Repo, repo: Repository) -> None:
    pull = await opened(forge, web)
    record = json.loads((pulls(repo) / "1.json").read_text())
    assert (record["branch"], record["title"], record["state"]) == ("work", "Add work", "open")
    assert pull.url == (pulls(repo) / "1.json").as_uri()
    assert forge.git_env(web) == {}


def test_a_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[forges\.local\] token: unknown key"):
        LocalForge("local", {"token": "x"}, tmp_path)
