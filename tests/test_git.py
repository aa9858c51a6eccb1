"""The hub: fetching, refs, pushing, and reading what an agent left without running any of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from nightcrew.errors import GitError
from nightcrew.git import Change, Hub, Merge, Push, PushRejected, git
from tests.conftest import Repository

BRANCH = "nightcrew/t-1"


@pytest.fixture
async def hub(tmp_path: Path, repo: Repository) -> Hub:
    made = Hub(tmp_path / "hub.git", str(repo.path))
    await made.ensure()
    await made.fetch_base("main")
    return made


@pytest.fixture
def tree(tmp_path: Path, hub: Hub, repo: Repository) -> Repository:
    """An agent's private clone, as a ticket's workspace is."""
    path = tmp_path / "tree"
    subprocess_clone(hub, path)
    made = Repository(path)
    made.git("remote", "remove", "origin")
    made.git("checkout", "-q", "-B", BRANCH, repo.sha())
    return made


def subprocess_clone(hub: Hub, path: Path) -> None:
    Repository(path.parent).git("clone", "-q", "--shared", "--no-checkout", str(hub.path), str(path))


async def lacking(hub: Hub, base: str = "main") -> str:
    with pytest.raises(GitError) as caught:
        await hub.fetch_base(base)
    return caught.value.sentence()


async def test_the_base_is_fetched_and_follows_the_upstream(hub: Hub, repo: Repository) -> None:
    assert await hub.fetch_base("main") == repo.sha()
    newer = repo.commit("third", more_txt="x")
    assert await hub.fetch_base("main") == newer
    assert await hub.refs("refs/remotes/origin/") == {"refs/remotes/origin/main": newer}


async def test_a_rewritten_base_is_followed_too(hub: Hub, repo: Repository) -> None:
    repo.git("reset", "-q", "--hard", "HEAD~1")
    assert await hub.fetch_base("main") == repo.sha()


async def test_a_dirty_checkout_upstream_stays_as_it_is(hub: Hub, repo: Repository) -> None:
    repo.write("calc.py", "half done")
    repo.write("new.txt", "untracked")
    before = repo.git("status", "--porcelain"), repo.sha(), repo.git("branch", "-a")
    await hub.fetch_base("main")
    assert (repo.git("status", "--porcelain"), repo.sha(), repo.git("branch", "-a")) == before


async def test_thirty_five_callers_at_once_all_get_the_base(hub: Hub, repo: Repository) -> None:
    newer = repo.commit("third")
    assert set(await asyncio.gather(*(hub.fetch_base("main") for _ in range(35)))) == {newer}


async def test_a_commit_keeps_the_name_of_its_base_whatever_is_fetched_after_it(hub: Hub, repo: Repository) -> None:
    first = await hub.fetch_base("main")
    repo.commit("moved", a_txt="1")
    second = await hub.fetch_base("main")
    repo.git("branch", "-m", "main", "gone")
    with pytest.raises(GitError):
        await hub.fetch_base("main")
    assert hub.fetched(first) == hub.fetched(second) == ["refs/remotes/origin/main"]


async def test_waiting_callers_share_one_fetch_and_later_ones_do_not(hub: Hub, repo: Repository) -> None:
    async with hub.lock:
        waiting = [asyncio.ensure_future(hub.fetch_base("main")) for _ in range(3)]
        await asyncio.sleep(0)
        newer = repo.commit("while they wait")
    assert await asyncio.gather(*waiting) == [newer] * 3
    newest = repo.commit("after")
    assert await hub.fetch_base("main") == newest


async def test_a_cancelled_caller_does_not_spoil_it_for_the_others(hub: Hub, repo: Repository) -> None:
    first, second = (asyncio.ensure_future(hub.fetch_base("main")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == repo.sha()


async def test_a_missing_repository_is_named(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub.git", str(tmp_path / "gone"))
    await hub.ensure()
    said = await lacking(hub)
    assert f"the repository {tmp_path / 'gone'} does not exist" in said


async def test_a_folder_that_is_no_repository_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    hub = Hub(tmp_path / "hub.git", str(tmp_path / "plain"))
    await hub.ensure()
    assert "is not a git repository" in await lacking(hub)


async def test_a_repository_without_commits_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    Repository(tmp_path / "empty").git("init", "-q")
    hub = Hub(tmp_path / "hub.git", str(tmp_path / "empty"))
    await hub.ensure()
    assert "has no commits yet" in await lacking(hub)


async def test_a_base_that_is_gone_names_the_branches_there_are(hub: Hub, repo: Repository) -> None:
    repo.git("branch", "develop")
    said = await lacking(hub, "trunk")
    assert "has no branch trunk" in said
    assert "develop, main" in said


async def test_credentials_in_an_address_are_not_repeated(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub.git", "http://ada:s3cret@127.0.0.1:1/x.git")
    await hub.ensure()
    said = await lacking(hub)
    assert "s3cret" not in said
    assert "***@127.0.0.1" in said


async def test_an_address_that_is_a_command_is_not_run(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub.git", f"ext::sh -c touch% {tmp_path}/ran")
    await hub.ensure()
    await lacking(hub)
    assert not (tmp_path / "ran").exists()


async def test_making_the_hub_twice_keeps_what_is_in_it(hub: Hub) -> None:
    sha = await hub.blob(b"x")
    await hub.set_ref("refs/nightcrew/x", sha)
    await Hub(hub.path, hub.url).ensure()
    assert await hub.refs("refs/nightcrew") == {"refs/nightcrew/x": sha}


async def test_a_half_made_hub_is_put_aside_and_made_again(tmp_path: Path, repo: Repository) -> None:
    (tmp_path / "hub.git/objects").mkdir(parents=True)
    (tmp_path / "hub.git/objects/precious").write_text("x")
    hub = Hub(tmp_path / "hub.git", str(repo.path))
    await hub.ensure()
    assert await hub.fetch_base("main") == repo.sha()
    assert [file.read_text() for file in tmp_path.glob("hub.git.broken-*/objects/precious")] == ["x"]


async def test_a_lock_left_by_a_killed_git_does_not_stop_the_night(hub: Hub, repo: Repository) -> None:
    lock = hub.path / "refs/remotes/origin/main.lock"
    lock.touch()
    os.utime(lock, (0, 0))
    repo.commit("newer")
    await hub.ensure()
    assert await hub.fetch_base("main") == repo.sha()


async def test_refs_are_set_only_when_they_are_as_expected(hub: Hub) -> None:
    one, two = await hub.blob(b"1"), await hub.blob(b"2")
    assert await hub.set_ref("refs/nightcrew/r", one, "")
    assert not await hub.set_ref("refs/nightcrew/r", two, "")
    assert not await hub.set_ref("refs/nightcrew/r", two, two)
    assert await hub.sha("refs/nightcrew/r") == one
    assert await hub.set_ref("refs/nightcrew/r", two, one)
    await hub.delete_ref("refs/nightcrew/r")
    await hub.delete_ref("refs/nightcrew/r")
    assert await hub.sha("refs/nightcrew/r") is None


async def test_a_revision_is_never_an_option(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(GitError, match="no revision"):
        await hub.diff(f"--output={tmp_path}/x", "HEAD")
    assert not (tmp_path / "x").exists()


async def test_one_of_eight_racers_wins_the_claim(hub: Hub, repo: Repository) -> None:
    claims = [await hub.blob(f"node {n}".encode()) for n in range(8)]

    async def race(sha: str) -> bool:
        try:
            await hub.push([Push("refs/nightcrew/claim/t-1", sha, "")])
        except PushRejected:
            return False
        return True

    won = await asyncio.gather(*map(race, claims))
    assert sum(won) == 1
    assert await hub.remote_ref("refs/nightcrew/claim/t-1") == claims[won.index(True)]


async def test_a_push_with_one_stale_lease_moves_nothing(hub: Hub, repo: Repository) -> None:
    base = repo.sha()
    other = repo.sha("HEAD~1")
    await hub.push([Push("refs/heads/a", other, "")])
    with pytest.raises(PushRejected):
        await hub.push([Push("refs/heads/a", base, base), Push("refs/heads/b", base, "")])
    assert (await hub.remote_ref("refs/heads/a"), await hub.remote_ref("refs/heads/b")) == (other, None)
    await hub.push([Push("refs/heads/a", base, other), Push("refs/heads/b", base)])
    await hub.push([Push("refs/heads/a", "", base)])
    assert (await hub.remote_ref("refs/heads/a"), await hub.remote_ref("refs/heads/b")) == (None, base)


async def test_a_push_that_cannot_reach_the_remote_is_no_rejection(hub: Hub, repo: Repository) -> None:
    repo.path.rename(repo.path.with_name("away"))
    with pytest.raises(GitError) as caught:
        await hub.push([Push("refs/heads/a", await hub.blob(b"x"), "")])
    assert not isinstance(caught.value, PushRejected)


async def test_changes_and_diff_are_those_since_the_merge_base(hub: Hub, tree: Repository, repo: Repository) -> None:
    (tree.path / "image.bin").write_bytes(bytes(range(256)))
    tree.git("mv", "src/data.txt", "moved.txt")
    tree.commit("work", calc_py="def add(a, b):\n    return b + a\n")
    head = await hub.take(tree.path, BRANCH, "refs/nightcrew/done/t-1")
    repo.commit("upstream goes on", other_txt="x")
    base = await hub.fetch_base("main")
    assert head
    assert sorted(await hub.changes(base, head), key=lambda change: change.path) == [
        Change("calc.py", 1, 1), Change("image.bin", 0, 0), Change("moved.txt", 2, 0), Change("src/data.txt", 0, 2),
    ]  # fmt: skip
    assert "+    return b + a" in await hub.diff(base, head)
    assert "other.txt" not in await hub.diff(base, head)
    assert (await hub.diff(base, head, limit=20)).endswith("characters]\n")


async def test_a_patch_id_names_the_change_wherever_it_stands(hub: Hub, tree: Repository, repo: Repository) -> None:
    base = repo.sha()
    tree.commit("work", new_txt="x\n")
    first = await hub.take(tree.path, BRANCH, "refs/nightcrew/done/1")
    tree.git("reset", "-q", "--hard", repo.sha("HEAD~1"))
    tree.commit("the same again", new_txt="x\n")
    second = await hub.take(tree.path, BRANCH, "refs/nightcrew/done/2")
    tree.commit("something else", new_txt="y\n")
    third = await hub.take(tree.path, BRANCH, "refs/nightcrew/done/3")
    assert None not in (first, second, third)
    ids = [await hub.patch_id(base, str(sha)) for sha in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 40
    assert await hub.patch_id(base, base) == ""


async def test_merges_tell_the_files_in_conflict(hub: Hub, tree: Repository, repo: Repository) -> None:
    base = repo.sha()
    one = tree.commit("one", calc_py="one\n")
    await hub.take(tree.path, BRANCH, "refs/nightcrew/done/1")
    tree.git("reset", "-q", "--hard", base)
    two = tree.commit("two", calc_py="two\n")
    await hub.take(tree.path, BRANCH, "refs/nightcrew/done/2")
    tree.git("reset", "-q", "--hard", base)
    three = tree.commit("three", three_txt="3")
    await hub.take(tree.path, BRANCH, "refs/nightcrew/done/3")
    assert (await hub.merge_tree(one, two)).conflicts == ("calc.py",)
    merged = await hub.merge_tree(one, three)
    assert merged == Merge(merged.tree)
    commit = await hub.commit_tree(merged.tree, [one, three], "merge\n\nåäö")
    assert await hub.show(commit, "calc.py") == b"one\n"
    assert await hub.show(commit, "three.txt", limit=0) == b""
    assert await hub.show(commit, "nowhere") is None
    assert await hub.is_ancestor(one, commit)
    assert not await hub.is_ancestor(commit, one)


# What an agent leaves


async def taken(hub: Hub, tree: Repository) -> str | None:
    return await hub.take(tree.path, BRANCH, "refs/nightcrew/done/t-1")


async def test_the_ticket_branch_is_taken(hub: Hub, tree: Repository) -> None:
    sha = tree.commit("work", a_txt="a")
    assert await taken(hub, tree) == sha == await hub.sha("refs/nightcrew/done/t-1")


async def test_work_on_a_branch_of_the_agents_own_is_taken(hub: Hub, tree: Repository) -> None:
    tree.git("checkout", "-q", "-b", "fix/better-name", "HEAD~1")
    sha = tree.commit("work", a_txt="a")
    assert await taken(hub, tree) == sha


async def test_commits_on_a_detached_head_after_the_branch_are_taken(hub: Hub, tree: Repository) -> None:
    tree.git("checkout", "-q", "--detach")
    sha = tree.commit("work", a_txt="a")
    assert await taken(hub, tree) == sha


async def test_looking_at_an_older_commit_does_not_lose_the_branch(hub: Hub, tree: Repository) -> None:
    sha = tree.commit("work", a_txt="a")
    tree.git("checkout", "-q", "--detach", "HEAD~1")
    assert await taken(hub, tree) == sha


async def test_a_rebase_cut_short_leaves_the_branch_as_the_work(hub: Hub, tree: Repository) -> None:
    sha = tree.commit("work", a_txt="a")
    tree.git("checkout", "-q", "--detach", "HEAD~2")
    tree.commit("half a rebase", b_txt="b")
    assert await taken(hub, tree) == sha


async def test_an_unborn_branch_is_no_work(hub: Hub, tree: Repository) -> None:
    tree.git("checkout", "-q", "--orphan", "nothing-yet")
    tree.git("branch", "-D", BRANCH)
    assert await taken(hub, tree) is None


async def test_a_renamed_branch_is_still_found(hub: Hub, tree: Repository) -> None:
    sha = tree.commit("work", a_txt="a")
    tree.git("branch", "-m", "mine")
    assert await taken(hub, tree) == sha


def plant(tree: Repository, ran: Path) -> None:
    """Everything known that runs when somebody uses git in this tree; each leaves a file in `ran`."""
    ran.mkdir()

    def command(name: str) -> str:
        script = tree.write(f".git/planted-{name}", f"#!/bin/sh\ntouch {ran}/{name}\ncat\n")
        script.chmod(0o755)
        return str(script)

    hooks = tree.path / ".git/hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("reference-transaction", "pre-push", "post-checkout", "pre-auto-gc", "post-index-change", "update"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {ran}/{hook}\n")
        (hooks / hook).chmod(0o755)
    for key in ("core.fsmonitor", "filter.evil.clean", "filter.evil.smudge", "diff.evil.textconv", "diff.external",
                "uploadpack.packObjectsHook", "core.alternateRefsCommand", "core.sshCommand", "core.pager",
                "core.gitProxy", "gpg.program", "credential.helper", "core.editor", "merge.evil.driver"):  # fmt: skip
        tree.git("config", key, command(key.replace(".", "-")))
    tree.git("config", "filter.evil.process", command("process"))
    tree.git("config", "remote.origin.promisor", "true")
    tree.git("config", "remote.origin.url", f"ext::{command('promisor')}")
    tree.git("config", "extensions.partialClone", "origin")
    tree.write(".gitattributes", "* filter=evil diff=evil merge=evil\n")


async def test_nothing_planted_in_a_tree_runs(hub: Hub, tree: Repository, tmp_path: Path) -> None:
    inner = Repository(tree.path / "vendor/inner")
    inner.path.mkdir(parents=True)
    inner.git("init", "-q")
    inner.commit("nested", nested_txt="n")
    sha = tree.commit("work", a_txt="a")  # records `vendor/inner` as a submodule would be
    inner.write("nested.txt", "changed")
    plant(tree, tmp_path / "ran")
    plant(inner, tmp_path / "ran-inner")
    tree.write("calc.py", "changed\n")
    assert await taken(hub, tree) == sha
    saved = await hub.snapshot(tree.path, sha, "left")
    assert saved
    assert await hub.show(saved, "calc.py") == b"changed\n"
    await hub.changes(sha, saved)
    await hub.diff(sha, saved)
    assert list((tmp_path / "ran").iterdir()) == []
    assert list((tmp_path / "ran-inner").iterdir()) == []
    tree.git("status")  # the traps are live: anybody else's git springs them
    assert list((tmp_path / "ran").iterdir()) != []
    assert list((tmp_path / "ran-inner").iterdir()) != []


@pytest.mark.parametrize("where", ["file", "link", "alternates", "commondir", "objects"])
async def test_a_tree_that_leads_to_another_repository_is_not_read(
    hub: Hub, tree: Repository, tmp_path: Path, where: str
) -> None:
    secret = Repository(tmp_path / "secret")
    secret.path.mkdir()
    secret.git("init", "-q", "-b", BRANCH)
    secret.commit("the owner's own", secret_txt="s3cret")
    git_dir = tree.path / ".git"
    match where:
        case "file":
            git_dir.rename(tmp_path / "aside")
            git_dir.write_text(f"gitdir: {secret.path}/.git\n")
        case "link":
            git_dir.rename(tmp_path / "aside")
            git_dir.symlink_to(secret.path / ".git")
        case "alternates":
            (git_dir / "objects/info/alternates").write_text(f"{secret.path}/.git/objects\n")
            (git_dir / "refs/heads" / BRANCH).write_text(secret.sha() + "\n")
        case "commondir":
            (git_dir / "commondir").write_text(f"{secret.path}/.git\n")
        case "objects":
            (git_dir / "objects").rename(tmp_path / "aside")
            (git_dir / "objects").symlink_to(secret.path / ".git/objects")
            (git_dir / "refs/heads" / BRANCH).write_text(secret.sha() + "\n")
    with pytest.raises(GitError, match="is not read"):
        await taken(hub, tree)
    assert await hub.sha("refs/nightcrew/done/t-1") is None
    assert await hub.sha(secret.sha()) is None


# Uncommitted work


def files(hub: Hub, sha: str) -> dict[str, str]:
    listed = Repository(hub.path).git("ls-tree", "-r", "-z", sha).split("\0")
    return {path: meta.split()[0] for meta, _, path in (entry.partition("\t") for entry in listed) if path}


async def test_what_an_agent_forgot_to_commit_is_collected_with_its_commits(hub: Hub, tree: Repository) -> None:
    base, ref = tree.sha(), "refs/nightcrew/done/t-1"
    assert await hub.collect(tree.path, BRANCH, ref, base, "left") == base
    tree.write("a.txt", "a")
    left = await hub.collect(tree.path, BRANCH, ref, base, "left")
    assert (await hub.sha(ref), await hub.show(left, "a.txt"), await hub.sha(f"{left}^")) == (left, b"a", base)
    sha = tree.commit("work")
    assert await hub.collect(tree.path, BRANCH, ref, base, "left") == sha == await hub.sha(ref)
    tree.git("checkout", "-q", "--detach", base)
    assert await hub.collect(tree.path, BRANCH, ref, base, "left") == sha  # not a commit that takes the work back


async def test_a_clean_tree_has_no_snapshot(hub: Hub, tree: Repository) -> None:
    tree.write("noise.log", "ignored")
    assert await hub.snapshot(tree.path, tree.sha(), "left") is None


async def test_a_snapshot_holds_every_kind_of_change(hub: Hub, tree: Repository) -> None:
    before, base = tree.git("status", "--porcelain"), tree.sha()
    tree.write("calc.py", "edited\n")
    tree.write("new ö\n.txt", "untracked")
    tree.write("build/out.o", "ignored")
    (tree.path / "run.sh").chmod(0o644)
    (tree.path / "src/data.txt").unlink()
    (tree.path / "src").rmdir()
    (tree.path / "src").symlink_to("docs")
    (tree.path / ".gitignore").unlink()
    tree.write(".gitignore/now/a/folder.txt", "x")
    tree.write(".git/info/exclude", "scratch/\n")
    tree.write("scratch/notes.txt", "private")
    (tree.path / "broken-link").symlink_to("/nonexistent")
    saved = await hub.snapshot(tree.path, base, "left\n")
    assert saved
    assert files(hub, saved) == {
        ".gitignore/now/a/folder.txt": "100644", "broken-link": "120000", "build/out.o": "100644",
        "calc.py": "100644", "docs/läs mig.md": "100644", "new ö\n.txt": "100644", "run.sh": "100644", "src": "120000",
    }  # fmt: skip
    assert await hub.sha(f"{saved}^1") == base
    assert before == ""
    assert tree.sha() == base


async def test_flags_and_times_that_hide_a_change_from_git_do_not_hide_it_from_us(hub: Hub, tree: Repository) -> None:
    tree.git("update-index", "--assume-unchanged", "calc.py")
    tree.git("update-index", "--skip-worktree", "run.sh")
    for name in ("calc.py", "run.sh"):
        file = tree.path / name
        seen = file.stat()
        file.write_bytes(file.read_bytes().swapcase())
        os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    saved = await hub.snapshot(tree.path, tree.sha(), "left")
    assert saved
    assert {change.path for change in await hub.changes(tree.sha(), saved)} == {"calc.py", "run.sh"}


async def test_the_files_of_nested_repositories_are_saved_as_files(hub: Hub, tree: Repository) -> None:
    inner = Repository(tree.path / "app")
    inner.path.mkdir()
    inner.git("init", "-q")
    inner.write(".gitignore", "node_modules/\n")
    inner.write("node_modules/x.js", "ignored")
    inner.commit("made by a generator", app_js="1")
    deeper = Repository(tree.path / "app/lib")
    deeper.path.mkdir()
    deeper.git("init", "-q")
    deeper.write("lib.js", "2")
    saved = await hub.snapshot(tree.path, tree.sha(), "left")
    assert saved
    assert {path for path in files(hub, saved) if path.startswith("app")} == {
        "app/.gitignore",
        "app/app.js",
        "app/lib/lib.js",
    }


async def test_snapshots_of_many_trees_at_once_do_not_mix(hub: Hub, tmp_path: Path, repo: Repository) -> None:
    trees = []
    for number in range(6):
        subprocess_clone(hub, tmp_path / f"t{number}")
        trees.append(Repository(tmp_path / f"t{number}"))
        trees[-1].git("checkout", "-q", "-B", BRANCH, repo.sha())
        trees[-1].write("mine.txt", str(number))
    saved = await asyncio.gather(*(hub.snapshot(tree.path, repo.sha(), "left") for tree in trees))
    assert [await hub.show(str(sha), "mine.txt") for sha in saved] == [str(n).encode() for n in range(6)]


async def test_a_failing_command_says_what_git_said(hub: Hub) -> None:
    with pytest.raises(GitError, match=r"git cat-file failed \(128\): fatal:") as caught:
        await git("cat-file", "-p", "nothing", git_dir=hub.path)
    assert (caught.value.command, caught.value.code) == ("cat-file", 128)


async def test_a_command_without_end_is_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GitError, match="no end after"):
        await git("hash-object", str(tmp_path / "pipe"), timeout=0.2)
