"""What a worker and its executor say to each other over the pipe; plain data, no torch.

A *run* is one attempt at one job. Messages name the run and not the job, because a job that was
lost and claimed again by the same worker must not be confused with its earlier attempt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.events import Stage
from service.jobs import RestoreOptions


@dataclass(frozen=True, slots=True)
class Begin:
    """Decode and encode this image, then step it with the others."""

    run: int
    job_id: str
    image: bytes
    options: RestoreOptions


@dataclass(frozen=True, slots=True)
class Cancel:
    """Drop this run before its next step or its decoding; unknown runs are ignored."""

    run: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Leave now; whatever is still active is dropped."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded; the first message of a healthy executor."""

    model: str
    fingerprint: str
    presets: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded; the executor leaves after saying so."""

    message: str


@dataclass(frozen=True, slots=True)
class Started:
    """The run's parameters are settled: preset and overrides, every one with its value."""

    run: int
    resolved: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the run is. `step` is 0 while encoding; the last two fields come from the engine."""

    run: int
    step: int
    steps: int
    stage: Stage
    timestep: int | None = None
    reference_variance: float | None = None
    adaptive_factor: float | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture of the latest reference."""

    run: int
    step: int
    steps: int
    width: int
    height: int
    content_type: str
    image: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The encoded result; ends the run."""

    run: int
    image: bytes
    content_type: str
    width: int
    height: int
    sha256: str
    cost_s: float  # of the executor's time; of steps taken with others, its share
    steps: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended without a result."""

    run: int
    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Canceled:
    """The run was dropped as asked."""

    run: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """One call of `Restorer.step` has returned: how many runs it held and how long it took."""

    batch: int
    seconds: float


ToExecutor = Begin | Cancel | Shutdown
Ending = Finished | Failed | Canceled
RunMessage = Started | Progress | Preview | Ending
FromExecutor = Ready | LoadFailed | Stepped | RunMessage
