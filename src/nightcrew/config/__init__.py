"""nightcrew.toml -> frozen types, read once; every mistake is named with its file, its key and its cure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from nightcrew.config.listeners import Proxy, Webhooks, proxy, webhooks
from nightcrew.config.repositories import repositories
from nightcrew.config.tables import (
    CREW,
    NUMBER,
    SOME,
    TABLE,
    TIME,
    Place,
    convert,
    keys,
    known_names,
    named,
    path_of,
    read,
)
from nightcrew.core.model import Budget, Cap, Caps, Keep, Policy, Repo
from nightcrew.errors import ConfigError

__all__ = [
    "FILE_NAME", "NO_SECRET", "VARIABLE", "Adapter", "Config", "Proxy", "Secret", "Webhooks", "find", "load", "secret",
]  # fmt: skip

FILE_NAME = "nightcrew.toml"
VARIABLE = "NIGHTCREW_CONFIG"
WORKSPACES = ("auto", "overlay", "reflink", "copy", "checkout", "worktree")
DATABASES = ("postgresql://", "postgresql+psycopg://", "sqlite:///")

Adapter = tuple[str, Mapping[str, object]]  # its kind, and the settings it checks itself


class Secret(str):
    """Text that prints as `***`; `reveal()` gives the plain text. Only for the call that needs it."""

    __slots__ = ()

    def reveal(self) -> str:
        return "".join(self)

    def __repr__(self) -> str:
        return "'***'" if self else "''"

    def __str__(self) -> str:
        return "***" if self else ""

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


NO_SECRET = Secret("")


@dataclass(frozen=True, repr=False)
class Config:
    """All that nightcrew.toml says. Times in seconds, paths absolute. `repr` shows no setting that may be secret."""

    path: Path
    home: Path  # the folder of the file; relative paths in it start here
    state_dir: Path
    workspaces_dir: Path
    boards: Mapping[str, Adapter]
    forges: Mapping[str, Adapter]
    agents: Mapping[str, Adapter]
    agents_order: tuple[str, ...]
    repos: tuple[Repo, ...]
    policy: Policy
    keep: Keep = Keep()
    name: str = "nightcrew"
    database_url: Secret = NO_SECRET  # "" = SQLite in state_dir
    scan_every: float = 120.0
    workspace: str = "auto"  # one of WORKSPACES
    identity: tuple[str, str] = ("nightcrew", "nightcrew@localhost")  # who commits: name, address
    webhooks: Webhooks = Webhooks()
    proxy: Proxy = Proxy()

    def __repr__(self) -> str:
        names = ", ".join(repo.name for repo in self.repos)
        kinds = {name: kind for group in (self.boards, self.forges, self.agents) for name, (kind, _) in group.items()}
        return f"Config({str(self.path)!r}, name={self.name!r}, repos=[{names}], adapters={kinds}, {self.policy})"


_TOP: dict[str, Any] = {
    "crew": TABLE, "limits": TABLE, "board": TABLE, "boards": dict[str, TABLE], "forges": dict[str, TABLE],
    "agents": dict[str, TABLE], "repos": list[TABLE], "keep": TABLE,
    "webhooks": TABLE, "proxy": TABLE,
}  # fmt: skip
_AT_LEAST_ONE = ("max_running", "max_attempts", "failures_per_model", "fast_fails_to_park")
_LIMITS = {
    **keys(Policy), **dict.fromkeys(keys(Caps), TABLE), "attempt": TABLE,
    **dict.fromkeys(_AT_LEAST_ONE, SOME), **dict.fromkeys(("backoff_base", "backoff_max", "probe_seconds"), TIME),
    "keep_back": Annotated[float, Meta(ge=0, lt=1)], **dict.fromkeys(("lanes", "boards", "labels"), dict[str, SOME]),
}  # fmt: skip
del _LIMITS["budget"], _LIMITS["caps"]  # written as [limits.attempt], [limits.ticket], ...
_ATTEMPT = {**keys(Budget), "minutes": NUMBER, "stall_minutes": NUMBER}


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the file at `path`, else at $NIGHTCREW_CONFIG, else nightcrew.toml here or above. Raises ConfigError."""
    file = find(path, environ)
    place = Place(file)
    top = read(place, _parse(file), _TOP)
    crew = _crew(Place(file, "[crew]"), top.get("crew", {}), file.parent, environ)
    boards = _boards(place, top)
    agents = _adapters(Place(file, "[agents]"), top.get("agents", {}))
    forges = _adapters(Place(file, "[forges]"), top.get("forges", {})) or {"local": ("local", {})}
    if not agents:
        raise place.wrong("[agents]", "there is no agent", "Name one: `[agents.claude]`, or `[agents.codex]`.")
    order = known_names(Place(file, "[crew]"), "agents", crew.pop("agents", ()), agents) or tuple(agents)[:1]
    repos = repositories(file, top.get("repos", []), agents, forges)
    if any(repo.forge == "local" for repo in repos):
        forges.setdefault("local", ("local", {}))
    policy = _policy(Place(file, "[limits]"), top.get("limits", {}))
    keep = Keep(**read(Place(file, "[keep]"), top.get("keep", {}), keys(Keep)))
    return Config(file, file.parent, boards=boards, forges=forges, agents=agents, agents_order=order,
                  repos=repos, policy=policy, keep=keep, webhooks=webhooks(file, top.get("webhooks", {})),
                  proxy=proxy(file, top.get("proxy", {}), forges), **crew)  # fmt: skip


def find(path: Path | None, environ: Mapping[str, str]) -> Path:
    """The absolute path of the file that `load` reads. Raises ConfigError when there is none."""
    named = path or (Path(environ[VARIABLE]) if environ.get(VARIABLE) else None)
    if named is None:
        here = Path.cwd()
        found = next((up / FILE_NAME for up in (here, *here.parents) if (up / FILE_NAME).is_file()), None)
        if found:
            return found
        raise ConfigError(f"There is no {FILE_NAME} in {here} or above it.",
                          hint="Run `nightcrew init` in your repository, or name the file with --config.")  # fmt: skip
    file = path_of(Place(named), "", Path.cwd(), str(named))
    if not file.is_file():
        why = "is a folder, not a file" if file.is_dir() else "there is no such file"
        told = "--config" if path else f"${VARIABLE}"
        raise ConfigError(f"{file}: {why} ({told}).", hint="Name an existing nightcrew.toml, or run `nightcrew init`.")
    return file


def secret(value: str, environ: Mapping[str, str], where: str = "this setting") -> Secret:
    """`value`, or for "$NAME" what the environment says. Raises ConfigError naming `where` when it says nothing."""
    if not re.fullmatch(r"\$[A-Za-z_][A-Za-z0-9_]*", value):
        return Secret(value)
    if not environ.get(value[1:]):
        raise ConfigError(f"{where}: the environment has no {value[1:]}.", hint=f"Set it: export {value[1:]}=...")
    return Secret(environ[value[1:]])


def _parse(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}).", hint="Check its permissions.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: byte {error.start} is not UTF-8 text.", hint="Save the file as UTF-8.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        said = str(error).rstrip(".")
        raise ConfigError(f"{file}: not valid TOML: {said}.", hint="Text needs quotes, lists need [ ].") from error
    if not table:
        raise ConfigError(f"{file}: the file says nothing.", hint="Delete it and run `nightcrew init`.")
    return table


def _crew(place: Place, table: Mapping[str, Any], home: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    crew = read(place, table, CREW)
    for key in ("name", "state_dir", "workspaces_dir"):
        if key in crew and not crew[key].strip():
            raise place.wrong(key, "it is empty", "Give it a value, or leave the line out.")
    state = path_of(place, "state_dir", home, crew.get("state_dir", ".nightcrew"))
    crew["state_dir"] = state
    crew["workspaces_dir"] = path_of(
        place, "workspaces_dir", home, crew.get("workspaces_dir", str(state / "workspaces"))
    )
    known_names(place, "workspace", (crew.get("workspace", "auto"),), WORKSPACES)
    if any(re.search(r"[<>\x00-\x1f]", part) for part in crew.get("identity", ())):
        raise place.wrong("identity", "git takes no < > or line break there", 'Like ["nightcrew", "crew@example.com"].')
    crew["database_url"] = url = secret(crew.get("database_url", ""), environ, f"{place.file}: [crew] database_url")
    if url and not url.startswith(DATABASES):
        raise place.wrong("database_url", "no such kind of database", f"It begins with {' or '.join(DATABASES)}.")
    return crew


def _policy(place: Place, table: Mapping[str, Any]) -> Policy:
    limits = read(place, table, _LIMITS)
    inner = place.within("attempt")
    budget = read(inner, limits.pop("attempt", {}), _ATTEMPT)
    for key, minutes in (("seconds", "minutes"), ("stall_seconds", "stall_minutes")):
        if minutes in budget:
            if key in budget:
                raise inner.wrong(minutes, f"{key} says it too", "Keep one of the two.")
            budget[key] = budget.pop(minutes) * 60
    caps = {name: Cap(**read(place.within(name), limits.pop(name, {}), keys(Cap))) for name in keys(Caps)}
    policy = Policy(**limits, budget=Budget(**budget), caps=Caps(**caps))
    if policy.backoff_max < policy.backoff_base:
        raise place.wrong("backoff_max", "it is less than backoff_base", "Raise it, or lower backoff_base.")
    return policy


def _boards(place: Place, top: Mapping[str, Any]) -> dict[str, Adapter]:
    if "board" in top and "boards" in top:
        raise place.wrong("[board]", "there is [boards] too", "Move it to [boards.NAME].")
    if "board" in top:
        only = Place(place.file, "[board]")
        kind = convert(only, "kind", top["board"].get("kind", ""), str)
        if not kind:
            raise only.wrong("kind", "it is missing", 'Say what kind of board it is, like `kind = "folder"`.')
        return _adapters(only, {kind: top["board"]})
    if not top.get("boards"):
        raise place.wrong("[board]", "there is no board", 'Add `[board]` with `kind = "folder"`, `path = "tickets"`.')
    return _adapters(Place(place.file, "[boards]"), top["boards"])


def _adapters(place: Place, tables: Mapping[str, dict[str, Any]]) -> dict[str, Adapter]:
    """Name -> (kind, settings); the kind is the name where nothing else is said."""
    found: dict[str, Adapter] = {}
    for name, table in tables.items():
        kind = convert(place.within(name), "kind", table.get("kind", name), str)
        settings = {key: value for key, value in table.items() if key != "kind"}
        found[named(place, name, name)] = (named(place, f"{name} kind", kind), settings)
    return found
