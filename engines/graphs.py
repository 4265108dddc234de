"""The table of graphs: what each network takes and gives, in which shapes, to export and compile.

A graph is a module over plain tensors. What no step changes is a graph of its own (`conditioning`,
`embed`), so that the graphs of a step hold nothing else (see docs/engines.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engines.errors import EngineError
from engines.models.adapter import Hoisted, Memory
from engines.models.aggregator import Aggregator
from engines.models.autoencoder import KLCodec, PatchCodec
from engines.models.denoiser import Denoiser
from engines.models.text import TextEncoder
from engines.models.vision import VisionEncoder
from engines.networks import Networks

STEP_GRAPHS = ("previewer", "aggregator", "unet")
ROWS, HEIGHT, WIDTH = "rows", "height", "width"
VISION_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis whose length changes from call to call: rows, or latent pixels times a factor."""

    name: str  # ROWS, HEIGHT or WIDTH
    multiply: int = 1
    divide: int = 1

    def length(self, sizes: Mapping[str, int]) -> int:
        """Its length at these sizes. Raises ValueError where a level does not divide them."""
        size = sizes[self.name] * self.multiply
        if size % self.divide:
            raise ValueError(
                f"{self.name} is {sizes[self.name]} latent pixels, it must be a multiple of "
                f"{self.divide}"
            )
        return size // self.divide

    def __str__(self) -> str:
        scale = f"_by_{self.divide}" if self.divide > 1 else ""
        return self.name + (f"_times_{self.multiply}" if self.multiply > 1 else scale)


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output. `dtype` None is the precision that the graph is made in."""

    name: str
    axes: tuple[int | Axis, ...]
    dtype: torch.dtype | None = None

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Its shape where ROWS, HEIGHT and WIDTH have these lengths."""
        return tuple(a if isinstance(a, int) else a.length(sizes) for a in self.axes)


@dataclass(frozen=True, slots=True)
class Graph:
    """One network over plain tensors: `module(*inputs)` gives a tuple, one for each output."""

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    half: bool = True  # may be made in float16

    def precision(self, asked: torch.dtype) -> torch.dtype:
        """The precision it is made in. Raises EngineError for another than float32 and float16."""
        if asked not in (torch.float32, torch.float16):
            raise EngineError(f"precision is {asked}, graphs are made in float32 or float16")
        return asked if self.half else torch.float32

    def example(
        self, rows: int, height: int, width: int, dtype: torch.dtype, seed: int = 0
    ) -> tuple[Tensor, ...]:
        """Random inputs for these many rows and latent pixels."""
        sizes = {ROWS: rows, HEIGHT: height, WIDTH: width}
        generator = torch.Generator().manual_seed(seed)
        return tuple(_values(port, port.shape(sizes), dtype, generator) for port in self.inputs)

    def zeros(self, sample: Tensor) -> list[Tensor]:
        """Outputs of nothing but zeros, for the rows and latent pixels of sample (B, C, h, w)."""
        rows, _, height, width = sample.shape
        sizes = {ROWS: rows, HEIGHT: height, WIDTH: width}
        return [sample.new_zeros(port.shape(sizes)) for port in self.outputs]


def all_graphs(networks: Networks, previewer: Denoiser) -> dict[str, Graph]:
    """Every graph of a model, by name."""
    wide = _Sizes(networks)
    made = [
        *step_graphs(networks, previewer).values(),
        _embed("unet_embed", networks.denoiser, wide),
        _embed("previewer_embed", previewer, wide),
        _embed("aggregator_embed", networks.aggregator, wide),
        _conditioning("unet_conditioning", networks.denoiser, wide),
        _conditioning("previewer_conditioning", previewer, wide),
        _encode(networks.codec),
        _decode(networks.codec),
        _vision(networks.vision, wide),
        _text(networks.text, wide),
    ]
    return {graph.name: graph for graph in made}


def step_graphs(networks: Networks, previewer: Denoiser) -> dict[str, Graph]:
    """The three that run in every step."""
    wide = _Sizes(networks)
    latents = (Axis(ROWS), networks.codec.channels, Axis(HEIGHT), Axis(WIDTH))
    emb = Port("emb", (Axis(ROWS), wide.embedding))
    hoisted = (Port("modulation", (Axis(ROWS), wide.modulation)), *wide.memory)
    residuals = wide.residuals
    prediction = (Port("prediction", latents),)
    return {
        "previewer": Graph(
            "previewer",
            StepDenoiser(previewer, len(wide.widths)),
            (Port("sample", latents), emb, *hoisted),
            prediction,
        ),
        "aggregator": Graph(
            "aggregator",
            StepAggregator(networks.aggregator),
            (Port("degraded", latents), Port("reference", latents), emb),
            residuals,
        ),
        "unet": Graph(
            "unet",
            StepDenoiser(networks.denoiser, len(wide.widths)),
            (Port("sample", latents), emb, *hoisted, *residuals),
            prediction,
        ),
    }


class StepDenoiser(nn.Module):
    """`Denoiser.step` over plain tensors: sample, emb, modulation, memory, residuals."""

    def __init__(self, denoiser: Denoiser, groups: int) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.groups = groups

    def forward(
        self, sample: Tensor, emb: Tensor, modulation: Tensor, *rest: Tensor
    ) -> tuple[Tensor]:
        """The prediction; `rest` is text and image memory of each width, then the residuals."""
        flat, residuals = rest[: 2 * self.groups], rest[2 * self.groups :]
        memory = tuple(map(Memory, flat[::2], flat[1::2]))
        hoisted = Hoisted(memory, modulation)
        return (self.denoiser.step(sample, emb, hoisted, residuals or None),)


class StepAggregator(nn.Module):
    """`Aggregator` with a tuple for an answer."""

    def __init__(self, aggregator: Aggregator) -> None:
        super().__init__()
        self.aggregator = aggregator

    def forward(self, degraded: Tensor, reference: Tensor, emb: Tensor) -> tuple[Tensor, ...]:
        """Residuals, the middle last."""
        return tuple(self.aggregator(degraded, reference, emb))


class _Embed(nn.Module):
    """Time embedding and, for a denoiser, what its adaptive norms read off it."""

    def __init__(self, network: Denoiser | Aggregator) -> None:
        super().__init__()
        self.network = network

    def forward(self, timesteps: Tensor, pooled: Tensor, time_ids: Tensor) -> tuple[Tensor, ...]:
        emb = self.network.embed(timesteps, pooled, time_ids)
        if isinstance(self.network, Aggregator):
            return (emb,)
        return emb, self.network.modulate(emb)


class _Conditioning(nn.Module):
    """Resampler, keys and values: vision features and text to memory."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, features: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        tokens = self.denoiser.resampler(features)
        memory = self.denoiser.remember(text, tokens)
        return tuple(tensor for own in memory for tensor in own)


class _Encode(nn.Module):
    def __init__(self, codec: KLCodec | PatchCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, pixels: Tensor, *noise: Tensor) -> tuple[Tensor]:
        return (self.codec.encode(pixels, noise[0] if noise else None),)


class _Decode(nn.Module):
    def __init__(self, codec: KLCodec | PatchCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        return (self.codec.decode(latents),)


class _Vision(nn.Module):
    def __init__(self, vision: VisionEncoder) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        return (self.vision(pixels),)


class _Text(nn.Module):
    def __init__(self, text: TextEncoder) -> None:
        super().__init__()
        self.text = text

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return self.text.encode(first, second)


class _Sizes:
    """Widths and shapes that several graphs share, read off the networks."""

    def __init__(self, networks: Networks) -> None:
        unet, self.networks = networks.denoiser.unet, networks
        self.tokens, self.text, self.pooled = networks.text.widths
        self.queries = networks.denoiser.resampler.config.queries
        vision = networks.vision
        patches = (vision.crop // vision.dino.config.patch_size) ** 2
        self.features = (Axis(ROWS), 1 + patches, int(vision.dino.config.hidden_size))
        self.embedding: int = unet.time_embedding.linear_2.out_features
        self.widths = networks.denoiser.attentions_by_width()
        self.modulation = 4 * sum(width * count for width, count in self.widths.items())

    @property
    def memory(self) -> tuple[Port, ...]:
        """Text and image memory of each width."""
        lengths = {"text": self.tokens, "image": self.queries}
        return tuple(
            Port(f"{kind}_memory_{width}", (Axis(ROWS), count, 2, length, width))
            for width, count in self.widths.items()
            for kind, length in lengths.items()
        )

    @property
    def residuals(self) -> tuple[Port, ...]:
        """One for each skip connection of the UNet, then the middle."""
        config = self.networks.denoiser.unet.config
        widths: Sequence[int] = config.block_out_channels
        levels = [(0, widths[0])]
        for level, width in enumerate(widths):
            levels += [(level, width)] * config.layers_per_block
            if level < len(widths) - 1:
                levels.append((level + 1, width))
        levels.append((len(widths) - 1, widths[-1]))
        return tuple(
            Port(
                f"residual_{index}",
                (Axis(ROWS), width, Axis(HEIGHT, 1, 2**level), Axis(WIDTH, 1, 2**level)),
            )
            for index, (level, width) in enumerate(levels)
        )


def _embed(name: str, network: Denoiser | Aggregator, wide: _Sizes) -> Graph:
    inputs = (
        Port("timesteps", (Axis(ROWS),), torch.float32),
        Port("pooled", (Axis(ROWS), wide.pooled)),
        Port("time_ids", (Axis(ROWS), 6), torch.float32),
    )
    outputs = [Port("emb", (Axis(ROWS), wide.embedding))]
    if isinstance(network, Denoiser):
        outputs.append(Port("modulation", (Axis(ROWS), wide.modulation)))
    return Graph(name, _Embed(network), inputs, tuple(outputs))


def _conditioning(name: str, denoiser: Denoiser, wide: _Sizes) -> Graph:
    inputs = (
        Port("features", wide.features),
        Port("text", (Axis(ROWS), wide.tokens, wide.text)),
    )
    return Graph(name, _Conditioning(denoiser), inputs, wide.memory)


def _encode(codec: KLCodec | PatchCodec) -> Graph:
    # The encoder and decoder of SDXL overflow in half precision.
    latents = (Axis(ROWS), codec.channels, Axis(HEIGHT), Axis(WIDTH))
    noise = () if isinstance(codec, PatchCodec) else (Port("noise", latents),)
    inputs = (_pixels(codec), *noise)
    return Graph("encode", _Encode(codec), inputs, (Port("latents", latents),), half=False)


def _decode(codec: KLCodec | PatchCodec) -> Graph:
    latents = (Axis(ROWS), codec.channels, Axis(HEIGHT), Axis(WIDTH))
    return Graph(
        "decode", _Decode(codec), (Port("latents", latents),), (_pixels(codec),), half=False
    )


def _pixels(codec: KLCodec | PatchCodec) -> Port:
    sides = (Axis(HEIGHT, codec.factor), Axis(WIDTH, codec.factor))
    return Port("pixels", (Axis(ROWS), VISION_CHANNELS, *sides))


def _vision(vision: VisionEncoder, wide: _Sizes) -> Graph:
    pixels = Port("pixels", (Axis(ROWS), VISION_CHANNELS, vision.crop, vision.crop))
    return Graph("vision", _Vision(vision), (pixels,), (Port("features", wide.features),))


def _text(text: TextEncoder, wide: _Sizes) -> Graph:
    ids = (Axis(ROWS), wide.tokens)
    inputs = (Port("first", ids, torch.int64), Port("second", ids, torch.int64))
    hidden = Port("text", (Axis(ROWS), wide.tokens, wide.text))
    pooled = Port("pooled", (Axis(ROWS), wide.pooled))
    return Graph("text", _Text(text), inputs, (hidden, pooled), half=False)


def _values(
    port: Port, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    kwargs: dict[str, Any] = {"generator": generator}
    if port.dtype is torch.int64:
        return torch.randint(0, 2, shape, **kwargs)
    if port.dtype is torch.float32:  # time steps and sizes in pixels
        return torch.randint(1, 1000, shape, **kwargs).float()
    return torch.randn(shape, **kwargs).to(dtype)
