"""Submitting, looking and canceling over HTTP."""

import base64
import hashlib
import uuid

import httpx
import pytest
from redis.asyncio import Redis

from service import keys
from tests.service.api.expect import UNKNOWN, assert_problem


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
