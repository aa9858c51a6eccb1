"""Following a pull request up: what happens to it, and what is done about that, each thing once (docs/followup.md)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import sha256

from nightcrew.core.model import Check, FollowUp, Remark, Standing


class Cause(StrEnum):
    """What happened to a pull request."""

    MOVED = "moved"  # somebody else pushed to its branch
    CONFLICT = "conflict"
    CHECKS = "checks"
    REVIEW = "review"  # people ask for something
    BOTS = "bots"
    QUEUE = "queue"  # it was to be merged by the forge, and is not any more
    DRAFT = "draft"  # a draft, and green
    BEHIND = "behind"
    READY = "ready"  # green and approved


class Did(StrEnum):
    """What is done about it."""

    AGENT = "agent"  # the run is queued again, and an agent told why
    RERUN = "rerun"
    READY = "ready"  # a draft becomes ready for review
    UPDATE = "update"  # the base is merged into the branch
    MERGE = "merge"
    ANSWER = "answer"  # the new head is told where it was asked for
    SAY = "say"  # it is given up: a comment says so, once
    NOTE = "note"  # nothing but remembering it


@dataclass(frozen=True)
class Past:
    """One thing that was done about a pull request, remembered for good. `done`: nothing of it is left to do.

    `ids` are the remarks and checks it was about, `threads` those to be answered, `head` the head it was seen at.
    """

    run_id: str
    pull: int
    cause: Cause
    fingerprint: str
    did: Did
    at: datetime
    done: bool = False
    head: str = ""
    why: str = ""
    ids: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reaction:
    """What is to be done now. `feedback` is what an agent is told; `checks` are those that failed."""

    cause: Cause
    fingerprint: str
    did: Did
    why: str
    feedback: str = ""
    checks: tuple[Check, ...] = ()
    remarks: tuple[Remark, ...] = ()

    def past(self, run_id: str, standing: Standing, now: datetime) -> Past:
        """As it is remembered. Until an answer was given, what an agent was sent for by people is not done."""
        asked = self.did is Did.AGENT and self.cause in (Cause.REVIEW, Cause.BOTS)
        threads = dict.fromkeys(r.thread for r in self.remarks if r.thread)
        return Past(run_id, standing.pull.number, self.cause, self.fingerprint, self.did, now, done=not asked
                    and self.did in (Did.AGENT, Did.NOTE), head=standing.pull.head, why=self.why,
                    ids=(*(r.id for r in self.remarks), *(f"{CHECK}{c.name}" for c in self.checks)),
                    threads=tuple(threads))  # fmt: skip


CHECK = "check:"
"""Begins the name of a check among what something was about."""
CLEAN = "clean:"
"""Begins the fingerprint by which it is remembered that what agents were sent for was seen mended."""
STUCK = timedelta(hours=1)
"""So long after some checks failed nobody waits any more for others that still run: they may never end."""
UPDATED = "updated:"
"""Begins the fingerprint by which a head that we made of branch and base is remembered as ours; both heads follow."""
ROUNDS = {
    Cause.CHECKS: "check_rounds", Cause.REVIEW: "review_rounds", Cause.BOTS: "bot_rounds",
    Cause.CONFLICT: "conflict_rounds", Cause.QUEUE: "queue_rounds",
}  # fmt: skip


def react(standing: Standing, ours: Collection[str], past: Sequence[Past], policy: FollowUp, now: datetime,
          flaky: Collection[str] = (), not_now: Collection[Cause] = ()) -> Reaction | None:  # fmt: skip
    """The one thing to be done about an open pull request now, None when there is nothing.

    `ours` are the heads that we pushed. `flaky` are checks that are known to pass when they are run again. What was
    done before (`past`) is not done again for the same fingerprint; after its rounds it is given up, saying so. Causes
    that are `not_now` are left for later.
    """
    known = {(p.cause, p.fingerprint) for p in past}
    for found in _found(standing, ours, past, policy, now, flaky):
        if found.cause in not_now:
            continue
        wanted = found if (found.cause, found.fingerprint) in known else _bounded(found, past, policy)
        if (wanted.cause, wanted.fingerprint) not in known:
            return wanted
    return None


def _bounded(found: Reaction, past: Sequence[Past], policy: FollowUp) -> Reaction:
    """The reaction, or, when agents were sent for this cause often enough, giving it up."""
    most = getattr(policy, ROUNDS[found.cause]) if found.did is Did.AGENT else 0
    return _given_up(found, most) if found.did is Did.AGENT and len(_sent(found.cause, past)) >= most else found


def _found(standing: Standing, ours: Collection[str], past: Sequence[Past], policy: FollowUp, now: datetime,
           flaky: Collection[str]) -> Iterator[Reaction]:  # fmt: skip
    """Everything that happened, the most urgent first."""
    head = standing.pull.head
    if ours and head not in ours:
        yield Reaction(Cause.MOVED, head, Did.NOTE, f"somebody else pushed {head[:12]} to it: work goes on on top")
    yield from _answers(standing, past)
    yield from _mended(standing, past)
    if standing.mergeable is False:
        yield _conflict(standing)
    yield from _checks(standing, past, policy, now, flaky)
    waiting = False
    for cause, remarks in ((Cause.REVIEW, unanswered(standing, past)), (Cause.BOTS, _by_bots(standing, past))):
        if remarks and _quiet(remarks, now, policy.quiet):
            yield _asked(cause, standing, remarks)
        waiting = waiting or bool(remarks)
    if not waiting:
        yield from _onward(standing, past, policy)


def _answers(standing: Standing, past: Sequence[Past]) -> Iterator[Reaction]:
    """What people asked for is there now: it is told where they asked."""
    for one in past:
        if one.did is Did.AGENT and not one.done and standing.pull.head != one.head:
            yield Reaction(one.cause, f"answer:{one.fingerprint}", Did.ANSWER, f"answered in {standing.pull.head[:12]}")


def _mended(standing: Standing, past: Sequence[Past]) -> Iterator[Reaction]:
    """What agents were sent for is well now: when it happens again, that is counted anew.

    Checks are when all of them passed that were red: more of them may come yet, which does not count against it.
    """
    head = standing.pull.head
    if standing.mergeable and _sent(Cause.CONFLICT, past):
        yield Reaction(Cause.CONFLICT, f"{CLEAN}{head}:{standing.base_head}", Did.NOTE, "it does not conflict any more")
    red = {id_.removeprefix(CHECK) for one in _sent(Cause.CHECKS, past) for id_ in one.ids}
    if red and _green(standing) and red <= {check.name for check in standing.checks}:
        yield Reaction(Cause.CHECKS, f"{CLEAN}{head}", Did.NOTE, f"{', '.join(sorted(red))} passed")


def _green(standing: Standing) -> bool:
    return bool(standing.checks) and all(check.state == "passed" for check in standing.checks)


def _conflict(standing: Standing) -> Reaction:
    pull = standing.pull
    feedback = (
        f"Your pull request #{pull.number} conflicts with {pull.base}, which has moved. Merge commit "
        f"{standing.base_head} into your branch (git merge {standing.base_head}), resolve every conflict so that both "
        "changes keep their meaning, run the tests, and commit the merge. Do not rebase."
    )
    why = f"it conflicts with {pull.base} at {standing.base_head[:12]}"
    return Reaction(Cause.CONFLICT, f"{pull.head}:{standing.base_head}", Did.AGENT, why, feedback)


def _checks(standing: Standing, past: Sequence[Past], policy: FollowUp, now: datetime,
            flaky: Collection[str]) -> Iterator[Reaction]:  # fmt: skip
    """Red checks on the current head: all have ended or are stuck, or a required one failed."""
    failed = tuple(sorted((c for c in standing.checks if c.state == "failed"), key=lambda c: c.name))
    if not failed:
        return
    names = ", ".join(dict.fromkeys(c.name for c in failed))
    mark = _digest(standing.pull.head, *(c.name for c in failed))
    if any(c.state == "running" for c in standing.checks) and not any(c.required for c in failed):
        seen = next((p for p in past if p.fingerprint == f"waits:{mark}"), None)
        if seen is None:
            yield Reaction(Cause.CHECKS, f"waits:{mark}", Did.NOTE, f"{names} failed while others still run")
        if seen is None or now - seen.at < STUCK:
            return
    rerun = f"rerun:{mark}"
    before = next((p for p in past if p.fingerprint == rerun), None)
    if all(c.name in flaky or any(fnmatchcase(c.name, glob) for glob in policy.flaky) for c in failed):
        if before is None:
            yield Reaction(Cause.CHECKS, rerun, Did.RERUN, f"{names} failed, which is known to be flaky", checks=failed)
        if before is None or not before.done or now - before.at < timedelta(seconds=policy.quiet):
            return  # it takes the forge a while to show that it runs again
    pull = standing.pull
    feedback = f"These checks failed on your pull request #{pull.number} at {pull.head[:12]}: {names}."
    yield Reaction(Cause.CHECKS, mark, Did.AGENT, f"checks failed: {names}", feedback, failed)


def unanswered(standing: Standing, past: Sequence[Past]) -> tuple[Remark, ...]:
    """What people who may write to the repository ask for and nobody has seen to."""
    return tuple(r for r in _open(standing, past) if not r.bot and not _to_another(r))


def _by_bots(standing: Standing, past: Sequence[Past]) -> tuple[Remark, ...]:
    """What robots ask for: in threads that they begin and reviews alone. What they say below is mostly a report, and
    what they answer in a thread is for whoever spoke to them there, a stranger maybe.
    """
    begins = {r.thread: r.id for r in reversed(standing.remarks) if r.thread}
    asked = (r for r in _open(standing, past) if r.bot)
    return tuple(r for r in asked if r.verdict == "changes" or (r.thread and begins[r.thread] == r.id))


def _open(standing: Standing, past: Sequence[Past]) -> Iterator[Remark]:
    seen = {remark for one in past for remark in one.ids}
    last = {r.thread: r for r in standing.remarks if r.thread}
    verdicts = {r.author: r.verdict for r in standing.remarks if r.verdict}  # the last one of each
    for remark in standing.remarks:
        if not remark.trusted or remark.mine or remark.resolved or remark.id in seen:
            continue
        if remark.thread and last[remark.thread].mine:
            continue  # we had the last word
        if remark.verdict and verdicts[remark.author] == "approved":
            continue  # who wanted changes has thought better of it
        if remark.text.strip() or remark.verdict:
            yield remark


def _to_another(remark: Remark) -> bool:
    """People also talk to one another: what begins with somebody else's name is not for us."""
    first = remark.text.split(maxsplit=1)[:1]
    return not remark.verdict and bool(first) and first[0].startswith("@") and "nightcrew" not in first[0].lower()


def _quiet(remarks: Iterable[Remark], now: datetime, seconds: float) -> bool:
    newest = max(datetime.fromisoformat(remark.at) for remark in remarks)
    return now - newest >= timedelta(seconds=seconds)


def _asked(cause: Cause, standing: Standing, remarks: tuple[Remark, ...]) -> Reaction:
    who = ", ".join(dict.fromkeys(r.author for r in remarks))
    lines = [f"- {r.author}{_place(r)}: {r.text.strip() or 'asks for changes'}" for r in remarks]
    feedback = (
        f"{who} reviewed pull request #{standing.pull.number}. See to every point below, commit, and say in your last "
        "message what you did about each:\n\n" + "\n".join(lines)
    )
    mark = _digest(*sorted(r.id for r in remarks))
    return Reaction(cause, mark, Did.AGENT, f"{who} asks for changes", feedback, remarks=remarks)


def _place(remark: Remark) -> str:
    return (
        f" at {remark.path}:{remark.line}" if remark.path and remark.line else f" at {remark.path}" * bool(remark.path)
    )


def _onward(standing: Standing, past: Sequence[Past], policy: FollowUp) -> Iterator[Reaction]:
    """Nobody wants anything of it: towards its merge."""
    head = standing.pull.head
    told = [p for p in past if p.cause is Cause.READY and p.did is Did.MERGE and p.head == head and p.done]
    if told and policy.merge in ("green", "queue") and not standing.merging:
        feedback = (f"The forge took pull request #{standing.pull.number} out of its merge queue: together with what "
                    f"is on {standing.pull.base} now its checks fail. Merge commit {standing.base_head} into your "
                    "branch, run the tests, and mend what fails.")  # fmt: skip
        yield Reaction(Cause.QUEUE, head, Did.AGENT, "it was taken out of the merge queue", feedback)
    green = _green(standing)
    clear = standing.mergeable is True and not standing.draft and (green or not standing.checks)
    if standing.draft and green and policy.ready == "green":
        yield Reaction(Cause.DRAFT, "green", Did.READY, "its checks are green: it is ready for review")
    if standing.behind and clear and policy.update:
        why = f"its base is at {standing.base_head[:12]}"
        yield Reaction(Cause.BEHIND, f"{head}:{standing.base_head}", Did.UPDATE, why)
    elif clear and standing.approved and not standing.merging and not told:
        did = Did.NOTE if policy.merge == "never" else Did.MERGE
        yield Reaction(Cause.READY, head, did, "green and approved" if green else "approved; there are no checks")


def _sent(cause: Cause, past: Sequence[Past]) -> list[Past]:
    """When an agent was sent for it, since it was last seen mended or people asked for something: these begin anew.

    What people ask for is counted until that was given up: who asks again after that is heard.
    """
    sent: list[Past] = []
    for one in sorted(past, key=lambda p: p.at):
        over = one.fingerprint.startswith(CLEAN) or (one.did is Did.SAY and cause is Cause.REVIEW)
        if (one.cause is cause and over) or (one.did is Did.AGENT and one.cause is Cause.REVIEW is not cause):
            sent = []
        elif one.did is Did.AGENT and one.cause is cause:
            sent.append(one)
    return sent


def _given_up(found: Reaction, most: int) -> Reaction:
    text = f"after {most} tries: {found.why}. It waits for a person."
    return Reaction(found.cause, f"stopped:{found.fingerprint}", Did.SAY, text, remarks=found.remarks)


def approvals(remarks: Iterable[Remark]) -> tuple[str, ...]:
    """The heads that people who may write approve, () while the last word of one of them is that changes are needed."""
    last = {r.author: r for r in remarks if r.trusted and r.verdict and not r.bot and not r.mine}
    verdicts = {r.verdict for r in last.values()}
    return () if "changes" in verdicts else tuple(r.head for r in last.values() if r.verdict == "approved")


def judged(standing: Standing, past: Iterable[Past]) -> Standing:
    """With whether it is approved where no rule says so: at this very head, or before we merged the base into it."""
    made_of = {p.head: p.fingerprint.split(":")[1] for p in past if p.fingerprint.startswith(UPDATED)}
    head, same = standing.pull.head, set[str]()
    while head and head not in same:
        same.add(head)
        head = made_of.get(head, "")
    return replace(standing, approved=standing.approved or bool(same.intersection(standing.approvals)))


def says(standing: Standing) -> str:
    """How it stands, in a few words for `status`."""
    if standing.mergeable is False:
        return f"conflicts with {standing.pull.base}"
    failed = [c.name for c in standing.checks if c.state == "failed"]
    if failed:
        return f"checks failed: {', '.join(failed[:3])}"
    running = sum(c.state == "running" for c in standing.checks)
    if running:
        return f"{running} of {len(standing.checks)} checks are running"
    if standing.merging:
        return "is being merged by the forge"
    green = "green" if standing.checks else "no checks"
    return f"{green} and approved: to be merged" if standing.approved else f"{green}; waits for a review"


def _digest(*parts: str) -> str:
    return sha256("\x1f".join(parts).encode()).hexdigest()[:20]
