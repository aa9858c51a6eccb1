"""What of an issue has to change so that it shows a state: pure, over the team's states and labels as Linear tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nightcrew.adapters.boards.linear.parse import LABELS, Raw, Reader
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError

ENDS = {TicketState.DONE: "completed", TicketState.CLOSED: "canceled"}
STARTS = {TicketState.OPEN: "unstarted", TicketState.WORKING: "started", TicketState.REVIEW: "started"}
KINDS = {**STARTS, **ENDS}


class NoLabel(BoardError):
    """The team's own list lacks a label that is wanted: the workspace may have it."""

    def __init__(self, team: str, label: str, hint: str) -> None:
        super().__init__(f"The team {team} has no label and no state {label!r}.", hint=hint)
        self.label = label


@dataclass(frozen=True)
class Workflow:
    """One team: its states, and the labels that its issues may have, by name."""

    reader: Reader
    team: Raw
    me: Raw
    labels: dict[str, str]  # lower case -> id

    @property
    def states(self) -> list[Raw]:
        """In the order that people see."""
        return sorted(self.team["states"]["nodes"], key=lambda one: float(one["position"]))

    def change(self, raw: Raw, state: TicketState) -> Raw:
        """What of the issue is not yet as it should be. Raises BoardError when the team has no word for the state."""
        wanted, label = self._wanted(raw, state), self._label(state)
        there = {one["id"] for one in raw["labels"]["nodes"]}
        ours = {one["id"] for one in raw["labels"]["nodes"] if one["name"].lower() in self.reader.means}
        change: dict[str, Any] = {}
        if wanted and wanted != raw["state"]["id"]:
            change["stateId"] = wanted
        if label and label not in there:
            change["addedLabelIds"] = [label]
        if gone := sorted(ours - {label}):
            change["removedLabelIds"] = gone
        if self._delegates() and state is TicketState.WORKING and not raw["delegate"]:
            change["delegateId"] = self.me["id"]
        return change

    def _delegates(self) -> bool:
        return self.reader.settings.delegate and bool(self.me.get("app"))

    def _wanted(self, raw: Raw, state: TicketState) -> str:
        """The workflow's state to be shown, "" for the one it has."""
        if self._named(state):
            return self._named(state)
        if self.reader.state({**raw, "labels": {"nodes": []}}) is state:
            return ""  # it says so already, by whatever name
        return self._usual(state)

    def _named(self, state: TicketState) -> str:
        """The state of the workflow that the settings name, "" when they name none."""
        name = self.reader.labels.get(state, "").lower()
        return next((str(one["id"]) for one in self.states if name and one["name"].lower() == name), "")

    def _usual(self, state: TicketState) -> str:
        """The first state of the right type that is read as this one; "" for a state that no type says."""
        kind = KINDS.get(state, "")
        typed = [one for one in self.states if one["type"] == kind]
        read = [one for one in typed if self.reader.state({"state": one, "labels": {"nodes": []}}) is state]
        free = [one for one in typed if one["name"].lower() not in self.reader.means]
        if kind and not read and not free:
            cure = f"Set [board] write_states.{state}."
            raise BoardError(f"The team {self.team['key']} has no state for {state}.", hint=cure)
        return str((read or free)[0]["id"]) if kind else ""

    def _label(self, state: TicketState) -> str:
        """The label to be shown, "" for none."""
        told = self.reader.labels.get(state, "")
        if not told or self._named(state):
            return ""
        if told.lower() not in self.labels:
            cure = f"Make the label in Linear, or set [board] write_states.{state}."
            raise NoLabel(self.team["key"], told, cure)
        return self.labels[told.lower()]

    def missing(self) -> list[BoardError]:
        """What the team has no word for."""
        found: list[BoardError] = []
        for state in (*STARTS, *ENDS, *LABELS):
            try:
                self._label(state)
                if not self._named(state):
                    self._usual(state)
            except BoardError as error:
                found.append(error)
        return found
