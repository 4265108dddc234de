"""Where the bytes live: uploads and finished pictures, behind one small protocol.

`BLOB_STORE=redis` keeps them beside the queue, for small fleets; `folder:PATH` and
`s3://BUCKET/PREFIX` keep them elsewhere. There the bytes are written before the record that speaks
of them, and live as long as it does: `sweep` removes what no record speaks of any more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol, cast
from urllib.parse import parse_qs, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store
from redis.asyncio import Redis

from service import keys
from service.connection import unavailable_when_away
from service.errors import ServerUnavailable
from service.settings import Settings

ORPHAN_S: Final = 60.0  # a blob this young may still be waiting for its record


class BlobKind(StrEnum):
    """The two blobs of a job."""

    SOURCE = "source"
    RESULT = "result"


class BlobStore(Protocol):
    """Bytes by kind and job; whatever is put has an end of its own."""

    @property
    def inline(self) -> bool:
        """Whether the queue's own scripts write the bytes, together with the record."""
        ...

    async def put(self, kind: BlobKind, job_id: str, data: bytes) -> None:
        """Stores or replaces the blob."""
        ...

    async def get(self, kind: BlobKind, job_id: str) -> bytes | None:
        """The blob, or None when it is not there (any more)."""
        ...

    async def delete(self, kind: BlobKind, job_id: str) -> None:
        """Removes the blob if it is there."""
        ...

    async def sweep(self) -> int:
        """Removes blobs whose job is forgotten; says how many."""
        ...


def blob_store(redis: Redis, settings: Settings) -> BlobStore:
    """The store that `settings.blob_store` names. Raises ValueError for what names none."""
    where = settings.blob_store
    kind, _, rest = where.partition(":")
    if where == "redis":
        return RedisBlobStore(redis, settings)
    if kind == "folder" and rest:
        store = LocalStore(Path(rest).expanduser().resolve(), mkdir=True, automatic_cleanup=True)
        return ObjectBlobStore(store, redis)
    if kind == "s3":
        return ObjectBlobStore(_s3(where), redis)
    raise ValueError(f"blob_store is {where!r}; known: redis, folder:PATH, s3://BUCKET/PREFIX")


def _s3(address: str) -> S3Store:
    """Credentials, region and endpoint come from the usual AWS_ variables or the query."""
    parts = urlsplit(address)
    config = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if config.get("endpoint", "").startswith("http://"):
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            client_options={"allow_http": True},
            **config,  # pyright: ignore[reportArgumentType] - S3Store checks the names itself
        )
    return S3Store(parts.netloc, prefix=parts.path.strip("/") or None, **config)  # pyright: ignore[reportArgumentType] - likewise


class RedisBlobStore:
    """Blobs as Redis strings: for small fleets, as they count against the server's memory.

    `JobQueue.submit` and `JobQueue.succeed` write the same keys inside their atomic scripts.
    Redis errors pass through.
    """

    inline = True

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

    async def sweep(self) -> int:
        """Nothing to do: the server forgets them itself."""
        return 0


class ObjectBlobStore:
    """Blobs as files `KIND/JOB` of a folder or a bucket. Raises ServerUnavailable."""

    inline = False

    def __init__(self, store: ObjectStore, redis: Redis) -> None:
        self._store = store
        self._redis = redis

    async def put(self, kind: BlobKind, job_id: str, data: bytes) -> None:
        """Stores or replaces the blob, whole or not at all."""
        try:
            await obstore.put_async(self._store, f"{kind}/{job_id}", data)
        except (BaseError, OSError) as error:
            raise _away(error) from error

    async def get(self, kind: BlobKind, job_id: str) -> bytes | None:
        """The blob, or None when it is not there (any more)."""
        try:
            found = await obstore.get_async(self._store, f"{kind}/{job_id}")
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise _away(error) from error

    async def delete(self, kind: BlobKind, job_id: str) -> None:
        """Removes the blob if it is there."""
        try:
            with suppress(FileNotFoundError):
                await obstore.delete_async(self._store, f"{kind}/{job_id}")
        except (BaseError, OSError) as error:
            raise _away(error) from error

    async def sweep(self) -> int:
        """Removes blobs whose job is forgotten; says how many."""
        removed = 0
        async for kind, job_id in self._old():
            with unavailable_when_away():
                known = await self._redis.exists(keys.job(job_id))
            if not known:
                await self.delete(kind, job_id)
                removed += 1
        return removed

    async def _old(self) -> AsyncIterator[tuple[BlobKind, str]]:
        now = datetime.now(UTC)
        for kind in BlobKind:
            try:
                async for batch in obstore.list(self._store, prefix=f"{kind}/"):  # pyright: ignore[reportUnknownMemberType] - an overload of Arrow
                    for meta in batch:
                        if (now - meta["last_modified"]).total_seconds() > ORPHAN_S:
                            yield kind, meta["path"].rpartition("/")[2]
            except (BaseError, OSError) as error:
                raise _away(error) from error


def _away(error: Exception) -> ServerUnavailable:
    return ServerUnavailable(f"the blob store is not available: {type(error).__name__}")
