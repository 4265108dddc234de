"""Dead letters over HTTP."""

from collections.abc import AsyncIterator

import httpx
import pytest
from redis.asyncio import Redis

from service import keys
from service.api.app import create_app
from service.queue import JobQueue
from service.settings import Settings
from tests.service.api.expect import UNKNOWN, assert_problem

OPERATOR = {"authorization": "Bearer the-operator"}


@pytest.fixture
async def operator(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the operator's key."""
    app = create_app(settings.model_copy(update={"operator_key": "the-operator"}))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api", headers=OPERATOR) as made,
    ):
        yield made


@pytest.fixture
async def dead(operator, photo: bytes, queue: JobQueue) -> str:
    """A job whose workers kept dying."""
    data = {"seed": "7"}
    job_id = (await operator.post("/restore", files={"image": photo}, data=data)).json()["id"]
    for _ in range(3):
        (lease,) = await queue.claim("worker", 1)
        await queue.release(lease, count_attempt=True)
    await queue.claim("worker", 1)
    assert (await queue.get(job_id)).status == "failed"
    return str(job_id)


async def test_the_dead_are_listed_with_what_happened(operator, dead: str) -> None:
    (job,) = (await operator.get("/ops/dead")).json()["jobs"]
    assert (job["id"], job["status"]) == (dead, "failed")
    assert job["error"]["code"] == "worker_lost"


async def test_a_dead_job_is_tried_again_as_a_new_one(
    operator, dead: str, photo: bytes, redis: Redis
) -> None:
    answer = await operator.post(f"/ops/dead/{dead}/requeue")
    again = answer.json()
    assert (answer.status_code, again["status"], again["options"]["seed"]) == (202, "queued", 7)
    assert again["id"] != dead
    assert await redis.get(keys.source(again["id"])) == photo
    assert (await operator.get("/ops/dead")).json() == {"jobs": []}
    old = (await operator.get(f"/restore/{dead}")).json()
    assert (old["status"], old["requeued_as"]) == ("failed", again["id"])


async def test_a_dead_job_without_its_upload_cannot_be_tried_again(
    operator, dead: str, redis: Redis
) -> None:
    await redis.delete(keys.source(dead))
    assert_problem(await operator.post(f"/ops/dead/{dead}/requeue"), 410, "result_gone")


async def test_a_dead_job_is_forgotten(operator, dead: str) -> None:
    assert (await operator.delete(f"/ops/dead/{dead}")).status_code == 204
    assert (await operator.get("/ops/dead")).json() == {"jobs": []}
    assert_problem(await operator.get(f"/restore/{dead}"), 404, "not_found")


@pytest.mark.parametrize(("method", "path"), [("POST", "/requeue"), ("DELETE", "")])
async def test_who_is_not_dead_is_not_found(operator, method: str, path: str) -> None:
    answer = await operator.request(method, f"/ops/dead/{UNKNOWN}{path}")
    assert_problem(answer, 404, "not_found")
