"""What the webhook listener answers to whom, over real HTTP; and how adapters tell a delivery that is genuine."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from nightcrew.adapters.boards.github import GitHubBoard
from nightcrew.adapters.forges.github import GitHubForge
from nightcrew.adapters.github_api import verify
from nightcrew.config import load
from nightcrew.errors import ConfigError
from nightcrew.ports import Hooked
from nightcrew.store import Store, engine_for
from nightcrew.testing.company.github import GitHub
from nightcrew.testing.company.github_state import Pull
from nightcrew.web.serving import CONNECTIONS, bound, serving
from nightcrew.web.webhooks import KEPT, LARGEST, TOGETHER, Bell, Seen, Webhooks
from tests.e2e.agents import AgentMissing, webhooks

pytestmark = pytest.mark.slow

SECRET = "a long secret"


def signed(raw: bytes, name: str = "one", secret: str = SECRET) -> dict[str, str]:
    signature = hmac.digest(secret.encode(), raw, "sha256").hex()
    return {"x-hub-signature-256": f"sha256={signature}", "x-github-delivery": name}


class Clocked:
    """An adapter whose service tells the time, as Linear's does: older than a minute is too old."""

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        at = headers.get("x-at", "")
        return at if at.isdecimal() and abs(now - int(at)) <= 60 else None


class Broken:
    """An adapter with a mistake."""

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        raise KeyError(headers["nothing of the kind"])


@dataclass
class Listener:
    client: httpx.AsyncClient
    taker: Webhooks
    woken: list[float] = field(default_factory=list)

    async def post(self, raw: bytes, headers: Mapping[str, str], name: str = "github") -> int:
        answer = await self.client.post(f"/webhooks/{name}", content=raw, headers=dict(headers))
        assert answer.content == b""
        return answer.status_code


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(engine_for("", tmp_path))
    made.migrate()
    return made


@pytest.fixture
def board(tmp_path: Path) -> GitHubBoard:
    return GitHubBoard("github", {"repos": ["acme/web"], "webhook_secret": SECRET}, tmp_path)


@asynccontextmanager
async def listening(store: Store, hooks: Mapping[str, list[Hooked]], now: float = 1000.0) -> AsyncIterator[Listener]:
    woken: list[float] = []
    clock = asyncio.get_running_loop().time
    taker = Webhooks(hooks, Seen(store), Bell(lambda: woken.append(clock())), lambda: now)
    socket = bound("127.0.0.1", 0)
    url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    async with serving(taker.app, socket), httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield Listener(client, taker, woken)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def test_many_deliveries_within_a_second_wake_once_and_later_ones_again(store: Store, board: GitHubBoard) -> None:
    async with listening(store, {"github": [board]}) as at:
        answers = [at.post(b"{%d}" % n, signed(b"{%d}" % n, str(n))) for n in range(50)]
        assert set(await asyncio.gather(*answers)) == {202}
        assert at.woken == []  # what follows within the second belongs to the same scan
        await until(lambda: len(at.woken) == 1)
        assert await at.post(b"{}", signed(b"{}", "later")) == 202
        await until(lambda: len(at.woken) == 2)
        assert at.woken[1] - at.woken[0] >= TOGETHER


async def test_what_is_not_genuine_is_refused_and_wakes_nobody(store: Store, board: GitHubBoard) -> None:
    right = signed(b"{}")
    bad: list[dict[str, str]] = [
        {}, signed(b"[]"), signed(b"{}", secret="another"), {**right, "x-hub-signature-256": "sha256="},
        {**right, "x-hub-signature-256": right["x-hub-signature-256"].removeprefix("sha256=")},
        {"x-hub-signature-256": right["x-hub-signature-256"]}, {**right, "x-github-delivery": ""},
    ]  # fmt: skip
    async with listening(store, {"github": [board], "broken": [Broken()]}) as at:
        assert [await at.post(b"{}", headers) for headers in bad] == [400] * len(bad)
        assert await at.post(b"{}", right, "broken") == 400
        assert await at.post(b"{}", right, "linear") == 404
        assert (await at.client.get("/webhooks/github")).status_code == 405
        assert (await at.client.get("/")).status_code == 404
        assert at.taker.bell.rings == 0


async def test_a_delivery_is_taken_once_whatever_it_calls_itself_later(store: Store, board: GitHubBoard) -> None:
    async with listening(store, {"github": [board]}) as at:
        assert await at.post(b"{}", signed(b"{}", "one")) == 202
        assert await at.post(b"{}", signed(b"{}", "one")) == 200
        assert await at.post(b"{}", signed(b"{}", "two")) == 200  # the id is not signed
        assert await at.post(b"[]", signed(b"[]", "one")) == 200
        assert at.taker.bell.rings == 1
    async with listening(store, {"github": [board]}) as again:  # after a restart
        assert await again.post(b"{}", signed(b"{}", "one")) == 200
        assert again.taker.bell.rings == 0


async def test_the_last_thousand_are_remembered(store: Store) -> None:
    seen = Seen(store)
    assert all(seen.take("github", str(n), str(n).encode()) for n in range(KEPT + 1))
    again = Seen(store)
    assert not again.take("github", "1", b"1")
    assert again.take("github", "0", b"0")
    assert len(again.marks) == KEPT
    assert again.take("gitlab", "1", b"1")  # ids are the sender's own


async def test_an_old_timestamp_is_refused(store: Store) -> None:
    async with listening(store, {"linear": [Clocked()]}, now=1_700_000_000) as at:
        assert await at.post(b"{}", {"x-at": "1699999939"}, "linear") == 400
        assert await at.post(b"{}", {"x-at": "1699999941"}, "linear") == 202


async def test_a_body_over_25_mb_is_refused_unread(store: Store, board: GitHubBoard) -> None:
    async with listening(store, {"github": [board]}) as at:
        assert await raw(at, b"content-length: %d\r\n\r\n" % (LARGEST + 1)) == b"HTTP/1.1 413 "
        chunks = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
        assert await raw(at, b"transfer-encoding: chunked\r\n\r\n" + chunks * 26) == b"HTTP/1.1 413 "
        assert await at.post(b"x" * LARGEST, signed(b"x" * LARGEST)) == 202


async def test_a_body_that_does_not_come_keeps_nobody_else_waiting(
    store: Store, board: GitHubBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightcrew.web.serving.PATIENCE", 0.2)
    async with listening(store, {"github": [board]}) as at:
        slow = [raw(at, b"content-length: 9\r\n\r\nx") for _ in range(20)]
        *late, good = await asyncio.gather(*slow, at.post(b"{}", signed(b"{}")))
        assert (set(late), good) == ({b"HTTP/1.1 408 "}, 202)


async def raw(at: Listener, rest: bytes) -> bytes:
    """What a request of these bytes is answered, before it is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.client.base_url.port or 0)
    writer.write(b"POST /webhooks/github HTTP/1.1\r\nhost: x\r\n" + rest)
    answer = await reader.readexactly(13)
    writer.close()
    return answer


async def test_two_adapters_of_one_name_share_a_path(store: Store, board: GitHubBoard, tmp_path: Path) -> None:
    forge = GitHubForge("github", {"webhook_secret": "the forge's"}, tmp_path)
    async with listening(store, {"github": [board, forge]}) as at:
        assert await at.post(b"{}", signed(b"{}", "one")) == 202
        assert await at.post(b"[]", signed(b"[]", "two", "the forge's")) == 202


async def test_garbage_on_the_wire_stops_nothing(store: Store, board: GitHubBoard) -> None:
    async with listening(store, {"github": [board]}) as at:
        port = at.client.base_url.port
        assert port
        for garbage in (b"\x00\xff\x16\x03\x01", b"POST /webhooks/github HTTP/1.1\r\ncontent-length: x\r\n\r\n"):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(garbage)
            await writer.drain()
            writer.close()
        assert await at.post(b"{}", signed(b"{}")) == 202


async def test_who_connects_and_says_nothing_is_let_go(
    store: Store, board: GitHubBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightcrew.web.serving.SILENCE", 1.0)
    async with listening(store, {"github": [board]}) as at:
        where = ("127.0.0.1", at.client.base_url.port)
        silent = [await asyncio.open_connection(*where) for _ in range(CONNECTIONS + 50)]
        silent[0][1].write(b"POST /webhooks/github HT")
        async with asyncio.timeout(10):
            for reader, writer in silent:  # each holds a file of ours: a port on the internet collects them for weeks
                with suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()
        assert await at.post(b"{}", signed(b"{}")) == 202


@dataclass
class Kept:
    """An adapter that keeps what it was sent, with the event it was told of."""

    told: list[tuple[str, bytes]] = field(default_factory=list)

    def delivery(self, raw: bytes, headers: Mapping[str, str], now: float) -> str | None:
        self.told.append((headers["x-github-event"], raw))
        return verify(raw, headers, SECRET, now)


async def test_what_the_stand_in_of_github_sends_is_what_github_says_it_sends(store: Store, tmp_path: Path) -> None:
    try:
        schema = json.loads(webhooks().read_bytes())
    except AgentMissing as missing:
        pytest.skip(str(missing))
    kept = Kept()
    with GitHub(tmp_path / "github") as github:
        github.state.repository("acme/web", {"README.md": "# Web\n"})
        github.state.issue("acme/web", "One", "ünïcode", labels=("nightcrew",)).assignees.append("ada")
        async with listening(store, {"github": [kept]}) as at:
            url = str(at.client.base_url.join("/webhooks/github"))
            assert await asyncio.to_thread(github.deliver, "issues", url, SECRET, 2) == [202, 202]
            github.state.issue("acme/web", "A pull request").pull = Pull("its-branch", "main", 7, "0" * 40)
            github.state.close_issue("acme/web", 1)
            assert await asyncio.to_thread(github.deliver, "issues", url, SECRET) == [202]
    assert [json.loads(raw)["issue"]["state"] for _, raw in kept.told] == ["open", "open", "closed"]
    for event, raw in kept.told:
        official = {"$ref": f"#/definitions/{event}_event", "definitions": schema["definitions"]}
        assert [error.message for error in Draft7Validator(official).iter_errors(json.loads(raw))] == []


# -- adapters ----------------------------------------------------------------------------------------------------------
def test_github_compares_whatever_the_header_holds() -> None:
    for odd in ("", "sha256=é", "sha1=0", "\x00"):
        assert verify(b"{}", {"x-hub-signature-256": odd, "x-github-delivery": "one"}, SECRET, 0) is None


def test_a_secret_comes_from_the_environment_and_is_in_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = GitHubBoard("github", {"repos": ["acme/web"], "webhook_secret": "$HOOK_SECRET"}, tmp_path)
    with pytest.raises(ConfigError, match=r"^\[board\] webhook_secret: the environment has no HOOK_SECRET\.$"):
        board.delivery(b"", {}, 0)
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    assert board.delivery(b"{}", signed(b"{}"), 0) == "one"
    without = GitHubForge("hub", {}, tmp_path)
    with pytest.raises(ConfigError, match=r"^\[forges.hub\] webhook_secret: there is none\.$"):
        without.delivery(b"{}", signed(b"{}"), 0)


# -- configuration -----------------------------------------------------------------------------------------------------
REST = '[board]\nkind = "folder"\npath = "t"\n[agents.claude]\n[[repos]]\nname = "web"\nurl = "https://x.example/a/b"\n'


def config(tmp_path: Path, more: str) -> Any:
    (tmp_path / "nightcrew.toml").write_text(REST + more)
    return load(tmp_path / "nightcrew.toml", {})


def test_nothing_listens_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert config(tmp_path, "").webhooks.listen == ""
    assert config(tmp_path, '[webhooks]\nlisten = "127.0.0.1:8090"\n').webhooks.address == ("127.0.0.1", 8090)
    assert config(tmp_path, '[webhooks]\nlisten = "[::1]:8090"\n').webhooks.address == ("::1", 8090)


@pytest.mark.parametrize("listen", ["8090", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:80", ":80", "a b:80"])
def test_what_cannot_be_listened_on_is_named_with_its_cure(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError, match=r"\[webhooks\] listen: .* cannot be listened on") as told:
        config(tmp_path, f'[webhooks]\nlisten = "{listen}"\n')
    assert 'listen = "127.0.0.1:8090"' in told.value.hint
