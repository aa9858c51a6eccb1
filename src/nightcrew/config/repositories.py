"""The repositories in nightcrew.toml."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nightcrew.config.tables import TABLE, TIME, Place, keys, known_names, named, path_of, read
from nightcrew.core.model import FollowUp, GateSettings, Hooks, Repo, safe_name

_REPO = {**keys(Repo), "path": str, "gates": TABLE, "hooks": TABLE, "followup": TABLE}
_GATES = {**keys(GateSettings), "timeout": TIME}
_HOOKS = {**keys(Hooks), "timeout": TIME}
MERGES = ("never", "now", "green", "queue")
MERGES = ("never", "now", "green", "queue")


def repositories(
    file: Path, tables: list[dict[str, Any]], agents: Iterable[str], forges: Iterable[str]
) -> tuple[Repo, ...]:
    if not tables:
        raise Place(file).wrong("[[repos]]", "there is no repository", 'Add `[[repos]]` with `name` and `path = "."`.')
    repos: dict[str, Repo] = {}
    for number, table in enumerate(tables, 1):
        repo = _repo(Place(file, "[[repos]]", f"(repository {table.get('name', number)!r})"), table, agents, forges)
        # Folders are named by safe_name: "Web" and "web" would share one.
        if (other := repos.get(safe_name(repo.name))) is not None:
            raise Place(file, "[[repos]]").wrong(
                "name", f'"{repo.name}" and "{other.name}" are the same', "Rename one."
            )
        repos[safe_name(repo.name)] = repo
    return tuple(repos.values())


def _repo(place: Place, table: Mapping[str, Any], agents: Iterable[str], forges: Iterable[str]) -> Repo:
    repo = read(place, table, _REPO)
    if "name" not in repo:
        raise place.wrong("name", "it is missing", 'Give the repository a name, like `name = "web"`.')
    named(place, "name", repo["name"])
    repo["url"], detected = _source(place, repo)
    repo["base"] = _base(place, repo.get("base", detected))
    repo["forge"] = known_names(place, "forge", (repo.get("forge", next(iter(forges))),), {*forges, "local"})[0]
    known_names(place, "agents", repo.get("agents", ()), agents)
    gates, hooks = place.within("gates"), place.within("hooks")
    settings = GateSettings(**read(gates, repo.get("gates", {}), _GATES))
    if settings.review:
        known_names(gates, "review", (settings.review,), agents)
    known_names(gates, "order", settings.order, GateSettings().order)
    repo["gates"], repo["hooks"] = settings, Hooks(**read(hooks, repo.get("hooks", {}), _HOOKS))
    after = place.within("followup")
    repo["followup"] = FollowUp(**read(after, repo.get("followup", {}), keys(FollowUp)))
    known_names(after, "ready", (repo["followup"].ready,), ("never", "green"))
    known_names(after, "merge", (repo["followup"].merge,), MERGES)
    return Repo(**repo)


def _source(place: Place, repo: dict[str, Any]) -> tuple[str, str | None]:
    """What git fetches from, and the branch it has checked out (None where that cannot be read)."""
    path: str | None = repo.pop("path", None)
    url: str = repo.get("url", "")
    if (path is None) == (not url):
        what = "neither path nor url is given" if path is None else "both path and url are given"
        raise place.wrong("path", what, 'Write one of them: `path = "."` or `url = "https://..."`.')
    if path is not None:
        folder = path_of(place, "path", place.file.parent, path)
        return str(folder), _checked_out(place, folder)
    if ":" not in url or url.startswith("-"):
        raise place.wrong("url", f'"{url}" is no address', f'For a folder on this machine write `path = "{url}"`.')
    if re.match(r"[a-z+]+://[^/@]*:[^/@]*@", url, re.I):
        raise place.wrong(
            "url", "it carries a password", "Remove it; use a git credential helper or the forge's token."
        )
    return url, "main"


def _checked_out(place: Place, folder: Path) -> str | None:
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


def _base(place: Place, base: str | None) -> str:
    if base is None:
        raise place.wrong("base", "the branch cannot be told from HEAD", 'Write it: `base = "main"`.')
    if not base.strip():
        raise place.wrong("base", "it is empty", "Name a branch, or leave the line out to take what HEAD names.")
    if re.search(r"[\x00-\x20~^:?*\[\\\x7f]|\.\.|@\{|//|^[-/.]|[/.]$|\.lock$", base) or base.startswith("refs/"):
        raise place.wrong("base", f'"{base}" is no branch name', 'Write the plain name, like `base = "main"`.')
    return base
