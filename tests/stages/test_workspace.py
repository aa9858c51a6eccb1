"""Workspaces: private, clean at once, made again after a kill, and never removed with work that is only there."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nightcrew.errors import GitError, HookFailed, NightcrewError
from nightcrew.git import Hub, Push, PushRejected, trees
from nightcrew.stages import workspace
from nightcrew.stages.workspace import Workspace
from tests.conftest import Repository

RESCUE = "refs/nightcrew/rescue/t-1/1"
WORKING: dict[int, list[str]] = {}  # kinds that work on a device, found once


@pytest.fixture
async def hub(tmp_path: Path, repo: Repository) -> Hub:
    made = Hub(tmp_path / "hub.git", str(repo.path), identity=('O"Brien \\ crew', "crew@example.com"))
    await made.ensure()
    await made.fetch_base("main")
    return made


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Path]:
    made = tmp_path / "spaces"
    made.mkdir()
    yield made
    for tree in made.glob("*"):
        await trees.unmount(tree)


@pytest.fixture
async def kinds(root: Path) -> list[str]:
    """Every kind of workspace this machine can make."""
    device = root.stat().st_dev
    if device not in WORKING:
        WORKING[device] = [proof.kind for proof in await workspace.prove(root) if proof.works]
    return WORKING[device]


async def made(
    hub: Hub, root: Path, kind: str, key: str = "", *, start: str = "", rescue_into: str = ""
) -> tuple[Workspace, Repository]:
    base, name = str(await hub.sha("refs/remotes/origin/main")), key or f"t-{kind}"
    space = await workspace.ensure(
        hub, root, name, f"nightcrew/{name}", base, kind=kind, start=start, rescue_into=rescue_into
    )
    return space, Repository(space.path)


async def show(hub: Hub, sha: str | None, path: str) -> bytes | None:
    assert sha
    return await hub.show(sha, path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


async def test_plain_checkouts_and_linked_worktrees_work_everywhere(root: Path, kinds: list[str]) -> None:
    assert {"copy", "checkout", "worktree"} <= set(kinds)
    assert await workspace.choose(root) == kinds[0]


async def test_what_does_not_work_is_proved_with_the_systems_words(hub: Hub, root: Path, kinds: list[str]) -> None:
    proofs = await workspace.prove(root)
    assert [proof.kind for proof in proofs] == list(trees.KINDS)
    assert all(proof.evidence and proof.milliseconds > 0 for proof in proofs)
    for kind in set(trees.KINDS) - set(kinds):
        with pytest.raises(trees.CannotMake):
            await made(hub, root, kind)
    assert [entry.name for entry in (root / ".nightcrew").glob("proof-*")] == []


async def test_every_kind_is_a_clean_checkout_where_git_works(
    hub: Hub, root: Path, repo: Repository, kinds: list[str]
) -> None:
    for kind in kinds:
        space, tree = await made(hub, root, kind)
        assert space == Workspace(root / f"t-{kind}", f"nightcrew/t-{kind}", repo.sha(), kind)
        assert tree.git("status", "--porcelain") == ""
        assert tree.git("branch", "--show-current") == space.branch
        assert tree.sha() == repo.sha()
        assert os.access(tree.path / "run.sh", os.X_OK)
        tree.write("calc.py", "def add(a, b):\n    return a - b\n")  # as long as it was, in the first second
        assert tree.git("status", "--porcelain") == "M calc.py"
        tree.git("mv", "docs", "manual")
        sha = tree.commit("work")
        assert tree.git("status", "--porcelain") == ""
        assert await hub.take(tree.path, space.branch, f"refs/nightcrew/done/{kind}") == sha
        assert {change.path for change in await hub.changes(repo.sha(), sha)} == {
            "calc.py", "docs/läs mig.md", "manual/läs mig.md",
        }  # fmt: skip


async def test_private_kinds_have_our_identity_no_remote_and_the_base_to_compare_with(
    hub: Hub, root: Path, repo: Repository, kinds: list[str]
) -> None:
    for kind in [kind for kind in kinds if kind != "worktree"]:
        _, tree = await made(hub, root, kind)
        assert tree.git("config", "user.name") == 'O"Brien \\ crew'
        assert tree.git("remote") == ""
        assert tree.sha("origin/main") == repo.sha()
        assert tree.git("config", "gc.auto") == "0"


async def test_two_tickets_do_not_see_each_other_and_the_template_stays(
    hub: Hub, root: Path, repo: Repository, kinds: list[str]
) -> None:
    for kind in kinds:
        _, one = await made(hub, root, kind, f"one-{kind}")
        before = contents(root / ".nightcrew/templates")
        one.write("calc.py", "one\n")
        one.git("rm", "-q", "run.sh")
        one.commit("one")
        _, two = await made(hub, root, kind, f"two-{kind}")
        assert two.git("status", "--porcelain") == ""
        assert (two.path / "calc.py").read_text() == (repo.path / "calc.py").read_text()
        assert (two.path / "run.sh").exists()
        assert contents(root / ".nightcrew/templates") == before


async def test_twenty_at_once_are_all_clean(hub: Hub, root: Path, kinds: list[str]) -> None:
    for kind in kinds:
        spaces = await asyncio.gather(*(made(hub, root, kind, f"{kind}-{n}") for n in range(20)))
        assert [tree.git("status", "--porcelain") for _, tree in spaces] == [""] * 20
        removed = [workspace.remove(hub, root, space.path, RESCUE) for space, _ in spaces]
        assert await asyncio.gather(*removed) == [None] * 20
        assert [entry.name for entry in root.iterdir()] == [".nightcrew"]


async def test_a_workspace_that_is_there_is_kept_with_the_agents_work(hub: Hub, root: Path, kinds: list[str]) -> None:
    for kind in kinds:
        _, tree = await made(hub, root, kind)
        sha = tree.commit("work", a_txt="a")
        tree.write("b.txt", "half done")
        git_dir = Path(tree.git("rev-parse", "--absolute-git-dir"))
        (git_dir / "index.lock").touch()  # the agent was killed in the middle of a commit
        space, again = await made(hub, root, kind)
        assert again.sha() == sha
        assert (space.path / "b.txt").read_text() == "half done"
        if kind != "worktree":
            again.git("add", "-A")


async def test_a_workspace_that_is_there_sees_the_base_of_now(
    hub: Hub, root: Path, repo: Repository, kinds: list[str]
) -> None:
    for kind in kinds:
        await made(hub, root, kind)
        base = repo.commit(f"the base moves under {kind}")
        assert await hub.fetch_base("main") == base
        _, again = await made(hub, root, kind)
        assert again.git("rev-parse", "origin/main") == base


async def test_an_overlay_comes_back_after_a_reboot(hub: Hub, root: Path, kinds: list[str]) -> None:
    for kind in {"overlay"} & set(kinds):
        space, tree = await made(hub, root, kind)
        sha = tree.commit("work", a_txt="a")
        await trees.unmount(space.path)
        assert list(space.path.iterdir()) == []
        _, tree = await made(hub, root, kind)
        assert (tree.sha(), tree.git("status", "--porcelain")) == (sha, "")
        await trees.unmount(space.path)
        kept = await workspace.remove(hub, root, space.path, RESCUE)
        assert kept == sha


async def test_a_branch_may_start_from_another_commit_than_the_base(hub: Hub, root: Path, kinds: list[str]) -> None:
    _, first = await made(hub, root, "checkout", "first")
    first.git("rm", "-q", "run.sh")
    head = first.commit("the open pull request", a_txt="a", calc_py="changed\n")
    await hub.take(first.path, "nightcrew/first", "refs/nightcrew/done/first")
    for kind in kinds:
        space, tree = await made(hub, root, kind, start=head)
        assert (tree.sha(), tree.git("status", "--porcelain")) == (head, "")
        assert not (tree.path / "run.sh").exists()
        assert await workspace.remove(hub, root, space.path, RESCUE) is None


async def test_what_is_only_there_is_in_the_rescue_ref_after_removal(
    hub: Hub, root: Path, repo: Repository, kinds: list[str]
) -> None:
    for kind in kinds:
        space, tree = await made(hub, root, kind)
        pushed = tree.commit("pushed", a_txt="a")
        await hub.take(tree.path, space.branch, f"refs/nightcrew/done/{kind}")
        tree.git("checkout", "-q", "-b", f"aside-{kind}")
        aside = tree.commit("on a branch of its own", aside_txt="x")
        tree.git("checkout", "-q", space.branch)
        unpushed = tree.commit("not pushed", b_txt="b")
        tree.write("stashed.txt", "s")
        tree.git("stash", "-q", "-u")
        tree.write("calc.py", "not committed\n")
        tree.write("new.txt", "untracked")
        tree.write("noise.log", "ignored")
        ref = f"refs/nightcrew/rescue/t-{kind}/1"
        kept = await workspace.remove(hub, root, space.path, ref, {pushed})
        assert kept == await hub.sha(ref)
        assert [await show(hub, kept, path) for path in ("calc.py", "new.txt", "b.txt", "noise.log")] == [
            b"not committed\n", b"untracked", b"b", None,
        ]  # fmt: skip
        assert await hub.is_ancestor(unpushed, str(kept))
        assert kind == "worktree" or await hub.is_ancestor(aside, str(kept))
        assert not space.path.exists()
        assert await hub.refs("refs/nightcrew/base") == {}
    assert repo.git("branch", "--format=%(refname:short)") == "main"


async def test_what_is_known_elsewhere_is_not_rescued(hub: Hub, root: Path, kinds: list[str]) -> None:
    for kind in kinds:
        space, tree = await made(hub, root, kind)
        sha = tree.commit("work", a_txt="a")
        tree.write("left.txt", "the agent forgot to commit this")
        saved = await hub.collect(tree.path, space.branch, "refs/nightcrew/done/x", sha, "committed for the agent")
        assert saved != sha
        assert await workspace.remove(hub, root, space.path, RESCUE, {saved}) is None
    assert await hub.refs("refs/nightcrew/rescue") == {}


async def test_the_branch_is_the_work_where_the_agent_went_back_to_look(
    hub: Hub, root: Path, repo: Repository, kinds: list[str]
) -> None:
    for kind in kinds:
        space, tree = await made(hub, root, kind)
        sha = tree.commit("work", a_txt="a")
        tree.git("checkout", "-q", "--detach", repo.sha())
        assert await hub.collect(tree.path, space.branch, "refs/nightcrew/done/x", repo.sha(), "left") == sha
        ref = f"refs/nightcrew/rescue/t-{kind}/1"
        assert await workspace.remove(hub, root, space.path, ref) == sha == await hub.sha(ref)


async def test_an_earlier_rescue_is_never_overwritten(hub: Hub, root: Path) -> None:
    shas = []
    for text in ("first", "second"):
        space, tree = await made(hub, root, "checkout")
        tree.commit(text, a_txt=text)
        shas.append(await workspace.remove(hub, root, space.path, RESCUE))
    assert await hub.refs("refs/nightcrew/rescue") == {RESCUE: shas[0], f"{RESCUE}-2": shas[1]}


async def test_rescuing_twice_is_rescuing_once(hub: Hub, root: Path) -> None:
    space, tree = await made(hub, root, "checkout")
    tree.write("left.txt", "x")
    known = [str(await hub.sha("refs/remotes/origin/main"))]
    first = await workspace.rescue(hub, tree.path, space.branch, RESCUE, known)
    os.utime(tree.path / "left.txt", (0, 0))
    assert await workspace.rescue(hub, tree.path, space.branch, RESCUE, known) == first
    assert await hub.refs("refs/nightcrew/rescue") == {RESCUE: first}


async def test_nothing_is_removed_when_the_rescue_fails(hub: Hub, root: Path, kinds: list[str]) -> None:
    for kind in kinds:
        space, tree = await made(hub, root, kind)
        tree.write("precious.txt", "p")
        (tree.path / ".git").rename(tree.path / "hidden")
        with pytest.raises(GitError):
            await workspace.remove(hub, root, space.path, RESCUE)
        assert (tree.path / "precious.txt").read_text() == "p"


async def test_a_workspace_whose_repository_broke_is_rescued_put_aside_and_made_again(
    hub: Hub, root: Path, repo: Repository, kinds: list[str]
) -> None:
    for kind in kinds:
        _, tree = await made(hub, root, kind)
        sha = tree.commit("work", a_txt="a")
        tree.write("b.txt", "b")
        (tree.path / ".git").rename(tree.path / ".hidden")
        (tree.path / ".gitignore").write_text(".hidden\n")
        space, again = await made(hub, root, kind, rescue_into=f"refs/nightcrew/rescue/t-{kind}/1")
        assert (again.sha(), again.git("status", "--porcelain")) == (repo.sha(), "")
        kept = await hub.sha(f"refs/nightcrew/rescue/t-{kind}/1")
        assert await show(hub, kept, "b.txt") == b"b"
        if kind == "worktree":
            assert await hub.is_ancestor(sha, str(kept))
        elif kind != "overlay":
            assert any(Repository(folder).git("--git-dir=.hidden", "rev-parse", "HEAD") == sha for folder in
                       (root / ".nightcrew/aside").iterdir() if (folder / ".hidden").is_dir())  # fmt: skip
        await workspace.remove(hub, root, space.path, RESCUE)


async def test_a_linked_worktree_that_was_deleted_leaves_its_commits_in_the_rescue_ref(hub: Hub, root: Path) -> None:
    space, tree = await made(hub, root, "worktree")
    sha = tree.commit("work", a_txt="a")
    space.path.rename(root.parent / "gone")
    assert await workspace.remove(hub, root, space.path, RESCUE) == sha
    assert await hub.sha(RESCUE) == sha


async def test_a_ticket_that_got_another_branch_starts_afresh_with_its_work_kept(
    hub: Hub, root: Path, repo: Repository
) -> None:
    _, tree = await made(hub, root, "checkout", "t-1")
    sha = tree.commit("work", a_txt="a")
    space = await workspace.ensure(
        hub, root, "t-1", "nightcrew/t-1-again", repo.sha(), kind="checkout", rescue_into=RESCUE
    )
    assert (Repository(space.path).sha(), await hub.sha(RESCUE)) == (repo.sha(), sha)


async def test_a_folder_somebody_else_made_is_put_aside_not_deleted(hub: Hub, root: Path) -> None:
    (root / "t-checkout").mkdir()
    (root / "t-checkout/mine.txt").write_text("keep")
    await made(hub, root, "checkout")
    assert [file.read_text() for file in (root / ".nightcrew/aside").glob("*/mine.txt")] == ["keep"]
    (root / "theirs").mkdir()
    assert await workspace.remove(hub, root, root / "theirs", RESCUE) is None
    assert (root / "theirs").exists()


@pytest.mark.parametrize(
    "key", ["../x", "..", ".", "", "/etc", "a/../../x", ".nightcrew", "a b", "x.lock", "a//b", "-x"]
)
async def test_a_key_that_leads_out_of_the_root_is_refused(hub: Hub, root: Path, key: str) -> None:
    with pytest.raises(NightcrewError, match="is no folder inside"):
        await workspace.ensure(hub, root, key, "b", "0" * 40, kind="checkout")
    assert list(root.iterdir()) == []


async def test_a_link_that_leads_out_of_the_root_is_refused(hub: Hub, root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "t-checkout").symlink_to(tmp_path / "outside")
    (root / "deep").symlink_to(tmp_path / "outside")
    for key in ("t-checkout", "deep/t-1"):
        with pytest.raises(NightcrewError, match="is no folder inside"):
            await made(hub, root, "checkout", key)
        with pytest.raises(NightcrewError):
            await workspace.remove(hub, root, root / key, RESCUE)
    assert list((tmp_path / "outside").iterdir()) == []


async def test_a_path_outside_is_never_removed(hub: Hub, root: Path, repo: Repository) -> None:
    for path in (repo.path, root, root / "..", Path("/")):
        with pytest.raises(NightcrewError):
            await workspace.remove(hub, root, path, RESCUE)
    assert repo.sha()


async def test_read_only_folders_do_not_stay(hub: Hub, root: Path) -> None:
    space, tree = await made(hub, root, "checkout")
    tree.write("build/cache/mod/file.go", "x")
    for folder in ("build/cache/mod", "build/cache"):
        (tree.path / folder).chmod(0o500)
    await workspace.remove(hub, root, space.path, RESCUE)
    assert list((root / ".nightcrew/trash").iterdir()) == []


async def test_a_discarded_tree_leaves_nothing(hub: Hub, root: Path, kinds: list[str]) -> None:
    for kind in kinds:
        space, tree = await made(hub, root, kind)
        tree.write("build/left.o", "x")
        await workspace.discard(hub, root, space.path)
        assert [entry.name for entry in root.iterdir()] == [".nightcrew"]
        assert list((root / ".nightcrew/trash").iterdir()) == []
    assert await hub.refs("refs/nightcrew") == {}


async def test_templates_nobody_needs_are_swept(hub: Hub, root: Path) -> None:
    space, _ = await made(hub, root, "copy")
    (template,) = (root / ".nightcrew/templates").iterdir()
    os.utime(template, (0, 0))
    await workspace.sweep(root)
    assert template.exists()
    await workspace.remove(hub, root, space.path, RESCUE)
    assert not template.exists()


# Killed in the middle

SCRIPT = """
import asyncio, sys
from pathlib import Path
from nightcrew.git import Hub
from nightcrew.stages import workspace

async def main(hub, root, kind, base):
    await workspace.ensure(Hub(Path(hub), ""), Path(root), "t-" + kind, "nightcrew/t-" + kind, base, kind=kind)

asyncio.run(main(*sys.argv[1:]))
"""


def killed_at(call: int, folder: Path, *args: str) -> int:
    """Make a workspace in another process, which is killed with SIGKILL as it runs its n-th program; its exit code."""
    folder.mkdir()
    path = os.environ["PATH"]
    for tool in ("git", "mount", "cp"):
        shim = folder / tool
        shim.write_text(
            f'#!/bin/sh\necho x >>"{folder}/calls"\n'
            f'[ $(wc -l <"{folder}/calls") -eq {call} ] && {{ kill -9 $PPID; exit 1; }}\n'
            f'PATH="{path}" exec {tool} "$@"\n'
        )
        shim.chmod(0o755)
    argv = [sys.executable, "-c", SCRIPT, *args]
    return subprocess.run(argv, env={**os.environ, "PATH": f"{folder}:{path}"}, check=False).returncode


async def test_a_workspace_is_made_again_wherever_making_it_was_killed(
    hub: Hub, root: Path, repo: Repository, tmp_path: Path, kinds: list[str]
) -> None:
    for kind in [kind for kind in ("overlay", "checkout", "worktree") if kind in kinds]:
        for call in range(1, 12):
            code = killed_at(call, tmp_path / f"{kind}{call}", str(hub.path), str(root), kind, repo.sha())
            space, tree = await made(hub, root, kind)
            assert (tree.sha(), tree.git("status", "--porcelain")) == (repo.sha(), "")
            assert await workspace.remove(hub, root, space.path, RESCUE) is None
            if code == 0:
                break
            assert code == -signal.SIGKILL
        assert call > 2
        assert [entry.name for entry in root.iterdir()] == [".nightcrew"]


async def test_an_after_create_hook_that_fails_runs_again_the_next_time(hub: Hub, root: Path, repo: Repository) -> None:
    async def hook(tree: Path) -> str:
        script = 'test -e "$FLAG" && touch ready || { touch "$FLAG"; echo no luck; exit 3; }'
        env = {"FLAG": str(root.parent / "flag")}
        return await workspace.run_hook(script, tree, env, 20, name="after_create", ticket="T-1")

    args = (hub, root, "t-1", "nightcrew/t-1", repo.sha())
    with pytest.raises(HookFailed, match=r"T-1: the hook after_create failed \(3\): no luck"):
        await workspace.ensure(*args, kind="checkout", created=hook)
    space = await workspace.ensure(*args, kind="checkout", created=hook)
    assert (space.path / "ready").exists()


async def test_a_hook_without_end_is_ended_and_named(tmp_path: Path) -> None:
    with pytest.raises(HookFailed, match=r"T-1: the hook before_run did not end within 0\.2 s"):
        await workspace.run_hook("tail -f /dev/null", tmp_path, {}, 0.2, name="before_run", ticket="T-1")


async def test_rescues_are_listed_and_given_back_as_branches(hub: Hub, root: Path, repo: Repository) -> None:
    space, tree = await made(hub, root, "checkout")
    sha = tree.commit("half a\u2028feature", a_txt="a")
    await workspace.remove(hub, root, space.path, RESCUE)
    (found,) = await workspace.rescues(hub)
    assert (found.ref, found.ticket, found.attempt, found.sha) == (RESCUE, "t-1", "1", sha)
    assert found.subject == "half a\u2028feature"
    assert await workspace.restore(hub, RESCUE) == await workspace.restore(hub, RESCUE) == "rescue/t-1-1"
    assert repo.sha("rescue/t-1-1") == sha
    await hub.push([Push("refs/heads/rescue/t-1-1", repo.sha(), sha)])
    with pytest.raises(PushRejected):
        await workspace.restore(hub, RESCUE)
    with pytest.raises(NightcrewError, match="no rescue"):
        await workspace.restore(hub, "refs/heads/main")


async def test_code_planted_in_a_workspace_does_not_run_when_it_is_rescued_and_reused(
    hub: Hub, root: Path, tmp_path: Path, kinds: list[str]
) -> None:
    for kind in [kind for kind in kinds if kind != "worktree"]:
        space, tree = await made(hub, root, kind)
        ran = tmp_path / f"ran-{kind}"
        trap = tree.write(".git/trap", f"#!/bin/sh\ntouch {ran}\ncat\n")
        trap.chmod(0o755)
        for key in (
            "core.fsmonitor",
            "filter.x.clean",
            "filter.x.smudge",
            "diff.external",
            "uploadpack.packObjectsHook",
        ):
            tree.git("config", key, str(trap))
        hooks = tree.path / ".git/hooks"
        hooks.mkdir()
        for hook in ("reference-transaction", "post-index-change", "post-checkout"):
            (hooks / hook).symlink_to("../trap")
        tree.write(".gitattributes", "* filter=x\n")
        tree.write("calc.py", "changed\n")
        await made(hub, root, kind)
        kept = await workspace.remove(hub, root, space.path, f"refs/nightcrew/rescue/t-{kind}/1")
        assert await show(hub, kept, "calc.py") == b"changed\n"
        assert not ran.exists()
