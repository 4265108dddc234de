"""What goes into the queue and comes out of it: submissions, leases, and who runs and waits."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from service.jobs import Job, RestoreOptions, SourceInfo

# Options that change the bytes of the result.
_DECIDES: Final = {
    *("preset", "prompt", "negative_prompt", "steps", "guidance_scale", "preview_start"),
    *("creative_start", "adaptive", "seed", "color_match", "output_format", "output_quality"),
}


SIZED: Final = "@"


def _size_class(pixels: int) -> int:
    """Quarters of an octave: models pad pictures, so their cost goes with the size in steps."""
    return round(4 * math.log2(max(1, pixels)))


class LeaseState(StrEnum):
    """What a heartbeat learns of one lease."""

    HELD = "held"
    LOST = "lost"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job; worth something only while the server agrees."""

    job_id: str
    worker_id: str
    attempt: int
    options: RestoreOptions


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked request to restore: what to do with which picture, and for whom."""

    options: RestoreOptions
    source: SourceInfo
    image: bytes
    caller: str = ""
    idempotency_key: str | None = None
    fingerprint: str = ""  # of the model that serves, for the cache of results

    @property
    def pace_key(self) -> str:
        """Jobs of one key cost alike; up to SIZED, but for the size of their pictures."""
        options = self.options
        guided = options.guidance_scale is not None and options.guidance_scale > 1
        named = (options.preset or "default", options.steps or "own", options.adaptive)
        kind = "/".join(map(str, (*named, guided, options.previews)))
        return f"{kind}{SIZED}{_size_class(self.source.width * self.source.height)}"

    @property
    def cache_key(self) -> str:
        """Digest of what decides the result, for one caller; "" where the cache is not wanted."""
        if not self.options.cache:
            return ""
        wanted = self.options.model_dump_json(include=_DECIDES)
        text = f"{self.caller}\0{wanted}\0{self.source.sha256}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def payload(self) -> str:
        """Digest of what was asked for: equal for a repeated request, and for no other."""
        return hashlib.sha256(
            f"{self.options.model_dump_json()}\0{self.source.sha256}".encode()
        ).hexdigest()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a finished job took of its executor's time, and in how many steps."""

    seconds: float
    steps: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A job as a forecast sees it."""

    job_id: str
    pace_key: str
    pixels: int
    owner: str  # "" while it waits
    done: float  # share of its steps
    since_s: float = 0.0  # when that was told


@dataclass(frozen=True, slots=True)
class Load:
    """Who runs and who waits; `count` are all that wait, `waiting` the first of them."""

    held: list[Loaded]
    waiting: list[Loaded]
    count: int
    crowding: float = 0.0  # by what share each further busy worker slows the others down


@dataclass(frozen=True, slots=True)
class Admission:
    """The job of a submission; `replayed` when an earlier one had made it."""

    job: Job
    replayed: bool
