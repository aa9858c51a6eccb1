"""The environment a child is given: an allow-list, so that no token of ours ever reaches an agent (I7)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

DEFAULT_ALLOW = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TERM", "TMPDIR", "TZ")


def base_env(allow: Iterable[str] = DEFAULT_ALLOW, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """DEFAULT_ALLOW and the names in `allow` as they are set here, then `extra`. Nothing else passes.

    `LC_*` is the only pattern; other names are taken literally.
    """
    names = {*DEFAULT_ALLOW, *allow}
    kept = {name: value for name, value in os.environ.items() if name in names or name.startswith("LC_")}
    return {**kept, **(extra or {})}
