"""Pictures by address: what is fetched, and what never is."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import httpx
import pytest

from service import guarded_fetch
from service.errors import FetchFailed, FetchRefused
from service.guarded_fetch import GuardedTransport, check_url, fetch_picture

LIMIT = 1000
Answer = Callable[[str], bytes | None]


class Target(asyncio.Protocol):
    """Answers a request with raw bytes, or not at all."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if not end or len(body) < int(length[1] if length else 0):
            return
        if said := self._answer(head.decode()):
            self._transport.write(said)
            self._transport.close()


@asynccontextmanager
async def target(answer: Answer) -> AsyncIterator[int]:
    """A server that answers each request; its port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Target(answer), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def http(body: bytes = b"", status: str = "200 OK", head: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{head}\r\n".encode() + body


@asynccontextmanager
async def client(*, allow_private: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    transport = GuardedTransport(allow_private=allow_private)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as made:
        yield made


async def fetch(path: str, answer: Answer) -> bytes:
    async with target(answer) as port, client() as made:
        return await fetch_picture(made, f"http://127.0.0.1:{port}{path}", LIMIT)


async def test_a_picture_is_fetched() -> None:
    assert await fetch("/a", lambda _: http(b"picture")) == b"picture"


async def test_the_name_is_kept_for_the_host_header_and_its_address_is_pinned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    async def lookup(_: object, host: str, port: int, **__: object) -> list:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async with target(lambda head: http(head.encode())) as port, client() as made:
        monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", lookup)
        head = await fetch_picture(made, f"http://photos.example:{port}/a", LIMIT)
    assert f"host: photos.example:{port}" in head.decode().lower()
    assert asked == ["photos.example"]


async def test_redirects_are_followed_a_few_times() -> None:
    def once(head: str) -> bytes:
        if "GET /a" in head:
            return http(status="302 Found", head="location: /b\r\n")
        return http(b"picture")

    assert await fetch("/a", once) == b"picture"
    with pytest.raises(FetchFailed, match="more than 3 times"):
        await fetch("/a", lambda _: http(status="302 Found", head="location: /a\r\n"))


async def test_a_redirect_does_not_lead_into_a_private_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def public_first(address: object) -> bool:
        return str(address) == "127.0.0.1"

    inside = http(status="302 Found", head="location: http://169.254.169.254/\r\n")
    async with target(lambda _: inside) as port, client(allow_private=False) as made:
        monkeypatch.setattr(guarded_fetch, "_is_public", public_first)
        with pytest.raises(FetchRefused, match=r"169\.254\.169\.254 lies in a private network"):
            await fetch_picture(made, f"http://127.0.0.1:{port}/", LIMIT)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http(status="404 Not Found"), "answered 404"),
        (http(b"x" * (LIMIT + 1)), "over 1000 bytes"),
        (b"no http", "did not answer: RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", "did not answer"),
    ],
)
async def test_bad_answers_are_failures_that_say_why(answer: bytes, words: str) -> None:
    with pytest.raises(FetchFailed, match=words):
        await fetch("/a", lambda _: answer)


async def test_a_target_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_fetch, "FETCH_TIMEOUT_S", 0.2)

    with pytest.raises(FetchFailed, match=r"in 0\.2 s"):
        await fetch("/a", lambda _: None)


async def test_a_name_without_address_is_a_failure() -> None:
    async with client() as made:
        with pytest.raises(FetchFailed, match="has no address"):
            await fetch_picture(made, "http://nobody.invalid/", LIMIT)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
        "[::1]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a00:1]",
        "[2002:a00:1::]",
        "2130706433",
        "0x7f000001",
        "localhost",
    ],
)
async def test_private_addresses_are_refused_in_every_spelling(host: str) -> None:
    async with client(allow_private=False) as made:
        with pytest.raises((FetchRefused, FetchFailed)) as caught:
            await fetch_picture(made, f"http://{host}/", LIMIT)
    if isinstance(caught.value, FetchFailed):
        assert "has no address" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://example.org/a", "must begin with http"),
        ("file:///etc/passwd", "must begin with http"),
        ("http://", "must begin with http"),
        ("//example.org", "must begin with http"),
        ("http://user:secret@example.org/", "user name or a password"),
        ("http://example.org:22/", "port 22"),
        ("http://example.org:99999/", "cannot be read"),
        ("http://example.org/" + "a" * 2048, "the limit is 2048"),
    ],
)
def test_odd_addresses_are_refused_before_anything_is_asked(url: str, words: str) -> None:
    with pytest.raises(FetchRefused, match=words):
        check_url(url, allow_private=False)


@pytest.mark.parametrize("url", ["https://example.org/a?b=c", "http://example.org:8080/"])
def test_ordinary_addresses_pass(url: str) -> None:
    check_url(url, allow_private=False)
