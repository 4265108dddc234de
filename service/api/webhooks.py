"""Webhooks over HTTP: what became of a job's messages, once more, and a test."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import uuid4

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from service import errors
from service.api import schema
from service.api.callers import Caller, own_job
from service.api.state import JobId, Wired
from service.api.submission import check_hook
from service.hooks import send
from service.jobs import WebhookUrl

router = APIRouter(tags=["webhooks"])
_KNOWN = (errors.Unauthorized, errors.NotFound, errors.ServerUnavailable)


class Delivery(BaseModel):
    """One try to deliver one message."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="The `webhook-id`; the same for all tries of a message.")
    event: str
    attempt: int
    at: float = Field(description="Unix time.")
    status: int | None = Field(description="HTTP status of the target; null where none came.")
    error: str | None
    took_s: float


class Deliveries(BaseModel):
    """All tries for one job, oldest first."""

    model_config = ConfigDict(frozen=True)

    deliveries: list[Delivery]


class Redelivery(BaseModel):
    """A message that is sent once more."""

    model_config = ConfigDict(frozen=True)

    id: str


class Target(BaseModel):
    """Where a test goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: WebhookUrl = Field(examples=["https://example.org/hook"])


class Tried(BaseModel):
    """What the target said."""

    model_config = ConfigDict(frozen=True)

    status: int | None
    error: str | None
    took_s: float


@router.get("/restore/{job_id}/webhook/deliveries", responses=schema.refusals(*_KNOWN))
async def deliveries(job_id: JobId, services: Wired, caller: Caller) -> Deliveries:
    """Every try to deliver the job's messages, kept for a day."""
    await own_job(services, caller, job_id)
    log = await services.outbox.log(job_id)
    return Deliveries(deliveries=[Delivery(**entry) for entry in log])


@router.post(
    "/restore/{job_id}/webhook/redeliver", status_code=202, responses=schema.refusals(*_KNOWN)
)
async def redeliver(job_id: JobId, services: Wired, caller: Caller) -> Redelivery:
    """Send the job's last message once more, with all its tries."""
    await own_job(services, caller, job_id)
    return Redelivery(id=await services.outbox.again(job_id))


@router.post(
    "/webhooks/test",
    responses=schema.refusals(errors.Unauthorized, errors.InvalidRequest, errors.ServerUnavailable),
)
async def try_target(body: Target, services: Wired, caller: Caller) -> Tried:
    """Send a signed message of type `test` now, and say what the target answers."""
    secret = check_hook(services, body.url, "/url")
    now = datetime.now(UTC).isoformat()
    message: dict[str, object] = {"type": "test", "timestamp": now, "data": {}}
    outcome = await send(services.fetch, secret, str(uuid4()), body.url, json.dumps(message))
    return Tried(status=outcome.status, error=outcome.error, took_s=outcome.took_s)
