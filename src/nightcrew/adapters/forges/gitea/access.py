"""Who we are on a Gitea, who may write where, what a branch's rules ask for; each remembered for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from nightcrew.adapters.forges.gitea.api import Json, at
from nightcrew.transport import Refused, Service

HOUR = 3600.0  # seconds for which it is believed who may write
RULES = 600.0  # seconds for which the rules of a branch are
WRITES = frozenset({"write", "admin", "owner"})


@dataclass(frozen=True)
class Rule:
    """What must be so before something is merged into a branch."""

    approvals: int = 0
    required: tuple[str, ...] = ()  # globs of contexts
    up_to_date: bool = False


class Access:
    """Asked of one forge. Only `people` may write in our eyes, () = all whom the forge says so of."""

    def __init__(self, service: Service, people: Sequence[str], now: Callable[[], float] = time.time) -> None:
        self.service, self.now = service, now
        self.people = frozenset(login.lower() for login in people)
        self._login = ""
        self._may: dict[tuple[str, str], tuple[float, bool]] = {}
        self._assignees: dict[str, tuple[float, frozenset[str]]] = {}
        self._rules: dict[tuple[str, str], tuple[float, Rule]] = {}

    async def login(self) -> str:
        """Our own."""
        self._login = self._login or str((await self.service.get("/user")).data["login"])
        return self._login

    async def writers(self, slug: str, logins: Collection[str]) -> frozenset[str]:
        """Those of them who may write there, in lower case."""
        asked = sorted(login for login in logins if not self.people or login.lower() in self.people)
        may = await asyncio.gather(*(self._writes(slug, login) for login in asked))
        return frozenset(login.lower() for login, writes in zip(asked, may, strict=True) if writes)

    async def _writes(self, slug: str, login: str) -> bool:
        until, known = self._may.get((slug, login), (0.0, False))
        if until <= self.now():
            known = await self._asked(slug, login)
            self._may[slug, login] = (self.now() + HOUR, known)
        return known

    async def _asked(self, slug: str, login: str) -> bool:
        """By permission, which only a repository's administrators may ask for; else by who may be assigned to it."""
        try:
            answer = await self.service.get(at(slug, "collaborators", login, "permission"))
            return answer.data["permission"] in WRITES
        except Refused as no:
            if no.status == 404:
                return False
            if no.status != 403:
                raise
        return login.lower() in await self._may_be_assigned(slug)

    async def _may_be_assigned(self, slug: str) -> frozenset[str]:
        until, known = self._assignees.get(slug, (0.0, frozenset[str]()))
        if until <= self.now():
            users = (await self.service.get(at(slug, "assignees"))).data or []
            known = frozenset(user["login"].lower() for user in users)
            self._assignees[slug] = (self.now() + HOUR, known)
        return known

    # -- rules ---------------------------------------------------------------------------------------------------------
    async def rule(self, slug: str, branch: str) -> Rule:
        """What the protection of a branch asks for."""
        until, known = self._rules.get((slug, branch), (0.0, Rule()))
        if until <= self.now():
            known = await self._read(slug, branch)
            self._rules[slug, branch] = (self.now() + RULES, known)
        return known

    async def _read(self, slug: str, branch: str) -> Rule:
        try:
            shown: Json = (await self.service.get(at(slug, "branches", branch))).data
        except Refused as no:
            if no.status != 404:
                raise
            return Rule()
        if not shown.get("protected"):
            return Rule()
        required = tuple(shown.get("status_check_contexts") or ()) if shown.get("enable_status_check") else ()
        up_to_date = await self._up_to_date(slug, shown.get("effective_branch_protection_name") or "")
        return Rule(shown.get("required_approvals") or 0, required, up_to_date)

    async def _up_to_date(self, slug: str, name: str) -> bool:
        """Whether outdated ones may not be merged; only a repository's administrators are told the rule's name."""
        if not name:
            return False
        try:
            return bool((await self.service.get(at(slug, "branch_protections", name))).data["block_on_outdated_branch"])
        except Refused:
            return False

    async def missing(self, slug: str) -> list[str]:
        """What we need there and may not, as sentences."""
        try:
            may = (await self.service.get(at(slug))).data.get("permissions") or {}
        except Refused as no:
            return [f"It may not read {slug} (scope: repository): {no}"]
        return [] if may.get("push") else [f"It may not push to {slug} (scope: repository, and write access there)."]
