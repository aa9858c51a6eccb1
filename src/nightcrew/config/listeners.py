"""What nightcrew listens on, all of it off unless it is asked for: [webhooks] and [proxy]."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightcrew.config.tables import SOME, Place, keys, known_names, read

LISTEN = r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>\d{1,5})"


@dataclass(frozen=True)
class Webhooks:
    """Where services may say that something changed, `HOST:PORT`; "" = nowhere."""

    listen: str = ""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port. Only for one that is set."""
        found = re.fullmatch(LISTEN, self.listen)
        assert found is not None
        return found["six"] or found["host"], int(found["port"])


@dataclass(frozen=True)
class Proxy:
    """Whether and how much agents may read of a forge through nightcrew. `forge` is a name below [forges]."""

    enabled: bool = False
    forge: str = "github"
    requests_per_session: int = 200
    cache_seconds: float = 60.0


def webhooks(file: Path, table: Mapping[str, Any]) -> Webhooks:
    place = Place(file, "[webhooks]")
    told = Webhooks(**read(place, table, keys(Webhooks)))
    found = re.fullmatch(LISTEN, told.listen)
    if told.listen and (not found or int(found["port"]) > 65535):
        cure = 'Write a host and a port: listen = "127.0.0.1:8090".'
        raise place.wrong("listen", f'"{told.listen}" cannot be listened on', cure)
    return told


def proxy(file: Path, table: Mapping[str, Any], forges: Iterable[str]) -> Proxy:
    place = Place(file, "[proxy]")
    told = Proxy(**read(place, table, {**keys(Proxy), "requests_per_session": SOME}))
    if told.enabled:
        known_names(place, "forge", (told.forge,), forges)
    return told
