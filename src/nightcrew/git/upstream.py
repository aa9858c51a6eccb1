"""Why a base branch could not be fetched, said to a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from nightcrew.errors import GitError
from nightcrew.git.command import redact, run


def local_path(url: str) -> Path | None:
    """The path when `url` names a repository on this machine, else None."""
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    # `host:path` is ssh, unless a slash comes before the colon.
    if "://" in url or re.match(r"[^/]+:", url):
        return None
    return Path(url).expanduser()


async def why_no_base(url: str, base: str, env: Mapping[str, str], error: GitError) -> GitError:
    """The clearest error for "`base` could not be fetched from `url`", found by asking the repository."""
    path, shown = local_path(url), redact(url)
    if path and not path.exists():
        return fault(error, f"the repository {shown} does not exist", "Correct its url, or clone it there.")
    heads = await run("ls-remote", "--heads", "--", url, env=env, timeout=60)
    if heads.code:
        return unreadable(shown, GitError("ls-remote", heads.code, heads.stderr))
    names = [line.partition("\trefs/heads/")[2] for line in heads.stdout.split("\n") if line]
    if not names:
        return fault(error, f"the repository {shown} has no commits yet", f"Make a first commit on {base}.")
    if base not in names:
        shortened = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        return fault(error, f"the repository {shown} has no branch {base}", f"Set `base` to one of: {shortened}.")
    return error


def unreadable(shown: str, error: GitError) -> GitError:
    if "dubious ownership" in error.stderr:
        hint = f"It belongs to another user: git config --global --add safe.directory {shown}"
        return fault(error, f"the repository {shown} may not be read", hint)
    if "not a git repository" in error.stderr or "does not appear to be" in error.stderr:
        return fault(error, f"{shown} is not a git repository", "Correct its url, or run `git init` there.")
    return fault(error, f"{error} ({shown})", "Check the address, the network and the login.")


def fault(error: GitError, sentence: str, hint: str) -> GitError:
    """`error` with a sentence of ours; what git said stays in `stderr`."""
    said = GitError(error.command, error.code, error.stderr, hint=hint)
    said.args = (sentence,)
    return said
