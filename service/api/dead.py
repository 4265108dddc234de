"""Dead letters for the operator: jobs that failed because their workers kept dying."""

from __future__ import annotations

from uuid import uuid4

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from service import errors
from service.api import schema
from service.api.callers import OPERATOR
from service.api.state import JobId, Wired
from service.api.views import JobView, view
from service.errors import NotFound, ResultGone
from service.results import BlobKind
from service.work import Submission

router = APIRouter(tags=["operations"], dependencies=[OPERATOR])
_REFUSALS = (errors.Unauthorized, errors.NotFound, errors.ServerUnavailable)


class DeadLetters(BaseModel):
    """Dead jobs, the longest dead first."""

    model_config = ConfigDict(frozen=True)

    jobs: list[JobView]


@router.get("/ops/dead", responses=schema.refusals(*_REFUSALS))
async def dead_letters(request: Request, services: Wired) -> DeadLetters:
    """Jobs that failed because their workers kept dying (operator's key needed)."""
    jobs: list[JobView] = []
    for job_id in await services.queue.dead():
        try:
            jobs.append(view(request, await services.queue.get(job_id)))
        except NotFound:
            continue  # its record went a moment before its place in the list
    return DeadLetters(jobs=jobs)


@router.post(
    "/ops/dead/{job_id}/requeue",
    status_code=202,
    responses=schema.refusals(*_REFUSALS, errors.ResultGone, errors.QueueFull),
)
async def requeue(request: Request, job_id: JobId, services: Wired) -> JobView:
    """Try a dead job once more, as a new job of the same caller; the dead one names it."""
    queue = services.queue
    if job_id not in await queue.dead():
        raise NotFound(f"no dead job {job_id!r}")
    job = await queue.get(job_id)
    image = await services.blobs.get(BlobKind.SOURCE, job_id)
    if image is None:
        raise ResultGone("the upload of the dead job is past its retention")
    asked = Submission(job.options, job.source, image, job.caller)
    admission = await queue.submit(str(uuid4()), asked)
    await queue.bury(job_id, requeued_as=admission.job.id)
    return view(request, admission.job)


@router.delete("/ops/dead/{job_id}", status_code=204, responses=schema.refusals(*_REFUSALS))
async def forget(job_id: JobId, services: Wired) -> Response:
    """Forget a dead job with everything that was kept of it."""
    if job_id not in await services.queue.dead():
        raise NotFound(f"no dead job {job_id!r}")
    await services.queue.delete(job_id)
    return Response(status_code=204)
