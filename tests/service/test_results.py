from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import MemoryStore
from redis.asyncio import Redis

from service import keys, results
from service.errors import ServerUnavailable
from service.jobs import JobStatus, OutputInfo, RestoreOptions, SourceInfo
from service.queue import JobQueue
from service.results import BlobKind, BlobStore, ObjectBlobStore, RedisBlobStore, blob_store
from service.settings import Settings
from service.work import Submission

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request"


BUCKET = "pictures"


@pytest.fixture(scope="session")
def s3_endpoint(session_monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that speaks S3 and has the bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    answer = httpx.put(f"{endpoint}/{BUCKET}", headers={"authorization": SIGNED})
    assert answer.status_code == 200, answer.text
    for name, value in CREDENTIALS.items():
        session_monkeypatch.setenv(name, value)
    yield endpoint
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str) -> str:
    """The address of a folder in the bucket that no other test uses."""
    return f"s3://{BUCKET}/some/{uuid.uuid4().hex}?endpoint={s3_endpoint}&region=us-east-1"


@pytest.fixture(params=["redis", "folder", "s3"])
def store(request, redis: Redis, settings: Settings, tmp_path: Path) -> BlobStore:
    where = {"redis": "redis", "folder": f"folder:{tmp_path}/blobs"}.get(request.param)
    if where is None:
        where = request.getfixturevalue("s3")
    return blob_store(redis, settings.model_copy(update={"blob_store": where}))


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


async def test_blobs_in_redis_end_by_themselves(redis: Redis, settings: Settings) -> None:
    store = RedisBlobStore(redis, settings)
    await store.put(BlobKind.SOURCE, "a", b"x")
    await store.put(BlobKind.RESULT, "a", b"x")
    assert 0 < await redis.ttl(keys.source("a")) <= keys.alive_ttl_s(settings)
    assert 0 < await redis.ttl(keys.result("a")) <= settings.retention_s


async def test_a_job_goes_through_any_store(
    store: BlobStore,
    redis: Redis,
    settings: Settings,
    source_info: SourceInfo,
    output_info: OutputInfo,
) -> None:
    queue = JobQueue(redis, settings, store)
    await queue.submit("a", Submission(RestoreOptions(), source_info, b"upload"))
    (lease,) = await queue.claim("worker", 1)
    assert await store.get(BlobKind.SOURCE, "a") == b"upload"
    assert await queue.succeed(lease, output_info, b"result")
    assert (await queue.get("a")).status is JobStatus.SUCCEEDED
    assert await store.get(BlobKind.RESULT, "a") == b"result"
    await queue.delete("a")
    assert await store.get(BlobKind.SOURCE, "a") is None
    assert await store.get(BlobKind.RESULT, "a") is None


async def test_outside_redis_the_pictures_take_no_room_in_it(
    redis: Redis, settings: Settings, source_info: SourceInfo
) -> None:
    queue = JobQueue(redis, settings, ObjectBlobStore(MemoryStore(), redis))
    await queue.submit("a", Submission(RestoreOptions(), source_info, b"upload"))
    assert await redis.exists(keys.source("a")) == 0


async def test_a_sweep_removes_what_no_record_speaks_of(
    redis: Redis, settings: Settings, source_info: SourceInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectBlobStore(MemoryStore(), redis)
    queue = JobQueue(redis, settings, store)
    await queue.submit("kept", Submission(RestoreOptions(), source_info, b"upload"))
    await store.put(BlobKind.SOURCE, "forgotten", b"x")
    await store.put(BlobKind.RESULT, "forgotten", b"x")
    assert await store.sweep() == 0  # so young that their record may be on its way
    monkeypatch.setattr(results, "ORPHAN_S", -1.0)
    assert await store.sweep() == 2
    assert await store.get(BlobKind.SOURCE, "kept") == b"upload"
    assert await store.get(BlobKind.SOURCE, "forgotten") is None


async def test_a_store_that_is_away_makes_the_service_unavailable(
    redis: Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    where = "s3://bucket/x?endpoint=http://127.0.0.1:9&region=us-east-1"
    store = blob_store(redis, settings.model_copy(update={"blob_store": where}))
    with pytest.raises(ServerUnavailable, match="the blob store is not available"):
        await store.put(BlobKind.SOURCE, "a", b"x")
