"""The gates between "the agent is done" and "the pull request is open". Each reads the hub, never the agent's tree.

A gate returns its verdict with evidence. What is no verdict on the work is raised: GitError, OSError and NightcrewError
(infrastructure), GateUnavailable (the reviewer could not be asked), ConfigError.
"""

from nightcrew.core.gate import feedback
from nightcrew.stages.gates.contents import scope
from nightcrew.stages.gates.proof import evidence, review
from nightcrew.stages.gates.verdict import Gate, GateUnavailable, run_all
from nightcrew.stages.gates.work import changed, commands

__all__ = ["Gate", "GateUnavailable", "changed", "commands", "evidence", "feedback", "review", "run_all", "scope"]
