"""The finished picture over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from service import errors
from service.api import schema
from service.api.state import JobId, Wired
from service.connection import unavailable_when_away
from service.errors import ResultGone, ResultNotReady
from service.jobs import TERMINAL, JobStatus
from service.results import BlobKind

router = APIRouter(tags=["restore"])


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
