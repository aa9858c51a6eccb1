"""The transport against a real server that goes wrong in every way."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from aiohttp import web

from nightcrew import transport
from nightcrew.errors import BoardError
from nightcrew.testing.company.standin import CUT, ERROR, LATE, LIMITED, LOST, PAGE, Answered, Standin, said
from nightcrew.transport import Answer, Limit, Limited, Lost, Refused, Service, Unreachable


class Shelf(Standin):
    """A list of words: GET shows it page by page with an ETag, POST adds to it."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.credentials: list[str] = []
        self.cookies: list[str] = []

    def routes(self) -> list[web.RouteDef]:
        return [
            self.route("GET", "/words", self._words), self.route("POST", "/words", self._add),
            self.route("GET", "/no", self._no), self.route("GET", "/long", self._long),
            self.route("GET", "/text", self._text), self.route("*", "/old/{status}", self._old),
            self.route("*", "/round", self._round), self.route("POST", "/away", self._away),
        ]  # fmt: skip

    def limit(self) -> web.Response:
        return web.json_response({"message": "slow down"}, status=429, headers={"Retry-After": self.wait})

    wait = "0.2"

    async def _words(self, request: web.Request) -> web.Response:
        page = int(request.query.get("page", 1))
        mark = f'"{len(self.words)}-{page}"'
        if request.headers.get("if-none-match") == mark:
            return web.Response(status=304, headers={"ETag": mark})
        shown = self.words[2 * page - 2 : 2 * page]
        link = {"Link": f'<{self.url}/words?page={page + 1}>; rel="next"'} if len(self.words) > 2 * page else {}
        return web.json_response(shown, headers={"ETag": mark, **link})

    async def _add(self, request: web.Request) -> web.Response:
        self.words.append(said(await request.read())["word"])
        self.credentials.append(request.headers.get("authorization", ""))
        self.cookies.append(request.headers.get("cookie", ""))
        return web.json_response({"at": len(self.words)}, status=201, headers={"Set-Cookie": "session=first; Path=/"})

    async def _no(self, request: web.Request) -> web.Response:
        raise Answered(422, {"message": "Validation Failed", "errors": [{"message": "too odd"}, "and\nlong"]})

    async def _long(self, request: web.Request) -> web.Response:
        return web.Response(text="x" * 100_000 + "the end")

    async def _old(self, request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]), headers={"Location": "/words"})

    async def _away(self, request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{self.url.replace('127.0.0.1', 'localhost')}/words"})

    async def _round(self, request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/round"})

    async def _text(self, request: web.Request) -> web.Response:
        return web.Response(text="not json", content_type="application/json")


def limits(answer: Answer, now: float) -> Limit | None:
    return Limit(float(answer.headers["retry-after"]), "too many") if answer.status == 429 else None


async def nobody() -> Mapping[str, str]:
    return {"authorization": "Bearer secret-token"}


@pytest.fixture
def shelf() -> AsyncIterator[Shelf]:
    with Shelf() as running:
        yield running  # type: ignore[misc]


@pytest.fixture
async def service(shelf: Shelf) -> AsyncIterator[Service]:
    yield Service("Shelf", shelf.url, nobody, limits)
    await transport.close()


@pytest.mark.parametrize("kind", [ERROR, PAGE, CUT, LOST, LATE, LIMITED])
async def test_a_read_comes_through_whatever_goes_wrong_once(service: Service, shelf: Shelf, kind: str) -> None:
    shelf.words = ["a"]
    shelf.trouble.next("GET /words", kind)
    assert (await service.get("/words")).data == ["a"]


@pytest.mark.parametrize(("kind", "added"), [(ERROR, 0), (PAGE, 0), (CUT, 0), (LOST, 1)])
async def test_a_write_whose_answer_is_lost_is_not_sent_again(
    service: Service, shelf: Shelf, kind: str, added: int
) -> None:
    shelf.trouble.next("POST /words", kind)
    with pytest.raises(Lost, match="Shelf"):
        await service.write("POST", "/words", {"word": "a"})
    assert len(shelf.words) == added
    assert len(shelf.log) == 1


async def test_a_write_that_may_be_done_twice_is_sent_again(service: Service, shelf: Shelf) -> None:
    shelf.trouble.next("POST /words", ERROR)
    assert (await service.write("POST", "/words", {"word": "a"}, again=True)).data == {"at": 1}


async def test_a_short_limit_is_waited_for_also_by_a_write(service: Service, shelf: Shelf) -> None:
    shelf.trouble.next("POST /words", LIMITED)
    assert (await service.write("POST", "/words", {"word": "a"})).status == 201
    assert service.counts == {"sent": 2, "limited": 1}


async def test_a_long_limit_is_told_and_nothing_more_is_asked_till_then(service: Service, shelf: Shelf) -> None:
    shelf.wait = "600"
    shelf.trouble.next("GET /words", LIMITED)
    for _ in range(2):
        with pytest.raises(Limited) as told:
            await service.get("/words")
        assert 590 < told.value.wait <= 600
    assert len(shelf.log) == 1
    service.now = lambda: 1e12
    assert (await service.get("/words")).data == []


async def test_an_unchanged_answer_is_not_sent_again(service: Service, shelf: Shelf) -> None:
    shelf.words = ["a"]
    first = await service.get("/words", etag=True)
    again = await service.get("/words", etag=True)
    assert (first.unchanged, again.unchanged, again.data) == (False, True, ["a"])
    shelf.words.append("b")
    fresh = await service.get("/words", etag=True)
    assert (fresh.unchanged, fresh.data) == (False, ["a", "b"])
    assert [exchange.status for exchange in shelf.log] == [200, 304, 200]


async def test_a_list_is_read_to_its_end_and_not_beyond_the_bound(service: Service, shelf: Shelf) -> None:
    shelf.words = list("abcde")
    assert [w async for page in service.pages("/words") for w in page.data] == list("abcde")
    assert [w async for page in service.pages("/words", most=2) for w in page.data] == list("abcd")


async def test_a_refusal_is_told_once_on_one_line(service: Service, shelf: Shelf) -> None:
    with pytest.raises(Refused) as told:
        await service.get("/no")
    assert str(told.value) == "Shelf refused GET /no (422): Validation Failed; too odd; and long"
    assert told.value.status == 422
    assert len(shelf.log) == 1


@pytest.mark.slow
async def test_what_is_no_json_is_no_answer(service: Service) -> None:
    with pytest.raises(Unreachable, match="Shelf does not answer GET /text"):
        await service.get("/text")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_write_that_is_led_elsewhere_stays_a_write(service: Service, shelf: Shelf, status: int) -> None:
    assert (await service.write("POST", f"/old/{status}", {"word": "a"})).data == {"at": 1}
    assert (await service.get(f"/old/{status}")).data == shelf.words == ["a"]


async def test_the_credential_goes_to_no_other_host(service: Service, shelf: Shelf) -> None:
    await service.write("POST", "/away", {"word": "a"})
    await service.write("POST", "/words", {"word": "b"})
    assert shelf.credentials == ["", "Bearer secret-token"]


async def test_no_session_is_kept_for_it_would_be_shared_by_all_accounts(service: Service, shelf: Shelf) -> None:
    for word in ("a", "b"):
        await service.write("POST", "/words", {"word": word})
    assert shelf.cookies == ["", ""]


@pytest.mark.slow
async def test_an_address_that_leads_in_a_circle_is_a_fault_like_any_other(service: Service) -> None:
    with pytest.raises(Unreachable):
        await service.get("/round")
    with pytest.raises(Lost):
        await service.write("POST", "/round", {"word": "a"})


async def test_of_a_long_text_its_end_is_kept(service: Service) -> None:
    assert await service.tail("/long", 100) == "x" * 93 + "the end"


@pytest.mark.slow
async def test_nobody_there_is_told_with_the_address_and_without_the_credential(unused: Callable[[], int]) -> None:
    service = Service("Shelf", f"http://127.0.0.1:{unused()}", nobody, limits)
    with pytest.raises(BoardError, match=r"Shelf at http://127\.0\.0\.1") as told, transport.told_as(BoardError):
        await service.write("POST", "/words", {"word": "a"})
    assert "secret" not in told.value.sentence()
    assert service.counts["sent"] == transport.TRIES
    await transport.close()


@pytest.fixture
def unused(tmp_path: Path) -> Callable[[], int]:
    def port() -> int:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            return int(one.getsockname()[1])

    return port
