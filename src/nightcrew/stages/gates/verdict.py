"""What a gate answers, and running gates in order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from time import monotonic

from nightcrew.core.gate import clip
from nightcrew.core.model import GateResult
from nightcrew.core.outcome import Ending
from nightcrew.errors import ConfigError, NightcrewError

EVIDENCE_BYTES = 16 << 10

Gate = Callable[[], Awaitable[GateResult]]


class GateUnavailable(NightcrewError):
    """A gate could not be asked, so the work is neither passed nor refused. `ending` says how the reviewer ended."""

    hint = "The work is kept; the gate is asked again when the agent's lane is back."

    def __init__(self, gate: str, ending: Ending) -> None:
        super().__init__(f"the gate {gate} could not be asked: {ending.outcome} ({ending.evidence[:200]})")
        self.gate, self.ending = gate, ending

    def __reduce__(self) -> tuple[type[GateUnavailable], tuple[str, Ending]]:
        # A durable step may have to carry the error over a restart.
        return type(self), (self.gate, self.ending)


async def run_all(order: Sequence[str], gates: Mapping[str, Gate]) -> tuple[GateResult, ...]:
    """Run the named gates in order up to the first that refuses; each result says how long it took.

    Raises ConfigError for a name that is not in `gates`, before any gate runs; what a gate raises passes through.
    """
    for gate in order:
        if gate not in gates:
            raise ConfigError(f"gates.order: unknown gate {gate!r}", hint=f"Known gates: {', '.join(gates)}.")
    results: list[GateResult] = []
    for gate in order:
        started = monotonic()
        result = await gates[gate]()
        results.append(replace(result, seconds=monotonic() - started))
        if not result.passed:
            break
    return tuple(results)


def passed(gate: str, summary: str, text: str = "") -> GateResult:
    """The gate lets the work through."""
    return GateResult(gate, True, clip(summary, 1000), clip(text, EVIDENCE_BYTES))


def failed(gate: str, summary: str, text: str = "") -> GateResult:
    """The gate refuses the work because of `summary`, one sentence."""
    return GateResult(gate, False, clip(summary, 1000), clip(text, EVIDENCE_BYTES))
