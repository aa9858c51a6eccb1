"""Pull requests without a server: files beside a repository on this machine, merged by its owner's own git."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from nightcrew.adapters.forges.local.repository import Repository, repository
from nightcrew.core.model import PullRequest, Repo
from nightcrew.errors import ConfigError, ForgeError, GitError

__all__ = ["LocalForge"]


PATIENCE = 60.0  # seconds for the lock; its holder does a few git commands
STEP = 0.01  # seconds between two looks at the lock


class LocalForge:
    """Pull requests kept in `<git directory>/nightcrew/pulls`, for a repository that is a path on this machine.

    `refs/pull/N/head` keeps each one's commits, also when its branch is deleted. Nothing is ever deleted here. All
    methods raise ForgeError, in one sentence, for a repository that cannot be read or written.
    """

    def __init__(self, name: str, settings: Mapping[str, object], home: Path) -> None:
        if settings:
            raise ConfigError(f"[forges.{name}] {min(settings)}: unknown key.", hint="The local forge has no settings.")
        self.name = name
        self.home = home
        self._known: dict[str, Repository] = {}

    def git_env(self, repo: Repo) -> Mapping[str, str]:
        """Nothing: a path needs no credential."""
        return {}

    async def find(self, repo: Repo, branch: str) -> PullRequest | None:
        """See `Forge.find`."""
        pulls = [pull for pull in await self.list(repo) if pull.branch == branch]
        return pulls[0] if pulls else None

    async def list(self, repo: Repo) -> list[PullRequest]:
        """See `Forge.list`. One whose branch was merged with plain git is shown as merged."""
        async with self._desk(repo, new=False) as desk:
            return [desk.shown(record) for record in await desk.records()]

    async def open(self, repo: Repo, branch: str, title: str, body: str) -> PullRequest:
        """See `Forge.open`. Also raises ForgeError for a branch with nothing on it that is not in the base."""
        async with self._desk(repo) as desk:
            return desk.shown(await desk.open(branch, _stored(title), _stored(body)))

    async def update(self, repo: Repo, number: int, title: str, body: str) -> PullRequest:
        """See `Forge.update`."""
        return await self._change(repo, number, lambda r: replace(r, title=_stored(title), body=_stored(body)))

    async def diff(self, repo: Repo, number: int) -> str:
        """The change as a patch; of a merged one, what was merged."""
        async with self._desk(repo, new=False) as desk:
            record = await desk.record(number)
            return await desk.git.diff(record.base_seen, record.head)

    async def comment(self, repo: Repo, number: int, author: str, text: str) -> PullRequest:
        """Add a comment, in any state."""
        return await self._change(repo, number, lambda r: replace(r, comments=_said(r, author, text)))

    async def request_changes(self, repo: Repo, number: int, author: str, text: str) -> PullRequest:
        """Ask for changes; the next commit on the branch answers it. Raises ForgeError when it is not open."""
        return await self._change(
            repo, number, lambda r: replace(_open(r), asked=_stored(text), comments=_said(r, author, text))
        )

    async def merge(self, repo: Repo, number: int) -> PullRequest:
        """Merge into the base; one that is merged stays as it is.

        Raises ForgeError, and changes nothing, when it is closed, has conflicts, or when the base is checked out in a
        work tree with uncommitted changes (a clean one is brought up to date).
        """
        async with self._desk(repo, new=False) as desk:
            record = await desk.record(number)
            return desk.shown(record if record.state == "merged" else await desk.merge(_open(record)))

    async def close(self, repo: Repo, number: int) -> PullRequest:
        """Close it unmerged; the branch stays. Raises ForgeError when it is merged."""
        return await self._change(
            repo, number, lambda r: r if r.state == "closed" else replace(_open(r), state="closed", ended_at=_now())
        )

    async def _change(self, repo: Repo, number: int, change: Callable[[Record], Record]) -> PullRequest:
        async with self._desk(repo, new=False) as desk:
            record = change(await desk.record(number))
            await desk.save(record)
            return desk.shown(record)

    @asynccontextmanager
    async def _desk(self, repo: Repo, *, new: bool = True) -> AsyncIterator[_Desk]:
        """The repository, alone among writers. Without `new`, nothing is written where there is no pull request yet."""
        try:
            git = self._known.get(repo.url) or await repository(repo.name, repo.url, self.home)
            if git.git_dir.is_dir():
                self._known[repo.url] = git
            desk = _Desk(repo, git, _Records(git.git_dir))
            if new or desk.kept.folder.exists():
                async with desk.kept.turn():
                    yield desk
            else:
                yield desk
        except GitError as error:
            raise ForgeError(f"{repo.name}: {error}", hint=error.hint) from error
        except OSError as error:
            where = error.filename or repo.url
            raise ForgeError(f"{repo.name}: {where} cannot be used: {error.strerror}.",
                             hint="Check its permissions and the disk.") from error  # fmt: skip


class Record(msgspec.Struct, frozen=True):
    """A pull request as it is kept. Times are ISO 8601 in UTC."""

    number: int
    branch: str
    base: str
    title: str
    body: str
    head: str
    base_seen: str  # the base's head when we looked last; once merged, the one before that
    created_at: str
    state: str = "open"
    ended_at: str = ""
    merged_sha: str = ""
    asked: str = ""  # the newest request for changes, until the head moves
    comments: tuple[tuple[str, str, str], ...] = ()  # (at, author, text)

    def shown(self, repo: str, url: str) -> PullRequest:
        """As everybody else sees it."""
        return PullRequest(
            repo=repo, number=self.number, branch=self.branch, base=self.base, title=self.title, body=self.body,
            state=self.state, head=self.head, url=url, changes_requested=self.asked if self.state == "open" else "",
            comments=self.comments, created_at=self.created_at, merged_sha=self.merged_sha,
        )  # fmt: skip


class _Records:
    """The records of the repository whose git directory is `git_dir`. Methods raise OSError when the disk fails."""

    def __init__(self, git_dir: Path) -> None:
        self.folder = git_dir / "nightcrew" / "pulls"

    def path(self, number: int) -> Path:
        """Where a record lies."""
        return self.folder / f"{number}.json"

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Alone among all processes. The system gives the lock back when its holder dies. Raises ForgeError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder.parent / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Waiting in a thread could not be cancelled, and a few waiters would fill the pool of threads.
            for _ in range(round(PATIENCE / STEP)):
                if _take(descriptor):
                    break
                await asyncio.sleep(STEP)
            else:
                raise ForgeError(f"Another process holds {self.folder.parent / 'lock'} for {PATIENCE:g} s.",
                                 hint="Look for a nightcrew that hangs.")  # fmt: skip
            yield
        finally:
            os.close(descriptor)

    def all(self) -> list[Record]:
        """Every record, newest first. Raises ForgeError for one that cannot be read: to leave it out could open a
        second pull request for its branch."""
        names = (p.name for p in self.folder.iterdir()) if self.folder.is_dir() else ()
        numbers = sorted((int(name[:-5]) for name in names if re.fullmatch(r"[1-9]\d{0,8}\.json", name)), reverse=True)
        return [self._read(number) for number in numbers]

    def _read(self, number: int) -> Record:
        path = self.path(number)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Record)
        except msgspec.DecodeError as error:
            raise ForgeError(f"The pull request file {path} cannot be read: {error}.",
                             hint="Correct it, or move it away.") from error  # fmt: skip

    def save(self, record: Record) -> None:
        """Write one record, all of it or nothing."""
        temporary = self.folder / ".new"  # one is enough: writers hold the lock; a crash may have left one
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path(record.number))
        finally:
            temporary.unlink(missing_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@dataclass(frozen=True)
class _Desk:
    """One repository's pull requests while nobody else writes them."""

    repo: Repo
    git: Repository
    kept: _Records

    def shown(self, record: Record) -> PullRequest:
        return record.shown(self.repo.name, self.kept.path(record.number).as_uri())

    async def records(self) -> list[Record]:
        """All, newest first, open ones as the branches are now."""
        records = await asyncio.to_thread(self.kept.all)
        if not any(record.state == "open" for record in records):
            return records
        heads = await self.git.heads()
        return [await self._fresh(r, heads) if r.state == "open" else r for r in records]

    async def record(self, number: int) -> Record:
        """One by its number. Raises ForgeError when there is none."""
        for record in await self.records():
            if record.number == number:
                return record
        raise ForgeError(
            f"{self.repo.name} has no pull request #{number}.", hint="`nightcrew pr list --all` shows them."
        )

    async def save(self, record: Record) -> None:
        # The ref first: whatever the file names is then kept by git, wherever we die.
        await self.git.keep(f"refs/pull/{record.number}/head", record.head)
        await asyncio.to_thread(self.kept.save, record)

    async def open(self, branch: str, title: str, body: str) -> Record:
        records, heads = await self.records(), await self.git.heads()
        if same := [r for r in records if r.branch == branch and r.state == "open"]:
            raise ForgeError(f"{self.repo.name}: #{same[0].number} is open for {branch} already.")
        head, base = self._there(heads, branch), self._there(heads, self.repo.base)
        if await self.git.contains(base, head):
            raise ForgeError(f"{self.repo.name}: {branch} has no commit that {self.repo.base} has not.")
        number = max((r.number for r in records), default=0) + 1
        record = Record(number, branch, self.repo.base, title, body, head, base, _now())
        await self.save(record)
        return record

    async def merge(self, record: Record) -> Record:
        if await self.git.contains(record.base_seen, record.head):
            raise ForgeError(f"{self._what(record)}: there is nothing to merge.")
        message = f"Merge pull request #{record.number}: {record.title}\n\nBranch: {record.branch}\n"
        try:
            before, sha = await self.git.merge(record.base, record.head, message)
        except ForgeError as error:
            raise ForgeError(f"{self._what(record)}: {error}", hint=error.hint) from error
        merged = replace(record, state="merged", base_seen=before, merged_sha=sha, ended_at=_now())
        await self.save(merged)
        return merged

    async def _fresh(self, record: Record, heads: Mapping[str, str]) -> Record:
        """An open record as the branches are now; without its branch the last known head counts."""
        head, base = heads.get(record.branch, record.head), heads.get(record.base, record.base_seen)
        if (head, base) == (record.head, record.base_seen):
            return record
        fresh = replace(record, head=head, asked=record.asked if head == record.head else "")
        # A branch that was reset to what the base had before has lost its commits, which is no merge.
        if await self.git.contains(base, head) and not await self.git.contains(record.base_seen, head):
            sha = await self.git.merged_by(base, head)
            fresh = replace(fresh, state="merged", merged_sha=sha, ended_at=_now())
        else:
            fresh = replace(fresh, base_seen=base)
        await self.save(fresh)
        return fresh

    def _there(self, heads: Mapping[str, str], branch: str) -> str:
        if branch not in heads:
            hint = "Push it first." if branch != self.repo.base else "Create it, or correct `base`."
            raise ForgeError(f"{self.repo.name} has no branch {branch}.", hint=hint)
        return heads[branch]

    def _what(self, record: Record) -> str:
        return f"{self.repo.name} #{record.number} cannot be merged into {record.base}"


def _open(record: Record) -> Record:
    if record.state != "open":
        raise ForgeError(f"Pull request #{record.number} is {record.state}.")
    return record


def _said(record: Record, author: str, text: str) -> tuple[tuple[str, str, str], ...]:
    return (*record.comments, (_now(), _stored(author), _stored(text)))


def _stored(text: str) -> str:
    """As a UTF-8 file can hold it."""
    return text.encode("utf-8", "replace").decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
