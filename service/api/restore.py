"""Jobs over HTTP: submit, look, list, cancel, delete."""

from __future__ import annotations

import time
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service import catalog, errors
from service.api import schema
from service.api.admission import admit
from service.api.answers import answer, wish_of
from service.api.callers import Caller, own_job
from service.api.state import JobId, Services, Wired
from service.api.submission import MAX_KEY_CHARS, read_submission
from service.api.views import JobView, view
from service.jobs import Eta, JobStatus, RestoreOptions, SourceInfo
from service.work import Submission

router = APIRouter(tags=["restore"])

_MAX_PAGE = 100
_KNOWN = (errors.Unauthorized, errors.NotFound, errors.ServerUnavailable)
_Key = Annotated[
    str | None,
    Header(
        max_length=MAX_KEY_CHARS,
        min_length=1,
        description="A word of the client's choice: repeated within a day it finds the same job.",
        examples=["holiday-17"],
    ),
]
_Prefer = Annotated[
    str | None,
    Header(
        description="`wait=N` answers with the finished job, `respond-async` at once (RFC 7240)."
    ),
]
_SUBMITTED = {
    200: {
        "description": (
            "The finished job (`Prefer: wait=N`), the job of an earlier request with the same key "
            "or id (`Idempotency-Replayed: true`), its events (`Accept: text/event-stream`), or "
            "the finished picture (`Accept: image/png`, ...)."
        ),
        "model": JobView,
        "content": {
            "text/event-stream": {"schema": {"type": "string"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    202: {
        "description": "Admitted; follow `urls`.",
        "model": JobView,
        "headers": {
            "Location": {"schema": {"type": "string"}},
            "Retry-After": {"schema": {"type": "integer"}},
        },
    },
    **schema.refusals(
        (400, "`bad_request`: the form cannot be read."),
        (406, "`not_acceptable`: nothing that the client accepts is on offer."),
        (408, "`request_timeout`: the body did not arrive in time."),
        errors.ImageTooLarge,
        errors.UnsupportedImage,
        (415, "`unsupported_media_type`: neither a multipart form nor JSON."),
        errors.InvalidImage,
        errors.InvalidRequest,
        errors.IdempotencyKeyReuse,
        errors.FetchRefused,
        errors.FetchFailed,
        errors.JobFailed,
        errors.QueueFull,
        errors.TooManyStreams,
        errors.Unauthorized,
        errors.ServerUnavailable,
    ),
}


@router.post(
    "/restore",
    response_class=Response,
    openapi_extra=schema.submission_body(),
    responses=_SUBMITTED,
    status_code=202,
)
async def submit(
    request: Request,
    services: Wired,
    caller: Caller,
    idempotency_key: _Key = None,
    prefer: _Prefer = None,
) -> Response:
    """Submit a picture, as a form or as JSON; the answer comes at once, the work follows.

    `Prefer` and `Accept` ask for other answers to the same request.
    """
    return await _submit(request, services, caller, None)


@router.put(
    "/restore/{job_id}",
    response_class=Response,
    openapi_extra=schema.submission_body(),
    responses=_SUBMITTED,
    status_code=202,
)
async def submit_as(
    request: Request,
    services: Wired,
    caller: Caller,
    job_id: Annotated[UUID, Path(description="A UUID of the client's choice.")],
    prefer: _Prefer = None,
) -> Response:
    """Submit under an id of one's own: repeated, it finds the job that exists."""
    return await _submit(request, services, caller, str(job_id))


async def _submit(
    request: Request, services: Services, caller: str, job_id: str | None
) -> Response:
    began = time.perf_counter()
    asked = await read_submission(request, services, caller)
    wish, asked = wish_of(request, services, asked)
    made = await admit(services, asked, job_id)
    services.metrics.submit_seconds.observe(time.perf_counter() - began)
    return await answer(request, services, made, wish)


class Jobs(BaseModel):
    """One page of jobs, newest first."""

    model_config = ConfigDict(frozen=True)

    jobs: list[JobView]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


@router.get(
    "/restore",
    responses=schema.refusals(errors.Unauthorized, errors.InvalidRequest, errors.ServerUnavailable),
)
async def list_jobs(
    request: Request,
    services: Wired,
    caller: Caller,
    status: Annotated[JobStatus | None, Query(description="Only jobs of this status.")] = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE)] = 20,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
) -> Jobs:
    """The caller's jobs, as long as they are kept, newest first."""
    page = await catalog.page(services.redis, caller, limit, status, cursor)
    return Jobs(jobs=[view(request, job) for job in page.jobs], next_cursor=page.next_cursor)


class EstimateRequest(RestoreOptions):
    """Options of a restoration, and the size of its picture."""

    width: int = Field(ge=1, examples=[1024])
    height: int = Field(ge=1, examples=[768])


class Estimate(BaseModel):
    """What a restoration would take if it were submitted now."""

    model_config = ConfigDict(frozen=True)

    position: int = Field(description="Jobs that wait now.")
    eta: Eta | None = Field(description="null while no job has been finished yet.")
    pixels: int


@router.post(
    "/restore/estimate",
    responses=schema.refusals(
        errors.Unauthorized,
        errors.InvalidRequest,
        errors.InvalidImage,
        errors.ImageTooLarge,
        errors.ServerUnavailable,
    ),
)
async def estimate(body: EstimateRequest, services: Wired, caller: Caller) -> Estimate:
    """Position and time of a restoration, without doing anything."""
    services.limits.check_size(body.width, body.height)
    options = RestoreOptions.model_validate(
        body.model_dump(exclude={"width", "height"}, include=body.model_fields_set)
    )
    source = SourceInfo(width=body.width, height=body.height, content_type="", bytes=0, sha256="")
    position, eta = await services.forecasts.estimate(Submission(options, source, b"", caller))
    return Estimate(position=position, eta=eta, pixels=body.width * body.height)


@router.get("/restore/{job_id}", responses=schema.refusals(*_KNOWN))
async def look(
    request: Request, response: Response, job_id: JobId, services: Wired, caller: Caller
) -> JobView:
    """The job as it is now, with its latest progress."""
    job = await own_job(services, caller, job_id)
    shown = view(request, job, *await services.forecasts.of(job))
    if shown.eta is not None:
        response.headers["X-ETA"] = f"{shown.eta.likely_s:.1f}"
    if shown.position is not None:
        response.headers["X-Queue-Position"] = str(shown.position)
    return shown


@router.post("/restore/{job_id}/cancel", responses=schema.refusals(*_KNOWN))
async def cancel(request: Request, job_id: JobId, services: Wired, caller: Caller) -> JobView:
    """Cancel the job: at once while it waits, else before its next step. Idempotent."""
    await own_job(services, caller, job_id)
    return view(request, await services.queue.cancel(job_id))


@router.delete("/restore/{job_id}", status_code=204, responses=schema.refusals(*_KNOWN))
async def delete(job_id: JobId, services: Wired, caller: Caller) -> Response:
    """End the job if it has not ended, and forget it: record, upload and result."""
    await own_job(services, caller, job_id)
    await services.queue.delete(job_id)
    return Response(status_code=204)
