"""A folder of Markdown files as a board: what people write, what nightcrew writes, and what can go wrong with both."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightcrew.adapters.boards.folder import FolderBoard
from nightcrew.core.model import Ticket, TicketState
from nightcrew.errors import BoardError, ConfigError

OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tickets"
    made.mkdir()
    return made


def board(folder: Path, **settings: object) -> FolderBoard:
    return FolderBoard("night", {"path": folder.name, **settings}, folder.parent)


async def read(folder: Path, text: str | bytes, name: str = "x.md", **settings: object) -> Ticket:
    """The one ticket that a file with this text is."""
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    (found,) = await board(folder, **settings).fetch([name.removesuffix(".md")])
    return found


async def moved(
    folder: Path, text: str, state: TicketState = TicketState.WORKING, note: str = "", link: str = ""
) -> str:
    """The text of x.md after a move."""
    (folder / "x.md").write_bytes(text.encode())
    own = board(folder)
    (ticket,) = (await own.scan()).tickets
    await own.move(ticket.id, state, note, link)
    return (folder / "x.md").read_bytes().decode()


async def problem(folder: Path, raw: bytes) -> tuple[str, str]:
    """Where and why a file with this content is no ticket; the good one beside it is still shown."""
    (folder / "bad.md").write_bytes(raw)
    (folder / "good.md").write_text("# Good\n")
    scan = await board(folder).scan()
    assert [t.id for t in scan.tickets] == ["good"]
    (found,) = scan.problems
    return found.where, found.message


# -- what people write -------------------------------------------------------------------------------------------------
async def test_every_field_of_the_front_matter_is_read(folder: Path) -> None:
    text = """\
        ---
        id: NC-7
        title: "Fix: the login"
        state: Ready
        repo: web
        project: Autumn
        priority: high
        labels: [bug, 'two words', 3]
        blocked_by: NC-1, NC-2
        requires:
          - macos
        created_at: 2026-11-01 10:00:00+02:00
        estimate: {hours: 3}
        ---
        # Not the title

        Body.
        """
    (folder / "x.md").write_text(textwrap.dedent(text))
    assert await board(folder).fetch(["NC-7"]) == [
        Ticket("night", "NC-7", "NC-7", "Fix: the login", "# Not the title\n\nBody.", TicketState.OPEN, "web", "Autumn",
               2, ("bug", "two words", "3"), ("NC-1", "NC-2"), ("macos",), datetime(2026, 11, 1, 8, tzinfo=UTC),
               str(folder / "x.md"))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Fix the login #\n\nIt fails.", "Fix the login"),
        ("```sh\n# not this\n```\n## This\n", "This"),
        ("fix the login\nplease", "fix the login"),
        ("---\nstate: todo\n---\nText only\n", "Text only"),
        ("---\nstate: todo\n---\n", "x"),
        ("---\ntitle:\n---\n", "x"),
        ("---\ntitle: ~\n---\n# H\n", "H"),
        ("\ufeff---\ntitle: With a mark\n---\n", "With a mark"),
        ("\ufeff# Marked note\n", "Marked note"),
        ("---\r\ntitle: From Windows\r\n---\r\nText\r\n", "From Windows"),
        ("---\ntitle: Ends without a line\n---", "Ends without a line"),
        ("---\ntitle: 0012\n---\n", "0012"),
        ("---\ntitle: yes\n---\n", "yes"),
        ("---\ntitle: >\n  two\n  lines\n---\n", "two lines"),
        ('---\ntitle: "tab\\tand\\u2028more"\n---\n', "tab and more"),
    ],
)
async def test_a_title_is_what_a_reader_would_call_it(folder: Path, text: str, title: str) -> None:
    assert (await read(folder, text)).title == title


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("todo", "open"), ("Open", "open"), ("READY", "open"), ("in_progress", "working"), ("In Progress", "working"),
        ("doing", "working"), ("review", "review"), ("in-review", "review"), ("merged", "done"), ("blocked", "blocked"),
        ("failed", "failed"), ("cancelled", "closed"), ("duplicate", "closed"), ("backlog", "other"), ("", "open"),
        ("Klart", "done"),
    ],
)  # fmt: skip
async def test_the_usual_words_for_a_state_are_known_and_others_are_left_alone(
    folder: Path, word: str, state: str
) -> None:
    assert (await read(folder, f"---\nstate: {word}\n---\nx", states={"klart": "done"})).state == state


async def test_only_done_tickets_are_not_scanned(folder: Path) -> None:
    for word in ("todo", "done", "closed", "backlog"):
        (folder / f"{word}.md").write_text(f"---\nstate: {word}\n---\nx")
    assert [t.id for t in (await board(folder).scan()).tickets] == ["backlog", "closed", "todo"]
    assert [t.id for t in await board(folder).fetch(["done"])] == ["done"]


async def test_readmes_templates_hidden_files_and_folders_are_no_tickets(folder: Path) -> None:
    for name in ("README.md", "_template.md", ".hidden.md", ".nightcrew.tmp", "notes.txt", "draft-x.md", "A.MD"):
        (folder / name).write_text("text")
    (folder / "folder.md").mkdir()
    scan = await board(folder, ignore=["README.md", "_*", "draft-*"]).scan()
    assert ([t.id for t in scan.tickets], scan.problems) == (["A"], ())


@pytest.mark.parametrize(
    ("raw", "line", "says"),
    [
        (b"---\nid: a\ntitle: [1\n---\n", 4, "no YAML"),
        (b"---\nid: a\ntitle: b: c\n---\n", 3, "mapping values are not allowed"),
        (b"---\nid: a\n- b\n---\n", 3, "no YAML"),
        (b"---\nid: a\nx: \x01\n---\n", 1, "control characters"),
        (b"---\nid: a\n", 1, "not closed"),
        (b"---\n- a\n---\n", 2, "`key: value`"),
        (b"---\nid: a\n\npriority: soon\n---\n", 4, "priority must be 1 to 5"),
        (b"---\npriority: [1]\n---\n", 2, "priority must be text"),
        (b"---\ntitle: {a: b}\n---\n", 2, "title must be text"),
        (b"---\nlabels: {a: b}\n---\n", 2, "labels must be a list"),
        (b"---\nlabels:\n- [a]\n---\n", 3, "labels must be a list"),
        (b"---\ncreated_at: yesterday\n---\n", 2, "created_at must be a date"),
        (b"---\ncreated_at: 0001-01-01T00:00:00+14:00\n---\n", 2, "created_at must be a date"),
        (b"---\nstate: todo\nstate: done\n---\n", 3, "state is there twice"),
        (b"---\nid: " + b"x" * 300 + b"\n---\n", 2, "id is too long"),
        (b"---\nx: " + b"[" * 50_000 + b"\n---\n", 2, "nested too deep"),
        (b"---\n" + b"- " * 50_000 + b"\n---\n", 2, "nested too deep"),
        (b"---\ntitle: *nothing\n---\n", 2, "undefined alias"),
        (b"good\nline \xff\xfe\n", 2, "not UTF-8"),
        (b"one\ntwo\0\n", 2, "binary"),
        (b"", 1, "empty"),
        (b" \n\n", 1, "empty"),
        (b"x" * ((1 << 20) + 1), 1, "larger than 1 MiB"),
    ],
)  # fmt: skip
async def test_a_file_that_is_no_ticket_is_a_problem_with_its_line(
    folder: Path, raw: bytes, line: int, says: str
) -> None:
    where, message = await problem(folder, raw)
    assert where == f"tickets/bad.md:{line}"
    assert says in message
    assert "\n" not in message


@OFTEN
@given(raw=st.binary(max_size=200) | st.text(max_size=200).map(lambda t: f"---\n{t}\n---\n".encode(errors="replace")))
def test_whatever_a_file_holds_it_is_a_ticket_or_a_problem(folder: Path, raw: bytes) -> None:
    (folder / "x.md").write_bytes(raw)
    scan = asyncio.run(board(folder).scan())
    done = asyncio.run(board(folder).fetch(["x"]))
    assert len(scan.tickets) + len(scan.problems) == 1 or done


async def test_aliases_that_would_grow_without_end_cost_nothing(folder: Path) -> None:
    bomb = "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9 if n else 'x'}]\n" for n in range(30))
    began = time.monotonic()
    assert (await read(folder, f"---\n{bomb}---\n# Bomb\n")).title == "Bomb"
    assert "state: in progress" in await moved(folder, f"---\n{bomb}---\n# Bomb\n")
    assert time.monotonic() - began < 5


async def test_two_files_with_one_id_are_a_problem_that_names_both(folder: Path) -> None:
    for name in ("a.md", "b.md", "c.md"):
        (folder / name).write_text(f"---\nid: {'c' if name == 'c.md' else 'same'}\n---\nx")
    scan = await board(folder).scan()
    assert [t.id for t in scan.tickets] == ["c"]
    assert [(p.where, p.message) for p in scan.problems] == [
        ("tickets/a.md:1", 'a.md and b.md have the same id "same"; change one.')
    ]
    assert await board(folder).fetch(["same"]) == []
    with pytest.raises(BoardError, match=r"a\.md and b\.md"):
        await board(folder).move("same", TicketState.DONE)


async def test_links_and_pipes_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("# Secret\n")
    (folder / "link.md").symlink_to(tmp_path / "secret")
    (folder / "lost.md").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.md")
    scan = await asyncio.wait_for(board(folder).scan(), 5)
    assert scan.tickets == ()
    assert [(p.where, p.message.split(",")[0]) for p in scan.problems] == [
        ("tickets/link.md:1", "this is a symbolic link"), ("tickets/lost.md:1", "this is a symbolic link"),
        ("tickets/pipe.md:1", "this is no ordinary file."),
    ]  # fmt: skip


SEEN: Any = {"capture_output": True, "text": True}
NOBODY = """\
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from nightcrew.adapters.boards.folder import FolderBoard
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError
os.chdir(sys.argv[1])
if os.geteuid() == 0:  # root may read everything, so be somebody else
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
board = FolderBoard("night", {}, Path("."))
print(*asyncio.run(board.scan()).problems)
try:
    asyncio.run(board.move("good", TicketState.DONE))
except BoardError as error:
    print(error.sentence())
"""


def test_files_that_may_not_be_read_or_written_are_told_in_one_sentence(folder: Path) -> None:
    (folder / "secret.md").write_text("x")
    (folder / "secret.md").chmod(0o000)
    (folder / "good.md").write_text("x")
    folder.chmod(0o555)
    folder.parent.chmod(0o755)
    ran = subprocess.run([sys.executable, "-c", NOBODY, str(folder.parent)], check=False, **SEEN)
    folder.chmod(0o755)
    assert ran.stdout.splitlines() == [
        "Problem(where='tickets/secret.md:1', message='this cannot be read: Permission denied.')",
        "good cannot be written in tickets: Permission denied. Check the folder's permissions and the disk.",
    ], ran.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["good.md", "secret.md"]


FULL = """\
import asyncio, resource, sys
from pathlib import Path
from nightcrew.adapters.boards.folder import FolderBoard
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError
resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))
try:
    asyncio.run(FolderBoard("night", {}, Path(sys.argv[1])).move("x", TicketState.DONE))
except BoardError as error:
    print(error.sentence())
"""


def test_a_write_that_the_disk_refuses_leaves_the_ticket_as_it_was(folder: Path) -> None:
    (folder / "x.md").write_text("# A ticket\n")
    ran = subprocess.run([sys.executable, "-c", FULL, str(folder.parent)], check=False, **SEEN)
    assert "x cannot be written in" in ran.stdout, ran.stderr
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"x.md": "# A ticket\n"}


async def test_a_missing_folder_is_an_error_and_not_an_empty_board(tmp_path: Path) -> None:
    own = FolderBoard("night", {}, tmp_path)
    for call in (own.scan(), own.fetch(["x"]), own.move("x", TicketState.DONE), own.add("x")):
        with pytest.raises(BoardError, match="tickets"):
            await call


async def test_five_hundred_tickets_are_read_at_once_and_only_changed_ones_again(folder: Path) -> None:
    for n in range(500):
        (folder / f"t{n}.md").write_text(
            f"---\nid: T-{n}\ntitle: Ticket {n}\nlabels: [a, b]\nstate: todo\n---\n\nText {n}\n"
        )
        os.utime(folder / f"t{n}.md", (1, 1))
    own = board(folder)
    began = time.process_time()
    assert len((await own.scan()).tickets) == 500
    assert time.process_time() - began < 2  # 0.2 s where nothing else runs
    (folder / "t7.md").write_text("---\nid: T-7\ntitle: Changed\n---\n")
    (folder / "t8.md").unlink()
    titles = {t.id: t.title for t in (await own.scan()).tickets}
    assert (titles["T-7"], "T-8" in titles, len(titles)) == ("Changed", False, 499)


async def test_a_change_of_the_same_size_within_the_same_moment_is_seen(folder: Path) -> None:
    path, own = folder / "x.md", board(folder)
    for word in ("aaaa", "bbbb", "cccc"):
        with path.open("r+" if path.exists() else "w") as file:
            file.write(f"# {word}\n")
        os.utime(path, ns=(10**18, 10**18))
        assert (await own.fetch(["x"]))[0].title == word


# -- what nightcrew writes ---------------------------------------------------------------------------------------------
MESSY = """\
---
# what we agreed on
state:   'todo'   # see the board
title:    "Keep: my quotes"
x-own:  {a: 1,b:  [2,3]}   # odd spaces
created_at: 2026-11-01
long: this is a very long line that some tools would like to break into two because it has more than eighty characters
empty:
list:
    - a
    -   b # four
text: |
    kept   as
      it is

id: X-1
# the end
---
Body with trailing spaces   \n\n---\nnot: front matter\n\ttab"""


async def test_a_move_changes_the_state_and_adds_a_note_and_nothing_else(folder: Path) -> None:
    wanted = MESSY.replace("'todo' ", "'in review' ").replace(
        "# the end\n",
        '# the end\nnightcrew:\n  note: "Gates passed: \\"build\\""\n  link: "https://forge.example/pull/1"\n',
    )
    text = await moved(folder, MESSY, TicketState.REVIEW, 'Gates passed: "build"', "https://forge.example/pull/1")
    assert text == wanted
    assert await moved(folder, wanted, TicketState.WORKING, "Again") == wanted.replace(
        "'in review' ", "'in progress' "
    ).replace('"Gates passed: \\"build\\""', '"Again"')


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# Note\n\ntext", "---\nstate: in progress\nnightcrew:\n  note: \"n\"\n---\n# Note\n\ntext"),
        ("---\n---\nx", "---\nstate: in progress\nnightcrew:\n  note: \"n\"\n---\nx"),
        ("---\n# only this\n---\nx", "---\n# only this\nstate: in progress\nnightcrew:\n  note: \"n\"\n---\nx"),
        ("---\nstate:\nid: x\n---\n", "---\nstate: in progress\nid: x\nnightcrew:\n  note: \"n\"\n---\n"),
        ("---\nstate: # later\n---\nx", "---\nstate: in progress # later\nnightcrew:\n  note: \"n\"\n---\nx"),
        ("---\nid: x\nstate: \"todo\"\n...\n", "---\nid: x\nstate: \"in progress\"\nnightcrew:\n  note: \"n\"\n...\n"),
        ("---\nnightcrew:\n    mine: 1\nid: x\n---\n",
         "---\nnightcrew:\n    note: \"n\"\n    mine: 1\nid: x\nstate: in progress\n---\n"),
        ("---\nnightcrew:\n  link: l\n\n# c\nid: x\n---\n",
         "---\nnightcrew:\n  note: \"n\"\n  link: l\n\n# c\nid: x\nstate: in progress\n---\n"),
        ("---\nstate: doing # mine\n---\nx", "---\nstate: doing # mine\nnightcrew:\n  note: \"n\"\n---\nx"),
        ("\ufeff---\nid: x\n---\n", "\ufeff---\nid: x\nstate: in progress\nnightcrew:\n  note: \"n\"\n---\n"),
        ("---\nid: x\ntext: |+\n  a\n\n---\n",
         "---\nid: x\ntext: |+\n  a\n\nstate: in progress\nnightcrew:\n  note: \"n\"\n---\n"),
    ],
)  # fmt: skip
async def test_whatever_the_file_looks_like_the_rest_of_it_stays(
    folder: Path, before: str, after: str, newline: str
) -> None:
    wanted = after.replace("\n", newline)
    assert await moved(folder, before.replace("\n", newline), note="n") == wanted


@pytest.mark.parametrize(
    "front",
    [
        "{id: X, state: todo, other: [1, 2]}",
        "  id: X\n  other: [1, 2]",
        "id: X\nother: [1, 2]\nnightcrew: soon",
        "id: X\nnightcrew: {note: old, mine: 1}\nother: [1, 2] # c",
        "nightcrew:\nid: &a X\nother: [1, 2]\nstate: &b todo",
    ],
)
async def test_unusual_front_matter_is_still_edited(folder: Path, front: str) -> None:
    text = await moved(folder, f"---\n{front}\n---\nbody\n", note="n", link="l")
    data = yaml.safe_load(text.split("---\n")[1])
    assert (data["id"], data["other"], data["state"]) == ("X", [1, 2], "in progress")
    assert data["nightcrew"].items() >= {"note": "n", "link": "l"}.items()
    assert text.endswith("---\nbody\n")
    assert ("mine" in data["nightcrew"]) == ("mine" in front)


async def test_a_note_stays_one_line_of_yaml_whatever_it_says(folder: Path) -> None:
    text = await moved(folder, "# X\n", note='a\n---\nid: other\n"quoted" \u2028 # \x00 é 🌙', link="l\n")
    assert text.splitlines()[2:5] == ["nightcrew:", '  note: "a --- id: other \\"quoted\\" # é 🌙"', '  link: "l"']


@OFTEN
@given(
    note=st.text(max_size=60),
    link=st.text(max_size=30),
    body=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60),
    state=st.sampled_from([s for s in TicketState if s is not TicketState.OTHER]),
)
def test_any_move_keeps_the_ticket_and_moving_again_writes_nothing(
    folder: Path, note: str, link: str, body: str, state: TicketState
) -> None:
    text = f"---\nid: X\nlabels: [a]  # c\n---\n{body}"
    (folder / "x.md").write_bytes(text.encode())
    own = board(folder)
    (before,) = asyncio.run(own.fetch(["X"]))
    asyncio.run(own.move("X", state, note, link))
    raw = (folder / "x.md").read_bytes()
    (after,) = asyncio.run(own.fetch(["X"]))
    assert (after.state, after.title, after.body, after.labels) == (state, before.title, before.body, before.labels)
    assert raw.endswith(f"---\n{body}".encode())
    asyncio.run(own.move("X", state, note, link))
    assert (folder / "x.md").read_bytes() == raw


async def test_the_same_move_twice_writes_once(folder: Path) -> None:
    (folder / "x.md").write_text("# X\n")
    own = board(folder)
    await own.move("x", TicketState.REVIEW, "ready", "https://forge.example/1")
    before = ((folder / "x.md").stat(), (folder / "x.md").read_bytes())
    await own.move("x", TicketState.REVIEW, "ready", "https://forge.example/1")
    await board(folder).move("x", TicketState.REVIEW, "ready")  # another process; no link known: it stays
    assert ((folder / "x.md").stat(), (folder / "x.md").read_bytes()) == before


async def test_a_move_keeps_the_mode_and_leaves_no_file_behind(folder: Path) -> None:
    (folder / "x.md").write_text("# X\n")
    (folder / "x.md").chmod(0o640)
    (folder / ".nightcrew.tmp").write_text("half a tick")  # what a kill -9 left
    await board(folder).move("x", TicketState.DONE)
    assert stat.S_IMODE((folder / "x.md").stat().st_mode) == 0o640
    assert [p.name for p in folder.iterdir()] == ["x.md"]


class Interrupted(FolderBoard):
    """A board whose folder a person works in at the worst moment: when the new text is written but not yet in place."""

    edits: ClassVar[list[Callable[[Path], object]]] = []

    @contextmanager
    def _written(self, raw: bytes, like: os.stat_result | None = None) -> Iterator[Path]:
        with super()._written(raw, like) as temporary:
            if self.edits:
                self.edits.pop(0)(self.folder)
            yield temporary


def appended(folder: Path) -> None:
    with (folder / "x.md").open("a") as file:
        file.write("one more line\n")


def saved_anew(folder: Path) -> None:
    """As many editors save: a new file under the old name."""
    (folder / "new").write_text((folder / "x.md").read_text().replace("title: T", "title: Better"))
    (folder / "new").replace(folder / "x.md")


async def test_what_a_person_saves_during_a_move_is_kept(folder: Path) -> None:
    (folder / "x.md").write_text("---\nid: X\ntitle: T\n---\n")
    own = Interrupted("night", {}, folder.parent)
    own.edits[:] = [appended, saved_anew, lambda _: (folder / "x.md").rename(folder / "y.md")]
    await own.move("X", TicketState.REVIEW, "note")
    assert {p.name: p.read_text() for p in folder.iterdir()} == {
        "y.md": '---\nid: X\ntitle: Better\nstate: in review\nnightcrew:\n  note: "note"\n---\none more line\n'
    }


async def test_a_ticket_deleted_during_a_move_does_not_come_back(folder: Path) -> None:
    (folder / "x.md").write_text("# X\n")
    own = Interrupted("night", {}, folder.parent)
    own.edits[:] = [lambda _: (folder / "x.md").unlink()]
    with pytest.raises(BoardError, match="x is not on the board"):
        await own.move("x", TicketState.DONE)
    assert list(folder.iterdir()) == []


async def test_a_file_that_is_written_all_the_time_is_given_up_on(folder: Path) -> None:
    (folder / "x.md").write_text("# X\n")
    own = Interrupted("night", {}, folder.parent)
    own.edits[:] = [appended] * 100
    with pytest.raises(BoardError, match="x is being written by someone else"):
        await own.move("x", TicketState.DONE)
    own.edits.clear()
    assert [p.name for p in folder.iterdir()] == ["x.md"]


async def test_moves_by_several_boards_of_several_tickets_at_once_all_happen(folder: Path) -> None:
    for n in range(12):
        (folder / f"t{n}.md").write_text("# T\n")
    await asyncio.gather(*(board(folder).move(f"t{n}", TicketState.DONE, f"note {n}") for n in range(12)))
    assert [t.state for t in await board(folder).fetch([f"t{n}" for n in range(12)])] == [TicketState.DONE] * 12
    assert len(list(folder.iterdir())) == 12


async def test_a_ticket_that_is_gone_or_broken_cannot_be_moved_and_says_why(folder: Path) -> None:
    with pytest.raises(BoardError, match="x is not on the board night"):
        await board(folder).move("x", TicketState.DONE)
    (folder / "x.md").write_text("---\ntitle: [\n---\n")
    with pytest.raises(BoardError, match=r"tickets/x\.md:3: the front matter is no YAML"):
        await board(folder).move("x", TicketState.DONE)
    with pytest.raises(BoardError, match="there is no word for it") as caught:
        await board(folder).move("x", TicketState.OTHER)
    assert "write_states.other" in caught.value.hint


async def test_a_renamed_state_word_is_written_and_read_back(folder: Path) -> None:
    (folder / "x.md").write_text("---\nstate: todo\n---\nx")
    own = board(folder, write_states={"done": "Klart: ja"})
    await own.move("x", TicketState.DONE)
    assert 'state: "Klart: ja"' in (folder / "x.md").read_text()
    assert (await own.fetch(["x"]))[0].state is TicketState.DONE


# -- new tickets -------------------------------------------------------------------------------------------------------
async def test_a_new_ticket_gets_the_next_number_and_reads_back_as_given(folder: Path) -> None:
    (folder / "nc-9-broken.md").write_text("---\ntitle: [\n---\n")
    (folder / "done.md").write_text("---\nid: NC-3\nstate: done\n---\n")
    own = board(folder)
    fields = {"priority": 2, "labels": ["a: b", "yes"], "repo": "web", "estimate": 3, "blocked_by": ("NC-3",)}
    ticket = await own.add("Fix: the\nlogin", "# Head\n\n---\nbody\n", fields)
    assert (ticket.id, ticket.title, ticket.priority, ticket.labels, ticket.blocked_by, ticket.body) == (
        "NC-10", "Fix: the login", 2, ("a: b", "yes"), ("NC-3",), "# Head\n\n---\nbody",
    )  # fmt: skip
    assert await own.fetch(["NC-10"]) == [ticket]
    assert Path(ticket.url) == folder / "NC-10-fix-the-login.md"
    assert "estimate: 3" in Path(ticket.url).read_text()
    assert ticket.created_at is not None


async def test_twenty_adds_at_once_make_twenty_tickets(folder: Path) -> None:
    made = await asyncio.gather(*(board(folder, prefix="T").add("The same title") for _ in range(20)))
    assert sorted(int(t.id.removeprefix("T-")) for t in made) == list(range(1, 21))
    scan = await board(folder).scan()
    assert (len(scan.tickets), scan.problems, len(list(folder.iterdir()))) == (20, (), 20)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", ".hidden", "_x", "x" * 150, "Ä ö", "a\\b", "con"])
async def test_an_id_of_any_kind_stays_inside_the_folder(folder: Path, name: str) -> None:
    ticket = await board(folder).add("T", fields={"id": name})
    assert (ticket.id, await board(folder).fetch([name])) == (name, [ticket])
    assert [p.parent for p in folder.parent.rglob("*.md")] == [folder]


async def test_a_ticket_that_exists_is_not_overwritten(folder: Path) -> None:
    (folder / "NC-1-title.md").write_text("a person's own file")
    first = await board(folder).add("Title", "first", {"id": "NC-1"})
    with pytest.raises(BoardError, match="There is a ticket NC-1 already"):
        await board(folder).add("Other", "second", {"id": "NC-1"})
    assert (folder / "NC-1-title.md").read_text() == "a person's own file"
    assert [t.body for t in await board(folder).fetch(["NC-1"])] == [first.body] == ["first"]


@pytest.mark.parametrize(
    ("title", "body", "fields"),
    [("  ", "", {}), ("T", "", {"priority": "soon"}), ("T", "", {"labels": object()}), ("T", "", {"id": "two\nlines"}),
     ("T", "x" * (1 << 20), {})],
)  # fmt: skip
async def test_a_ticket_that_could_not_be_read_back_is_not_made(
    folder: Path, title: str, body: str, fields: dict[str, object]
) -> None:
    with pytest.raises(BoardError):
        await board(folder).add(title, body, fields)
    assert list(folder.iterdir()) == []


async def test_what_no_text_file_can_hold_is_left_out_of_a_new_ticket(folder: Path) -> None:
    ticket = await board(folder).add("a\udcff\0b", "c\udcff\0d", {"state": TicketState.BLOCKED})
    assert (ticket.title, ticket.body, ticket.state) == ("a?b", "c?d", TicketState.BLOCKED)
    assert await board(folder).fetch([ticket.id]) == [ticket]


# -- settings ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ({"pth": "x"}, "[board] pth: unknown key", "Did you mean `path`?"),
        ({"zzz": 1}, "[board] zzz: unknown key", "Known: ignore, path"),
        ({"path": 3}, "[board] path: Expected `str`", "Without it"),
        ({"states": {"later": "soon"}}, "[board] states: Invalid enum value 'soon'", "Our states: open, working"),
        ({"write_states": {"done": "todo"}}, '"todo" would be read back as open', "done"),
        ({"write_states": {"done": "x"}, "states": {"X": "open"}}, '[board] write_states.done: "x" would be', "states"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_its_cure(
    tmp_path: Path, table: dict[str, object], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        FolderBoard("night", table, tmp_path)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_the_folder_is_watched_and_starts_at_the_configuration(tmp_path: Path) -> None:
    assert FolderBoard("night", {}, tmp_path).watched() == (tmp_path / "tickets",)
    assert FolderBoard("night", {"path": "/srv/t"}, tmp_path).watched() == (Path("/srv/t"),)
