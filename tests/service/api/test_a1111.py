"""The routes that plug-ins for AUTOMATIC1111 use."""

import asyncio
import base64

import httpx
import pytest

from service.jobs import ErrorInfo
from service.queue import JobQueue
from tests.conftest import WaitUntil
from tests.service.api.expect import assert_problem

PATH = "/sdapi/v1/extra-single-image"


@pytest.fixture
async def client(live):
    async with httpx.AsyncClient(base_url=f"http://{live.address}", timeout=20) as made:
        yield made


@pytest.fixture
def asking(client, photo: bytes, queue: JobQueue, worker, wait_until: WaitUntil):
    """`await asking()`: a request on its way, and the lease of its job."""

    async def ask(prefix: str = ""):
        body = {
            "image": prefix + base64.b64encode(photo).decode(),
            "upscaler_1": "R-ESRGAN 4x+",
            "upscaling_resize": 1,
        }
        asked = asyncio.create_task(client.post(PATH, json=body))

        async def waits() -> bool:
            return (await queue.depth())["normal"] > 0

        await wait_until(waits)
        return asked, await worker.claim()

    return ask


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
async def test_a_picture_is_restored(asking, worker, prefix: str) -> None:
    asked, lease = await asking(prefix)
    await worker.succeed(lease, b"restored")
    answer = await asked
    assert answer.status_code == 200
    assert base64.b64decode(answer.json()["image"]) == b"restored"
    assert answer.json()["html_info"] == ""


async def test_progress_shows_the_job_that_runs(client, asking, worker) -> None:
    idle = (await client.get("/sdapi/v1/progress")).json()
    asked, lease = await asking()
    await worker.step(lease, 1, b"preview")
    seen = (await client.get("/sdapi/v1/progress")).json()
    without = (await client.get("/sdapi/v1/progress", params={"skip_current_image": True})).json()
    await worker.succeed(lease)
    await asked
    done = (await client.get("/sdapi/v1/progress")).json()
    assert (idle["progress"], idle["state"]["job_count"]) == (0.0, 0)
    assert (seen["progress"], seen["state"]["job"]) == (0.5, lease.job_id)
    assert (seen["state"]["sampling_step"], seen["state"]["sampling_steps"]) == (1, 2)
    assert base64.b64decode(seen["current_image"]) == b"preview"
    assert without["current_image"] is None
    assert done == idle


async def test_other_jobs_are_not_shown(client, photo: bytes) -> None:
    await client.post("/restore", files={"image": photo})
    assert (await client.get("/sdapi/v1/progress")).json()["state"]["job_count"] == 0


async def test_a_failed_job_is_an_error(asking, queue: JobQueue) -> None:
    asked, lease = await asking()
    await queue.fail(lease, ErrorInfo(code="out_of_memory", message="too large"))
    assert_problem(await asked, 500, "job_failed")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"image": "@@@"}, "invalid_request"),
        ({"image": "aaaa"}, "unsupported_image"),
        ({"image": "aaaa", "upscaling_resize": 4}, "invalid_request"),
    ],
)
async def test_what_cannot_be_done_is_refused(client, body: dict, code: str) -> None:
    answer = await client.post(PATH, json=body)
    assert answer.json()["code"] == code
