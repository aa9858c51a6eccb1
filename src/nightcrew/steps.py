"""What the durable steps of an attempt hand on; the engine keeps it, so `durable.VERSION` goes with it."""

from __future__ import annotations

from dataclasses import dataclass

from nightcrew.core.model import GateResult, Repo, Usage
from nightcrew.core.outcome import Outcome

CLAIM = "claim"
"""The stage of an attempt that ended because another crew works the ticket: the board is that crew's to write."""


@dataclass(frozen=True)
class Prepared:
    """What `prepare` leaves for the session. `problem` is set when the attempt cannot go on."""

    repo: Repo  # with what the repository's WORKFLOW.md adds
    base_sha: str = ""
    start: str = ""  # the pull request's head when the attempt began, "" when there is none
    tree: str = ""
    instructions: str = ""
    problem: str = ""
    outcome: str = ""
    stage: str = "preparing"  # where it ended, with a problem


@dataclass(frozen=True)
class Checked:
    """What the gates said about which head. `problem` is why they could say nothing, and whose trouble that is: with
    `outcome` it is the reviewer's, on `lane`."""

    head: str
    results: tuple[GateResult, ...] = ()
    problem: str = ""
    outcome: str = Outcome.INFRA.value
    lane: str = ""
    resets_at: float | None = None
    cap: str = ""  # which cap ended the review
    usage: Usage = Usage()  # the reviewer's

    @property
    def passed(self) -> bool:
        return not self.problem and all(r.passed for r in self.results)


@dataclass(frozen=True)
class Published:
    """The pull request, or why there is none."""

    number: int = 0
    url: str = ""
    patch_id: str = ""
    duplicate_of: str = ""
    outcome: str = ""
    problem: str = ""
