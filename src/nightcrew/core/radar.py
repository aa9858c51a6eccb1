"""Which open branches conflict with which, and in what order to merge them so that least has to be done again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

from nightcrew.core.model import Standing

EXACT = 24
"""The best order is found for certain among so many branches that conflict; among more, a good one."""
Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Clash:
    """Two branches that cannot both be merged as they are, and the files that say so."""

    one: str
    other: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Conflicts:
    """What merging the open branches of a repository runs into, as far as they could be looked at.

    `heads` are the branches' commits, oldest branch first, `touched` what each changed since it left its base,
    `against` those that conflict with the base itself. `unknown` says why something was not looked at.
    """

    base: str = ""
    heads: Mapping[str, str] = field(default_factory=dict)
    pairs: tuple[Clash, ...] = ()
    against: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    touched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)

    def between(self, one: str, other: str) -> tuple[str, ...]:
        """The files in which these two branches conflict, () when they do not."""
        return self._files.get(frozenset((one, other)), ())

    def without(self, gone: Collection[str]) -> Conflicts:
        """The same, but of branches that are not open any more."""
        return replace(
            self, heads={b: head for b, head in self.heads.items() if b not in gone},
            pairs=tuple(clash for clash in self.pairs if not {clash.one, clash.other} & {*gone}),
            unknown={what: why for what, why in self.unknown.items() if not {*what.split(" and ")} & {*gone}},
        )  # fmt: skip

    def graph(self, branches: Collection[str]) -> Graph:
        """Which of these conflict with which others of them."""
        found: dict[str, set[str]] = {branch: set() for branch in branches}
        for clash in self.pairs:
            if clash.one in found and clash.other in found:
                found[clash.one].add(clash.other)
                found[clash.other].add(clash.one)
        return {branch: frozenset(others) for branch, others in found.items()}

    @cached_property
    def _files(self) -> Mapping[frozenset[str], tuple[str, ...]]:
        return {frozenset((clash.one, clash.other)): clash.files for clash in self.pairs}


def found(base: str, heads: Mapping[str, str], merged: Mapping[frozenset[str], Sequence[str]],
          touched: Mapping[str, tuple[str, ...]], unknown: Mapping[str, str]) -> Conflicts:  # fmt: skip
    """The conflicts of these branches. `merged` gives the files in conflict for two commits that were merged.

    Where two branches left the base at different times, merging them also merges what the base got in between: a file
    that only one of them changed, and in which that one conflicts with the base, is no conflict of the two.
    """
    against = {branch: tuple(merged.get(frozenset((base, head)), ())) for branch, head in heads.items()}
    clashes = []
    for one, other in combinations(heads, 2):
        of_base = {*against[one]} - {*touched.get(other, ())} | {*against[other]} - {*touched.get(one, ())}
        files = tuple(f for f in merged.get(frozenset((heads[one], heads[other])), ()) if f not in of_base)
        if files:
            clashes.append(Clash(one, other, files))
    return Conflicts(base, dict(heads), tuple(clashes), {b: f for b, f in against.items() if f}, touched, unknown)


def pairs(shas: Iterable[str]) -> list[tuple[str, str]]:
    """All pairs of different commits, each once, always the same way round."""
    return list(combinations(sorted(set(shas)), 2))


# -- shown -------------------------------------------------------------------------------------------------------------
def matrix(conflicts: Conflicts) -> list[tuple[str, tuple[int, ...]]]:
    """For each branch, in how many files it conflicts with each branch; with itself stands for: with the base."""
    names = list(conflicts.heads)
    return [(one, tuple(len(conflicts.against.get(one, ()) if one == other else conflicts.between(one, other))
                        for other in names)) for one in names]  # fmt: skip


# -- merged in order ---------------------------------------------------------------------------------------------------
def rework(order: Sequence[str], conflicts: Conflicts) -> tuple[int, int]:
    """How many branches have to be brought in line with what was merged before them, and in how many files."""
    graph = conflicts.graph(order)
    branches = files = 0
    for at, branch in enumerate(order):
        if before := graph[branch] & set(order[:at]):
            branches += 1
            files += len(_to_mend(branch, before, conflicts))
    return branches, files


def merge_order(branches: Sequence[str], conflicts: Conflicts) -> list[str]:
    """These branches, given oldest first, in the order in which merging them makes the least rework.

    First as many as can be merged just as they are, those with the fewest conflicts first, then the others, those with
    the least to mend first; the older one where that is the same. Never more rework than oldest first.
    """
    graph = conflicts.graph(branches)
    age = {branch: at for at, branch in enumerate(branches)}
    free = _free(frozenset(branches), graph, age)
    order = sorted(free, key=lambda branch: (len(graph[branch]), age[branch]))
    rest = [branch for branch in branches if branch not in free]
    while rest:
        branch = min(rest, key=lambda b: (
            len(_to_mend(b, graph[b].intersection(order), conflicts)), len(graph[b].intersection(rest)), age[b],
        ))  # fmt: skip
        rest.remove(branch)
        order.append(branch)
    return min(order, list(branches), key=lambda o: rework(o, conflicts))


def _to_mend(branch: str, others: Iterable[str], conflicts: Conflicts) -> set[str]:
    return {file for other in others for file in conflicts.between(branch, other)}


def _free(rest: frozenset[str], graph: Graph, age: Mapping[str, int]) -> frozenset[str]:
    """As many of these as there can be of which no two conflict."""
    taken: set[str] = set()
    while rest:
        degree = {branch: len(graph[branch] & rest) for branch in rest}
        least = min(rest, key=lambda b: (degree[b], age[b]))
        if degree[least] > 1 and len(rest) <= EXACT:
            most = max(rest, key=lambda b: (degree[b], age[b]))
            without = _free(rest - {most}, graph, age)
            with_it = {most} | _free(rest - {most} - graph[most], graph, age)
            return frozenset(taken | max(without, with_it, key=len))
        taken.add(least)  # with one conflict or none, one of the two is in it anyway
        rest -= {least, *graph[least]}
    return frozenset(taken)


def line(standings: Mapping[str, Standing], conflicts: Conflicts) -> list[str]:
    """Pull requests (by anything; oldest first) in the order to merge them: those that may be merged come first."""
    names = {standing.pull.branch: key for key, standing in standings.items()}
    approved = [branch for branch, key in names.items() if standings[key].approved or standings[key].merging]
    others = [branch for branch in names if branch not in approved]
    return [names[b] for part in (approved, others) for b in merge_order(part, conflicts)]


def next_to_rebase(order: Sequence[str], standings: Mapping[str, Standing], conflicts: Conflicts,
                   able: Collection[str] | None = None) -> str:  # fmt: skip
    """The one pull request that is to be brought in line with its base now, "" when none is.

    It is the first in line that is behind or in conflict (among `able`, when given) and would not soon be so again:
    nothing is brought up to date while one before it is ready and up to date, for that one moves the base; and no
    conflict is resolved that the merge of an approved one before it brings back.
    """
    ready: list[str] = []
    for key in order:
        standing = standings[key]
        branch, may = standing.pull.branch, able is None or key in able
        if standing.mergeable is False:
            due = [b for b in ready if conflicts.between(b, branch)]
            if may and not due:
                return key
        elif standing.behind:
            if may and not any(_onward(standings[k]) for k in order[: order.index(key)]):
                return key
        elif _onward(standing) and (standing.approved or standing.merging):
            ready.append(branch)
    return ""


def _onward(standing: Standing) -> bool:
    """It is up to date, and nothing is known to stand against its merge but what people and checks still say."""
    failed = any(check.state == "failed" for check in standing.checks)
    return standing.mergeable is not False and not standing.behind and not standing.draft and not failed


def may_merge(key: str, order: Sequence[str], standings: Mapping[str, Standing], conflicts: Conflicts,
              merging: Collection[str]) -> bool:  # fmt: skip
    """Whether none of those `merging` now that are before it in line conflicts with it."""
    branch = standings[key].pull.branch
    before = [k for k in order[: order.index(key)] if k in merging]
    return not any(conflicts.between(branch, standings[k].pull.branch) for k in before)
