"""What a job is: its options, its life as one table of allowed moves, and its public record."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field


class JobStatus(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELING = "canceling"
    CANCELED = "canceled"
    EXPIRED = "expired"


# The one table of allowed moves; the Lua scripts are generated with it and refuse all others.
MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    # canceled: nobody holds it, so it ends at once; failed: returned by too many workers; expired:
    # a deadline has passed; succeeded: an equal request was answered before.
    JobStatus.QUEUED: frozenset(
        {
            JobStatus.RUNNING,
            JobStatus.SUCCEEDED,
            JobStatus.CANCELED,
            JobStatus.FAILED,
            JobStatus.EXPIRED,
        }
    ),
    # queued: the worker gave it back, or its lease has expired.
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.CANCELING, JobStatus.SUCCEEDED, JobStatus.FAILED}
    ),
    JobStatus.CANCELING: frozenset({JobStatus.CANCELED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELED: frozenset(),
    JobStatus.EXPIRED: frozenset(),
}

TERMINAL: frozenset[JobStatus] = frozenset(status for status, to in MOVES.items() if not to)

Priority = Literal["high", "normal", "low"]
Preset = Literal["faithful", "balanced", "fast"]
OutputFormat = Literal["png", "jpeg", "webp", "avif"]
ColorMatch = Literal["none", "wavelet", "adain"]
Adaptive = Literal["off", "official", "reuse"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]

HookEvent = Literal["job.started", "job.succeeded", "job.failed", "job.canceled", "job.expired"]
WebhookUrl = Annotated[str, Field(min_length=1, max_length=2048)]
TERMINAL_EVENTS: tuple[HookEvent, ...] = get_args(HookEvent)[1:]

MAX_PROMPT_CHARS = 2000
MAX_METADATA = 16
MAX_DEADLINE_S = 86_400.0
MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
Deadline = Annotated[float, Field(gt=0.0, le=MAX_DEADLINE_S, allow_inf_nan=False)]
OnDisconnect = Literal["continue", "cancel"]
# Fields of RestoreOptions that are ours, not the engine's.
_SERVICE_FIELDS = frozenset(
    {
        "preset",
        "output_format",
        "output_quality",
        "previews",
        "priority",
        "start_by",
        "finish_by",
        "on_disconnect",
        "cache",
        "metadata",
        "webhook",
    }
)


class Webhook(BaseModel):
    """Where messages about a job go, and about what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: WebhookUrl
    events: list[HookEvent] = Field(default_factory=lambda: list(TERMINAL_EVENTS), min_length=1)


class RestoreOptions(BaseModel):
    """What a user may ask of a restoration; None leaves the choice to the preset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Preset | None = None
    prompt: str | None = Field(default=None, max_length=MAX_PROMPT_CHARS)
    negative_prompt: str | None = Field(default=None, max_length=MAX_PROMPT_CHARS)
    steps: int | None = Field(default=None, ge=1, le=100)
    guidance_scale: float | None = Field(default=None, ge=1.0, le=20.0, allow_inf_nan=False)
    preview_start: Fraction | None = None
    creative_start: Fraction | None = None
    adaptive: Adaptive | bool | None = None
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)
    color_match: ColorMatch | None = None
    output_format: OutputFormat = "png"
    output_quality: int = Field(default=90, ge=1, le=100)
    previews: bool = True
    priority: Priority = "normal"
    start_by: Deadline | None = None
    finish_by: Deadline | None = None
    on_disconnect: OnDisconnect = "continue"
    cache: bool = True
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict[str, str], max_length=MAX_METADATA
    )
    webhook: Webhook | None = None

    def overrides(self) -> dict[str, Any]:
        """Engine parameters that were set, by name; the preset decides the rest."""
        return self.model_dump(exclude=set(_SERVICE_FIELDS), exclude_none=True)


class _Record(BaseModel):
    """A frozen part of a job's record."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class SourceInfo(_Record):
    """The uploaded picture, as it was checked at the door."""

    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str


class OutputInfo(_Record):
    """The finished picture."""

    width: int
    height: int
    content_type: str
    bytes: int
    sha256: str


class Eta(_Record):
    """Seconds from now until the job ends: the likely ones, and bounds for nine in ten."""

    low_s: float
    likely_s: float
    high_s: float


class ProgressInfo(_Record):
    """The latest progress; `value` runs from 0 to 1."""

    value: float
    step: int
    steps: int
    stage: str
    reference_variance: float | None = None
    adaptive_factor: float | None = None


class ErrorInfo(_Record):
    """Why a job failed."""

    code: str
    message: str
    retryable: bool = False


class Job(_Record):
    """The authoritative snapshot of one job; times are unix seconds of the Redis server."""

    id: str
    status: JobStatus
    priority: Priority
    attempt: int
    max_attempts: int
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    options: RestoreOptions
    resolved: dict[str, Any] | None = None
    source: SourceInfo
    progress: ProgressInfo | None = None
    output: OutputInfo | None = None
    error: ErrorInfo | None = None
    model: str | None = None
    fingerprint: str | None = None  # of the model's weights
    cached: bool = False  # the result of an equal request, given again
    seq: int = 0
    caller: str = Field(default="", exclude=True)  # whose job it is; nobody else sees it
    requeued_as: str | None = None  # the job that an operator made of this dead one
