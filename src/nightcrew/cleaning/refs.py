"""Cleaning refs: branches, claims and rescues past their time. What exists nowhere else stays, and is told (I2)."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nightcrew.cleaning.house import Facts, Go, House, Thing, name_of
from nightcrew.core import keeping
from nightcrew.core.model import Repo, Run
from nightcrew.crew import Crew
from nightcrew.errors import GitError
from nightcrew.git import Hub, Push, git
from nightcrew.git.command import ALONE
from nightcrew.git.rescue import RESCUED
from nightcrew.git.upstream import local_path
from nightcrew.stages.publish import claim_ref

BRANCHES = "refs/heads/nightcrew"
HERE = (BRANCHES, "refs/remotes/origin/nightcrew", "refs/nightcrew/done")
"""Where a hub has our branches: those of linked worktrees, as last fetched, and as last collected."""


@dataclass(frozen=True)
class _Place:
    """One repository while it is looked at. `remote`: ref -> sha there; `safe`: commits that stay whatever goes."""

    house: House
    facts: Facts
    repo: Repo
    hub: Hub
    remote: Mapping[str, str]
    safe: Collection[str]
    git_dir: Path  # where `safe` and the hub's commits can both be asked about
    checked_out: Collection[str]  # refs that the owner looks at in a work tree


async def look_at_refs(house: House, facts: Facts) -> list[Thing]:
    """Refs of every repository, here and where it comes from."""
    found: list[Thing] = []
    for name, repo in house.repos.items():
        hub = house.hubs[name]
        if hub.path.is_dir():
            try:
                found += await _look(house, facts, repo, hub)
            except GitError as error:
                found.append(Thing("branch", name, f"the repository cannot be asked: {error}"))
    return found


async def _look(house: House, facts: Facts, repo: Repo, hub: Hub) -> list[Thing]:
    rescues = await hub.refs(RESCUED)
    old = {ref: why for ref in rescues if (why := _why_rescue_goes(house, facts, hub, ref))}
    things = [_rescue(facts, hub, ref, rescues[ref], why) for ref, why in old.items()]
    branches = {ref: sha for prefix in HERE for ref, sha in (await hub.refs(prefix)).items()}
    if not (house.keep.branches_days and any(_stale(house, facts, name) for name in facts.runs)):
        return things
    remote = await _remote(hub, repo, facts)
    kept = [sha for ref, sha in rescues.items() if ref not in old]
    async with _beside(hub, repo, remote) as git_dir:
        base = remote.get(f"refs/heads/{repo.base}")
        safe = [*kept, *([base] if base else [])]
        place = _Place(house, facts, repo, hub, remote, safe, git_dir, await _checked_out(hub))
        gone = {ref: thing for ref in remote if (thing := await _there(place, ref))}
        stay = {ref for ref in remote if ref.startswith(BRANCHES) and not (ref in gone and gone[ref].go)}
        here = [await _in_hub(place, ref, sha, stay) for ref, sha in branches.items()]
        return [*things, *gone.values(), *(thing for thing in here if thing), *_claims(place)]


# -- rescues -----------------------------------------------------------------------------------------------------------
def _why_rescue_goes(house: House, facts: Facts, hub: Hub, ref: str) -> str:
    """How old a rescue is that is past its time, "" when it is not, or nobody knows when it was made."""
    name = ref.removeprefix(f"{RESCUED}/").rpartition("/")[0]
    with suppress(OSError):  # the time in the commit is the agent's word
        at = (hub.path / ref).stat().st_mtime
        if facts.over(name) and keeping.past(at, house.keep.rescue_days, house.epoch):
            return keeping.age(at, house.epoch)
    return ""


def _rescue(facts: Facts, hub: Hub, ref: str, sha: str, why: str) -> Thing:
    run = facts.runs.get(ref.removeprefix(f"{RESCUED}/").rpartition("/")[0])
    return Thing("rescue", ref, f"{why}; it was {sha}", run_id=run.id if run else "", go=_dropped(hub, ref, sha))


# -- branches ----------------------------------------------------------------------------------------------------------
def _stale(house: House, facts: Facts, name: str) -> bool:
    """Whether the run of that name is over for so long that its branches may go."""
    run = facts.runs.get(name)
    if run is None or not facts.over(name):
        return False
    return keeping.past(facts.ended_at(run), house.keep.branches_days, house.epoch)


async def _there(place: _Place, ref: str) -> Thing | None:
    """A branch of ours where the repository comes from; None when it is not stale."""
    facts, name, sha = place.facts, name_of(ref), place.remote[ref]
    if not ref.startswith(f"{BRANCHES}/") or not _stale(place.house, facts, name):
        return None
    run = facts.runs[name]
    done = await place.hub.sha(f"refs/nightcrew/done/{name}")
    what = f"{place.repo.name}: {ref}"
    if sha not in facts.heads.get(run.id, ()) and sha != done:
        return Thing("branch", what, "somebody else committed to it", run_id=run.id)
    if ref in place.checked_out:
        return Thing("branch", what, "it is checked out", run_id=run.id)
    if why := await _safe(place, run, sha):
        return Thing("branch", what, f"{run.key} is {run.state} since {_since(place, run)}, and {why}", 0, run.id,
                     _unpushed(place, run, ref, sha))  # fmt: skip
    return Thing("branch", what, "its commits are nowhere else", run_id=run.id)


async def _in_hub(place: _Place, ref: str, sha: str, stay: Collection[str]) -> Thing | None:
    """A copy of ours of a branch; None when it is not stale."""
    name = name_of(ref)
    if not _stale(place.house, place.facts, name):
        return None
    run, what = place.facts.runs[name], f"{place.repo.name} (hub): {ref}"
    pushed = any(place.remote[there] == sha for there in stay)
    why = "it is pushed" if pushed else await _safe(place, run, sha)
    if not why:
        return Thing("branch", what, "its commits are nowhere else", run_id=run.id)
    return Thing("branch", what, f"{run.key} is {run.state} since {_since(place, run)}, and {why}", 0, run.id,
                 _dropped(place.hub, ref, sha))  # fmt: skip


async def _safe(place: _Place, run: Run, sha: str) -> str:
    """Where else all of `sha` is, in words; "" when nowhere."""
    for ref, there in place.remote.items():
        if there == sha and ref.startswith("refs/pull/"):
            return f"the forge keeps it as {ref}"
    asked = ("rev-list", "--max-count=1", sha, "--not", *place.safe, "--")
    with suppress(GitError):  # an object that is not here
        if place.safe and not await git(*asked, git_dir=place.git_dir, env=ALONE):
            return f"all of it is in {place.repo.base} or in a rescue ref"
    return ""


def _since(place: _Place, run: Run) -> str:
    return f"{(place.house.epoch - place.facts.ended_at(run)) / keeping.DAY:.0f} days"


# -- claims ------------------------------------------------------------------------------------------------------------
def _claims(place: _Place) -> list[Thing]:
    """Our own claims of branches whose runs are over for long."""
    found = []
    for run in dict.fromkeys(place.facts.runs.values()):
        for branch in keeping.branches(run):
            ref = claim_ref(branch)
            sha = place.remote.get(ref)
            if sha and _stale(place.house, place.facts, name_of(branch)) and sha == _blob(place.house, branch, sha):
                why = f"{run.key} is {run.state} since {_since(place, run)}"
                go = _unpushed(place, run, ref, sha)
                found.append(Thing("claim", f"{place.repo.name}: {ref}", why, 0, run.id, go))
    return found


def _blob(house: House, branch: str, like: str) -> str:
    """The object that our claim of a branch is."""
    data = f"nightcrew {house.crew_id} {branch}\n".encode()
    kind = hashlib.sha1 if len(like) == 40 else hashlib.sha256  # git's names, no secret
    return kind(b"blob %d\0" % len(data) + data).hexdigest()


# -- how it goes -------------------------------------------------------------------------------------------------------
def _dropped(hub: Hub, ref: str, sha: str) -> Go:
    """The ref goes, if it is still there and as it was. The commits stay: a hub is never pruned."""

    async def go(_: Crew) -> None:
        if await hub.sha(ref) == sha:
            await git("update-ref", "--no-deref", "-d", ref, sha, git_dir=hub.path, env=ALONE)

    return go


def _unpushed(place: _Place, run: Run, ref: str, sha: str) -> Go:
    """The ref goes where the repository comes from, if it is still as it was and its run still over."""
    house, hub = place.house, place.hub

    async def go(_: Crew) -> None:
        now = house.store.named(run.id)
        if now and now.updated_at == run.updated_at and await hub.remote_ref(ref) == sha:
            await hub.push([Push(ref, "", sha)])

    return go


async def _remote(hub: Hub, repo: Repo, facts: Facts) -> dict[str, str]:
    """Ref -> sha, as the repository's home has them now: the base, our branches and claims, our pull requests."""
    numbers = {run.pull_request for run in facts.runs.values() if run.repo == repo.name and run.pull_request}
    pulls = {f"refs/pull/{number}/head" for number in numbers}
    out = await git("ls-remote", "--", hub.url, f"refs/heads/{repo.base}", f"{BRANCHES}/*", "refs/nightcrew/claims/*",
                    "refs/pull/*/head", env=hub.env)  # fmt: skip
    pairs = (line.split("\t", 1) for line in out.splitlines() if "\t" in line)
    return {ref: sha for sha, ref in pairs if not ref.startswith("refs/pull/") or ref in pulls}


@asynccontextmanager
async def _beside(hub: Hub, repo: Repo, remote: Mapping[str, str]) -> AsyncIterator[Path]:
    """A repository that has the hub's objects and the base as it is now; the hub itself is not written to."""
    base = remote.get(f"refs/heads/{repo.base}")
    if base is None or await hub.sha(base):
        yield hub.path
        return
    with TemporaryDirectory(prefix="nightcrew-clean-") as scratch:
        made = Path(scratch, "repo.git")
        await git("init", "--quiet", "--bare", "--template=", str(made), env=ALONE)
        (made / "objects/info").mkdir(exist_ok=True)
        (made / "objects/info/alternates").write_text(f"{hub.path}/objects\n")
        if (hub.path / "shallow").exists():
            shutil.copyfile(hub.path / "shallow", made / "shallow")
        spec = f"+refs/heads/{repo.base}:refs/heads/there"
        await git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", hub.url, spec, git_dir=made,
                  env=hub.env)  # fmt: skip
        yield made


async def _checked_out(hub: Hub) -> set[str]:
    """The branches that the owner of a repository on this machine has in a work tree."""
    path = local_path(hub.url)
    if path is None:
        return set()
    out = await git("worktree", "list", "--porcelain", cwd=path)
    return {line.removeprefix("branch ") for line in out.splitlines() if line.startswith("branch ")}
