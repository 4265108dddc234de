from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, ResponseError

from service.connection import (
    MAX_BLOCK_S,
    SOCKET_TIMEOUT_S,
    connect,
    reporting,
    unavailable_when_away,
)
from service.errors import NotFound, ServerUnavailable
from service.settings import Settings


def test_a_client_needs_an_address() -> None:
    with pytest.raises(ValueError, match="redis_url"):
        connect(Settings())


async def test_a_client_speaks_bytes(redis: Redis) -> None:
    assert await redis.echo("ä") == "ä".encode()


async def test_a_server_that_is_away_is_unavailable(tmp_path: Path) -> None:
    client = connect(Settings(redis_url=f"unix://{tmp_path}/nobody.sock"))
    with pytest.raises(ServerUnavailable, match="not available"), unavailable_when_away():
        await client.ping()
    await client.aclose()


async def test_a_cluster_that_is_away_is_unavailable(unused_tcp_port: int) -> None:
    address = f"redis://127.0.0.1:{unused_tcp_port}"
    client = connect(Settings(redis_url=address, redis_cluster=True))
    with pytest.raises(ServerUnavailable, match="not available"), unavailable_when_away():
        await client.ping()
    await client.aclose()


@pytest.mark.parametrize(
    "reply",
    [
        "MISCONF Errors writing to the AOF file",
        "UNBLOCKED force unblock from blocking operation, instance state changed",
    ],
)
async def test_a_server_that_cannot_write_is_unavailable(reply: str) -> None:
    with pytest.raises(ServerUnavailable, match=reply), unavailable_when_away():
        raise ResponseError(reply)


async def test_our_own_mistakes_are_not_called_an_outage() -> None:
    with pytest.raises(ResponseError, match="WRONGTYPE"), unavailable_when_away():
        raise ResponseError("WRONGTYPE of key")
    with pytest.raises(NotFound), unavailable_when_away():
        raise NotFound("no job")


async def test_an_outage_keeps_its_cause() -> None:
    with pytest.raises(ServerUnavailable) as caught, unavailable_when_away():
        raise ConnectionError("refused")
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_a_blocking_read_ends_before_its_socket_gives_up() -> None:
    assert MAX_BLOCK_S < SOCKET_TIMEOUT_S


class _Broken:
    """A connection that has been lost while it was idle, as uvloop and the kernel leave it."""

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader()
        self._reader.set_exception(OSError("timed out"))

    async def send_packed_command(self, *_: Any) -> None:
        raise RuntimeError("the transport is closed")

    async def read_response(self, **_: Any) -> None:
        return None


async def test_a_connection_that_was_reset_while_idle_is_one_that_is_lost() -> None:
    lost = reporting(cast("Any", _Broken))()
    with pytest.raises(ConnectionError, match="the transport is closed"):
        await lost.send_packed_command(b"")


async def test_a_subscription_that_was_given_up_is_not_one_without_news() -> None:
    lost = reporting(cast("Any", _Broken))()
    with pytest.raises(ConnectionError, match="timed out"):
        await lost.read_response(timeout=1)
