"""`on_disconnect=cancel`: a job ends when nobody follows it any more."""

import asyncio

import httpx
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect

from service import keys
from service.queue import JobQueue
from service.settings import Settings
from tests.conftest import WaitUntil
from tests.service.api.conftest import serve

GRACE_S = 0.3


@pytest.fixture
async def live(settings: Settings):
    """A server that waits little for who has left."""
    async with serve(settings.model_copy(update={"disconnect_grace_s": GRACE_S})) as made:
        yield made


@pytest.fixture
async def client(live):
    async with httpx.AsyncClient(base_url=f"http://{live.address}", timeout=20) as made:
        yield made


@pytest.fixture
def ends(queue: JobQueue, wait_until: WaitUntil):
    """`await ends(id)`: the status in which the job ends, while somebody sweeps."""

    async def watch(job_id: str) -> str:
        async def ended() -> str | None:
            await queue.sweep()
            status = (await queue.get(job_id)).status
            return status if status not in {"queued", "running"} else None

        return await wait_until(ended)

    return watch


async def socket_closed(socket: ClientConnection) -> None:
    await socket.wait_closed()


async def submit(client: httpx.AsyncClient, photo: bytes, **options: str) -> str:
    data = {"on_disconnect": "cancel", **options}
    answer = await client.post("/restore", files={"image": photo}, data=data)
    return str(answer.json()["id"])


@pytest.mark.parametrize("way", ["events", "socket"])
async def test_a_job_is_canceled_when_its_last_follower_leaves(
    live, client, photo: bytes, ends, way: str
) -> None:
    job_id = await submit(client, photo)
    path = f"/restore/{job_id}"
    if way == "events":
        async with client.stream("GET", f"{path}/events") as answer:
            async for line in answer.aiter_lines():
                if "queued" in line:
                    break
    else:
        async with connect(f"ws://{live.address}{path}/progress") as socket:
            await socket.recv()
    assert await ends(job_id) == "canceled"


async def test_it_goes_on_while_another_follows(live, client, photo, queue, worker) -> None:
    job_id = await submit(client, photo)
    address = f"ws://{live.address}/restore/{job_id}/progress"
    async with connect(address) as staying:
        await staying.recv()
        async with connect(address) as leaving:
            await leaving.recv()
        # Longer than the grace after one of both has left.
        await asyncio.wait({asyncio.create_task(socket_closed(staying))}, timeout=3 * GRACE_S)
        await queue.sweep()
        assert (await queue.get(job_id)).status == "queued"
        await worker.run()
    assert (await queue.get(job_id)).status == "succeeded"


async def test_it_goes_on_when_somebody_comes_back_in_time(live, client, photo, queue) -> None:
    job_id = await submit(client, photo)
    address = f"ws://{live.address}/restore/{job_id}/progress"
    async with connect(address) as socket:
        await socket.recv()
    async with connect(address) as socket:
        await socket.recv()
        await asyncio.wait({asyncio.create_task(socket_closed(socket))}, timeout=2 * GRACE_S)
        await queue.sweep()
        assert (await queue.get(job_id)).status == "queued"


async def test_a_job_that_was_never_followed_goes_on(client, photo, queue, worker) -> None:
    job_id = await submit(client, photo)
    await queue.sweep()
    await worker.run()
    assert (await queue.get(job_id)).status == "succeeded"


async def test_a_client_that_leaves_while_it_waits_has_left(
    client, photo, queue: JobQueue, wait_until: WaitUntil, ends
) -> None:
    data, headers = {"on_disconnect": "cancel"}, {"prefer": "wait=20"}
    asked = asyncio.create_task(
        client.post("/restore", files={"image": photo}, data=data, headers=headers)
    )

    async def waiting() -> list[str]:
        load = await queue.load(9)
        return [job.job_id for job in load.waiting]

    (job_id,) = await wait_until(waiting)
    asked.cancel()
    assert await ends(job_id) == "canceled"


@pytest.mark.parametrize(("option", "watched"), [("continue", 0), ("cancel", 1)])
async def test_only_with_the_option_somebody_looks_who_follows(
    live, client, photo, redis: Redis, wait_until: WaitUntil, option: str, watched: int
) -> None:
    streams = live.app.state.services.metrics.streams_open.labels("websocket")
    job_id = await submit(client, photo, on_disconnect=option)
    async with connect(f"ws://{live.address}/restore/{job_id}/progress") as socket:
        await socket.recv()
    await wait_until(lambda: streams._value.get() == 0)
    assert await redis.zcard(keys.WATCHED) == watched
