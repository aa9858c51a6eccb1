"""The sessions that one attempt had before nightcrew was killed: where they lie, and how the last one ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from nightcrew import proc
from nightcrew.core.model import Usage
from nightcrew.core.outcome import Ending, Outcome
from nightcrew.ports import Agent
from nightcrew.stages.session import FAST, Heard, read_ending


def folders(attempt: Path) -> list[Path]:
    """The folders of an attempt's sessions, oldest first."""
    tries = [path for path in attempt.glob("try-*") if (path / "stdout").exists()]
    return sorted(tries, key=lambda path: int(path.name.partition("-")[2]))


def told(agent: Agent, tries: Sequence[Path], now: datetime) -> Ending | None:
    """How the last session ended, if it told its end while nightcrew was dead: it is not paid for twice.

    Its usage is left out, for it is counted with the tries before.
    """
    for folder in tries[-1:]:
        code = proc.exit_code(folder / "rc")
        heard = Heard(code, folder / "stdout", folder / "stderr", FAST)
        ending = read_ending(agent, heard, now)
        sure = (Outcome.DONE, Outcome.BLOCKED) if code is None else set(Outcome) - {Outcome.CRASHED}
        if ending.outcome in sure:
            return replace(ending, usage=Usage())
    return None
