"""For those who run the service: liveness, readiness, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from service import errors
from service.api import schema
from service.api.state import Services, Wired
from service.errors import ServerUnavailable
from service.metrics import CONTENT_TYPE, QueueState

router = APIRouter(tags=["operations"])


class Alive(BaseModel):
    """The process runs."""

    status: str = "alive"


class Ready(BaseModel):
    """Jobs can be taken and will be worked on."""

    model_config = ConfigDict(frozen=True)

    status: str = "ready"
    workers: int = Field(description="Workers with a loaded model.")
    models: list[str] = Field(description="The models they serve.")


@router.get("/livez")
async def livez() -> Alive:
    """200 for as long as the process runs, whatever the load."""
    return Alive()


@router.get("/readyz", responses=schema.refusals(errors.ServerUnavailable))
async def readyz(services: Wired) -> Ready:
    """200 when Redis answers and at least one worker has its model loaded."""
    async with _in_time(services):
        beats = await services.queue.workers()
    ready = [beat for beat in beats.values() if beat.get("ready")]
    if not ready:
        raise ServerUnavailable(f"no worker is ready; {len(beats)} are still loading their model")
    return Ready(workers=len(ready), models=sorted({str(beat["model"]) for beat in ready}))


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(services: Wired) -> Response:
    """Prometheus metrics of this process, and of the queue as it is now."""
    try:
        state = await _queue_state(services)
    except ServerUnavailable:
        state = None
    text = services.metrics.render(state)
    return Response(text, headers={"Content-Type": CONTENT_TYPE})


async def _queue_state(services: Services) -> QueueState:
    queue = services.queue
    async with _in_time(services):
        waiting = await queue.depth()
        running = waiting.pop("running")
        return QueueState(
            waiting=waiting,
            running=running,
            ended=await queue.ended(),
            dead=len(await queue.dead()),
            workers=await queue.workers(),
            eta_errors=await queue.accuracy(),
            wait=await queue.times("wait"),
            whole=await queue.times("whole"),
            queue_limit=services.settings.queue_limit,
            streams_limit=services.settings.max_streams,
        )


@asynccontextmanager
async def _in_time(services: Services) -> AsyncGenerator[None]:
    limit_s = services.timing.probe_s
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError:
        raise ServerUnavailable(f"Redis did not answer within {limit_s:g} s") from None
