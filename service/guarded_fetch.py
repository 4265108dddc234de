"""Requests to addresses that strangers name: never into private networks.

The name is resolved once and the connection is made to the very address that was checked, so that
a second answer of the name server cannot lead elsewhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import httpx

from service.errors import FetchFailed, FetchRefused

FETCH_TIMEOUT_S: Final = 10.0
MAX_REDIRECTS: Final = 3
MAX_URL_CHARS: Final = 2048
_PORTS: Final = {"http": 80, "https": 443}
_HIGH_PORTS: Final = 1024  # other services of a host listen below it

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class GuardedTransport(httpx.AsyncHTTPTransport):
    """Connects to public addresses alone; `allow_private` lifts that for intranets.

    Raises FetchRefused before any byte is sent.
    """

    def __init__(self, *, allow_private: bool) -> None:
        super().__init__(retries=0)
        self._allow_private = allow_private

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Check, pin the address, and send; TLS still verifies the name."""
        url = request.url
        check_url(str(url), allow_private=self._allow_private)
        address = await _resolve(url.host, url.port or _PORTS[url.scheme], self._allow_private)
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        request.headers["Host"] = url.netloc.decode("ascii")
        request.url = url.copy_with(host=address)
        return await super().handle_async_request(request)


def check_url(text: str, *, allow_private: bool) -> None:
    """What can be told from the address alone. Raises FetchRefused."""
    if len(text) > MAX_URL_CHARS:
        raise FetchRefused(f"the URL has {len(text)} characters; the limit is {MAX_URL_CHARS}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise FetchRefused(f"the URL cannot be read: {error}") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise FetchRefused(f"the URL must begin with http:// or https://, not {text[:32]!r}")
    if parts.username or parts.password:
        raise FetchRefused("the URL must not carry a user name or a password")
    with suppress(ValueError):
        if not allow_private and not _is_public(ipaddress.ip_address(parts.hostname)):
            raise FetchRefused(f"{parts.hostname} lies in a private network")
    odd = port is not None and port != _PORTS[parts.scheme] and port < _HIGH_PORTS
    if odd and not allow_private:
        raise FetchRefused(f"port {port} is not fetched from")


async def fetch_picture(client: httpx.AsyncClient, address: str, limit_bytes: int) -> bytes:
    """The body behind an address, at most so large. Raises FetchRefused or FetchFailed.

    The content type is not looked at: the decoder decides what is a picture.
    """
    if len(address) > MAX_URL_CHARS:
        raise FetchRefused(f"the URL has over {MAX_URL_CHARS} characters")
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise FetchRefused(f"the URL cannot be read: {error}") from None
    try:
        async with asyncio.timeout(FETCH_TIMEOUT_S):
            for _ in range(MAX_REDIRECTS + 1):
                async with client.stream("GET", url, follow_redirects=False) as answer:
                    if answer.next_request is not None:
                        url = answer.next_request.url
                        continue
                    if answer.status_code != HTTPStatus.OK:
                        raise FetchFailed(f"{url.host} answered {answer.status_code}")
                    return await _body(answer.aiter_bytes(), url.host, limit_bytes)
    except TimeoutError:
        raise FetchFailed(f"{url.host} did not send the picture in {FETCH_TIMEOUT_S:g} s") from None
    except httpx.HTTPError as error:
        raise FetchFailed(f"{url.host} did not answer: {type(error).__name__}") from None
    raise FetchFailed(f"the URL redirects more than {MAX_REDIRECTS} times")


async def _body(chunks: AsyncIterator[bytes], host: str, limit_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit_bytes:
            raise FetchFailed(f"{host} sends over {limit_bytes} bytes, which is the limit")
    return bytes(body)


async def _resolve(host: str, port: int, allow_private: bool) -> str:
    """The first address of a host, all of which must be allowed."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise FetchFailed(f"{host} has no address") from None
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not allow_private and not all(map(_is_public, addresses)):
        raise FetchRefused(f"{host} lies in a private network")
    return str(addresses[0])


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None or (mapped is not None and not _is_public(mapped)):
            return False
        # 64:ff9b::/96 leads to IPv4 through a translator.
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast
