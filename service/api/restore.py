"""Jobs over HTTP: submit, look, fetch the result, cancel."""

from __future__ import annotations

import time
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service import errors
from service.api import schema
from service.api.state import JobId, Services, Wired
from service.api.submission import Submission, read_submission
from service.connection import unavailable_when_away
from service.errors import ResultGone, ResultNotReady
from service.jobs import TERMINAL, Job, JobStatus
from service.results import BlobKind

router = APIRouter(tags=["restore"])


class Urls(BaseModel):
    """Where the rest of a job is found; paths on this server."""

    model_config = ConfigDict(frozen=True)

    self: str
    events: str = Field(description="Server-sent events.")
    progress: str = Field(description="Websocket.")
    cancel: str
    result: str


class JobView(Job):
    """A job as clients see it."""

    urls: Urls


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
    job = await _admit(services, await read_submission(request, services))
    services.metrics.submit_seconds.observe(time.perf_counter() - began)
    view = _view(request, job)
    response.headers["Location"] = view.urls.self
    return view


async def _admit(services: Services, submission: Submission) -> Job:
    job = await services.queue.submit(
        str(uuid4()), submission.options, submission.source, submission.image
    )
    services.metrics.jobs_submitted.labels(job.priority).inc()
    return job


@router.get(
    "/restore/{job_id}", responses=schema.refusals(errors.NotFound, errors.ServerUnavailable)
)
async def look(request: Request, job_id: JobId, services: Wired) -> JobView:
    """The job as it is now, with its latest progress."""
    return _view(request, await services.queue.get(job_id))


@router.post(
    "/restore/{job_id}/cancel",
    responses=schema.refusals(errors.NotFound, errors.ServerUnavailable),
)
async def cancel(request: Request, job_id: JobId, services: Wired) -> JobView:
    """Cancel the job: at once while it waits, else before its next step. Idempotent."""
    return _view(request, await services.queue.cancel(job_id))


@router.head("/restore/{job_id}/result", include_in_schema=False)
@router.get(
    "/restore/{job_id}/result",
    response_class=Response,
    responses={
        200: {
            "description": "The finished picture, in the format that was asked for.",
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in ("image/png", "image/jpeg", "image/webp")
            },
            "headers": {"ETag": {"schema": {"type": "string"}}},
        },
        304: {"description": "The client has it already (`If-None-Match`)."},
        **schema.refusals(
            errors.NotFound, errors.ResultNotReady, errors.ResultGone, errors.ServerUnavailable
        ),
    },
)
async def result(request: Request, job_id: JobId, services: Wired) -> Response:
    """The finished picture."""
    job = await services.queue.get(job_id)
    if job.status not in TERMINAL:
        raise ResultNotReady(f"the job is {job.status}; its result is not there yet")
    if job.status is not JobStatus.SUCCEEDED or job.output is None:
        raise ResultGone(f"the job is {job.status}; it has no result")
    output = job.output
    headers = {
        "ETag": f'"{output.sha256}"',
        # A result never changes, but it is somebody's photograph: no shared caches.
        "Cache-Control": f"private, max-age={services.settings.retention_s}, immutable",
    }
    if _has_already(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    with unavailable_when_away():
        data = await services.blobs.get(BlobKind.RESULT, job_id)
    if data is None:
        raise ResultGone("the result is past its retention")
    extension = output.content_type.removeprefix("image/")
    headers["Content-Length"] = str(len(data))
    headers["Content-Disposition"] = f'inline; filename="{job_id}.{extension}"'
    body = b"" if request.method == "HEAD" else data
    return Response(body, headers=headers, media_type=output.content_type)


def _has_already(request: Request, etag: str) -> bool:
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    return "*" in known or etag in (tag.removeprefix("W/") for tag in known)


def _view(request: Request, job: Job) -> JobView:
    here = f"{request.scope.get('root_path', '')}/restore/{job.id}"
    urls = Urls(
        self=here,
        events=f"{here}/events",
        progress=f"{here}/progress",
        cancel=f"{here}/cancel",
        result=f"{here}/result",
    )
    return JobView(**dict(job), urls=urls)
