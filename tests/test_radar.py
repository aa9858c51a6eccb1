"""The radar on real git: who conflicts with whom, asked once for ever; the crew that minds it; the command."""

from __future__ import annotations

import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from nightcrew.core.radar import Conflicts
from nightcrew.errors import GitError
from nightcrew.git import Hub
from nightcrew.git.radar import Radar
from nightcrew.testing.company.github import GitHub
from tests.conftest import Repository
from tests.e2e.company import CompanyNight, writes
from tests.e2e.household import Night

pytestmark = pytest.mark.slow

MAIN = "main"


class Branches:
    """The owner's repository with branches of a crew, and the hub that mirrors it."""

    def __init__(self, repo: Repository, hub: Hub) -> None:
        self.repo, self.hub = repo, hub
        self.radar = Radar(hub)
        self.heads: dict[str, str] = {}

    def branch(self, name: str, start: str = MAIN, remove: tuple[str, ...] = (), **files: str) -> str:
        """A branch nightcrew/NAME with one commit; returns its full name."""
        full = f"nightcrew/{name}"
        self.repo.git("checkout", "-q", "-B", full, start)
        for path in remove:
            self.repo.git("rm", "-q", path)
        self.heads[full] = self.repo.commit(f"work of {name}", **files)
        self.repo.git("checkout", "-q", MAIN)
        return full

    async def look(self) -> Conflicts:
        return await self.radar.look(await self.hub.fetch_base(MAIN), self.heads)

    def lose(self, sha: str) -> None:
        """The disk loses an object of the hub, and the radar is a new process's."""
        (self.hub.path / "objects" / sha[:2] / sha[2:]).unlink()
        self.radar.file.unlink()
        self.radar = Radar(self.hub)


@pytest.fixture
async def branches(tmp_path: Path, repo: Repository) -> Branches:
    hub = Hub(tmp_path / "hub: of.git", f"file://{repo.path}")  # its path is quoted for git
    await hub.ensure()
    return Branches(repo, hub)


def objects(hub: Hub) -> int:
    return sum(1 for _ in (hub.path / "objects").rglob("*"))


# -- what it finds -----------------------------------------------------------------------------------------------------
async def test_pairs_that_change_the_same_lines_conflict_and_others_do_not(branches: Branches) -> None:
    one, other = branches.branch("one", calc_py="1\n"), branches.branch("other", calc_py="2\n")
    third = branches.branch("third", new_txt="3\n")
    found = await branches.look()
    assert [(c.one, c.other, c.files) for c in found.pairs] == [(one, other, ("calc.py",))]
    assert found.touched == {one: ("calc.py",), other: ("calc.py",), third: ("new.txt",)}
    assert (found.against, found.unknown) == ({}, {})


async def test_after_one_push_only_the_pairs_of_that_branch_are_asked(branches: Branches) -> None:
    for name in ("a", "b", "c", "d"):
        branches.branch(name, calc_py=f"{name}\n")
    assert len((await branches.look()).pairs) == 6
    assert branches.radar.asked == 6 + 4
    branches.branch("a", other_txt="x\n")
    assert len((await branches.look()).pairs) == 3
    assert branches.radar.asked == 10 + 4
    await branches.look()
    assert branches.radar.asked == 14


async def test_a_new_process_asks_nothing_again(branches: Branches) -> None:
    branches.branch("a", calc_py="1\n"), branches.branch("b", calc_py="2\n")
    found = await branches.look()
    branches.radar = Radar(branches.hub)
    assert await branches.look() == found
    assert branches.radar.asked == 0


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"merged": {"x": 1}}', "\0\xff"])
async def test_a_damaged_memory_is_as_good_as_none(branches: Branches, text: str) -> None:
    branches.branch("a", calc_py="1\n"), branches.branch("b", calc_py="2\n")
    found = await branches.look()
    branches.radar.file.write_text(text)
    branches.radar = Radar(branches.hub)
    assert await branches.look() == found


async def test_looking_leaves_no_ref_no_object_and_no_file_changed(branches: Branches) -> None:
    branches.branch("a", calc_py="1\n"), branches.branch("b", calc_py="2\n", more_txt="x\n")
    await branches.look()
    refs, there = await branches.hub.refs("refs"), objects(branches.hub)
    upstream = branches.repo.git("for-each-ref"), branches.repo.git("status", "--porcelain")
    branches.radar = Radar(branches.hub)
    branches.radar.file.unlink()
    await branches.look()
    assert branches.radar.asked == 3
    assert (await branches.hub.refs("refs"), objects(branches.hub)) == (refs, there)
    assert (branches.repo.git("for-each-ref"), branches.repo.git("status", "--porcelain")) == upstream
    assert not (branches.hub.path / "nightcrew-radar.tmp").exists()


async def test_a_base_that_moves_is_told_apart_from_the_branches(branches: Branches) -> None:
    old = branches.branch("old", calc_py="1\n", src__data_txt="old\n")
    branches.repo.commit("the base moves", calc_py="base\n")
    new = branches.branch("new", src__data_txt="new\n")
    found = await branches.look()
    assert found.against == {old: ("calc.py",)}
    assert found.between(old, new) == ("src/data.txt",)
    assert found.touched[new] == ("src/data.txt",)


# -- odd branches ------------------------------------------------------------------------------------------------------
async def test_a_branch_that_is_gone_is_told_and_the_others_are_looked_at(branches: Branches) -> None:
    one, other = branches.branch("one", calc_py="1\n"), branches.branch("other", calc_py="2\n")
    branches.heads["nightcrew/gone"] = "a" * 40
    branches.heads["nightcrew/odd"] = "--output=x"
    found = await branches.look()
    assert found.between(one, other) == ("calc.py",)
    assert found.unknown == {
        "nightcrew/gone": "its commit aaaaaaaaaaaa cannot be had",
        "nightcrew/odd": "its commit --output=x cannot be had",
    }


async def test_a_remote_that_is_down_hides_no_branch_that_is_here(branches: Branches, tmp_path: Path) -> None:
    one, other = branches.branch("one", calc_py="1\n"), branches.branch("other", calc_py="2\n")
    base = await branches.hub.fetch_base(MAIN)
    await branches.look()
    shutil.move(branches.repo.path, tmp_path / "elsewhere")
    found = await branches.radar.look(base, branches.heads | {"nightcrew/new": "b" * 40})
    assert found.between(one, other) == ("calc.py",)
    assert "cannot be had: " in found.unknown["nightcrew/new"]


async def test_binary_files_renames_and_removals_conflict_by_name(branches: Branches) -> None:
    branches.repo.write("image.bin", "\0\1\2" * 100)
    branches.repo.commit("a binary file", long_txt="".join(f"line {n}\n" for n in range(50)))
    left, right = branches.branch("left", image_bin="\0left"), branches.branch("right", image_bin="\0right")
    text = (branches.repo.path / "long.txt").read_text()
    moved = branches.branch("moved", remove=("long.txt",), here_txt=text)
    moved_too = branches.branch("moved-too", remove=("long.txt",), there_txt=text)
    edited = branches.branch("edited", long_txt=text.replace("line 7\n", "other\n"))
    removed = branches.branch("removed", remove=("image.bin",))
    found = await branches.look()
    assert found.between(left, right) == ("image.bin",)
    assert found.between(left, removed) == ("image.bin",)
    assert {"here.txt", "there.txt"} <= set(found.between(moved, moved_too))
    assert found.between(moved, edited) == ()  # git follows the rename
    assert found.unknown == {}


async def test_a_folder_where_another_has_a_file_conflicts(branches: Branches) -> None:
    file, folder = branches.branch("file", thing_txt="x"), branches.branch("folder", **{"thing_txt__inner_txt": "y"})
    branches.repo.git("checkout", "-q", folder)
    branches.repo.git("checkout", "-q", MAIN)
    found = await branches.look()
    assert found.heads.keys() == {file, folder}
    assert found.unknown == {}


async def test_submodules_that_two_branches_move_are_a_conflict(branches: Branches) -> None:
    shas = [branches.repo.sha(), branches.repo.sha("HEAD~1")]
    names = []
    for name, sha in zip(("one", "other"), shas, strict=True):
        full = f"nightcrew/{name}"
        branches.repo.git("checkout", "-q", "-B", full, MAIN)
        branches.repo.git("update-index", "--add", "--cacheinfo", f"160000,{sha},lib")
        branches.repo.git("commit", "-q", "-m", "a submodule")
        branches.heads[full] = branches.repo.sha()
        branches.repo.git("checkout", "-q", "-f", MAIN)
        names.append(full)
    assert (await branches.look()).between(*names) == ("lib",)


async def test_histories_with_nothing_in_common_are_compared_as_they_are(branches: Branches) -> None:
    one = branches.branch("one", calc_py="1\n")
    branches.repo.git("checkout", "-q", "--orphan", "nightcrew/alone")
    branches.heads["nightcrew/alone"] = branches.repo.commit("alone", calc_py="2\n")
    branches.repo.git("checkout", "-q", "-f", MAIN)
    found = await branches.look()
    assert "calc.py" in found.between(one, "nightcrew/alone")
    assert found.unknown == {}


async def test_names_that_are_no_text_are_spelled_out(branches: Branches) -> None:
    for name in ("one", "other"):
        branches.repo.git("checkout", "-q", "-B", f"nightcrew/{name}", MAIN)
        (branches.repo.path / os.fsdecode(b"odd-\xff.txt")).write_text(name)
        branches.repo.git("add", "-A")
        branches.repo.git("commit", "-q", "-m", name)
        branches.heads[f"nightcrew/{name}"] = branches.repo.sha()
        branches.repo.git("checkout", "-q", MAIN)
    found = await branches.look()
    assert found.between("nightcrew/one", "nightcrew/other") == ("odd-\\xff.txt",)


async def test_a_repository_with_long_names_of_commits_is_looked_at_too(tmp_path: Path) -> None:
    path = tmp_path / "upstream"
    path.mkdir()
    repo = Repository(path)
    repo.git("init", "-q", "-b", MAIN, "--object-format=sha256")
    repo.commit("first", calc_py="0\n")
    repo.git("clone", "-q", "--bare", str(path), str(tmp_path / "hub.git"))
    hub = Hub(tmp_path / "hub.git", f"file://{path}")
    await hub.ensure()
    branches = Branches(repo, hub)
    one, other = branches.branch("one", calc_py="1\n"), branches.branch("other", calc_py="2\n")
    found = await branches.look()
    assert (len(found.base), found.between(one, other)) == (64, ("calc.py",))
    branches.radar = Radar(hub)
    assert await branches.look() == found
    assert branches.radar.asked == 0


# -- other gits --------------------------------------------------------------------------------------------------------
def another_git(folder: Path, monkeypatch: pytest.MonkeyPatch, refuses: str, says: str) -> None:
    """Put a git first in PATH that is the real one, but does not know an option, as older ones do not."""
    real = shutil.which("git")
    folder.mkdir()
    script = folder / "git"
    refusal = f"""[ "$option" = "{refuses}" ] && {{ echo '{says}' >&2; exit 129; }}"""
    script.write_text(f'#!/bin/sh\nfor option in "$@"; do {refusal}; done\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


async def test_a_git_that_merges_one_pair_at_a_time_finds_the_same(
    branches: Branches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        branches.branch(name, calc_py=f"{name}\n")
    found = await branches.look()
    branches.radar.file.unlink()
    branches.radar = Radar(branches.hub)
    another_git(
        tmp_path / "bin",
        monkeypatch,
        "--stdin",
        "error: unknown option; usage: git merge-tree [--write-tree] ...",
    )
    assert await branches.look() == found
    assert branches.radar.asked == 6


async def test_a_git_that_cannot_merge_without_a_checkout_is_named_with_the_cure(
    branches: Branches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    branches.branch("a", calc_py="1\n")
    another_git(tmp_path / "bin", monkeypatch, "--write-tree", "usage: git merge-tree <base-tree> <branch1> <branch2>")
    with pytest.raises(GitError) as caught:
        await branches.look()
    assert "cannot merge without a checkout" in caught.value.sentence()
    assert "2.38" in caught.value.sentence()


@pytest.mark.parametrize("lost", ["broken^", "broken^{tree}"])
async def test_a_branch_the_disk_lost_a_part_of_is_told_and_the_others_are_merged(
    branches: Branches, lost: str
) -> None:
    one, other = branches.branch("one", calc_py="1\n"), branches.branch("other", calc_py="2\n")
    branches.branch("broken", src__data_txt="x\n")
    broken = branches.branch("broken", start="nightcrew/broken", src__data_txt="y\n")
    await branches.look()
    branches.lose(branches.repo.sha(f"nightcrew/{lost}"))
    found = await branches.look()
    assert found.between(one, other) == ("calc.py",)
    assert found.unknown
    assert all(broken in what for what in found.unknown)
    assert [clash for clash in found.pairs if broken in (clash.one, clash.other)] == []


# -- what tickets are told from ----------------------------------------------------------------------------------------
async def test_files_and_earlier_changes_are_read_from_the_base(branches: Branches) -> None:
    base = branches.repo.commit("Round money up\n\nTo the cent.", shop__money_py="x\n")
    assert await branches.radar.base(MAIN) == ""
    assert await branches.hub.fetch_base(MAIN) == base
    assert await branches.radar.base(MAIN) == base
    assert "shop/money.py" in await branches.radar.files(base)
    first, *_ = await branches.radar.history(base)
    assert (first.words.strip(), first.files) == ("Round money up\nTo the cent.", ("shop/money.py",))


async def test_what_files_define_is_read_from_the_base(branches: Branches) -> None:
    files = {f"many{n}_py": "def often():\n" for n in range(5)}
    base = branches.repo.commit(
        "Code", shop__money_py="class Money:\n    async def round_up(self): ...\n# def not_this\n",
        web__form_ts="export default function LoginForm() {}\nexport interface Typed {}\n",
        a__b_go="func (s *Shop) open() {}\n", c__d_rs="pub fn open() {}\n", **files,
    )  # fmt: skip
    await branches.hub.fetch_base(MAIN)
    found = await branches.radar.defined(base)
    money, form = ("shop/money.py",), ("web/form.ts",)
    assert found.pop("add") == ("calc.py",)
    assert found == {"Money": money, "round_up": money, "LoginForm": form, "Typed": form, "open": ("a/b.go", "c/d.rs")}
    assert await branches.radar.defined(branches.repo.git("hash-object", "-t", "tree", "/dev/null")) == {}


# -- a crew ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def night(tmp_path: Path) -> Night:
    made = Night(tmp_path / "home")
    made.repo("web", cart_py="a\n", money_py="b\n")
    return made


def test_a_night_is_compared_after_its_pushes_and_the_command_tells(night: Night) -> None:
    night.ticket("N-1", "web", *writes("cart.py", "one\n", "one"))
    night.ticket("N-2", "web", *writes("cart.py", "two\n", "two"))
    night.ticket("N-3", "web", *writes("new.py", "three\n", "three"))
    assert night.run("conflicts").out.startswith("No pull request was open yet")
    night.run("up", "--until-idle")
    (web,) = night.run("conflicts", "--json").json["repositories"]
    assert [(c["one"], c["other"], c["files"]) for c in web["conflicts"]] in (
        [("N-1", "N-2", ["cart.py"])], [("N-2", "N-1", ["cart.py"])],
    )  # fmt: skip
    assert {b["ticket"]: b["touched"] for b in web["branches"]} == {
        "N-1": ["cart.py"], "N-2": ["cart.py"], "N-3": ["new.py"],
    }  # fmt: skip
    assert (web["pairs"], web["rework"], web["order"][0]) == (3, 1, "N-3")
    said = night.run("conflicts", "--repo", "web").out
    assert "3 open branches, 1 of 3 pairs conflict" in said
    assert "To merge with the least rework: N-3, " in said


def test_a_merge_takes_a_branch_out_of_the_matrix(night: Night) -> None:
    night.ticket("N-1", "web", *writes("cart.py", "one\n", "one"))
    night.ticket("N-2", "web", *writes("cart.py", "two\n", "two"))
    night.run("up", "--until-idle")
    (one,), (two,) = night.sql("SELECT pull_request FROM runs ORDER BY key")
    assert night.run("pr", "merge", str(one)).code == 0
    night.run("up", "--until-idle")
    (web,) = night.run("conflicts", "--json").json["repositories"]
    assert [(b["ticket"], b["against_base"]) for b in web["branches"]] == [("N-2", ["cart.py"])]
    assert "N-2 and the base: cart.py" in night.run("conflicts").out
    assert night.run("pr", "close", str(two)).code == 0
    night.run("up", "--until-idle")  # nothing is left to be looked at
    assert night.run("conflicts").out.strip() == "web: no pull request is open."


def test_two_tickets_of_one_file_are_not_worked_at_once_while_there_is_other_work(night: Night) -> None:
    night.limits = "max_running = 2\nbackoff_base = 0.5\nreset_grace = 0.1\n"
    night.ticket("N-1", "web", *writes("cart.py", "one\n", "one"), body="Empty the cart in cart.py.", priority=1)
    night.ticket("N-2", "web", *writes("cart.py", "two\n", "two"), body="Sort the cart in cart.py.", priority=2)
    night.ticket("N-3", "web", *writes("new.py", "x\n", "x"), body="A page of its own.", priority=3)
    night.run("up", "--until-idle")
    started = "SELECT runs.key FROM attempts JOIN runs ON runs.id = run_id ORDER BY attempts.started_at"
    assert [row[0] for row in night.sql(started)] == ["N-1", "N-3", "N-2"]


@pytest.mark.slow
def test_of_three_that_conflict_with_a_moved_base_one_at_a_time_is_mended(tmp_path: Path) -> None:
    merge, commit = {"run": "git merge -q origin/main || true"}, {"run": "git add -A && git commit -qm 'Merge main'"}
    with GitHub(tmp_path / "github") as github:
        place = github.state.repository("acme/web", {"app.txt": "first\n"})
        night = CompanyNight(tmp_path / "home", env={"GITHUB_TOKEN": "ghp_nightcrew"})
        night.board = f'kind = "github"\nurl = "{github.url}"\nrepos = ["acme/web"]\nlabels = ["nightcrew"]\n'
        night.forge = f'kind = "github"\nurl = "{github.url}"\n'
        night.places["web"] = f'url = "{github.clone_url("acme/web")}"\n'
        keys = [f"web#{n}" for n in (1, 2, 3)]
        for key in keys:
            github.state.issue("acme/web", f"Do {key}", "Please.", labels=("nightcrew",))
            both = {"write": {"path": "app.txt", "text": f"theirs and {key}\n"}}
            night.plays(key, writes("app.txt", f"{key}\n", "Do it"), [merge, both, commit])
        with night.up():
            night.until(lambda: night.runs() == dict.fromkeys(keys, "in_review"))
            place.bare.commit("main", "theirs", {"app.txt": "theirs\n"})
            night.until(lambda: all(("conflict", "agent", 1) in night.reactions(key) for key in keys))
            night.until(lambda: night.runs() == dict.fromkeys(keys, "in_review"))
            night.until(lambda: against_base(night) == {key: [] for key in keys})
        assert github.violations == []
    times = "SELECT started_at, ended_at FROM attempts WHERE number = 2 ORDER BY started_at"
    mended = night.sql(times)
    assert len(mended) == 3
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(mended))


def against_base(night: CompanyNight) -> dict[str, list[str]]:
    """The files in which each open branch conflicts with its base, as the command tells."""
    (web,) = night.run("conflicts", "--json").json["repositories"]
    return {branch["ticket"]: branch["against_base"] for branch in web["branches"]}
