"""GitLab as a forge: merge requests opened, watched, answered and, if the owner wants that, merged."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from nightcrew.adapters.forges.gitlab import follow
from nightcrew.adapters.forges.gitlab.asking import Asking
from nightcrew.adapters.forges.gitlab.parse import Pulls, own, parse_pull
from nightcrew.adapters.gitlab_api import (
    DEVELOPER,
    PACE,
    URL,
    Account,
    Json,
    Members,
    at,
    harmless,
    lacking,
    plain_title,
    project_path,
    service,
    verify,
)  # fmt: skip
from nightcrew.core.model import Check, PullRequest, Repo, Standing
from nightcrew.errors import ConfigError, ForgeError
from nightcrew.settings import read_settings, secret
from nightcrew.transport import Fault, Lost, Service, told_as

__all__ = ["GitLabForge", "Settings"]

log = logging.getLogger("nightcrew.forges.gitlab")
METHODS = ("squash", "merge", "rebase")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[forges.NAME]` with kind "gitlab"."""

    url: str = URL  # an own server's address
    token: str = ""  # "$NAME"; "" = $GITLAB_TOKEN
    pace: int = PACE  # comments and merge requests written in a minute, at most
    webhook_secret: str = ""  # "$NAME": the secret token of GitLab's webhooks; "" = none are taken
    draft: bool = False  # open merge requests as drafts
    reviewers: tuple[str, ...] = ()  # user names asked for a review of each
    labels: tuple[str, ...] = ()  # put on each
    merge: str = "squash"  # or "merge", "rebase": without squashing, as the project's merge method says
    people: tuple[str, ...] = ()  # only these are listened to; () = all who may push


class GitLabForge:
    """Merge requests of projects on gitlab.com or an own server. Raises ForgeError, in one sentence."""

    def __init__(self, name: str, settings: Mapping[str, object], home: Path) -> None:
        where = f"[forges.{name}]"
        self.name = name
        self.settings = told = read_settings(Settings, where, settings)
        if told.merge not in METHODS:
            raise ConfigError(
                f"{where} merge: {told.merge!r} is no way to merge.", hint=f"One of: {', '.join(METHODS)}."
            )
        self.account = Account(where, told.url, told.token)
        self.service: Service = service(self.account, told.pace)
        self.asking = Asking(self.service, Members(self.service), frozenset(one.lower() for one in told.people))
        self._pulls: dict[str, Pulls] = {}
        self._pipelines: dict[str, follow.Pipelines] = {}

    def _project(self, repo: Repo) -> str:
        return project_path(repo.url, self.settings.url)

    def _at(self, repo: Repo, number: int = 0) -> str:
        return f"{at(self._project(repo))}/merge_requests{f'/{number}' if number else ''}"

    def git_env(self, repo: Repo) -> Mapping[str, str]:
        """See `Forge.git_env`: a header by the environment, so that it is in no address, file or argument."""
        if not (address := re.match(r"https?://[^/]+/", repo.url)):
            return {}
        self._project(repo)
        word = base64.b64encode(f"oauth2:{self.account.current()}".encode()).decode()
        return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"http.{address[0]}.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {word}"}  # fmt: skip

    async def find(self, repo: Repo, branch: str) -> PullRequest | None:
        """See `Forge.find`."""
        with told_as(ForgeError):
            return await self._find(repo, branch)

    async def _find(self, repo: Repo, branch: str) -> PullRequest | None:
        query = {"source_branch": branch, "state": "all", "order_by": "created_at", "sort": "desc", "per_page": 20}
        rows = (await self.service.get(self._at(repo), query)).data
        mine = [row for row in rows if row["source_branch"] == branch and own(row)]
        return parse_pull(max(mine, key=lambda row: row["iid"]), repo.name) if mine else None

    async def open(self, repo: Repo, branch: str, title: str, body: str) -> PullRequest:
        """See `Forge.open`. Reviewers and labels are asked for; that they cannot be had stops nothing."""
        asked = {"source_branch": branch, "target_branch": repo.base, "title": _title(title, self.settings.draft),
                 "description": harmless(body)}  # fmt: skip
        with told_as(ForgeError):
            try:
                opened = parse_pull((await self.service.write("POST", self._at(repo), asked)).data, repo.name)
            except Lost:
                found = await self._find(repo, branch)
                if found is None or found.state != "open":
                    raise
                opened = found
        await self._furnish(repo, opened.number)
        return opened

    async def _furnish(self, repo: Repo, number: int) -> None:
        wish: dict[str, object] = {"add_labels": ",".join(self.settings.labels)} if self.settings.labels else {}
        try:
            if people := await self._numbers(self.settings.reviewers):
                wish["reviewer_ids"] = people
        except Fault as fault:
            log.warning("pull.unfurnished", extra={"repo": repo.name, "number": number, "error": str(fault)})
        try:
            if wish:
                await self.service.write("PUT", self._at(repo, number), wish, again=True)
        except Fault as fault:
            log.warning("pull.unfurnished", extra={"repo": repo.name, "number": number, "error": str(fault)})

    async def _numbers(self, names: Sequence[str]) -> list[int]:
        """The users of those names; one that is not there is told in the log."""
        found = []
        for name in names:
            rows = (await self.service.get("/users", {"username": name})).data
            found += [row["id"] for row in rows[:1]]
            if not rows:
                log.warning("pull.no_reviewer", extra={"forge": self.name, "user": name})
        return found

    async def update(self, repo: Repo, number: int, title: str, body: str) -> PullRequest:
        """See `Forge.update`; a draft stays one."""
        with told_as(ForgeError):
            raw: Json = (await self.service.get(self._at(repo, number))).data
            changes = {"title": _title(title, raw["draft"]), "description": harmless(body)}
            changed = await self.service.write("PUT", self._at(repo, number), changes, again=True)
        return parse_pull(changed.data, repo.name)

    async def list(self, repo: Repo) -> list[PullRequest]:
        """See `Forge.list`; at most the 1,000 changed last. An unchanged list costs one request answered 304."""
        known = self._pulls.setdefault(repo.name, Pulls())
        query = {"state": "all", "order_by": "updated_at", "sort": "desc", "per_page": 100}
        rows: list[Json] = []
        with told_as(ForgeError):
            async for page in self.service.pages(self._at(repo), query, etag=True, most=10):
                if page.unchanged and not known.unread:
                    break
                known.unread = True  # till all of it is here: after a fault the next answer may be "unchanged"
                rows += page.data
                if known.reaches(page.data):
                    break
        known.take([row for row in rows if own(row)], repo.name)
        return known.newest_first()

    # -- Following -----------------------------------------------------------------------------------------------------
    async def stamps(self, repo: Repo, numbers: Sequence[int]) -> Mapping[int, str]:
        """See `Following.stamps`: three requests for each 100 (these, the pipelines that changed, the base)."""
        if not numbers:
            return {}
        project, pipelines = self._project(repo), self._pipelines.setdefault(repo.name, follow.Pipelines())
        with told_as(ForgeError):
            rows, _, base = await asyncio.gather(
                self.asking.rows(project, numbers), self.asking.changed(project, pipelines),
                self.asking.branch(project, repo.base),
            )  # fmt: skip
        return {row["iid"]: follow.stamp(row, pipelines.of(row["iid"], row["sha"]), base) for row in rows}

    async def standing(self, repo: Repo, number: int) -> Standing:
        """See `Following.standing`: six requests or so, at once."""
        with told_as(ForgeError):
            told = await self.asking.told(self._project(repo), number)
        return follow.parse_standing(told, repo.name)

    async def say(self, repo: Repo, number: int, text: str, key: str) -> None:
        """See `Following.say`: found again by a hidden mark."""
        path, body = f"{self._at(repo, number)}/notes", f"{follow.mark(key)}\n{harmless(text)}"
        with told_as(ForgeError):
            me = await self.asking.who()
            async for page in self.service.pages(path, {"order_by": "created_at", "sort": "asc", "per_page": 100}):
                for note in page.data:
                    if follow.ours(note, key, me):
                        if note["body"] != body:
                            await self.service.write("PUT", f"{path}/{note['id']}", {"body": body}, again=True)
                        return
            await self.service.write("POST", path, {"body": body})

    async def answer(self, repo: Repo, number: int, thread: str, text: str, key: str) -> None:
        """See `Following.answer`."""
        path, body = f"{self._at(repo, number)}/discussions/{_word(thread)}", f"{follow.mark(key)}\n{harmless(text)}"
        with told_as(ForgeError):
            me = await self.asking.who()
            notes = (await self.service.get(path)).data["notes"]
            if not any(follow.ours(note, key, me) for note in notes):
                await self.service.write("POST", f"{path}/notes", {"body": body})

    async def resolve(self, repo: Repo, number: int, thread: str) -> None:
        """See `Following.resolve`."""
        path = f"{self._at(repo, number)}/discussions/{_word(thread)}"
        with told_as(ForgeError):
            await self.service.write("PUT", path, {"resolved": True}, again=True)

    async def log(self, repo: Repo, check: Check) -> str:
        """See `Following.log`: the trace of a job; a pipeline itself has none."""
        if not check.id.isdigit():
            return ""
        try:
            return follow.readable(await self.service.tail(f"{at(self._project(repo))}/jobs/{check.id}/trace"))
        except Fault:
            return ""

    async def rerun(self, repo: Repo, check: Check) -> None:
        """See `Following.rerun`. GitLab makes a new job of it, so what was asked for already is not asked twice."""
        kind, _, number = check.id.rpartition("/")
        if not number.isdigit():
            raise ForgeError(f"{check.name} is no job of GitLab: it cannot be run again from here.")
        with told_as(ForgeError):
            project = at(self._project(repo))
            if kind or not await self.asking.runs_again(project, number):
                path = f"{project}/{'pipelines' if kind else 'jobs'}/{number}/retry"
                await self.service.write("POST", path)

    async def merge(self, repo: Repo, number: int, head: str, how: str) -> PullRequest:
        """See `Following.merge`."""
        if (shown := await self._shown(repo, number)).state != "merged":
            with told_as(ForgeError):
                try:
                    await self._merge(repo, number, head, how)
                except Lost:
                    raw: Json = (await self.service.get(self._at(repo, number))).data
                    if raw["state"] != "merged" and (how == "now" or not raw.get("merge_when_pipeline_succeeds")):
                        raise
            shown = await self._shown(repo, number)
        return shown

    async def _merge(self, repo: Repo, number: int, head: str, how: str) -> None:
        rules = await self.asking.project(self._project(repo))
        squash = self.settings.merge == "squash" and rules.get("squash_option") != "never"
        asked: dict[str, object] = {"sha": head, "squash": squash}
        if how == "queue":
            path = f"{at(self._project(repo))}/merge_trains/merge_requests/{number}"
            await self.service.write("POST", path, asked | {"auto_merge": True, "when_pipeline_succeeds": True})
            return
        if how == "green":  # the second is how servers older than 17.11 call it
            asked |= {"auto_merge": True, "merge_when_pipeline_succeeds": True}
        await self.service.write("PUT", f"{self._at(repo, number)}/merge", asked)

    async def edit(self, repo: Repo, number: int, *, draft: bool) -> PullRequest:
        """See `Following.edit`: its title says whether it is one."""
        with told_as(ForgeError):
            raw: Json = (await self.service.get(self._at(repo, number))).data
            if raw["draft"] != draft:
                wish = {"title": _title(raw["title"], draft)}
                raw = (await self.service.write("PUT", self._at(repo, number), wish, again=True)).data
        return parse_pull(raw, repo.name)

    async def _shown(self, repo: Repo, number: int) -> PullRequest:
        with told_as(ForgeError):
            return parse_pull((await self.service.get(self._at(repo, number))).data, repo.name)

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        """See `Hooked.delivery`. GitLab tells no time."""
        return verify(raw, headers, secret(self.account.where, "webhook_secret", self.settings.webhook_secret))

    async def about(self, repo: Repo) -> dict[str, object]:
        """Who we are there, and what we may not do on that project."""
        with told_as(ForgeError):
            who = await self.asking.who()
            missing = await lacking(self.service, [self._project(repo)], DEVELOPER, "push and open merge requests")
        return {"login": who, "places": [], "missing": missing}


def _title(title: str, draft: bool) -> str:
    plain = plain_title(title)
    return f"Draft: {plain}" if draft else plain


def _word(thread: str) -> str:
    """A thread's id as part of a path. Raises ForgeError for what is none."""
    if not re.fullmatch(r"[0-9a-zA-Z]{1,64}", thread):
        raise ForgeError(f"{thread!r} is no thread of GitLab.")
    return thread
