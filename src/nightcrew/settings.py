"""An adapter's own table of nightcrew.toml as a frozen type; every mistake is named with its key and its cure."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from nightcrew.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)
PAGE = "See docs/reference/configuration.md."


def read_settings(kind: type[S], where: str, table: Mapping[str, object], cures: Mapping[str, str] | None = None) -> S:
    """The table as `kind`, whose fields are the known keys. `where` is how the owner writes the table: `[agents.me]`.

    Raises ConfigError naming the key: an unknown one with the nearest that is known, a wrong or missing value with what
    `cures` says for that key, a `url` that is no address of a server.
    """
    known = kind.__struct_fields__
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, 1, 0.5)
            hint = (f"Did you mean `{near[0]}`? " if near else "") + f"Known: {', '.join(sorted(known))}."
            raise ConfigError(f"{where} {key}: unknown key.", hint=hint)
    if not is_address(url := table.get("url", "https://localhost")):
        raise ConfigError(
            f"{where} url: {url!r} is no address of a server.", hint="Write it like https://acme.example."
        )
    try:
        return msgspec.convert(dict(table), kind)
    except msgspec.ValidationError as error:
        what, _, at = str(error).partition(" - at ")
        found = re.search(r"\$\.(\w+)", at) or re.search(r"`(\w+)`", what)
        key = found[1] if found else "settings"
        raise ConfigError(f"{where} {key}: {what}.", hint=(cures or {}).get(key) or _without(kind, key)) from error


def environment(where: str, env: Mapping[str, str], passed: Iterable[str] = ()) -> dict[str, str]:
    """The variables in `env`, after those of `passed` that nightcrew itself has.

    A value "$NAME" is taken from nightcrew's environment, so that no secret is in the file. Raises ConfigError when it
    is not there.
    """
    for key, value in env.items():
        if value.startswith("$") and value[1:] not in os.environ:
            raise ConfigError(
                f"{where} env.{key}: the environment has no {value[1:]}.",
                hint=f"Set it where nightcrew is started: export {value[1:]}=...",
            )
    own = {key: os.environ[value[1:]] if value.startswith("$") else value for key, value in env.items()}
    return {name: os.environ[name] for name in passed if name in os.environ} | own


def secret(where: str, key: str, value: str) -> str:
    """A credential as it is written in the file: "$NAME" is taken from nightcrew's environment.

    Raises ConfigError when it is empty or the environment has none; no message shows it.
    """
    name = value.removeprefix("$") if value.startswith("$") else ""
    found = os.environ.get(name, "") if name else value
    if not found.strip():
        what = f"the environment has no {name}" if name else "there is none"
        cure = (
            f'Set it where nightcrew is started: export {name or "TOKEN"}=..., and write {key} = "${name or "TOKEN"}".'
        )
        raise ConfigError(f"{where} {key}: {what}.", hint=cure)
    return found.strip()


def is_address(url: object) -> bool:
    """Whether a server can be at it.

    >>> [is_address(url) for url in ("http://[::1]:3000/jira", "acme.example", "https://acme.example:x")]
    [True, False, False]
    """
    try:
        parts = urlsplit(str(url))
        return bool(parts.scheme and parts.hostname and parts.port != 0)
    except ValueError:
        return False


def _without(kind: type[msgspec.Struct], key: str) -> str:
    default = next((field.default for field in msgspec.structs.fields(kind) if field.name == key), msgspec.NODEFAULT)
    return PAGE if default is msgspec.NODEFAULT else f"Without it, it is {default!r}."
