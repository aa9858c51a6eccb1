"""The conflict radar: every pair of open branches merged in the hub, without a checkout, each pair once for ever."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from nightcrew.core import radar
from nightcrew.core.likely import FEW, Earlier
from nightcrew.errors import GitError
from nightcrew.git.command import ALONE, Completed, encode, failure, git, run
from nightcrew.git.hub import Hub

BRANCHES = "nightcrew"
AT_ONCE = 128  # merges asked of one process: when it dies, what it said before is kept
MOST_FILES = 200  # of one pair or branch that are remembered
MOST_HISTORY, MOST_IN_TREE = 300, 50_000
OLD_GIT = "Install git 2.38 or newer; 2.39 or newer does it in a tenth of the time."
UNREADABLE = "git cannot read its changes"
MERGE = ("-c", "merge.renameLimit=1000", "-c", "core.fsync=none", "merge-tree", "--write-tree", "--name-only",
         "--no-messages", "--allow-unrelated-histories")  # fmt: skip
DEFINED = (
    r"^[[:space:]]*((abstract|async|default|export|final|private|protected|pub|public|static)[[:space:]]+)*"
    r"(class|def|enum|fn|func|function|interface|module|struct|trait|type)[[:space:]]+"
    r"(\([^)]*\)[[:space:]]*)?[A-Za-z_][A-Za-z0-9_]*"  # a method of Go tells of what it is one first
)
A_MOMENT = 1.5  # seconds; 5,000 files take half of that
_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
Pair = tuple[str, str]


class Radar:
    """Says which branches of a hub's repository conflict. What it found is kept in a file in the hub.

    No ref, index or file of a work tree is touched. Every method raises GitError when git fails.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.file = hub.path / "nightcrew-radar.json"
        self.asked = 0  # pairs that git was asked about by this object
        self._merged: dict[Pair, tuple[str, ...]] | None = None
        self._touched: dict[Pair, tuple[str, ...]] = {}
        self._broken: dict[Pair, str] = {}  # cannot be merged at all; a new process asks again
        self._many: bool | None = None
        self._written = ""

    async def look(self, base: str, heads: Mapping[str, str]) -> radar.Conflicts:
        """How these branches (name -> commit, oldest first) and the base's commit get along.

        Commits that are not in the hub are fetched, all in one go. A branch whose commit cannot be had, and two that
        git cannot merge, are told in `unknown`. One look at a time for each hub.
        """
        async with self.hub.turn("radar"):
            self._recall()
            here, unknown = await self._bring(base, heads)
            touched = await self._touches(base, here)
            unknown |= {branch: UNREADABLE for branch in here if branch not in touched}
            here = {branch: sha for branch, sha in here.items() if branch in touched}
            wanted = radar.pairs([base, *here.values()])
            try:
                await self._merge([pair for pair in wanted if pair not in self._known and pair not in self._broken])
            finally:
                self._keep(wanted, [(base, head) for head in here.values()])
            merged = {frozenset(pair): self._known[pair] for pair in wanted if pair in self._known}
            unknown |= {self._named(pair, base, here): why for pair, why in self._broken.items() if pair in wanted}
            return radar.found(base, here, merged, touched, unknown)

    async def base(self, branch: str) -> str:
        """The base branch's commit as it was last fetched, "" when it never was; no one is asked."""
        return await self.hub.sha(f"refs/remotes/origin/{branch}") or "" if self.hub.path.exists() else ""

    async def files(self, commit: str) -> tuple[str, ...]:
        """The paths of a commit's files, the first 50,000."""
        out = await self._git("ls-tree", "-r", "--name-only", "-z", commit)
        return _names(out.split("\0")[:-1][:MOST_IN_TREE])

    async def history(self, commit: str) -> tuple[Earlier, ...]:
        """The last 300 changes up to a commit: what they say, and the files they touched (merges left out)."""
        out = await self._git("log", f"--max-count={MOST_HISTORY}", "--no-merges", "--no-renames", "--name-only", "-z",
                              "--format=%x01%s%n%b%x02", commit)  # fmt: skip
        changes = (entry.partition("\x02") for entry in out.split("\x01")[1:])
        told = ((says[:2000], _names(files.strip("\0\n").split("\0")[:MOST_FILES])) for says, _, files in changes)
        return tuple(Earlier(says, files) for says, files in told if files)

    async def defined(self, commit: str) -> dict[str, tuple[str, ...]]:
        """Which of a commit's files define a class, function or type of that name; none when it takes too long."""
        args = ("grep", "-I", "-E", "-o", "-z", "--no-color", "--no-textconv", "--max-count=500", "-e", DEFINED, commit)
        try:
            out = await git(*args, git_dir=self.hub.path, env=ALONE, timeout=A_MOMENT, ok=(0, 1))
        except GitError:  # a guess is the better for it, and can do without
            return {}
        found: dict[str, dict[str, None]] = {}
        for line in out.splitlines():
            place, _, definition = line.partition("\0")
            found.setdefault(re.split(r"\W", definition)[-1], {})[place.partition(":")[2]] = None
        return {name: _names(tuple(files)) for name, files in found.items() if len(files) <= FEW}

    @property
    def _known(self) -> dict[Pair, tuple[str, ...]]:
        return self._merged if self._merged is not None else {}

    # -- commits ---------------------------------------------------------------------------------------------------
    async def _bring(self, base: str, heads: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """The branches whose commits are here, after one fetch if need be, and why the others' are not."""
        missing, why = await self._missing([base, *heads.values()]), ""
        if base in missing:
            raise GitError("cat-file", 128, f"{base!r} is no commit of the hub")
        if missing:
            try:
                await self._fetch()
            except GitError as error:  # those that are here are looked at all the same
                why = f": {error}"
            missing = await self._missing(sorted(missing))
        here = {branch: sha for branch, sha in heads.items() if sha not in missing}
        lacking = [branch for branch in heads if branch not in here]
        return here, {branch: f"its commit {heads[branch][:12]} cannot be had{why}" for branch in lacking}

    async def _missing(self, shas: Sequence[str]) -> set[str]:
        """Those that are no commits of the hub."""
        whole = sorted({sha for sha in shas if _SHA.fullmatch(sha)})
        out = await self._git("cat-file", "--batch-check=%(objectname) %(objecttype)", input="\n".join([*whole, ""]))
        return {*shas} - {line.removesuffix(" commit") for line in out.splitlines() if line.endswith(" commit")}

    async def _fetch(self) -> None:
        """Our branches as the remote has them now; those that are gone there go here too."""
        spec = f"+refs/heads/{BRANCHES}/*:refs/remotes/origin/{BRANCHES}/*"
        args = ("fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--", self.hub.url, spec)
        async with self.hub.lock:
            await git(*args, git_dir=self.hub.path, env=self.hub.env)

    async def _touches(self, base: str, heads: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """What each branch changed since it left the base, but of those that cannot be read; a rename is both names."""
        turn = asyncio.Semaphore(os.cpu_count() or 1)

        async def ask(head: str) -> None:
            async with turn:
                if (base, head) not in self._touched and (files := await self._changed(base, head)) is not None:
                    self._touched[base, head] = files[:MOST_FILES]

        await asyncio.gather(*map(ask, set(heads.values())))
        known = {branch: self._touched.get((base, head)) for branch, head in heads.items()}
        return {branch: files for branch, files in known.items() if files is not None}

    async def _changed(self, base: str, head: str) -> tuple[str, ...] | None:
        asked = ("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=none")
        done = await run(*asked, f"{base}...{head}", "--", git_dir=self.hub.path, env=ALONE)
        if done.code:  # nothing in common: as they are
            done = await run(*asked, base, head, "--", git_dir=self.hub.path, env=ALONE)
        return None if done.code else _names(done.stdout.split("\0"))

    # -- merges ----------------------------------------------------------------------------------------------------
    async def _merge(self, pairs: Sequence[Pair]) -> None:
        """Merge each pair. The trees that come of it are written to a folder that is removed: nobody needs them."""
        if not pairs:
            return
        self.asked += len(pairs)
        scratch = self.hub.path / "nightcrew-radar.tmp"
        shutil.rmtree(scratch, ignore_errors=True)  # a killed look leaves it
        scratch.mkdir()
        try:
            env = ALONE | {"GIT_OBJECT_DIRECTORY": str(scratch),
                           "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(self.hub.path / "objects")}  # fmt: skip
            work = self._series if await self._takes_many(env) else self._one_by_one
            turn, size = asyncio.Semaphore(os.cpu_count() or 1), min(AT_ONCE, -(-len(pairs) // (os.cpu_count() or 1)))

            async def some(part: Sequence[Pair]) -> None:
                async with turn:
                    await work(part, env)

            await asyncio.gather(*(some(pairs[at : at + size]) for at in range(0, len(pairs), size)))
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    async def _takes_many(self, env: Mapping[str, str]) -> bool:
        """Whether this git merges many pairs in one process. Raises GitError when it cannot merge one."""
        if self._many is None:
            done = await run(*MERGE, "--stdin", git_dir=self.hub.path, env=env)
            self._many = done.code == 0
            if done.code == 129 and "--write-tree" not in done.stderr:  # its usage
                raise GitError("merge-tree", 129, "this git cannot merge without a checkout", hint=OLD_GIT)
        return self._many

    async def _series(self, pairs: Sequence[Pair], env: Mapping[str, str]) -> None:
        """Many pairs, one process. One that it dies of is told, and the next ones are asked of another process."""
        left = list(pairs)
        while left:
            asked = "".join(f"{one} {other}\n" for one, other in left)
            done = await run(*MERGE, "--stdin", git_dir=self.hub.path, env=env, input=encode(asked))
            if _stumbled(done):  # which of them is meant is not said
                return await self._one_by_one(left, env)
            answers = _answers(done.stdout)
            for pair, files in zip(left, answers, strict=False):
                self._known[pair] = files[:MOST_FILES]
            left = left[len(answers) :]
            if left:
                self._could_not(left.pop(0), done)
        return None

    async def _one_by_one(self, pairs: Sequence[Pair], env: Mapping[str, str]) -> None:
        for pair in pairs:
            done = await run(*MERGE, "-z", *pair, git_dir=self.hub.path, env=env)
            if done.code in (0, 1) and not _stumbled(done):
                self._known[pair] = _names(done.stdout.split("\0")[1:])[:MOST_FILES]
            else:
                self._could_not(pair, done)

    def _could_not(self, pair: Pair, done: Completed) -> None:
        """Note that git could not merge the two; a fault of the machine is no such thing, and is raised."""
        if done.code not in (0, 1, 128) or failure(("merge-tree",), done).hint:
            raise failure(("merge-tree",), done)
        self._broken[pair] = f"git cannot merge them: {done.stderr.strip()[-200:]}"

    @staticmethod
    def _named(pair: Pair, base: str, heads: Mapping[str, str]) -> str:
        names = {sha: branch for branch, sha in heads.items()} | {base: "the base"}
        return " and ".join(sorted(names[sha] for sha in pair))

    # -- remembered ------------------------------------------------------------------------------------------------
    def _recall(self) -> None:
        """Read what an earlier process found. A file that cannot be read is as good as none."""
        if self._merged is not None:
            return
        self._merged = {}
        with suppress(OSError, ValueError, AttributeError, TypeError, LookupError):
            kept = json.loads(self.file.read_bytes())
            self._merged = {_pair(key): tuple(map(str, files)) for key, files in kept["merged"].items()}
            self._touched = {_pair(key): tuple(map(str, files)) for key, files in kept["touched"].items()}

    def _keep(self, merged: Sequence[Pair], touched: Sequence[Pair]) -> None:
        """Keep what the branches of now need, and write it down when that changed."""
        self._merged = {pair: self._known[pair] for pair in merged if pair in self._known}
        self._touched = {pair: self._touched[pair] for pair in touched if pair in self._touched}
        text = json.dumps({
            "merged": {" ".join(pair): files for pair, files in self._merged.items()},
            "touched": {" ".join(pair): files for pair, files in self._touched.items()},
        })  # fmt: skip
        if text == self._written:
            return
        fresh = self.file.with_suffix(".new")
        with suppress(OSError):  # a full disk costs the next process a look, nothing else
            fresh.write_text(text)
            fresh.replace(self.file)
            self._written = text

    async def _git(self, *args: str, input: str = "") -> str:  # noqa: A002 - what it is
        return await git(*args, git_dir=self.hub.path, env=ALONE, input=encode(input))


def _stumbled(done: Completed) -> bool:
    """Older gits go on where an object is missing, as if its files had been removed."""
    return done.code in (0, 1) and "error: " in done.stderr


def _answers(out: str) -> list[tuple[str, ...]]:
    """The files in conflict of each merge of a series: `status NUL tree NUL (file NUL)* NUL` for each."""
    fields, answers = out.split("\0"), []
    ends = [at for at, text in enumerate(fields[:-1]) if not text]
    for before, end in pairwise([-1, *ends]):
        answers.append(_names(fields[before + 3 : end]))
    return answers


def _names(found: Sequence[str]) -> tuple[str, ...]:
    """Paths, each once; a byte of one that is no UTF-8 is spelled out, so that every database and terminal takes it."""
    return tuple(dict.fromkeys(encode(path).decode("utf-8", "backslashreplace") for path in found if path))


def _pair(key: str) -> Pair:
    one, other = key.split(" ")
    return one, other


def _quoted(path: Path) -> str:
    """As git reads a list of folders: quoted like a string of C, for a colon would end it."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
