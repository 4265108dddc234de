"""Workers for tests: inside the test's own loop, or as the real process."""

from __future__ import annotations

import asyncio
import hashlib
import io
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from redis.asyncio import Redis

from service import keys
from service.jobs import TERMINAL, Job, RestoreOptions, SourceInfo
from service.lifeline import tied_to_me
from service.queue import JobQueue
from service.results import BlobStore, RedisBlobStore
from service.settings import Settings
from service.work import Submission
from service.worker import Worker

ROOT = Path(__file__).resolve().parents[2]


def alive(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped by a slow init does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def submit(queue: JobQueue, job_id: str, prompt: str = "", **options: Any) -> Job:
    """A small real picture in the queue."""
    out = io.BytesIO()
    Image.new("RGB", (32, 24), "olive").save(out, "PNG")
    image = out.getvalue()
    source = SourceInfo(
        width=32,
        height=24,
        content_type="image/png",
        bytes=len(image),
        sha256=hashlib.sha256(image).hexdigest(),
    )
    asked = Submission(RestoreOptions(prompt=prompt, **options), source, image)
    return (await queue.submit(job_id, asked)).job


async def ended(queue: JobQueue, job_id: str = "job") -> Job | None:
    """The job once its status is terminal; for `wait_until`."""
    job = await queue.get(job_id)
    return job if job.status in TERMINAL else None


async def events(redis: Redis, job_id: str = "job") -> list[str]:
    """The types of a job's events, in order."""
    log: Any = await redis.xrange(keys.events(job_id))
    return [fields[b"type"].decode() for _, fields in log]


@asynccontextmanager
async def worker_here(
    redis: Redis, settings: Settings, drain_s: float = 10.0, blobs: BlobStore | None = None
) -> AsyncGenerator[Worker]:
    """A worker in this loop, with a real executor process; stopped and drained at the end."""
    blobs = blobs or RedisBlobStore(redis, settings)
    worker = Worker(settings, JobQueue(redis, settings), blobs, "worker", drain_s)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait_for(task, 20)


@contextmanager
def worker_process(settings: Settings) -> Generator[subprocess.Popen[bytes]]:
    """`instantir worker` as users run it; killed at the end if it still runs."""
    flags = {
        "redis-url": settings.redis_url,
        "engine": settings.engine,
        "model": settings.model,
        "lease-s": settings.lease_s,
        "slots": settings.slots,
    }
    parts = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "service.cli", "worker", *parts]
    process = subprocess.Popen(command, cwd=ROOT, preexec_fn=tied_to_me())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def script(code: str, *arguments: str) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """A Python process that prints one number, and the number."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=tied_to_me(),
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()
