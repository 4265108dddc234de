"""One submission, answered as its client likes: a job, a finished job, events, a picture."""

import asyncio
import io
import uuid

import httpx
import pytest
from PIL import Image

from service import keys
from service.jobs import ErrorInfo
from service.queue import JobQueue
from service.settings import Settings
from tests.conftest import WaitUntil
from tests.service.api.conftest import serve
from tests.service.api.expect import assert_problem


@pytest.fixture
async def client(live):
    async with httpx.AsyncClient(base_url=f"http://{live.address}", timeout=20) as made:
        yield made


@pytest.fixture
def picture() -> bytes:
    """What a worker would deliver."""
    out = io.BytesIO()
    Image.new("RGB", (24, 16), "teal").save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def post(client: httpx.AsyncClient, photo: bytes):
    """`post(headers, **options)`: a submission on its way."""

    def start(headers: dict | None = None, **options: str) -> asyncio.Task[httpx.Response]:
        files = {"image": photo}
        return asyncio.create_task(
            client.post("/restore", files=files, data=options, headers=headers)
        )

    return start


@pytest.fixture
def claim(worker, queue: JobQueue, wait_until: WaitUntil):
    """`await claim()`: the next job, as soon as it is there."""

    async def take():
        async def waits() -> bool:
            return sum((await queue.depth()).values()) > 0

        await wait_until(waits)
        return await worker.claim()

    return take


async def test_wait_answers_with_the_finished_job(post, claim, worker) -> None:
    asked = post({"prefer": "wait=15"})
    await worker.succeed(await claim())
    answer = await asked
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=15"


async def test_wait_answers_with_the_job_as_it_is_when_time_is_up(settings, photo) -> None:
    hasty = settings.model_copy(update={"max_wait_s": 0.2})
    async with serve(hasty) as live, httpx.AsyncClient(base_url=f"http://{live.address}") as client:
        headers = {"prefer": "wait=60"}
        answer = await client.post("/restore", files={"image": photo}, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=0.2"
    assert int(answer.headers["retry-after"]) >= 1


async def test_respond_async_wins_over_wait(post) -> None:
    answer = await post({"prefer": "respond-async, wait=15"})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "respond-async"


async def test_a_picture_is_the_answer_to_who_accepts_only_pictures(
    post, claim, worker, picture: bytes
) -> None:
    asked = post({"accept": "image/png"})
    await worker.succeed(await claim(), picture)
    answer = await asked
    assert (answer.status_code, answer.content) == (200, picture)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["location"].startswith("/restore/")


async def test_the_accepted_picture_decides_the_output_format(post, claim) -> None:
    asked = post({"accept": "image/webp"})
    assert (await claim()).options.output_format == "webp"
    asked.cancel()


async def test_a_picture_of_a_failed_job_is_an_error(post, claim, queue: JobQueue) -> None:
    asked = post({"accept": "image/*"})
    error = ErrorInfo(code="out_of_memory", message="too large", retryable=True)
    await queue.fail(await claim(), error)
    problem = assert_problem(await asked, 500, "job_failed")
    assert problem["detail"] == "out_of_memory: too large"
    assert problem["retryable"] is True


async def test_events_are_the_answer_to_who_accepts_events(client, photo, worker) -> None:
    headers = {"accept": "text/event-stream"}
    files = {"image": photo}
    async with client.stream("POST", "/restore", files=files, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["location"].startswith("/restore/")
        text = ""
        async for chunk in answer.aiter_text():
            if '"queued"' in chunk:
                await worker.run()
            text += chunk
    assert '"succeeded"' in text


@pytest.mark.parametrize(
    ("accept", "options"),
    [("text/html", {}), ("image/gif", {}), ("image/webp", {"output_format": "png"})],
)
async def test_what_is_not_on_offer_is_not_acceptable(
    api, photo: bytes, queue: JobQueue, accept: str, options: dict
) -> None:
    headers = {"accept": accept}
    answer = await api.post("/restore", files={"image": photo}, data=options, headers=headers)
    assert_problem(answer, 406, "not_acceptable")
    assert sum((await queue.depth()).values()) == 0


async def test_a_key_finds_the_job_it_made(api, photo: bytes) -> None:
    headers = {"idempotency-key": "holiday-17"}
    made, again = [
        await api.post("/restore", files={"image": photo}, data={"steps": "3"}, headers=headers)
        for _ in range(2)
    ]
    assert (made.status_code, again.status_code) == (202, 200)
    assert made.json()["id"] == again.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in made.headers


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_that_is_none_is_refused(api, photo: bytes, key: str) -> None:
    headers = {"idempotency-key": key}
    answer = await api.post("/restore", files={"image": photo}, headers=headers)
    assert_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize("way", ["key", "id"])
async def test_the_same_key_or_id_for_another_request_is_refused(
    api, photo: bytes, way: str
) -> None:
    path = "/restore" if way == "key" else f"/restore/{uuid.uuid4()}"
    method = "POST" if way == "key" else "PUT"
    headers = {"idempotency-key": "k"} if way == "key" else {}
    for steps in ("3", "4"):
        answer = await api.request(
            method, path, files={"image": photo}, data={"steps": steps}, headers=headers
        )
    assert_problem(answer, 422, "idempotency_key_reuse")


async def test_an_id_of_the_clients_choice_makes_one_job(api, photo: bytes) -> None:
    job_id = str(uuid.uuid4())
    made, again = [await api.put(f"/restore/{job_id}", files={"image": photo}) for _ in range(2)]
    assert (made.status_code, again.status_code) == (202, 200)
    assert made.json()["id"] == again.json()["id"] == job_id
    answer = await api.put("/restore/not-a-uuid", files={"image": photo})
    assert_problem(answer, 422, "invalid_request")


async def test_a_repeated_request_attaches_to_the_running_job(post, claim, worker) -> None:
    first = post({"idempotency-key": "k", "prefer": "wait=15"})
    lease = await claim()
    second = post({"idempotency-key": "k", "prefer": "wait=15"})
    await worker.succeed(lease)
    ids = {(await asked).json()["id"] for asked in (first, second)}
    assert ids == {lease.job_id}


async def test_an_equal_request_is_answered_by_the_result_of_the_first(
    api, photo: bytes, queue: JobQueue, worker
) -> None:
    await queue.beat("one", {"ready": True, "slots": 1, "model": "nano", "fingerprint": "f1"})
    first = (await api.post("/restore", files={"image": photo}, data={"seed": "1"})).json()
    lease = (await queue.claim("worker", 1))[0]
    await queue.start(lease, {"steps": 2}, "nano", "f1")
    output = await worker.succeed(lease)

    again = (await api.post("/restore", files={"image": photo}, data={"seed": "1"})).json()
    anew = await api.post("/restore", files={"image": photo}, data={"seed": "1", "cache": "no"})
    other = await api.post("/restore", files={"image": photo}, data={"seed": "2"})

    assert again["id"] != first["id"]
    assert (again["status"], again["cached"]) == ("succeeded", True)
    assert again["output"]["sha256"] == output.sha256
    assert (await api.get(again["urls"]["result"])).content == b"finished bytes"
    assert [a.json()["status"] for a in (anew, other)] == ["queued", "queued"]
    # Another model may give another picture.
    await queue.beat("one", {"ready": True, "slots": 1, "model": "nano", "fingerprint": "f2"})
    later = await api.post("/restore", files={"image": photo}, data={"seed": "1"})
    assert later.json()["status"] == "queued"


async def test_an_operator_can_switch_the_cache_off(
    settings: Settings, photo: bytes, queue: JobQueue, worker
) -> None:
    off = settings.model_copy(update={"result_cache": False})
    await queue.beat("one", {"ready": True, "slots": 1, "model": "nano", "fingerprint": "f1"})
    async with serve(off) as live, httpx.AsyncClient(base_url=f"http://{live.address}") as client:
        await client.post("/restore", files={"image": photo})
        lease = (await queue.claim("worker", 1))[0]
        await queue.start(lease, {"steps": 2}, "nano", "f1")
        await worker.succeed(lease)
        again = await client.post("/restore", files={"image": photo})
    assert again.json()["status"] == "queued"


async def test_metadata_comes_back_with_the_job(api, photo: bytes) -> None:
    data = {"metadata": '{"album": "holiday"}'}
    job = (await api.post("/restore", files={"image": photo}, data=data)).json()
    assert job["options"]["metadata"] == {"album": "holiday"}
    wrong = await api.post("/restore", files={"image": photo}, data={"metadata": "{"})
    assert_problem(wrong, 422, "invalid_request")


async def test_a_deleted_job_is_forgotten_with_its_pictures(api, submitted, worker, redis) -> None:
    job_id = await submitted()
    await worker.run()
    assert (await api.delete(f"/restore/{job_id}")).status_code == 204
    assert_problem(await api.get(f"/restore/{job_id}"), 404, "not_found")
    # The last event stays a moment for those who follow.
    assert [key async for key in redis.scan_iter(f"*{job_id}*")] == [keys.events(job_id).encode()]
    assert await redis.ttl(keys.events(job_id)) <= 60
    assert_problem(await api.delete(f"/restore/{job_id}"), 404, "not_found")
