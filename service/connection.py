"""How the service reaches Redis: one client factory, and what an outage means to a request."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, cast

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from service.errors import ServerUnavailable
from service.settings import Settings

SOCKET_TIMEOUT_S: Final = 15.0
CONNECT_TIMEOUT_S: Final = 2.0
# A blocking read must come back before its socket gives up on it.
MAX_BLOCK_S: Final = SOCKET_TIMEOUT_S - 3.0
_RETRIES: Final = 3
# A silent connection is given up by the kernel, also where nothing is asked: the hub only listens.
_KEEPALIVE: Final = {
    "TCP_KEEPIDLE": 4,
    "TCP_KEEPINTVL": 2,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": 10_000,  # ms
}
_MAX_CONNECTIONS: Final = 32  # of one process; who finds none free waits for one
_MAX_CLUSTER_CONNECTIONS: Final = 1000  # of one process to one node; there is no waiting here

_AWAY = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    OutOfMemoryError,
    ClusterDownError,
    MasterDownError,
    TryAgainError,
)
# Replies without a class of their own that mean "no writes now": disk trouble, too few replicas,
# a server that has just become a replica and ends blocking reads.
_AWAY_REPLIES = ("MISCONF", "NOREPLICAS", "OOM", "UNBLOCKED")


class _Cluster(RedisCluster):
    """A client of a Redis Cluster that calls one without a usable node an outage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # pyright: ignore[reportUnknownMemberType] - in redis-py
        nodes = self.nodes_manager
        # Of the nodes that are known so far, and of those that the cluster will name.
        kind = reporting(nodes.connection_kwargs["connection_class"])
        nodes.connection_kwargs["connection_class"] = kind
        for node in nodes.startup_nodes.values():
            node.connection_class = cast("Any", kind)

    async def initialize(self, *args: Any, **kwargs: Any) -> RedisCluster:
        try:
            return await super().initialize(*args, **kwargs)
        except RedisClusterException as error:
            raise ConnectionError(str(error)) from error

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().execute_command(*args, **kwargs)
        except RedisClusterException as error:
            raise ConnectionError(str(error)) from error


def connect(settings: Settings) -> Redis:
    """A client for `settings.redis_url` that retries short outages. Opens nothing by itself.

    With `redis_cluster` the address is that of any node of a Redis Cluster; the queue lives on the
    one that holds its hash tag. Raises ValueError when no address is set (the embedded server sets
    one when it starts).
    """
    if settings.redis_url is None:
        raise ValueError("redis_url is not set; start the embedded server or set REDIS_URL")
    options: dict[str, Any] = {
        "decode_responses": False,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "health_check_interval": 30,
        # Who met silence has waited long enough, and only a refusal is tried again.
        "retry": Retry(
            ExponentialWithJitterBackoff(base=0.05, cap=0.5),
            _RETRIES,
            supported_errors=(ConnectionError,),
        ),
    }
    if not settings.redis_url.startswith("unix:"):
        options["socket_keepalive_options"] = {
            getattr(socket, name): value
            for name, value in _KEEPALIVE.items()
            if hasattr(socket, name)
        }
    if settings.redis_cluster:
        options["max_connections"] = _MAX_CLUSTER_CONNECTIONS
        options["retry_on_error"] = [ConnectionError, TimeoutError, BusyLoadingError]
        # To all who use it a Redis: they ask for nothing that only one of the two has.
        return cast("Redis", _Cluster.from_url(settings.redis_url, **options))
    pool = BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType] - redis-py leaves **kwargs open
        settings.redis_url, max_connections=_MAX_CONNECTIONS, timeout=SOCKET_TIMEOUT_S, **options
    )
    pool.connection_class = reporting(pool.connection_class)
    return Redis.from_pool(pool)


def reporting(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Connections of this kind that say when they were lost while idle.

    uvloop calls writing to such a connection a RuntimeError. What the kernel gave up reads as a
    message that has not come yet, at once and for ever.
    """

    class Reporting(kind):
        async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
            try:
                await super().send_packed_command(*args, **kwargs)
            except RuntimeError as error:
                raise ConnectionError(str(error)) from error

        async def read_response(self, *args: Any, **kwargs: Any) -> Any:
            response = cast("Any", await super().read_response(*args, **kwargs))
            lost = self._reader and self._reader.exception()
            if response is None and kwargs.get("timeout") is not None and lost:
                raise ConnectionError(str(lost)) from lost
            return response

    return Reporting


@contextmanager
def unavailable_when_away() -> Generator[None]:
    """Turns Redis being away, full or read-only into ServerUnavailable."""
    try:
        yield
    except _AWAY as error:
        raise ServerUnavailable(f"the job store is not available: {error}") from error
    except ResponseError as error:
        if not str(error).startswith(_AWAY_REPLIES):
            raise
        raise ServerUnavailable(f"the job store refuses writes: {error}") from error
