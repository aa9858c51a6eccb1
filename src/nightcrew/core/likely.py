"""Which files a ticket will likely touch: told from the paths and names in its words, and from what changed before."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log, sqrt
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
MOST = 12  # files of one ticket
ENOUGH = 0.35  # of the score at which a file counts
ALIKE = 0.15  # least likeness (0..1) of an earlier change's words
FEW = 4  # a name that more files have says nothing
LONGEST = 20_000  # characters of a ticket that are read
_LINK = re.compile(r"\b\w{1,20}://\S+")
_PATH = re.compile(r"[\w@+./-]{3,200}")
_NAME = re.compile(r"`([^`\n]{2,80})`|\b([a-z]\w*_\w+|[A-Z]?[a-z0-9]+[A-Z]\w*|\w+(?:\.\w+)+)")
_WORD = re.compile(r"[^\W\d_]{3,}")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_")
COMMON = frozenset(
    re.findall(
        r"\w+",
        """
    the and for with from into that this not add adds added fix fixes fixed use uses using make makes made when what
    are was has have its all new can should must will than then they them our your you out off get set let one two
    main index init test tests app core util utils common types type config setup src lib readme changelog
""",
    )
)
"""Words and names that say nothing of where a change is."""


@dataclass(frozen=True)
class Earlier:
    """An earlier change: the words that asked for it or tell of it, and the files it touched."""

    words: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """A repository's files and its earlier changes, looked through quickly for one ticket after another."""

    files: tuple[str, ...] = ()
    history: tuple[Earlier, ...] = ()
    defined: Mapping[str, Sequence[str]] = field(default_factory=dict)  # the files that define a name of code

    def likely(self, text: str) -> frozenset[str]:
        """The files a ticket of these words (title and body) will likely touch: at most 12, none when nothing tells."""
        text = _LINK.sub(" ", text[:LONGEST])
        score: defaultdict[str, float] = defaultdict(float)
        for source in (self._paths(text), self._names(text), self._like(text)):
            for file, points in source:
                score[file] += points
        best = sorted((f for f in score if score[f] >= ENOUGH and f not in self.everyones),
                      key=lambda f: (-score[f], f))  # fmt: skip
        return frozenset(best[:MOST])

    @cached_property
    def everyones(self) -> frozenset[str]:
        """Files that so many changes touch (a changelog, a lock file) that to share one says nothing."""
        count = Counter(file for change in self.history for file in set(change.files))
        return frozenset(file for file, n in count.items() if n >= 4 and n * 5 > len(self.history))

    def _paths(self, text: str) -> Iterator[tuple[str, float]]:
        """Files that are named by their path or by its end; a path that is not there yet is made by the ticket."""
        for path in {found.removeprefix("./").rstrip("./-") for found in _PATH.findall(text)}:
            if not re.fullmatch(r"[A-Za-z]\w{0,7}", _suffix(path)):
                continue
            there = [f for f in self._called.get(_name(path).lower(), ()) if f == path or f.endswith(f"/{path}")]
            if not there and "/" in path and (not self.files or _suffix(path) in self._suffixes):
                there = [path]
            yield from ((file, 1.0) for file in there if len(there) <= FEW)

    def _names(self, text: str) -> Iterator[tuple[str, float]]:
        """Files that define a name of code of the ticket, or whose own name is one, or a word of it."""
        code = {part for pair in _NAME.findall(text) for name in pair for part in name.split(".")}
        told = {_flat(name): 0.8 for name in code} if code else {}
        for word in {*_WORD.findall(text)}:
            told.setdefault(_flat(word), 0.4)
        for name, points in told.items():
            files = self._stems.get(name, ())
            if name not in COMMON and 0 < len(files) <= FEW:
                yield from ((file, points) for file in files)
        for name in {name.strip("() ") for name in code}:
            within = self.defined.get(name, ())
            if name.lower() not in COMMON and len(within) <= FEW:
                yield from ((file, 0.8) for file in within)

    def _like(self, text: str) -> Iterator[tuple[str, float]]:
        """Files that changes with like words touched; a change of many files says less of each."""
        mine = self._weighed(words(text))
        likeness: defaultdict[int, float] = defaultdict(float)
        for word, weight in mine.items():
            for at, theirs in self._where.get(word, ()):
                likeness[at] += weight * theirs
        for at, alike in sorted(likeness.items(), key=lambda found: -found[1])[:8]:
            files = self.history[at].files
            if alike >= ALIKE:
                yield from ((file, alike * min(1.0, 4 / len(files))) for file in set(files))

    @cached_property
    def _called(self) -> Mapping[str, list[str]]:
        return _grouped((_name(file).lower(), file) for file in self.files)

    @cached_property
    def _stems(self) -> Mapping[str, list[str]]:
        """Files by their name without its ending, and by that without `test`."""
        stems = ((_flat(_name(file).partition(".")[0]), file) for file in self.files)
        return _grouped((re.sub(r"^test(?=..)|(?<=..)(test|spec)$", "", stem), file) for stem, file in stems)

    @cached_property
    def _suffixes(self) -> frozenset[str]:
        return frozenset(_suffix(file) for file in self.files)

    @cached_property
    def _rarity(self) -> Mapping[str, float]:
        count = Counter(word for change in self.history for word in set(words(change.words)))
        return {word: log((1 + len(self.history)) / n) for word, n in count.items()}

    def _weighed(self, found: Counter[str]) -> Mapping[str, float]:
        """A vector of length one: how much each word tells."""
        usual = log(1 + len(self.history))
        weights = {word: (1 + log(n)) * self._rarity.get(word, usual) for word, n in found.items()}
        length = sqrt(sum(w * w for w in weights.values())) or 1.0
        return {word: w / length for word, w in weights.items()}

    @cached_property
    def _where(self) -> Mapping[str, list[tuple[int, float]]]:
        return _grouped((word, (at, weight)) for at, change in enumerate(self.history)
                        for word, weight in self._weighed(words(change.words)).items())  # fmt: skip


def likely_files(text: str, files: Sequence[str] = (), history: Sequence[Earlier] = ()) -> frozenset[str]:
    """The files a ticket of these words will likely touch in a repository of these files with that history.

    >>> sorted(likely_files("Fix rounding in money.py", ["shop/money.py", "shop/cart.py"]))
    ['shop/money.py']
    """
    return Index(tuple(files), tuple(history)).likely(text)


def words(text: str) -> Counter[str]:
    """The words of a text that may tell something, code names in their parts, without endings of plural.

    >>> sorted(words("Fix the parseInvoice of invoices"))
    ['invoice', 'parse']
    """
    parts = (part for word in re.findall(r"\w{3,}", text) for part in _HUMP.split(word))
    told = (_singular(part.lower()) for part in parts if len(part) > 2 and not part.isdigit())
    return Counter(word for word in told if word not in COMMON)


def shared(mine: Collection[str], theirs: Collection[str]) -> tuple[str, ...]:
    """The files both will likely touch, () when they are so few of either's that it says little."""
    same = tuple(sorted({*mine} & {*theirs}))
    few = min(len(mine), len(theirs))
    return same if len(same) >= 3 or len(same) * 3 >= max(few, 1) else ()


def overlaps(mine: Collection[str], others: Mapping[str, Collection[str]]) -> tuple[str, tuple[str, ...]]:
    """Which of the others shares most files with `mine`, and those files; ("", ()) when none shares enough."""
    found = {name: shared(mine, files) for name, files in others.items()}
    best = max(found, key=lambda name: len(found[name]), default="")
    return (best, found[best]) if best and found[best] else ("", ())


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _suffix(path: str) -> str:
    name = _name(path)
    return name.rpartition(".")[2] if "." in name[1:] else ""


def _flat(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    groups: defaultdict[K, list[V]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups
