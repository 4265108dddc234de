"""How a submission is answered: its job at once, its job when it has ended, events or picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.accept import acceptable, preferred_wait_s, prefers_async
from service.api.delivery import PICTURES, deliver
from service.api.events import event_stream
from service.api.following import wait_for_end
from service.api.state import Services
from service.api.views import view
from service.connection import unavailable_when_away
from service.errors import JobFailed, ResultGone, ResultNotReady
from service.jobs import TERMINAL, Job, JobStatus
from service.results import BlobKind
from service.work import Admission, Submission

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
OFFERS: Final = (JSON, EVENTS, *PICTURES)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client would like to get for its submission."""

    media_type: str
    wait_s: float | None  # for the job's end; None answers at once
    applied: str | None  # what of its preferences is heeded


def wish_of(request: Request, services: Services, asked: Submission) -> tuple[Wish, Submission]:
    """What the headers ask for, and the submission with the picture's format that fits them.

    Raises HTTPException 406 where nothing on offer is acceptable.
    """
    header = ",".join(request.headers.getlist("accept"))
    preferences = ",".join(request.headers.getlist("prefer"))
    wanted = acceptable(header, OFFERS)
    if not wanted:
        raise HTTPException(406, f"nothing in {header!r} is on offer: {', '.join(OFFERS)}")
    limit_s = services.settings.max_wait_s
    if wanted[0] in PICTURES:
        named = f"image/{asked.options.output_format}"
        if named not in wanted:
            if "output_format" in asked.options.model_fields_set:
                raise HTTPException(406, f"the output format is {named}, accepted: {header}")
            chosen = wanted[0].removeprefix("image/")
            options = asked.options.model_copy(update={"output_format": chosen})
            asked = replace(asked, options=options)
        return Wish(wanted[0], preferred_wait_s(preferences, limit_s) or limit_s, None), asked
    if wanted[0] == EVENTS:
        return Wish(EVENTS, None, None), asked
    wait_s = None if prefers_async(preferences) else preferred_wait_s(preferences, limit_s)
    applied = f"wait={wait_s:g}" if wait_s else None
    if prefers_async(preferences):
        applied = "respond-async"
    return Wish(JSON, wait_s, applied), asked


async def answer(request: Request, services: Services, made: Admission, wish: Wish) -> Response:
    """The answer to a submission that was admitted. Raises JobFailed, ServerUnavailable."""
    headers = {"Location": view(request, made.job).urls.self}
    if made.replayed:
        headers["Idempotency-Replayed"] = "true"
    if wish.applied:
        headers["Preference-Applied"] = wish.applied
    if wish.media_type == EVENTS:
        services.hub.check_room()
        return event_stream(services, made.job, 0, headers)
    job = made.job
    if not made.replayed:
        await services.forecasts.promise(job)
    if wish.wait_s is not None and job.status not in TERMINAL:
        job = await wait_for_end(request, services, job, wish.wait_s)
    if wish.media_type in PICTURES and job.status in TERMINAL:
        if job.status is not JobStatus.SUCCEEDED:
            raise failure(job)
        response = await deliver(request, services, job)
        response.headers.update(headers)
        return response
    finished = job.status in TERMINAL
    shown = view(request, job, *await services.forecasts.of(job))
    if not finished:
        likely_s = shown.eta.likely_s if shown.eta else 1.0
        headers["Retry-After"] = str(max(1, min(60, math.ceil(likely_s))))
    status = 200 if made.replayed or (wish.wait_s is not None and finished) else 202
    return JSONResponse(shown.model_dump(mode="json"), status, headers)


async def finished_picture(services: Services, job_id: str) -> bytes:
    """The finished file of a job.

    Raises ResultNotReady where it goes on still, JobFailed, ResultGone, or ServerUnavailable.
    """
    job = await services.queue.get(job_id)
    if job.status not in TERMINAL:
        raise ResultNotReady(f"job {job.id} is {job.status} after all this waiting; it goes on")
    if job.status is not JobStatus.SUCCEEDED:
        raise failure(job)
    with unavailable_when_away():
        data = await services.blobs.get(BlobKind.RESULT, job_id)
    if data is None:
        raise ResultGone("the result is past its retention")
    return data


def failure(job: Job) -> JobFailed:
    """The error of a job that ended without a result."""
    error = job.error
    said = f"the job is {job.status}" if error is None else f"{error.code}: {error.message}"
    return JobFailed(said, retryable=error is not None and error.retryable)
