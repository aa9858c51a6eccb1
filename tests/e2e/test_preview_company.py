"""What `board preview` says of a board that is a service is what the first looks of the night then take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.company import writes
from tests.e2e.pairs import Pair, pair

pytestmark = pytest.mark.slow

Add = Callable[[Any, str, tuple[str, ...], str, str], str]
"""A ticket with these labels by this author in that state, written into a stand-in's state; its key."""


def on_github(state: Any, title: str, labels: tuple[str, ...], author: str, stands: str) -> str:
    made = state.issue("acme/web", title, "Please.", labels, author)
    if stands == "done":
        state.close_issue("acme/web", made.number)
    if stands == "working":
        state.relabel("acme/web", made.number, add=("nightcrew: working",))
    return f"web#{made.number}"


def on_gitlab(state: Any, title: str, labels: tuple[str, ...], author: str, stands: str) -> str:
    made = state.issue("acme/web", title, "Please.", (*labels, *["nightcrew::working"] * (stands == "working")), author)
    if stands == "done":
        state.close(made)
    return f"web#{made.iid}"


def on_linear(state: Any, title: str, labels: tuple[str, ...], author: str, stands: str) -> str:
    name = {"open": "Todo", "later": "Backlog", "working": "In Progress", "done": "Done"}[stands]
    return str(state.issue(title, "Please.", labels, author, state=name)["identifier"])


def on_jira(state: Any, title: str, labels: tuple[str, ...], author: str, stands: str) -> str:
    name = {"open": "To Do", "working": "In Progress", "done": "Done"}[stands]
    return str(state.issue("ENG", title, by=author, labels=labels, status=name).key)


def filled(one: Pair, add: Add, authors: Sequence[str], stands: Sequence[str]) -> dict[str, str]:
    """A ticket of each kind there is, and three more of which two wait; key -> how it stands."""
    kinds = product(((), ("nightcrew",), ("other",)), authors, stands)
    state = one.board.standin.state  # type: ignore[attr-defined]
    keys = {add(state, f"{who}'s, {where}, {' '.join(labels)}", labels, who, where): where
            for labels, who, where in kinds}  # fmt: skip
    ours = one.board.ticket("A usual one", 1)
    keys |= dict.fromkeys((ours, one.board.ticket("Behind it", 2, [ours])), "open")
    keys[one.board.ticket("Behind another", 2, [next(iter(keys))])] = "open"
    for n, key in enumerate(keys):
        one.night.scenes[key] = {"attempts": [writes(f"{n}.txt", f"{n}\n", f"Do {n}")]}
    return keys


@pytest.mark.parametrize("selected", [True, False], ids=["by label", "all"])
@pytest.mark.parametrize(
    ("board", "forge", "add", "authors", "stands"),
    [
        ("github", "github", on_github, ("ada", "eve"), ("open", "working", "done")),
        ("gitlab", "gitlab", on_gitlab, ("ada", "eve"), ("open", "working", "done")),
        ("linear", "gitea", on_linear, ("ada", "bob"), ("open", "later", "working", "done")),
        ("jira", "gitea", on_jira, ("ada", "carl"), ("open", "working", "done")),
    ],
    ids=["github", "gitlab", "linear", "jira"],
)
def test_what_is_previewed_is_what_the_night_takes(
    board: str, forge: str, add: Add, authors: Sequence[str], stands: Sequence[str], selected: bool, tmp_path: Path
) -> None:
    with pair(board, forge, tmp_path) as one:
        night = one.night
        night.places["web"] = f'url = "{one.forge.clone_url()}"\n'
        night.board = night.board if selected else night.board.replace('labels = ["nightcrew"]\n', "")
        keys = filled(one, add, authors, stands)
        night.save()
        night.run("board", "preview")  # the index of Jira is late for one search
        told = night.run("board", "preview", "--all", "--json").json
        taken = {row["ticket"]: row["stage"] for row in told["taken"]}
        left = {row["ticket"]: row["why"] for row in told["left_out"]}
        assert taken.keys().isdisjoint(left)
        assert {key for key, where in keys.items() if where != "done"} <= taken.keys() | left.keys()
        assert all(left.values())
        ready = {key for key, stage in taken.items() if stage == "ready"}
        with night.up():
            night.until(lambda: {key for key, state in night.runs().items() if state == "in_review"} == ready)
            assert night.runs().keys() == taken.keys()
        said = [
            line.split()[1] for line in (night.home / "up.err").read_text().splitlines() if "attempt 1 starts" in line
        ]
        assert set(said) == ready
