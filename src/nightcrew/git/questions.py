"""Questions to a repository whose answer can never change, asked once."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

from nightcrew.git.command import ALONE, Completed, encode, failure, run

MOST, LONGEST = 5000, 64 * 1024
_SHA = re.compile(r"\^?[0-9a-f]{40}(?:[0-9a-f]{24})?(?:[:^].*)?", re.S)


class Questions:
    """git's answers about commits named by their whole sha. What they say is fixed by the name, so it is remembered.

    Anything else (a branch, a short name) is asked anew each time. At most 5,000 answers of 64 KB are kept.
    """

    def __init__(self, hub: Path) -> None:
        self.hub = hub
        self._known: OrderedDict[tuple[tuple[str, ...], str], Completed] = OrderedDict()

    async def ask(self, *args: str, revs: tuple[str, ...], ok: tuple[int, ...] = (0,), input: str = "") -> Completed:  # noqa: A002
        """What `git ARGS` says; `revs` are the revisions among them. Raises GitError for a code that is not in `ok`."""
        key = (args, input)
        if done := self._known.get(key):
            self._known.move_to_end(key)
            return done
        done = await run(*args, git_dir=self.hub, env=ALONE, input=encode(input))
        if done.code not in ok:
            raise failure(args, done)
        if all(_SHA.fullmatch(rev) for rev in revs) and len(done.stdout) <= LONGEST:
            self._known[key] = done
            while len(self._known) > MOST:
                self._known.popitem(last=False)
        return done
