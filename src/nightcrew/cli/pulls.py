"""Pull requests of the local forge, and rescued work."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from nightcrew.app import App
from nightcrew.app import run as app_run
from nightcrew.cli.show import as_json, harmless, say, table
from nightcrew.core.model import PullRequest, Repo
from nightcrew.errors import UsageError
from nightcrew.views import pull_row

in_repo = click.option("--repo", default="", help="Which repository (needed when there are several).")
number = click.argument("number", type=int)


@click.group()
def pr() -> None:
    """Look at pull requests and act on them."""


@pr.command("list")
@click.option("--repo", default="", help="Only this repository.")
@click.option("--all", "everything", is_flag=True, help="Also merged and closed ones.")
@as_json
@click.pass_obj
def list_pulls(config: Path | None, repo: str, everything: bool, as_json: bool) -> None:
    """The open pull requests, newest first."""
    app = App.load(config)
    repos = [app.repo_named(repo)] if repo else list(app.repos.values())
    pulls = [p for r in repos for p in app_run(app.forges[r.forge].list(r)) if everything or p.state == "open"]
    rows = [pull_row(p) for p in pulls]
    columns = {"repo": 8, "number": 3, "state": 6, "title": 30}
    say(as_json, {"pull_requests": rows}, lambda: table(rows, columns, "No open pull requests."))


@pr.command("show")
@number
@in_repo
@as_json
@click.pass_obj
def show_pull(config: Path | None, number: int, repo: str, as_json: bool) -> None:
    """A pull request's text, gates and comments."""
    app = App.load(config)
    pull = app_run(_pull(app, app.repo_named(repo), number))
    said = "\n".join(f"{at[:19]} {who}: {text}" for at, who, text in pull.comments)
    data = {**pull_row(pull), "body": pull.body, "comments": [list(c) for c in pull.comments]}
    text = f"{pull.branch} -> {pull.base}\n\n{harmless(pull.body)}\n{harmless(said)}".rstrip()
    say(as_json, data, f"#{pull.number} {harmless(pull.title)} ({pull.state})\n{text}")


async def _pull(app: App, repo: Repo, number: int) -> PullRequest:
    for pull in await app.forges[repo.forge].list(repo):
        if pull.number == number:
            return pull
    raise UsageError(f"{repo.name} has no pull request #{number}.", hint="`nightcrew pr list --all` shows them.")


@pr.command()
@number
@in_repo
@as_json
@click.pass_obj
def diff(config: Path | None, number: int, repo: str, as_json: bool) -> None:
    """The change, as a patch."""
    app = App.load(config)
    found = app.repo_named(repo)
    text = app_run(_reviewing(app, found).diff(found, number))
    shown = harmless(text) if sys.stdout.isatty() else text
    say(as_json, {"repo": found.name, "number": number, "diff": text}, shown.rstrip("\n"))


def _reviewing(app: App, repo: Repo) -> Any:
    forge = app.forges[repo.forge]
    if not hasattr(forge, "merge"):
        raise UsageError(f"Pull requests of {repo.name} are handled on {forge.name} itself.")
    return forge


def _act(
    config: Path | None, repo: str, as_json: bool, done: str, call: Callable[[Any, Repo], Awaitable[PullRequest]]
) -> None:
    app = App.load(config)
    found = app.repo_named(repo)

    async def go() -> PullRequest:
        return await call(_reviewing(app, found), found)

    pull = app_run(go())
    app.store.order("scan")
    app.wake()
    say(as_json, pull_row(pull), f"#{pull.number} {done}.")


@pr.command()
@number
@click.argument("text")
@in_repo
@as_json
@click.pass_obj
def comment(config: Path | None, number: int, text: str, repo: str, as_json: bool) -> None:
    """Say something on a pull request."""
    _act(config, repo, as_json, "commented", lambda forge, r: forge.comment(r, number, getpass.getuser(), text))


@pr.command("request-changes")
@number
@click.argument("text")
@in_repo
@as_json
@click.pass_obj
def request_changes(config: Path | None, number: int, text: str, repo: str, as_json: bool) -> None:
    """Send it back to the crew with what is wrong."""
    _act(config, repo, as_json, "goes back to the crew",
         lambda forge, r: forge.request_changes(r, number, getpass.getuser(), text))  # fmt: skip


@pr.command()
@number
@in_repo
@as_json
@click.pass_obj
def merge(config: Path | None, number: int, repo: str, as_json: bool) -> None:
    """Merge it into its base branch."""
    _act(config, repo, as_json, "merged", lambda forge, r: forge.merge(r, number))


@pr.command()
@number
@in_repo
@as_json
@click.pass_obj
def close(config: Path | None, number: int, repo: str, as_json: bool) -> None:
    """Close it unmerged; the branch stays."""
    _act(config, repo, as_json, "closed", lambda forge, r: forge.close(r, number))


@click.group()
def rescue() -> None:
    """Work that was saved before a cleanup."""


@rescue.command("list")
@as_json
@click.pass_obj
def list_rescued(config: Path | None, as_json: bool) -> None:
    """Everything that is kept in a rescue ref."""
    app = App.load(config)
    rows = app_run(_rescued(app))
    columns = {"repo": 8, "ticket": 10, "attempt": 3, "sha": 10, "subject": 20}
    short = [{**row, "sha": row["sha"][:10]} for row in rows]
    say(as_json, {"rescued": rows}, lambda: table(short, columns, "Nothing had to be rescued."))


async def _rescued(app: App) -> list[dict[str, Any]]:
    from nightcrew.stages import workspace  # noqa: PLC0415

    names = {r.branch.rpartition("/")[2]: r.key for r in app.store.runs()}
    rows = []
    for name, hub in app.hubs.items():
        if not hub.path.exists():
            continue
        for kept in await workspace.rescues(hub):
            rows.append({"repo": name, "ticket": names.get(kept.ticket, kept.ticket), "attempt": kept.attempt,
                         "sha": kept.sha, "subject": kept.subject, "at": kept.date, "ref": kept.ref})  # fmt: skip
    return rows


@rescue.command()
@click.argument("ticket")
@click.option("--attempt", default="", help="Which one (default: the newest).")
@as_json
@click.pass_obj
def restore(config: Path | None, ticket: str, attempt: str, as_json: bool) -> None:
    """Bring rescued work back as a branch in your repository."""
    app = App.load(config)
    data = app_run(_restore(app, ticket, attempt))
    say(as_json, data, f"{data['sha'][:12]} is now branch {data['branch']} in {data['repo']}.")


async def _restore(app: App, ticket: str, attempt: str) -> dict[str, Any]:
    from nightcrew.stages import workspace  # noqa: PLC0415

    rows = [r for r in await _rescued(app) if r["ticket"].lower() == ticket.lower() and attempt in ("", r["attempt"])]
    if not rows:
        raise UsageError(f"Nothing was rescued for {ticket}.", hint="`nightcrew rescue list` shows what there is.")
    kept = rows[0]  # the newest
    branch = await workspace.restore(app.hubs[kept["repo"]], kept["ref"])
    return {"repo": kept["repo"], "branch": branch, "sha": kept["sha"], "ticket": kept["ticket"]}
