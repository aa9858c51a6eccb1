"""What the tests need from npm, pinned: the real agent CLIs (the native programs inside the packages, no Node needed)
and GitHub's description of its webhooks.

`python -m tests.e2e.agents claude|codex|webhooks` prints where it is, `... packages` what npm has to install.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

PACKAGES = {"claude": "@anthropic-ai/claude-code@2.1.330", "codex": "@openai/codex@0.169.0"}
SCHEMAS = "@octokit/webhooks-schemas@7.6.1"
WEBHOOKS = Path("node_modules/@octokit/webhooks-schemas/schema.json")
ROOT = Path(__file__).resolve().parents[2]

_OS = {"linux": "linux", "darwin": "darwin"}.get(sys.platform, sys.platform)
_ARCH = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine().lower(), "")
# Older npm installs the package for each C library: glibc's sorts first. On musl alone, set NIGHTCREW_CLAUDE.
_PROGRAMS = {
    "claude": f"@anthropic-ai/claude-code-{_OS}-{_ARCH}*/claude",
    "codex": f"@openai/codex-{_OS}-{_ARCH}*/vendor/*/bin/codex",
}


class AgentMissing(Exception):
    """It is not on this machine; the message says where it was looked for and how to get it."""


def program(name: str) -> Path:
    """The native program of `claude` or `codex`, executable. Raises AgentMissing when there is none.

    Looked for in $NIGHTCREW_CLAUDE or $NIGHTCREW_CODEX (the program itself), then in $NIGHTCREW_NPM (a folder npm
    installed into), then in .tools/npm. Never on the PATH: that one is somebody's own, logged in, in any version.
    """
    own = os.environ.get(f"NIGHTCREW_{name.upper()}")
    if own:
        return _checked(Path(own), name)
    for folder in _folders():
        for found in sorted((folder / "node_modules").glob(_PROGRAMS[name])):
            return _checked(found, name)
    raise _missing(name, PACKAGES[name])


def webhooks() -> Path:
    """The JSON Schema of every webhook of GitHub (MIT; read where npm put it). Raises AgentMissing."""
    if found := next((folder / WEBHOOKS for folder in _folders() if (folder / WEBHOOKS).is_file()), None):
        return found
    raise _missing("the description of webhooks", SCHEMAS)


def _missing(name: str, package: str) -> AgentMissing:
    looked = " or ".join(str(folder) for folder in _folders())
    return AgentMissing(
        f"{name} is not in {looked}; to have it: npm install --prefix .tools/npm --ignore-scripts {package}"
    )


def _folders() -> list[Path]:
    given = os.environ.get("NIGHTCREW_NPM")
    return [*([Path(given)] if given else []), ROOT / ".tools" / "npm"]


def _checked(path: Path, name: str) -> Path:
    if not os.access(path, os.X_OK):
        raise AgentMissing(f"{name}: {path} is not a program that can be run")
    return path


def main(what: str) -> str:
    """What the command line prints for `what`."""
    if what == "packages":
        return " ".join([*PACKAGES.values(), SCHEMAS])
    return str(webhooks() if what == "webhooks" else program(what))


if __name__ == "__main__":
    try:
        print(main(sys.argv[1]))
    except AgentMissing as missing:
        sys.exit(f"nightcrew: {missing}")
