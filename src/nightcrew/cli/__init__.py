"""The command line: parse, one call, print. Every command has --json; heavy modules load only where they are needed.

Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 3 already running, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import click

from nightcrew import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("setup", "Look around here and write a commented nightcrew.toml."),
    "doctor": ("setup", "Try everything a night needs for real, and say what happened."),
    "board": ("board", "What a night would take from the board, and what our credential may do there."),
    "add": ("setup", "Add a ticket to the board."),
    "up": ("work", "Work the board; Ctrl-C stops, and the next `up` goes on."),
    "stop": ("work", "Stop the work on a ticket; what it has is rescued."),
    "retry": ("work", "Let a stopped, failed or blocked ticket start again."),
    "pause": ("work", "Start nothing new; what runs goes on."),
    "resume": ("work", "Start again after `pause`, and take lanes that were out back in."),
    "lanes": ("lanes", "Which accounts can be used now, and until when not; log in, pause, probe them."),
    "demo": ("demo", "Play a small night: three repositories, eight tickets, real commits."),
    "status": ("look", "What every ticket is doing, and the evidence."),
    "show": ("look", "One ticket: its attempts, gates and pull request."),
    "logs": ("look", "What a ticket's agent printed."),
    "route": ("look", "Why a ticket goes to which repository, rule by rule."),
    "report": ("look", "The night's report."),
    "spend": ("spend", "What was spent, what a merged pull request costs, what the caps leave."),
    "classify": ("look", "How an agent's recorded output is read, and why."),
    "pr": ("pulls", "Look at pull requests and act on them (local forge)."),
    "conflicts": ("conflicts", "Which open pull requests conflict, and in what order to merge them."),
    "rescue": ("pulls", "Work that was saved before a cleanup."),
    "clean": ("clean", "Remove what nobody needs any more; work that is nowhere else stays."),
}


class Lazy(click.Group):
    """A group whose commands are imported when they are called: `--help` costs no import of theirs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(import_module(f"nightcrew.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, says) for name, (_, says) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from difflib import get_close_matches  # noqa: PLC0415

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, 1)
            ctx.fail(f"There is no command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", "-c", type=click.Path(path_type=Path), help="nightcrew.toml (default: here or above).")
@click.version_option(__version__, prog_name="nightcrew")
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """A crew of coding agents that works your ticket board overnight.

    Start with `nightcrew init`, then `nightcrew doctor`, then `nightcrew up`.

    Exit codes: 0 done; 1 it failed; 2 wrong use or configuration; 3 already running; 130 interrupted. An error is one
    sentence on standard error, and nothing is printed on standard output then. Without a terminal, or with NO_COLOR
    set, nothing is coloured.
    """
    ctx.obj = config
    ctx.color = False if os.environ.get("NO_COLOR") else None


def _wrong_use(error: click.ClickException) -> str:
    """The parser's complaint in one line; a group called without a command shows its commands."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    said = " ".join(error.format_message().split())
    if ctx and ctx.command.no_args_is_help and said.startswith("Usage:"):
        return error.format_message()
    stop = "" if said.endswith((".", "?", "!")) else "."
    return f"nightcrew: {said}{stop}" + (f" See `{ctx.command_path} --help`." if ctx else "")


def main() -> None:
    """Run the command line; every expected error is one sentence on stderr and an exit code."""
    from nightcrew.errors import NightcrewError  # noqa: PLC0415

    try:
        cli(prog_name="nightcrew", standalone_mode=False)
    except NightcrewError as error:
        click.echo(f"nightcrew: {error.sentence()}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(_wrong_use(error), err=True)
        sys.exit(error.exit_code)
    except click.Abort:  # Ctrl-C, or the end of the input, at a question
        click.echo("\nnightcrew: Stopped before the answer; nothing was changed.", err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        click.echo(f"nightcrew: {error.strerror or error}: {error.filename or ''}".rstrip(": "), err=True)
        sys.exit(1)
