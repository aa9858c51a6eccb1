"""Liveness: a verdict over several signals, never a single timer (I8). Pure; the signals are measured elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from nightcrew.core import reading
from nightcrew.core.model import Budget

LATEST = 0.85
"""A dialog and a zombie are ended at this share of their limit, so that they are found within it."""
SPEAKS = 10.0
"""Seconds since its last event for which a session counts as working, whatever it waits for."""
SEEMS_SILENT = 450.0
"""Seconds without any sign after which a session is shown as silent, where no limit says when it is."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")
_QUESTION = re.compile(
    r"\[y(?:es)?/n(?:o)?\]|\(y(?:es)?/n(?:o)?\)|\[yes/no|\(yes/no"
    r"|\b(?:do you (?:trust|want|wish|accept|agree)|are you sure)\b.*\?[^?]{0,20}$"
    r"|\b(?:continue|proceed|overwrite)\s*\?"
    r"|\bpress (?:enter|return|any key|\[?y\]?\b)|\bhit (?:enter|return)\b"
    r"|\b(?:pass(?:word|phrase|code)|username|login|otp|pin)\b[^:]{0,80}:$"
    r"|\b(?:enter|paste|type|select|choose)\b.{0,80}[:>?]$|^\s*❯",
    re.IGNORECASE,
)


class Life(StrEnum):
    """What a session is doing."""

    WORKING = "working"
    TOOL = "waiting_on_tool"
    MODEL = "waiting_on_model"
    PROMPT = "waiting_on_prompt"
    SILENT = "silent"
    ZOMBIE = "zombie"
    DEAD = "dead"


@dataclass(frozen=True)
class Signals:
    """Seconds since each sign of life was last seen (inf = never), and what the process tree looks like."""

    heard: float  # an event on the stream
    transcript: float  # the agent's own transcript grew
    cpu: float  # the tree, without its idle ticking, used CPU time
    io: float  # the tree read or wrote
    tree: float  # a file in the workspace changed
    waiting_on: str = "model"  # what the stream says: "model", "tool", "prompt"
    waited: float = 0.0  # seconds since it began to wait for that
    processes: int = 1  # running ones
    tools: tuple[str, ...] = ()  # names of the programs below the agent
    zombie: float = 0.0  # seconds that a part of the tree has been dead while nothing else of it lives, 0 = it is not
    gone: bool = False
    asks: str = ""  # the question it seems to wait at
    stopped: bool = False  # none of it may run: SIGSTOP

    @property
    def quiet(self) -> float:
        """Seconds since the last sign of life on any signal."""
        return min(self.heard, self.transcript, self.cpu, self.io, self.tree)


@dataclass(frozen=True)
class Verdict:
    """What the session is doing, the evidence, and whether it must be ended."""

    life: Life
    evidence: str
    end: bool = False


def verdict(signals: Signals, budget: Budget) -> Verdict:
    """Tell how a session is. It must be ended only when it is gone, or a limit of `budget` (0 = none) has passed."""
    s, stall = signals, budget.stall_seconds
    if s.gone:
        return Verdict(Life.DEAD, "its process is gone, and nobody was told", end=True)
    if s.zombie > 0:
        told = _zombie(s, budget.zombie_seconds)
    elif s.waiting_on == "prompt" or s.asks:
        told = _prompt(s, budget.prompt_seconds)
    else:
        told = _waiting(s, stall)
    if 0 < stall < s.quiet and not told.end:
        said = f"no sign of life while waiting on the {s.waiting_on}: {_evidence(s)}{_stopped(s)}"
        return Verdict(Life.SILENT, said, end=True)
    return told


def _zombie(s: Signals, limit: float) -> Verdict:
    said = f"zombie: the agent has been dead for {_seconds(s.zombie)}, and what should have told us so lives on"
    return Verdict(Life.ZOMBIE, said, 0 < LATEST * limit <= s.zombie)


def _prompt(s: Signals, limit: float) -> Verdict:
    """A question that the stream tells of is one; one that was only printed must be all there is for its whole time."""
    structured = s.waiting_on == "prompt"
    waits = s.waited if structured else s.quiet
    if not structured and waits < SPEAKS and not 0 < LATEST * limit <= waits:
        return Verdict(Life.WORKING, _evidence(s))
    asked = f": {s.asks}" if s.asks else ""
    return Verdict(
        Life.PROMPT, f"waits {_seconds(waits)} for an answer nobody gives{asked}", 0 < LATEST * limit <= waits
    )


def _waiting(s: Signals, limit: float) -> Verdict:
    if s.quiet > (limit / 2 or SEEMS_SILENT):
        return Verdict(Life.SILENT, _evidence(s) + _stopped(s))
    if s.heard < SPEAKS:
        return Verdict(Life.WORKING, _evidence(s))
    return Verdict(Life.TOOL if s.waiting_on == "tool" else Life.MODEL, _evidence(s) + _stopped(s))


def _stopped(s: Signals) -> str:
    return ", and its processes are stopped" if s.stopped else ""


def _evidence(s: Signals) -> str:
    """The signs of life, the newest that is not an event named in full.

    >>> _evidence(Signals(340, inf, 2, inf, 70, tools=("cc1plus", "make")))
    'no event for 340 s, but its tree used CPU 2 s ago: cc1plus, make'
    """
    busy = f": {', '.join(s.tools)}" if s.tools else ""
    signs = [
        (s.cpu, "its tree used CPU", busy), (s.io, "its tree read or wrote", busy),
        (s.transcript, "its transcript grew", ""), (s.tree, "a file in its workspace changed", ""),
    ]  # fmt: skip
    newest, what, names = min(signs, key=lambda sign: sign[0])
    start = f"no event for {_seconds(s.heard)}"
    if newest < s.heard:
        return f"{start}, but {what} {_seconds(newest)} ago{names}"
    if s.heard < SPEAKS:
        return f"an event {_seconds(s.heard)} ago"
    return f"{start}, and no CPU time, I/O or change of a file since{busy and f' (running{busy})'}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < inf else "ever"


def question(output: str) -> str:
    """The question that output waits at: its unfinished last line, when that reads like one, or a dialog drawn with
    escape codes; "" when there is none.

    >>> question("Cloning\\nPassword for ada: "), question("Proceed? [y/N]\\n"), question('{"text": "[y/N]"')
    ('Password for ada:', '', '')
    """
    last = reading.one_line(_ESCAPES.sub("", output.rpartition("\n")[2]).rpartition("\r")[2], 200)
    if last[:1] in ("{", "["):
        return ""
    if last and _QUESTION.search(last):
        return last
    drawn = "\x1b[" in output and reading.asks_a_person(output)
    return reading.one_line(_ESCAPES.sub(" ", output), 200) if drawn else ""
