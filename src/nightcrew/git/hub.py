"""The hub: our bare mirror of one repository. Agents' work comes in through it, and leaves through it alone."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from nightcrew.errors import GitError
from nightcrew.git import agent_tree, uncommitted
from nightcrew.git.command import ALONE, ZERO, encode, failure, git, run
from nightcrew.git.questions import Questions
from nightcrew.git.upstream import local_path, why_no_base
from nightcrew.git.values import Change, Merge, Push, PushRejected

# The whole change, told the same way whatever a repository's attributes or anyone's configuration say.
DIFF = ("--no-ext-diff", "--no-textconv", "--no-renames", "--no-color", "--ignore-submodules=none",
        "--diff-algorithm=myers")  # fmt: skip
PATCH = ("--unified=3", "--src-prefix=a/", "--dst-prefix=b/", *DIFF)
HUB_CONFIG = {
    "gc.auto": "0",  # private clones borrow these objects: nothing is ever pruned
    "maintenance.auto": "false",
    "core.logAllRefUpdates": "false",
    "core.filesRefLockTimeout": "10000",
    "core.packedRefsTimeout": "10000",
}
NO_SUCH_FILE = ("does not exist in", "but not in", "bad file")  # the last: it is a folder
Env = Mapping[str, str] | Callable[[], Mapping[str, str]]
STALE_LOCK = 600.0  # seconds; no git of ours holds a ref lock that long


class Hub:
    """The bare mirror of the repository at `url`, kept at `path`; shared by all tickets of one process.

    `env` is, or gives, what fetching and pushing need (a forge's credentials; never seen by an agent).
    `identity` is the name and e-mail address of commits nightcrew makes. Every method raises GitError when git fails.
    """

    def __init__(
        self,
        path: Path,
        url: str,
        env: Env | None = None,
        identity: tuple[str, str] = ("nightcrew", "nightcrew@localhost"),
    ) -> None:
        self.path = path.absolute()
        local = None if url.startswith("file://") else local_path(url)
        self.url = str(local.absolute()) if local else url
        self._env = env if callable(env) else dict(env or {})
        self.identity = identity
        self.lock = asyncio.Lock()  # one fetch, one branch or worktree change at a time
        self.checkouts = asyncio.Semaphore(os.cpu_count() or 1)  # more at once only make the first one wait
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.questions = Questions(self.path)
        self._local = local.absolute() if local else None
        self._ensured = False
        self._here: set[str] = set()  # shas of objects that were seen here
        self._blobs: dict[bytes, str] = {}  # the claims of this process
        self._asked = 0
        self._fetched: dict[str, tuple[int, str | GitError]] = {}
        self._found: defaultdict[str, set[str]] = defaultdict(set)

    @property
    def env(self) -> Mapping[str, str]:
        """What fetching and pushing need now: a short-lived credential is asked for each time."""
        return self._env() if callable(self._env) else self._env

    async def ensure(self) -> None:
        """Make the hub if it is not there. What a killed nightcrew left half-made is put aside, never deleted."""
        if self._ensured and self.path.exists():
            self._break_stale_locks()
            return
        async with self.lock:
            if self.path.exists() and not await self._usable():
                self.path.rename(self.path.with_name(f"{self.path.name}.broken-{uuid4().hex[:8]}"))
            if not self.path.exists():
                self._here.clear()
                await self._create()
            self._break_stale_locks()
            if await self._git("config", "--get", "remote.origin.url", ok=(0, 1)) != f"{self.url}\n":
                await self._git("config", "remote.origin.url", self.url)
            self._ensured = True

    def turn(self, name: str) -> asyncio.Lock:
        """A lock of that name: for what may be done only once at a time."""
        return self._turns[name]

    async def fetch_base(self, base: str) -> str:
        """Fetch branch `base` and return its sha, also kept as refs/remotes/origin/<base>.

        Callers who wait at the same time share one fetch, started after they asked. Raises GitError with a sentence and
        a hint when the repository is missing, is no repository, has no commits, or lacks the branch.
        """
        self._asked += 1
        asked = self._asked
        async with self.lock:
            started, result = self._fetched.get(base, (0, ""))
            if started < asked:
                self._asked += 1
                started, result = self._asked, await self._fetch(base)
                self._fetched[base] = (started, result)
                self._found[base].add(str(result))  # others fetch before a tree is made of its base
        if isinstance(result, GitError):
            raise result
        return result

    async def fetch_branches(self, branches: Sequence[str]) -> None:
        """Bring the commits of these branches here, without a ref; those that are gone by now are left out."""
        there = {f"refs/heads/{branch}" for branch in branches if re.fullmatch(r"[\w./+@-]+", branch)}
        out = await git("ls-remote", "--heads", "--", self.url, env=self.env)
        if known := sorted(there & {name for _, _, name in map(_tabbed, out.split("\n"))}):
            async with self.lock:
                args = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", self.url, *known)
                await git(*args, git_dir=self.path, env=self.env)

    def fetched(self, sha: str) -> list[str]:
        """The refs under refs/remotes/origin that a fetch of this process found at this commit."""
        return [f"refs/remotes/origin/{base}" for base, shas in self._found.items() if sha in shas]

    async def skeleton(self) -> Path:
        """An empty repository's .git folder, as this machine's git makes it, to be copied for each private tree."""
        made = self.path.with_name(f"{self.path.name}.empty")
        async with self.turn("skeleton"):
            if not made.exists():
                fresh = self.path.with_name(f"{made.name}-{uuid4().hex[:8]}")
                await git("init", "--quiet", "--template=", "--", str(fresh), env=ALONE)
                (fresh / ".git").rename(made)
                fresh.rmdir()
        return made

    async def remote_ref(self, ref: str) -> str | None:
        """What exactly `ref` is at the remote now; None when it is absent."""
        if self._local:
            return await self._beside(ref)
        out = await git("ls-remote", "--", self.url, ref, env=self.env)
        return next((sha for sha, _, name in map(_tabbed, out.split("\n")) if name == ref), None)

    async def _beside(self, ref: str) -> str | None:
        """A ref of a repository on this machine, read without the round trip of ls-remote."""
        asked = ("for-each-ref", "--format=%(objectname)%09%(refname)", ref)
        out = await git(*asked, cwd=self._local, env=self.env)
        return next((sha for sha, _, name in map(_tabbed, out.split("\n")) if name == ref), None)

    async def sha(self, rev: str) -> str | None:
        """The object `rev` names, None when there is none."""
        if rev in self._here:
            return rev
        out = await self._git("rev-parse", "--verify", "--quiet", f"{_checked(rev)}^{{object}}", ok=(0, 1, 128))
        if out.strip() == rev:
            self._here.add(rev)  # nothing is ever pruned, so what is here stays
        return out.strip() or None

    async def _missing(self, refs: Mapping[str, str | None]) -> list[str]:
        """Those of an agent's refs whose commits are not in the hub yet."""
        return [name for name, sha in refs.items() if sha and not await self.sha(sha)]

    async def refs(self, prefix: str) -> dict[str, str]:
        """All refs below `prefix` (whole path parts), name -> sha."""
        out = await self._git("for-each-ref", "--format=%(objectname)%09%(refname)", prefix.rstrip("/"))
        return {name: sha for sha, _, name in map(_tabbed, out.split("\n")) if name}

    async def set_ref(self, ref: str, sha: str, expect: str | None = None) -> bool:
        """Point `ref` at `sha`. With `expect` ("" = absent) only when that is what it is now; False says it was not."""
        old = () if expect is None else (expect or ZERO,)
        args = ("update-ref", "--no-deref", ref, sha, *old)
        done = await run(*args, git_dir=self.path, env=ALONE)
        if done.code and (expect is None or (await self.sha(ref) or "") == expect):
            raise failure(args, done)
        return done.code == 0

    async def delete_ref(self, ref: str) -> None:
        """Remove `ref`; nothing happens when it is absent."""
        await self._git("update-ref", "--no-deref", "-d", ref)

    async def take(self, tree: Path, branch: str, into: str) -> str | None:
        """Fetch an agent's committed work from its repository at `tree` into our ref `into`; return the sha.

        None when nothing was ever committed there. The agent may have left another branch, or a detached HEAD: see
        `agent_tree.chosen` for which commit counts. Nothing planted in the tree runs. Raises GitError when the tree's
        `.git` leads to another repository.
        """
        return (await self._taken(tree, branch, into))[0]

    async def _taken(self, tree: Path, branch: str, into: str) -> tuple[str | None, str | None]:
        """The work as `into` has it now, and where HEAD was."""
        found = await self.tips(tree, branch)
        names = {"HEAD": found.head, **{k: v for k, v in found.refs.items() if k == f"refs/heads/{branch}"}}
        await agent_tree.bring(self.path, tree, await self._missing(names))
        sha = await agent_tree.chosen(self.path, found, branch)
        if sha:
            await self._git("update-ref", "--no-deref", into, sha)
        return sha, found.head

    async def collect(
        self, tree: Path, branch: str, into: str, base_sha: str, message: str, seed: Path | None = None
    ) -> str:
        """Like `take`, and what lies uncommitted on top of the work becomes a commit too, with `message`.

        Returns what `into` is then; `base_sha`, and no ref, when there is nothing. Where HEAD is not at the work (the
        agent looked at an older commit, a rebase was cut short), the files are not part of it: the rescue keeps them.
        """
        head, was_at = await self._taken(tree, branch, into)
        if head and was_at != head:
            return head
        left = await self.snapshot(tree, head or base_sha, message, seed)
        if left:
            await self.set_ref(into, left)
        return left or head or base_sha

    async def tips(self, tree: Path, branch: str = "") -> agent_tree.Tips:
        """What an agent's repository has committed. Of a linked worktree: its HEAD, and where that and `branch` are."""
        linked = agent_tree.check(self.path, tree)
        found = await agent_tree.tips(self.path, tree)
        own = {found.on, f"refs/heads/{branch}"}
        return replace(found, refs={k: v for k, v in found.refs.items() if k in own}) if linked else found

    async def take_all(self, tree: Path, branch: str) -> agent_tree.Taken:
        """Bring every commit of an agent's repository into the hub, without a ref. Otherwise like `take`."""
        found = await self.tips(tree, branch)
        shas = {"HEAD": found.head, **found.refs}
        await agent_tree.bring(self.path, tree, await self._missing(shas), strict=False)
        work = await agent_tree.chosen(self.path, found, branch)
        return agent_tree.Taken(work, found.head, tuple(sorted({sha for sha in shas.values() if sha})))

    async def snapshot(self, tree: Path, parent: str, message: str, seed: Path | None = None) -> str | None:
        """A commit, child of `parent`, of the tree's files as they are; None when they are those of `parent`.

        The files are read with the hub's repository and an index of ours, so nothing of the tree's `.git` is used or
        run; ignored files stay out, files of repositories nested in the tree come in as plain files. `seed` may be an
        index *we* made for these files, which saves reading unchanged ones.
        """
        made = await uncommitted.write_tree(self.path, tree, parent, seed)
        if made is None or made == await self.tree(parent):
            return None
        return await self.commit_tree(made, [parent], message)

    async def merge_tree(self, ours: str, theirs: str) -> Merge:
        """Merge two commits without touching any ref or file."""
        args = ("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", _checked(ours), _checked(theirs))
        out = (await self.questions.ask(*args, revs=(ours, theirs), ok=(0, 1))).stdout
        tree, *conflicts = out.split("\0")
        return Merge(tree.strip(), tuple(path for path in conflicts if path))

    async def commit_tree(self, tree: str, parents: Sequence[str], message: str) -> str:
        """A new commit by `identity`, now; returns its sha."""
        name, email = self.identity
        who = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in
               (("NAME", name), ("EMAIL", email))}  # fmt: skip
        args = [part for parent in parents for part in ("-p", parent)]
        out = await git(
            "commit-tree", tree, *args, "-F", "-", git_dir=self.path, env=ALONE | who, input=encode(message)
        )
        return out.strip()

    async def changes(self, base: str, head: str) -> list[Change]:
        """Files changed from the merge base of `base` and `head` to `head`. A rename is a deletion and an addition."""
        span = await self._span(base, head)
        out = (await self.questions.ask("diff", "--numstat", "-z", *DIFF, *span, "--", revs=span)).stdout
        return [_change(entry) for entry in out.split("\0") if entry]

    async def diff(self, base: str, head: str, limit: int = 1 << 20) -> str:
        """The change as a patch, from the merge base; cut after `limit` characters, saying so."""
        text = await self._git("diff", *PATCH, *await self._span(base, head), "--")
        return text if len(text) <= limit else f"{text[:limit]}\n[cut after {limit} of {len(text)} characters]\n"

    async def patch_id(self, base: str, head: str) -> str:
        """A name for the change itself, the same wherever it is applied; "" when nothing is changed."""
        span = await self._span(base, head)
        text = (await self.questions.ask("diff", "--binary", "--full-index", *PATCH, *span, "--", revs=span)).stdout
        return (await self.questions.ask("patch-id", "--stable", revs=span, input=text)).stdout.partition(" ")[0]

    async def show(self, rev: str, path: str, limit: int = 1 << 20) -> bytes | None:
        """The first `limit` bytes of a file at `rev`; None when the commit has no such file."""
        args = ("cat-file", "blob", f"{_checked(rev)}:{path}")
        done = await self.questions.ask(*args, revs=(f"{rev}:",), ok=(0, 128))
        if done.code and not any(words in done.stderr for words in NO_SUCH_FILE):
            raise failure(args, done)  # a fault must not read as "the file was removed"
        return None if done.code else encode(done.stdout)[:limit]

    async def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `new` contains `old`. Raises GitError when one of them is unknown."""
        args = ("merge-base", "--is-ancestor", _checked(old), _checked(new))
        return (await self.questions.ask(*args, revs=(old, new), ok=(0, 1))).code == 0

    async def push(self, updates: Sequence[Push]) -> None:
        """Move refs at the remote, all or none. Raises PushRejected when one is not as expected there.

        A ref that already is at its new sha counts as moved (an answer that was lost). So a claim must push an object
        of its own, never a sha two claimants share.
        """
        leases = [f"--force-with-lease={u.ref}:{u.expect}" for u in updates if u.expect is not None]
        specs = [f"{u.sha}:{u.ref}" for u in updates]
        args = ("push", "--porcelain", "--no-verify", "--atomic", *leases, "--", self.url, *specs)
        done = await run(*args, git_dir=self.path, env=self.env)
        if done.code:
            refused = [line for line in done.stdout.splitlines() if line.startswith("!")]
            raise (PushRejected("push", done.code, "\n".join(refused)) if refused else failure(args, done))

    async def blob(self, data: bytes) -> str:
        """Store `data`; returns its sha."""
        if data not in self._blobs:
            out = await git("hash-object", "-w", "--stdin", git_dir=self.path, env=ALONE, input=data)
            self._blobs[data] = out.strip()
        return self._blobs[data]

    async def place(self, ref: str, data: bytes) -> str:
        """Make `ref` at the remote, holding `data`, if it is absent; returns its sha. Exactly one of many wins.

        Raises PushRejected when it is there and holds anything else. It is there with this very data: that counts.
        """
        sha = await self.blob(data)
        if self._local is None:
            await self.push([Push(ref, sha, "")])
            return sha
        # A repository on this machine is asked directly: a push would start four processes for one file.
        await git("hash-object", "-w", "--stdin", cwd=self._local, env=self.env, input=data)
        args = ("update-ref", "--no-deref", ref, sha, ZERO)
        done = await run(*args, cwd=self._local, env=self.env)
        if done.code and await self._beside(ref) != sha:
            raise PushRejected("update-ref", done.code, done.stderr)
        return sha

    async def _git(self, *args: str, ok: Sequence[int] = (0,)) -> str:
        return await git(*args, git_dir=self.path, env=ALONE, ok=ok)

    async def _line(self, *args: str) -> str:
        return (await self._git(*args)).strip()

    async def _span(self, base: str, head: str) -> tuple[str, str]:
        """From where to where `base...head` goes; histories with nothing in common are compared as they are."""
        common = await self.questions.ask("merge-base", _checked(base), _checked(head), revs=(base, head), ok=(0, 1))
        return common.stdout.strip() or base, head

    async def tree(self, commit: str) -> str:
        """The tree object of a commit."""
        rev = f"{_checked(commit)}^{{tree}}"
        return (await self.questions.ask("rev-parse", "--verify", rev, revs=(rev,))).stdout.strip()

    async def _usable(self) -> bool:
        done = await run("rev-parse", "--is-bare-repository", git_dir=self.path, env=ALONE)
        return done.stdout == "true\n"

    async def _create(self) -> None:
        """Made beside its place and renamed, so that a hub at its place is a whole one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_name(f"{self.path.name}.new-{uuid4().hex[:8]}")
        await git("init", "--quiet", "--bare", "--template=", "--initial-branch=nightcrew-none", str(fresh), env=ALONE)
        for key, value in HUB_CONFIG.items():
            await git("config", key, value, git_dir=fresh, env=ALONE)
        fresh.rename(self.path)

    def _break_stale_locks(self) -> None:
        """A git that was killed leaves its lock behind, and every later one would wait for it in vain."""
        for lock in [*self.path.glob("*.lock"), *(self.path / "refs").rglob("*.lock")]:
            with suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime > STALE_LOCK:
                    lock.unlink()

    async def _fetch(self, base: str) -> str | GitError:
        ref = f"refs/remotes/origin/{base}"
        if self._local and (same := await self._unmoved(base)):
            return same
        spec = f"+refs/heads/{base}:{ref}"
        args = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", self.url, spec)
        done = await run(*args, git_dir=self.path, env=self.env)
        if done.code:
            return await why_no_base(self.url, base, self.env, failure(args, done))
        return await self._line("rev-parse", ref)

    async def _unmoved(self, base: str) -> str | None:
        """Where a branch of a repository on this machine is, if that was fetched last: then nothing is to fetch."""
        _, last = self._fetched.get(base, (0, ""))
        if not last or isinstance(last, GitError):
            return None
        with suppress(GitError):
            return last if await self._beside(f"refs/heads/{base}") == last else None
        return None


def _tabbed(line: str) -> tuple[str, str, str]:
    return line.partition("\t")


def _checked(rev: str) -> str:
    """A revision is never an option."""
    if not rev or rev.startswith("-"):
        raise GitError("rev-parse", 128, f"{rev!r} is no revision")
    return rev


def _change(entry: str) -> Change:
    added, deleted, path = entry.split("\t", 2)
    return Change(path, *(0 if count == "-" else int(count) for count in (added, deleted)))
