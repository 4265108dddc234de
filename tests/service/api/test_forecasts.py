"""Positions and times in answers and in the followers' streams."""

import asyncio
import json

import httpx
import pytest
from redis.asyncio import Redis

from service import keys
from service.jobs import OutputInfo
from service.queue import JobQueue
from service.work import Cost, Load
from tests.conftest import WaitUntil

READY = {"ready": True, "slots": 1, "running": 0, "model": "nano", "fingerprint": "f"}
COST_S = 4.0


@pytest.fixture
async def known(submitted, queue: JobQueue, worker) -> None:
    """A ready worker, and one finished job that has cost four seconds."""
    await queue.beat("one", READY)
    await submitted(cache=False)
    lease = await worker.claim()
    output = OutputInfo(width=24, height=16, content_type="image/png", bytes=1, sha256="0" * 64)
    assert await queue.succeed(lease, output, b"x", Cost(COST_S, 2))


async def test_nothing_is_promised_before_anything_was_measured(api, submitted, queue) -> None:
    await queue.beat("one", READY)
    job = (await api.get(f"/restore/{await submitted()}")).json()
    assert (job["position"], job["eta"]) == (0, None)


@pytest.mark.usefixtures("known")
async def test_a_waiting_job_has_a_position_and_a_time(api, submitted) -> None:
    jobs = [await submitted(cache=False) for _ in range(3)]
    answer = await api.get(f"/restore/{jobs[2]}")
    job = answer.json()
    assert job["position"] == 2
    assert job["eta"]["likely_s"] == pytest.approx(3 * COST_S, rel=0.1)
    assert job["eta"]["low_s"] < job["eta"]["likely_s"] < job["eta"]["high_s"]
    assert float(answer.headers["x-eta"]) == pytest.approx(3 * COST_S, rel=0.1)
    assert answer.headers["x-queue-position"] == "2"


async def test_a_queue_longer_than_is_looked_at_is_not_looked_at_for_each_job(
    submitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.forecasts.MOST_WAITING", 2)
    looks: list[int] = []
    load = JobQueue.load

    async def counted(queue: JobQueue, waiting: int) -> Load:
        looks.append(waiting)
        return await load(queue, waiting)

    monkeypatch.setattr(JobQueue, "load", counted)
    for _ in range(12):
        await submitted(cache=False)
    assert 0 < len(looks) < 12  # one for each of the first three, then one for a time


@pytest.mark.usefixtures("known")
async def test_a_running_job_has_a_time_that_falls_with_its_progress(
    api, submitted, worker, wait_until: WaitUntil
) -> None:
    job_id = await submitted(cache=False)
    lease = await worker.claim()
    await worker.step(lease)

    async def half_done() -> bool:
        job = (await api.get(f"/restore/{job_id}")).json()
        assert job["position"] is None
        return COST_S / 4 < job["eta"]["likely_s"] <= COST_S / 2

    await wait_until(half_done)


@pytest.mark.usefixtures("known")
async def test_an_estimate_is_what_a_submission_would_be_told(api, submitted) -> None:
    await submitted(cache=False)
    body = {"width": 24, "height": 16}
    estimate = (await api.post("/restore/estimate", json=body)).json()
    assert (estimate["position"], estimate["pixels"]) == (1, 384)
    assert estimate["eta"]["likely_s"] == pytest.approx(2 * COST_S, rel=0.1)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"width": 24}, 422, "invalid_request"),
        ({"width": 24, "height": 16, "steps": 0}, 422, "invalid_request"),
        ({"width": 24, "height": 16, "image": "x"}, 422, "invalid_request"),
        ({"width": 5, "height": 16}, 422, "invalid_image"),
        ({"width": 24, "height": 100_000}, 413, "image_too_large"),
    ],
)
async def test_an_estimate_of_what_would_be_refused_is_refused(
    api, body: dict, status: int, code: str
) -> None:
    answer = await api.post("/restore/estimate", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.usefixtures("known")
async def test_a_promise_is_judged_when_its_job_has_ended(
    submitted, worker, queue: JobQueue, redis: Redis
) -> None:
    assert await queue.accuracy() == []
    job_id = await submitted(cache=False)
    assert float(await redis.hget(keys.job(job_id), "predicted_s") or 0) == pytest.approx(
        COST_S, rel=0.1
    )
    # As if it had been submitted two seconds ago: it takes half of the time it was promised.
    job = await queue.get(job_id)
    await redis.hset(keys.job(job_id), "created_at", str(job.created_at - 2.0))
    await worker.run()
    (off,) = await queue.accuracy()
    assert off == pytest.approx(1.0, rel=0.2)


@pytest.mark.usefixtures("known")
async def test_the_service_says_how_far_its_promises_were_off(api, queue, redis: Redis) -> None:
    await redis.rpush(keys.ACCURACY, "0.05", "0.20", "0.10")
    await redis.expire(keys.ACCURACY, 60)
    lines = (await api.get("/metrics")).text.splitlines()
    assert "instantir_eta_error_ratio 0.1" in lines
    assert "instantir_eta_judged_jobs 3.0" in lines


@pytest.mark.usefixtures("known")
async def test_followers_are_told_and_told_again_when_it_changes(
    live, photo: bytes, queue: JobQueue, wait_until: WaitUntil
) -> None:
    async with httpx.AsyncClient(base_url=f"http://{live.address}") as client:
        ahead, mine = [
            (await client.post("/restore", files={"image": photo}, data={"cache": "no"})).json()
            for _ in range(2)
        ]
        told: list[dict] = []

        async def follow() -> None:
            async with client.stream("GET", mine["urls"]["events"]) as answer:
                name = ""
                async for line in answer.aiter_lines():
                    name = line.removeprefix("event: ") if line.startswith("event: ") else name
                    if line.startswith("data: ") and name == "eta":
                        told.append(json.loads(line.removeprefix("data: ")))

        following = asyncio.create_task(follow())
        await wait_until(lambda: told)
        await client.post(ahead["urls"]["cancel"])
        await wait_until(lambda: told[-1]["position"] == 0)
        following.cancel()
    assert told[0]["position"] == 1
    assert told[0]["likely_s"] == pytest.approx(2 * COST_S, rel=0.2)
    assert told[-1]["likely_s"] < told[0]["likely_s"]
    assert "seq" not in told[0]
