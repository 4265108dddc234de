"""Plain data of a restoration: what it is given, and where it stands between two steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from engines.models.adapter import Memory
from engines.params import RestoreParams
from engines.tiling import Layout


class NoiseSource(Protocol):
    """Where a restoration's standard normal noise comes from."""

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """The next tensor of the sequence, float32 of `shape`."""
        ...


class SeededNoise:
    """Noise of one restoration: its own generator, so batch neighbours cannot change it."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Drawn on the CPU whatever the device, so that a seed means the same everywhere."""
        return torch.randn(shape, generator=self._generator)


class NoiseField:
    """Noise of a tiled picture: overlapping tiles see the same noise where they overlap.

    Every draw is one field over the whole latent picture, of which each tile takes its window.
    """

    def __init__(self, seed: int, height: int, width: int) -> None:
        self._source = SeededNoise(seed)
        self._size = (height, width)
        self._fields: dict[int, Tensor] = {}

    def window(self, top: int, left: int) -> "NoiseWindow":
        """The noise source of the tile at (top, left), in latent pixels."""
        return NoiseWindow(self, top, left)

    def field(self, index: int, channels: int) -> Tensor:
        """The draw of that index, (1, channels, height, width); tiles ask at the same pace."""
        if index not in self._fields:
            self._fields[index] = self._source.draw((1, channels, *self._size))
            self._fields.pop(index - 2, None)
        return self._fields[index]


class NoiseWindow:
    """The part of a noise field that one tile sees."""

    def __init__(self, field: NoiseField, top: int, left: int) -> None:
        self._field = field
        self._corner = (top, left)
        self._drawn = 0

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """The tile's window (1, C, h, w) of the next field."""
        top, left = self._corner
        field = self._field.field(self._drawn, shape[1])
        self._drawn += 1
        return field[:, :, top : top + shape[2], left : left + shape[3]]


@dataclass(frozen=True, slots=True)
class TextCondition:
    """Prompt embeddings, one row: hidden (1, T, D), pooled (1, P)."""

    hidden: Tensor
    pooled: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything a restoration starts from, as tensors with a batch of one.

    Either `pixels` (1, 3, H, W) in [-1, 1] or `latents` (1, C, h, w) holds the degraded picture.
    `vision` is the vision encoder's input. `reference` replaces the degraded latents as the
    aggregator's reference while nothing is previewed.
    """

    vision: Tensor
    pixels: Tensor | None = None
    latents: Tensor | None = None
    prompt: TextCondition | None = None
    negative: TextCondition | None = None
    reference: Tensor | None = None


Embedded = dict[tuple[str, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Step-invariant conditioning; one row, or with guidance two: negative, positive."""

    text: Tensor  # (rows, T, D)
    pooled: Tensor  # (rows, P)
    time_ids: Tensor  # (rows, 6)
    tokens: Tensor  # (rows, Q, D) of the main network's resampler
    preview_tokens: Tensor  # (rows, Q, D) of the previewer's resampler
    memory: tuple[Memory, ...]  # of the main network's cross-attentions, by width
    preview_memory: tuple[Memory, ...]  # of the previewer's
    # (network, time step) -> time embedding (rows, E) and modulation (rows, M), once made.
    embedded: Embedded = field(default_factory=Embedded)

    @property
    def rows(self) -> int:
        """1, or 2 with classifier-free guidance."""
        return len(self.text)


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens at each step, settled at the start."""

    timesteps: tuple[int, ...]
    after: tuple[int, ...]  # time step that each step lands on; negative: clean
    previews: tuple[bool, ...]
    aggregates: tuple[bool, ...]
    ceilings: tuple[float, ...]  # of the aggregator's scale


@dataclass(frozen=True, slots=True)
class Frame:
    """How the work picture sits in the caller's picture; sizes (width, height) in pixels."""

    output: tuple[int, int]
    content: tuple[int, int]  # part of the work picture that is not padding
    source: Tensor | None  # work picture (1, 3, H, W) in [-1, 1], for the colour match


@dataclass(slots=True)
class Restoration:
    """A restoration in progress: data only, so it can wait, change batches or be dropped."""

    params: RestoreParams
    plan: Plan
    condition: Conditioning
    noise: NoiseSource
    frame: Frame
    degraded: Tensor  # (1, C, h, w)
    base: Tensor  # (rows, C, h, w) the degraded latents in the tones that the text asks for
    latents: Tensor  # (1, C, h, w) at the next step's noise level
    given_reference: Tensor | None = None
    step: int = 0
    reference: Tensor | None = None  # (rows, C, h, w), the latest
    last_reference: Tensor | None = None  # positive row, as of the step before
    factor: Tensor = field(default_factory=lambda: torch.ones(1, 1, 1, 1))
    residuals: Sequence[Tensor] | None = None  # (rows, ...) each; scaled, but for adaptive reuse
    settled: bool = False  # the reference stands still (adaptive reuse)
    reused: int = 0  # steps in a row that used an earlier reference
    trace: "StepTrace | None" = None

    @property
    def steps(self) -> int:
        """Number of steps in all."""
        return len(self.plan.timesteps)

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return self.step >= self.steps


@dataclass(frozen=True, slots=True)
class StepTrace:
    """Tensors of the latest step, rows of one restoration; for checks and studies."""

    prediction: Tensor  # (rows, C, h, w) of the main network, before guidance
    guided: Tensor  # (1, C, h, w)
    x0: Tensor  # (1, C, h, w)
    scale: Tensor  # (1, 1, 1, 1) of the aggregator
    factor: Tensor  # (1, 1, 1, 1) adaptive, after the step
    previewed: bool
    aggregated: bool
    preview_prediction: Tensor | None  # (rows, C, h, w)


@dataclass(frozen=True, slots=True)
class TiledRestoration:
    """A picture in progress in parts, all at the same step."""

    tiles: tuple[Restoration, ...]  # one for each corner, then their mirror images if asked for
    layout: Layout
    frame: Frame
    work: tuple[int, int]  # size of the work picture (width, height) in pixels

    @property
    def params(self) -> RestoreParams:
        """Parameters that all tiles share."""
        return self.tiles[0].params

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.tiles[0].step

    @property
    def steps(self) -> int:
        """Number of steps in all."""
        return self.tiles[0].steps

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return self.tiles[0].done


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What a step tells the outside world."""

    step: int  # 1-based
    steps: int
    timestep: int
    reference_variance: float | None  # mean squared change of the reference; None at the first
    adaptive_factor: float
