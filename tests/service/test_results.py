from __future__ import annotations

import pytest
from redis.asyncio import Redis

from service import keys
from service.results import BlobKind, BlobStore, RedisBlobStore
from service.settings import Settings


@pytest.fixture
def store(redis: Redis, settings: Settings) -> BlobStore:
    return RedisBlobStore(redis, settings)


@pytest.mark.parametrize("kind", list(BlobKind))
async def test_what_is_put_can_be_got_until_it_is_deleted(store: BlobStore, kind: BlobKind) -> None:
    assert await store.get(kind, "a") is None
    await store.put(kind, "a", b"\x00first")
    await store.put(kind, "a", b"\x00second")
    assert await store.get(kind, "a") == b"\x00second"
    await store.delete(kind, "a")
    await store.delete(kind, "a")
    assert await store.get(kind, "a") is None


async def test_kinds_and_jobs_do_not_mix(store: BlobStore) -> None:
    await store.put(BlobKind.SOURCE, "a", b"source of a")
    await store.put(BlobKind.RESULT, "a", b"result of a")
    await store.put(BlobKind.SOURCE, "b", b"source of b")
    assert await store.get(BlobKind.SOURCE, "a") == b"source of a"
    assert await store.get(BlobKind.RESULT, "a") == b"result of a"
    assert await store.get(BlobKind.RESULT, "b") is None


async def test_blobs_end_by_themselves(store: BlobStore, redis: Redis, settings: Settings) -> None:
    await store.put(BlobKind.SOURCE, "a", b"x")
    await store.put(BlobKind.RESULT, "a", b"x")
    assert 0 < await redis.ttl(keys.source("a")) <= keys.alive_ttl_s(settings)
    assert 0 < await redis.ttl(keys.result("a")) <= settings.retention_s
