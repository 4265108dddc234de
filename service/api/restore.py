"""Jobs over HTTP: submit, look, cancel."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response

from service import errors
from service.api import schema
from service.api.admission import admit
from service.api.state import JobId, Wired
from service.api.submission import read_submission
from service.api.views import JobView, view

router = APIRouter(tags=["restore"])


@router.post(
    "/restore",
    status_code=202,
    openapi_extra=schema.submission_body(),
    responses={
        202: {
            "description": "Admitted; follow `urls`.",
            "headers": {"Location": {"schema": {"type": "string"}}},
        },
        **schema.refusals(
            (400, "`bad_request`: the form cannot be read."),
            (408, "`request_timeout`: the body did not arrive in time."),
            errors.ImageTooLarge,
            errors.UnsupportedImage,
            (415, "`unsupported_media_type`: neither a multipart form nor JSON."),
            errors.InvalidImage,
            errors.InvalidRequest,
            errors.QueueFull,
            errors.ServerUnavailable,
        ),
    },
)
async def submit(request: Request, response: Response, services: Wired) -> JobView:
    """Submit a picture, as a form or as JSON; the answer comes at once, the work follows."""
    began = time.perf_counter()
    job = await admit(services, await read_submission(request, services))
    services.metrics.submit_seconds.observe(time.perf_counter() - began)
    shown = view(request, job)
    response.headers["Location"] = shown.urls.self
    return shown


@router.get(
    "/restore/{job_id}", responses=schema.refusals(errors.NotFound, errors.ServerUnavailable)
)
async def look(request: Request, job_id: JobId, services: Wired) -> JobView:
    """The job as it is now, with its latest progress."""
    return view(request, await services.queue.get(job_id))


@router.post(
    "/restore/{job_id}/cancel",
    responses=schema.refusals(errors.NotFound, errors.ServerUnavailable),
)
async def cancel(request: Request, job_id: JobId, services: Wired) -> JobView:
    """Cancel the job: at once while it waits, else before its next step. Idempotent."""
    return view(request, await services.queue.cancel(job_id))
