"""Linear keeps what every board promises, over its GraphQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nightcrew import transport
from nightcrew.adapters.boards.linear import LinearBoard
from nightcrew.core.model import Ticket
from nightcrew.testing.company.linear import Linear
from nightcrew.testing.contracts import BoardContract

pytestmark = pytest.mark.slow

Do = Callable[[Ticket], bool]


class TestLinear(BoardContract):
    @pytest.fixture
    def linear(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Linear]:
        monkeypatch.setenv("LINEAR_API_KEY", "lin_api_nightcrew")
        with Linear() as running:
            yield running
        assert running.violations == []

    @pytest.fixture
    async def board(self, linear: Linear) -> AsyncIterator[LinearBoard]:
        yield made(linear)
        await transport.close()

    @pytest.fixture
    def again(self, linear: Linear) -> LinearBoard:  # type: ignore[override]
        return made(linear)

    @pytest.fixture
    def deselect(self, linear: Linear) -> Do:
        def act(ticket: Ticket) -> bool:
            linear.state.unlabel(ticket.id, "nightcrew")
            return True

        return act

    @pytest.fixture
    def says_stop(self, linear: Linear) -> Do:
        return lambda ticket: bool(linear.state.say(ticket.id, "ada", "@nightcrew stop"))

    @pytest.fixture
    def stranger_says_stop(self, linear: Linear) -> Do:
        return lambda ticket: bool(linear.state.say(ticket.id, "eve", "stop"))

    @pytest.fixture
    def trouble(self, linear: Linear) -> Callable[[float], None]:
        def share(part: float) -> None:
            linear.trouble.share = part

        return share

    @pytest.fixture
    def picture(self, linear: Linear) -> Callable[[], object]:
        def look() -> object:
            with linear.turn:
                return [(i["title"], i["state"]["name"], sorted(label["name"] for label in i["labels"]),
                         [c["body"] for c in linear.state.said(i["id"])], linear.state.links(i["id"]))
                        for i in linear.state.issues.values()]  # fmt: skip

        return look


def made(linear: Linear) -> LinearBoard:
    return LinearBoard("board", {"url": linear.address, "team": "ENG", "labels": ["nightcrew"]}, Path("/"))
