"""The queue against a real server: the life of a job, order, limits and lifetimes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError

from service import keys
from service.connection import connect, unavailable_when_away
from service.errors import NotFound, QueueFull, ServerUnavailable
from service.events import PreviewEvent, ProgressEvent
from service.jobs import ErrorInfo, JobStatus, OutputInfo, RestoreOptions, SourceInfo
from service.queue import JobQueue
from service.results import BlobKind, RedisBlobStore
from service.settings import Settings
from service.work import LeaseState, Submission
from tests.conftest import WaitUntil
from tests.service.conftest import IMAGE, RESULT, Submit, statuses

STEP = ProgressEvent(1, 4, "restoring", 749, 0.25, None)


async def test_a_job_lives_from_submit_to_result(
    queue: JobQueue, redis: Redis, settings: Settings, submit: Submit, output_info: OutputInfo
) -> None:
    queued = await submit(steps=4, preset="fast")
    assert (queued.status, queued.attempt, queued.seq) == (JobStatus.QUEUED, 0, 1)
    assert queued.options == RestoreOptions(steps=4, preset="fast")

    [lease] = await queue.claim("w", 1)
    assert (lease.job_id, lease.attempt, lease.options) == ("job", 1, queued.options)
    assert await queue.start(lease, {"steps": 4, "seed": 7}, "nano")
    assert await queue.emit(lease, STEP)
    running = await queue.get("job")
    assert running.status is JobStatus.RUNNING
    assert (running.resolved, running.model) == ({"steps": 4, "seed": 7}, "nano")
    assert running.progress is not None
    assert (running.progress.value, running.progress.reference_variance) == (0.25, 0.25)

    assert await queue.succeed(lease, output_info, RESULT)
    done = await queue.get("job")
    assert (done.status, done.output, done.error) == (JobStatus.SUCCEEDED, output_info, None)
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.created_at <= done.started_at <= done.finished_at
    blobs = RedisBlobStore(redis, settings)
    assert await blobs.get(BlobKind.RESULT, "job") == RESULT
    assert await statuses(redis) == ["queued", "running", "succeeded"]


async def test_the_worker_finds_the_upload(
    queue: JobQueue, redis: Redis, settings: Settings, submit: Submit
) -> None:
    await submit()
    assert await RedisBlobStore(redis, settings).get(BlobKind.SOURCE, "job") == IMAGE


async def test_a_failed_job_says_why(queue: JobQueue, redis: Redis, submit: Submit) -> None:
    await submit()
    [lease] = await queue.claim("w", 1)
    error = ErrorInfo(code="engine_failed", message="no memory", retryable=True)
    assert await queue.fail(lease, error)
    job = await queue.get("job")
    assert (job.status, job.error, job.output) == (JobStatus.FAILED, error, None)
    assert await queue.dead() == []


async def test_finishing_again_gives_the_same_answer_and_changes_nothing(
    queue: JobQueue, submit: Submit, output_info: OutputInfo
) -> None:
    await submit()
    [lease] = await queue.claim("w", 1)
    assert await queue.succeed(lease, output_info, RESULT)
    before = await queue.get("job")
    assert await queue.succeed(lease, output_info, b"other bytes")
    assert not await queue.fail(lease, ErrorInfo(code="x", message="late"))
    assert await queue.get("job") == before


async def test_submitting_an_id_again_returns_the_job_that_exists(
    queue: JobQueue, submit: Submit
) -> None:
    first = await submit(steps=4)
    assert await submit(steps=4) == first
    assert (await queue.depth())["normal"] == 1


async def test_an_unknown_job_is_not_found(queue: JobQueue) -> None:
    with pytest.raises(NotFound, match="'nobody'"):
        await queue.get("nobody")
    with pytest.raises(NotFound, match="'nobody'"):
        await queue.cancel("nobody")


async def test_high_priority_is_claimed_first_and_each_class_in_order(
    queue: JobQueue, submit: Submit
) -> None:
    for job_id, priority in [
        ("l1", "low"),
        ("n1", "normal"),
        ("h1", "high"),
        ("l2", "low"),
        ("h2", "high"),
        ("n2", "normal"),
    ]:
        await submit(job_id, priority=priority)
    leases = [*await queue.claim("w", 4), *await queue.claim("w", 4)]
    assert [lease.job_id for lease in leases] == ["h1", "h2", "n1", "n2", "l1", "l2"]


@pytest.mark.parametrize("n", [-1, 0, 1, 3, 5, 9])
async def test_a_claim_never_takes_more_than_asked(queue: JobQueue, submit: Submit, n: int) -> None:
    for i, priority in enumerate(["high", "normal", "low", "normal", "low"]):
        await submit(f"job{i}", priority=priority)
    assert len(await queue.claim("w", n)) == max(0, min(n, 5))
    assert (await queue.depth())["running"] == max(0, min(n, 5))


async def test_a_claim_whose_answer_was_lost_is_answered_again(
    redis: Redis, queue: JobQueue, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit("one")
    await submit("two")
    answer = redis.evalsha

    async def lost(*args: Any) -> None:
        await answer(*args)
        raise ConnectionError("the answer was lost")

    with monkeypatch.context() as away:
        away.setattr(redis, "evalsha", lost)
        with pytest.raises(ServerUnavailable), unavailable_when_away():
            await queue.claim("w", 1)
    [again] = await queue.claim("w", 1)
    [fresh] = await queue.claim("w", 1)
    assert (again.job_id, again.attempt) == ("one", 1)
    assert (fresh.job_id, fresh.attempt) == ("two", 1)


async def test_claimers_never_share_a_job(queue: JobQueue, submit: Submit) -> None:
    names = {f"job{i}" for i in range(30)}
    for name in names:
        await submit(name)
    claims = await asyncio.gather(*(queue.claim(f"w{i % 5}", 2) for i in range(20)))
    claimed = [lease.job_id for leases in claims for lease in leases]
    assert len(claimed) == len(set(claimed)) == 30
    assert set(claimed) == names


async def test_a_full_queue_refuses_and_says_when_to_return(
    redis: Redis, settings: Settings, source_info: SourceInfo
) -> None:
    queue = JobQueue(redis, settings.model_copy(update={"queue_limit": 2}))
    for i in range(2):
        await queue.submit(
            f"job{i}", Submission(RestoreOptions(priority="low"), source_info, IMAGE)
        )
    with pytest.raises(QueueFull, match="2 jobs wait and the limit is 2") as caught:
        await queue.submit("more", Submission(RestoreOptions(priority="high"), source_info, IMAGE))
    assert 1 <= (caught.value.retry_after_s or 0) <= 60
    with pytest.raises(NotFound):
        await queue.get("more")
    assert await redis.exists(*keys.of_job("more")) == 0
    # A job that a worker holds does not wait: there is room again.
    await queue.claim("w", 1)
    await queue.submit("more", Submission(RestoreOptions(), source_info, IMAGE))


async def test_the_time_to_return_follows_the_measured_pace(
    redis: Redis, settings: Settings, source_info: SourceInfo
) -> None:
    queue = JobQueue(redis, settings.model_copy(update={"queue_limit": 1}))
    await queue.submit("job", Submission(RestoreOptions(), source_info, IMAGE))
    for seconds, expected in [("24.1", 25), ("0.02", 1), ("900", 60)]:
        await redis.hset(keys.PACE, "seconds", seconds)
        await redis.expire(keys.PACE, 60)
        with pytest.raises(QueueFull) as caught:
            await queue.submit("more", Submission(RestoreOptions(), source_info, IMAGE))
        assert caught.value.retry_after_s == expected


async def test_finished_jobs_set_the_pace(
    queue: JobQueue, redis: Redis, submit: Submit, output_info: OutputInfo
) -> None:
    await submit()
    [lease] = await queue.claim("w", 1)
    await queue.succeed(lease, output_info, RESULT)
    pace = await redis.hget(keys.PACE, "seconds")
    assert pace is not None
    assert 0 <= float(pace) < 10


async def test_depth_counts_waiting_by_priority_and_running(
    queue: JobQueue, submit: Submit
) -> None:
    assert await queue.depth() == {"high": 0, "normal": 0, "low": 0, "running": 0}
    for i, priority in enumerate(["low", "low", "high", "normal"]):
        await submit(f"job{i}", priority=priority)
    leases = await queue.claim("w", 2)
    assert await queue.depth() == {"high": 0, "normal": 0, "low": 2, "running": 2}
    await queue.release(leases[0], count_attempt=False)
    assert await queue.depth() == {"high": 1, "normal": 0, "low": 2, "running": 1}


async def test_waiting_ends_when_work_arrives_and_reserves_nothing(
    queue: JobQueue, submit: Submit, wait_until: WaitUntil
) -> None:
    await queue.wait_for_work(0.001)
    waiting = asyncio.create_task(queue.wait_for_work(10))
    await submit()
    await asyncio.wait_for(waiting, 5)
    assert (await queue.depth())["normal"] == 1
    # Work that came between two waits is not missed: the bell is remembered, not only heard.
    await submit("second")
    await asyncio.wait_for(queue.wait_for_work(10), 5)
    loop = asyncio.get_running_loop()
    before = loop.time()
    await queue.wait_for_work(0.05)
    assert loop.time() - before >= 0.04


async def test_a_job_given_back_rings_the_bell(queue: JobQueue, submit: Submit) -> None:
    await submit()
    [lease] = await queue.claim("w", 1)
    await queue.wait_for_work(0.01)
    waiting = asyncio.create_task(queue.wait_for_work(10))
    await queue.release(lease, count_attempt=False)
    await asyncio.wait_for(waiting, 5)


async def test_live_workers_are_listed_until_a_lease_after_their_last_beat(
    queue: JobQueue, hasty_queue: JobQueue, wait_until: WaitUntil
) -> None:
    assert await queue.workers() == {}
    info: dict[str, Any] = {"ready": True, "slots": 4, "running": 1, "model": "nano", "at": 0.0}
    await hasty_queue.beat("short", info)
    await queue.beat("long", info)
    workers = await queue.workers()
    assert workers["long"].items() >= {"ready": True, "slots": 4, "model": "nano"}.items()
    assert workers["long"]["at"] > 1e9

    async def only_long() -> bool:
        return set(await queue.workers()) == {"long"}

    await wait_until(only_long)


async def test_a_server_that_comes_back_empty_is_set_up_again(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await redis.flushall()
    assert await queue.claim("w", 1) == []
    await redis.flushall()
    await submit()
    assert len(await queue.claim("w", 1)) == 1


async def test_ends_are_counted_by_status_and_asking_again_counts_nothing(
    queue: JobQueue, redis: Redis, submit: Submit, output_info: OutputInfo
) -> None:
    assert set((await queue.ended()).values()) == {0}
    await submit("good")
    await submit("bad")
    good, bad = await queue.claim("w", 2)
    for _ in range(2):  # the first answer may be lost on the way
        assert await queue.succeed(good, output_info, RESULT)
        assert await queue.fail(bad, ErrorInfo(code="x", message="y"))
    await submit("unwanted")
    for _ in range(2):
        await queue.cancel("unwanted")
    counts = {"succeeded": 1, "failed": 1, "canceled": 1, "expired": 0}
    assert await queue.ended() == counts
    assert 0 < await redis.ttl(keys.ENDED) <= 86_400


async def test_an_entry_whose_job_has_vanished_is_dropped(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit("gone")
    await submit("here")
    await redis.delete(*keys.of_job("gone"))
    assert [lease.job_id for lease in await queue.claim("w", 1)] == ["here"]
    assert await queue.depth() == {"high": 0, "normal": 0, "low": 0, "running": 1}


async def test_a_queued_job_whose_upload_has_ended_expires(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit()
    await redis.delete(keys.source("job"))
    assert await queue.claim("w", 1) == []
    assert (await queue.get("job")).status is JobStatus.EXPIRED
    assert await statuses(redis) == ["queued", "expired"]


async def test_every_key_of_a_job_ends_with_its_retention(
    queue: JobQueue, redis: Redis, settings: Settings, submit: Submit, output_info: OutputInfo
) -> None:
    await submit()
    [lease] = await queue.claim("w", 1)
    await queue.emit(lease, PreviewEvent(1, 4, 64, 48, "image/jpeg"), b"frame")
    alive = [await redis.ttl(key) for key in keys.of_job("job") if await redis.exists(key)]
    assert len(alive) == 4
    assert all(settings.retention_s < ttl <= keys.alive_ttl_s(settings) for ttl in alive)
    await queue.succeed(lease, output_info, RESULT)
    ended = [await redis.ttl(key) for key in keys.of_job("job") if await redis.exists(key)]
    assert len(ended) == 5
    assert all(0 < ttl <= settings.retention_s for ttl in ended)


async def test_a_log_that_had_to_be_started_anew_has_an_end_too(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit()
    [lease] = await queue.claim("w", 1)
    await redis.delete(keys.events("job"))
    assert await queue.emit(lease, STEP)
    assert await redis.ttl(keys.events("job")) > 0


async def test_claim_and_renew_refresh_the_lifetime_of_a_live_job(
    queue: JobQueue, redis: Redis, settings: Settings, submit: Submit
) -> None:
    async def shorten() -> None:
        for key in keys.of_job("job"):
            await redis.expire(key, 100)

    async def lifetimes() -> list[int]:
        return [await redis.ttl(key) for key in (keys.job("job"), keys.source("job"))]

    await submit()
    await shorten()
    [lease] = await queue.claim("w", 1)
    assert min(await lifetimes()) > settings.retention_s
    await shorten()
    assert await queue.renew("w", [lease]) == {"job": LeaseState.HELD}
    assert min(await lifetimes()) > settings.retention_s


async def test_the_api_calls_say_unavailable_and_the_worker_calls_let_errors_through(
    tmp_path: Path, source_info: SourceInfo
) -> None:
    settings = Settings(redis_url=f"unix://{tmp_path}/nobody.sock")
    client = connect(settings)
    client.set_retry(Retry(NoBackoff(), 0))  # the outage lasts; retries only take time
    queue = JobQueue(client, settings)
    for call in (
        queue.submit("a", Submission(RestoreOptions(), source_info, IMAGE)),
        queue.get("a"),
        queue.cancel("a"),
        queue.depth(),
        queue.workers(),
    ):
        with pytest.raises(ServerUnavailable):
            await call
    for call in (queue.claim("w", 1), queue.wait_for_work(0.01), queue.beat("w", {})):
        with pytest.raises(ConnectionError):
            await call
    await client.aclose()


async def test_a_full_server_refuses_new_jobs_whole_but_lets_running_ones_end(
    queue: JobQueue, redis: Redis, submit: Submit, output_info: OutputInfo
) -> None:
    await submit()
    [lease] = await queue.claim("w", 1)
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(ServerUnavailable):
            await submit("more")
        assert await queue.emit(lease, STEP)
        assert await queue.succeed(lease, output_info, RESULT)
    finally:
        await redis.config_set("maxmemory", 0)
    assert await redis.exists(*keys.of_job("more")) == 0
    assert (await queue.get("job")).status is JobStatus.SUCCEEDED
