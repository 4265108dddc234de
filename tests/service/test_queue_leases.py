"""Leases under fault: lost workers, zombies, poison, cancel and giving back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from service import keys
from service.events import PreviewEvent, ProgressEvent
from service.jobs import (
    MOVES,
    TERMINAL,
    ErrorInfo,
    JobStatus,
    OutputInfo,
    RestoreOptions,
    SourceInfo,
)
from service.queue import JobQueue
from service.settings import Settings
from service.work import Lease, LeaseState, Submission
from tests.conftest import WaitUntil
from tests.service.conftest import IMAGE, RESULT, Submit, statuses

STEP = ProgressEvent(1, 4, "restoring", 749, 0.25, None)
ERROR = ErrorInfo(code="engine_failed", message="no memory")
LeaseLapsed = Callable[[Lease], Awaitable[None]]


@pytest.fixture
def lapse(redis: Redis) -> LeaseLapsed:
    """Makes a lease look silent for years, so that the next claim of a hasty queue takes it."""

    async def lapsed(lease: Lease) -> None:
        if await redis.zscore(keys.LEASES, lease.job_id) is not None:
            await redis.zadd(keys.LEASES, {lease.job_id: 1.0})

    return lapsed


async def _only(queue: JobQueue, worker_id: str) -> Lease:
    [lease] = await queue.claim(worker_id, 1)
    return lease


async def test_a_silent_workers_job_goes_to_the_next_with_its_attempt_counted(
    queue: JobQueue, hasty_queue: JobQueue, redis: Redis, submit: Submit, wait_until: WaitUntil
) -> None:
    await submit()
    first = await _only(hasty_queue, "a")
    await queue.emit(first, STEP)
    assert await hasty_queue.claim("b", 1) == []  # not silent for long enough yet
    [second] = await wait_until(lambda: hasty_queue.claim("b", 1))
    assert (second.job_id, second.worker_id, second.attempt) == ("job", "b", 2)
    job = await queue.get("job")
    assert (job.status, job.attempt, job.progress) == (JobStatus.RUNNING, 2, None)
    assert await statuses(redis) == ["queued", "running", "queued", "running"]
    assert await queue.depth() == {"high": 0, "normal": 0, "low": 0, "running": 1}


async def test_a_heartbeat_keeps_a_lease(
    hasty_queue: JobQueue, submit: Submit, lapse: LeaseLapsed
) -> None:
    await submit()
    lease = await _only(hasty_queue, "a")
    await lapse(lease)
    assert await hasty_queue.renew("a", [lease]) == {"job": LeaseState.HELD}
    assert await hasty_queue.claim("b", 1) == []
    assert await hasty_queue.renew("a", []) == {}


async def test_one_heartbeat_speaks_for_many_leases(
    hasty_queue: JobQueue, submit: Submit, lapse: LeaseLapsed
) -> None:
    for name in ("kept", "taken", "unwanted"):
        await submit(name)
    leases = await hasty_queue.claim("a", 3)
    await hasty_queue.cancel("unwanted")
    await lapse(leases[1])
    assert [lease.job_id for lease in await hasty_queue.claim("b", 1)] == ["taken"]
    assert await hasty_queue.renew("a", leases) == {
        "kept": LeaseState.HELD,
        "taken": LeaseState.LOST,
        "unwanted": LeaseState.CANCEL,
    }


async def test_a_zombie_can_neither_steal_back_nor_write(
    hasty_queue: JobQueue,
    redis: Redis,
    submit: Submit,
    lapse: LeaseLapsed,
    output_info: OutputInfo,
) -> None:
    await submit()
    zombie = await _only(hasty_queue, "a")
    await lapse(zombie)
    holder = await _only(hasty_queue, "b")
    before = await hasty_queue.get("job")

    assert await hasty_queue.renew("a", [zombie]) == {"job": LeaseState.LOST}
    assert not await hasty_queue.start(zombie, {"steps": 1}, "zombie")
    assert not await hasty_queue.emit(zombie, STEP)
    assert not await hasty_queue.emit(zombie, PreviewEvent(1, 4, 8, 8, "image/jpeg"), b"late")
    assert not await hasty_queue.succeed(zombie, output_info, b"late")
    assert not await hasty_queue.fail(zombie, ERROR)
    assert not await hasty_queue.canceled(zombie)
    assert not await hasty_queue.release(zombie, count_attempt=True)

    assert await hasty_queue.get("job") == before
    assert await redis.exists(keys.result("job"), keys.preview("job")) == 0
    assert await redis.hget(keys.job("job"), "owner") == b"b"
    assert await hasty_queue.succeed(holder, output_info, RESULT)
    # Late still, now that the job has ended.
    assert not await hasty_queue.succeed(zombie, output_info, b"late")
    assert await redis.get(keys.result("job")) == RESULT


async def test_a_worker_that_takes_its_own_lapsed_job_again_is_fenced_by_the_attempt(
    hasty_queue: JobQueue, submit: Submit, lapse: LeaseLapsed, output_info: OutputInfo
) -> None:
    await submit()
    old = await _only(hasty_queue, "a")
    await lapse(old)
    new = await _only(hasty_queue, "a")
    assert not await hasty_queue.succeed(old, output_info, b"old")
    assert await hasty_queue.succeed(new, output_info, RESULT)


async def test_a_job_that_kills_its_workers_fails_and_is_listed(
    hasty_queue: JobQueue, redis: Redis, submit: Submit, lapse: LeaseLapsed
) -> None:
    await submit("poison")
    await submit("good")
    for attempt in (1, 2, 3):
        lease = await _only(hasty_queue, f"w{attempt}")
        assert (lease.job_id, lease.attempt) == ("poison", attempt)
        await lapse(lease)
    assert (await _only(hasty_queue, "w4")).job_id == "good"
    job = await hasty_queue.get("poison")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 3)
    assert job.error is not None
    assert (job.error.code, job.error.retryable) == ("worker_lost", True)
    assert "3 times" in job.error.message
    assert await hasty_queue.dead() == ["poison"]
    assert await statuses(redis, "poison") == [
        "queued",
        *("running", "queued") * 2,
        *("running", "failed"),
    ]


async def test_a_job_runs_at_most_as_often_as_was_allowed_when_it_was_submitted(
    redis: Redis, settings: Settings, source_info: SourceInfo, hasty_queue: JobQueue
) -> None:
    once = JobQueue(redis, settings.model_copy(update={"max_attempts": 1}))
    await once.submit("job", Submission(RestoreOptions(), source_info, IMAGE))
    lease = await _only(hasty_queue, "w")
    await hasty_queue.release(lease, count_attempt=True)
    assert await hasty_queue.claim("w", 1) == []
    assert (await once.get("job")).status is JobStatus.FAILED
    assert await once.dead() == ["job"]


async def test_after_a_restart_of_the_server_live_workers_renew_before_anyone_takes_over(
    redis: Redis, settings: Settings, hasty_queue: JobQueue, submit: Submit, lapse: LeaseLapsed
) -> None:
    # The server has been up for less than this lease, as after a restart.
    patient = JobQueue(redis, settings.model_copy(update={"lease_s": 3000.0}))
    for name in ("held", "returned"):
        await submit(name)
    held, returned = await patient.claim("a", 2)
    await lapse(held)
    await patient.release(returned, count_attempt=False)
    assert [lease.job_id for lease in await patient.claim("b", 9)] == ["returned"]
    assert [lease.job_id for lease in await hasty_queue.claim("b", 1)] == ["held"]


async def test_lapsed_leases_are_found_among_many_live_ones(
    redis: Redis, settings: Settings, submit: Submit, lapse: LeaseLapsed
) -> None:
    queue = JobQueue(redis, settings.model_copy(update={"lease_s": 0.9}))
    for i in range(60):
        await submit(f"job{i}")
    leases = await queue.claim("a", 60)
    await lapse(leases[-1])
    await queue.renew("a", leases[:-1])
    assert [lease.job_id for lease in await queue.claim("b", 1)] == ["job59"]


@pytest.mark.parametrize(("count", "attempt"), [(False, 1), (True, 2)])
async def test_a_job_given_back_can_be_claimed_at_once(
    queue: JobQueue, redis: Redis, submit: Submit, count: bool, attempt: int
) -> None:
    await submit("job")
    await submit("later")
    lease = await _only(queue, "a")
    assert await queue.release(lease, count_attempt=count)
    job = await queue.get("job")
    assert (job.status, job.attempt, job.started_at) == (JobStatus.QUEUED, attempt - 1, None)
    assert await queue.renew("a", [lease]) == {"job": LeaseState.LOST}
    assert not await queue.release(lease, count_attempt=count)
    again = await _only(queue, "b")
    assert (again.job_id, again.attempt) == ("job", attempt)
    # The attempt may be the same number again; the first worker is fenced all the same.
    assert await queue.renew("a", [lease]) == {"job": LeaseState.LOST}
    assert not await queue.emit(lease, STEP)
    assert await statuses(redis) == ["queued", "running", "queued", "running"]


async def test_a_lost_job_whose_upload_has_ended_expires(
    hasty_queue: JobQueue, redis: Redis, submit: Submit, lapse: LeaseLapsed
) -> None:
    await submit()
    await lapse(await _only(hasty_queue, "a"))
    await redis.delete(keys.source("job"))
    assert await hasty_queue.claim("b", 1) == []
    job = await hasty_queue.get("job")
    assert job.error is not None
    assert (job.status, job.error.code) == (JobStatus.EXPIRED, "source_lost")


async def test_cancel_while_queued_ends_at_once_and_leaves_no_entry(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit()
    job = await queue.cancel("job")
    assert job.status is JobStatus.CANCELED
    assert job.finished_at is not None
    assert await redis.exists(keys.queue("normal"), keys.LEASES) == 0
    assert await queue.claim("w", 1) == []
    assert await statuses(redis) == ["queued", "canceled"]


async def test_cancel_after_giving_back_ends_at_once_too(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit()
    await queue.release(await _only(queue, "a"), count_attempt=False)
    assert (await queue.cancel("job")).status is JobStatus.CANCELED
    assert await queue.depth() == {"high": 0, "normal": 0, "low": 0, "running": 0}


async def test_cancel_while_running_reaches_the_worker_with_its_heartbeat(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit()
    lease = await _only(queue, "w")
    assert (await queue.cancel("job")).status is JobStatus.CANCELING
    assert (await queue.cancel("job")).status is JobStatus.CANCELING
    assert await queue.renew("w", [lease]) == {"job": LeaseState.CANCEL}
    assert await queue.emit(lease, STEP)  # the step that was under way may still be told
    assert await queue.canceled(lease)
    assert await queue.canceled(lease)
    assert (await queue.get("job")).status is JobStatus.CANCELED
    assert await statuses(redis) == ["queued", "running", "canceling", "canceled"]
    assert await queue.renew("w", [lease]) == {"job": LeaseState.LOST}


async def test_what_is_told_again_as_its_answer_was_lost_is_in_the_log_once(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit()
    lease = await _only(queue, "w")
    preview = PreviewEvent(1, 4, 8, 8, "image/jpeg")
    for _ in range(2):
        assert await queue.emit(lease, STEP)
    for _ in range(2):
        assert await queue.emit(lease, preview, b"frame")
    assert await _told(redis) == [b"progress", b"preview"]
    await queue.release(lease, count_attempt=True)
    again = await _only(queue, "w")
    assert await queue.emit(again, STEP)
    assert await queue.emit(again, preview, b"frame")
    assert await _told(redis) == [b"progress", b"preview"] * 2
    assert await redis.hget(keys.preview("job"), "seq") == b"8"


async def _told(redis: Redis) -> list[bytes]:
    log: Any = await redis.xrange(keys.events("job"))
    return [fields[b"type"] for _, fields in log if fields[b"type"] != b"status"]


async def test_a_result_that_comes_after_the_cancel_is_not_kept(
    queue: JobQueue, redis: Redis, submit: Submit, output_info: OutputInfo
) -> None:
    await submit()
    lease = await _only(queue, "w")
    await queue.cancel("job")
    assert not await queue.succeed(lease, output_info, RESULT)
    job = await queue.get("job")
    assert (job.status, job.output) == (JobStatus.CANCELED, None)
    assert await redis.exists(keys.result("job")) == 0


async def test_failing_or_giving_back_after_the_cancel_ends_canceled(
    queue: JobQueue, submit: Submit
) -> None:
    for name in ("failing", "returned"):
        await submit(name)
    failing, returned = await queue.claim("w", 2)
    for name in ("failing", "returned"):
        await queue.cancel(name)
    assert not await queue.fail(failing, ERROR)
    assert await queue.release(returned, count_attempt=False)
    failed = await queue.get("failing")
    assert (failed.status, failed.error) == (JobStatus.CANCELED, None)
    assert (await queue.get("returned")).status is JobStatus.CANCELED


async def test_a_canceling_job_whose_worker_died_ends_canceled_at_the_next_claim(
    hasty_queue: JobQueue, submit: Submit, lapse: LeaseLapsed
) -> None:
    await submit()
    lease = await _only(hasty_queue, "a")
    await hasty_queue.cancel("job")
    await lapse(lease)
    assert await hasty_queue.claim("b", 1) == []
    assert (await hasty_queue.get("job")).status is JobStatus.CANCELED


async def test_a_worker_cannot_cancel_by_itself(queue: JobQueue, submit: Submit) -> None:
    await submit()
    lease = await _only(queue, "w")
    assert not await queue.canceled(lease)
    assert await queue.renew("w", [lease]) == {"job": LeaseState.HELD}


@pytest.mark.parametrize("status", list(JobStatus))
async def test_no_call_makes_a_move_that_is_not_in_the_table(
    hasty_queue: JobQueue,
    redis: Redis,
    submit: Submit,
    lapse: LeaseLapsed,
    output_info: OutputInfo,
    status: JobStatus,
) -> None:
    """Puts a held job into `status` by hand, then lets everyone do everything to it."""
    calls: list[Callable[[Lease], Awaitable[object]]] = [
        lambda _: hasty_queue.cancel("job"),
        lambda _: hasty_queue.claim("b", 1),
        lambda lease: hasty_queue.release(lease, count_attempt=True),
        lambda lease: hasty_queue.succeed(lease, output_info, RESULT),
        lambda lease: hasty_queue.fail(lease, ERROR),
        lambda lease: hasty_queue.canceled(lease),
    ]
    for call in calls:
        await redis.delete(*keys.of_job("job"))
        await submit()
        lease = await _only(hasty_queue, "a")
        await redis.hset(keys.job("job"), "status", status)
        await lapse(lease)
        before = await hasty_queue.get("job")
        await call(lease)
        after = await hasty_queue.get("job")
        assert after.status is status or after.status in MOVES[status]
        assert (after.finished_at is None) == (after.status not in TERMINAL or status in TERMINAL)
        if status in TERMINAL:
            assert after == before
            assert await redis.exists(keys.result("job")) == 0
        await redis.delete(*keys.queues(), keys.LEASES)
