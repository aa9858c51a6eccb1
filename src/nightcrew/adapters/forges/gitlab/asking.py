"""The requests that following a merge request up takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from nightcrew.adapters.forges.gitlab import follow
from nightcrew.adapters.gitlab_api import HOUR, Json, Members, at, login
from nightcrew.transport import Refused, Service

BATCH = 100  # rows of one page, the most GitLab gives


@dataclass
class Asking:
    """Reads what is told about merge requests. With `people`, only these are trusted. Raises a Fault."""

    service: Service
    members: Members
    people: frozenset[str]
    _login: str = ""
    _rules: dict[str, tuple[float, Json]] = field(default_factory=dict)  # project -> (until, its settings)

    async def who(self) -> str:
        """Our own login, asked once."""
        self._login = self._login or await login(self.service)
        return self._login

    async def project(self, project: str) -> Json:
        """The project's settings, at most an hour old."""
        until, found = self._rules.get(project, (0.0, {}))
        if until < time.monotonic():
            found = (await self.service.get(at(project))).data
            self._rules[project] = (time.monotonic() + HOUR, found)
        return found

    async def branch(self, project: str, name: str) -> str:
        """The commit a branch is at, "" when there is none."""
        found = await self._or(f"{at(project)}/repository/branches/{quote(name, safe='')}", {})
        return str((found.get("commit") or {}).get("id") or "")

    async def _or(self, path: str, otherwise: Any, params: Mapping[str, Any] | None = None) -> Any:
        """What is there; `otherwise` where it is not: an older server, a smaller licence."""
        try:
            return (await self.service.get(path, params)).data
        except Refused as refused:
            if refused.status not in (403, 404):
                raise
            return otherwise

    # -- stamps --------------------------------------------------------------------------------------------------------
    async def rows(self, project: str, numbers: Sequence[int]) -> list[Json]:
        """These merge requests as the list shows them."""
        found: list[Json] = []
        for start in range(0, len(numbers), BATCH):
            query = {"iids[]": list(numbers[start : start + BATCH]), "state": "all", "per_page": BATCH}
            found += (await self.service.get(f"{at(project)}/merge_requests", query)).data
        return found

    async def changed(self, project: str, known: follow.Pipelines) -> None:
        """Take over the pipelines that changed; at first the last 100."""
        query: dict[str, object] = {"order_by": "updated_at", "sort": "desc", "per_page": BATCH}
        since = {"updated_after": known.newest} if known.newest else {}
        try:
            async for page in self.service.pages(f"{at(project)}/pipelines", query | since, most=3 if since else 1):
                known.take(page.data)
        except Refused as refused:  # a project without pipelines
            if refused.status not in (403, 404):
                raise

    # -- standing ------------------------------------------------------------------------------------------------------
    async def told(self, project: str, number: int) -> follow.Told:
        """All that is told about one merge request. Raises Refused when it is not there."""
        path = f"{at(project)}/merge_requests/{number}"
        raw: Json = (await self.service.get(path, {"include_diverged_commits_count": "true"})).data
        pipeline = follow.head_pipeline(raw)
        discussions, approvals, reviewers, jobs, base, rules, me = await asyncio.gather(
            self._discussions(path), self._or(f"{path}/approvals", {}), self._or(f"{path}/reviewers", []),
            self._jobs(project, pipeline), self.branch(project, raw["target_branch"]), self.project(project),
            self.who(),
        )  # fmt: skip
        asked = bool(approvals.get("approved_by")) and not follow.ruled(approvals)
        versions = await self._or(f"{path}/versions", [], {"per_page": BATCH}) if asked else []
        told = follow.Told(raw, discussions, approvals, reviewers, versions, pipeline, jobs, base, rules, me=me)
        return await self._knowing_who(project, told)

    async def _discussions(self, path: str) -> list[Json]:
        found: list[Json] = []
        async for page in self.service.pages(f"{path}/discussions", {"per_page": BATCH}, most=20):
            found += page.data
        return found

    async def _jobs(self, project: str, pipeline: Json | None) -> list[Json]:
        if pipeline is None:
            return []
        found: list[Json] = []
        async for page in self.service.pages(f"{at(project)}/pipelines/{pipeline['id']}/jobs", {"per_page": BATCH}):
            found += page.data
        return found

    async def _knowing_who(self, project: str, told: follow.Told) -> follow.Told:
        authors = follow.authors_of(told)
        may = await self.members.may_write(project, authors)
        writers = {one["username"] for number, one in authors.items() if may[number]}
        if self.people:
            writers = {name for name in writers if name.lower() in self.people}
        robots = {one["username"] for one in authors.values() if await self.members.robot(one)}
        return replace(told, writers=frozenset(writers), robots=frozenset(robots))

    async def runs_again(self, base: str, job: str) -> bool:
        """Whether a later job has taken that job's place already."""
        mine = await self._or(f"{base}/jobs/{job}", {})
        if not mine:
            return False
        path = f"{base}/pipelines/{mine['pipeline']['id']}/jobs"
        rows: list[Json] = (await self.service.get(path, {"per_page": BATCH})).data
        return any(row["name"] == mine["name"] and row["id"] > mine["id"] for row in rows)
