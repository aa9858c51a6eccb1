"""A folder as a board: one Markdown file per ticket, which people edit with what they like."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import stat
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from nightcrew.adapters.boards.folder.markdown import Progress, Unreadable, decode, document, parse, shown
from nightcrew.core.model import Ticket, TicketState, safe_name
from nightcrew.errors import BoardError, ConfigError
from nightcrew.ports import Problem, Scan
from nightcrew.settings import read_settings

__all__ = ["FolderBoard", "Settings"]

LARGEST = 1 << 20  # bytes of one ticket
SETTLED = 2.0  # seconds; a file younger than that may change again within one tick of the file system's clock
TRIES = 20  # how often a ticket is written anew because a person saved it meanwhile
TEMPORARY = ".nightcrew.tmp"  # one is enough: writers hold the folder's lock

MEANS = {
    "todo": TicketState.OPEN, "open": TicketState.OPEN, "ready": TicketState.OPEN,
    "in progress": TicketState.WORKING, "working": TicketState.WORKING, "doing": TicketState.WORKING,
    "review": TicketState.REVIEW, "in review": TicketState.REVIEW, "done": TicketState.DONE,
    "merged": TicketState.DONE, "blocked": TicketState.BLOCKED, "failed": TicketState.FAILED,
    "closed": TicketState.CLOSED, "cancelled": TicketState.CLOSED, "canceled": TicketState.CLOSED,
    "duplicate": TicketState.CLOSED,
}  # fmt: skip
WRITES = {
    TicketState.OPEN: "todo", TicketState.WORKING: "in progress", TicketState.REVIEW: "in review",
    TicketState.DONE: "done", TicketState.BLOCKED: "blocked", TicketState.FAILED: "failed",
    TicketState.CLOSED: "closed",
}  # fmt: skip

ENDS = (TicketState.DONE, TicketState.CLOSED)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[board]` with kind "folder". Words are compared without case; `-` and `_` count as a space."""

    path: str = "tickets"  # starts at the folder of nightcrew.toml
    states: dict[str, TicketState] = {}  # the board's words, besides the usual ones -> ours
    write_states: dict[TicketState, str] = {}  # ours -> the word written
    ignore: tuple[str, ...] = ("README.md", "_*")  # names that are no tickets; hidden files never are
    prefix: str = "NC"  # new tickets get PREFIX-1, PREFIX-2, ...


@dataclass(frozen=True)
class _File:
    """One file as it was read: its ticket, or what is wrong with it."""

    name: str
    read: Ticket | Problem


class FolderBoard:
    """Tickets as Markdown files with YAML front matter in one folder (sub-folders are not looked at).

    Raises ConfigError, naming key and cure, for settings it does not understand. Writers take turns by a lock on the
    folder itself, so several processes may use it; a person's editor needs none.
    """

    def __init__(self, name: str, settings: Mapping[str, object], home: Path) -> None:
        self.name = name
        words = f"Our states: {', '.join(TicketState)}."
        self.settings = read_settings(Settings, "[board]", settings, {"states": words, "write_states": words})
        self.folder = home / Path(self.settings.path).expanduser()
        self._writes = WRITES | self.settings.write_states
        self._means = _means(self.settings.states, self._writes)
        self._seen: dict[str, tuple[tuple[int, ...], _File]] = {}

    async def scan(self) -> Scan:
        """See `Board.scan`. A file that is no ticket is a problem and stops no other."""
        found, problems = await asyncio.to_thread(self._look)
        return Scan(tuple(t for t, _ in found.values() if t.state is not TicketState.DONE), tuple(problems))

    async def fetch(self, ids: Sequence[str]) -> list[Ticket]:
        """See `Board.fetch`; in the order asked, each once."""
        found, _ = await asyncio.to_thread(self._look) if ids else ({}, [])
        return [found[ticket_id][0] for ticket_id in dict.fromkeys(ids) if ticket_id in found]

    async def move(self, ticket_id: str, state: TicketState, note: str = "", link: str = "") -> None:
        """See `Board.move`: sets `state`, and `nightcrew: {note, link}`; "" clears the note and leaves the link.

        All else in the file stays byte for byte, and what a person saves meanwhile is kept. A word that means `state`
        already is left. Raises BoardError when the ticket is not there or its file cannot be written.
        """
        if state not in self._writes:
            raise BoardError(f"{ticket_id} cannot be moved to {state}: there is no word for it.",
                             hint=f"Set [board] write_states.{state}.")  # fmt: skip
        await asyncio.to_thread(self._move, ticket_id, state, note, link)

    async def add(self, title: str, body: str = "", fields: Mapping[str, object] | None = None) -> Ticket:
        """See `Board.add`. Fields are front matter as in a file; `created_at` is now where they do not say.

        The number of a new id follows the highest there is, so a deleted last ticket's id is given again.
        """
        return await asyncio.to_thread(self._add, title, body, dict(fields or {}))

    def watched(self) -> tuple[Path, ...]:
        """The folder."""
        return (self.folder,)

    # -- reading -------------------------------------------------------------------------------------------------------
    def _look(self) -> tuple[dict[str, tuple[Ticket, str]], list[Problem]]:
        """Id -> (ticket, file name), and what could not be read."""
        by_id: defaultdict[str, list[tuple[Ticket, str]]] = defaultdict(list)
        problems = []
        for file in self._files():
            if isinstance(file.read, Problem):
                problems.append(file.read)
            else:
                by_id[file.read.id].append((file.read, file.name))
        for ticket_id, same in by_id.items():
            if len(same) > 1:
                names = " and ".join(name for _, name in same)
                problems.append(self._problem(same[0][1], 1, f'{names} have the same id "{ticket_id}"; change one.'))
        return {ticket_id: same[0] for ticket_id, same in by_id.items() if len(same) == 1}, problems

    def _files(self) -> Iterable[_File]:
        """Every ticket file, read again only when it changed."""
        seen: dict[str, tuple[tuple[int, ...], _File]] = {}
        for entry in self._entries():
            with suppress(FileNotFoundError):  # deleted since the folder was listed
                status = entry.stat(follow_symlinks=False)
                mark = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode)
                known = self._seen.get(entry.name)
                file = known[1] if known and known[0] == mark else self._read(entry.name)
                young = time.time() - max(status.st_mtime, status.st_ctime) < SETTLED
                seen[entry.name] = (() if young else mark, file)
        self._seen = seen
        return [file for _, file in seen.values()]

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.folder) as entries:
                return sorted((e for e in entries if self._is_ticket(e.name) and not e.is_dir(follow_symlinks=False)),
                              key=lambda e: e.name)  # fmt: skip
        except OSError as error:
            raise BoardError(f"The tickets folder {self.folder} cannot be read: {error.strerror}.",
                             hint="Create the folder, or correct [board] path.") from error  # fmt: skip

    def _is_ticket(self, name: str) -> bool:
        hidden = name.startswith(".") or not name.lower().endswith(".md")
        return not hidden and not any(fnmatchcase(name, glob) for glob in self.settings.ignore)

    def _read(self, name: str) -> _File:
        try:
            return _File(name, self._parse(decode(self._bytes(name)[0]), name))
        except Unreadable as error:
            return _File(name, self._problem(name, error.line, str(error)))
        except FileNotFoundError:
            raise
        except OSError as error:
            return _File(name, self._problem(name, 1, f"this cannot be read: {error.strerror}."))

    def _bytes(self, name: str) -> tuple[bytes, os.stat_result]:
        """A regular file's content. A link could lead to any file of the machine and a pipe would never end."""
        path = self.folder / name
        if path.is_symlink():
            raise Unreadable(1, "this is a symbolic link, which is not followed; put the file itself here.")
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - a descriptor
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable(1, "this is no ordinary file.")
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise Unreadable(1, f"this is larger than {LARGEST >> 20} MiB.")
        return raw, status

    def _parse(self, text: str, name: str) -> Ticket:
        return replace(parse(text, self.name, name[: -len(".md")], self._meaning), url=str(self.folder / name))

    def _meaning(self, word: str) -> TicketState:
        return self._means.get(_plain(word), TicketState.OTHER)

    def _problem(self, name: str, line: int, message: str) -> Problem:
        return Problem(f"{Path(self.settings.path) / name}:{line}", message)

    # -- writing -------------------------------------------------------------------------------------------------------
    @contextmanager
    def _turn(self, what: str) -> Iterator[None]:
        """Alone among writers; a fault of the disk is told as one of the board."""
        try:
            with _locked(self.folder):
                yield
        except Unreadable as error:
            raise BoardError(f"{what}: {error}") from error
        except OSError as error:
            raise BoardError(f"{what} cannot be written in {self.folder}: {error.strerror}.",
                             hint="Check the folder's permissions and the disk.") from error  # fmt: skip

    def _move(self, ticket_id: str, state: TicketState, note: str, link: str) -> None:
        with self._turn(ticket_id):
            for _ in range(TRIES):
                if self._show(ticket_id, state, note, link):
                    return
        raise BoardError(f"{ticket_id} is being written by someone else all the time.")

    def _show(self, ticket_id: str, state: TicketState, note: str, link: str) -> bool:
        """One try; False when the file changed under it."""
        found, problems = self._look()
        if ticket_id not in found:
            doubt = f" {problems[0].where}: {problems[0].message}" if problems else ""
            raise BoardError(f"{ticket_id} is not on the board {self.name}.{doubt}")
        name = found[ticket_id][1]
        try:
            raw, status = self._bytes(name)
            text = decode(raw)
            before = self._parse(text, name)
            if before.state in ENDS and state not in (*ENDS, TicketState.OPEN):
                return True  # a person ended it meanwhile
            progress = Progress("" if before.state is state else self._writes[state], note, link)
            new = shown(text, progress, replace(before, state=state), lambda made: self._parse(made, name)).encode()
            return before.id == ticket_id and (new == raw or self._swap(name, raw, new, status))
        except FileNotFoundError:
            return False

    def _swap(self, name: str, old: bytes, new: bytes, status: os.stat_result) -> bool:
        """Put `new` in the place of `old` in one step, unless the file says something else by now."""
        with self._written(new, status) as temporary:
            if self._bytes(name)[0] != old:
                return False
            temporary.replace(self.folder / name)
        return True

    @contextmanager
    def _written(self, raw: bytes, like: os.stat_result | None = None) -> Iterator[Path]:
        """A complete, synced file under a hidden name, gone at the end unless it was renamed."""
        temporary = self.folder / TEMPORARY
        temporary.unlink(missing_ok=True)  # a crash may have left one
        try:
            with temporary.open("xb") as file:
                file.write(raw)
                if like:
                    os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
                    with suppress(PermissionError):  # only root gives files away
                        os.fchown(file.fileno(), like.st_uid, like.st_gid)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _add(self, title: str, body: str, fields: dict[str, object]) -> Ticket:
        title, body = " ".join(_storable(title).split()), _storable(body)
        with self._turn(f"The ticket {title!r}"):
            taken = self._taken()
            name = str(fields.pop("id", None) or self._next_id(taken))
            if name in taken:
                raise BoardError(f"There is a ticket {name} already.", hint="Choose another id, or none.")
            own = {"id": name, "title": title, "state": self._writes[TicketState.OPEN]}
            own["created_at"] = datetime.now(UTC).isoformat(timespec="seconds")
            raw = document(own | fields, body).encode()
            ticket = self._parse(decode(raw), f"{name}.md")
            if not title or ticket.id != name or len(raw) > LARGEST:
                raise Unreadable(1, f"a ticket has a title, an id of one line, and at most {LARGEST >> 20} MiB.")
            with self._written(raw) as temporary:
                path = self._link(temporary, f"{_file_safe(name)}-{safe_name(title)}")
        return replace(ticket, url=str(path))

    def _taken(self) -> set[str]:
        """Every id, also those of files that cannot be read now (told by their names)."""
        files = list(self._files())
        return {f.read.id if isinstance(f.read, Ticket) else f.name[: -len(".md")] for f in files}

    def _next_id(self, taken: Iterable[str]) -> str:
        numbers = (re.match(rf"{re.escape(self.settings.prefix)}-(\d{{1,18}})(?!\d)", word, re.I) for word in taken)
        return f"{self.settings.prefix}-{max((int(m[1]) for m in numbers if m), default=0) + 1}"

    def _link(self, temporary: Path, stem: str) -> Path:
        """Give the file its name. A link, unlike a rename, never replaces a file that is there."""
        for number in range(1, TRIES):
            name = f"{stem}-{number}.md" if number > 1 else f"{stem}.md"
            if not self._is_ticket(name):
                raise Unreadable(1, f"[board] ignore leaves {name} out.")
            with suppress(FileExistsError):
                os.link(temporary, self.folder / name)
                return self.folder / name
        raise FileExistsError(17, "all its names are taken")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and sync the folder at the end so that its names outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems cannot lock; then one process at a time must do
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storable(text: str) -> str:
    """Without what a UTF-8 text file cannot hold."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _file_safe(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,80}", name, re.ASCII) else safe_name(name)


def _plain(word: str) -> str:
    return " ".join(re.sub(r"[-_]", " ", word).casefold().split())


def _means(states: Mapping[str, TicketState], writes: Mapping[TicketState, str]) -> dict[str, TicketState]:
    """Board word -> our state. What is written must be read back as the same, or a move would never be seen as done."""
    means = {_plain(word): state for state, word in writes.items()} | MEANS
    means |= {_plain(word): state for word, state in states.items()}
    for state, word in writes.items():
        if means[_plain(word)] is not state:
            read = means[_plain(word)]
            raise ConfigError(
                f'[board] write_states.{state}: "{word}" would be read back as {read}.',
                hint=f"Write another word for {state}, or change [board] states.",
            )
    return means
