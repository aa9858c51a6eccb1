"""Atlassian's document format: our simple Markdown -> a document, and any document -> text. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

Node = dict[str, Any]
FENCE = re.compile(r"^```([\w+#.-]*)[^`]*$")
HEADING = re.compile(r"^(#{1,6})\s+(\S.*)$")
ITEM = re.compile(r"^( {0,3})([-*+]|\d{1,9}[.)])(\s+)(?=\S)")
INLINE = re.compile(
    r"`([^`\n]+)`|\*\*(?=\S)(.{1,400}?)(?<=\S)\*\*|\[([^\[\]\n]+)\]\((https?://[^\s()]+)\)|(https?://[^\s<>()\[\]*`]+)"
)
"""Code, bold, a link with its text, an address as such."""
DEEP, NESTED = 40, 15  # levels that are read, and levels of lists that are written; people do not write deeper ones


# -- Markdown -> document ----------------------------------------------------------------------------------------------
def document(markdown: str) -> Node:
    """Paragraphs, headings, lists, code, bold and links as a document; whatever else is said stays as it is written.

    >>> document("**Done**")["content"]
    [{'type': 'paragraph', 'content': [{'type': 'text', 'text': 'Done', 'marks': [{'type': 'strong'}]}]}]
    """
    lines = markdown.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return {"version": 1, "type": "doc", "content": list(_blocks(lines, 0))}


def _blocks(lines: list[str], depth: int) -> Iterator[Node]:
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            at += 1
        elif fence := FENCE.match(line):
            end = next((n for n in range(at + 1, len(lines)) if lines[n].startswith("```")), len(lines))
            yield _code(lines[at + 1 : end], fence[1])
            at = end + 1
        elif (heading := HEADING.match(line)) and not depth:
            yield {"type": "heading", "attrs": {"level": len(heading[1])}, "content": list(_inline(heading[2]))}
            at += 1
        elif ITEM.match(line) and depth < NESTED:
            end = _end_of_list(lines, at)
            yield _list(lines[at:end], depth)
            at = end
        else:
            end = _end_of_paragraph(lines, at, depth)
            yield {"type": "paragraph", "content": _broken([line.strip() for line in lines[at:end]])}
            at = end


def _end_of_paragraph(lines: list[str], at: int, depth: int) -> int:
    for n in range(at + 1, len(lines)):
        line = lines[n]
        if not line.strip() or FENCE.match(line) or ITEM.match(line) or (HEADING.match(line) and not depth):
            return n
    return len(lines)


def _end_of_list(lines: list[str], at: int) -> int:
    """The line behind the list's last: its items are all numbered or all not, and what is indented belongs to them."""
    numbered = _is_number(lines[at])
    for n in range(at + 1, len(lines)):
        line, after = lines[n], next((one for one in lines[n:] if one.strip()), "")
        more = bool(ITEM.match(after)) and _is_number(after) is numbered
        if line.strip() and not line.startswith("  ") and not (ITEM.match(line) and more):
            return n
        if not line.strip() and not (after.startswith("  ") or more):
            return n
    return len(lines)


def _is_number(line: str) -> bool:
    found = ITEM.match(line)
    return bool(found) and found[2][0].isdigit()  # type: ignore[index]


def _list(lines: list[str], depth: int) -> Node:
    starts = [n for n, line in enumerate(lines) if _starts_item(lines[0], line)]
    items = [lines[a:b] for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]
    content = [{"type": "listItem", "content": list(_blocks(_dedented(item), depth + 1))} for item in items]
    first = ITEM.match(lines[0])
    if first and first[2][0].isdigit():
        return {"type": "orderedList", "attrs": {"order": int(first[2][:-1])}, "content": content}
    return {"type": "bulletList", "content": content}


def _starts_item(first: str, line: str) -> bool:
    one, other = ITEM.match(first), ITEM.match(line)
    return bool(one and other) and len(other[1]) < len(one[1]) + 2  # type: ignore[index]


def _dedented(item: list[str]) -> list[str]:
    width = ITEM.match(item[0]).end()  # type: ignore[union-attr]
    rest = [line[min(width, len(line) - len(line.lstrip())) :] for line in item[1:]]
    return [item[0][width:], *rest]


def _code(lines: list[str], language: str) -> Node:
    text = "\n".join(lines)
    return {"type": "codeBlock", **({"attrs": {"language": language}} if language else {}),
            "content": [{"type": "text", "text": text}] if text else []}  # fmt: skip


def _broken(lines: list[str]) -> list[Node]:
    found: list[Node] = []
    for number, line in enumerate(lines):
        found += [*([{"type": "hardBreak"}] if number else []), *_inline(line)]
    return found


def _inline(text: str, marks: tuple[str, ...] = ()) -> Iterator[Node]:
    at = 0
    for found in INLINE.finditer(text):
        code, bold, label, target, bare = found.groups()
        bare = bare and bare.rstrip(".,;:!?'\"")
        yield from _text(text[at : found.start()], marks)
        at = found.start() + len(bare) if bare else found.end()
        if code:
            yield {"type": "text", "text": code, "marks": [{"type": "code"}]}
        elif bold:
            yield from _inline(bold, ("strong",))
        else:
            yield from _text(label or bare, marks, {"type": "link", "attrs": {"href": target or bare}})
    yield from _text(text[at:], marks)


def _text(text: str, marks: tuple[str, ...], *more: Node) -> Iterator[Node]:
    if text:
        shown = [*({"type": mark} for mark in marks), *more]
        yield {"type": "text", "text": text, **({"marks": shown} if shown else {})}


# -- document -> text --------------------------------------------------------------------------------------------------
def text(node: object, names: Mapping[str, str] | None = None, depth: int = 0) -> str:
    """What a document says, as Markdown. What is unknown is read for the text in it; garbage is "".

    `names` are the names of accounts that are mentioned, by id; the document's own word where there is none.
    """
    if not isinstance(node, dict) or depth > DEEP:
        return ""
    kind = node.get("type")
    if kind in ("text", "hardBreak", "mention", "emoji", "date", "status", "placeholder", *CARDS):
        return _leaf(node, names or {})
    if kind in BLOCKS:
        return BLOCKS[kind](node, lambda one: text(one, names, depth + 1))
    parts = [(one, text(one, names, depth + 1)) for one in _content(node)]
    inline = any(isinstance(one, dict) and one.get("type") in INLINES for one, _ in parts)
    said = ("" if inline else "\n\n").join(part for _, part in parts if part)
    said = said.replace("****", "") if inline else said  # where one bold text ends and the next begins
    title = _attribute(node, "title") if kind in ("expand", "nestedExpand") else ""
    return "\n\n".join(filter(None, (title, said.strip() if not depth else said)))


CARDS = ("inlineCard", "blockCard", "embedCard", "media", "mediaInline")
INLINES = {"text", "hardBreak", "mention", "emoji", "date", "status", "placeholder", "inlineCard", "mediaInline",
           "inlineExtension"}  # fmt: skip


def _content(node: Node) -> list[Any]:
    found = node.get("content")
    return found if isinstance(found, list) else []


def _attribute(node: Node, *names: str) -> str:
    attrs = node.get("attrs")
    found = (attrs.get(name) for name in names) if isinstance(attrs, dict) else ()
    return next((str(one) for one in found if one not in (None, "", {}, [])), "")


def _leaf(node: Node, names: Mapping[str, str]) -> str:
    match node["type"]:
        case "text":
            return _marked(node)
        case "hardBreak":
            return "\n"
        case "mention":
            said = names.get(_attribute(node, "id")) or _attribute(node, "text", "id")
            return f"@{said.removeprefix('@')}"
        case "date":
            return _day(_attribute(node, "timestamp"))
        case "status":
            return f"[{_attribute(node, 'text')}]"
        case "media" | "mediaInline":
            return f"({_attribute(node, 'alt') or 'an attachment'})"
        case _:
            return _attribute(node, "text", "shortName", "url")


def _day(milliseconds: str) -> str:
    try:
        return datetime.fromtimestamp(int(milliseconds) / 1000, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return milliseconds


LEVELS = {"1", "2", "3", "4", "5", "6"}
SIGNS = {"strong": "**", "em": "*", "strike": "~~", "code": "`"}


def _marked(node: Node) -> str:
    said = str(node.get("text") or "")
    found = node.get("marks")
    marks = [mark for mark in found if isinstance(mark, dict)] if isinstance(found, list) else []
    link = next((_attribute(mark, "href") for mark in marks if mark.get("type") == "link"), "")
    if link and link != said:
        said = f"[{said}]({link})"
    for mark in marks:
        sign = SIGNS.get(str(mark.get("type")), "")
        said = f"{sign}{said}{sign}" if said.strip() else said
    return said


Say = Callable[[Any], str]


def _heading(node: Node, say: Say) -> str:
    level = _attribute(node, "level")
    return f"{'#' * (int(level) if level in LEVELS else 1)} {''.join(map(say, _content(node)))}"


def _fenced(node: Node, say: Say) -> str:
    code = "".join(str(one.get("text") or "") for one in _content(node) if isinstance(one, dict))
    return f"```{_attribute(node, 'language')}\n{code}\n```"


def _quote(node: Node, say: Say) -> str:
    said = "\n\n".join(filter(None, map(say, _content(node))))
    return "\n".join(f"> {line}".rstrip() for line in said.split("\n"))


def _items(node: Node, say: Say) -> str:
    order = _attribute(node, "order")
    start = int(order) if re.fullmatch(r"[0-9]{1,9}", order) else 1
    shown = []
    for number, item in enumerate(_content(node), start):
        sign = f"{number}. " if node["type"] == "orderedList" else _box(item)
        inner = _content(item) if isinstance(item, dict) and item.get("type") == "listItem" else [item]
        said = "\n".join(filter(None, map(say, inner)))
        shown.append(sign + said.replace("\n", "\n" + " " * (len(sign) if sign[0].isdigit() else 2)))
    return "\n".join(shown)


def _box(item: object) -> str:
    if isinstance(item, dict) and item.get("type") in ("taskItem", "blockTaskItem"):
        return "- [x] " if _attribute(item, "state") == "DONE" else "- [ ] "
    return "- "


def _table(node: Node, say: Say) -> str:
    rows = [row for row in _content(node) if isinstance(row, dict)]
    return "\n".join(
        f"| {' | '.join(' '.join(say(cell).split()) for cell in _content(row))} |" for row in rows if _content(row)
    )


BLOCKS: dict[str, Callable[[Node, Say], str]] = {
    "heading": _heading, "codeBlock": _fenced, "blockquote": _quote, "panel": _quote, "bulletList": _items,
    "orderedList": _items, "taskList": _items, "decisionList": _items, "table": _table, "rule": lambda node, say: "---",
}  # fmt: skip
