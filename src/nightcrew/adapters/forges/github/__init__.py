"""GitHub as a forge: pull requests opened, watched, answered and, if the owner wants that, merged."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nightcrew.adapters.forges.github import follow
from nightcrew.adapters.forges.github.parse import Pulls, parse_pull
from nightcrew.adapters.github_api import (
    API,
    GRAPHQL,
    PACE,
    Account,
    Writers,
    gh_host,
    graphql,
    graphql_path,
    login,
    service,
    slug,
    verify,
    wrote,
)
from nightcrew.core.model import Check, PullRequest, Repo, Standing
from nightcrew.errors import ForgeError
from nightcrew.settings import read_settings, secret
from nightcrew.transport import Fault, Lost, Refused, Relayed, Service, told_as

__all__ = ["GitHubForge", "Settings"]

log = logging.getLogger("nightcrew.forges.github")
METHODS = ("squash", "merge", "rebase")
MOVED = b'{"message": "It has moved to another repository, or this one has a name that nightcrew.toml does not know."}'


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[forges.NAME]` with kind "github"."""

    url: str = API  # an own server's is https://HOST/api/v3
    token: str = ""  # "$NAME"; "" = $GITHUB_TOKEN; "gh" = the login of the gh program
    app: str = ""  # a GitHub App's id, instead of a token
    key: str = ""  # its private key: a file, or "$NAME"
    pace: int = PACE  # comments, issues and pull requests written in a minute, at most
    installation: int = 0  # 0 = that of each repository's owner
    draft: bool = False  # open pull requests as drafts
    reviewers: tuple[str, ...] = ()  # logins asked for a review of each
    labels: tuple[str, ...] = ()  # put on each
    merge: str = "squash"  # or "merge", "rebase": how it merges where it may
    people: tuple[str, ...] = ()  # only these are listened to; () = all who may write
    webhook_secret: str = ""  # "$NAME": what GitHub signs its webhooks with; "" = none are taken


class GitHubForge:
    """Pull requests of repositories on GitHub or on a GitHub Enterprise Server. Raises ForgeError, in one sentence."""

    def __init__(self, name: str, settings: Mapping[str, object], home: Path) -> None:
        where = f"[forges.{name}]"
        self.name = name
        self.settings = read_settings(Settings, where, settings, {"merge": f"One of: {', '.join(METHODS)}."})
        told = self.settings
        self.account = Account(where, told.url.rstrip("/"), told.token, told.app, told.key, told.installation)
        self.service: Service = service(self.account, told.pace)
        self._pulls: dict[str, Pulls] = {}
        self._owners: dict[str, str] = {}
        self._writers = Writers(self.service)
        self._login = ""

    def git_env(self, repo: Repo) -> Mapping[str, str]:
        """See `Forge.git_env`: a header by the environment, so that it is in no address, file or argument."""
        if not (address := re.match(r"https?://[^/]+/", repo.url)):
            return {}
        word = base64.b64encode(f"x-access-token:{self._token(repo)}".encode()).decode()
        return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"http.{address[0]}.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {word}"}  # fmt: skip

    def _token(self, repo: Repo) -> str:
        self.account.about(slug(repo.url))
        with told_as(ForgeError):
            return self.account.current_now()

    async def find(self, repo: Repo, branch: str) -> PullRequest | None:
        """See `Forge.find`."""
        with told_as(ForgeError):
            return await self._find(repo, branch)

    async def _find(self, repo: Repo, branch: str) -> PullRequest | None:
        owner = await self._owner(repo)
        query = {"head": f"{owner}:{branch}", "state": "all", "per_page": 20}  # without "owner:" GitHub ignores it
        rows = (await self.service.get(f"{self._at(repo)}/pulls", query)).data
        mine = [pull for row in rows if (pull := parse_pull(row, repo.name)).branch == branch]
        return max(mine, key=lambda pull: pull.number, default=None)

    async def _owner(self, repo: Repo) -> str:
        """Who owns it now, asked once: an address from before a transfer leads there, a head's owner does not."""
        if repo.name not in self._owners:
            full: str = (await self.service.get(self._at(repo))).data["full_name"]
            self._owners[repo.name] = full.partition("/")[0]
        return self._owners[repo.name]

    async def open(self, repo: Repo, branch: str, title: str, body: str) -> PullRequest:
        """See `Forge.open`. Reviewers and labels are asked for; that they cannot be had stops nothing."""
        asked = {"title": title, "head": branch, "base": repo.base, "body": body, "draft": self.settings.draft}
        with told_as(ForgeError):
            try:
                opened = parse_pull(await self._open(repo, asked), repo.name)
            except Lost:
                found = await self._find(repo, branch)
                if found is None or found.state != "open":
                    raise
                opened = found
        await self._furnish(repo, opened.number)
        return opened

    async def _open(self, repo: Repo, asked: Mapping[str, object]) -> Mapping[str, Any]:
        path = f"{self._at(repo)}/pulls"
        try:
            made: Mapping[str, Any] = (await self.service.write("POST", path, asked)).data
        except Refused as refused:
            self._owners.pop(repo.name, None)
            if not asked["draft"] or refused.status != 422 or "raft pull requests" not in str(refused.data):
                raise
            log.warning("pull.no_drafts", extra={"repo": repo.name, "error": str(refused)})  # of this plan of GitHub's
            made = (await self.service.write("POST", path, {**asked, "draft": False})).data
        return made

    async def _furnish(self, repo: Repo, number: int) -> None:
        wishes: list[tuple[str, Mapping[str, object]]] = []
        for name in self.settings.reviewers:  # one by one: one who cannot be asked spoils the whole request
            wishes.append((f"pulls/{number}/requested_reviewers", {"reviewers": [name]}))
        if self.settings.labels:
            wishes.append((f"issues/{number}/labels", {"labels": list(self.settings.labels)}))
        for path, wish in wishes:
            try:
                await self.service.write("POST", f"{self._at(repo)}/{path}", wish, again=True)
            except Fault as fault:
                log.warning("pull.unfurnished", extra={"repo": repo.name, "number": number, "error": str(fault)})

    async def update(self, repo: Repo, number: int, title: str, body: str) -> PullRequest:
        """See `Forge.update`."""
        with told_as(ForgeError):
            path = f"{self._at(repo)}/pulls/{number}"
            changed = await self.service.write("PATCH", path, {"title": title, "body": body}, again=True)
        return parse_pull(changed.data, repo.name)

    async def list(self, repo: Repo) -> list[PullRequest]:
        """See `Forge.list`; at most the 1,000 changed last. An unchanged list costs one request answered 304."""
        known = self._pulls.setdefault(repo.name, Pulls())
        query = {"state": "all", "sort": "updated", "direction": "desc", "per_page": 100}
        rows: list[dict[str, Any]] = []
        with told_as(ForgeError):
            async for page in self.service.pages(f"{self._at(repo)}/pulls", query, etag=True, most=10):
                if page.unchanged and not known.unread:
                    break
                known.unread = True  # till all of it is here: after a fault the next answer may be "unchanged"
                rows += page.data
                if known.reaches(page.data):
                    break
        known.take(rows, repo.name)
        return known.newest_first()

    # -- Following -----------------------------------------------------------------------------------------------------
    async def stamps(self, repo: Repo, numbers: Sequence[int]) -> Mapping[int, str]:
        """See `Following.stamps`: one GraphQL request for each 50."""
        found: dict[int, str] = {}
        owner, name = self._parts(repo)
        for start in range(0, len(numbers), follow.BATCH):
            some = numbers[start : start + follow.BATCH]
            asked = {"owner": owner, "name": name, **{f"n{i}": number for i, number in enumerate(some)}}
            with told_as(ForgeError):
                data = await graphql(self.service, follow.stamps_query(len(some)), asked, part="repository")
            found |= follow.parse_stamps(data)
        return found

    async def standing(self, repo: Repo, number: int) -> Standing:
        """See `Following.standing`: one GraphQL request, one for each further hundred checks, and one for each person
        who speaks, once an hour.
        """
        data = await self._followed(repo, number)
        await self._more_checks(repo, number, data)
        with told_as(ForgeError):
            writers = await self._trusted(slug(repo.url), follow.said(data))
        return follow.parse_standing(data, repo.name, writers, self._login)

    async def _trusted(self, place: str, said: Sequence[Mapping[str, Any]]) -> frozenset[str]:
        people = {one.lower() for one in self.settings.people}
        by = {follow.named(one["author"]): (one["author"], one["authorAssociation"]) for one in said if one["author"]}
        may = [name for name, who in by.items()
               if (not people or people & {name.lower(), name.lower().removesuffix("[bot]")})
               and (follow.is_app(who[0]) or await self._writers.may(place, *who))]  # fmt: skip
        return frozenset(may)

    async def _followed(self, repo: Repo, number: int) -> dict[str, Any]:
        owner, name = self._parts(repo)
        with told_as(ForgeError):
            asked = {"owner": owner, "name": name, "number": number}
            data = await graphql(self.service, follow.FOLLOW_UP, asked)
        self._login = data["viewer"]["login"] or self._login
        return data

    async def _more_checks(self, repo: Repo, number: int, data: dict[str, Any]) -> None:
        owner, name = self._parts(repo)
        head, contexts = follow.checked(data)
        page = contexts.get("pageInfo") or {}
        while page.get("hasNextPage"):
            asked = {"owner": owner, "name": name, "number": number, "after": page["endCursor"]}
            with told_as(ForgeError):
                then, more = follow.checked(await graphql(self.service, follow.MORE_CHECKS, asked))
            if then != head:
                raise ForgeError(f"Pull request #{number} got new commits while its checks were read.",
                                 hint="Nothing to do: it is read again.")  # fmt: skip
            contexts["nodes"] += more["nodes"]
            page = more["pageInfo"]

    async def say(self, repo: Repo, number: int, text: str, key: str) -> None:
        """See `Following.say`: found again by a hidden mark."""
        path, body = f"{self._at(repo)}/issues", f"{follow.mark(key)}\n{text}"
        with told_as(ForgeError):
            self._login = self._login or await login(self.service)
            async for page in self.service.pages(f"{path}/{number}/comments", {"per_page": 100}):
                for said in page.data:
                    if (said["body"] or "").startswith(follow.mark(key)) and wrote(said["user"], self._login):
                        if said["body"] != body:
                            await self.service.write(
                                "PATCH", f"{path}/comments/{said['id']}", {"body": body}, again=True
                            )
                        return
            await self.service.write("POST", f"{path}/{number}/comments", {"body": body})

    async def answer(self, repo: Repo, number: int, thread: str, text: str, key: str) -> None:
        """See `Following.answer`."""
        body = f"{follow.mark(key)}\n{text}"
        data = await self._followed(repo, number)
        if follow.answered(data, thread, key, self._login):
            return
        with told_as(ForgeError):
            await graphql(self.service, follow.REPLY, {"thread": thread, "body": body}, again=False)

    async def resolve(self, repo: Repo, number: int, thread: str) -> None:
        """See `Following.resolve`."""
        with told_as(ForgeError):
            await graphql(self.service, follow.RESOLVE, {"thread": thread})

    async def log(self, repo: Repo, check: Check) -> str:
        """See `Following.log`: the job's log where GitHub Actions ran it."""
        if not (job := follow.job_of(check)):
            return ""
        try:
            return await self.service.tail(f"{self._at(repo)}/actions/jobs/{job}/logs")
        except Fault:
            return ""

    async def rerun(self, repo: Repo, check: Check) -> None:
        """See `Following.rerun`: the failed jobs of its workflow run."""
        run = follow.run_of(check)
        if not run:
            raise ForgeError(f"{check.name} is no check of GitHub Actions: it cannot be run again from here.")
        with told_as(ForgeError):
            await self.service.write("POST", f"{self._at(repo)}/actions/runs/{run}/rerun-failed-jobs", again=True)

    async def merge(self, repo: Repo, number: int, head: str, how: str) -> PullRequest:
        """See `Following.merge`."""
        data = (await self._followed(repo, number))["repository"]["pullRequest"]
        if data["state"] != "MERGED":
            with told_as(ForgeError):
                await self._merge(repo, data, head, how)
        return await self._shown(repo, number)

    async def _merge(self, repo: Repo, data: Mapping[str, Any], head: str, how: str) -> None:
        number, node = data["number"], data["id"]
        if how == "now" or (how == "green" and data["mergeStateStatus"] in follow.MERGES):
            asked = {"sha": head, "merge_method": self.settings.merge}
            try:
                await self.service.write("PUT", f"{self._at(repo)}/pulls/{number}/merge", asked)
            except Lost:
                if (await self._shown(repo, number)).state != "merged":
                    raise
        elif how == "queue":
            await graphql(self.service, follow.ENQUEUE, {"id": node, "head": head})
        else:
            method = self.settings.merge.upper()
            await graphql(self.service, follow.AUTO_MERGE, {"id": node, "head": head, "method": method})

    async def edit(self, repo: Repo, number: int, *, draft: bool) -> PullRequest:
        """See `Following.edit`."""
        data = (await self._followed(repo, number))["repository"]["pullRequest"]
        if data["isDraft"] != draft:
            with told_as(ForgeError):
                await graphql(self.service, follow.DRAFT if draft else follow.READY, {"id": data["id"]})
        return await self._shown(repo, number)

    async def _shown(self, repo: Repo, number: int) -> PullRequest:
        with told_as(ForgeError):
            return parse_pull((await self.service.get(f"{self._at(repo)}/pulls/{number}")).data, repo.name)

    # -- Relaying ------------------------------------------------------------------------------------------------------
    def place(self, repo: Repo) -> str:
        """See `Relaying.place`."""
        return slug(repo.url)

    async def relay(self, repo: Repo, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Relayed:
        """See `Relaying.relay`."""
        self._at(repo)
        if body is None:
            got = await self.service.relay(path, headers)
            # Logs and archives are elsewhere. What moved within the API is another repository's, or it has a new name.
            moved = got.found.startswith(("/repos/", "/repositories/"))
            return Relayed(404, {"content-type": "application/json"}, MOVED) if moved else got
        return await self.service.relay(graphql_path(self.service.base), headers, body, scope=GRAPHQL)

    def relay_env(self, repo: Repo, url: str, token: str, folder: Path) -> Mapping[str, str]:
        """See `Relaying.relay_env`: the names that Actions gives its jobs, and those of gh."""
        place, host = slug(repo.url), gh_host(self.settings.url)
        gh = {"GH_CONFIG_DIR": str(folder), "GH_TOKEN": token, "GH_REPO": place}
        if self.settings.url != API:
            gh |= {"GH_HOST": host, "GH_ENTERPRISE_TOKEN": token, "GH_REPO": f"{host}/{place}"}
        return {"GITHUB_API_URL": url, "GITHUB_GRAPHQL_URL": f"{url}/graphql", "GITHUB_TOKEN": token,
                "GITHUB_REPOSITORY": place, **gh}  # fmt: skip

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        """See `Hooked.delivery`."""
        where = f"[forges.{self.name}]"
        return verify(raw, headers, secret(where, "webhook_secret", self.settings.webhook_secret), now)

    async def about(self, repo: Repo) -> dict[str, object]:
        """Who we are there, and what we may not do on that repository."""
        path = self._at(repo)
        with told_as(ForgeError):
            who = await login(self.service)
            try:
                shown = (await self.service.get(path)).data
            except Refused:
                shown = {}
        missing: list[str] = []
        if shown.get("archived"):
            missing.append(f"{slug(repo.url)} is archived: nothing can be pushed to it.")
        elif not shown.get("permissions", {}).get("push"):
            missing.append(f"It may not push to {slug(repo.url)} (permission: contents, write).")
        return {"login": who, "places": [], "missing": missing}

    def _parts(self, repo: Repo) -> tuple[str, str]:
        """Owner and name; an app's installation is found by them."""
        owner, _, name = slug(repo.url).partition("/")
        self.account.about(f"{owner}/{name}")
        return owner, name

    def _at(self, repo: Repo) -> str:
        return f"/repos/{'/'.join(self._parts(repo))}"
