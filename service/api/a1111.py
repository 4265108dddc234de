"""The part of AUTOMATIC1111's web API that restoring plug-ins use, on top of jobs."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from service import catalog, errors
from service.api import schema
from service.api.admission import admit
from service.api.answers import finished_picture
from service.api.callers import Caller
from service.api.following import wait_for_end
from service.api.state import Services, Wired
from service.api.submission import NO_SOURCE, checked, decode_base64
from service.jobs import TERMINAL, Job, JobStatus, RestoreOptions
from service.work import Submission

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])

_MARK: Final = {"asked": "extra-single-image"}  # how their jobs are told from others
_WAIT_S: Final = 3600.0


class ExtraImage(BaseModel):
    """What is read of such a request; all other fields say nothing to a restoration."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    image: str = Field(description="Base64 of the file, plain or as a `data:` URL.")
    upscaling_resize: float = Field(
        default=1.0, ge=1.0, le=1.0, description="A restoration keeps the size of its picture."
    )


class Restored(BaseModel):
    """The finished picture."""

    model_config = ConfigDict(frozen=True)

    html_info: str = ""
    image: str = Field(description="Base64 of a PNG.")


@router.post(
    "/extra-single-image",
    responses=schema.refusals(
        errors.Unauthorized,
        errors.InvalidImage,
        errors.ImageTooLarge,
        errors.UnsupportedImage,
        errors.InvalidRequest,
        errors.JobFailed,
        errors.ResultNotReady,
        errors.QueueFull,
        errors.ServerUnavailable,
    ),
)
async def extra_single_image(
    request: Request, body: ExtraImage, services: Wired, caller: Caller
) -> Restored:
    """Restore a picture and answer with it; leaving cancels the job."""
    options = RestoreOptions(on_disconnect="cancel", metadata=_MARK)
    image = decode_base64(body.image)
    services.limits.check_bytes(len(image))
    asked = await checked(services, Submission(options, NO_SOURCE, image, caller))
    job = (await admit(services, asked)).job
    if job.status not in TERMINAL:
        job = await wait_for_end(request, services, job, _WAIT_S)
    return Restored(image=base64.b64encode(await finished_picture(services, job.id)).decode())


class State(BaseModel):
    """What their plug-ins read of the job that runs."""

    model_config = ConfigDict(frozen=True)

    job: str = ""
    job_count: int = 0
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0
    interrupted: bool = False
    skipped: bool = False
    stopping_generation: bool = False


class Progress(BaseModel):
    """How far the caller's newest job has come; zeros while there is none."""

    model_config = ConfigDict(frozen=True)

    progress: float = 0.0
    eta_relative: float = Field(default=0.0, description="Seconds to its end.")
    state: State = State()
    current_image: str | None = Field(default=None, description="Base64 of the newest preview.")
    textinfo: str | None = None


@router.get("/progress", responses=schema.refusals(errors.Unauthorized, errors.ServerUnavailable))
async def progress(
    services: Wired,
    caller: Caller,
    skip_current_image: Annotated[bool, Query(description="Leave the preview out.")] = False,
) -> Progress:
    """Progress of the caller's newest unfinished job of this kind."""
    job = await _newest(services, caller)
    if job is None:
        return Progress()
    _, eta = await services.forecasts.of(job)
    done: dict[str, Any] = job.progress.model_dump() if job.progress else {}
    state = State(
        job=job.id,
        job_count=1,
        sampling_step=int(done.get("step") or 0),
        sampling_steps=int(done.get("steps") or 0),
        stopping_generation=job.status is JobStatus.CANCELING,
    )
    frame = None if skip_current_image else await services.queue.preview(job.id)
    return Progress(
        progress=float(done.get("value") or 0.0),
        eta_relative=eta.likely_s if eta else 0.0,
        state=state,
        current_image=base64.b64encode(frame).decode() if frame else None,
    )


async def _newest(services: Services, caller: str) -> Job | None:
    page = await catalog.page(services.redis, caller, 20, None, None)
    ours = (job for job in page.jobs if job.options.metadata == _MARK)
    return next((job for job in ours if job.status not in TERMINAL), None)
