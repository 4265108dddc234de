"""The blocking client."""

from __future__ import annotations

import asyncio

import pytest

from service.client import ApiError, Client
from tests.service.api.conftest import Live, Worker
from tests.service.client.conftest import Claimed


async def test_every_call_blocks_until_it_is_done(
    live: Live, photo: bytes, claimed: Claimed, worker: Worker
) -> None:
    previews: list[bytes] = []

    def use() -> tuple[bytes, list[str], list[str]]:
        with Client(f"http://{live.address}") as client:
            done = client.restore(photo, on_preview=previews.append)
            job_id = done.job["id"]
            kinds = [event.type for event in client.follow(job_id)]
            jobs = [job["id"] for job in client.jobs("succeeded")]
            assert client.job(job_id)["status"] == "succeeded"
            assert client.result(job_id) == done.data
            assert client.wait(job_id).data == done.data
            assert client.estimate(64, 64)["pixels"] == 4096
            other = client.submit(photo, seed=1)["id"]
            assert client.cancel(other)["status"] == "canceled"
            client.delete(other)
            assert jobs == [job_id]
            return done.data, kinds, jobs

    asked = asyncio.create_task(asyncio.to_thread(use))
    lease = await claimed()
    await worker.step(lease, 1, b"frame")
    await worker.succeed(lease)
    data, kinds, _ = await asked
    assert data == b"finished bytes"
    assert previews == [b"frame"]
    assert kinds == ["status", "status", "progress", "preview", "output", "status"]


async def test_errors_come_through(live: Live, photo: bytes) -> None:
    def use() -> None:
        with Client(f"http://{live.address}") as client:
            client.submit(photo, steps=0)

    with pytest.raises(ApiError, match="/steps"):
        await asyncio.to_thread(use)


async def test_a_stream_can_be_left(live: Live, photo: bytes) -> None:
    def use() -> str:
        with Client(f"http://{live.address}") as client:
            job_id = client.submit(photo)["id"]
            for event in client.follow(job_id):
                return event.type
        return ""

    assert await asyncio.to_thread(use) == "status"
