"""Tables of nightcrew.toml, read with types; every mistake is named with its file, its key and its cure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from nightcrew.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """Where something was written, for messages. `table` as the owner writes it, `note` tells repositories apart."""

    file: Path
    table: str = ""
    note: str = ""

    def wrong(self, key: str, what: str, cure: str) -> ConfigError:
        where = " ".join(part for part in (self.table, key, self.note) if part)
        return ConfigError(f"{self.file}: {where}: {what}." if where else f"{self.file}: {what}.", hint=cure)

    def within(self, key: str) -> Place:
        return Place(self.file, f"[{self.table.strip('[]')}.{key}]", self.note)


COUNT = Annotated[int, Meta(ge=0, le=10**15)]
SOME = Annotated[int, Meta(ge=1, le=10**6)]
NUMBER = Annotated[float, Meta(ge=0, le=1e9)]  # a moment plus more than this is no date any more
TIME = Annotated[float, Meta(gt=0, le=1e9)]
TABLE = dict[str, Any]


def keys(cls: type) -> dict[str, Any]:
    """The fields of a frozen type as TOML keys, with numbers that can be neither negative nor endless."""
    return {name: {int: COUNT, float: NUMBER}.get(hint, hint) for name, hint in get_type_hints(cls).items()}


CREW: dict[str, Any] = {
    "name": str, "state_dir": str, "database_url": str, "scan_every": TIME, "workspace": str, "workspaces_dir": str,
    "identity": tuple[str, str], "agents": tuple[str, ...],
}  # fmt: skip


def read(place: Place, table: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a table, each of the type `known` gives its key. Raises ConfigError."""
    for key in table:
        if key not in known:
            shown = f"[{key}]" if not place.table and isinstance(table[key], dict | list) else key
            raise place.wrong(shown, "unknown key" if place.table else "unknown here", nearest(key, place, known))
    return {key: convert(place, key, value, known[key]) for key, value in table.items()}


def nearest(key: str, place: Place, known: Iterable[str]) -> str:
    """The cure for an unknown key: the nearest one that is known."""
    if not place.table and key in CREW:
        return f"It belongs under [crew]: `[crew]` and below it `{key} = ...`."
    near = get_close_matches(key, known, 1)
    return (f"Did you mean `{near[0]}`? " if near else "") + f"Known: {', '.join(sorted(known))}."


_WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list",
    "object": "a table", "date": "a date", "datetime": "a date", "time": "a time",
}  # fmt: skip
_SAMPLES = {"int": "3", "float": "1.5", "str": '"text"', "bool": "true", "array": '["one", "two"]'}


def convert(place: Place, key: str, value: object, kind: Any) -> Any:
    """The value as that type. Raises ConfigError, showing a right line."""
    shown = key if place.table else f"[{key}]"
    try:
        result = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`").replace("[...]", "")
        cure = f"Write it like `{_sample(place, key, what, path)}`."
        raise place.wrong(shown + path, _in_words(what, value), cure) from error
    for text in result if isinstance(result, tuple) else (result,):
        if "\0" in str(text):
            raise place.wrong(shown, "a NUL character cannot be used", "Remove \\u0000.")
        if isinstance(result, tuple) and not text.strip():
            raise place.wrong(shown, "an entry is empty", "Remove the empty entry.")
    return result


def _in_words(what: str, value: object) -> str:
    """What msgspec says of a value, in the words of TOML."""
    said = re.sub(r"`(\w+)`", lambda m: _WORDS.get(m[1], m[1]), what.replace("Expected", "expected"))
    return said if ", got" in said else f"{re.sub(r'[.]0$', '', said)}, got {value!r}"


def _sample(place: Place, key: str, what: str, path: str) -> str:
    """A right line for this key, to write it like."""
    wanted = "array" if path else "".join(re.findall(r"^Expected `(\w+)`", what))
    if wanted == "array" and key == "repos":
        return "[[repos]]"
    table = f"{place.table.strip('[]')}." if place.table else ""
    return f"[{table}{key}]" if wanted == "object" else f"{key} = {_SAMPLES.get(wanted, '...')}"


def known_names(place: Place, key: str, names: tuple[str, ...], known: Iterable[str]) -> tuple[str, ...]:
    """`names` when all of them are known and none stands twice; else raises ConfigError with the nearest one."""
    for at, name in enumerate(names):
        if name not in known:
            raise place.wrong(key, f'"{name}" is not known', nearest(name, Place(place.file, key), known))
        if name in names[:at]:
            raise place.wrong(key, f'"{name}" stands there twice', "Name each one once.")
    return names


def named(place: Place, key: str, name: str) -> str:
    """A name that can stand in ids, folders and refs."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise place.wrong(key, f'"{name}" cannot be a name', "Use letters, digits, `-`, `_` and `.`.")
    return name


def path_of(place: Place, key: str, home: Path, text: str) -> Path:
    """An absolute path; a relative one starts at `home`. Raises ConfigError."""
    try:
        return (home / Path(text).expanduser()).resolve()
    except (RuntimeError, OSError) as error:  # ~nobody, a loop of links
        raise place.wrong(key, f'"{text}" cannot be followed ({error})', "Write the whole path.") from error
