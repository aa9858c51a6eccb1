"""How a run of codex ended, and what that is told from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from nightcrew.adapters.agents.codex.account import Account
from nightcrew.adapters.agents.codex.faults import FAULTS, complaint, kind_of_stderr
from nightcrew.adapters.telling import Rule, first
from nightcrew.core.outcome import Ending, Outcome
from nightcrew.core.prompt import claims_in
from nightcrew.core.reading import how_it_died, one_line, was_signal

__all__ = ["TOLD", "ending"]


def ending(heard: Account, exit_code: int | None, stderr: str, now: datetime) -> Ending:
    """How it ended and why; nothing that codex did not call completed is ever `done`."""
    return first(ENDS, _End(heard, exit_code, stderr, now))[1]


@dataclass(frozen=True)
class _End:
    """A run of codex that is over."""

    heard: Account
    exit_code: int | None
    stderr: str
    now: datetime

    @property
    def failed_exit(self) -> bool:
        return bool(self.exit_code) and not was_signal(self.exit_code)

    @property
    def never_began(self) -> bool:
        return self.heard.state == "new" and self.failed_exit


def _done(end: _End) -> Ending | None:
    heard = end.heard
    if heard.state != "completed" or (heard.by_exec and end.failed_exit):
        return None
    if claims := claims_in(heard.said):
        return heard.ends_as(Outcome.BLOCKED, f"the last message claims to be blocked: {one_line(claims[0].reason)}")
    said = one_line(heard.said)
    return heard.ends_as(
        Outcome.DONE, f"turn completed: {said}" if said else "turn completed, the last message is empty"
    )


def _interrupted(end: _End) -> Ending | None:
    if not end.heard.turn_limit or end.heard.state != "interrupted":
        return None
    return end.heard.ends_as(Outcome.TURN_LIMIT, f"interrupted after {end.heard.answers} answers of the model")


def _failed(end: _End) -> Ending | None:
    heard = end.heard
    if not (fault := heard.fault or heard.trouble):
        return None
    kind = fault.kind()
    if kind is Outcome.RATE_LIMITED and fault.info == "usageLimitExceeded" and heard.no_credit:
        kind = Outcome.OUT_OF_CREDIT
    where = "ended while it retried" if fault.again else fault.request and f"{fault.request} refused"
    evidence = ": ".join(part for part in (where, fault.info, one_line(fault.text, 400)) if part)
    evidence = evidence or "an error without a word"
    return heard.ends_as(kind, evidence, heard.reset(fault, end.now) if kind is Outcome.RATE_LIMITED else None)


def _locked_out(end: _End) -> Ending | None:
    if not end.heard.needs_login or end.heard.state != "new":
        return None
    return end.heard.ends_as(Outcome.LOGGED_OUT, "codex has no account and no API key")


def _not_found(end: _End) -> Ending | None:
    return _before_any_turn(end, Outcome.MISCONFIGURED) if end.never_began and end.exit_code in {126, 127} else None


def _complained(end: _End) -> Ending | None:
    return _before_any_turn(end, kind_of_stderr(complaint(end.stderr))) if end.never_began else None


def _before_any_turn(end: _End, kind: Outcome) -> Ending:
    said = one_line(complaint(end.stderr)) or "nothing said"
    return end.heard.ends_as(kind, f"{how_it_died(end.exit_code)} before any turn: {said}")


def _broke_off(end: _End) -> Ending:
    how = {"completed": "turn completed, yet", "interrupted": "turn interrupted,"}.get(end.heard.state, "no result,")
    said = f"{how} {how_it_died(end.exit_code)} {one_line(complaint(end.stderr))}".strip()
    return end.heard.ends_as(Outcome.CRASHED, said)


ENDS: tuple[Rule[_End], ...] = (
    Rule("`turn/completed` with `status` `completed` and no `error` (`codex exec`: `turn.completed` and no bad exit "
         "code)", _done, kinds=(Outcome.DONE, Outcome.BLOCKED)),
    Rule("`status` `interrupted`, as we had asked for", _interrupted, kinds=(Outcome.TURN_LIMIT,)),
    Rule("the turn's `error`, a refused request, or an `error` that nothing good followed (below)", _failed),
    Rule("`account/read`: `requiresOpenaiAuth`, and no account", _locked_out, kinds=(Outcome.LOGGED_OUT,)),
    Rule("no turn, exit code 126 or 127", _not_found, kinds=(Outcome.MISCONFIGURED,)),
    Rule("no turn and a bad exit code: the words on stderr, if any", _complained, kinds=(Outcome.CRASHED,),
         by_words=True),
    Rule("a turn without an end", _broke_off, kinds=(Outcome.CRASHED,)),
)  # fmt: skip
"""Every way an end is told, the most certain first."""
TOLD = (*ENDS, *FAULTS)
"""For the documentation."""
