"""A small night for tests: an owner's folder with repositories, tickets and a scripted agent, and the real CLI."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.conftest import Repository

PATIENCE = 60.0
BREATH = threading.Event()  # never set: waited on between two looks
PYTHON = json.dumps(sys.executable)
WORK: tuple[object, ...] = ({"write": {"path": "{ticket}.txt", "text": "done\n"}}, {"commit": "Do {ticket}"})
"""What the scripted agent does for a ticket that nothing else is said of."""


@dataclass(frozen=True)
class Said:
    """How one command ended. `json` is its one object."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        lines = self.out.splitlines()
        assert len(lines) == 1, f"not one line on stdout: {self.out[:2000]}\n{self.err[-2000:]}"
        return json.loads(lines[0])

    @property
    def sentence(self) -> str:
        """The one line an error is told in; fails when there is more, or a traceback, or something on stdout."""
        assert self.out == "", self.out
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("nightcrew: ")
        return lines[0]


class Disk:
    """A small or read-only file system over a folder, private to those who `enter` it; gone with its block (Linux)."""

    FULL = 'mount -t tmpfs -o size=%s none "$0"'
    READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'

    def __init__(self, folder: Path, mount: str) -> None:
        folder.mkdir(exist_ok=True)
        root = [] if os.geteuid() == 0 else ["-U", "-r"]
        argv = ["unshare", *root, "-m", "sh", "-c", f"{mount} && echo mounted && exec cat", str(folder)]
        self.folder, self._argv = folder, argv

    def __enter__(self) -> Self:
        self._holder = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "mounted\n"
        return self

    def __exit__(self, *_: object) -> None:
        with self._holder:
            self._holder.kill()

    def enter(self, cwd: Path) -> list[str]:
        """What a command is started by to see it."""
        user = [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]
        return ["nsenter", "-t", str(self._holder.pid), *user, "-m", f"--wd={cwd}", "--"]

    def seen(self, path: Path) -> Path:
        """Where the test itself finds a file that is on it."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def fill(self) -> Path:
        """Leave not one byte free; deleting the file that is returned makes room again."""
        filler = self.seen(self.folder) / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        return filler


@dataclass
class Night:
    """An owner's folder. Repositories and agents are added, then `run(...)` is the command line in it."""

    home: Path
    crew: str = ""  # lines below [crew]
    limits: str = "max_running = 4\nbackoff_base = 0.5\nreset_grace = 0.1\n"
    attempt: str = "stall_seconds = 20\n"
    repos: dict[str, str] = field(default_factory=dict)  # name -> lines below its [[repos]]
    agents: dict[str, str] = field(default_factory=dict)  # name -> lines below its [agents.NAME]
    scenes: dict[str, Any] = field(default_factory=dict)  # ticket -> its part of the script
    script: dict[str, Any] = field(default_factory=dict)  # what the script says besides its tickets
    env: dict[str, str] = field(default_factory=dict)
    disk: Disk | None = None  # a file system that only our command line sees

    def __post_init__(self) -> None:
        (self.home / "tickets").mkdir(parents=True)
        self.agent("scripted")

    @property
    def state(self) -> Path:
        return self.home / ".nightcrew"

    def repo(self, name: str, more: str = "", **files: str) -> Repository:
        """A real repository with one commit, known to nightcrew; `more` is TOML below it."""
        made = self.bare_folder(name, more)
        made.commit("first", **{"README_md": f"# {name}\n", **files})
        return made

    def bare_folder(self, name: str, more: str = "") -> Repository:
        """A repository that nothing was committed to yet."""
        path = self.home / name
        path.mkdir()
        made = Repository(path)
        made.git("init", "-q", "-b", "main")
        self.repos[name] = more
        return made

    def agent(self, name: str, command: Sequence[str] | None = None, more: str = "") -> None:
        """A lane; without a command, the scripted agent that plays `scenes`."""
        scripted = [sys.executable, "-m", "nightcrew.testing.scripted_agent", str(self.home / "script.json")]
        self.agents[name] = f'kind = "command"\ncommand = {json.dumps(list(command or scripted))}\n{more}'

    def ticket(self, key: str, repo: str = "", *scene: object, body: str = "", **front: object) -> Path:
        """Save a ticket; `scene` is what the agent does for it (default: one commit)."""
        steps = json.loads(json.dumps(scene or WORK).replace("{ticket}", key))
        self.scenes.setdefault(key, {"attempts": [steps]})
        self.save()
        wanted = {"id": key, "title": f"Do {key}", "state": "todo", **({"repo": repo} if repo else {}), **front}
        head = "".join(f"{k}: {json.dumps(v)}\n" for k, v in wanted.items())
        return self.file(f"tickets/{key}.md", f"---\n{head}---\n\n{body}\n")

    def file(self, name: str, text: str) -> Path:
        path = self.home / name
        path.write_text(text, encoding="utf-8")
        return path

    def save(self) -> None:
        """Write nightcrew.toml and the script as they are now."""
        crew = 'agents = ["scripted"]\nworkspace = "checkout"\n'
        parts = [f"[crew]\n{crew}{self.crew}", '[board]\nkind = "folder"\npath = "tickets"\n',
                 f"[limits]\n{self.limits}", f"[limits.attempt]\n{self.attempt}"]  # fmt: skip
        parts += [f"[agents.{name}]\n{text}" for name, text in self.agents.items()]
        parts += [
            f'[[repos]]\nname = "{name}"\npath = "{name}"\nbase = "main"\n{text}' for name, text in self.repos.items()
        ]
        self.file("nightcrew.toml", "\n".join(parts))
        self.file("script.json", json.dumps({**self.script, "tickets": self.scenes}))

    # -- the command line --------------------------------------------------------------------------------------------
    def argv(self, *args: str) -> list[str]:
        inside = self.disk.enter(self.home) if self.disk else []
        return [*inside, sys.executable, "-m", "nightcrew", *args]

    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "TMPDIR", "LANG", "COVERAGE_PROCESS_START")}
        return {**kept, "HOME": str(self.home), "COLUMNS": "80", **self.env}

    def run(self, *args: str, stdin: str = "", cwd: Path | None = None) -> Said:
        """Run a command to its end."""
        began = time.monotonic()
        done = subprocess.run(self.argv(*args), cwd=cwd or self.home, env=self.environ(), input=stdin.encode(),
                              capture_output=True, timeout=PATIENCE, check=False)  # fmt: skip
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in out + err, err[-4000:]
        return Said(done.returncode, out, err, time.monotonic() - began)

    @contextmanager
    def up(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        """`nightcrew up` while the block lasts; ended in order behind it."""
        log = (self.home / "up.err").open("a")
        process = subprocess.Popen(self.argv("up", *args), cwd=self.home, env=self.environ(), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=log, text=True,
                                   start_new_session=True)  # fmt: skip
        try:
            self.until(lambda: "nightcrew is up" in (self.home / "up.err").read_text() or process.poll() is not None)
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            finally:
                log.close()

    def until(self, holds: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait for something to come true."""
        end = time.monotonic() + patience
        while not holds():
            assert time.monotonic() < end, f"still not so after {patience:.0f} s\n{self.told()}"
            BREATH.wait(0.02)

    def told(self) -> str:
        """What helps to understand a failed test."""
        logs = [self.home / "up.err", self.seen(self.state) / "nightcrew.log"]
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in logs if path.exists())

    # -- the state of the world --------------------------------------------------------------------------------------
    def status(self) -> Any:
        return self.run("status", "--all", "--json").json

    def states(self) -> dict[str, str]:
        """Ticket -> state."""
        return {row["ticket"]: row["state"] for row in self.status()["tickets"]}

    def runs(self) -> dict[str, str]:
        """Ticket -> state, read from the database itself: many times cheaper than a command."""
        return self.states() if self.disk else dict(self.sql("SELECT key, state FROM runs"))

    def attempts(self, ticket: str) -> list[str]:
        """The outcomes of its attempts, oldest first; "" for one under way."""
        if self.disk:
            return [a["outcome"] for a in self.show(ticket)["attempts_list"]]
        query = "SELECT coalesce(outcome, '') FROM attempts JOIN runs ON runs.id = run_id WHERE key = ? ORDER BY number"
        return [str(row[0]) for row in self.sql(query, ticket)]

    def sql(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What the database in the state directory says; nothing while there is none."""
        path = self.state / "nightcrew.sqlite"  # SQLite resolves links, so never through `seen`
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                return list(connection.execute(query, values))
        except sqlite3.OperationalError:
            return []

    def seen(self, path: Path) -> Path:
        """Where we find what the command line calls `path`."""
        return self.disk.seen(path) if self.disk else path

    def show(self, ticket: str) -> Any:
        return self.run("show", ticket, "--json").json

    def front(self, key: str) -> Mapping[str, Any]:
        """What the ticket's file says now."""
        from ruamel.yaml import YAML  # noqa: PLC0415

        text = (self.home / "tickets" / f"{key}.md").read_text()
        found: Mapping[str, Any] = YAML(typ="safe").load(text.split("---\n")[1])
        return found

    def log(self) -> list[dict[str, Any]]:
        """nightcrew's own log, an object a line."""
        path = self.seen(self.state) / "nightcrew.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
