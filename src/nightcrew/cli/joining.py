"""How `nightcrew init` joins a board that is a service: the token is checked, places are chosen, a preview is shown."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from nightcrew.app import App, adapter, nearest
from nightcrew.app import run as app_run
from nightcrew.cli.ahead import Ahead, look
from nightcrew.cli.board import one_line, preview_data, preview_text
from nightcrew.cli.show import wrapped
from nightcrew.doctor import about_board, about_forge, forges_served
from nightcrew.errors import BoardError, ConfigError, UsageError
from nightcrew.ports import Served
from nightcrew.setup import KINDS, Kind, Survey, Wanted, config_text, guess, place_of, pulls_for

FOLDER = "folder"
LABEL = "nightcrew"
LISTED = 20  # places that are listed with a number


@dataclass(frozen=True)
class Given:
    """What the command line says. `places` is by option; `label` is None where it says nothing."""

    places: Mapping[str, tuple[str, ...]]
    label: str | None = None
    token: str = ""
    url: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)

    def means_nothing(self) -> None:
        """Raises UsageError when it says anything: a folder has none of it."""
        said = [_option(name) for name, values in self.places.items() if values]
        said += [] if self.label is None else ["--label"]
        said += ["--token-env"] * bool(self.token) + ["--url"] * bool(self.url) + ["--set"] * bool(self.settings)
        if said:
            raise UsageError(f"{said[0]} means nothing for a folder.", hint="Name the board with --board.")


@dataclass(frozen=True)
class Joined:
    """A board that was asked: what was chosen, who we are there, what is missing, what would be taken."""

    wanted: Wanted
    login: str
    missing: tuple[str, ...]
    ahead: Ahead

    def data(self) -> dict[str, Any]:
        """For programs."""
        return {"board": self.wanted.kind.name, "places": list(self.wanted.places), "label": self.wanted.label,
                "token_env": self.wanted.token, "login": self.login, "missing": list(self.missing),
                "forge": self.wanted.pulls.kind if self.wanted.pulls else "local",
                "preview": preview_data(self.ahead)}  # fmt: skip


@dataclass(frozen=True)
class Talk:
    """Questions on the terminal; where there is none, what would be the answer that Enter gives."""

    asks: bool

    def tell(self, text: str) -> None:
        """Something to read before the next question; not part of the result."""
        click.echo(text, err=True)

    def ask(self, question: str, default: str = "") -> str:
        if not self.asks:
            return default
        return str(click.prompt(question, default=default or None, err=True)).strip()

    def kind(self, remote: str) -> str:
        """Which kind of board; the one that the remote tells of is offered first."""
        if not self.asks:
            return FOLDER
        names = [FOLDER, *installed("boards", KINDS)]
        titles = [f"{name:8} {KINDS[name].title if name in KINDS else 'Markdown files in a folder'}" for name in names]
        wished = guess(remote)
        return self.choose("Where are your tickets?", names, titles, wished if wished in names else FOLDER)[0]

    def choose(self, question: str, ids: Sequence[str], names: Sequence[str], default: str, *,
               several: bool = False) -> tuple[str, ...]:  # fmt: skip
        """One or several of these, by number or by id."""
        self.tell(wrapped(question))
        for number, name in enumerate(names[:LISTED], 1):
            self.tell(f"  {number:2}  {one_line(name)}")
        if len(names) > LISTED:
            self.tell(f"      and {len(names) - LISTED} more, by name")
        shown = str(ids.index(default) + 1) if default in ids[:LISTED] else default
        while True:
            said = self.ask("Number or name", shown)
            words = [word.strip() for word in said.split(",") if word.strip()] if several else [said]
            chosen = tuple(dict.fromkeys(_picked(word, ids) for word in words))
            if chosen and all(chosen):
                return chosen
            self.tell(f"That is none of them: a number is 1 to {min(len(ids), LISTED)}.")

    def sure(self, path: Path, joined: Joined | None) -> bool:
        """Whether the file is to be written."""
        anyway = " anyway" if joined and joined.missing else ""
        return click.confirm(f"Write {path}{anyway}?", default=False, err=True)


def _picked(word: str, ids: Sequence[str]) -> str:
    """The id that a number or a name stands for; a name that is not listed is taken as it is, "" for a wrong number."""
    if word.isdigit() and word not in ids:
        return ids[int(word) - 1] if 0 < int(word) <= min(len(ids), LISTED) else ""
    return next((one for one in ids if one.casefold() == word.casefold()), word)


def installed(port: str, names: Iterable[str]) -> list[str]:
    """Those of them that are installed."""
    found = {point.name for point in entry_points(group=f"nightcrew.{port}")}
    return [name for name in names if name in found]


def kinds_here(kind: str) -> str:
    """The kind itself. Raises UsageError for one that is not installed, or that `init` knows nothing of."""
    known = [FOLDER, *installed("boards", KINDS)]
    if kind not in known:
        cure = nearest(kind, known) or f"Known: {', '.join(known)}; any other is written into nightcrew.toml by hand."
        raise UsageError(f"There is no board of kind {kind!r} to set up.", hint=cure)
    return kind


def pairs(words: Iterable[str]) -> dict[str, object]:
    """KEY=VALUE words; a value is what TOML takes it for, else text. Raises UsageError for any other."""
    found: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"\w+", key):
            raise UsageError(f"--set {word}: this is not KEY=VALUE.", hint="Like --set assignee=nightcrew.")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


# -- joining -----------------------------------------------------------------------------------------------------------
def join(name: str, found: Survey, given: Given, talk: Talk) -> Joined:
    """Ask the service, and choose. Raises an error in one sentence; nothing is written anywhere."""
    kind = KINDS[name]
    token = given.token or kind.token
    if not re.fullmatch(r"[A-Za-z_]\w*", token) or (token not in os.environ and not token.isupper()):
        raise UsageError("--token-env takes the name of an environment variable; nothing was written.",
                         hint=f"Put the token itself into one: export {kind.token}=...")  # fmt: skip
    if not os.environ.get(token, "").strip():
        raise ConfigError(f"The environment has no {token}, so {kind.title} cannot be asked; nothing was written.",
                          hint=f"{kind.cure}, then: export {token}=..., or name another with --token-env.")  # fmt: skip
    first = _places(kind, given)
    wanted = Wanted(kind, token, first, url=given.url, more=_more(kind, given, talk))
    nowhere = (kind.any_place,) if kind.any_place and not first else first
    told = app_run(_about(replace(wanted, places=nowhere)))
    talk.tell(wrapped(f"Logged in to {kind.title} as {one_line(str(told['login']))}."))
    wanted = replace(wanted, places=first or _chosen(wanted, found, told, talk), label=_label(given, talk))
    names = wanted.places if kind.routes else tuple(filter(None, [str(wanted.more.get("project", ""))]))
    wanted = replace(
        wanted, projects=names, pulls=pulls_for(found.remote, wanted, installed("forges", KINDS), os.environ)
    )
    missing, ahead = _tried(found, wanted, talk)
    if more := _projects(wanted, ahead):
        wanted = replace(wanted, projects=more)
        missing, ahead = _tried(found, wanted, talk)
    for said in missing:
        talk.tell(wrapped(f"Missing: {said}"))
    talk.tell(f"\n{preview_text(ahead, everything=False)}\n")
    return Joined(wanted, str(told["login"]), missing, ahead)


def _tried(found: Survey, wanted: Wanted, talk: Talk) -> tuple[tuple[str, ...], Ahead]:
    """What is missing, and what would be taken, by the very file that would be written."""
    with _trial(found, wanted) as app:
        missing = app_run(_missing(app))
        if missing and not talk.asks:
            raise BoardError(f"The token in {wanted.token} is not enough: {' '.join(missing)} Nothing was written.",
                             hint="Give it that, correct what you named, or name another by --token-env.")  # fmt: skip
        return missing, app_run(look(app, list(app.config.boards), everything=True))


def _projects(wanted: Wanted, ahead: Ahead) -> tuple[str, ...]:
    """The projects that are to be named: those of tickets that are for us, and lead to no repository; () = no more."""
    lost = [one.ticket for one in ahead.preview.left_out if one.unrouted]
    found = dict.fromkeys(ticket.project for ticket in lost if ticket.project)
    return (*wanted.projects, *found) if found.keys() - set(wanted.projects) else ()


async def _about(wanted: Wanted) -> Mapping[str, Any]:
    board = adapter("boards", wanted.kind.name)(wanted.kind.name, wanted.settings(), Path.cwd())
    return await board.about() if isinstance(board, Served) else {"login": "", "places": [], "missing": []}


@contextmanager
def _trial(found: Survey, wanted: Wanted) -> Iterator[App]:
    """nightcrew as the very file that would be written makes it, in a folder that is gone behind the block."""
    with TemporaryDirectory(prefix="nightcrew-init-") as folder:
        path = Path(folder).resolve() / "nightcrew.toml"
        path.write_text(config_text(found, path.parent, wanted), encoding="utf-8")
        yield App.load(path)


async def _missing(app: App) -> tuple[str, ...]:
    """What our credentials may not do on the board and on the forge."""
    rows = [await about_board(app, name) for name in app.config.boards]
    rows += [await about_forge(app, name) for name in forges_served(app)]
    return tuple(dict.fromkeys(one_line(said) for row in rows for said in row["missing"]))


def _places(kind: Kind, given: Given) -> tuple[str, ...]:
    """The places that options name. Raises UsageError for an option that means nothing there."""
    for option, values in given.places.items():
        if values and option not in kind.options:
            known = " or ".join(map(_option, kind.options))
            raise UsageError(f"{_option(option)} means nothing for {kind.title}.", hint=f"Use {known}.")
        if len(values) > 1 and kind.options[option] in kind.single:
            raise UsageError(f"{kind.title} takes one {_option(option)}.", hint="Name more in [boards.NAME] tables.")
    return tuple(
        v for option, values in given.places.items() if kind.options.get(option) == kind.places for v in values
    )


def _more(kind: Kind, given: Given, talk: Talk) -> dict[str, object]:
    """Other settings: those of --set and of further options, and what the kind cannot do without."""
    more: dict[str, object] = dict(given.settings)
    further = {kind.options[option]: values for option, values in given.places.items() if values}
    more |= {key: kind.value(key, values) for key, values in further.items() if key != kind.places}
    for key, what, unless in kind.asks:
        needed = key not in more and not (key == "url" and given.url)
        if needed and unless not in {f"{name}={value}" for name, value in more.items()}:
            more[key] = talk.ask(f"{kind.title} needs {what}")
            if not more[key]:
                option = "--url ..." if key == "url" else f"--set {key}=..."
                raise UsageError(f"{kind.title} needs {what}.", hint=f"Say it: {option}")
    return more


def _chosen(wanted: Wanted, found: Survey, told: Mapping[str, Any], talk: Talk) -> tuple[str, ...]:
    """Whose tickets: what the remote says, or the only place there is, or what is chosen from the list."""
    kind, remote = wanted.kind, place_of(found.remote)
    names = {str(i): str(name) if i == name else f"{i}  {name}" for i, name in told["places"]}
    own = pulls_for(found.remote, wanted, [kind.name], {}) is not None
    default = remote[1] if own else next(iter(names)) if len(names) == 1 else ""
    if talk.asks:
        names = {**({default: names.get(default, default)} if default else {}), **names}
        several = kind.places not in kind.single
        question = f"Whose tickets? Choose a {kind.place}{', or several separated by commas' if several else ''}."
        return talk.choose(question, list(names), list(names.values()), default or next(iter(names), ""),
                           several=several)  # fmt: skip
    if default:
        return (default,)
    some = ", ".join(list(names)[:LISTED]) or "it may see none"
    raise UsageError(f"It is not said which {kind.place} the tickets are in; there is: {one_line(some)}.",
                     hint=f"Name it with {_option(next(iter(kind.options)))}.")  # fmt: skip


def _label(given: Given, talk: Talk) -> str:
    if given.label is not None:
        return given.label
    said = talk.ask("Only tickets with this label are taken (- for all)", LABEL)
    return "" if said == "-" else said


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
