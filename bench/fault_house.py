"""One night of the fault bench: an owner's folder with two repositories and three tickets, in which things go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.household import BREATH, PATIENCE, WORK, Night
from tests.e2e.test_night_claude import ClaudeSide
from tests.e2e.test_night_codex import CodexSide

Json = dict[str, Any]
KEYS = ("T-1", "T-2", "T-3")
REPOS = ("shop", "site", "shop")
SIDES: dict[str, ClaudeSide | CodexSide] = {"claude": ClaudeSide(), "codex": CodexSide()}
LONGEST = 150.0
"""Seconds after which a night is called hanging, and ended."""
CREW = "scan_every = 3\n"
LIMITS = (
    "max_running = 3\nbackoff_base = 0.5\nbackoff_max = 4\nprobe_seconds = 1\nreset_grace = 0.2\nstarting = 20\n"
    "max_load = 0\nmin_memory_mb = 0\nmin_disk_mb = 0\n"
)
STALL, PROMPT, ZOMBIE = 5.0, 2.0, 2.0
ATTEMPT = f"stall_seconds = {STALL}\nprompt_seconds = {PROMPT}\n"
Step = object


class Provider:
    """A scripted provider as a process of its own, so that it can be killed, frozen and brought back."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.module = {"claude": "anthropic", "codex": "openai"}[kind]
        self.folder, self.port = folder, 0
        self.process: subprocess.Popen[str] | None = None
        folder.mkdir()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/s/night/each"

    def start(self, script: Json | list[Json] | None = None) -> None:
        """Answer by this script (default: the one it had), at the same address as before."""
        scripts, log = self.folder / "scripts.json", self.folder / "asked.jsonl"
        if script is not None:
            scripts.write_text(json.dumps({"night": script}))
        argv = [sys.executable, "-m", f"nightcrew.testing.{self.module}", "--port", str(self.port),
                "--scripts", str(scripts), "--log", str(log)]  # fmt: skip
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd="/")
        assert self.process.stdout is not None
        self.port = json.loads(self.process.stdout.readline())["port"]

    def stop(self) -> None:
        """Be gone: connections are refused."""
        if self.process:
            with self.process:
                self.process.kill()
            self.process = None

    def again(self, script: Json | list[Json] | None = None) -> None:
        """Go, and come back with another script."""
        self.stop()
        self.start(script)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def asked(self) -> list[Json]:
        """Every request so far."""
        log = self.folder / "asked.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@dataclass
class House(Night):
    """A night to be spoilt. `agent` does the tickets: "scripted", or a real CLI, "claude" or "codex"."""

    crew: str = CREW
    limits: str = LIMITS
    attempt: str = ATTEMPT
    agent_name: str = "scripted"
    provider: Provider | None = None
    began: float = 0.0
    ended: float = 0.0
    codes: list[int] = field(default_factory=list)  # how each `up` ended
    cleanups: list[Any] = field(default_factory=list)
    seen_wrong: list[str] = field(default_factory=list)  # what a fault itself found not to be as it must

    def __post_init__(self) -> None:
        super().__post_init__()
        self.env |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        for name in sorted(set(REPOS)):
            self.repo(name)
        if self.agent_name in SIDES:
            self.side().table("")  # raises when the program is not here
            self.provider = Provider(self.agent_name, self.home.parent / f"{self.home.name}.provider")
            self.talk()
        else:  # the start of a real CLI takes what it takes: with one of those, the product's own 10 s hold
            self.attempt += f"zombie_seconds = {ZOMBIE}\n"

    # -- laying it out -----------------------------------------------------------------------------------------------
    def tickets(self) -> None:
        """Put the three tickets on the board; T-1 is the one that is hit unless a fault says otherwise."""
        for number, (key, repo) in enumerate(zip(KEYS, REPOS, strict=True), 1):
            labels = [f"agent:{key.lower()}"] if key.lower() in self.agents else []
            self.ticket(key, repo, priority=number, labels=labels)

    def rogue(self, first: str, key: str = "T-1", times: int = 1) -> None:
        """A shell script as the agent of one ticket: `first` the first `times` times, then its work."""
        work = f"echo done >{key}.txt; git add -A; git commit -qm 'Do {key}'; git rev-parse HEAD >>{self.home}/commits"
        calls = f'n=$(ls -d {self.home}/{key}-call-* 2>/dev/null | wc -l); mkdir "{self.home}/{key}-call-$n"'
        script = f"cat >/dev/null; {calls}; if [ $n -lt {times} ]; then {first}\nfi; {work}"
        file = self.file(f"{key}.sh", f"{script}\n")
        self.agent(key.lower(), ["/bin/sh", str(file)])

    def everyone(self, first: str) -> None:
        """A shell script as the agent of all tickets: `first`, then the work; `$key` is the ticket's."""
        key = "key=$(basename $PWD | cut -d- -f1,2)"
        work = f"echo done >$key.txt; git add -A; git commit -qm Work; git rev-parse HEAD >>{self.home}/commits"
        file = self.file("everyone.sh", f"cat >/dev/null; {key}; {first}\n{work}\n")
        self.agent("scripted", ["/bin/sh", str(file)])

    def program(self, name: str, text: str) -> str:
        """A Python program outside of every workspace, as shell that runs it."""
        return f"{sys.executable} {self.file(name, text)}"

    def hit(self, *attempts: list[Step], key: str = "T-1") -> None:
        """What the scripted agent does for a ticket, attempt by attempt; after the last it does its work."""
        work = json.loads(json.dumps(WORK).replace("{ticket}", key))
        self.scenes[key] = {"attempts": [*attempts, work]}

    def side(self) -> ClaudeSide | CodexSide:
        return SIDES[self.agent_name]

    def does(self, key: str) -> list[Json]:
        """What a model answers that does a ticket's work."""
        shell = (
            f"echo done > {key}.txt && git add -A && git commit -qm 'Do {key}' && "
            f"git rev-parse HEAD >> {self.home}/commits"
        )
        return [self.side().shell(shell), {"text": f"{key} is done."}]

    def talk(self, *wrong: Json, everyone: bool = False, again: str = "") -> None:
        """What the provider answers: first these steps to T-1's session (or to everyone's), then work.

        `again` is a word by which a fresh session is known that was told how the one before it ended: it works at once.
        """
        assert self.provider is not None
        script = {again: self.does("T-1")} if again else {}
        script |= {key: [*(wrong if everyone or key == "T-1" else ()), *self.does(key)] for key in KEYS}
        self.provider.again(script)
        self.login()

    def login(self, env: dict[str, str] | None = None, more: str = "") -> None:
        """The real agent's table and the owner's environment; `env` takes the place of the login."""
        assert self.provider is not None
        table = self.side().table(self.provider.url).partition("\n")[2]
        self.agents = {self.agent_name: table + more}
        self.env |= self.side().environ(self.provider.url) if env is None else env

    def save(self) -> None:
        super().save()
        path = self.home / "nightcrew.toml"
        path.write_text(path.read_text().replace('agents = ["scripted"]', f'agents = ["{next(iter(self.agents))}"]'))

    # -- playing it --------------------------------------------------------------------------------------------------
    @contextmanager
    def up(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        self.began = self.began or time.monotonic()
        with super().up(*args) as process:
            yield process
        self.codes.append(process.returncode)

    def night(self) -> None:
        """Work the board until nothing goes on by itself."""
        with self.up("--until-idle") as process:
            process.wait(LONGEST)
            self.ended_now()

    def finish(self) -> None:
        """With nightcrew up: wait until every ticket is in review."""
        self.until(lambda: self.done() == len(KEYS), LONGEST)
        self.ended_now()

    def ended_now(self) -> None:
        self.ended = time.monotonic()

    def done(self) -> int:
        return sum(state == "in_review" for state in self.runs().values())

    def kill(self, process: subprocess.Popen[str]) -> None:
        """kill -9 of nightcrew, of nothing else."""
        process.kill()
        process.wait()

    def lanes(self) -> dict[str, str]:
        """Lane -> state, those that are up and were never in trouble left out."""
        return dict(self.sql("SELECT name, state FROM lanes"))

    def lane_is(self, *states: str) -> None:
        """Wait until a lane is in one of these states."""
        self.until(lambda: any(state in states for state in self.lanes().values()), PATIENCE)

    def working(self, key: str = "T-1") -> None:
        """Wait until a ticket's session has been heard."""
        self.until(lambda: bool(self.sessions(key)), PATIENCE)

    def sessions(self, key: str = "T-1") -> list[Path]:
        """What a ticket's sessions printed, those that said something."""
        found = self.seen(self.state).glob(f"attempts/{key.lower()}-*/*/try-*/stdout")
        return [path for path in found if path.stat().st_size]

    def handles(self, key: str = "T-1") -> list[Json]:
        """The processes of a ticket's sessions, the last one last."""
        found = self.seen(self.state).glob(f"attempts/{key.lower()}-*/*/try-*/handle.json")
        return [json.loads(path.read_text()) for path in sorted(found)]

    def bombs(self, name: str) -> list[int]:
        """The processes whose command line names this file of ours."""
        return [pid for pid, words in working_in(self.home).items() if f"{self.home}/{name}" in words]

    def open_attempts(self) -> list[object]:
        return self.sql("SELECT run_id FROM attempts WHERE NOT settled")  # type: ignore[return-value]

    def alarms(self) -> int:
        return len(self.sql("SELECT 1 FROM events WHERE kind = 'alarm'"))

    def must(self, holds: bool, what: str) -> None:
        """Note what is not as it must be."""
        if not holds:
            self.seen_wrong.append(what)

    def end(self) -> None:
        """Leave nothing of it running, whatever happened."""
        for cleanup in reversed(self.cleanups):
            with suppress(Exception):
                cleanup()
        if self.provider:
            self.provider.stop()
        for pid in working_in(self.home):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Remove its folders."""
        for folder in (self.home, self.home.parent / f"{self.home.name}.provider"):
            shutil.rmtree(folder, ignore_errors=True)


def pause(seconds: float) -> None:
    """Let a fault last."""
    BREATH.wait(seconds)


def working_in(home: Path) -> dict[int, str]:
    """Processes that work below `home` or whose command line names it, this one excepted, by id (Linux)."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = entry.joinpath("cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
            inside = entry.joinpath("cwd").readlink().is_relative_to(home)
        except OSError:
            continue
        named = f"{home}/" in words or words.endswith(str(home))
        if (inside or named) and entry.name != str(os.getpid()):
            found[int(entry.name)] = words
    return found
