"""An agent that follows a script: a real program, with real commits, and no model.

    python -m nightcrew.testing.scripted_agent SCRIPT.json [--memory FOLDER] < prompt

It speaks the JSON lines of `nightcrew.adapters.agents.command`, and plays a list of steps:

    {"attempts": [[STEP, ...], [STEP, ...]],                 first call, second call; the last list repeats
     "by_model":  {"large": {"attempts": ...}},              instead, when NIGHTCREW_MODEL says so
     "on_resume": {"attempts": ...},                         instead, when a session goes on (NIGHTCREW_RESUME)
     "review":    {"attempts": ...},                         instead, when nothing may be written (NIGHTCREW_READ_ONLY)
     "tickets":   {"DEMO-1": {"attempts": ..., ...}}}        instead, when the prompt says "on ticket DEMO-1"

A step is one key with its settings, `{"write": {"path": "a.py", "text": "..."}}`; the first setting may stand alone,
`{"say": "hello"}`. The steps are the functions named `step_...` below. When the list ends without `result`, `limit`,
`blocked` or `exit`, the agent reports that it is done.

Calls are counted in FOLDER (or $NIGHTCREW_SCRIPT_MEMORY, or SCRIPT.json.memory), for each ticket, else each session.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

__all__ = ["BadScript", "choose", "main"]


class BadScript(Exception):
    """The script asks for something that cannot be done; the message says what."""


def tell(kind: str, **fields: object) -> None:
    """Print one JSON line, at once."""
    print(json.dumps({"type": kind, **fields}), flush=True)


def finish(code: int, **result: object) -> NoReturn:
    """Report the result and end."""
    tell("result", **result)
    raise SystemExit(code)


def inside(path: str) -> Path:
    """A path in the workspace. Raises BadScript for one that leads out of it."""
    whole = Path(path).resolve()
    if not whole.is_relative_to(Path.cwd().resolve()):
        raise BadScript(f"{path} is outside of the workspace")
    whole.parent.mkdir(parents=True, exist_ok=True)
    return whole


def step_write(path: str, text: str) -> None:
    """Write a file."""
    inside(path).write_text(text)


def step_append(path: str, text: str) -> None:
    """Add to the end of a file."""
    with inside(path).open("a") as file:
        file.write(text)


def step_edit(path: str, find: str, replace: str) -> None:
    """Replace every `find` in a file, which must be there."""
    text = inside(path).read_text()
    if find not in text:
        raise BadScript(f"{path} does not hold {find!r}")
    inside(path).write_text(text.replace(find, replace))


def step_run(command: str | Sequence[str], check: bool = True) -> None:
    """Run a command (text: by a shell) and say what it printed; with `check` an error ends the attempt."""
    done = subprocess.run(
        command, shell=isinstance(command, str), capture_output=True, text=True, errors="replace",
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    tell("progress", text=(done.stdout + done.stderr)[-2000:] or f"exit code {done.returncode}")
    if check and done.returncode:
        raise BadScript(f"{command} ended with exit code {done.returncode}")


def step_commit(message: str) -> None:
    """Commit everything with git, and print which commit it became."""
    git("add", "-A")
    named = subprocess.run(["git", "config", "user.email"], capture_output=True, check=False).returncode == 0
    who = () if named else ("-c", "user.name=Scripted Agent", "-c", "user.email=scripted-agent@localhost")
    git(*who, "commit", "-q", "-m", message)
    tell("commit", sha=git("rev-parse", "HEAD"))


def git(*args: str) -> str:
    """What `git ARGS` prints. Raises BadScript when it fails."""
    done = subprocess.run(["git", *args], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise BadScript(f"git {args[0]} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout.strip()


def step_say(text: str) -> None:
    """Report progress."""
    tell("progress", text=text)


def step_usage(**numbers: object) -> None:
    """Report tokens and money as used: input, output, cache_read, cache_write, money, turns, model."""
    tell("usage", **numbers)


def step_window(name: str, used: float, resets_in: float, seconds: float = 18000, warning: bool = False) -> None:
    """Tell of a limit of the provider: the share that is used, and in how many seconds it starts anew."""
    tell("window", name=name, used=used, resets_at=time.time() + resets_in, seconds=seconds, warning=warning)


def step_ask(text: str) -> None:
    """Ask something; let `hang` follow to wait for the answer."""
    tell("prompt", text=text)


def step_wait(seconds: float) -> None:
    """Do nothing for a while."""
    time.sleep(seconds)


def step_hang() -> NoReturn:
    """Be silent for ever, without using the CPU."""
    while True:
        signal.pause()


def step_deaf() -> None:
    """Ignore SIGTERM from now on."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def step_daemon(seconds: float = 3600) -> None:
    """Leave a process running that has a session of its own and no parent."""
    first = os.fork()
    if first:
        os.waitpid(first, 0)
        return
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", str(seconds)])  # noqa: S606
    os._exit(0)


def step_blocked(reason: str, citations: Sequence[Mapping[str, object]] = ()) -> NoReturn:
    """Claim to be blocked; each citation has `file`, `line` and `quote`."""
    claims = [{"reason": reason, **citation} for citation in citations] or [{"reason": reason}]
    finish(0, outcome="blocked", text=f"I am blocked: {reason}", claims=claims)


def step_limit(seconds_ahead: float) -> NoReturn:
    """Report that the provider's limit is reached until then."""
    finish(1, outcome="rate_limited", text="You've hit your limit", resets_at=time.time() + seconds_ahead)


def step_result(outcome: str = "done", **fields: object) -> NoReturn:
    """Report this and end, with exit code 0 when it is `done` or `blocked`."""
    finish(0 if outcome in ("done", "blocked") else 1, outcome=outcome, **fields)


def step_exit(code: int = 0) -> NoReturn:
    """End without a result."""
    raise SystemExit(code)


def step_complain(text: str) -> None:
    """Print to stderr."""
    print(text, file=sys.stderr, flush=True)


def step_garbage(bytes: int) -> None:  # noqa: A002 - the word of the script
    """Print what is no text and no JSON."""
    pattern = b'{"type": \xff\xfe\x00}\n' + b"".join(i.to_bytes() for i in range(256))
    sys.stdout.buffer.write((pattern * (bytes // len(pattern) + 1))[:bytes] + b"\n")
    sys.stdout.flush()


def step_long_line(megabytes: float) -> None:
    """Print one line of progress that is this long."""
    tell("progress", text="x" * int(megabytes * 1_000_000))


def step_stream(lines_per_second: float, seconds: float) -> None:
    """Print lines of progress at an even pace."""
    began = time.monotonic()
    for number in range(int(lines_per_second * seconds)):
        time.sleep(max(began + number / lines_per_second - time.monotonic(), 0))
        tell("progress", text=f"line {number}")


STEPS: dict[str, Callable[..., None]] = {
    name.removeprefix("step_"): step for name, step in list(globals().items()) if name.startswith("step_")
}


def play(step: object) -> None:
    """Do one step. Raises BadScript when there is no such step or its settings do not fit."""
    name, given = next(iter(step.items())) if isinstance(step, dict) and len(step) == 1 else (step, {})
    if not isinstance(name, str) or name not in STEPS:
        raise BadScript(f"no such step: {json.dumps(step)[:200]} (there are {', '.join(STEPS)})")
    act = STEPS[name]
    settings = given if isinstance(given, dict) else {next(iter(inspect.signature(act).parameters)): given}
    try:
        inspect.signature(act).bind(**settings)
    except TypeError as error:
        raise BadScript(f"step {name}: {error}") from error
    act(**settings)


def choose(script: Mapping[str, Any], ticket: str, environ: Mapping[str, str]) -> tuple[str, list[list[object]]]:
    """Which part of the script is played, by name, and its lists of steps. Raises BadScript when there is none.

    A ticket without a review of its own gets the review that is meant for all.
    """
    part, name = {"review": script.get("review"), **script.get("tickets", {}).get(ticket, script)}, "attempts"
    if environ.get("NIGHTCREW_READ_ONLY") and part["review"]:
        name, part = "review", part["review"]
    elif environ.get("NIGHTCREW_RESUME") and "on_resume" in part:
        name, part = "on_resume", part["on_resume"]
    elif (model := environ.get("NIGHTCREW_MODEL", "")) in part.get("by_model", {}):
        name, part = f"model {model}", part["by_model"][model]
    if not part.get("attempts"):
        raise BadScript(f"the script has no attempts for ticket {ticket!r} ({name})")
    return name, part["attempts"]


def ticket_of(prompt: str, session: str, memory: Path) -> str:
    """The ticket the prompt names; a session that goes on is not told again, so it is remembered."""
    known = memory / f"session-{_short(session)}"
    if found := re.search(r"\bon ticket (\S+?)[,.;:]?(?=\s|$)", prompt):
        known.write_text(found[1])
        return found[1]
    return known.read_text() if session and known.exists() else ""


def count(memory: Path, key: str) -> int:
    """How often this was called, this time included; right also when calls overlap."""
    for number in itertools.count(1):
        try:
            (memory / f"call-{_short(key)}-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return number
    raise AssertionError


def _short(text: str) -> str:
    return f"{quote(text, safe='')[:40]}-{sha256(text.encode()).hexdigest()[:8]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Play the script; the exit code. 2 when the script cannot be played."""
    parser = argparse.ArgumentParser(prog="scripted_agent", description="An agent that follows a script.")
    parser.add_argument("script", type=Path)
    parser.add_argument("--memory", type=Path)
    args = parser.parse_args(argv)
    prompt, session = sys.stdin.buffer.read().decode(errors="replace"), os.environ.get("NIGHTCREW_SESSION", "")
    tell("progress", text=f"This is nightcrew's scripted agent. No model was called; it plays {args.script.name}.")
    tell("session", id=session)
    try:
        memory = args.memory or Path(os.environ.get("NIGHTCREW_SCRIPT_MEMORY") or f"{args.script}.memory")
        memory.mkdir(parents=True, exist_ok=True)
        ticket = ticket_of(prompt, session, memory)
        name, lists = choose(json.loads(args.script.read_text()), ticket, os.environ)
        for step in lists[min(count(memory, f"{ticket or session} {name}"), len(lists)) - 1]:
            play(step)
    except (BadScript, OSError, ValueError, AttributeError, TypeError) as error:  # the last two: JSON of another shape
        print(f"scripted agent: {error}", file=sys.stderr)
        return 2
    tell("result", outcome="done", text="The script is played to its end.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
