"""Whatever a person does on the board to have a ticket left alone is obeyed at the next scan, and the work is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nightcrew.testing.company.jira import Jira
from nightcrew.testing.company.jira_views import as_document
from nightcrew.testing.company.linear import Linear
from tests.e2e.pairs import pair

pytestmark = pytest.mark.slow

Do = Callable[[str], object]
SCAN = 2.0  # seconds; a whole look, which sees everything anyhow, comes half a minute later


def on_linear(linear: Linear) -> list[Do]:
    state = linear.state
    state.team("OPS", "Operations")
    return [
        lambda key: state.move(key, "Canceled"), lambda key: state.move(key, "Backlog"),
        lambda key: state.unlabel(key, "nightcrew"), lambda key: state.assign(key, "bob"),
        lambda key: state.send(key, "OPS"), state.archive, state.trash, lambda key: state.say(key, "ada", "Stop!"),
    ]  # fmt: skip


def on_jira(jira: Jira) -> list[Do]:
    state = jira.state
    state.project("OPS")
    return [
        lambda key: state.put(key, "Done"), lambda key: state.relabel(key, remove=["nightcrew"]),
        lambda key: state.assign(key, "bob"), lambda key: state.transfer(key, "OPS"), state.delete,
        lambda key: state.say(key, "ada", as_document("stop")),
    ]  # fmt: skip


@pytest.mark.parametrize("board", ["linear", "jira"])
def test_what_a_person_does_is_obeyed_at_the_next_scan_and_the_work_is_kept(tmp_path: Path, board: str) -> None:
    with pair(board, "gitea", tmp_path) as found:
        night, side = found.night, found.board.standin
        assert isinstance(side, Linear | Jira)
        signals = on_linear(side) if isinstance(side, Linear) else on_jira(side)
        night.board += 'assignee = "ada@acme.example"\n'
        keys = [found.board.ticket(f"Ticket {n}") for n in range(len(signals) + 1)]
        for n, key in enumerate(keys):
            side.state.assign(key, "ada")
            night.plays(key, [{"write": {"path": f"{n}.txt", "text": "half"}}, {"wait": 60}])
        night.file("nightcrew.toml", (night.home / "nightcrew.toml").read_text().replace(
            "scan_every = 0.4", f"scan_every = {SCAN}"))  # fmt: skip
        with night.up():
            night.until(lambda: sum(bool(list(night.state.rglob(f"{n}.txt"))) for n in range(len(keys))) == len(keys))
            for key, signal in zip(keys, signals, strict=False):
                signal(key)
            left = dict.fromkeys(keys[:-1], "cancelled") | {keys[-1]: "working"}
            night.until(lambda: night.runs() == left, 5 * SCAN)
            night.until(lambda: night.sql("SELECT count(*) FROM events WHERE kind = 'rescued'") == [(len(signals),)])
        assert found.forge.pulls() == []
        kept = [one["ref"] for one in night.run("rescue", "list", "--json").json["rescued"]]
        assert {key for key in keys if any(f"/{key.lower()}-" in ref for ref in kept)} >= set(keys[:-1])
