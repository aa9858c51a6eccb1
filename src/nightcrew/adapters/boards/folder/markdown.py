"""A ticket as Markdown with YAML front matter: read, and changed without touching what is not ours. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import StringIO

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError as RoundTripError

from nightcrew.core.model import Ticket, TicketState

PRIORITIES = {"urgent": 1, "high": 2, "medium": 3, "low": 4, "none": 5}
LONGEST_ID, LONGEST_TITLE, LONGEST_NOTE = 200, 200, 1000  # characters
DEEPEST = 50  # levels of YAML; its C reader goes down by recursion and would overflow the stack
_FRONT = re.compile(r"(\ufeff?---[ \t]*(\r?\n))(.*?)((?m:^)(?:---|\.\.\.)[ \t]*(?:\r?\n.*|\Z))", re.S)
_HEADING = re.compile(r"#{1,6}[ \t]+(.*?)[ \t#]*$")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 _-]*\Z")


class Unreadable(Exception):
    """The file is no ticket: why, and in which line (from 1)."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Progress:
    """What nightcrew shows on a ticket. `word` "" leaves the state as it is written, `link` "" the link."""

    word: str
    note: str
    link: str


@dataclass(frozen=True)
class _Parts:
    """A file in three pieces which, joined, are the file."""

    opening: str
    front: str
    rest: str
    newline: str


def decode(raw: bytes) -> str:
    """The text of a file. Raises Unreadable when it is none."""
    if b"\0" in raw:
        raise Unreadable(raw[: raw.index(b"\0")].count(b"\n") + 1, "this is a binary file, not text.")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise Unreadable(line, "this is not UTF-8; save the file as UTF-8.") from error


def parse(text: str, board: str, stem: str, means: Callable[[str], TicketState]) -> Ticket:
    """The ticket a file holds; `stem` is its id where it names none. Raises Unreadable."""
    parts = _split(text)
    fields = _fields(parts.front) if parts.opening else {}
    body = parts.rest.partition("\n")[2] if parts.opening else parts.rest
    body = body.replace("\r\n", "\n").lstrip("\ufeff").strip()
    if not fields and not body:
        raise Unreadable(1, "the file is empty.")
    name = _one_line(_text(fields, "id")) or stem
    if len(name) > LONGEST_ID:
        raise Unreadable(_line(fields["id"]) if "id" in fields else 1, "the id is too long.")
    return Ticket(
        board=board, id=name, key=name, title=_one_line(_text(fields, "title")) or _title(body) or stem, body=body,
        state=means(_text(fields, "state") or "todo"), repo=_one_line(_text(fields, "repo")),
        project=_one_line(_text(fields, "project")), priority=_priority(fields), labels=_words(fields, "labels"),
        blocked_by=_words(fields, "blocked_by"), requires=_words(fields, "requires"), created_at=_created(fields),
    )  # fmt: skip


def shown(text: str, progress: Progress, before: Ticket, read: Callable[[str], Ticket]) -> str:
    """`text` with the progress in its front matter; every other byte stays. Raises Unreadable when that cannot be.

    `before` is the ticket in `text` as it shall be read afterwards; `read` reads one again to prove it.
    """
    parts = _split(text)
    if not parts.opening:
        fence = f"---{parts.newline}"
        parts = replace(parts, opening=fence, rest=fence + parts.rest.removeprefix("\ufeff"))
    progress = Progress(progress.word, _one_line(progress.note)[:LONGEST_NOTE].rstrip(), _one_line(progress.link))
    for way in (_edited, _round_trip):
        with suppress(Unreadable):
            made = f"{parts.opening}{way(parts.front, parts.newline, progress)}{parts.rest}"
            if _own(made) == (progress.note, progress.link or _own(text)[1]) and read(made) == before:
                return made
    raise Unreadable(1, "the front matter cannot be edited safely; write it as plain `key: value` lines.")


def document(fields: Mapping[str, object], body: str) -> str:
    """A new ticket's file. Raises Unreadable when a field is nothing that YAML can hold."""
    plain = {key: str(value) if isinstance(value, str) else value for key, value in fields.items()}  # enums too
    try:
        front = yaml.dump(plain, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=1 << 20)
    except yaml.YAMLError as error:
        raise Unreadable(1, "a field is neither text nor a number nor a list.") from error
    return f"---\n{front}---\n\n{body.strip()}\n" if body.strip() else f"---\n{front}---\n"


# -- reading -----------------------------------------------------------------------------------------------------------
def _split(text: str) -> _Parts:
    """The front matter and what is around it; without one, `opening` is empty."""
    if found := _FRONT.match(text):
        return _Parts(found[1], found[3], found[4], found[2])
    if re.match(r"\ufeff?---[ \t]*\r?\n", text):
        raise Unreadable(1, "the front matter is not closed by a line `---`.")
    return _Parts("", "", text, "\r\n" if "\r\n" in text else "\n")


def _fields(front: str) -> dict[str, yaml.Node]:
    """Key -> value node. A repeated key is a mistake: which one counts would be a guess."""
    root = _compose(front)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise Unreadable(_line(root), "the front matter must be `key: value` lines.")
    fields: dict[str, yaml.Node] = {}
    for key, value in root.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in fields:
                raise Unreadable(_line(key), f"{key.value} is there twice.")
            fields[key.value] = value
    return fields


def _compose(front: str) -> yaml.Node | None:
    try:
        depth = 0
        for event in yaml.parse(front, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise Unreadable(_line(event), "the front matter is nested too deep.")
        return yaml.compose(front, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise Unreadable(mark.line + 2 if mark else 1, f"the front matter is no YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise Unreadable(1, f"the front matter is no YAML: {str(error).splitlines()[0]}.") from error


def _line(node: yaml.Node | yaml.Event) -> int:
    """The line in the file: the front matter begins in its second."""
    return node.start_mark.line + 2 if node.start_mark else 1


def _text(fields: Mapping[str, yaml.Node], key: str) -> str:
    node = fields.get(key)
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return ""
    if not isinstance(node, yaml.ScalarNode):
        raise Unreadable(_line(node), f"{key} must be text.")
    return str(node.value)


def _words(fields: Mapping[str, yaml.Node], key: str) -> tuple[str, ...]:
    """A list of words, or one line of them with commas."""
    node = fields.get(key)
    if isinstance(node, yaml.SequenceNode):
        if any(not isinstance(item, yaml.ScalarNode) for item in node.value):
            raise Unreadable(_line(node), f"{key} must be a list of words.")
        return tuple(word for item in node.value if (word := _one_line(item.value)))
    if isinstance(node, yaml.MappingNode):
        raise Unreadable(_line(node), f"{key} must be a list of words.")
    return tuple(word for part in _text(fields, key).split(",") if (word := _one_line(part)))


def _priority(fields: Mapping[str, yaml.Node]) -> int:
    word = _text(fields, "priority").strip().lower() or "none"
    if word in PRIORITIES:
        return PRIORITIES[word]
    if word in {"1", "2", "3", "4", "5"}:
        return int(word)
    raise Unreadable(_line(fields["priority"]), "priority must be 1 to 5, or urgent, high, medium, low or none.")


def _created(fields: Mapping[str, yaml.Node]) -> datetime | None:
    word = _text(fields, "created_at").strip()
    if not word:
        return None
    try:
        at = datetime.fromisoformat(word)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        line = _line(fields["created_at"])
        raise Unreadable(line, "created_at must be a date, like 2026-11-22 or 2026-11-22T03:00:00Z.") from error


def _title(body: str) -> str:
    """The first heading that is not in a code block, else the first line."""
    code = False
    for line in body.splitlines():
        if line.lstrip().startswith(("```", "~~~")):
            code = not code
        elif not code and (found := _HEADING.match(line)) and found[1]:
            return _one_line(found[1])[:LONGEST_TITLE]
    return _one_line(body.partition("\n")[0])[:LONGEST_TITLE]


def _one_line(text: str) -> str:
    """Without line breaks, control characters and doubled spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


# -- changing ----------------------------------------------------------------------------------------------------------
def _own(text: str) -> tuple[str, str]:
    """The note and the link that are shown now."""
    node = _fields(_split(text).front).get("nightcrew")
    return _own_value(node, "note"), _own_value(node, "link")


def _own_value(node: yaml.Node | None, key: str) -> str:
    values = {str(k.value): v.value for k, v in node.value} if isinstance(node, yaml.MappingNode) else {}
    return str(values.get(key, ""))


def _edited(front: str, newline: str, progress: Progress) -> str:
    """Only the values are replaced, at their place in the text."""
    if progress.word:
        front = _put(front, newline, "state", progress.word)
    node = _fields(front).get("nightcrew")
    if node is None:
        return front + _own_lines(newline, progress)
    if not isinstance(node, yaml.MappingNode) or node.flow_style or not node.value:
        raise Unreadable(_line(node), "`nightcrew` is not written as lines.")
    for key, value in (("link", progress.link), ("note", progress.note)):
        if value or (key == "note" and _own_value(node, key)):
            front = _put_own(front, newline, key, _quoted(value))
    return front


def _own_lines(newline: str, progress: Progress) -> str:
    values = {"note": progress.note, "link": progress.link}
    lines = [f"  {key}: {_quoted(value)}{newline}" for key, value in values.items() if value]
    return f"nightcrew:{newline}{''.join(lines)}" if lines else ""


def _put(front: str, newline: str, key: str, word: str) -> str:
    node = _fields(front).get(key)
    if node is None:
        return f"{front}{key}: {_styled(word, None)}{newline}"
    return _replaced(front, node, _styled(word, getattr(node, "style", None)))


def _put_own(front: str, newline: str, key: str, value: str) -> str:
    """Set one key in the `nightcrew` block; a new one goes before its first."""
    block = _fields(front)["nightcrew"].value
    for name, node in block:
        if name.value == key:
            return _replaced(front, node, value)
    first = block[0][0].start_mark
    return f"{front[: first.index]}{key}: {value}{newline}{' ' * first.column}{front[first.index :]}"


def _replaced(front: str, node: yaml.Node, value: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    space = " " if front[start - 1 : start] == ":" else ""
    return f"{front[:start]}{space}{value}{front[end:]}"


def _styled(word: str, style: str | None) -> str:
    """The word as a YAML value, quoted as it was before."""
    if style == "'":
        return "'" + word.replace("'", "''") + "'"
    plain = not style and _PLAIN.match(word) and isinstance(yaml.load(word, Loader=yaml.CSafeLoader), str)
    return word if plain else _quoted(word)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _round_trip(front: str, newline: str, progress: Progress) -> str:
    """For front matter written in an unusual way; comments, order and quotes stay, spaces may not."""
    tool = YAML()
    tool.preserve_quotes, tool.width = True, 1 << 20
    out = StringIO()
    try:
        data = tool.load(front.replace("\r\n", "\n"))
        data |= {"state": progress.word} if progress.word else {}
        own = data.get("nightcrew")
        kept = own if isinstance(own, dict) else {}
        data["nightcrew"] = {**kept, "note": progress.note, "link": progress.link or kept.get("link", "")}
        tool.dump(data, out)
    except (RoundTripError, ValueError, TypeError, RecursionError) as error:
        raise Unreadable(1, "the front matter cannot be written again.") from error
    return out.getvalue().replace("\n", newline)
