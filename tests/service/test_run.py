"""Order of beginnings, and what leaves a run's outbox."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from service.jobs import JobStatus, RestoreOptions
from service.messages import Failed, Preview, Progress
from service.queue import JobQueue
from service.run import Run, may_begin
from service.work import Lease
from tests.faults.fleet import events, submit


def run_of(queue: JobQueue, number: int, attempt: int = 1, fence_s: float = 10.0) -> Run:
    lease = Lease(f"job-{number}", "worker", attempt, RestoreOptions())
    return Run(number, lease, queue, fence_s)


def preview(step: int) -> Preview:
    return Preview(1, step, 9, 32, 24, "image/jpeg", b"frame %d" % step)


def test_runs_begin_in_the_order_of_their_claims(queue: JobQueue) -> None:
    first, second = run_of(queue, 1), run_of(queue, 2)
    assert may_begin(first, [first, second])
    assert not may_begin(second, [first, second])
    first.begun = True
    assert may_begin(second, [first, second])


def test_a_retried_job_waits_until_it_can_run_alone(queue: JobQueue) -> None:
    healthy, suspect, next_one = run_of(queue, 1), run_of(queue, 2, attempt=2), run_of(queue, 3)
    healthy.begun = True
    assert not may_begin(suspect, [healthy, suspect, next_one])
    assert not may_begin(next_one, [healthy, suspect, next_one])
    assert may_begin(suspect, [suspect, next_one])
    suspect.begun = True
    assert not may_begin(next_one, [suspect, next_one])
    assert may_begin(next_one, [next_one])


@pytest.fixture
async def claimed(queue: JobQueue) -> Run:
    await submit(queue, "job")
    (lease,) = await queue.claim("worker", 1)
    return Run(1, lease, queue, fence_s=10.0)


async def test_a_preview_that_has_not_left_yet_is_replaced_by_a_newer_one(
    claimed: Run, redis: Redis
) -> None:
    for message in (
        Progress(1, 1, 9, "restoring"),
        preview(1),
        Progress(1, 2, 9, "restoring"),
        preview(2),
        Failed(1, "engine_error", "the end", retryable=True),
    ):
        claimed.deliver(message)
    assert claimed.answered
    assert await claimed.forward("model", "ab12")
    told = ["status", "status", "progress", "progress", "preview", "error", "status"]
    assert await events(redis) == told


async def test_a_lease_that_is_lost_ends_the_forwarding(
    claimed: Run, queue: JobQueue, redis: Redis
) -> None:
    await queue.release(claimed.lease, count_attempt=True)
    claimed.deliver(Progress(1, 1, 9, "restoring"))
    claimed.deliver(Failed(1, "engine_error", "the end", retryable=True))
    assert not await claimed.forward("model", "ab12")
    assert (await queue.get("job")).status == JobStatus.QUEUED
    assert await events(redis) == ["status"] * 3


async def test_a_fenced_run_publishes_nothing_even_if_the_lease_still_holds(
    claimed: Run, queue: JobQueue
) -> None:
    claimed.renewed_at -= 11.0
    assert claimed.fenced
    assert not await claimed.publish(Failed(1, "x", "x", retryable=False), "model")
    assert (await queue.get("job")).status == JobStatus.RUNNING
