"""The queue on a real Redis Cluster, while its node changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis

from service import keys
from service.connection import connect
from service.errors import ServerUnavailable
from service.hub import Hub
from service.jobs import Job, JobStatus
from service.queue import JobQueue
from service.results import BlobKind, RedisBlobStore
from service.settings import Settings
from tests.conftest import WaitUntil
from tests.faults.fake import closed_gate
from tests.faults.fleet import ended, submit, worker_here
from tests.service.cluster import Cluster, cluster_in

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with nothing in it."""
    with cluster_in(tmp_path) as serving:
        yield serving


@pytest.fixture
def on_cluster(cluster: Cluster, tmp_path: Path) -> Settings:
    """Settings for the cluster, with an engine that needs no model."""
    return Settings(
        redis_url=cluster.url,
        redis_cluster=True,
        engine="tests.faults.fake:load",
        model=str(tmp_path),
        lease_s=10.0,
    )


@pytest.fixture
async def client(on_cluster: Settings) -> AsyncIterator[Redis]:
    """A client of the cluster."""
    made = connect(on_cluster)
    yield made
    await made.aclose()


async def _log(client: Redis, job_id: str) -> list[int]:
    """The numbers of a job's events; of previews a follower may see the newest alone."""
    entries: Any = await client.xrange(keys.events(job_id))
    return [int(at.split(b"-")[0]) for at, event in entries if event[b"type"] != b"preview"]


@asynccontextmanager
async def _followed(client: Redis, job_id: str) -> AsyncGenerator[list[int]]:
    """Likewise what a follower sees; all of it when the block has ended."""
    seen: list[int] = []

    async def follow() -> None:
        async for item in hub.follow(job_id):
            seen.extend([item.seq] if item.frame is None and item.seq is not None else [])

    hub = Hub(client, max_streams=10)
    async with hub.running():
        task = asyncio.create_task(follow())
        yield seen
        await asyncio.wait_for(task, 60)


async def _ended(queue: JobQueue, job_id: str) -> Job | None:
    """The job once it has ended; while the nodes agree on a new master, calls may be refused."""
    try:
        return await ended(queue, job_id)
    except ServerUnavailable:
        return None


async def test_a_job_is_submitted_restored_and_fetched(
    client: Redis, on_cluster: Settings, wait_until: WaitUntil
) -> None:
    queue = JobQueue(client, on_cluster)
    await submit(queue, "whole")
    async with worker_here(client, on_cluster), _followed(client, "whole") as seen:
        job = await wait_until(lambda: ended(queue, "whole"))
    assert job.status is JobStatus.SUCCEEDED
    assert await RedisBlobStore(client, on_cluster).get(BlobKind.RESULT, "whole")
    assert seen == await _log(client, "whole")


async def test_every_key_is_on_one_node(client: Redis, on_cluster: Settings) -> None:
    queue = JobQueue(client, on_cluster)
    await submit(queue, "kept")
    names = [name async for name in client.scan_iter(count=1000)]
    slots = {await client.execute_command("CLUSTER KEYSLOT", name) for name in names}
    assert len(slots) == 1


def test_a_connection_that_was_reset_while_idle_is_replaced(on_cluster: Settings) -> None:
    async def ask_again() -> bytes:
        client: Any = connect(on_cluster)
        try:
            await client.set(keys.BELL, b"rings")
            node = client.get_node_from_key(keys.BELL)
            connection = node.acquire_connection()
            node.release(connection)
            connection._writer.transport.abort()
            return await client.get(keys.BELL)
        finally:
            await client.aclose()

    assert uvloop.run(ask_again()) == b"rings"


@pytest.mark.parametrize("way", ["handed over", "killed"])
async def test_a_running_job_outlives_the_node_of_its_queue(
    cluster: Cluster, client: Redis, on_cluster: Settings, wait_until: WaitUntil, way: str
) -> None:
    queue, job_id = JobQueue(client, on_cluster), way.replace(" ", "-")
    owner, replica = sorted((cluster.owner, cluster.replica), key=lambda n: not n.is_master())
    await submit(queue, job_id)
    async with worker_here(client, on_cluster), _followed(client, job_id) as seen:
        with closed_gate(Path(on_cluster.model), at="step"):
            await wait_until(lambda: len(seen) > 1)
            if way == "killed":
                await wait_until(lambda: owner.client.wait(1, 0))
                owner.kill()
            else:
                replica.say("FAILOVER")
            await wait_until(replica.is_master, timeout_s=30)
        job = await wait_until(lambda: _ended(queue, job_id), timeout_s=30)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert seen == await _log(client, job_id)
