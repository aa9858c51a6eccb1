"""The composition root: nightcrew.toml -> adapters, store, engine, director. Alone knows concrete adapters."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nightcrew import config as settings
from nightcrew import lock
from nightcrew.core.model import Repo, Run
from nightcrew.errors import AlreadyRunning, ConfigError, UsageError
from nightcrew.ports import Agent, Board, Forge
from nightcrew.store import DBAPIError, Hold, Store, StoreError, engine_for

if TYPE_CHECKING:  # heavy: only `up` and `doctor` need them
    from nightcrew.crew import Crew
    from nightcrew.director import Director
    from nightcrew.durable import Enter
    from nightcrew.git import Hub
    from nightcrew.meter import Meter

    Beside = Callable[[Director], AbstractAsyncContextManager[None]]

T = TypeVar("T")
LOOK_EVERY = 10.0  # seconds between two looks at our own locks
WRITABLE = "Make it writable, or name another with [crew] state_dir."


class App:
    """One configuration and what it names. Everything is made when it is first asked for."""

    def __init__(self, config: settings.Config) -> None:
        self.config = config

    @classmethod
    def load(cls, path: Path | None = None) -> App:
        """From `path`, $NIGHTCREW_CONFIG, or nightcrew.toml here or above. Raises ConfigError."""
        return cls(settings.load(path, os.environ))

    @cached_property
    def store(self) -> Store:
        """Our rows, migrated. Raises StoreError when the state directory or the server cannot be used."""
        state = self.config.state_dir
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"The state directory {state} cannot be made: {error.strerror}.", hint=WRITABLE) from error
        if not os.access(state, os.W_OK):
            raise StoreError(f"The state directory {state} is read-only.", hint=WRITABLE)
        store = Store(engine_for(self.config.database_url.reveal(), state))
        store.migrate()
        return store

    @cached_property
    def crew_id(self) -> str:
        """What marks this crew's processes and claims; made once per database."""
        return str(self.store.get("crew") or self.store.once("crew", uuid.uuid4().hex[:12]))

    @cached_property
    def boards(self) -> dict[str, Board]:
        return {n: adapter("boards", k)(n, s, self.config.home) for n, (k, s) in self.config.boards.items()}

    @cached_property
    def forges(self) -> dict[str, Forge]:
        wanted = {repo.forge for repo in self.config.repos}
        known: dict[str, settings.Adapter] = {n: ("local", {}) for n in wanted if n == "local"}
        known |= self.config.forges
        return {n: adapter("forges", k)(n, s, self.config.home) for n, (k, s) in known.items()}

    @cached_property
    def agents(self) -> dict[str, Agent]:
        return {n: adapter("agents", k)(n, s) for n, (k, s) in self.config.agents.items()}

    @cached_property
    def repos(self) -> dict[str, Repo]:
        return {repo.name: repo for repo in self.config.repos}

    @cached_property
    def hubs(self) -> dict[str, Hub]:
        from nightcrew.git import Hub  # noqa: PLC0415

        folder = self.config.state_dir / "hubs"
        return {
            r.name: Hub(folder / f"{r.name}.git", r.url, partial(self.forges[r.forge].git_env, r), self.config.identity)
            for r in self.config.repos
        }

    @cached_property
    def meter(self) -> Meter:
        """What is spent, and the caps."""
        from nightcrew.meter import Meter  # noqa: PLC0415

        ladders = {name: agent.models for name, agent in self.agents.items()}
        return Meter(self.store, self.config.policy, ladders, lambda: datetime.now(UTC))

    def run_named(self, word: str) -> Run:
        """The run of that ticket. Raises UsageError when there is none."""
        if run := self.store.named(word):
            return run
        near = nearest(word, [run.key for run in self.store.runs(limit=1000)])
        cure = near or "`nightcrew status --all` lists those that `nightcrew up` has seen."
        raise UsageError(f"There is no ticket {word}.", hint=cure)

    def repo_named(self, name: str) -> Repo:
        """That repository, or the only one for "". Raises UsageError else."""
        if not name and len(self.repos) == 1:
            return next(iter(self.repos.values()))
        if name in self.repos:
            return self.repos[name]
        what = f"There is no repository {name!r}." if name else "There are several repositories; name one with --repo."
        raise UsageError(what, hint=f"{nearest(name, self.repos)} Known: {', '.join(self.repos)}.".strip())

    def wake(self) -> None:
        """Make a running nightcrew look now."""
        folder = self.config.state_dir / "wake"
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "up").write_text(str(uuid.uuid4()))

    @contextmanager
    def lock(self) -> Iterator[Hold]:
        """Hold the state directory and the database. Raises AlreadyRunning."""
        with lock.hold(self.config.state_dir), self.store.alone() as alone:
            if alone is None:
                raise AlreadyRunning(
                    "nightcrew is already up on this database, in another folder.",
                    hint="Stop that one first, or give this one a database of its own.",
                )
            yield alone

    def running(self) -> int:
        """The process id of the nightcrew that is up on this state, 0 when none is: told by its lock, not by a file."""
        return lock.holder(self.config.state_dir)

    @asynccontextmanager
    async def crew(self, entering: Enter | None = None) -> AsyncIterator[Crew]:
        """Everything an attempt needs, with the engine constructed but not launched."""
        from nightcrew import proc  # noqa: PLC0415
        from nightcrew.crew import Crew  # noqa: PLC0415
        from nightcrew.durable import Durable  # noqa: PLC0415 - DBOS takes a second to import
        from nightcrew.stages import brief, workspace  # noqa: PLC0415

        config = self.config
        config.workspaces_dir.mkdir(parents=True, exist_ok=True)
        kind = config.workspace if config.workspace != "auto" else await workspace.choose(config.workspaces_dir)
        durable = Durable(config.database_url.reveal(), config.state_dir, self.crew_id, entering)
        yield Crew(
            id=self.crew_id, home=config.state_dir, workspaces=config.workspaces_dir, kind=kind, policy=config.policy,
            store=self.store, durable=durable, boards=self.boards, forges=self.forges, agents=self.agents,
            seats={n: a.seat for n, a in self.agents.items()}, meter=self.meter,
            order=config.agents_order, repos=self.repos, hubs=self.hubs, workflows=brief.Workflows(proc.base_env()),
            now=lambda: datetime.now(UTC),
        )  # fmt: skip

    async def up(self, mode: str = "forever", started: Callable[[Director], None] | None = None,
                 entering: Enter | None = None, beside: Beside | None = None) -> None:  # fmt: skip
        """Work the board: "forever", "idle" (until nothing goes on by itself), or "once" (what is ready now).

        `beside` is a block around all of it, from before the first session goes on.
        """
        from nightcrew import proc, transport  # noqa: PLC0415
        from nightcrew.cleaning import nightly  # noqa: PLC0415
        from nightcrew.director import Director, done_when  # noqa: PLC0415
        from nightcrew.node import flush, recorded  # noqa: PLC0415
        from nightcrew.pipeline import run_attempt  # noqa: PLC0415

        self.store.version()
        with self.lock() as hold:
            async with self.crew(entering) as crew, AsyncExitStack() as stack:
                await proc.sweep(crew.mark, recorded(crew))  # what a killed nightcrew left; their sessions are resumed
                stack.push_async_callback(transport.close)
                director = Director(crew, self.config.scan_every)
                loop = asyncio.get_running_loop()

                def wake() -> None:
                    loop.call_soon_threadsafe(director.wake)

                crew.wake = wake
                if beside:
                    await stack.enter_async_context(beside(director))
                crew.durable.launch(lambda run_id, number: run_attempt(crew, run_id, number))
                chores = (flush(crew), nightly(crew, self.config.keep))
                for helper in (self._watch(director), self._hold(director, hold), *chores):
                    task = asyncio.create_task(helper)
                    stack.push_async_callback(_cancelled, task)
                if started:
                    started(director)
                try:
                    await director.run(done_when(mode))
                finally:
                    await crew.durable.close()

    async def _hold(self, director: Director, hold: Hold) -> None:
        """Look now and then whether the locks are still ours; stop in order when the database's is somebody else's."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            lock.sign(self.config.state_dir)
            with suppress(DBAPIError):
                if not hold.still():
                    director.stop("another nightcrew has taken over the database")

    async def _watch(self, director: Director) -> None:
        """Wake the director when a board's folder changes or somebody left an order."""
        from watchfiles import awatch  # noqa: PLC0415

        wake = self.config.state_dir / "wake"
        wake.mkdir(parents=True, exist_ok=True)
        paths = [wake, *(p for board in self.boards.values() for p in board.watched() if p.is_dir())]
        async for _ in awatch(*paths, debounce=60, step=20, rust_timeout=1000):
            director.wake(scan=True)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end; connections that it opened to services are closed."""

    async def closed() -> T:
        try:
            return await work
        finally:
            if opened := sys.modules.get("nightcrew.transport"):
                await opened.close()

    return asyncio.run(closed())


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def nearest(word: str, known: Iterable[str]) -> str:
    """A question that names the known word nearest to this one, whatever its case; "" when none is near."""
    words = {one.casefold(): one for one in known}
    near = get_close_matches(word.casefold(), words, 1)
    return f"Did you mean {words[near[0]]}?" if near else ""


def adapter(port: str, kind: str) -> Callable[..., Any]:
    """The adapter of that kind, found by entry point, ours and a stranger's alike. Raises ConfigError for none."""
    found = {point.name: point for point in entry_points(group=f"nightcrew.{port}")}
    if kind not in found:
        raise ConfigError(
            f"[{port}] kind = {kind!r}: there is no such adapter.", hint=f"Installed: {', '.join(sorted(found))}."
        )
    loaded: Callable[..., Any] = found[kind].load()
    return loaded
