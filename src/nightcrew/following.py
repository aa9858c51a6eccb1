"""Open pull requests followed until they merge: looked at as cheaply as the forge allows, and answered."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from nightcrew.core import followup, lifecycle, schedule
from nightcrew.core.followup import Cause, Did, Past, Reaction
from nightcrew.core.model import Check, PullRequest, Repo, Run, RunState, Standing
from nightcrew.core.outcome import Outcome
from nightcrew.core.view import React
from nightcrew.crew import Crew
from nightcrew.errors import ForgeError, NightcrewError
from nightcrew.git import Push
from nightcrew.ports import Following, Forge
from nightcrew.transport import Refused

log = logging.getLogger("nightcrew.following")
LOG_TAIL = 6000  # characters of a failed check's log that an agent is told
Key = tuple[str, str]  # repository, branch


def followable(forge: Forge) -> Following | None:
    """The forge as one that can be followed on, None when it cannot."""
    return forge if isinstance(forge, Following) else None


@dataclass
class Watch:
    """What was last seen of the pull requests of our runs. A repository that cannot be asked keeps what was seen."""

    pulls: dict[Key, PullRequest] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)  # by run, of open ones
    stamps: dict[str, str] = field(default_factory=dict)
    pushed: dict[str, frozenset[str]] = field(default_factory=dict)  # heads that attempts left, by run
    failed: dict[str, tuple[str, frozenset[str]]] = field(default_factory=dict)  # head, and checks red there, by run

    async def look(self, crew: Crew, runs: Iterable[Run]) -> None:
        """Look at the pull requests of these runs."""
        by_repo: defaultdict[str, list[Run]] = defaultdict(list)
        for run in runs:
            by_repo[run.repo].append(run)
        for name, those in by_repo.items():
            if repo := crew.repos.get(name):
                try:
                    await self._repo(crew, repo, those)
                except NightcrewError as error:
                    log.warning("pulls.unknown", extra={"repo": name, "error": error.sentence()})

    async def _repo(self, crew: Crew, repo: Repo, runs: list[Run]) -> None:
        forge = crew.forges[repo.forge]
        if following := followable(forge):
            stamps = await following.stamps(repo, [run.pull_request for run in runs])
            for run in runs:
                stamp = stamps.get(run.pull_request, "")
                if not stamp or self.stamps.get(run.id) != stamp or run.id not in self.standings:
                    await self._one(crew, repo, run, following, stamp)
            return
        pulls = await forge.list(repo)
        self.pulls = {key: pull for key, pull in self.pulls.items() if key[0] != repo.name}
        for pull in reversed(pulls):
            self.pulls[repo.name, pull.branch] = pull

    async def _one(self, crew: Crew, repo: Repo, run: Run, following: Following, stamp: str) -> None:
        """One that cannot be read keeps what was seen of it, and hides no other."""
        try:
            self._saw(crew, run, await following.standing(repo, run.pull_request), stamp)
        except ForgeError as error:
            log.warning("pull.unknown", extra={"run": run.id, "error": error.sentence()})

    def _saw(self, crew: Crew, run: Run, standing: Standing, stamp: str) -> None:
        self.pulls[run.repo, run.branch] = standing.pull
        standing = followup.judged(standing, crew.store.reactions.of([run.id]).get(run.id, ()))
        self.standings[run.id] = standing
        self.pushed[run.id] = lifecycle.our_heads(crew.store.attempts_of(run.id), ())
        self.stamps[run.id] = stamp if standing.mergeable is not None else ""  # else it is asked again next time
        self._learn(crew, run, standing)
        words = followup.says(standing)
        if run.state is RunState.IN_REVIEW and standing.pull.state == "open" and run.reason != words:
            crew.store.set_run(run.id, reason=words)

    def _learn(self, crew: Crew, run: Run, now: Standing) -> None:
        """Checks that failed and then passed on the very same commit are flaky. What we did meanwhile is no matter."""
        head, red = self.failed.get(run.id, ("", frozenset()))
        red = red if head == now.pull.head else frozenset()
        passed = red & {check.name for check in now.checks if check.state == "passed"}
        known = frozenset(crew.store.get(f"flaky:{run.repo}", ())) if passed else frozenset()
        if passed - known:
            crew.store.put(f"flaky:{run.repo}", sorted(known | passed))
        self.failed[run.id] = now.pull.head, red | {check.name for check in now.checks if check.state == "failed"}

    def forget(self, run: Run) -> None:
        """What was seen of it is older than what we did since."""
        self.pulls.pop((run.repo, run.branch), None)
        self.standings.pop(run.id, None)
        self.stamps.pop(run.id, None)

    def facts(self, crew: Crew) -> dict[str, object]:
        """What a view knows of pull requests."""
        known = {run_id: s for run_id, s in self.standings.items() if s.pull.state == "open"}
        past = crew.store.reactions.of(known)
        ours = {i: self.pushed[i] | lifecycle.our_heads((), past.get(i, ())) for i in known}
        flaky = {name: frozenset(crew.store.get(f"flaky:{name}", ())) for name in crew.repos} if known else {}
        return {"pulls": self.pulls, "standings": known, "past": past, "ours": ours, "flaky": flaky}


async def merged_after_all(crew: Crew, run: Run) -> None:
    """A ticket was done before we knew of its pull request (an answer was lost): merged, the run is merged too."""
    repo = crew.repos.get(run.repo)
    found = await crew.forges[repo.forge].find(repo, run.branch) if repo and not run.pull_request else None
    if found and found.state == "merged":
        known = replace(run, pull_request=found.number, url=found.url)
        after, kind = lifecycle.followed(known, found)
        crew.store.save_run(after, f"run.{kind}", sha=found.merged_sha, text="")


async def perform(crew: Crew, action: React) -> None:
    """Do it; done twice it is done once. An agent is sent in the same transaction in which that is remembered."""
    run, standing, reaction = action.run, action.standing, action.reaction
    past = action.past or (reaction.past(run.id, standing, crew.now()) if reaction else None)
    if past is None:
        return
    if reaction and past.did is Did.AGENT:
        feedback = await _feedback(crew, run, standing, reaction)
        shown = schedule.should_show(run) or run.shown  # a half-done move is our word on the board, not a person's
        crew.store.send_back(lifecycle.sent_back(run, reaction.why, feedback), past, shown)
    elif reaction:
        crew.store.reactions.remember(past)
        crew.store.event(f"pull.{past.cause}", run.id, did=past.did, why=past.why, head=past.head)
    if past.did not in (Did.AGENT, Did.NOTE):
        try:
            await _do(crew, run, standing, past)
        except ForgeError as error:
            if not isinstance(error.__cause__, Refused):
                raise  # an outage: it is done when that is over
            crew.store.event("pull.refused", run.id, did=past.did, why=error.sentence())
            past = replace(past, did=Did.NOTE)  # it was not done: nothing follows from it
        crew.store.reactions.done(past)


async def _feedback(crew: Crew, run: Run, standing: Standing, reaction: Reaction) -> str:
    """What the agent is told, with the end of what failed checks wrote."""
    parts = [reaction.feedback]
    repo = crew.repos[run.repo]
    if standing.pull.base != repo.base:  # a person chose another: it has to be here to be merged
        await crew.hubs[repo.name].fetch_branches([standing.pull.base])
    if following := followable(crew.forges[repo.forge]):
        for check in reaction.checks[:5]:
            said = await following.log(repo, check)
            parts.append(f"{check.name} ({check.url}):\n{said[-LOG_TAIL:].strip() or 'its log cannot be had'}")
    return "\n\n".join(parts)


async def _do(crew: Crew, run: Run, standing: Standing, past: Past) -> None:
    repo, number = crew.repos[run.repo], standing.pull.number
    forge = followable(crew.forges[repo.forge])
    if forge is None:
        return
    match past.did:
        case Did.RERUN:
            for check in standing.checks:
                if check.state == "failed":
                    await _rerun(forge, repo, check)
        case Did.UPDATE:
            await _update(crew, run, repo, standing, past)
        case Did.READY:
            await forge.edit(repo, number, draft=False)
        case Did.MERGE:
            await forge.merge(repo, number, standing.pull.head, repo.followup.merge)
        case Did.SAY:
            again = f"-{past.fingerprint[-20:]}" if past.cause is Cause.REVIEW else ""  # people are told each time
            await forge.say(repo, number, f"**nightcrew** stopped {past.why}", f"stopped-{past.cause}{again}")
        case Did.ANSWER:
            await _answer(crew, run, repo, forge, standing, past)


async def _rerun(forge: Following, repo: Repo, check: Check) -> None:
    """Where it cannot be run again, an agent is sent next. Raises ForgeError for an outage."""
    try:
        await forge.rerun(repo, check)
    except ForgeError as error:
        if error.__cause__ and not isinstance(error.__cause__, Refused):
            raise


async def _update(crew: Crew, run: Run, repo: Repo, standing: Standing, past: Past) -> None:
    """Merge the base into the branch, as the forge's own button does, but only onto the head that was seen."""
    hub = crew.hubs[repo.name]
    base, head = await hub.fetch_base(standing.pull.base), await hub.fetch_base(run.branch)
    if head != standing.pull.head or await hub.is_ancestor(base, head):
        return
    merged = await hub.merge_tree(head, base)
    if merged.conflicts:
        return  # the forge will say so, and then an agent is sent
    made = await hub.commit_tree(merged.tree, [head, base], f"Merge {standing.pull.base} into {run.branch}")
    crew.store.reactions.remember(
        replace(past, fingerprint=f"{followup.UPDATED}{head}:{made}", did=Did.NOTE, head=made, done=True)
    )
    await hub.push([Push(f"refs/heads/{run.branch}", made, head)])


async def _answer(crew: Crew, run: Run, repo: Repo, forge: Following, standing: Standing, past: Past) -> None:
    """Tell where it was asked which commit answers; threads of people are theirs to resolve."""
    fingerprint = past.fingerprint.partition(":")[2]
    asked = next((p for p in crew.store.reactions.of([run.id]).get(run.id, ()) if p.fingerprint == fingerprint), None)
    if asked is None:
        return
    head = (lifecycle.pushed_head(crew.store.attempts_of(run.id)) or standing.pull.head)[:12]  # not a person's
    text = f"Changed in {head}.{_subjects(crew, run)}"
    threads = {r.thread: r for r in reversed(standing.remarks) if r.thread in asked.threads}
    for thread, first in threads.items():
        await forge.answer(repo, standing.pull.number, thread, text, head)
        if first.mine:
            await forge.resolve(repo, standing.pull.number, thread)
    if set(asked.ids) - {r.id for r in standing.remarks if r.thread}:
        await forge.say(repo, standing.pull.number, text, f"answer-{fingerprint}")
    crew.store.reactions.done(asked)


def _subjects(crew: Crew, run: Run) -> str:
    """What the last attempt committed, as its gate told."""
    done = [a for a in crew.store.attempts_of(run.id) if a.outcome == Outcome.DONE and a.pull_request]
    gate = next((g for g in done[-1].gates if g.gate == "changed"), None) if done else None
    lines = [line.strip() for line in (gate.evidence if gate else "").splitlines() if line.strip()][:10]
    return "\n\n" + "\n".join(f"- {line[:200]}" for line in lines) if lines else ""
