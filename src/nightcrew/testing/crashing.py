"""The real command line, killed by SIGKILL at a point one names: what happens between two writes can be tried.

    python -m nightcrew.testing.crashing --at publish:before -- up --until-idle
    python -m nightcrew.testing.crashing --at push:after:2 -- -c nightcrew.toml up

A point is a durable step (`prepare`, `session`, `gates`, `publish`, `record`) or one of the writes in POINTS; `before`
is before it does anything, `after` when it has returned and nothing has heard of it. The number says at which of its
calls in this process (default the first).
"""

from __future__ import annotations

import inspect
import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import wraps
from pkgutil import resolve_name
from typing import Any

from nightcrew import durable

__all__ = ["POINTS", "STEPS", "main"]

STEPS = ("prepare", "session", "gates", "publish", "record")
POINTS = {
    "migrate": "nightcrew.store:Store.migrate",
    "create_table": "alembic.op:create_table",
    "adopt": "nightcrew.store:Store.add_run",
    "start_attempt": "nightcrew.store:Store.start_attempt",
    "start_workflow": "nightcrew.durable:Durable.start",
    "claim_branch": "nightcrew.stages.publish:ensure_claim",
    "workspace": "nightcrew.stages.workspace:ensure",
    "make_tree": "nightcrew.git.trees:make",
    "set_run": "nightcrew.store:Store.set_run",
    "start_agent": "nightcrew.stages.session:run_session",
    "spawn": "nightcrew.proc:start",
    "collect": "nightcrew.git.hub:Hub.collect",
    "claim_patch": "nightcrew.store:Store.claim_patch",
    "push": "nightcrew.git.hub:Hub.push",
    "push_branch": "nightcrew.stages.publish:_ensure_branch",
    "open": "nightcrew.adapters.forges.local:LocalForge.open",
    "keep_head": "nightcrew.adapters.forges.local.repository:Repository.keep",
    "finish_attempt": "nightcrew.store:Store.finish_attempt",
    "settle": "nightcrew.store:Store.settle",
    "move": "nightcrew.adapters.boards.folder:FolderBoard.move",
    "clean": "nightcrew.stages.workspace:remove",
    "rescue": "nightcrew.stages.workspace:rescue",
    "unmake": "nightcrew.git.trees:unmake",
    "order": "nightcrew.store:Store.obeyed",
    "rename": "pathlib:Path.rename",
}
"""The writes one can be killed at, and where they are."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run nightcrew's command line with what follows `--`, and die at the point named before it."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] != ["--at"] or words[2:3] != ["--"]:
        sys.exit("usage: python -m nightcrew.testing.crashing --at POINT:before|after[:N] -- COMMAND ...")
    point, _, rest = words[1].partition(":")
    when, _, number = rest.partition(":")
    arm(point, when, int(number or 1))
    sys.argv = ["nightcrew", *words[3:]]
    runpy.run_module("nightcrew", run_name="__main__")


def arm(point: str, when: str, number: int) -> None:
    """Have this process die there. Exits with a message for a point that does not exist."""
    if when not in ("before", "after") or point not in (*STEPS, *POINTS):
        sys.exit(f"{point}:{when}: there is no such point. Points: {', '.join([*STEPS, *POINTS])}.")
    seen: Counter[tuple[str, str]] = Counter()

    def passing(name: str, moment: str) -> None:
        seen[name, moment] += 1
        if (name, moment) == (point, when) and seen[name, moment] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if point in STEPS:
        made: Callable[..., None] = durable.Durable.__init__
        setattr(durable.Durable, "__init__", lambda self, *given: made(self, *given[:3], passing))  # noqa: B010
    else:
        where, _, name = POINTS[point].rpartition("." if "." in POINTS[point].partition(":")[2] else ":")
        owner = resolve_name(where)
        setattr(owner, name, _watched(getattr(owner, name), lambda moment: passing(point, moment)))


def _watched(function: Callable[..., Any], passing: Callable[[str], None]) -> Callable[..., Any]:
    """The function, with a look before and after it."""
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def later(*args: Any, **kwargs: Any) -> Any:
            passing("before")
            result = await function(*args, **kwargs)
            passing("after")
            return result

        return later

    @wraps(function)
    def now(*args: Any, **kwargs: Any) -> Any:
        passing("before")
        result = function(*args, **kwargs)
        passing("after")
        return result

    return now


if __name__ == "__main__":
    main()
