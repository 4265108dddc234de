"""How the service reaches Redis: one client factory, and what an outage means to a request."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
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
_MAX_CONNECTIONS: Final = 32  # of one process; who finds none free waits for one

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
# Replies without a class of their own that mean "no writes now": disk trouble, too few replicas.
_AWAY_REPLIES = ("MISCONF", "NOREPLICAS", "OOM")


def connect(settings: Settings) -> Redis:
    """A client for `settings.redis_url` that retries short outages. Opens nothing by itself.

    Raises ValueError when no address is set (the embedded server sets one when it starts).
    """
    if settings.redis_url is None:
        raise ValueError("redis_url is not set; start the embedded server or set REDIS_URL")
    pool = BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType] - redis-py leaves **kwargs open
        settings.redis_url,
        decode_responses=False,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=30,
        max_connections=_MAX_CONNECTIONS,
        timeout=SOCKET_TIMEOUT_S,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), _RETRIES),
        retry_on_error=[ConnectionError, TimeoutError, BusyLoadingError],
    )
    return Redis.from_pool(pool)


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
