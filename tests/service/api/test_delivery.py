"""The finished picture over HTTP."""

import io

import pytest
from PIL import Image
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


@pytest.mark.parametrize(
    ("header", "body", "content_range"),
    [
        ("bytes=0-3", b"fini", "bytes 0-3/14"),
        ("bytes=9-", b"bytes", "bytes 9-13/14"),
        ("bytes=-5", b"bytes", "bytes 9-13/14"),
        ("bytes=-99", b"finished bytes", "bytes 0-13/14"),
        ("bytes=9-99", b"bytes", "bytes 9-13/14"),
    ],
)
async def test_a_part_is_sent_where_one_is_asked_for(
    api, submitted, worker, header: str, body: bytes, content_range: str
) -> None:
    job_id = await submitted()
    await worker.run()
    answer = await api.get(f"/restore/{job_id}/result", headers={"range": header})
    assert (answer.status_code, answer.content) == (206, body)
    assert answer.headers["content-range"] == content_range
    assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize(
    "header", ["bytes=3-1", "bytes=a-b", "bytes=0-1,3-4", "items=0-1", "bytes=-", "bytes"]
)
async def test_what_is_no_single_range_gets_the_whole(api, submitted, worker, header: str) -> None:
    job_id = await submitted()
    await worker.run()
    answer = await api.get(f"/restore/{job_id}/result", headers={"range": header})
    assert (answer.status_code, answer.content) == (200, b"finished bytes")
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("header", ["bytes=14-", "bytes=99-100", "bytes=-0"])
async def test_a_part_that_is_not_there_is_refused(api, submitted, worker, header: str) -> None:
    job_id = await submitted()
    await worker.run()
    answer = await api.get(f"/restore/{job_id}/result", headers={"range": header})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */14"


async def test_a_part_of_what_has_changed_is_not_sent(api, submitted, worker) -> None:
    job_id = await submitted()
    output = await worker.run()
    for known, status in ((f'"{output.sha256}"', 206), ('"old"', 200)):
        headers = {"range": "bytes=0-3", "if-range": known}
        answer = await api.get(f"/restore/{job_id}/result", headers=headers)
        assert answer.status_code == status


async def picture_job(submitted, worker, queue: JobQueue) -> str:
    """A finished job with a real PNG."""
    job_id = await submitted()
    lease = await worker.claim()
    out = io.BytesIO()
    Image.radial_gradient("L").resize((24, 16)).convert("RGB").save(out, "PNG")
    await worker.succeed(lease, out.getvalue())
    return job_id


@pytest.mark.parametrize("way", ["accept", "query"])
@pytest.mark.parametrize("name", ["jpeg", "webp", "avif"])
async def test_another_format_is_made_on_the_way(
    api, submitted, worker, queue: JobQueue, way: str, name: str
) -> None:
    path = f"/restore/{await picture_job(submitted, worker, queue)}/result"
    headers = {"accept": f"image/{name}"} if way == "accept" else {}
    params = {"format": name} if way == "query" else {}
    answer = await api.get(path, headers=headers, params=params)
    assert (answer.status_code, answer.headers["content-type"]) == (200, f"image/{name}")
    assert answer.headers["etag"].endswith(f'-{name}"')
    assert answer.headers["vary"] == "Accept"
    assert answer.headers["content-disposition"].endswith(f'.{name}"')
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.format, picture.size) == (name.upper(), (24, 16))
    again = await api.get(
        path, headers={**headers, "if-none-match": answer.headers["etag"]}, params=params
    )
    assert again.status_code == 304


@pytest.mark.parametrize("accept", ["*/*", "image/*", "image/webp;q=0.5, image/png", ""])
async def test_the_jobs_own_format_is_sent_where_it_is_welcome(
    api, submitted, worker, accept: str
) -> None:
    job_id = await submitted()
    await worker.run()
    answer = await api.get(f"/restore/{job_id}/result", headers={"accept": accept})
    assert answer.headers["content-type"] == "image/png"


async def test_who_accepts_no_picture_gets_none(api, submitted, worker) -> None:
    job_id = await submitted()
    await worker.run()
    answer = await api.get(f"/restore/{job_id}/result", headers={"accept": "text/html"})
    assert_problem(answer, 406, "not_acceptable")
