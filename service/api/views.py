"""How a job is shown to clients."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import HTTPConnection

from service.jobs import Job


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


def view(request: HTTPConnection, job: Job) -> JobView:
    """The job with addresses that suit the request it is shown to."""
    here = f"{request.scope.get('root_path', '')}/restore/{job.id}"
    urls = Urls(
        self=here,
        events=f"{here}/events",
        progress=f"{here}/progress",
        cancel=f"{here}/cancel",
        result=f"{here}/result",
    )
    return JobView(**dict(job), urls=urls)
