"""Probes and metrics."""

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api.app import create_app
from service.api.state import Timing
from service.jobs import TERMINAL
from service.queue import JobQueue
from service.settings import Settings

READY = {"ready": True, "slots": 4, "running": 0, "model": "nano"}


async def samples(api: httpx.AsyncClient) -> dict[tuple, float]:
    answer = await api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_liveness_asks_nobody(without_redis: Settings) -> None:
    app = create_app(without_redis)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://api"
    ) as client:
        answer = await client.get("/livez")  # not even started

    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_readiness_waits_for_a_worker_with_its_model(api, queue: JobQueue) -> None:
    nobody = await api.get("/readyz")
    await queue.beat("one", {**READY, "ready": False})
    loading = await api.get("/readyz")
    await queue.beat("two", READY)
    ready = await api.get("/readyz")

    for answer, words in ((nobody, "0 are"), (loading, "1 are")):
        assert (answer.status_code, answer.json()["code"]) == (503, "server_unavailable")
        assert words in answer.json()["detail"]
        assert answer.headers["retry-after"]
    assert ready.status_code == 200
    assert ready.json() == {"status": "ready", "workers": 1, "models": ["nano"]}


async def test_without_redis_nothing_is_ready_and_metrics_say_so(
    live_without_redis, settings: Settings
) -> None:
    async with httpx.AsyncClient(base_url=f"http://{live_without_redis.address}") as client:
        ready, text = await client.get("/readyz"), (await client.get("/metrics")).text

    assert (ready.status_code, ready.json()["code"]) == (503, "server_unavailable")
    assert "instantir_redis_up 0.0" in text
    assert "instantir_queue_depth" not in text


async def test_a_redis_that_hangs_does_not_hang_the_probe(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings, Timing(probe_s=0.05))
    async with app.router.lifespan_context(app):
        monkeypatch.setattr(app.state.services.queue, "workers", asyncio.Event().wait)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://api"
        ) as client:
            answer = await client.get("/readyz")

    assert answer.status_code == 503
    assert "within 0.05 s" in answer.json()["detail"]


async def test_gauges_show_the_queue_as_it_is(api, submitted, worker, queue: JobQueue) -> None:
    await queue.beat("one", READY)
    await queue.beat("two", {**READY, "ready": False})
    await submitted(priority="high")
    await submitted(priority="low")
    await submitted(priority="low")
    await api.post("/restore", files={"image": b"refused"})
    await worker.claim()

    found = await samples(api)

    assert found["instantir_redis_up",] == 1
    assert found["instantir_queue_depth", "high"] == 0
    assert found["instantir_queue_depth", "low"] == 2
    assert found["instantir_jobs_running",] == 1
    assert found["instantir_jobs_dead",] == 0
    assert found["instantir_jobs_total", "succeeded"] == 0
    assert found["instantir_workers_ready",] == 1
    assert found["instantir_worker_slots",] == 4
    assert found["instantir_jobs_submitted_total", "low"] == 2
    assert found["instantir_submit_seconds_count",] == 3


async def test_the_ends_of_jobs_are_counted_whoever_ended_them(api, submitted, worker) -> None:
    await submitted()
    await worker.run()
    await api.post(f"/restore/{await submitted()}/cancel")

    found = await samples(api)

    counts = {status: found["instantir_jobs_total", status] for status in TERMINAL}
    assert counts == {"succeeded": 1, "failed": 0, "canceled": 1, "expired": 0}


async def test_the_times_of_jobs_are_counted_once_for_each_job(
    api, submitted, worker, queue: JobQueue
) -> None:
    await submitted()
    await submitted()
    await worker.run()
    await queue.release(await worker.claim(), count_attempt=False)
    await worker.claim()

    found = await samples(api)

    assert found["instantir_job_wait_seconds_count",] == 2
    assert found["instantir_job_seconds_count",] == 1
    assert 0 < found["instantir_job_seconds_sum",] < 60


async def test_the_limits_are_those_of_the_settings(api, settings: Settings) -> None:
    found = await samples(api)

    assert found["instantir_queue_limit",] == settings.queue_limit
    assert found["instantir_streams_limit",] == settings.max_streams


async def test_requests_are_counted_by_route_and_never_by_path(api, submitted) -> None:
    job_id = await submitted()
    await api.get(f"/restore/{job_id}")
    await api.get("/restore/unknown")
    await api.get("/wp-login.php")
    await api.request("BREW", "/livez")

    found = await samples(api)

    name = "instantir_requests_total"
    assert found[name, "/restore", "202", "POST"] == 1
    assert found[name, "/restore/{job_id}", "200", "GET"] == 1
    assert found[name, "/restore/{job_id}", "404", "GET"] == 1
    assert found[name, "404", "GET", "unmatched"] == 1
    assert found[name, "/livez", "405", "other"] == 1
    assert not any(job_id in str(key) for key in found)
