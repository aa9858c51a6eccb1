"""Saying things below a pull request and in its threads, each once, in whatever way this forge knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nightcrew.adapters.forges.gitea.api import Json, at, rows
from nightcrew.adapters.forges.gitea.parse import RESOLVED, Thread, mark, said_by, threads
from nightcrew.errors import ForgeError
from nightcrew.transport import Lost, Refused, Service

UNKNOWN = (404, 405)
"""What a forge answers to a request it does not know."""
Way = Callable[[str, int, Thread, str], tuple[str, Any]]


def _reply(slug: str, number: int, thread: Thread, text: str) -> tuple[str, Any]:
    """Gitea since 1.27."""
    return at(slug, "pulls", number, "comments", thread.id, "replies"), {"body": text}


def _into_review(slug: str, number: int, thread: Thread, text: str) -> tuple[str, Any]:
    """Forgejo: one more comment of the same review, at the same line."""
    path = at(slug, "pulls", number, "reviews", thread.comments[0]["pull_request_review_id"], "comments")
    return path, {"body": text, **_place(thread)}


def _own_review(slug: str, number: int, thread: Thread, text: str) -> tuple[str, Any]:
    """An older Gitea: a review of our own, which says one thing at the same line."""
    return at(slug, "pulls", number, "reviews"), {"event": "COMMENT", "comments": [{"body": text, **_place(thread)}]}


WAYS: tuple[Way, ...] = (_reply, _into_review, _own_review)


def _place(thread: Thread) -> Json:
    first = thread.comments[0]
    return {"path": first["path"], "new_position": first["position"] or 0,
            "old_position": first["original_position"] or 0}  # fmt: skip


class Talk:
    """What we say on one forge. It learns which ways of answering and resolving the forge knows."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._way = 0
        self._resolves = 0

    async def comments(self, slug: str, number: int) -> list[Json]:
        """Everything said below it; this list has no pages."""
        return list((await self.service.get(at(slug, "issues", number, "comments"))).data or [])

    async def say(self, slug: str, number: int, text: str, key: str, me: str) -> None:
        """One comment for each key, found again by its hidden mark."""
        body = f"{mark(key)}\n{text}"
        mine = await self._said(slug, number, key, me)
        if mine is not None:
            if mine["body"] != body:
                await self._edit(slug, mine["id"], body)
            return
        try:
            await self.service.write("POST", at(slug, "issues", number, "comments"), {"body": body})
        except Lost:
            if await self._said(slug, number, key, me) is None:
                raise

    async def _said(self, slug: str, number: int, key: str, me: str) -> Json | None:
        found = await self.comments(slug, number)
        return next((one for one in found if one["body"].startswith(mark(key)) and said_by(one, me)), None)

    async def _edit(self, slug: str, comment: int, body: str) -> None:
        await self.service.write("PATCH", at(slug, "issues", "comments", comment), {"body": body}, again=True)

    # -- threads -------------------------------------------------------------------------------------------------------
    async def threads(self, slug: str, number: int, reviews: list[Json], me: str) -> list[Thread]:
        """The threads of these reviews: one request for each that has comments."""
        found: list[Json] = []
        for review in reviews:
            if review["comments_count"]:
                path = at(slug, "pulls", number, "reviews", review["id"], "comments")
                found += (await self.service.get(path)).data or []
        return threads(found, me)

    async def thread(self, slug: str, number: int, id_: str, me: str) -> Thread:
        """One of them. Raises ForgeError when it is not there."""
        reviews = await rows(self.service, at(slug, "pulls", number, "reviews"))
        for one in await self.threads(slug, number, reviews, me):
            if one.id == id_:
                return one
        raise ForgeError(f"Pull request #{number} of {slug} has no thread {id_}.")

    async def answer(self, slug: str, number: int, id_: str, text: str, key: str, me: str) -> None:
        """Answer in a thread, once for each key."""
        thread = await self.thread(slug, number, id_, me)
        if not _answers(thread, key, me):
            try:
                await self._answer(slug, number, thread, f"{mark(key)}{mark(f're-{id_}')}\n{text}")
            except Lost:
                if not _answers(await self.thread(slug, number, id_, me), key, me):
                    raise

    async def _answer(self, slug: str, number: int, thread: Thread, body: str) -> None:
        while True:
            path, asked = WAYS[self._way](slug, number, thread, body)
            try:
                await self.service.write("POST", path, asked)
                return
            except Refused as no:
                if no.status not in UNKNOWN or self._way == len(WAYS) - 1:
                    raise
                self._way += 1

    async def resolve(self, slug: str, number: int, id_: str, me: str) -> None:
        """Close a thread; on a forge that cannot, our last answer in it says so, and is believed when it is read."""
        thread = await self.thread(slug, number, id_, me)
        if not thread.resolved(me) and not await self._resolve(slug, number, id_):
            last = thread.comments[-1]
            if said_by(last, me):
                await self._edit(slug, last["id"], f"{RESOLVED}{last['body']}")
            else:
                await self.answer(slug, number, id_, f"{RESOLVED}Resolved.", f"resolved-{last['id']}", me)

    async def _resolve(self, slug: str, number: int, id_: str) -> bool:
        """Gitea since 1.26, or as builds of Forgejo have it. False: this forge knows neither."""
        ways = (at(slug, "pulls", "comments", id_, "resolve"),
                at(slug, "pulls", number, "comments", id_, "resolve"))  # fmt: skip
        while self._resolves < len(ways):
            try:
                await self.service.write("POST", ways[self._resolves], again=True)
                return True
            except Refused as no:
                if no.status not in UNKNOWN:
                    raise
                self._resolves += 1
        return False


def _answers(thread: Thread, key: str, me: str) -> bool:
    return any(mark(key) in one["body"] and said_by(one, me) for one in thread.comments)
