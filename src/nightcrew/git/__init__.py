"""Everything nightcrew does with git, through the git CLI alone."""

from nightcrew.git.command import git
from nightcrew.git.hub import Hub
from nightcrew.git.rescue import Rescue, rescue_ref, rescues
from nightcrew.git.values import Change, Merge, Push, PushRejected

__all__ = ["Change", "Hub", "Merge", "Push", "PushRejected", "Rescue", "git", "rescue_ref", "rescues"]
