"""Is there work (`changed`), and does it hold against the owner's commands (`commands`)?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

from nightcrew.core.gate import name, plain, tail
from nightcrew.core.model import GateResult, GateSettings
from nightcrew.git import Hub
from nightcrew.proc import Completed, run
from nightcrew.stages.gates.objects import commits, entries, fork, landed
from nightcrew.stages.gates.verdict import failed, passed

Taken = Callable[[str], Awaitable[str]]

LOG_BYTES = 20 << 20  # kept of each command's output


async def changed(hub: Hub, base_sha: str, head_sha: str, patch_id_taken: Taken) -> GateResult:
    """There is work: commits beyond the base, a difference, the right history, and nobody else's patch.

    `patch_id_taken(patch id)` says which other ticket's open or merged pull request is the same patch ("" = none); its
    key is then `duplicate_of`, or the base's commit that made the patch since the work began. A `head_sha` of "" means
    that nothing was committed.
    """
    if not head_sha or await hub.is_ancestor(head_sha, base_sha):
        return failed("changed", "there is no commit beyond the base")
    left = await fork(hub, base_sha, head_sha)
    if not left:
        return failed("changed", "the commits have no history in common with the base: is this the right repository?")
    listed = await _commits(hub, base_sha, head_sha)
    if not (made := await entries(hub, left, head_sha)):
        return failed("changed", "the commits change nothing", listed)
    patch_id = await hub.patch_id(left, head_sha)
    other = await patch_id_taken(patch_id)
    if not other and (commit := await landed(hub, left, base_sha, patch_id, made[0].path)):
        other = f"commit {commit[:12]} of the base"
    if other:
        found = failed("changed", f"the same patch is already proposed or merged: {other}", listed)
        return replace(found, duplicate_of=other)
    merged = await hub.merge_tree(base_sha, head_sha)
    if not merged.conflicts and merged.tree == await hub.tree(base_sha):
        return failed("changed", "the base already holds everything that the commits change", listed)
    return passed("changed", await _stat(hub, left, head_sha), listed)


async def _commits(hub: Hub, base_sha: str, head_sha: str) -> str:
    made = await commits(hub, base_sha, head_sha)
    return plain("\n".join(commit.title for commit in made[:50])).strip()


async def _stat(hub: Hub, left: str, head_sha: str) -> str:
    changes = await hub.changes(left, head_sha)
    added, deleted = sum(c.added for c in changes), sum(c.deleted for c in changes)
    return f"{len(changes)} files changed, {added} lines added, {deleted} deleted"


async def commands(
    hub: Hub,
    base_sha: str,
    head_sha: str,
    settings: GateSettings,
    *,
    make_tree: Callable[[str], AbstractAsyncContextManager[Path]],
    env: Mapping[str, str],
    log_dir: Path,
    mark: str,
) -> GateResult:
    """The owner's commands pass on the work merged with the base as it is now.

    `make_tree(sha)` gives a fresh tree for as long as its block lasts. Each command has `settings.timeout` seconds, the
    environment `env` alone, and the log `log_dir/<n>.log` (the first and last parts of 20 MB); all it started ends with
    it. `mark` is what those processes are known by.
    """
    if not settings.commands:
        return passed("commands", "no commands configured")
    sha, conflicts = await _merged(hub, base_sha, head_sha)
    if conflicts:
        listed = ", ".join(map(name, conflicts))
        return failed("commands", f"conflicts with the base in {listed}", f"Merge the base or rebase on it: {listed}")
    log_dir.mkdir(parents=True, exist_ok=True)
    said: list[str] = []
    async with make_tree(sha) as tree:
        for number, command in enumerate(settings.commands, 1):
            done = await _command(command, tree, env, settings.timeout, mark)
            (log_dir / f"{number}.log").write_bytes(done.stdout)
            said.append(f"`{plain(command)}`: {_how(done, settings.timeout)}")
            if done.code or done.timed_out:
                end = tail(done.stdout.decode("utf-8", "replace"))
                return failed("commands", said[-1], "\n".join([*said, "The end of its output:", end]))
    return passed("commands", f"{len(said)} of {len(said)} commands passed", "\n".join(said))


async def _merged(hub: Hub, base_sha: str, head_sha: str) -> tuple[str, Sequence[str]]:
    """A commit of the work on top of the base as it is now, or the paths in conflict."""
    if await hub.is_ancestor(base_sha, head_sha):
        return head_sha, ()
    merged = await hub.merge_tree(base_sha, head_sha)
    if merged.conflicts:
        return "", merged.conflicts
    return await hub.commit_tree(merged.tree, (base_sha, head_sha), "Merge for the gates"), ()


async def _command(command: str, tree: Path, env: Mapping[str, str], timeout: float, mark: str) -> Completed:
    # One stream for both, so that the log shows what was said in the order it was said.
    argv = ("/bin/sh", "-c", 'exec /bin/sh -c "$0" 2>&1', command)
    return await run(argv, cwd=tree, env=env, timeout=timeout, limit=LOG_BYTES, mark=mark)


def _how(done: Completed, timeout: float) -> str:
    if done.timed_out:
        return f"no end within {timeout:g} s"
    hint = " (not found: is it installed on this node?)" if done.code == 127 else ""
    return f"exit code {done.code}{hint} after {done.seconds:.1f} s"
