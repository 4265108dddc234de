"""What a restoration can be asked for. No torch in here."""

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self, cast, get_args, get_origin

DEFAULT_PROMPT = (
    "Photorealistic, highly detailed, hyper detailed photo - realistic maximum detail, 32k, "
    "ultra HD, extreme meticulous detailing, skin pore detailing, hyper sharpness, "
    "perfect without deformations, taken using a Canon EOS R camera, Cinematic, High Contrast, "
    "Color Grading."
)
DEFAULT_NEGATIVE_PROMPT = (
    "blurry, out of focus, unclear, depth of field, over-smooth, sketch, oil painting, cartoon, "
    "CG Style, 3D render, unreal engine, dirty, messy, worst quality, low quality, frames, "
    "painting, illustration, drawing, art, watermark, signature, jpeg artifacts, deformed, lowres"
)
MAX_STEPS = 100
MAX_SEED = 2**32 - 1


class ColorMatch(StrEnum):
    """How the colours of the result are brought back to those of the input."""

    NONE = "none"
    WAVELET = "wavelet"
    ADAIN = "adain"


class Sampler(StrEnum):
    """Solver step from one noise level to the next."""

    DDPM = "ddpm"
    DDIM = "ddim"


class Adaptive(StrEnum):
    """What the movement of the references from step to step decides."""

    OFF = "off"
    OFFICIAL = "official"  # scales the aggregator; leaves it out where that falls too low
    REUSE = "reuse"  # a reference that has settled serves again, with the aggregator's residuals


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroConditioning:
    """SDXL's size conditioning, (height, width) and (top, left) in pixels."""

    original_size: tuple[int, int]
    target_size: tuple[int, int]
    crop: tuple[int, int] = (0, 0)

    def time_ids(self) -> tuple[int, ...]:
        """The six numbers that the networks embed."""
        return (*self.original_size, *self.crop, *self.target_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreParams:
    """Parameters of one restoration; the defaults are those of the published pipeline.

    Shares of the run (`preview_start`, `creative_start`, ...) are fractions of its steps: step i of
    n counts as inside [start, end] when i / n >= start and (i + 1) / n <= end.
    Raises ValueError naming the field, the value and what is allowed.
    """

    prompt: str = DEFAULT_PROMPT
    negative_prompt: str | None = DEFAULT_NEGATIVE_PROMPT  # None: zero embeddings
    steps: int = 30
    guidance_scale: float = 7.0  # classifier-free guidance; off at 1 or below
    preview_start: float = 0.0  # before it, the reference is the degraded input itself
    creative_start: float = 1.0  # from it on, the aggregator is off
    adaptive: Adaptive = Adaptive.OFF  # `official` is the published `adastep`
    seed: int = 0
    color_match: ColorMatch = ColorMatch.NONE

    sampler: Sampler = Sampler.DDPM
    mirror: bool = False  # restore the mirror image as well, and average: twice the cost
    denoising_start: int = 1000  # time step below which the schedule lies; less keeps more
    timesteps: tuple[int, ...] | None = None  # custom, falling; overrides `steps`
    preview_end: float = 1.0
    aggregator_start: float = 0.0
    conditioning_scale: float | tuple[float, ...] = 1.0  # of the aggregator; one, or one per step
    guidance_rescale: float = 0.0  # arXiv 2305.08891 section 3.4
    denoising_end: float | None = None  # stop once this share of the noise is removed
    start_from_noise: bool = False  # instead of from the noised input
    multistep: bool = False  # official `multistep_restore`: second-order step from the preview
    clip_skip: int = 0
    micro: MicroConditioning | None = None  # default: the work size
    negative_micro: MicroConditioning | None = None  # default: the same as `micro`

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _is(value, field.type):
                raise ValueError(f"{field.name} is {value!r}, allowed: {_words(field.type)}")
        _within("steps", self.steps, 1, MAX_STEPS if self.timesteps is None else 1000)
        _within("denoising_start", self.denoising_start, self.steps, 1000)
        _within("guidance_scale", self.guidance_scale, 0.0, 100.0)
        _within("seed", self.seed, 0, MAX_SEED)
        _within("clip_skip", self.clip_skip, 0, 10)
        for name in ("preview_start", "preview_end", "creative_start", "aggregator_start"):
            _within(name, getattr(self, name), 0.0, 1.0)
        _within("guidance_rescale", self.guidance_rescale, 0.0, 1.0)
        if self.denoising_end is not None:
            _within("denoising_end", self.denoising_end, 0.0, 1.0)
        self._check_lists()

    def _check_lists(self) -> None:
        steps = self.timesteps
        if steps is not None:
            falling = all(a > b for a, b in zip(steps, steps[1:], strict=False))
            if not steps or not falling or steps[0] > 999 or steps[-1] < 0:
                raise ValueError(f"timesteps are {list(steps)}, allowed: falling, 999 to 0")
        scale = self.conditioning_scale
        for value in scale if isinstance(scale, tuple) else (scale,):
            _within("conditioning_scale", value, 0.0, 10.0)
        count = len(steps) if steps is not None else self.steps
        if isinstance(scale, tuple) and len(scale) != count:
            raise ValueError(f"conditioning_scale has {len(scale)} values for {count} steps")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain (JSON) values. Raises ValueError on unknown names."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown parameter(s): {', '.join(unknown)}")
        typed = dict(values)
        if isinstance(typed.get("adaptive"), bool):  # a plain yes is the published way
            typed["adaptive"] = Adaptive.OFFICIAL if typed["adaptive"] else Adaptive.OFF
        for name, enum in _ENUMS.items():
            if typed.get(name) in list(enum):
                typed[name] = enum(typed[name])
        for name in ("micro", "negative_micro"):
            if isinstance(typed.get(name), Mapping):
                pairs = {key: tuple(pair) for key, pair in typed[name].items()}
                typed[name] = MicroConditioning(**pairs)
        for name in ("timesteps", "conditioning_scale"):
            if isinstance(typed.get(name), list):
                typed[name] = tuple(typed[name])
        return cls(**typed)

    def as_dict(self) -> dict[str, Any]:
        """Every field as JSON-able values."""
        return dataclasses.asdict(self)


_ENUMS: Mapping[str, type[StrEnum]] = {
    "color_match": ColorMatch,
    "sampler": Sampler,
    "adaptive": Adaptive,
}


def _is(value: object, kind: Any) -> bool:
    """Whether a value has the type of a field; an int passes for a float, a bool for neither."""
    if isinstance(kind, types.UnionType):
        return any(_is(value, member) for member in get_args(kind))
    if get_origin(kind) is tuple:
        items = cast("tuple[object, ...]", value) if isinstance(value, tuple) else None
        return items is not None and all(_is(item, get_args(kind)[0]) for item in items)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not (
            isinstance(value, bool)
        )
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return ", ".join(kind)
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {value}, allowed: {low} to {high}")
