"""What nightcrew asks of the outside, in our words; each port is held by a suite in `nightcrew.testing.contracts`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from nightcrew.core.model import Check, PullRequest, Repo, Seat, Standing, Ticket, TicketState, Usage, Window
from nightcrew.core.outcome import Ending
from nightcrew.transport import Relayed


@dataclass(frozen=True)
class Problem:
    """Something on the board that cannot be read: where (`file:line`) and what, for `status`. Stops nothing else."""

    where: str
    message: str


@dataclass(frozen=True)
class Scan:
    """What a board shows at one moment. A ticket that left the board is left out, never invented."""

    tickets: tuple[Ticket, ...]
    problems: tuple[Problem, ...] = ()


class Board(Protocol):
    """Where tickets live. Every call raises BoardError when the board cannot be reached, or says no."""

    name: str

    async def scan(self) -> Scan:
        """All tickets that its selection takes and that are not done, with the problems found; their order is free.

        Two tickets with one id: a problem, neither shown. Cheap while nothing changed: it is called every two minutes.
        """

    async def fetch(self, ids: Sequence[str]) -> list[Ticket]:
        """These tickets as they are now, in any state, by id or key; those that are not there are left out.

        One that the selection does not take (any more) says why in `left`.
        """

    async def move(self, ticket_id: str, state: TicketState, note: str = "", link: str = "") -> None:
        """Show `state`, one progress note and the pull request's link. Doing it twice is doing it once.

        A ticket that is done or closed meanwhile stays so: only OPEN brings it back.
        """

    async def add(self, title: str, body: str = "", fields: Mapping[str, object] | None = None) -> Ticket:
        """Make a ticket; the board gives the id unless `fields` has one. Never overwrites a ticket that exists.

        Raises BoardError for fields it cannot hold.
        """

    def watched(self) -> tuple[Path, ...]:
        """Paths whose change means the board changed; () when it cannot be watched."""


@runtime_checkable
class Previewing(Protocol):
    """What a board may offer so that `nightcrew board preview --all` says of more tickets why they are left out."""

    async def considered(self) -> list[Ticket]:
        """The open tickets of its place whatever the selection, newest first, at most 100; only reads."""


@runtime_checkable
class Served(Protocol):
    """A board that is a service says what its credential is good for. A forge does for each repository."""

    async def about(self) -> Mapping[str, object]:
        """`login`: who we are there. `places`: (id, name) of those one could choose from, the configured ones first.

        `missing`: what is needed and may not be done, in sentences. Raises BoardError when the service cannot be asked.
        """


@runtime_checkable
class ServedForge(Protocol):
    """See `Served`."""

    async def about(self, repo: Repo) -> Mapping[str, object]:
        """The same for a repository; `places` is empty. Raises ForgeError when the service cannot be asked."""


class Forge(Protocol):
    """Where pull requests live. Raises ForgeError when it refuses or cannot be reached."""

    name: str

    def git_env(self, repo: Repo) -> Mapping[str, str]:
        """Environment with which *nightcrew's own* git may fetch and push. Never given to an agent (I7)."""

    async def find(self, repo: Repo, branch: str) -> PullRequest | None:
        """The newest pull request whose head is `branch`, in any state; None when there never was one."""

    async def open(self, repo: Repo, branch: str, title: str, body: str) -> PullRequest:
        """Open one from `branch` to `repo.base`. Raises ForgeError when one is open for that branch already."""

    async def update(self, repo: Repo, number: int, title: str, body: str) -> PullRequest:
        """Change title and body."""

    async def list(self, repo: Repo) -> list[PullRequest]:
        """All pull requests, newest first, each as it is now."""


@runtime_checkable
class Following(Protocol):
    """What following a pull request up needs. A forge on a server offers it. `key` names what is said."""

    async def stamps(self, repo: Repo, numbers: Sequence[int]) -> Mapping[int, str]:
        """A word for each of these pull requests, another one whenever `standing` would say something new. Cheap."""

    async def standing(self, repo: Repo, number: int) -> Standing:
        """How it stands now."""

    async def say(self, repo: Repo, number: int, text: str, key: str) -> None:
        """One comment for each key: made, or changed when it says something else."""

    async def answer(self, repo: Repo, number: int, thread: str, text: str, key: str) -> None:
        """Answer in a thread, once for each key."""

    async def resolve(self, repo: Repo, number: int, thread: str) -> None:
        """Close a thread."""

    async def log(self, repo: Repo, check: Check) -> str:
        """The end of what a failed check wrote, "" when it cannot be had."""

    async def rerun(self, repo: Repo, check: Check) -> None:
        """Let a failed check run once more. Raises ForgeError when the forge cannot."""

    async def merge(self, repo: Repo, number: int, head: str, how: str) -> PullRequest:
        """Merge it if its head is still `head`; `how` is "now", "green" (by the forge, once it is) or "queue"."""

    async def edit(self, repo: Repo, number: int, *, draft: bool) -> PullRequest:
        """Make it a draft, or ready for review."""


@runtime_checkable
class Hooked(Protocol):
    """What a board or forge needs that tells us by webhooks when something changed. Its secret is `webhook_secret`."""

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        """The id of a delivery that is genuine, None for any other, or for one that is too old.

        Header names in lower case, `now` in epoch seconds. Never raises on garbage; ConfigError without a secret.
        """


@runtime_checkable
class Relaying(Protocol):
    """What a forge needs so that agents may read it through nightcrew, which keeps the credential."""

    def place(self, repo: Repo) -> str:
        """`owner/name`, as the addresses of its API name the repository."""

    async def relay(self, repo: Repo, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Relayed:
        """GET a path of its API, such as `/repos/owner/name/issues?state=all`; with `body`, ask its GraphQL that.

        Whether it may be read was looked at before. Raises a Fault: Limited says how long to wait.
        """

    def relay_env(self, repo: Repo, url: str, token: str, folder: Path) -> Mapping[str, str]:
        """Variables by which an agent's programs find `url`, and send `token` to it; `folder` is a configuration of
        the forge's own program that leads there, too."""


class Reviewing(Protocol):
    """What a person does with a pull request. A forge may offer it; the local one does."""

    async def diff(self, repo: Repo, number: int) -> str: ...
    async def comment(self, repo: Repo, number: int, author: str, text: str) -> PullRequest: ...
    async def request_changes(self, repo: Repo, number: int, author: str, text: str) -> PullRequest: ...
    async def merge(self, repo: Repo, number: int) -> PullRequest: ...
    async def close(self, repo: Repo, number: int) -> PullRequest: ...


@dataclass(frozen=True)
class Task:
    """One session to be started. `scratch` is a private folder that lives as long as the attempt."""

    workspace: Path
    prompt: str
    scratch: Path
    session_id: str  # a UUID we chose; with `resume`, the session to go on with
    resume: bool = False
    model: str = ""  # "" = the agent's default
    read_only: bool = False  # a review: nothing may be written
    schema: Mapping[str, object] | None = None  # JSON schema the last answer must fit
    instructions: str = ""  # the repository's CLAUDE.md / AGENTS.md, when the agent would not read them itself
    max_turns: int = 0
    max_money: float = 0.0


@dataclass
class Progress:
    """What has been heard so far.

    `waiting_on` is "model", "tool", or "prompt": a question nobody will answer, told in `asks`. `same_calls` is how
    often in a row the same tool was called with the same input. `windows` are the provider's, as last told.
    `transcript` is the agent's own record of the session, "" when it is not known.
    """

    session_id: str = ""
    model: str = ""
    usage: Usage = Usage()
    lines: int = 0
    waiting_on: str = "model"
    last: str = ""  # the last event in a few words, for people
    over: bool = False  # the agent said all it will say; it may be ended
    warnings: list[str] = field(default_factory=list)
    asks: str = ""
    same_calls: int = 0
    windows: tuple[Window, ...] = ()
    transcript: str = ""


class Conversation(Protocol):
    """One session's stream, sans I/O: bytes heard in, bytes to say out. Never raises on garbage."""

    progress: Progress

    def opening(self) -> bytes:
        """What is written to the agent's stdin first (the whole prompt for one-way agents)."""

    def hear(self, line: bytes) -> bytes:
        """Take one line of stdout; return what to answer on stdin (b"" for one-way agents)."""


@dataclass(frozen=True)
class Launch:
    """How to start the agent. `env` is added to the allow-listed environment."""

    argv: tuple[str, ...]
    conversation: Conversation
    env: Mapping[str, str] = field(default_factory=dict)
    two_way: bool = False  # stdin stays open and `hear` answers on it; else stdin is a file with `opening()`


@dataclass(frozen=True)
class Login:
    """How an agent is logged in, as far as that can be told without a call to its provider.

    `kind` is "token" (long-lived), "key", "file" (short-lived, renewed by the agent), "keychain", "none" or "own" (the
    agent needs none of ours). `says` is one sentence, with the cure when `ok` is False. `expires_at` is epoch seconds.
    `warns` says what will go wrong with a login that is good now, "" when nothing will. `same` is the same word for the
    same credential wherever it lies, and does not show it: so copies are found.
    """

    kind: str
    ok: bool
    says: str
    expires_at: float | None = None
    warns: str = ""
    same: str = ""


class Agent(Protocol):
    """A coding CLI. `models` is the ladder, cheapest first; () means the agent's own default.

    `seat` is the lane it works on, `memory` the bytes a session of it takes until that has been measured.
    """

    name: str
    models: tuple[str, ...]
    seat: Seat
    memory: int

    def launch(self, task: Task) -> Launch:
        """How to run this task. Pure but for looking up the program; raises ConfigError when it is not on the PATH."""

    def read(self, stdout: Iterable[bytes], exit_code: int | None, stderr: str, now: datetime) -> Ending:
        """Tell how recorded output ended and why. Structured fields first, patterns last; never raises.

        `exit_code` is negative for a signal, None when unknown. Unknown output is `crashed`, never a silent success.
        """

    def login(self, now: datetime) -> Login:
        """How it is logged in, read from its settings, environment and files; never raises, never shows a secret."""

    def log_in(self) -> tuple[Sequence[str], Mapping[str, str]] | None:
        """The program and environment that log a person in on a terminal; None when there is no such program."""
