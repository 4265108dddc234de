"""The finished picture over HTTP: whole or in part, as it was made or in another format."""

from __future__ import annotations

from typing import Annotated, Final

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from service import errors
from service.api import schema
from service.api.accept import acceptable
from service.api.callers import Caller, own_job
from service.api.state import JobId, Services, Wired
from service.connection import unavailable_when_away
from service.errors import ResultGone, ResultNotReady
from service.images import FORMATS, convert
from service.jobs import TERMINAL, Job, JobStatus, OutputFormat
from service.results import BlobKind

router = APIRouter(tags=["restore"])

PICTURES: Final = tuple(f"image/{name}" for name in FORMATS)
_FORMAT = "Another format than the job's own: converted on the way, its quality that of the job."


@router.head("/restore/{job_id}/result", include_in_schema=False)
@router.get(
    "/restore/{job_id}/result",
    response_class=Response,
    responses={
        200: {
            "description": "The finished picture, in the format that was asked for.",
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}} for kind in PICTURES
            },
            "headers": {
                name: {"schema": {"type": "string"}} for name in ("ETag", "Accept-Ranges", "Vary")
            },
        },
        206: {"description": "The part that `Range` names."},
        304: {"description": "The client has it already (`If-None-Match`)."},
        416: {"description": "The picture has no such part."},
        **schema.refusals(
            (406, "`not_acceptable`: no accepted type is a picture's."),
            errors.Unauthorized,
            errors.NotFound,
            errors.ResultNotReady,
            errors.ResultGone,
            errors.ServerUnavailable,
        ),
    },
)
async def result(
    request: Request,
    job_id: JobId,
    services: Wired,
    caller: Caller,
    format: Annotated[OutputFormat | None, Query(description=_FORMAT)] = None,
) -> Response:
    """The finished picture. `Range`, `If-Range` and `If-None-Match` are understood."""
    job = await own_job(services, caller, job_id)
    return await deliver(request, services, job, format)


async def deliver(
    request: Request, services: Services, job: Job, format: OutputFormat | None = None
) -> Response:
    """The answer with a job's picture.

    Raises ResultNotReady, ResultGone, ServerUnavailable, or HTTPException 406 and 416.
    """
    if job.status not in TERMINAL:
        raise ResultNotReady(f"the job is {job.status}; its result is not there yet")
    if job.status is not JobStatus.SUCCEEDED or job.output is None:
        raise ResultGone(f"the job is {job.status}; it has no result")
    own = job.output.content_type
    media_type = f"image/{format}" if format else _negotiated(request, own)
    # What a conversion gives depends on the bytes and the format alone.
    tag = job.output.sha256 if media_type == own else f"{job.output.sha256}-{media_type[6:]}"
    headers = {
        "ETag": f'"{tag}"',
        # A result never changes, but it is somebody's photograph: no shared caches.
        "Cache-Control": f"private, max-age={services.settings.retention_s}, immutable",
        "Vary": "Accept",
        "Accept-Ranges": "bytes",
    }
    if _has_already(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    with unavailable_when_away():
        data = await services.blobs.get(BlobKind.RESULT, job.id)
    if data is None:
        raise ResultGone("the result is past its retention")
    if media_type != own:
        quality = job.options.output_quality
        data = await to_thread.run_sync(
            convert, data, media_type[6:], quality, limiter=services.decoders
        )
    name = media_type.removeprefix("image/")
    headers["Content-Disposition"] = f'inline; filename="{job.id}.{name}"'
    return _body(request, data, headers, media_type)


def _negotiated(request: Request, own: str) -> str:
    """The accepted type: the job's own wherever it is as welcome as any other."""
    header = ",".join(request.headers.getlist("accept"))
    others = [kind for kind in PICTURES if kind != own]
    wanted = acceptable(header, [own, *others])
    if not wanted:
        raise HTTPException(406, f"{header!r} accepts none of {', '.join(PICTURES)}")
    return wanted[0]


def _body(request: Request, data: bytes, headers: dict[str, str], media_type: str) -> Response:
    """The picture, or the one range of it that was asked for (RFC 9110 section 14)."""
    span = _span(request, len(data), headers["ETag"])
    if span is None:
        status = 200
    elif span == (0, 0):
        more = {**headers, "Content-Range": f"bytes */{len(data)}"}
        raise HTTPException(416, f"the picture has {len(data)} bytes", more)
    else:
        first, end = span
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        data, status = data[first:end], 206
    headers["Content-Length"] = str(len(data))
    body = b"" if request.method == "HEAD" else data
    return Response(body, status, headers, media_type)


def _span(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """First byte and end of the range; (0, 0) for one that is not there, None for the whole."""
    header = request.headers.get("range", "")
    unit, _, ranges = header.partition("=")
    # Several ranges, other units and what cannot be read are ignored, as the standard allows.
    if unit.strip().lower() != "bytes" or "," in ranges or "-" not in ranges:
        return None
    if request.headers.get("if-range", etag) != etag:
        return None
    first, _, last = (part.strip() for part in ranges.partition("-"))
    if not all(part == "" or (part.isascii() and part.isdecimal()) for part in (first, last)):
        return None
    if first == "":
        if last == "":
            return None
        length = min(int(last[:18]), size)
        return (size - length, size) if length else (0, 0)
    start, stop = int(first[:18]), int(last[:18]) + 1 if last else size
    if last and stop <= start:
        return None
    return (start, min(stop, size)) if start < size else (0, 0)


def _has_already(request: Request, etag: str) -> bool:
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    return "*" in known or etag in (tag.removeprefix("W/") for tag in known)
