"""What people see of nightcrew on a board, and how they tell it to stop: shared by the boards that are services."""

from __future__ import annotations

import re
from hashlib import sha256

from nightcrew.core.model import TicketState

MARK = "<!-- nightcrew:progress -->"
"""Hidden in the one progress comment, so that it is found again and no second one is made."""

_SAYS = {
    TicketState.OPEN: "waits to be worked", TicketState.WORKING: "is being worked",
    TicketState.REVIEW: "has a pull request to be reviewed", TicketState.DONE: "is done",
    TicketState.BLOCKED: "waits for a person", TicketState.FAILED: "could not be done",
    TicketState.CLOSED: "is closed", TicketState.OTHER: "is left alone",
}  # fmt: skip
_STOP = re.compile(r"(?:@?nightcrew(?:\[bot\])?[\s,:]+)?/?stop(?:[\s,:]+@?nightcrew(?:\[bot\])?)?[\s.!]*", re.I)


def progress(state: TicketState, note: str, link: str) -> str:
    """The text of the one progress comment, in Markdown, without MARK.

    >>> progress(TicketState.REVIEW, "All checks pass.", "https://forge.example/1")
    '**nightcrew**: this ticket has a pull request to be reviewed: https://forge.example/1\\n\\nAll checks pass.'
    """
    first = f"**nightcrew**: this ticket {_SAYS[state]}{f': {link}' if link else '.'}"
    return f"{first}\n\n{note.strip()}" if note.strip() else first


def says_stop(text: str) -> bool:
    """Whether a comment says nothing but "stop", as people write it to nightcrew.

    >>> [says_stop(t) for t in ("Stop!", "@nightcrew stop", "/stop", "please don't stop", "")]
    [True, True, True, False, False]
    """
    return bool(_STOP.fullmatch(text.strip()))


def stable_uuid(*parts: str) -> str:
    """A UUID shaped like version 4 that follows from `parts`: a write sent again after a restart has the same id."""
    raw = bytearray(sha256("\x1f".join(parts).encode()).digest()[:16])
    raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
