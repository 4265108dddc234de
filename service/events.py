"""The events of a job, and their one JSON form on SSE, websocket and in Redis."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from service.jobs import JobStatus

Stage = Literal["encoding", "restoring", "decoding"]


@dataclass(frozen=True, slots=True)
class StatusEvent:
    """The job moved to `status`; `attempt` counts the workers that have had it."""

    status: JobStatus
    attempt: int


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One denoising step (or a stage) is done; complete in itself, so any one may be missed."""

    step: int
    steps: int
    stage: Stage
    timestep: int | None = None
    reference_variance: float | None = None
    adaptive_factor: float | None = None

    @property
    def value(self) -> float:
        """Share of the steps that is done, 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps > 0 else 0.0


@dataclass(frozen=True, slots=True)
class PreviewEvent:
    """A picture of the reference after `step`; its bytes travel beside the event."""

    step: int
    steps: int
    width: int
    height: int
    content_type: str


@dataclass(frozen=True, slots=True)
class OutputEvent:
    """The result is stored and can be fetched."""

    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """Why the job failed; the terminal status event follows."""

    code: str
    message: str
    retryable: bool


Event = StatusEvent | ProgressEvent | PreviewEvent | OutputEvent | ErrorEvent

_TYPES: dict[type[Event], str] = {
    StatusEvent: "status",
    ProgressEvent: "progress",
    PreviewEvent: "preview",
    OutputEvent: "output",
    ErrorEvent: "error",
}


def type_of(event: Event) -> str:
    """The event's type as clients see it: status, progress, preview, output or error."""
    return _TYPES[type(event)]


def payload(event: Event) -> dict[str, Any]:
    """The event's own fields, JSON-able; progress carries its `value` as well."""
    fields = asdict(event)
    return {"value": event.value, **fields} if isinstance(event, ProgressEvent) else fields


def envelope(
    kind: str, fields: dict[str, Any], *, seq: int, job_id: str, at: float
) -> dict[str, Any]:
    """The JSON form from its parts; `at` is unix seconds of the Redis server."""
    return {"type": kind, "seq": seq, "job_id": job_id, "at": at, **fields}


def snapshot(kind: str, fields: dict[str, Any], *, job_id: str) -> dict[str, Any]:
    """The JSON form of what is told live and not kept in the log: without seq and time."""
    return {"type": kind, "job_id": job_id, **fields}


def to_json(event: Event, seq: int, job_id: str, at: float) -> dict[str, Any]:
    """The JSON form of an event: type, seq, job_id, at and the event's own fields."""
    return envelope(type_of(event), payload(event), seq=seq, job_id=job_id, at=at)
