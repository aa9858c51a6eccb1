"""The markup of Jira Data Center: our simple Markdown -> wiki markup, and its comments -> text. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nightcrew.adapters.boards.jira.adf import FENCE, HEADING, INLINE

MEANS = re.compile(r"(\\*)([\[{!|])")
"""What would begin a mention, a macro, a picture or a table cell, and backslashes before it: two are a line break."""
ENDS = re.compile(r"\{(noformat[^}\n]*)\}", re.I)
CALLS = re.compile(r"\[(?=[~@])")
"""What Jira takes for a mention wherever it stands, in quoted code and behind a backslash too."""
MENTION = re.compile(r"\[~(?:accountid:)?([^\]\n]+)\]")


def markup(markdown: str) -> str:
    """The same in wiki markup; nothing in it mentions anybody, embeds anything or is a macro.

    >>> markup("**nightcrew**: see [this](https://x.example/1), {code}")
    '*nightcrew*: see [this|https://x.example/1], \\\\{code}'
    """
    shown, fenced = [], False
    for line in markdown.split("\n"):
        if FENCE.match(line) or (fenced and line.startswith("```")):
            shown.append("{noformat}")
            fenced = not fenced
        else:
            shown.append(ENDS.sub(r"(\1)", line) if fenced else _line(line))
    return CALLS.sub("[\u200b", "\n".join([*shown, *(["{noformat}"] if fenced else [])]))


def _line(line: str) -> str:
    if heading := HEADING.match(line):
        return f"h{len(heading[1])}. {_inline(heading[2])}"
    return _inline(line)


def _plain(text: str) -> str:
    return MEANS.sub(lambda one: f"{one[1]}{chr(0x200B) if one[1] else ''}\\{one[2]}", text)


def _address(text: str) -> str:
    return re.sub(r"[|{!\[\]\\]", lambda one: f"%{ord(one[0]):02X}", text)


def _inline(text: str) -> str:
    shown, at = "", 0
    for found in INLINE.finditer(text):
        code, bold, label, target, bare = found.groups()
        shown += _plain(text[at : found.start()])
        if bare:
            shown += _address(bare)
        elif bold:
            shown += f"*{_inline(bold)}*"
        elif label:
            shown += f"[{MEANS.sub(' ', label)}|{_address(target)}]"
        else:
            shown += f"{{{{{_plain(code)}}}}}"
        at = found.end()
    return shown + _plain(text[at:])


def plain(said: object, names: Mapping[str, str] | None = None) -> str:
    """Wiki markup as it is written, with mentions as people read them. `names` are the names of users, by login.

    >>> plain("[~crew]  stop", {"crew": "nightcrew"})
    '@nightcrew  stop'
    """
    known = names or {}
    text = str(said or "").replace("\r\n", "\n")
    return MENTION.sub(lambda one: f"@{known.get(one[1], one[1])}", text)
