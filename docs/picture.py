"""Draw docs/terminal.svg: `nightcrew demo` played on a terminal, its real output, with the middle left out.

python docs/picture.py
"""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from fcntl import ioctl
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, HEAD = 100, 27
TARGET = Path(__file__).with_name("terminal.svg")


def main() -> None:
    """Play the demo and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve() / "night"
        shown = played([sys.executable, "-m", "nightcrew", "demo", "--dir", str(home)])
    lines = [plain_line(line) for line in shown.replace(str(home), "~/night").replace("\r\n", "\n").split("\n")]
    draw(["$ nightcrew demo", *chosen(lines)])
    print(f"Wrote {TARGET}.")


def played(argv: list[str]) -> str:
    """What the command writes to a terminal of COLUMNS, its codes included."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(argv, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # Linux says so when the other side is closed
            pass
    os.close(ours)
    if process.returncode:
        sys.exit(f"{' '.join(argv)} ended with exit code {process.returncode}:\n{shown.decode()}")
    return shown.decode()


def plain_line(line: str) -> str:
    """What is left on the line at its end: what was drawn before an erase is gone."""
    return line.rpartition("\x1b[2K")[2]


def chosen(lines: list[str]) -> list[str]:
    """The beginning, the table, and the last count."""
    table = next(n for n, line in enumerate(lines) if "TICKET" in line)
    end = next(n for n, line in enumerate(lines) if n > table and not line)
    count = next(line for line in lines if "pull requests from" in line)
    return [*lines[:HEAD], "   ⋮", *lines[table:end], "", count]


def draw(lines: list[str]) -> None:
    """Write the picture; it loads no font from anywhere."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, legacy_windows=False)
    for line in lines:
        console.print(Text.from_ansi(line), no_wrap=True, overflow="crop", highlight=False)
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="nightcrew", unique_id="nightcrew"), flags=re.S)
    TARGET.write_text("\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
