"""Where the bytes live: uploads and finished pictures, behind one small protocol."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, cast

from redis.asyncio import Redis

from service import keys
from service.settings import Settings


class BlobKind(StrEnum):
    """The two blobs of a job."""

    SOURCE = "source"
    RESULT = "result"


class BlobStore(Protocol):
    """Bytes by kind and job; whatever is put has an end of its own."""

    async def put(self, kind: BlobKind, job_id: str, data: bytes) -> None:
        """Stores or replaces the blob."""
        ...

    async def get(self, kind: BlobKind, job_id: str) -> bytes | None:
        """The blob, or None when it is not there (any more)."""
        ...

    async def delete(self, kind: BlobKind, job_id: str) -> None:
        """Removes the blob if it is there."""
        ...


class RedisBlobStore:
    """Blobs as Redis strings: for small fleets, as they count against the server's memory.

    `JobQueue.submit` and `JobQueue.succeed` write the same keys inside their atomic scripts.
    Redis errors pass through.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._ttl_s = {
            BlobKind.SOURCE: keys.alive_ttl_s(settings),
            BlobKind.RESULT: settings.retention_s,
        }

    async def put(self, kind: BlobKind, job_id: str, data: bytes) -> None:
        """Stores or replaces the blob, with its lifetime."""
        await self._redis.set(keys.prefix(kind) + job_id, data, ex=self._ttl_s[kind])

    async def get(self, kind: BlobKind, job_id: str) -> bytes | None:
        """The blob, or None when it is not there (any more)."""
        return cast("bytes | None", await self._redis.get(keys.prefix(kind) + job_id))

    async def delete(self, kind: BlobKind, job_id: str) -> None:
        """Removes the blob if it is there."""
        await self._redis.delete(keys.prefix(kind) + job_id)
