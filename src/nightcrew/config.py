"""nightcrew.toml -> frozen types, read once; every mistake is named with its file, its key and its cure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from nightcrew.core.model import Budget, Cap, Caps, GateSettings, Hooks, Keep, Policy, Repo, safe_name
from nightcrew.errors import ConfigError

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

    def __repr__(self) -> str:
        names = ", ".join(repo.name for repo in self.repos)
        kinds = {name: kind for group in (self.boards, self.forges, self.agents) for name, (kind, _) in group.items()}
        return f"Config({str(self.path)!r}, name={self.name!r}, repos=[{names}], adapters={kinds}, {self.policy})"


@dataclass(frozen=True)
class _Place:
    """Where something was written, for messages. `table` as the owner writes it, `note` tells repositories apart."""

    file: Path
    table: str = ""
    note: str = ""

    def wrong(self, key: str, what: str, cure: str) -> ConfigError:
        where = " ".join(part for part in (self.table, key, self.note) if part)
        return ConfigError(f"{self.file}: {where}: {what}." if where else f"{self.file}: {what}.", hint=cure)

    def within(self, key: str) -> _Place:
        return _Place(self.file, f"[{self.table.strip('[]')}.{key}]", self.note)


_COUNT = Annotated[int, Meta(ge=0, le=10**15)]
_SOME = Annotated[int, Meta(ge=1, le=10**6)]
_NUMBER = Annotated[float, Meta(ge=0, le=1e9)]  # a moment plus more than this is no date any more
_TIME = Annotated[float, Meta(gt=0, le=1e9)]
_TABLE = dict[str, Any]


def _keys(cls: type) -> dict[str, Any]:
    """The fields of a frozen type as TOML keys, with numbers that can be neither negative nor endless."""
    return {name: {int: _COUNT, float: _NUMBER}.get(hint, hint) for name, hint in get_type_hints(cls).items()}


_TOP: dict[str, Any] = {
    "crew": _TABLE, "limits": _TABLE, "board": _TABLE, "boards": dict[str, _TABLE], "forges": dict[str, _TABLE],
    "agents": dict[str, _TABLE], "repos": list[_TABLE], "keep": _TABLE,
}  # fmt: skip
_CREW: dict[str, Any] = {
    "name": str, "state_dir": str, "database_url": str, "scan_every": _TIME, "workspace": str, "workspaces_dir": str,
    "identity": tuple[str, str], "agents": tuple[str, ...],
}  # fmt: skip
_AT_LEAST_ONE = ("max_running", "max_attempts", "failures_per_model", "fast_fails_to_park")
_LIMITS = {
    **_keys(Policy), **dict.fromkeys(_keys(Caps), _TABLE), "attempt": _TABLE,
    **dict.fromkeys(_AT_LEAST_ONE, _SOME), **dict.fromkeys(("backoff_base", "backoff_max", "probe_seconds"), _TIME),
    "keep_back": Annotated[float, Meta(ge=0, lt=1)], **dict.fromkeys(("lanes", "boards", "labels"), dict[str, _SOME]),
}  # fmt: skip
del _LIMITS["budget"], _LIMITS["caps"]  # written as [limits.attempt], [limits.ticket], ...
_ATTEMPT = {**_keys(Budget), "minutes": _NUMBER, "stall_minutes": _NUMBER}
_REPO = {**_keys(Repo), "path": str, "gates": _TABLE, "hooks": _TABLE}
_GATES = {**_keys(GateSettings), "timeout": _TIME}
_HOOKS = {**_keys(Hooks), "timeout": _TIME}


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read the file at `path`, else at $NIGHTCREW_CONFIG, else nightcrew.toml here or above. Raises ConfigError."""
    file = find(path, environ)
    place = _Place(file)
    top = _read(place, _parse(file), _TOP)
    crew = _crew(_Place(file, "[crew]"), top.get("crew", {}), file.parent, environ)
    boards = _boards(place, top)
    agents = _adapters(_Place(file, "[agents]"), top.get("agents", {}))
    forges = _adapters(_Place(file, "[forges]"), top.get("forges", {})) or {"local": ("local", {})}
    if not agents:
        raise place.wrong("[agents]", "there is no agent", "Name one: `[agents.claude]`, or `[agents.codex]`.")
    order = _known(_Place(file, "[crew]"), "agents", crew.pop("agents", ()), agents) or tuple(agents)[:1]
    repos = _repos(file, top.get("repos", []), agents, forges)
    if any(repo.forge == "local" for repo in repos):
        forges.setdefault("local", ("local", {}))
    policy = _policy(_Place(file, "[limits]"), top.get("limits", {}))
    keep = Keep(**_read(_Place(file, "[keep]"), top.get("keep", {}), _keys(Keep)))
    return Config(file, file.parent, boards=boards, forges=forges, agents=agents, agents_order=order,
                  repos=repos, policy=policy, keep=keep, **crew)  # fmt: skip


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
    file = _path(_Place(named), "", Path.cwd(), str(named))
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


def _read(place: _Place, table: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a table, each of the type `known` gives its key. Raises ConfigError."""
    for key in table:
        if key not in known:
            shown = f"[{key}]" if not place.table and isinstance(table[key], dict | list) else key
            raise place.wrong(shown, "unknown key" if place.table else "unknown here", _nearest(key, place, known))
    return {key: _convert(place, key, value, known[key]) for key, value in table.items()}


def _nearest(key: str, place: _Place, known: Iterable[str]) -> str:
    if not place.table and key in _CREW:
        return f"It belongs under [crew]: `[crew]` and below it `{key} = ...`."
    near = get_close_matches(key, known, 1)
    return (f"Did you mean `{near[0]}`? " if near else "") + f"Known: {', '.join(sorted(known))}."


_WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list",
    "object": "a table", "date": "a date", "datetime": "a date", "time": "a time",
}  # fmt: skip
_SAMPLES = {"int": "3", "float": "1.5", "str": '"text"', "bool": "true", "array": '["one", "two"]'}


def _convert(place: _Place, key: str, value: object, kind: Any) -> Any:
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


def _sample(place: _Place, key: str, what: str, path: str) -> str:
    """A right line for this key, to write it like."""
    wanted = "array" if path else "".join(re.findall(r"^Expected `(\w+)`", what))
    if wanted == "array" and key == "repos":
        return "[[repos]]"
    table = f"{place.table.strip('[]')}." if place.table else ""
    return f"[{table}{key}]" if wanted == "object" else f"{key} = {_SAMPLES.get(wanted, '...')}"


def _known(place: _Place, key: str, names: tuple[str, ...], known: Iterable[str]) -> tuple[str, ...]:
    """`names` when all of them are known and none stands twice; else raises ConfigError with the nearest one."""
    for at, name in enumerate(names):
        if name not in known:
            raise place.wrong(key, f'"{name}" is not known', _nearest(name, _Place(place.file, key), known))
        if name in names[:at]:
            raise place.wrong(key, f'"{name}" stands there twice', "Name each one once.")
    return names


def _named(place: _Place, key: str, name: str) -> str:
    """A name that can stand in ids, folders and refs."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise place.wrong(key, f'"{name}" cannot be a name', "Use letters, digits, `-`, `_` and `.`.")
    return name


def _path(place: _Place, key: str, home: Path, text: str) -> Path:
    try:
        return (home / Path(text).expanduser()).resolve()
    except (RuntimeError, OSError) as error:  # ~nobody, a loop of links
        raise place.wrong(key, f'"{text}" cannot be followed ({error})', "Write the whole path.") from error


def _crew(place: _Place, table: Mapping[str, Any], home: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    crew = _read(place, table, _CREW)
    for key in ("name", "state_dir", "workspaces_dir"):
        if key in crew and not crew[key].strip():
            raise place.wrong(key, "it is empty", "Give it a value, or leave the line out.")
    state = _path(place, "state_dir", home, crew.get("state_dir", ".nightcrew"))
    crew["state_dir"] = state
    crew["workspaces_dir"] = _path(place, "workspaces_dir", home, crew.get("workspaces_dir", str(state / "workspaces")))
    _known(place, "workspace", (crew.get("workspace", "auto"),), WORKSPACES)
    if any(re.search(r"[<>\x00-\x1f]", part) for part in crew.get("identity", ())):
        raise place.wrong("identity", "git takes no < > or line break there", 'Like ["nightcrew", "crew@example.com"].')
    crew["database_url"] = url = secret(crew.get("database_url", ""), environ, f"{place.file}: [crew] database_url")
    if url and not url.startswith(DATABASES):
        raise place.wrong("database_url", "no such kind of database", f"It begins with {' or '.join(DATABASES)}.")
    return crew


def _policy(place: _Place, table: Mapping[str, Any]) -> Policy:
    limits = _read(place, table, _LIMITS)
    inner = place.within("attempt")
    budget = _read(inner, limits.pop("attempt", {}), _ATTEMPT)
    for key, minutes in (("seconds", "minutes"), ("stall_seconds", "stall_minutes")):
        if minutes in budget:
            if key in budget:
                raise inner.wrong(minutes, f"{key} says it too", "Keep one of the two.")
            budget[key] = budget.pop(minutes) * 60
    caps = {name: Cap(**_read(place.within(name), limits.pop(name, {}), _keys(Cap))) for name in _keys(Caps)}
    policy = Policy(**limits, budget=Budget(**budget), caps=Caps(**caps))
    if policy.backoff_max < policy.backoff_base:
        raise place.wrong("backoff_max", "it is less than backoff_base", "Raise it, or lower backoff_base.")
    return policy


def _boards(place: _Place, top: Mapping[str, Any]) -> dict[str, Adapter]:
    if "board" in top and "boards" in top:
        raise place.wrong("[board]", "there is [boards] too", "Move it to [boards.NAME].")
    if "board" in top:
        only = _Place(place.file, "[board]")
        kind = _convert(only, "kind", top["board"].get("kind", ""), str)
        if not kind:
            raise only.wrong("kind", "it is missing", 'Say what kind of board it is, like `kind = "folder"`.')
        return _adapters(only, {kind: top["board"]})
    if not top.get("boards"):
        raise place.wrong("[board]", "there is no board", 'Add `[board]` with `kind = "folder"`, `path = "tickets"`.')
    return _adapters(_Place(place.file, "[boards]"), top["boards"])


def _adapters(place: _Place, tables: Mapping[str, dict[str, Any]]) -> dict[str, Adapter]:
    """Name -> (kind, settings); the kind is the name where nothing else is said."""
    found: dict[str, Adapter] = {}
    for name, table in tables.items():
        kind = _convert(place.within(name), "kind", table.get("kind", name), str)
        settings = {key: value for key, value in table.items() if key != "kind"}
        found[_named(place, name, name)] = (_named(place, f"{name} kind", kind), settings)
    return found


def _repos(file: Path, tables: list[dict[str, Any]], agents: Iterable[str], forges: Iterable[str]) -> tuple[Repo, ...]:
    if not tables:
        raise _Place(file).wrong("[[repos]]", "there is no repository", 'Add `[[repos]]` with `name` and `path = "."`.')
    repos: dict[str, Repo] = {}
    for number, table in enumerate(tables, 1):
        repo = _repo(_Place(file, "[[repos]]", f"(repository {table.get('name', number)!r})"), table, agents, forges)
        # Folders are named by safe_name: "Web" and "web" would share one.
        if (other := repos.get(safe_name(repo.name))) is not None:
            raise _Place(file, "[[repos]]").wrong(
                "name", f'"{repo.name}" and "{other.name}" are the same', "Rename one."
            )
        repos[safe_name(repo.name)] = repo
    return tuple(repos.values())


def _repo(place: _Place, table: Mapping[str, Any], agents: Iterable[str], forges: Iterable[str]) -> Repo:
    repo = _read(place, table, _REPO)
    if "name" not in repo:
        raise place.wrong("name", "it is missing", 'Give the repository a name, like `name = "web"`.')
    _named(place, "name", repo["name"])
    repo["url"], detected = _source(place, repo)
    repo["base"] = _base(place, repo.get("base", detected))
    repo["forge"] = _known(place, "forge", (repo.get("forge", next(iter(forges))),), {*forges, "local"})[0]
    _known(place, "agents", repo.get("agents", ()), agents)
    gates, hooks = place.within("gates"), place.within("hooks")
    settings = GateSettings(**_read(gates, repo.get("gates", {}), _GATES))
    if settings.review:
        _known(gates, "review", (settings.review,), agents)
    _known(gates, "order", settings.order, GateSettings().order)
    repo["gates"], repo["hooks"] = settings, Hooks(**_read(hooks, repo.get("hooks", {}), _HOOKS))
    return Repo(**repo)


def _source(place: _Place, repo: dict[str, Any]) -> tuple[str, str | None]:
    """What git fetches from, and the branch it has checked out (None where that cannot be read)."""
    path: str | None = repo.pop("path", None)
    url: str = repo.get("url", "")
    if (path is None) == (not url):
        what = "neither path nor url is given" if path is None else "both path and url are given"
        raise place.wrong("path", what, 'Write one of them: `path = "."` or `url = "https://..."`.')
    if path is not None:
        folder = _path(place, "path", place.file.parent, path)
        return str(folder), _checked_out(place, folder)
    if ":" not in url or url.startswith("-"):
        raise place.wrong("url", f'"{url}" is no address', f'For a folder on this machine write `path = "{url}"`.')
    if re.match(r"[a-z+]+://[^/@]*:[^/@]*@", url, re.I):
        raise place.wrong(
            "url", "it carries a password", "Remove it; use a git credential helper or the forge's token."
        )
    return url, "main"


def _checked_out(place: _Place, folder: Path) -> str | None:
    """The branch that HEAD names, told by reading files alone."""
    if not folder.is_dir():
        raise place.wrong("path", f"there is no folder {folder}", "Correct the path; it starts at this file's folder.")
    git = folder / ".git"
    if git.is_file():  # a linked worktree or a submodule
        git = folder / git.read_text(errors="replace").removeprefix("gitdir:").strip()
    elif not git.is_dir():
        git = folder
    if not ((git / "HEAD").is_file() and ((git / "objects").is_dir() or (git / "commondir").is_file())):
        above = next((up for up in folder.parents if (up / ".git").exists()), None)
        cure = f"The repository begins at {above}." if above else "Run `git init` there, or correct the path."
        raise place.wrong("path", f"{folder} is not a git repository", cure)
    head = (git / "HEAD").read_text(errors="replace").strip()
    branch = head.removeprefix("ref: refs/heads/")
    return None if branch in (head, ".invalid") else branch  # detached, or kept in a reftable


def _base(place: _Place, base: str | None) -> str:
    if base is None:
        raise place.wrong("base", "the branch cannot be told from HEAD", 'Write it: `base = "main"`.')
    if not base.strip():
        raise place.wrong("base", "it is empty", "Name a branch, or leave the line out to take what HEAD names.")
    if re.search(r"[\x00-\x20~^:?*\[\\\x7f]|\.\.|@\{|//|^[-/.]|[/.]$|\.lock$", base) or base.startswith("refs/"):
        raise place.wrong("base", f'"{base}" is no branch name', 'Write the plain name, like `base = "main"`.')
    return base
