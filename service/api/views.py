"""How a job is shown to clients."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import HTTPConnection

from service.jobs import Eta, Job


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

    position: int | None = Field(
        default=None, description="Jobs that are served before it; null unless it waits."
    )
    eta: Eta | None = Field(
        default=None, description="When it will end; null while nothing is known of that."
    )
    urls: Urls


def view(
    request: HTTPConnection, job: Job, position: int | None = None, eta: Eta | None = None
) -> JobView:
    """The job with addresses that suit the request it is shown to."""
    return view_at(request.scope.get("root_path", ""), job, position, eta)


def view_at(
    root_path: str, job: Job, position: int | None = None, eta: Eta | None = None
) -> JobView:
    """The job with addresses below a path."""
    here = f"{root_path}/restore/{job.id}"
    urls = Urls(
        self=here,
        events=f"{here}/events",
        progress=f"{here}/progress",
        cancel=f"{here}/cancel",
        result=f"{here}/result",
    )
    return JobView(**dict(job), position=position, eta=eta, urls=urls)
