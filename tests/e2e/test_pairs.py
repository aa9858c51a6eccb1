"""Every board with every forge: a night over HTTP with real pushes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcrew.testing.company.sides import BOARDS, FORGES
from tests.e2e.household import Night
from tests.e2e.pairs import pair

TICKETS = 12


@pytest.mark.slow
@pytest.mark.parametrize("forge", FORGES)
@pytest.mark.parametrize("board", BOARDS)
def test_a_night_opens_one_pull_request_for_each_ticket_and_shows_it(board: str, forge: str, tmp_path: Path) -> None:
    with pair(board, forge, tmp_path) as one:
        keys = one.fill(TICKETS)
        with one.night.up():
            free = [key for n, key in enumerate(keys) if n % 5 != 4]
            one.night.until(lambda: {k for k, s in one.night.runs().items() if s == "in_review"} >= set(free))
            for pull in one.forge.pulls():
                one.forge.merge(pull.number)
            one.night.until(lambda: len(one.forge.pulls()) == TICKETS)
            for pull in one.forge.pulls():
                if pull.state == "open":
                    one.forge.merge(pull.number)
            one.night.until(lambda: set(one.night.runs().values()) == {"merged"})
            one.night.until(lambda: {shown.state for shown in one.board.shown()} == {"done"})
        pulls = one.forge.pulls()
        assert len({pull.branch for pull in pulls}) == len(pulls) == TICKETS
        assert one.misshown() == []
        order = [row[0] for row in one.night.sql(
            "SELECT key FROM attempts JOIN runs ON runs.id = run_id WHERE number = 1 ORDER BY started_at")]  # fmt: skip
        assert all(order.index(keys[n]) > order.index(keys[n - 1]) for n in range(4, TICKETS, 5))


@pytest.mark.slow
@pytest.mark.parametrize(("board", "forge"), [("github", "github"), ("linear", "gitea"), ("gitlab", "gitlab")])
def test_the_demo_plays_a_whole_company(board: str, forge: str, tmp_path: Path) -> None:
    night = Night(tmp_path / "home")
    said = night.run("demo", "--company", "--board", board, "--forge", forge, "--once", "--json", cwd=tmp_path)
    told = said.json
    assert (said.code, told["merged"], told["duplicates"], told["violations"]) == (0, 6, 0, [])


def test_a_company_that_there_is_not_is_named(tmp_path: Path) -> None:
    said = Night(tmp_path / "home").run("demo", "--company", "--board", "nobody", cwd=tmp_path)
    assert "There is no company with nobody and github" in said.sentence
