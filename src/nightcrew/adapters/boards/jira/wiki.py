"""The markup of Jira Data Center: our simple Markdown -> wiki markup, and its comments -> text. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nightcrew.adapters.boards.jira.adf import FENCE, HEADING, INLINE

MEANS = re.compile(r"([\[{!|])")
"""What would begin a mention, a macro, a picture or a table cell."""
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
            shown.append(line.replace("{noformat}", "(noformat)") if fenced else _line(line))
    return "\n".join([*shown, *(["{noformat}"] if fenced else [])])


def _line(line: str) -> str:
    if heading := HEADING.match(line):
        return f"h{len(heading[1])}. {_inline(heading[2])}"
    return _inline(line)


def _inline(text: str) -> str:
    shown, at = "", 0
    for found in INLINE.finditer(text):
        code, bold, label, target, bare = found.groups()
        shown += MEANS.sub(r"\\\1", text[at : found.start()])
        if bare:
            shown += bare.replace("|", "%7C").replace("{", "%7B").replace("!", "%21")
        elif bold:
            shown += f"*{_inline(bold)}*"
        elif label:
            shown += f"[{MEANS.sub(' ', label)}|{target}]"
        else:
            shown += f"{{{{{MEANS.sub(lambda one: chr(92) + one[0], code)}}}}}"
        at = found.end()
    return shown + MEANS.sub(r"\\\1", text[at:])


def plain(said: object, names: Mapping[str, str] | None = None) -> str:
    """Wiki markup as it is written, with mentions as people read them. `names` are the names of users, by login.

    >>> plain("[~crew]  stop", {"crew": "nightcrew"})
    '@nightcrew  stop'
    """
    known = names or {}
    text = str(said or "").replace("\r\n", "\n")
    return MENTION.sub(lambda one: f"@{known.get(one[1], one[1])}", text)
