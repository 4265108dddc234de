"""The client against a live service."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from service.client import ApiError, AsyncClient, JobFailedError
from service.jobs import ErrorInfo
from service.queue import JobQueue
from tests.service.api.conftest import Live, Worker, serve
from tests.service.client.conftest import Claimed

FRAME = b"\xff\xd8 a picture"


async def test_a_picture_is_restored_with_previews_on_the_way(
    client: AsyncClient, photo: bytes, claimed: Claimed, worker: Worker, tmp_path: Path
) -> None:
    (tmp_path / "in.png").write_bytes(photo)
    previews: list[bytes] = []
    kinds: list[str] = []
    asked = asyncio.create_task(
        client.restore(
            tmp_path / "in.png",
            on_preview=previews.append,
            on_event=lambda event: kinds.append(event.type),
            preset="fast",
            metadata={"a": "b"},
        )
    )
    lease = await claimed()
    await worker.step(lease, 1, FRAME)
    await worker.succeed(lease)
    done = await asked
    done.save(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == b"finished bytes"
    assert previews == [FRAME]
    assert (kinds[0], kinds[-1]) == ("status", "status")
    assert (lease.options.preset, lease.options.metadata) == ("fast", {"a": "b"})
    assert done.job["status"] == "succeeded"


async def test_the_id_is_kept_before_anything_is_sent(live: Live, photo: bytes) -> None:
    kept: list[str] = []
    async with AsyncClient("http://127.0.0.1:9", timeout_s=0.0) as nowhere:
        with pytest.raises(ApiError, match="does not answer"):
            await nowhere.restore(photo, on_id=kept.append)
    assert uuid.UUID(kept[0])


async def test_called_again_with_its_id_the_job_is_found(
    client: AsyncClient, photo: bytes, claimed: Claimed, worker: Worker, queue: JobQueue
) -> None:
    job_id = str(uuid.uuid4())
    await client.submit(photo, job_id=job_id)
    asked = asyncio.create_task(client.restore(photo, job_id=job_id))
    await worker.succeed(await claimed())
    assert (await asked).job["id"] == job_id
    assert (await queue.depth())["normal"] == 0


async def test_a_failed_job_says_why(
    client: AsyncClient, photo: bytes, claimed: Claimed, queue: JobQueue
) -> None:
    asked = asyncio.create_task(client.restore(photo))
    error = ErrorInfo(code="out_of_memory", message="too large", retryable=True)
    await queue.fail(await claimed(), error)
    with pytest.raises(JobFailedError, match="failed: too large") as caught:
        await asked
    assert caught.value.retryable
    assert caught.value.job["error"]["code"] == "out_of_memory"


async def test_a_refusal_names_the_fields(client: AsyncClient, photo: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        await client.submit(photo, steps=0)
    error = caught.value
    assert (error.status, error.code, error.retryable) == (422, "invalid_request", False)
    assert error.errors[0]["pointer"] == "/steps"
    assert error.request_id


async def test_a_full_queue_is_waited_for_as_long_as_it_says(
    settings, photo: bytes, queue: JobQueue, slept: list[float]
) -> None:
    async def make_room(seconds: float) -> None:
        slept.append(seconds)
        await queue.claim("worker", 1)

    one = settings.model_copy(update={"queue_limit": 1})
    async with (
        serve(one) as small,
        AsyncClient(f"http://{small.address}", sleep=make_room) as client,
    ):
        await client.submit(photo)
        job = await client.submit(photo, seed=2)
    assert job["status"] == "queued"
    assert len(slept) == 1
    assert slept[0] >= 1.0  # Retry-After counts whole seconds


async def test_a_broken_stream_is_taken_up_where_it_broke(
    live: Live, photo: bytes, claimed: Claimed, worker: Worker, slept: list[float]
) -> None:
    cut = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = await asyncio.open_connection("127.0.0.1", live.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)

        pumps = [asyncio.create_task(pump(reader, down)), asyncio.create_task(pump(up, writer))]
        cutting = asyncio.create_task(cut.wait())
        await asyncio.wait([*pumps, cutting], return_when=asyncio.FIRST_COMPLETED)
        for task in (*pumps, cutting):
            task.cancel()
        for end in (writer, down):
            end.transport.abort()

    async def pause(seconds: float) -> None:
        slept.append(seconds)
        cut.clear()

    proxy = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    seen: list[int] = []
    async with proxy, AsyncClient(f"http://127.0.0.1:{port}", sleep=pause) as client:
        job = await client.submit(photo)
        lease = await claimed()
        await worker.step(lease, 1)
        async for event in client.follow(job["id"]):
            if "seq" in event.data:
                seen.append(event.data["seq"])
            if event.type == "progress" and not slept:
                cut.set()
                await worker.step(lease, 2)
                await worker.succeed(lease)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert len(slept) >= 1


async def test_jobs_are_listed_over_all_pages(client: AsyncClient, photo: bytes) -> None:
    made = [(await client.submit(photo, seed=seed))["id"] for seed in range(23)]
    await client.cancel(made[0])
    assert [job["id"] async for job in client.jobs()] == made[::-1]
    assert [job["id"] async for job in client.jobs("canceled")] == made[:1]


async def test_a_job_is_canceled_and_forgotten(client: AsyncClient, photo: bytes) -> None:
    job = await client.submit(photo)
    assert (await client.cancel(job["id"]))["status"] == "canceled"
    await client.delete(job["id"])
    with pytest.raises(ApiError) as caught:
        await client.job(job["id"])
    assert caught.value.code == "not_found"


async def test_an_estimate_costs_nothing(client: AsyncClient, queue: JobQueue) -> None:
    estimate = await client.estimate(256, 256, preset="fast")
    assert (estimate["position"], estimate["pixels"]) == (0, 65536)


async def test_key_and_address_come_from_the_environment(
    settings, monkeypatch: pytest.MonkeyPatch, photo: bytes
) -> None:
    keyed = settings.model_copy(update={"api_keys": {"secret": "ann"}})
    async with serve(keyed) as live:
        monkeypatch.setenv("INSTANTIR_URL", f"http://{live.address}")
        async with AsyncClient() as nobody:
            with pytest.raises(ApiError, match="an API key is needed"):
                await nobody.submit(photo)
        monkeypatch.setenv("INSTANTIR_API_KEY", "secret")
        async with AsyncClient() as ann:
            assert (await ann.submit(photo))["status"] == "queued"
