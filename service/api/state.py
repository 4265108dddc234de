"""What every route shares, made once by the app's lifespan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast
from uuid import UUID

import httpx
from anyio import CapacityLimiter
from fastapi import Depends, Path
from redis.asyncio import Redis
from starlette.requests import HTTPConnection

from service.api.forecasts import Forecasts
from service.errors import NotFound
from service.hooks import Outbox
from service.hub import Hub
from service.images import ImageLimits
from service.metrics import Metrics
from service.queue import JobQueue
from service.results import BlobStore
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the HTTP side waits, in seconds."""

    body_s: float = 60.0  # for a whole request body, however slowly it drips in
    send_s: float = 10.0  # for a client to take one event
    heartbeat_s: float = 10.0  # silence on an event stream
    probe_s: float = 2.0  # for Redis to answer a readiness probe or a scrape


@dataclass(frozen=True, slots=True)
class Services:
    """The parts behind the routes."""

    settings: Settings
    redis: Redis
    queue: JobQueue
    blobs: BlobStore
    metrics: Metrics
    limits: ImageLimits
    timing: Timing
    decoders: CapacityLimiter  # threads that decode uploads
    hub: Hub
    forecasts: Forecasts
    fetch: httpx.AsyncClient  # for pictures by URL, and for webhooks
    outbox: Outbox


def services(connection: HTTPConnection) -> Services:
    """The parts of the app that took this request or websocket."""
    return cast("Services", connection.app.state.services)


def parse_job_id(text: str) -> str:
    """The canonical form of a job id. Raises NotFound for what cannot be one."""
    try:
        return str(UUID(text))
    except ValueError:
        raise NotFound(f"no job {text[:64]!r}") from None


def _job_id(
    job_id: Annotated[
        str,
        Path(
            description="The job's `id`, as the submission returned it.",
            examples=["0b6c1c0e-3f0e-4a51-9d0b-0f6f0c9d2a11"],
        ),
    ],
) -> str:
    return parse_job_id(job_id)


Wired = Annotated[Services, Depends(services)]
JobId = Annotated[str, Depends(_job_id)]
