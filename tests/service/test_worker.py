"""The worker on a real server with a real executor process; its faults are in tests/faults."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from service import keys
from service.connection import connect
from service.embedded import EmbeddedServer
from service.jobs import JobStatus
from service.messages import Cancel
from service.queue import JobQueue
from service.results import BlobKind, RedisBlobStore
from service.settings import Settings
from service.work import Lease
from service.worker import Worker
from tests.conftest import WaitUntil
from tests.faults.fake import closed_gate, diary
from tests.faults.fleet import alive, ended, events, submit, worker_here, worker_process
from tests.service.conftest import statuses


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """The server's settings with the fake engine, whose folder is the test's own."""
    return settings.model_copy(update={"engine": "tests.faults.fake:load", "model": str(tmp_path)})


async def flush(worker: Worker) -> None:
    """Until the executor's pipe holds all that the worker has sent so far."""
    assert worker.child is not None
    await worker.child.send(Cancel(0))


def begun(worker: Worker) -> int:
    return sum(run.begun for run in worker.runs.values())


async def test_a_job_runs_to_success_with_all_its_events_and_its_result(
    redis: Redis, queue: JobQueue, settings: Settings, wait_until: WaitUntil
) -> None:
    await submit(queue, "job", steps=2, output_format="jpeg")
    async with worker_here(redis, settings):
        job = await wait_until(lambda: ended(queue))
    assert (job.status, job.attempt, job.model) == (JobStatus.SUCCEEDED, 1, "fake")
    assert job.resolved == {"prompt": "", "steps": 2, "seed": 0}
    assert await statuses(redis) == ["queued", "running", "succeeded"]
    told = [kind for kind in await events(redis) if kind != "preview"]
    # Encoding, two steps, decoding.
    assert told == ["status", "status", *["progress"] * 4, "output", "status"]
    result = await RedisBlobStore(redis, settings).get(BlobKind.RESULT, "job")
    assert result is not None
    assert result.startswith(b"\xff\xd8\xff")
    assert job.output is not None
    assert (job.output.bytes, job.output.width, job.output.height) == (len(result), 32, 24)
    frame: Any = await redis.hget(keys.preview("job"), "frame")
    assert frame.startswith(b"\xff\xd8\xff")


class SecondFirst(RedisBlobStore):
    """Gives the upload of job "one" out only after that of job "two"."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        super().__init__(redis, settings)
        self._two = asyncio.Event()

    async def get(self, kind: BlobKind, job_id: str) -> bytes | None:
        data = await super().get(kind, job_id)
        if job_id == "two":
            self._two.set()
        else:
            await self._two.wait()
        return data


async def test_two_jobs_submitted_together_are_stepped_in_one_batch(
    redis: Redis, queue: JobQueue, settings: Settings, wait_until: WaitUntil
) -> None:
    await submit(queue, "one", prompt="a")
    await submit(queue, "two", prompt="b")
    folder = Path(settings.model)
    async with worker_here(redis, settings, blobs=SecondFirst(redis, settings)) as worker:
        with closed_gate(folder, at="begin"):
            await wait_until(lambda: begun(worker) == 2)
            await flush(worker)
        await wait_until(lambda: ended(queue, "one"))
        await wait_until(lambda: ended(queue, "two"))
    assert [step["batch"] for step in diary(folder, "step")] == [["a", "b"]] * 4


async def test_a_worker_claims_no_more_than_its_free_slots(
    redis: Redis, queue: JobQueue, settings: Settings, wait_until: WaitUntil
) -> None:
    for number in range(5):
        await submit(queue, f"job-{number}")
    two = settings.model_copy(update={"slots": 2})
    async with worker_here(redis, two) as worker:
        with closed_gate(Path(settings.model), at="step"):
            await wait_until(lambda: begun(worker) == 2)
            depth = await queue.depth()
            assert (depth["normal"], depth["running"]) == (3, 2)
        for number in range(5):
            await wait_until(lambda job_id=f"job-{number}": ended(queue, job_id))
    assert max(len(step["batch"]) for step in diary(Path(settings.model), "step")) == 2


async def test_a_cancel_takes_effect_after_the_current_step(
    redis: Redis, queue: JobQueue, settings: Settings, wait_until: WaitUntil
) -> None:
    folder = Path(settings.model)
    await submit(queue, "job", steps=100)
    async with worker_here(redis, settings) as worker:
        with closed_gate(folder, at="step"):
            await wait_until(lambda: diary(folder, "step"))
            assert (await queue.cancel("job")).status == JobStatus.CANCELING
            await wait_until(lambda: all(run.cancel_asked for run in worker.runs.values()), 2)
            await flush(worker)
        job = await wait_until(lambda: ended(queue))
    assert job.status == JobStatus.CANCELED
    assert len(diary(folder, "step")) == 1
    assert diary(folder, "finish") == []
    assert "output" not in await events(redis)


async def test_a_worker_whose_lease_is_taken_away_publishes_nothing_more(
    redis: Redis,
    queue: JobQueue,
    hasty_queue: JobQueue,
    settings: Settings,
    wait_until: WaitUntil,
) -> None:
    folder = Path(settings.model)
    # A worker learns of its loss when it renews; a server that has just started takes nothing over
    # before it has been up for one lease.
    short = settings.model_copy(update={"lease_s": 3.0, "slots": 1})

    async def taken() -> list[Lease]:
        await redis.zadd(keys.LEASES, {"job": 0})  # its lease has run out, if not just renewed
        return await hasty_queue.claim("thief", 1)

    await submit(queue, "job")
    async with worker_here(redis, short) as worker:
        with closed_gate(folder, at="step"):
            await wait_until(lambda: diary(folder, "step"))
            (lease,) = await wait_until(taken)
            await redis.zadd(keys.LEASES, {"job": (await redis.time())[0] + 60})
            before = await events(redis)
            await wait_until(lambda: not worker.runs)
            await flush(worker)
        await submit(queue, "next", steps=1)
        await wait_until(lambda: ended(queue, "next"))
    assert lease.attempt == 2
    assert await events(redis) == before
    assert [entry["prompt"] for entry in diary(folder, "finish")] == [""]  # that of "next"


async def test_sigterm_lets_running_jobs_end_and_claims_no_more(
    queue: JobQueue, settings: Settings, wait_until: WaitUntil
) -> None:
    folder = Path(settings.model)

    async def leaving() -> bool:
        return any(not state["ready"] for state in (await queue.workers()).values())

    await submit(queue, "job")
    with worker_process(settings) as process:
        with closed_gate(folder, at="step"):
            await wait_until(lambda: diary(folder, "step"))
            process.send_signal(signal.SIGTERM)
            await wait_until(leaving)
            await submit(queue, "late")
        job = await wait_until(lambda: ended(queue))
        assert await wait_until(lambda: process.poll() is not None)
        assert process.returncode == 0
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert (await queue.get("late")).status == JobStatus.QUEUED


async def test_a_job_that_outlasts_the_drain_is_given_back_without_counting(
    redis: Redis, queue: JobQueue, settings: Settings, wait_until: WaitUntil
) -> None:
    folder = Path(settings.model)
    await submit(queue, "job")
    with closed_gate(folder, at="step"):
        async with worker_here(redis, settings, drain_s=0.05):
            await wait_until(lambda: diary(folder, "step"))
        job = await queue.get("job")
        assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
    async with worker_here(redis, settings):
        job = await wait_until(lambda: ended(queue))
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)


async def test_a_second_stop_does_not_wait_for_the_drain(
    redis: Redis, queue: JobQueue, settings: Settings, wait_until: WaitUntil
) -> None:
    folder = Path(settings.model)
    await submit(queue, "job")
    with closed_gate(folder, at="step"):
        async with worker_here(redis, settings, drain_s=3600) as worker:
            await wait_until(lambda: diary(folder, "step"))
            worker.stop()
    assert (await queue.get("job")).status == JobStatus.QUEUED


async def test_a_worker_says_whether_it_is_ready(
    redis: Redis, queue: JobQueue, settings: Settings, wait_until: WaitUntil
) -> None:
    async def ready() -> bool:
        return (await queue.workers()).get("worker", {}).get("ready", False)

    async with worker_here(redis, settings):
        await wait_until(ready)
        state = (await queue.workers())["worker"]
    assert state["model"] == "fake"
    assert (state["slots"], state["running"], state["problem"]) == (4, 0, None)
    assert not await ready()


async def test_a_worker_that_breaks_ends_with_the_reason_and_leaves_no_executor(
    redis: Redis, queue: JobQueue, settings: Settings, wait_until: WaitUntil
) -> None:
    class LosesItsMind(RedisBlobStore):
        async def get(self, kind: BlobKind, job_id: str) -> bytes | None:
            raise ArithmeticError(f"no {kind} of {job_id}")

    worker = Worker(settings, queue, LosesItsMind(redis, settings), "worker")
    task = asyncio.create_task(worker.run())
    await wait_until(lambda: worker.ready)
    (loaded,) = diary(Path(settings.model), "load")
    await submit(queue, "job")
    with pytest.raises(ArithmeticError, match="no source of job"):
        await asyncio.wait_for(task, 10)
    assert not alive(loaded["pid"])


async def test_a_job_survives_a_restart_of_the_server(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    server = EmbeddedServer(tmp_path / "data")
    own = settings.model_copy(update={"redis_url": server.start()})
    redis = connect(own)
    queue = JobQueue(redis, own)
    try:
        await submit(queue, "job")
        async with worker_here(redis, own):
            with closed_gate(tmp_path, at="step"):
                await wait_until(lambda: diary(tmp_path, "step"))
                server.stop()
            await wait_until(lambda: diary(tmp_path, "finish"))
            server.start()
            job = await wait_until(lambda: ended(queue))
            assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
            assert (await events(redis)).count("output") == 1
    finally:
        await redis.aclose()
        server.stop()


async def test_a_worker_waits_for_a_server_that_is_not_there_yet(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    server = EmbeddedServer(tmp_path / "data")
    own = settings.model_copy(update={"redis_url": server.url})
    redis = connect(own)
    queue = JobQueue(redis, own)
    try:
        async with worker_here(redis, own) as worker:
            await wait_until(lambda: worker.ready)
            server.start()
            await submit(queue, "job")
            job = await wait_until(lambda: ended(queue))
    finally:
        await redis.aclose()
        server.stop()
    assert job.status == JobStatus.SUCCEEDED


async def test_a_worker_that_cannot_renew_drops_its_jobs_before_the_lease_ends(
    settings: Settings, tmp_path: Path, wait_until: WaitUntil
) -> None:
    server = EmbeddedServer(tmp_path / "data")
    own = settings.model_copy(update={"redis_url": server.start(), "lease_s": 1.0})
    redis = connect(own)
    queue = JobQueue(redis, own)
    try:
        await submit(queue, "job")
        async with worker_here(redis, own) as worker:
            with closed_gate(tmp_path, at="step"):
                await wait_until(lambda: diary(tmp_path, "step"))
                assert server.pid is not None
                os.kill(server.pid, signal.SIGSTOP)
                await wait_until(lambda: not worker.runs)
                os.kill(server.pid, signal.SIGCONT)
            job = await wait_until(lambda: ended(queue))
            assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
            assert (await events(redis)).count("output") == 1
    finally:
        await redis.aclose()
        server.stop()
    assert len(diary(tmp_path, "finish")) == 1
