"""A night on boards and forges that are services: the real command line against stand-ins on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.household import WORK, Night


@dataclass
class CompanyNight(Night):
    """`board` and `forge` are the lines of their tables, `places` name -> the lines of each [[repos]]."""

    board: str = ""
    forge: str = ""
    places: dict[str, str] = field(default_factory=dict)
    limits: str = "max_running = 4\nbackoff_base = 0.3\nbackoff_max = 2\nreset_grace = 0.1\n"

    def save(self) -> None:
        crew = 'agents = ["scripted"]\nworkspace = "checkout"\nscan_every = 0.4\n'
        parts = [f"[crew]\n{crew}{self.crew}", f"[board]\n{self.board}", f"[forges.hub]\n{self.forge}",
                 f"[limits]\n{self.limits}", f"[limits.attempt]\n{self.attempt}"]  # fmt: skip
        parts += [f"[agents.{name}]\n{text}" for name, text in self.agents.items()]
        parts += [f'[[repos]]\nname = "{name}"\nforge = "hub"\n{text}' for name, text in self.places.items()]
        self.file("nightcrew.toml", "\n".join(parts))
        self.file("script.json", json.dumps({**self.script, "tickets": self.scenes}))

    def plays(self, key: str, *attempts: object) -> None:
        """What the agent does for a ticket, attempt by attempt."""
        self.scenes[key] = {"attempts": json.loads(json.dumps(list(attempts) or [WORK]).replace("{ticket}", key))}
        self.save()

    def reactions(self, key: str) -> list[tuple[str, str, int]]:
        """What was done about its pull request, oldest first: cause, what, whether nothing of it is left to do."""
        query = ("SELECT cause, did, done FROM reactions JOIN runs ON runs.id = run_id WHERE key = ? "
                 "ORDER BY reactions.at, reactions.rowid")  # fmt: skip
        return [(str(a), str(b), int(c)) for a, b, c in self.sql(query, key)]


Make = Callable[..., CompanyNight]
Facts = Mapping[str, Any]


def writes(path: str, text: str, message: str) -> list[dict[str, Any]]:
    """The steps of an attempt that writes one file and commits it."""
    return [{"write": {"path": path, "text": text}}, {"commit": message}]


def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(exist_ok=True)
    return folder
