"""Gitea and Forgejo as a forge: pull requests opened, watched, answered and, if the owner wants that, merged."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import msgspec

from nightcrew.adapters.forges.gitea import parse, watch
from nightcrew.adapters.forges.gitea.access import Access
from nightcrew.adapters.forges.gitea.api import Json, at, pages, rows, service, slug, total, verify
from nightcrew.adapters.forges.gitea.talk import UNKNOWN, Talk
from nightcrew.core.followup import approvals
from nightcrew.core.model import Check, PullRequest, Repo, Standing
from nightcrew.errors import ForgeError
from nightcrew.settings import read_settings, secret
from nightcrew.transport import Answer, Fault, Lost, Refused, Service, told_as

__all__ = ["GiteaForge", "Settings"]

log = logging.getLogger("nightcrew.forges.gitea")
HEAL = 15  # every so many lists, all of it is read, which heals what the changes missed
RECENT = {"sort": "recentupdate"}
CURES = {
    "url": 'Where it is: url = "https://codeberg.org".',
    "merge": 'One of: "squash", "merge", "rebase".',
}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[forges.NAME]` with kind "gitea"."""

    url: str  # the address people open, below which /api/v1 is
    token: str = ""  # "$NAME"; "" = $GITEA_TOKEN
    draft: bool = False  # open pull requests as drafts
    reviewers: tuple[str, ...] = ()  # logins asked for a review of each
    labels: tuple[str, ...] = ()  # put on each; the repository or its owner must have them
    merge: Literal["squash", "merge", "rebase"] = "squash"  # how it merges where it may and the repository allows it
    people: tuple[str, ...] = ()  # only these are listened to; () = all who may write
    robots: tuple[str, ...] = ()  # logins of robots, besides those whose name says so
    webhook_secret: str = ""  # "$NAME": what the forge signs its webhooks with; "" = none are taken

    def __repr__(self) -> str:
        return f"Settings(url={self.url!r}, token='***')"


class GiteaForge:
    """Pull requests of repositories on a Gitea or Forgejo. Raises ForgeError, in one sentence."""

    def __init__(self, name: str, settings: Mapping[str, object], home: Path) -> None:
        self.name, self._where = name, f"[forges.{name}]"
        self.settings = read_settings(Settings, self._where, settings, CURES)
        self.service: Service = service(self.settings.url, self._token)
        self.now: Callable[[], float] = time.time
        self._talk = Talk(self.service)
        self._access = Access(self.service, self.settings.people)
        self._pulls: dict[str, parse.Pulls] = {}
        self._watch = watch.Watch()

    def _token(self) -> str:
        return secret(self._where, "token", self.settings.token or "$GITEA_TOKEN")

    def git_env(self, repo: Repo) -> Mapping[str, str]:
        """See `Forge.git_env`: a header by the environment, so that it is in no address, file or argument."""
        if not (address := re.match(r"https?://[^/]+/", repo.url)):
            return {}
        slug(repo.url)
        word = base64.b64encode(f"nightcrew:{self._token()}".encode()).decode()  # a token is enough, whatever the name
        return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"http.{address[0]}.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {word}"}  # fmt: skip

    # -- Forge ---------------------------------------------------------------------------------------------------------
    async def find(self, repo: Repo, branch: str) -> PullRequest | None:
        """See `Forge.find`. Gitea cannot be asked by head alone, so it is looked for in the list, which is kept."""
        with told_as(ForgeError):
            return await self._find(repo, branch)

    async def _find(self, repo: Repo, branch: str) -> PullRequest | None:
        known = await self._read(repo)
        found = next((pull for pull in known.newest_first() if pull.branch == branch), None)
        if found or not known.partial:
            return found
        try:
            path = at(slug(repo.url), "pulls", repo.base, branch)
            return parse.parse_pull((await self.service.get(path)).data, repo.name)
        except Refused as no:
            if no.status != 404:
                raise
            return None

    async def open(self, repo: Repo, branch: str, title: str, body: str) -> PullRequest:
        """See `Forge.open`. Reviewers and labels are asked for; that they cannot be had stops nothing."""
        wanted = parse.titled(title, self.settings.draft)
        asked = {"title": wanted, "head": branch, "base": repo.base, "body": body}
        with told_as(ForgeError):
            try:
                made = await self.service.write("POST", at(slug(repo.url), "pulls"), asked)
                opened = parse.parse_pull(made.data, repo.name)
            except Lost:
                found = await self._find(repo, branch)
                if found is None or found.state != "open":
                    raise
                opened = found
        await self._furnish(repo, opened.number)
        return opened

    async def _furnish(self, repo: Repo, number: int) -> None:
        try:
            if self.settings.labels:
                await self._label(repo, number)
        except Fault as fault:
            _unfurnished(repo, number, str(fault))
        for login in self.settings.reviewers:  # one by one: a login that is not there spoils the whole request
            path = at(slug(repo.url), "pulls", number, "requested_reviewers")
            try:
                await self.service.write("POST", path, {"reviewers": [login]}, again=True)
            except Fault as fault:
                _unfurnished(repo, number, str(fault))

    async def _label(self, repo: Repo, number: int) -> None:
        """Labels are put by number: not every version takes their names."""
        known = {row["name"].lower(): row["id"] for row in await rows(self.service, at(slug(repo.url), "labels"))}
        if missing := [label for label in self.settings.labels if label.lower() not in known]:
            _unfurnished(repo, number, f"{slug(repo.url)} has no label {', '.join(missing)}")
        if ids := [known[label.lower()] for label in self.settings.labels if label.lower() in known]:
            path = at(slug(repo.url), "issues", number, "labels")
            await self.service.write("POST", path, {"labels": ids}, again=True)

    async def update(self, repo: Repo, number: int, title: str, body: str) -> PullRequest:
        """See `Forge.update`. A draft stays one."""
        with told_as(ForgeError):
            raw = await self._raw(repo, number)
            return await self._edit(repo, raw, parse.titled(title, parse.is_draft(raw)), body)

    async def _edit(self, repo: Repo, raw: Json, title: str, body: str) -> PullRequest:
        if (raw["title"], raw["body"]) != (title, body):
            path = at(slug(repo.url), "pulls", raw["number"])
            raw = (await self.service.write("PATCH", path, {"title": title, "body": body}, again=True)).data
        return parse.parse_pull(raw, repo.name)

    async def list(self, repo: Repo) -> list[PullRequest]:
        """See `Forge.list`; at most the 1,000 changed last. An unchanged list is one request."""
        with told_as(ForgeError):
            return (await self._read(repo)).newest_first()

    async def _read(self, repo: Repo) -> parse.Pulls:
        """The list, up to date; what was read of it before a fault is not kept, for it would hide what follows."""
        before = self._pulls.get(repo.name, parse.Pulls())
        known = before.copy() if before.reads % HEAL else parse.Pulls()
        seen: set[int] = set()
        async for page, answer in pages(self.service, at(slug(repo.url), "pulls"), {"state": "all", **RECENT}):
            reached = known.took(page, repo.name)
            seen |= {row["number"] for row in page}
            known.partial = (total(answer) or 0) > len(known.known)
            if reached and known.open() <= seen:  # an open one's head may have changed without its time
                break
        known.reads = before.reads + 1
        self._pulls[repo.name] = known
        return known

    async def _raw(self, repo: Repo, number: int) -> Json:
        return dict((await self.service.get(at(slug(repo.url), "pulls", number))).data)

    # -- Following: looking --------------------------------------------------------------------------------------------
    async def stamps(self, repo: Repo, numbers: Sequence[int]) -> Mapping[int, str]:
        """See `Following.stamps`: one request for each 50 open ones, and one for each that has checks to be read.

        A check that has ended and runs again without us is seen within 8 calls.
        """
        wanted, found = set(numbers), dict[int, str]()
        self._watch.keep(repo.name, wanted)
        if not wanted:
            return found
        with told_as(ForgeError):
            path, shown = at(slug(repo.url), "pulls"), dict[int, tuple[Json, float]]()
            async for page, answer in pages(self.service, path, {"state": "open", **RECENT}):
                shown |= {row["number"]: (row, self._time(answer)) for row in page if row["number"] in wanted}
                if shown.keys() == wanted:
                    break
            for number in wanted - shown.keys():
                shown[number] = (await self._raw(repo, number), self.now())
            for number, (row, then) in shown.items():
                found[number] = await self._stamp(repo, row, then)
        return found

    def _time(self, answer: Answer) -> float:
        """When the forge answered, by its own clock."""
        try:
            return parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
        except ValueError:
            return self.now()

    async def _stamp(self, repo: Repo, row: Json, then: float) -> str:
        seen = self._watch.of(repo.name, row["number"])
        if watch.read_statuses(seen, row):
            await self._statuses(repo, row)
        if watch.count_reviews(seen, row):
            path = at(slug(repo.url), "pulls", row["number"], "reviews")
            counted = await self.service.get(path, {"page": 1, "limit": 1})
            known = total(counted)
            watch.counted(seen, row, len(await rows(self.service, path)) if known is None else known, then)
        return watch.stamp(seen, row, watch.merges(seen, row, self.now()))

    async def _statuses(self, repo: Repo, row: Json) -> Sequence[Json]:
        head = row["head"]["sha"]
        found = await rows(self.service, at(slug(repo.url), "commits", head, "status"), key="statuses")
        told = tuple(sorted((one["context"], one["status"]) for one in found))
        watch.had_statuses(self._watch.of(repo.name, row["number"]), row["number"], head, told)
        return found

    async def standing(self, repo: Repo, number: int) -> Standing:
        """See `Following.standing`: five requests, and one for each review that has comments."""
        where = slug(repo.url)
        with told_as(ForgeError):
            raw, me = await asyncio.gather(self._raw(repo, number), self._access.login())
            statuses, said, reviews, timeline, rule = await asyncio.gather(
                self._statuses(repo, raw), self._talk.comments(where, number),
                rows(self.service, at(where, "pulls", number, "reviews")),
                rows(self.service, at(where, "issues", number, "timeline")),
                self._access.rule(where, raw["base"]["ref"]),
            )  # fmt: skip
            threads = await self._talk.threads(where, number, reviews, me)
            who = parse.authors(said, reviews, *(thread.comments for thread in threads))
            writers = await self._access.writers(where, who)
        remarks = parse.parse_remarks(said, reviews, threads, me, writers, {r.lower() for r in self.settings.robots})
        outdated = rule.up_to_date and raw.get("merge_base") != raw["base"]["sha"]
        return Standing(
            pull=parse.parse_pull(raw, repo.name), base_head=raw["base"]["sha"], draft=parse.is_draft(raw),
            mergeable=watch.merges(self._watch.of(repo.name, number), raw, self.now()), behind=outdated,
            checks=parse.parse_checks(statuses, raw["head"]["sha"], rule.required, self.settings.url),
            remarks=remarks, approved=parse.approved(remarks, rule.approvals),
            approvals=() if rule.approvals else approvals(remarks),
            merging=raw["state"] == "open" and parse.merging(timeline),
        )  # fmt: skip

    # -- Following: saying ---------------------------------------------------------------------------------------------
    async def say(self, repo: Repo, number: int, text: str, key: str) -> None:
        """See `Following.say`: found again by a hidden mark."""
        with told_as(ForgeError):
            await self._talk.say(slug(repo.url), number, text, key, await self._access.login())

    async def answer(self, repo: Repo, number: int, thread: str, text: str, key: str) -> None:
        """See `Following.answer`."""
        with told_as(ForgeError):
            await self._talk.answer(slug(repo.url), number, thread, text, key, await self._access.login())

    async def resolve(self, repo: Repo, number: int, thread: str) -> None:
        """See `Following.resolve`. Where the forge has no way to (Forgejo), a hidden mark in our answer says it."""
        with told_as(ForgeError):
            await self._talk.resolve(slug(repo.url), number, thread, await self._access.login())

    # -- Following: checks ---------------------------------------------------------------------------------------------
    async def log(self, repo: Repo, check: Check) -> str:
        """See `Following.log`: the job's log where Gitea Actions ran it."""
        where = slug(repo.url)
        try:
            if (run := await self._run(repo, check)) is None:
                return ""
            jobs = await rows(self.service, at(where, "actions", "runs", run["id"], "jobs"), key="jobs")
            job = parse.job_of(check, jobs)
            return await self.service.tail(at(where, "actions", "jobs", job["id"], "logs")) if job else ""
        except Fault:
            return ""

    async def _run(self, repo: Repo, check: Check) -> parse.Raw | None:
        head, status, _ = check.id.partition("/")
        if not status:
            return None
        path = at(slug(repo.url), "actions", "runs")
        return parse.run_of(check, await rows(self.service, path, {"head_sha": head}, key="workflow_runs"))

    async def rerun(self, repo: Repo, check: Check) -> None:
        """See `Following.rerun`: the failed jobs of its run of Actions, which Gitea can since 1.26."""
        with told_as(ForgeError):
            if (run := await self._run(repo, check)) is None:
                raise ForgeError(f"{check.name} is no check of Actions: it cannot be run again from here.")
            path = at(slug(repo.url), "actions", "runs", run["id"])
            try:
                await self.service.write("POST", f"{path}/rerun-failed-jobs")
            except Lost:
                if (await self.service.get(path)).data["status"] == "completed":
                    raise
            except Refused as no:
                if no.status in UNKNOWN:
                    raise ForgeError(f"{check.name} cannot be run again over the API of this forge.",
                                     hint="Gitea can since 1.26, Forgejo cannot.") from no  # fmt: skip
                raise

    # -- Following: towards the merge ----------------------------------------------------------------------------------
    async def merge(self, repo: Repo, number: int, head: str, how: str) -> PullRequest:
        """See `Following.merge`. With "green" the head is compared when that is ordered: the forge does not."""
        if how == "queue":
            raise ForgeError("Gitea has no merge queue.", hint='Set merge = "green": it merges once all is green.')
        with told_as(ForgeError):
            raw = await self._raw(repo, number)
            if not raw["merged"]:
                if raw["head"]["sha"] != head:
                    raise ForgeError(f"Pull request #{number} is not at {head[:12]} any more: it is not merged.")
                await self._merge(repo, raw, head, how)
                raw = await self._raw(repo, number)
        return parse.parse_pull(raw, repo.name)

    async def _merge(self, repo: Repo, raw: Json, head: str, how: str) -> None:
        asked: Json = {"do": parse.style(raw, self.settings.merge), "head_commit_id": head}
        if how == "green":
            asked["merge_when_checks_succeed"] = True
        try:
            await self.service.write("POST", at(slug(repo.url), "pulls", raw["number"], "merge"), asked)
        except Lost:
            if not (await self._raw(repo, raw["number"]))["merged"] and not await self._merges_itself(repo, raw):
                raise
        except Refused as no:
            if how != "green" or no.status != 409 or not await self._merges_itself(repo, raw):
                raise

    async def _merges_itself(self, repo: Repo, raw: Json) -> bool:
        return parse.merging(await rows(self.service, at(slug(repo.url), "issues", raw["number"], "timeline")))

    async def edit(self, repo: Repo, number: int, *, draft: bool) -> PullRequest:
        """See `Following.edit`: by its title, as Gitea does it."""
        with told_as(ForgeError):
            raw = await self._raw(repo, number)
            if parse.is_draft(raw) == draft:
                return parse.parse_pull(raw, repo.name)
            return await self._edit(repo, raw, parse.titled(raw["title"], draft), raw["body"])

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        """See `Hooked.delivery`. Gitea tells no time: `now` is unused."""
        return verify(raw, headers, secret(self._where, "webhook_secret", self.settings.webhook_secret))

    async def about(self, repo: Repo) -> dict[str, object]:
        """Who we are there, and what we may not do on that repository."""
        with told_as(ForgeError):
            who = await self._access.login()
            return {"login": who, "places": [], "missing": await self._access.missing(slug(repo.url))}


def _unfurnished(repo: Repo, number: int, why: str) -> None:
    log.warning("pull.unfurnished", extra={"repo": repo.name, "number": number, "error": why})
