"""What is known at one moment, and what may be done about it: the values between observe, decide and perform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from nightcrew.core.admission import Room
from nightcrew.core.budget import Spend
from nightcrew.core.followup import Past, Reaction
from nightcrew.core.model import Attempt, Lane, PullRequest, Repo, Run, Seat, Standing, Ticket, TicketState
from nightcrew.core.pacing import Load
from nightcrew.core.radar import Conflicts


@dataclass(frozen=True)
class View:
    """All that is known at one moment. `gone` says of tickets that left the board for certain why, by id."""

    tickets: tuple[Ticket, ...] = ()
    runs: tuple[Run, ...] = ()
    attempts: tuple[Attempt, ...] = ()  # not settled yet
    pulls: Mapping[tuple[str, str], PullRequest] = field(default_factory=dict)  # (repo, branch)
    standings: Mapping[str, Standing] = field(default_factory=dict)  # of open pull requests, by run
    past: Mapping[str, tuple[Past, ...]] = field(default_factory=dict)  # what was done about them, by run
    ours: Mapping[str, frozenset[str]] = field(default_factory=dict)  # heads of their branches that we made, by run
    flaky: Mapping[str, frozenset[str]] = field(default_factory=dict)  # checks that pass when run again, by repo
    lanes: Mapping[str, Lane] = field(default_factory=dict)  # by name; "provider:<name>" is a provider's breaker
    seats: Mapping[str, Seat] = field(default_factory=dict)  # by agent
    spend: Spend = Spend()
    loads: Mapping[str, Load] = field(default_factory=dict)  # by lane
    room: Room = Room()
    renewing: frozenset[str] = frozenset()  # lanes whose login one session has to renew first
    ladders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    repos: tuple[Repo, ...] = ()
    agents: tuple[str, ...] = ()  # the crew's order of preference
    finished: frozenset[str] = frozenset()  # ids and keys of blockers that are done
    gone: Mapping[str, str] = field(default_factory=dict)
    paused: bool = False
    busy: frozenset[str] = frozenset()  # runs being cleaned or shown right now
    cleaning: frozenset[str] = frozenset()  # runs whose workspace is being removed
    capabilities: frozenset[str] = frozenset()  # of this node
    touches: Mapping[str, frozenset[str]] = field(default_factory=dict)  # files likely changed, by run
    conflicts: Mapping[str, Conflicts] = field(default_factory=dict)  # of open branches, by repo

    def lacks(self, run: Run) -> tuple[str, ...]:
        """What the run's ticket requires and this node has not; () too when the board does not show the ticket."""
        wanted = self._required.get((run.board, run.ticket_id), ())
        return tuple(name for name in wanted if name.lower() not in self.capabilities)

    @cached_property
    def _required(self) -> Mapping[tuple[str, str], tuple[str, ...]]:
        return {(t.board, t.id): t.requires for t in self.tickets if t.requires}

    def seat(self, agent: str) -> Seat:
        """The lane an agent works on; one of its own where nothing else is known."""
        return self.seats.get(agent, Seat(agent, "", agent))

    def lane(self, name: str) -> Lane:
        """A lane as it was last told; up where nothing was."""
        return self.lanes.get(name, Lane(name))


@dataclass(frozen=True)
class Adopt:
    """Make a run for a ticket that has none, or route one again."""

    ticket: Ticket
    repo: str
    reason: str


@dataclass(frozen=True)
class Refresh:
    """The ticket was edited: take over what scheduling needs."""

    run: Run
    ticket: Ticket


@dataclass(frozen=True)
class Start:
    """Start the next attempt."""

    run: Run
    agent: str
    model: str
    resume: bool


@dataclass(frozen=True)
class Settle:
    """Fold an ended attempt into its run."""

    run: Run
    attempt: Attempt


@dataclass(frozen=True)
class Stop:
    """Stop a run; a working one is ended first and its work rescued."""

    run: Run
    why: str


@dataclass(frozen=True)
class Reopen:
    """A person moved the ticket back: start over, on a new branch when there was a pull request."""

    run: Run


@dataclass(frozen=True)
class Follow:
    """The pull request changed: merged, closed, or changes were asked for."""

    run: Run
    pull: PullRequest


@dataclass(frozen=True)
class React:
    """Something happened to the pull request: do about it what is to be done, or `past` to its end."""

    run: Run
    standing: Standing
    reaction: Reaction | None = None
    past: Past | None = None


@dataclass(frozen=True)
class Show:
    """Show the run's state on the board."""

    run: Run
    state: TicketState


@dataclass(frozen=True)
class Clean:
    """The run needs its workspace no more: rescue what is only there, then remove it."""

    run: Run


@dataclass(frozen=True)
class Park:
    """The owner's share of a lane's window begins: end its sessions, to be gone on with when the window is over."""

    lane: Lane
    until: datetime
    why: str


@dataclass(frozen=True)
class Fail:
    """A run that cannot go on: its own cap is reached."""

    run: Run
    why: str


@dataclass(frozen=True)
class Up:
    """A lane answers again."""

    lane: Lane
    why: str


Action = React | Park | Up | Fail | Adopt | Refresh | Start | Settle | Stop | Reopen | Follow | Show | Clean
