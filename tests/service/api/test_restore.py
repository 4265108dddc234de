"""Submitting, looking, fetching and canceling over HTTP."""

import base64
import hashlib
import uuid

import httpx
import pytest
from redis.asyncio import Redis

from service import keys
from service.api.app import create_app
from service.jobs import ErrorInfo
from service.queue import JobQueue
from service.settings import Settings

UNKNOWN = "0b6c1c0e-3f0e-4a51-9d0b-0f6f0c9d2a11"


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


async def test_a_form_is_admitted_as_a_job(
    api: httpx.AsyncClient, photo: bytes, redis: Redis
) -> None:
    answer = await api.post(
        "/restore",
        files={"image": ("holiday.png", photo, "image/png")},
        data={"preset": "fast", "steps": "12", "adaptive": "true", "guidance_scale": "3.5"},
    )

    assert answer.status_code == 202
    job = answer.json()
    here = f"/restore/{job['id']}"
    assert answer.headers["location"] == here
    assert job["urls"] == {
        "self": here,
        "events": f"{here}/events",
        "progress": f"{here}/progress",
        "cancel": f"{here}/cancel",
        "result": f"{here}/result",
    }
    assert uuid.UUID(job["id"]).version == 4
    assert job["status"] == "queued"
    options = job["options"]
    assert (options["preset"], options["steps"], options["adaptive"]) == ("fast", 12, True)
    assert options["guidance_scale"] == 3.5
    assert job["source"] == {
        "width": 24,
        "height": 16,
        "content_type": "image/png",
        "bytes": len(photo),
        "sha256": hashlib.sha256(photo).hexdigest(),
    }
    assert await redis.get(keys.source(job["id"])) == photo


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
async def test_json_is_admitted_with_plain_base64_and_with_a_data_url(
    api: httpx.AsyncClient, photo: bytes, redis: Redis, prefix: str
) -> None:
    text = prefix + base64.encodebytes(photo).decode()

    answer = await api.post(
        "/restore", json={"image": {"base64": text}, "seed": 7, "prompt": "a bird"}
    )

    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["options"]["seed"], job["options"]["prompt"]) == (7, "a bird")
    assert await redis.get(keys.source(job["id"])) == photo


async def test_urls_carry_the_prefix_of_a_proxy(settings: Settings, photo: bytes) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, root_path="/images")
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            answer = await client.post("/images/restore", files={"image": photo})

    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/images/restore/{answer.json()['id']}"


async def test_a_job_is_shown_as_it_goes(api, submitted, worker) -> None:
    job_id = await submitted()
    lease = await worker.claim()
    await worker.step(lease)

    job = (await api.get(f"/restore/{job_id}")).json()

    assert job["status"] == "running"
    assert job["resolved"] == {"steps": 2}
    assert job["model"] == "nano"
    assert job["progress"]["value"] == 0.5
    assert job["urls"]["self"] == f"/restore/{job_id}"


@pytest.mark.parametrize("path", ["", "/result", "/events"])
@pytest.mark.parametrize("job_id", [UNKNOWN, "latest", "{" * 99])
async def test_an_unknown_job_is_not_found(api, path: str, job_id: str) -> None:
    problem = assert_problem(await api.get(f"/restore/{job_id}{path}"), 404, "not_found")

    assert problem["type"] == "urn:instantir:problem:not_found"
    assert problem["title"] == "Not found"
    assert problem["detail"].startswith("no job")
    assert problem["retryable"] is False


async def test_an_unknown_job_cannot_be_canceled(api) -> None:
    assert_problem(await api.post(f"/restore/{UNKNOWN}/cancel"), 404, "not_found")


async def test_an_id_is_understood_in_capital_letters(api, submitted) -> None:
    job_id = await submitted()

    assert (await api.get(f"/restore/{job_id.upper()}")).json()["id"] == job_id


async def test_a_waiting_job_is_canceled_at_once_and_again(api, submitted) -> None:
    job_id = await submitted()

    first = await api.post(f"/restore/{job_id}/cancel")
    again = await api.post(f"/restore/{job_id}/cancel")

    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["status"] == again.json()["status"] == "canceled"


async def test_a_running_job_is_shown_canceling(api, submitted, worker) -> None:
    job_id = await submitted()
    await worker.claim()

    assert (await api.post(f"/restore/{job_id}/cancel")).json()["status"] == "canceling"


async def test_a_result_comes_with_its_type_and_digest(api, submitted, worker) -> None:
    job_id = await submitted()
    output = await worker.run()

    answer = await api.get(f"/restore/{job_id}/result")

    assert answer.status_code == 200
    assert answer.content == b"finished bytes"
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["etag"] == f'"{output.sha256}"'
    assert answer.headers["content-length"] == "14"
    assert answer.headers["content-disposition"] == f'inline; filename="{job_id}.png"'
    assert "private" in answer.headers["cache-control"]


async def test_head_of_a_result_has_its_headers_and_no_body(api, submitted, worker) -> None:
    job_id = await submitted()
    await worker.run()

    got = await api.get(f"/restore/{job_id}/result")
    head = await api.head(f"/restore/{job_id}/result")

    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "content-type", "content-length", "cache-control"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize("known", ['"{etag}"', 'W/"{etag}"', '"x", "{etag}"', "*"])
async def test_a_result_that_the_client_has_is_not_sent_again(
    api, submitted, worker, known: str
) -> None:
    job_id = await submitted()
    output = await worker.run()
    headers = {"if-none-match": known.format(etag=output.sha256)}

    answer = await api.get(f"/restore/{job_id}/result", headers=headers)

    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == f'"{output.sha256}"'


async def test_another_digest_gets_the_result(api, submitted, worker) -> None:
    job_id = await submitted()
    await worker.run()

    answer = await api.get(f"/restore/{job_id}/result", headers={"if-none-match": '"old"'})

    assert answer.status_code == 200


async def test_a_result_is_not_ready_before_the_end(api, submitted, worker) -> None:
    job_id = await submitted()
    waiting = await api.get(f"/restore/{job_id}/result")
    await worker.claim()
    running = await api.get(f"/restore/{job_id}/result")

    assert "queued" in assert_problem(waiting, 409, "result_not_ready")["detail"]
    assert "running" in assert_problem(running, 409, "result_not_ready")["detail"]


async def test_a_failed_and_a_canceled_job_have_no_result(
    api, submitted, worker, queue: JobQueue
) -> None:
    failed = await submitted()
    lease = await worker.claim()
    await queue.fail(lease, ErrorInfo(code="out_of_memory", message="too large"))
    canceled = await submitted()
    await api.post(f"/restore/{canceled}/cancel")

    for job_id, status in ((failed, "failed"), (canceled, "canceled")):
        problem = assert_problem(await api.get(f"/restore/{job_id}/result"), 410, "result_gone")
        assert status in problem["detail"]


async def test_a_result_past_its_retention_is_gone(api, submitted, worker, redis: Redis) -> None:
    job_id = await submitted()
    await worker.run()
    await redis.delete(keys.result(job_id))

    problem = assert_problem(await api.get(f"/restore/{job_id}/result"), 410, "result_gone")

    assert "retention" in problem["detail"]


async def test_a_full_queue_says_when_to_come_back(settings: Settings, photo: bytes) -> None:
    app = create_app(settings.model_copy(update={"queue_limit": 1}))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            await client.post("/restore", files={"image": photo})
            refused = await client.post("/restore", files={"image": photo})

    problem = assert_problem(refused, 429, "queue_full")
    assert problem["retryable"] is True
    assert "limit is 1" in problem["detail"]
    assert int(refused.headers["retry-after"]) >= 1
