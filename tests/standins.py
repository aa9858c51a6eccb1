"""Programs that stand in for real ones on the PATH."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

_CLAUDE = """\
import json, pathlib, subprocess, sys

if "--version" in sys.argv:
    sys.exit(print("2.1.330 (Claude Code)"))
prompt = sys.stdin.read()
session = sys.argv[sys.argv.index("--resume" if "--resume" in sys.argv else "--session-id") + 1]
usage = {"input_tokens": 60, "output_tokens": 25, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


def tell(kind, **event):
    print(json.dumps({"type": kind, "session_id": session, **event}), flush=True)


tell("system", subtype="init", model="claude-sonnet-4-5", mcp_servers=[], claude_code_version="2.1.330")
said = "ready"
if "on ticket" in prompt:
    with pathlib.Path("WORK.md").open("a") as file:
        file.write("one more line\\n")
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", "commit", "-qm", "Work on the ticket"], check=True)
    said = "Done and committed."
message = {"id": "m1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "usage": usage,
           "content": [{"type": "text", "text": said}]}
tell("assistant", parent_tool_use_id=None, message=message)
tell("result", subtype="success", is_error=False, result=said, num_turns=1, stop_reason="end_turn",
     terminal_reason="completed", total_cost_usd=0.01, usage=usage, permission_denials=[])
"""


def claude(folder: Path) -> Path:
    """A `claude` in `folder` that speaks Claude Code's stream and, on a ticket, adds a line to WORK.md."""
    folder.mkdir(parents=True, exist_ok=True)
    program, body = folder / "claude", folder / "claude.py"
    body.write_text(_CLAUDE)
    # By a shell: a `#!` line takes no path with a space in it.
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(body))} "$@"\n')
    program.chmod(0o755)
    return program
