"""Commands that set things up: init, doctor, add."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from nightcrew.app import App
from nightcrew.app import run as app_run
from nightcrew.cli.show import as_json, notes, say, table


@click.command()
@click.option(
    "--board", "kind", default="", help="folder, github, gitlab, ... (default: asked on a terminal, else folder)."
)
@click.option(
    "--repo-slug", multiple=True, help="OWNER/NAME whose issues are tickets (default: that of the git remote)."
)
@click.option("--team", multiple=True, help="The team whose tickets are taken.")
@click.option("--project", multiple=True, help="The project whose tickets are taken.")
@click.option("--label", default=None, help="Only tickets with this label are taken, '' for all (default: nightcrew).")
@click.option("--token-env", default="", help="The environment variable with the token (default: the usual one).")
@click.option("--url", default="", help="The address of your own server.")
@click.option(
    "--set", "settings", multiple=True, help="A further setting of the board, as KEY=VALUE in TOML or in words."
)
@click.option("--yes", is_flag=True, help="Ask nothing, write the file.")
@click.option("--dry-run", is_flag=True, help="Print the file and write nothing.")
@as_json
@click.pass_obj
def init(
    config: Path | None, /, kind: str, label: str | None, token_env: str, url: str, settings: tuple[str, ...],
    yes: bool, dry_run: bool, as_json: bool, **places: tuple[str, ...],
) -> None:  # fmt: skip
    """Look at this repository, the installed agents and your board, and write a commented nightcrew.toml.

    For a board that is a service its token is checked, its places are listed to choose from, and exactly the tickets
    that would be taken are shown, before anything is written. Nothing is ever changed on the board.
    """
    from nightcrew import setup  # noqa: PLC0415
    from nightcrew.cli.joining import Given, Talk, join, kinds_here, pairs  # noqa: PLC0415

    path = config or Path("nightcrew.toml")
    found = setup.survey(Path.cwd(), os.environ)
    if not dry_run:
        setup.free(path)
    talk = Talk(asks=sys.stdin.isatty() and sys.stderr.isatty() and not (yes or as_json))
    asked = talk.asks and not kind
    kind = kinds_here(kind) if kind else talk.kind(found.remote)
    given = Given(places, label, token_env, url, pairs(settings))
    if kind == "folder":
        given.means_nothing()
    joined = join(kind, found, given, talk) if kind != "folder" else None
    wanted = joined.wanted if joined else None
    text = setup.config_text(found, path.parent, wanted)
    if talk.asks and (joined or asked):
        yes = not dry_run and talk.sure(path, joined)
    written = not dry_run and (yes or not (joined or asked))
    if written:
        setup.write_config(found, path, wanted)
    data = {"config": str(path.resolve()), "agents": dict(found.agents), "base": found.base}
    data |= joined.data() | {"written": written} if joined else {}
    if dry_run:
        say(as_json, data | {"text": text}, text.rstrip("\n"))
    elif written:
        first = "" if joined else 'nightcrew add "…", '
        said = f"Wrote {path} ({found.named}). Read it, then: nightcrew doctor, {first}nightcrew up."
        say(as_json, data, said)
    else:
        again = "" if talk.asks else " `--yes` writes it, `--dry-run` shows it."
        say(as_json, data, f"Nothing was written.{again}")


@click.command()
@click.option("--no-agents", is_flag=True, help="Leave out the launch of each agent.")
@as_json
@click.pass_obj
def doctor(config: Path | None, no_agents: bool, as_json: bool) -> None:
    """Try everything a night needs for real: each agent is launched as a run would launch it."""
    from nightcrew.doctor import examine  # noqa: PLC0415

    app = App.load(config)
    checks = app_run(examine(app, agents=not no_agents))
    failed = [c for c in checks if c["check"] == "FAIL"]
    data = {"ok": not failed, "checks": checks}
    say(as_json, data, lambda: _checks_text(checks))
    sys.exit(1 if failed else 0)


def _checks_text(checks: list[dict[str, Any]]) -> str:
    rows = table(checks, {"check": 4, "what": 18, "evidence": 30})
    return "\n".join([rows, *notes([c for c in checks if c["check"] in ("warn", "FAIL")], "what", "evidence", rows)])


@click.command()
@click.argument("title")
@click.option("--body", default="", help="What is wanted, in Markdown; - reads standard input.")
@click.option("--repo", default="", help="Which repository it is for (default: the only one, else the rules decide).")
@click.option("--label", "labels", multiple=True)
@click.option("--priority", type=click.IntRange(1, 5), default=None, help="1 urgent to 4 low, 5 none.")
@click.option("--blocked-by", "blockers", multiple=True, help="Tickets that must be done first.")
@click.option("--board", default="", help="Which board (default: the first).")
@as_json
@click.pass_obj
def add(
    config: Path | None, title: str, body: str, repo: str, labels: tuple[str, ...], priority: int | None,
    blockers: tuple[str, ...], board: str, as_json: bool,
) -> None:  # fmt: skip
    """Add a ticket to the board; a running nightcrew starts it within a second."""
    from nightcrew.errors import UsageError  # noqa: PLC0415

    app = App.load(config)
    text = sys.stdin.read() if body == "-" else body
    only = next(iter(app.repos)) if len(app.repos) == 1 else ""
    wanted = {"repo": repo or only, "labels": list(labels), "priority": priority, "blocked_by": list(blockers)}
    fields = {key: value for key, value in wanted.items() if value}
    name = board or next(iter(app.boards))
    if name not in app.boards:
        raise UsageError(f"There is no board {name!r}.", hint=f"Known: {', '.join(app.boards)}.")
    ticket = app_run(app.boards[name].add(title, text, fields))
    data = {"ticket": ticket.key, "id": ticket.id, "title": ticket.title, "url": ticket.url}
    say(as_json, data, f"{ticket.key}: {ticket.title}")
