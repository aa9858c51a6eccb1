"""What all agents' logins have in common: where a secret comes from, whose account it is, and files that go stale.

A secret is never in nightcrew.toml: there it is named, `"$NAME"`, and taken from the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from nightcrew.core.model import Seat
from nightcrew.errors import ConfigError

__all__ = ["folder", "home", "host_of", "named", "seat", "stale", "value_of", "whole", "word_for"]

_NAME = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


def named(where: str, key: str, written: str) -> str:
    """The variable that `"$NAME"` names, "" for "". Raises ConfigError, without showing it, for a secret itself."""
    found = _NAME.fullmatch(written)
    if written and not found:
        raise ConfigError(
            f'{where} {key}: this is no name of a variable like "$MY_TOKEN"; a secret does not belong into the file.',
            hint=f'Write {key} = "$MY_TOKEN", and set MY_TOKEN where nightcrew is started.',
        )
    return found[1] if found else ""


def value_of(where: str, key: str, variable: str) -> str:
    """What the environment says for it. Raises ConfigError naming the variable when it says nothing."""
    if not os.environ.get(variable):
        raise ConfigError(
            f"{where} {key}: the environment has no {variable}.",
            hint=f"Set it where nightcrew is started: export {variable}=...",
        )
    return os.environ[variable]


def folder(where: str, key: str, written: str) -> Path | None:
    """A folder that is named from the root or from `~`; None for "". Raises ConfigError for any other."""
    if not written:
        return None
    path = whole(written)
    if not path.is_absolute():
        raise ConfigError(f"{where} {key}: {written} is not a whole path.", hint=f'Write {key} = "~/{written}".')
    return path


def home() -> Path:
    """The owner's home; the root for a user without one, as in some containers."""
    return whole("~/") if whole("~/").is_absolute() else Path("/")


def whole(written: str) -> Path:
    """A path with its `~` filled in, where that is known."""
    return Path(os.path.expanduser(written))  # noqa: PTH111 - pathlib's raises for a user without a home


def word_for(secret: str) -> str:
    """A word that is the same for the same secret and does not show it; "" for ""."""
    return sha256(f"nightcrew login {secret}".encode()).hexdigest()[:12] if secret else ""


def host_of(url: str) -> str:
    """Host and port of an address, "" for what is none; never the name and password that it may hold.

    >>> host_of("https://me:secret@llm.example.com/v1"), host_of("nonsense")
    ('llm.example.com', '')
    """
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port}" if parts.hostname and parts.port else parts.hostname or ""
    except ValueError:
        return ""


def seat(agent: str, account: str, provider: str, own: Mapping[str, str], usual: Mapping[str, str]) -> Seat:
    """The lane of an agent: whose servers, whose account.

    `own` is what the owner's table says of login and provider, by what it is; `usual` is what the same would be without
    a word. Agents whose tables say the same share a lane, whatever their names; what differs names the account, unless
    `account` does. So two ladders of one login are one lane, and two logins never are.
    """
    different = [said for what, said in own.items() if said and said != usual.get(what, "")]
    return Seat(provider, account or "+".join(dict.fromkeys(map(_label, different))), agent)


def _label(said: str) -> str:
    """A short name for a folder or a variable.

    >>> _label("/home/me/.claude-work"), _label("$WORK_TOKEN"), _label("bedrock")
    ('claude-work', 'work_token', 'bedrock')
    """
    return re.sub(r"[^a-z0-9.:_-]+", "-", said.rstrip("/").rpartition("/")[2].lower()).strip("-.") or "own"


def stale(file: Path) -> str:
    """Why a login in this file cannot be kept fresh by those who use it, "" when it can.

    Agents renew a login by writing a new file in its place: that needs a folder they may write to, and a file that
    lies in it; a file that is mounted on its own (a container's `-v auth.json:...`) stays the one it was.
    """
    try:
        if file.is_symlink() and not os.access(file.resolve().parent, os.W_OK):
            return f"{file} leads into a folder that cannot be written to"
        if not os.access(file.parent, os.W_OK) or os.statvfs(file.parent).f_flag & os.ST_RDONLY:
            return f"the folder {file.parent} cannot be written to"
        if not os.access(file, os.W_OK):
            return f"{file} cannot be written to"
        if not file.is_symlink() and (file.stat().st_dev != file.parent.stat().st_dev or _mounted(file)):
            return f"{file} is mounted on its own"
    except OSError as error:
        return f"{file} cannot be looked at: {error.strerror}"
    return ""


def _mounted(file: Path) -> bool:
    """Whether something is mounted on the file; a bind mount of the same disk shows in no other way (Linux)."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    there = str(file.resolve()).replace(" ", "\\040")
    return any(line.split(" ")[4] == there for line in mounts.splitlines() if line.count(" ") > 4)
