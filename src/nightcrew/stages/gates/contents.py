"""What is in the change (`scope`): where it reaches, how big it is, and whether a secret is in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pathspec import GitIgnoreSpec

from nightcrew.core.gate import LINK, SUBMODULE, Entry, git_like, link_escapes, name
from nightcrew.core.model import GateResult, GateSettings
from nightcrew.errors import ConfigError
from nightcrew.git import Hub
from nightcrew.stages.gates import secrets
from nightcrew.stages.gates.objects import entries, fork, history, read, sizes
from nightcrew.stages.gates.verdict import failed, passed

MAX_BLOB = 5 << 20  # bytes of one new file


async def scope(hub: Hub, base_sha: str, head_sha: str, settings: GateSettings) -> GateResult:
    """The change stays where it may be: no protected paths, not too big, nothing that leads out of the tree, no secret.

    Sizes and secrets are looked for in what each commit adds, since all commits are pushed; evidence names the place
    and the type of a secret, never the secret. `settings.protected` are patterns as in a .gitignore file; raises
    ConfigError for one that is not.
    """
    left = await fork(hub, base_sha, head_sha) or base_sha
    final = await entries(hub, left, head_sha)
    content = [entry for entry in [*final, *await history(hub, base_sha, head_sha)] if entry.is_file]
    known = await sizes(hub, {entry.oid for entry in content})
    lines = sum(change.added + change.deleted for change in await hub.changes(left, head_sha))
    problems = [
        *_places(final, settings.protected),
        *await _links(hub, final),
        *_too_much(len(final), lines, settings),
        *_too_big(content, known),
    ]
    if settings.secrets:
        small = [entry for entry in content if known[entry.oid] <= MAX_BLOB]
        problems += await secrets.in_files(hub, small, known) + await secrets.in_messages(hub, base_sha, head_sha)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return failed("scope", problems[0] + more, "\n".join(f"- {problem}" for problem in problems))
    return passed("scope", f"{len(final)} files, {lines} lines, nothing that may not be there")


def _places(final: Sequence[Entry], patterns: Sequence[str]) -> list[str]:
    try:
        spec = GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise ConfigError(f"gates.protected: {error}", hint="Write patterns as in a .gitignore file.") from error
    return [
        *(f"{name(e.path)}: this path is protected" for e in final if spec.match_file(e.path)),
        *(f"{name(e.path)}: git's own files may not be changed" for e in final if git_like(e.path)),
        *(f"{name(e.path)}: submodules may not be added or moved" for e in final if e.mode == SUBMODULE),
    ]


async def _links(hub: Hub, final: Iterable[Entry]) -> list[str]:
    links = [entry for entry in final if entry.mode == LINK]
    targets = await read(hub, {entry.oid for entry in links})
    return [
        f"{name(entry.path)}: a symlink that leads out of the repository"
        for entry in links
        if link_escapes(entry.path, targets[entry.oid].decode("utf-8", "surrogateescape"))
    ]


def _too_much(files: int, lines: int, settings: GateSettings) -> list[str]:
    found = []
    if settings.max_files and files > settings.max_files:
        found.append(f"{files} files changed, at most {settings.max_files} may be")
    if settings.max_lines and lines > settings.max_lines:
        found.append(f"{lines} lines changed, at most {settings.max_lines} may be")
    return found


def _too_big(content: Sequence[Entry], known: Mapping[str, int]) -> list[str]:
    big = {entry.oid: entry for entry in reversed(content) if known[entry.oid] > MAX_BLOB}
    limit = f"at most {MAX_BLOB >> 20} MB may be"
    return [f"{name(e.path)}: {known[oid] / (1 << 20):.1f} MB{secrets.when(e)}, {limit}" for oid, e in big.items()]
