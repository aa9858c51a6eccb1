"""What boards, forges and agents promise, as tests that every adapter inherits.

    class TestMyBoard(BoardContract):
        @pytest.fixture
        def board(self) -> Board:
            return MyBoard(...)

Needs pytest, pytest-asyncio (`asyncio_mode = "auto"`) and hypothesis. Each class says which fixtures it asks for; those
it defines itself may be overridden.
"""

import pytest

# Before they are imported: a broken promise then shows the values it broke on.
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in ("agents", "boards", "following", "forges")))

from nightcrew.testing.contracts.agents import AgentContract  # noqa: E402
from nightcrew.testing.contracts.boards import BoardContract  # noqa: E402
from nightcrew.testing.contracts.following import FollowingContract, FollowingForge, People  # noqa: E402
from nightcrew.testing.contracts.forges import ForgeContract, Push, ReviewingContract, ReviewingForge  # noqa: E402

__all__ = [
    "AgentContract", "BoardContract", "FollowingContract", "FollowingForge", "ForgeContract", "People", "Push",
    "ReviewingContract", "ReviewingForge",
]  # fmt: skip
