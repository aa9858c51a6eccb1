"""What `nightcrew init` does: look around, and write a nightcrew.toml that works as it is and explains itself."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from nightcrew.errors import ConfigError
from nightcrew.setup.found import TICKETS, Installed, Survey, survey
from nightcrew.setup.kinds import KINDS, Kind, Pulls, Wanted, guess, place_of, pulls_for
from nightcrew.setup.template import config_text, repo_name, toml

__all__ = [
    "KINDS", "Installed", "Kind", "Pulls", "Survey", "Wanted", "config_text", "free", "guess", "place_of", "pulls_for",
    "survey", "write_config",
]  # fmt: skip

EXAMPLE = """\
---
title: Say hello in the README
state: example
repo: {repo}
priority: 3
labels: [docs]
---
This is an example and is not worked: its state is `example`. Set `state: open`, or copy this file, to give the crew
a ticket. Say what is wanted and how one can see that it is done.

- The README begins with one sentence that says what the project is for.
- Nothing else changes.
"""


def free(path: Path) -> None:
    """Raises ConfigError when there is a file at `path`."""
    if path.exists():
        raise _taken(path)


def write_config(found: Survey, path: Path, wanted: Wanted | None = None) -> str:
    """Write `config_text` to `path`; for a folder board with a tickets folder beside it when there is none.

    Returns the text. Raises ConfigError, changing nothing, when the file exists or cannot be written.
    """
    text = config_text(found, path.parent, wanted)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}).", hint="Choose another folder.") from error
    # The state folder hides itself from git, so that nothing of it is ever committed.
    _new_file(path.parent / ".nightcrew" / ".gitignore", "*\n")
    if wanted is None and not (path.parent / TICKETS).exists():
        _new_file(path.parent / TICKETS / "example.md", EXAMPLE.format(repo=toml(repo_name(found.root))))
    return text


def _taken(path: Path) -> ConfigError:
    return ConfigError(f"{path} is there already; nothing was changed.", hint="Edit it, or move it away.")


def _new_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
        file.write(text)
