"""The finished picture over HTTP."""

import pytest
from redis.asyncio import Redis

from service import keys
from service.jobs import ErrorInfo
from service.queue import JobQueue
from tests.service.api.expect import assert_problem


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
