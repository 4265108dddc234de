"""Following a job for a client: it may be canceled when nobody does any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from uuid import uuid4

import anyio
from starlette.requests import Request

from service import tasks
from service.api.state import Services
from service.errors import NotFound, ServerUnavailable
from service.jobs import TERMINAL, Job

logger = logging.getLogger(__name__)

_MEMBERSHIP_S = 15.0  # of a follower whose server falls silent
_RENEWALS = 3  # in one membership


def counts(job: Job) -> bool:
    """Whether it matters who follows the job."""
    return job.options.on_disconnect == "cancel" and job.status not in TERMINAL


@asynccontextmanager
async def following(services: Services, job_id: str, counted: bool) -> AsyncGenerator[None]:
    """Is a follower of the job while the block lasts, where that counts."""
    if not counted:
        yield
        return
    follower = uuid4().hex
    task = asyncio.create_task(_stay(services, job_id, follower))
    try:
        yield
    finally:
        # A client that left took this request with it; the farewell must be said all the same.
        with anyio.CancelScope(shield=True), suppress(ServerUnavailable):
            await tasks.end(task)
            await services.queue.watch(job_id, follower, 0)


async def _stay(services: Services, job_id: str, follower: str) -> None:
    while True:
        try:
            if not await services.queue.watch(job_id, follower, _MEMBERSHIP_S):
                return
        except ServerUnavailable as error:
            logger.warning("a follower could not be counted: %s", error)
        await asyncio.sleep(_MEMBERSHIP_S / _RENEWALS)


async def wait_for_end(request: Request, services: Services, job: Job, timeout_s: float) -> Job:
    """The job when it has ended, or as it is after `timeout_s` or when the client has left."""
    async with following(services, job.id, counts(job)), anyio.create_task_group() as group:
        group.start_soon(_until_left, request, group.cancel_scope)
        with anyio.move_on_after(timeout_s), suppress(NotFound):
            items = services.hub.follow(job.id, job.seq, services.timing.heartbeat_s)
            async with aclosing(items):
                async for item in items:
                    if item.ends:
                        break
        group.cancel_scope.cancel()
    return await services.queue.get(job.id)


async def _until_left(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
