"""The one owner of child processes: start them, follow what they write, end them with all they started (I5)."""

from nightcrew.proc.child import Handle, Process, ProgramNotFound, exit_code, start
from nightcrew.proc.command import Completed, run
from nightcrew.proc.ending import Leftover, end, left_behind, leftovers, sweep
from nightcrew.proc.environment import DEFAULT_ALLOW, base_env
from nightcrew.proc.follow import Batch, Cut, lines
from nightcrew.proc.limits import Limits
from nightcrew.proc.tree import Signs, alive, signs
from nightcrew.proc.usage import memory, oom, over, peak

__all__ = [
    "DEFAULT_ALLOW", "Batch", "Completed", "Cut", "Handle", "Leftover", "Limits", "Process", "ProgramNotFound", "Signs",
    "alive", "base_env", "end", "exit_code", "left_behind", "leftovers", "lines", "memory", "oom", "over", "peak",
    "run", "signs", "start", "sweep",
]  # fmt: skip
