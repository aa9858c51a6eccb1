"""The folder board keeps what every board promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nightcrew.adapters.boards.folder import FolderBoard
from nightcrew.ports import Board
from nightcrew.testing.contracts import BoardContract


class TestFolderBoard(BoardContract):
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        made = tmp_path / "tickets"
        made.mkdir()
        return made

    @pytest.fixture
    def board(self, folder: Path) -> Board:
        return FolderBoard("night", {}, folder.parent)

    @pytest.fixture
    def again(self, folder: Path) -> Board:
        return FolderBoard("night", {}, folder.parent)

    @pytest.fixture
    def spoil(self, folder: Path) -> Callable[[], bool]:
        return lambda: (folder / "bad.md").write_text("---\ntitle: [\n---\n") > 0

    @pytest.fixture
    def crash(self, folder: Path) -> Callable[[], None]:
        """A kill -9 in the middle of writing a ticket."""

        def leave() -> None:
            (folder / ".nightcrew.tmp").write_text("---\nid: half a tic")

        return leave
