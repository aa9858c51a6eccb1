"""A night on one board and one forge: tickets in, pull requests out, and what that cost each service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nightcrew.testing.company.sides import BOARDS, BoardSide, ForgeSide, forge_beside
from nightcrew.testing.company.standin import Standin
from tests.e2e.company import CompanyNight, writes


@dataclass
class Pair:
    """A board, a forge, and a night between them."""

    night: CompanyNight
    board: BoardSide
    forge: ForgeSide

    @property
    def services(self) -> dict[str, Standin]:
        """By name; a board and a forge on one service are one."""
        return {type(side.standin).__name__: side.standin for side in (self.board, self.forge)}

    def counts(self) -> dict[str, int]:
        """How many requests each service has had."""
        return {name: len(one.log) for name, one in self.services.items()}

    def unchanged(self) -> dict[str, int]:
        """How many of them were answered "304 Not Modified"."""
        return {name: Counter(e.status for e in one.log)[304] for name, one in self.services.items()}

    def misshown(self) -> list[str]:
        """Tickets that the board shows as anything but done, with one comment and a link to their own pull request."""
        branches = {pull.number: pull.branch for pull in self.forge.pulls() if pull.state == "merged"}
        runs = {key: (int(url.rpartition("/")[2]), branch, url) for key, url, branch in
                self.night.sql("SELECT key, url, branch FROM runs")}  # fmt: skip
        return [f"{shown}: {runs.get(shown.key)}" for shown in self.board.shown()
                if shown.key not in runs or (shown.state, shown.comments) != ("done", 1)
                or runs[shown.key][2] not in shown.link
                or branches.get(runs[shown.key][0]) != runs[shown.key][1]]  # fmt: skip

    def fill(self, count: int) -> list[str]:
        """Tickets with priorities; every fifth is blocked by the one before it. Their keys."""
        keys: list[str] = []
        for n in range(count):
            keys.append(self.board.ticket(f"Ticket {n}", n % 5, keys[-1:] if n % 5 == 4 else ()))
            self.night.scenes[keys[-1]] = {"attempts": [writes(f"file{n}.txt", f"{n}\n", f"Do {n}")]}
        self.night.save()
        return keys


@contextmanager
def pair(board: str, forge: str, folder: Path, slots: int = 10) -> Iterator[Pair]:
    """Both running, with nothing on them yet."""
    with ExitStack() as stack:
        boards = BOARDS[board](folder / "board")
        forges = forge_beside(boards, forge, folder / "forge")
        for standin in {id(side.standin): side.standin for side in (boards, forges)}.values():
            stack.enter_context(standin)
        night = CompanyNight(folder / "home", env={**boards.env, **forges.env})
        night.board, night.forge = boards.toml, forges.toml
        night.limits = f"max_running = {slots}\nbackoff_base = 0.3\nbackoff_max = 2\n"
        night.places["web"] = f'url = "{forges.clone_url()}"\nprojects = ["Web"]\nlabels = ["web"]\n'
        night.save()
        found = Pair(night, boards, forges)
        yield found
        violations = [wrong for service in found.services.values() for wrong in service.violations]
        assert violations == []
