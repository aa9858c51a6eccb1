"""What an ended attempt means for its run: a pure fold over the outcome table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from nightcrew.core.followup import UPDATED, Past
from nightcrew.core.model import Attempt, Policy, PullRequest, Run, RunState, Ticket, branch_for
from nightcrew.core.outcome import RULES, Consumes, Next, Outcome

S = RunState
TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    S.UNROUTED: frozenset({S.QUEUED, S.CANCELLED}),
    S.QUEUED: frozenset({S.UNROUTED, S.WORKING, S.FAILED, S.MERGED, S.CLOSED, S.CANCELLED}),
    S.WORKING: frozenset({S.QUEUED, S.IN_REVIEW, S.BLOCKED, S.FAILED, S.DUPLICATE, S.CANCELLED}),
    S.IN_REVIEW: frozenset({S.QUEUED, S.MERGED, S.CLOSED}),
    S.BLOCKED: frozenset({S.QUEUED, S.CANCELLED, S.MERGED, S.CLOSED}),
    S.FAILED: frozenset({S.QUEUED, S.CANCELLED, S.MERGED, S.CLOSED}),
    S.DUPLICATE: frozenset({S.QUEUED, S.CANCELLED}),
    S.MERGED: frozenset({S.QUEUED}),
    S.CLOSED: frozenset({S.QUEUED}),
    S.CANCELLED: frozenset({S.QUEUED, S.MERGED, S.CLOSED}),
}
"""Which state may follow which; docs/reference/states.md is printed from it."""

ACTIVE = frozenset({S.UNROUTED, S.QUEUED, S.WORKING, S.IN_REVIEW})
SHARED_CAPS = frozenset({"repo", "lane", "day", "night"})
ENDED = frozenset({S.BLOCKED, S.FAILED, S.DUPLICATE, S.MERGED, S.CLOSED, S.CANCELLED})


def adopted(ticket: Ticket, repo: str, reason: str, now: datetime) -> Run:
    """A new run for a ticket. What was said on it before it was taken is no order to us."""
    return Run(
        id=f"{ticket.board}:{ticket.id}", board=ticket.board, ticket_id=ticket.id, key=ticket.key, title=ticket.title,
        repo=repo, branch=branch_for(ticket.board, ticket.id, ticket.key), reason=reason, priority=ticket.priority,
        labels=ticket.labels, blocked_by=ticket.blocked_by, created_at=ticket.created_at or now,
        shown=ticket.state.value, heard=ticket.stop, state=S.QUEUED if repo else S.UNROUTED,
    )  # fmt: skip


def reopened(run: Run, ticket: Ticket | None) -> Run:
    """The run started over; after its pull request ended on a branch of its own.

    A pull request that is still open is gone on with: a second one beside it would break I1.
    """
    over = run.state in (S.MERGED, S.CLOSED)
    cycle, pull, url = (run.cycle + 1, 0, "") if over else (run.cycle, run.pull_request, run.url)
    return Run(
        id=run.id, board=run.board, ticket_id=run.ticket_id, key=run.key, title=run.title, repo=run.repo,
        branch=branch_for(run.board, run.ticket_id, run.key, cycle), reason="reopened", priority=run.priority,
        labels=run.labels, blocked_by=run.blocked_by, attempts=run.attempts, fence=run.fence, cycle=cycle,
        usage=run.usage, pull_request=pull, url=url, state=S.QUEUED if run.repo else S.UNROUTED,
        heard=ticket.stop if ticket else run.heard,
    )  # fmt: skip


def settle(run: Run, ended: Attempt, policy: Policy, now: datetime, jitter: float = 0.0) -> Run:
    """The run after its attempt ended. `jitter` (0..1) spreads backoffs."""
    outcome = Outcome(ended.outcome)
    run = _counted(replace(run, usage=run.usage + ended.usage, agent=ended.agent), ended, policy)
    if run.stopping:
        return replace(run, state=S.CANCELLED, reason=run.stopping, session_id="", stopping="", not_before=None)
    if ended.duplicate_of:
        why = f"the same change is already in {ended.duplicate_of}"
        return replace(run, state=S.DUPLICATE, duplicate_of=ended.duplicate_of, reason=why, session_id="")
    if outcome is Outcome.DONE:
        return _published(run, ended)
    if shared(ended):
        why = first_line(ended.evidence)
        return replace(run, state=S.QUEUED, reason=why, session_id=ended.session_id, not_before=None,
                       pending_head=_pending(ended, run.pending_head))  # fmt: skip
    if RULES[outcome].consumes is not Consumes.NO and run.consumed >= policy.max_attempts:
        return replace(run, state=S.FAILED, session_id="", feedback=ended.evidence, pending_head="",
                       reason=f"gave up after {run.consumed} attempts; {first_line(ended.evidence)}")  # fmt: skip
    return _next(run, ended, outcome, policy, now, jitter)


def shared(ended: Attempt) -> bool:
    """Whether a cap that many tickets share ended it: that is not this ticket's fault, it waits and goes on."""
    return ended.cap in SHARED_CAPS and ended.outcome in (Outcome.TOKEN_CAP, Outcome.MONEY_CAP)


def _counted(run: Run, ended: Attempt, policy: Policy) -> Run:
    outcome = Outcome(ended.outcome)
    if shared(ended):
        return run
    rule = RULES[outcome]
    crashes = run.crashes + (outcome is Outcome.CRASHED)
    stalls = run.stalls + (outcome is Outcome.STALLED)
    late = (outcome is Outcome.CRASHED and crashes > policy.free_crashes) or (
        outcome is Outcome.STALLED and stalls > policy.free_stalls
    )
    consumed = run.consumed + (rule.consumes is Consumes.YES or (rule.consumes is Consumes.LATER and late))
    failures, level = run.failures + rule.climbs, run.level
    if rule.climbs and failures >= policy.failures_per_model:
        failures, level = 0, level + 1
    outage = rule.next in (Next.BACKOFF, Next.WAIT, Next.OTHER_LANE)
    return replace(
        run, consumed=consumed, failures=failures, level=level, crashes=crashes, stalls=stalls,
        timeouts=run.timeouts + (outcome in (Outcome.TIMED_OUT, Outcome.TURN_LIMIT)),
        outages=run.outages + 1 if outage else 0,
        fast_fails=run.fast_fails + 1 if outcome is Outcome.FAST_FAIL else 0,
    )  # fmt: skip


def _published(run: Run, ended: Attempt) -> Run:
    return replace(
        run, state=S.IN_REVIEW, reason="pull request open", pull_request=ended.pull_request, url=ended.url,
        patch_id=ended.patch_id, session_id="", feedback="", not_before=None, failures=0, outages=0, pending_head="",
    )  # fmt: skip


def _next(run: Run, ended: Attempt, outcome: Outcome, policy: Policy, now: datetime, jitter: float) -> Run:
    rule = RULES[outcome]
    kept_head = run.pending_head
    run = replace(run, state=S.QUEUED, reason=first_line(ended.evidence) or rule.says, not_before=None, pending_head="")
    match rule.next:
        case Next.ASK:
            return replace(run, state=S.BLOCKED, session_id="")
        case Next.STOP:
            return replace(run, state=S.FAILED, session_id="")
        case Next.CLEAN:
            return replace(run, state=S.CANCELLED, session_id="")
        case Next.AGAIN | Next.GATES:
            return replace(run, session_id="", feedback=ended.evidence)
        case Next.RESUME:
            again = outcome in (Outcome.TIMED_OUT, Outcome.TURN_LIMIT) and run.timeouts > 1
            run = replace(run, session_id="" if again else ended.session_id, feedback=ended.evidence if again else "")
            if outcome is Outcome.CRASHED and run.crashes > policy.free_crashes:
                return replace(run, not_before=now + backoff(run.crashes - policy.free_crashes, policy, jitter))
            return run
        case Next.WAIT | Next.OTHER_LANE:
            return replace(run, session_id=_kept_session(ended, outcome), pending_head=_pending(ended, kept_head))
        case Next.BACKOFF:
            wait = now + backoff(run.outages, policy, jitter)
            kept = _kept_session(ended, outcome)
            return replace(run, session_id=kept, not_before=wait, pending_head=_pending(ended, kept_head))


def _pending(ended: Attempt, before: str) -> str:
    """Finished work that could not be checked or published, by an outage or because the reviewer cannot be asked."""
    return before or (ended.head if ended.stage in ("gates", "publish") else "")


def _kept_session(ended: Attempt, outcome: Outcome) -> str:
    """The session to go on with. A resumed session that its agent does not know is given up, not tried for ever."""
    if ended.stage == "preparing" and not ended.resume:
        return ""  # it never began: there is nothing to resume
    if outcome is Outcome.MISCONFIGURED or (outcome is Outcome.FAST_FAIL and ended.resume):
        return ""
    return ended.session_id


def followed(run: Run, pull: PullRequest) -> tuple[Run, str]:
    """The run after its pull request was merged, closed or sent back by a person, and the word for it."""
    if pull.state == "merged":
        return replace(run, state=S.MERGED, reason=f"merged as {pull.merged_sha[:12]}", not_before=None), "merged"
    if pull.state == "closed":
        return replace(run, state=S.CLOSED, reason="a person closed the pull request"), "closed"
    asked = f"A person reviewed pull request #{pull.number} and asks for changes:\n\n{pull.changes_requested}"
    again = replace(run, state=S.QUEUED, reason="changes requested", feedback=asked, session_id="", consumed=0,
                    failures=0)  # fmt: skip
    return again, "changes_requested"


def sent_back(run: Run, why: str, feedback: str) -> Run:
    """The run after something happened to its pull request that an agent has to see to: counting begins anew."""
    return replace(run, state=S.QUEUED, reason=why, feedback=feedback, session_id="", consumed=0, failures=0,
                   pending_head="", not_before=None)  # fmt: skip


def our_heads(attempts: Iterable[Attempt], past: Iterable[Past]) -> frozenset[str]:
    """Every head of the branch that is ours: what attempts left there, and where we merged the base into it."""
    updated = {one.head for one in past if one.fingerprint.startswith(UPDATED)}
    return frozenset({a.head for a in attempts if a.head and a.pull_request} | updated)


def pushed_head(attempts: Iterable[Attempt]) -> str:
    """The head that we pushed last for a run, "" when we never did: anything else on its branch is somebody else's."""
    done = [a for a in attempts if a.outcome == Outcome.DONE and a.pull_request and not a.duplicate_of]
    return max(done, key=lambda a: a.number).head if done else ""


def backoff(times: int, policy: Policy, jitter: float) -> timedelta:
    """Exponential, capped, spread by up to a quarter."""
    seconds = min(policy.backoff_base * 2.0 ** min(max(times - 1, 0), 16), policy.backoff_max)
    return timedelta(seconds=seconds * (1 + jitter / 4))


def first_line(text: str) -> str:
    """The first line that says something, for one-sentence reasons."""
    return next((line.strip()[:400] for line in text.splitlines() if line.strip()), "")
