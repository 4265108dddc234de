"""Every fault of `service/worker.py`'s promises, against a real server and real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from service.jobs import JobStatus
from service.queue import JobQueue
from service.settings import Settings
from tests.conftest import WaitUntil
from tests.faults.fake import closed_gate, diary
from tests.faults.fleet import alive, ended, events, submit, worker_here, worker_process
from tests.service.conftest import statuses


@pytest.fixture
def faulty(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with the healthy engine in an own folder; tests replace `engine`."""
    return settings.model_copy(update={"engine": "tests.faults.fake:load", "model": str(tmp_path)})


def engine(settings: Settings, fault: str, **more: Any) -> Settings:
    return settings.model_copy(update={"engine": f"tests.faults.{fault}:load", **more})


async def test_a_job_of_a_killed_worker_is_finished_once_by_the_next_one(
    redis: Redis, queue: JobQueue, faulty: Settings, wait_until: WaitUntil
) -> None:
    hasty = faulty.model_copy(update={"lease_s": 1.0})
    folder = Path(hasty.model)
    await submit(queue, "job")
    with worker_process(hasty) as first, closed_gate(folder, at="step"):
        (begun,) = await wait_until(lambda: diary(folder, "step"))
        first.send_signal(signal.SIGKILL)
        first.wait()
        await wait_until(lambda: not alive(begun["pid"]))
    assert (await queue.get("job")).status == JobStatus.RUNNING
    async with worker_here(redis, hasty):
        job = await wait_until(lambda: ended(queue, "job"))
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    assert (await events(redis)).count("output") == 1
    assert await statuses(redis) == [*["queued", "running"] * 2, "succeeded"]


@pytest.mark.parametrize("fault", ["killed_in_step", "exits_in_step"])
async def test_a_job_that_kills_executors_ends_failed_and_its_neighbor_succeeds(
    redis: Redis, queue: JobQueue, faulty: Settings, wait_until: WaitUntil, fault: str
) -> None:
    await submit(queue, "poison", prompt="fault")
    await submit(queue, "healthy")
    async with worker_here(redis, engine(faulty, fault)) as worker:
        poison = await wait_until(lambda: ended(queue, "poison"), 20)
        healthy = await wait_until(lambda: ended(queue, "healthy"))
        assert worker.child is not None
    assert poison.status == JobStatus.FAILED
    assert poison.error is not None
    assert (poison.error.code, poison.attempt) == ("worker_lost", 3)
    assert healthy.status == JobStatus.SUCCEEDED
    assert healthy.attempt <= 2
    assert (await events(redis, "healthy")).count("output") == 1
    # After its first loss the job ran alone, so nobody shared its later ends.
    assert [fault["batch"] for fault in diary(Path(faulty.model), "fault")][1:] == [1, 1]


async def test_an_executor_killed_from_outside_is_replaced_by_the_same_worker(
    redis: Redis, queue: JobQueue, faulty: Settings, wait_until: WaitUntil
) -> None:
    folder = Path(faulty.model)
    await submit(queue, "job")
    async with worker_here(redis, faulty) as worker:
        with closed_gate(folder, at="step"):
            (begun,) = await wait_until(lambda: diary(folder, "step"))
            os.kill(begun["pid"], signal.SIGKILL)
            await wait_until(lambda: worker.problem)
            assert worker.problem == "the executor ended with status -9"
        job = await wait_until(lambda: ended(queue, "job"))
        assert worker.problem is None
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    assert (await events(redis)).count("output") == 1
    assert len({entry["pid"] for entry in diary(folder, "load")}) == 2


async def test_a_job_that_hangs_is_killed_and_tried_again_until_it_has_failed(
    redis: Redis, queue: JobQueue, settings: Settings, faulty: Settings, wait_until: WaitUntil
) -> None:
    twice = settings.model_copy(update={"max_attempts": 2})
    await submit(JobQueue(redis, twice), "job", prompt="fault")
    async with worker_here(redis, engine(faulty, "hangs_in_step", step_timeout_s=0.5)):
        job = await wait_until(lambda: ended(queue, "job"), 15)
        await submit(queue, "next")
        following = await wait_until(lambda: ended(queue, "next"))
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    assert job.error.code == "worker_lost"
    assert len(diary(Path(faulty.model), "fault")) == 2
    assert following.status == JobStatus.SUCCEEDED


async def test_a_job_that_raises_fails_with_the_reason_and_its_neighbor_succeeds(
    redis: Redis, queue: JobQueue, faulty: Settings, wait_until: WaitUntil
) -> None:
    await submit(queue, "culprit", prompt="fault")
    await submit(queue, "healthy")
    async with worker_here(redis, engine(faulty, "raises_in_step")):
        culprit = await wait_until(lambda: ended(queue, "culprit"))
        healthy = await wait_until(lambda: ended(queue, "healthy"))
    assert (culprit.status, culprit.attempt) == (JobStatus.FAILED, 1)
    assert culprit.error is not None
    assert culprit.error.code == "engine_error"
    assert culprit.error.message == "ArithmeticError: the latents are not finite"
    assert (healthy.status, healthy.attempt) == (JobStatus.SUCCEEDED, 1)
    assert len({entry["pid"] for entry in diary(Path(faulty.model), "load")}) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises_in_load", "the weights are damaged"),
        ("killed_in_load", "the executor ended with status -9"),
    ],
)
async def test_a_model_that_does_not_load_keeps_the_worker_up_and_says_why(
    redis: Redis,
    queue: JobQueue,
    faulty: Settings,
    wait_until: WaitUntil,
    fault: str,
    reason: str,
) -> None:
    await submit(queue, "job")

    async def complaint() -> dict[str, Any] | None:
        state = (await queue.workers()).get("worker")
        return state if state is not None and reason in str(state["problem"]) else None

    async with worker_here(redis, engine(faulty, fault)):
        state = await wait_until(complaint)
    assert state["ready"] is False
    assert (await queue.get("job")).status == JobStatus.QUEUED
