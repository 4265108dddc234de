"""Jobs, leases and pictures for the tests of the service."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from service import keys
from service.jobs import Job, OutputInfo, RestoreOptions, SourceInfo
from service.queue import JobQueue
from service.settings import Settings
from service.work import Submission

Submit = Callable[..., Awaitable[Job]]

IMAGE = b"the bytes of an upload"
RESULT = b"the bytes of a result"


async def statuses(redis: Redis, job_id: str = "job") -> list[str]:
    """The statuses a job went through, from its event log."""
    log: Any = await redis.xrange(keys.events(job_id))
    return [
        json.loads(fields[b"data"])["status"] for _, fields in log if fields[b"type"] == b"status"
    ]


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """The root logger is put back as it was: commands send it to a stderr that is gone later."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
async def hasty_queue(redis: Redis, settings: Settings) -> JobQueue:
    """A queue on the same server whose leases end after 900 ms of silence."""
    return JobQueue(redis, settings.model_copy(update={"lease_s": 0.9}))


@pytest.fixture(scope="session")
def session_monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    """For what a whole session needs."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture
def submit(queue: JobQueue, source_info: SourceInfo) -> Submit:
    """`await submit("id", steps=3)`: a job in the queue, with these options."""

    async def submit_one(job_id: str = "job", caller: str = "", **options: Any) -> Job:
        asked = Submission(RestoreOptions(**options), source_info, IMAGE, caller)
        return (await queue.submit(job_id, asked)).job

    return submit_one


@pytest.fixture(scope="session")
def source_info() -> SourceInfo:
    """What the door would say about IMAGE."""
    return SourceInfo(
        width=64,
        height=48,
        content_type="image/png",
        bytes=len(IMAGE),
        sha256=hashlib.sha256(IMAGE).hexdigest(),
    )


@pytest.fixture(scope="session")
def output_info() -> OutputInfo:
    """What the worker would say about RESULT."""
    return OutputInfo(
        width=64,
        height=48,
        content_type="image/png",
        bytes=len(RESULT),
        sha256=hashlib.sha256(RESULT).hexdigest(),
    )
