"""The one owner of child processes: start them, follow what they write, end them with all they started (I5)."""

from nightcrew.proc.child import Handle, Process, ProgramNotFound, exit_code, start
from nightcrew.proc.command import Completed, run
from nightcrew.proc.ending import Leftover, Signs, alive, end, leftovers, signs, sweep
from nightcrew.proc.environment import DEFAULT_ALLOW, base_env
from nightcrew.proc.follow import Batch, Cut, lines

__all__ = [
    "DEFAULT_ALLOW", "Batch", "Completed", "Cut", "Handle", "Leftover", "Process", "ProgramNotFound", "Signs",
    "alive", "base_env", "end", "exit_code", "leftovers", "lines", "run", "signs", "start", "sweep",
]  # fmt: skip
