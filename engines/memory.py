"""How much GPU memory a model needs, and what to give up where there is less. Needs no weights.

Everything is computed from a folder's configuration. Each graph of the table runs once on torch's
meta device, which knows shapes and holds no values: weights that an operation reads are the
graph's own, and the largest sum of tensors alive at a time is its working memory. So

    needed   = reserve + weights of the resident graphs + batch * state + largest phase
    state    = memory of both denoisers + steps * embeddings + last residuals + latents + picture
    step     = rows * batch * max(previewer, aggregator, unet + 2 * residuals), each with its inputs
    decode   = one picture's latents and the widest maps of the decoder
    begin    = the largest of text, vision, encode, conditioning; with a layer if loaded for it
    layer    = what the largest layer takes while its weight is made of its parts, where it is

Attention counts as one operation where heads are at most 256 wide; wider ones keep their scores.

How far it is off: builds of SDXL's UNet by TensorRT-RTX for 8 x 128 x 128 latents stated 1.27 GB
(compute capability 8.9) and 1.90 GB (all that it knows) of working memory; this gives 1.32 GB, so
4 % more and 30 % less. Nothing was compared on a GPU. Workspaces of convolutions, contexts and what
an allocator loses are not counted; `Work.reserve_bytes` is an assumption that stands for them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor, nn

from engines.flows import Flow, Picture, traced
from engines.folder import SHIPPED, ModelFolder, model_path, read_folder
from engines.graphs import STEP_GRAPHS, all_graphs
from engines.models.adapter import DecoupledCrossAttention
from engines.models.aggregator import SFT_WIDTH
from engines.models.autoencoder import CODEC_TILING
from engines.models.denoiser import Denoiser
from engines.models.lora import lora_targets
from engines.models.resampler import ResamplerConfig
from engines.networks import Networks, build_networks
from engines.step import BATCH_LIMIT
from engines.tiling import plan_tiles
from engines.weights import LORA

GIB: Final = 2**30
PUBLISHED: Final = "sdxl"  # the name of the full size, which needs no folder
PUBLISHED_RANK: Final = 64

# In order of what they cost; each does what those before it do.
OPTIONS: Final = {
    "resident": "everything stays on the GPU",
    "begin": "layers of text, vision, encoder and conditioning are loaded while they run",
    "difference": "and the previewer is kept as its LoRA beside the main network, where smaller",
    "tiles": "and pictures are encoded and decoded in tiles, whose norms see one tile each",
    "fp8": "and matrices of the step graphs are kept in one byte a value",
}
EXACT: Final = ("resident", "begin", "difference")  # with these results stay the same
_LEVEL: Final = {name: level for level, name in enumerate(OPTIONS)}
_BEGIN: Final = ("text", "vision", "encode", "unet_conditioning", "previewer_conditioning")
_CODEC: Final = ("encode", "decode")
_LATENTS: Final = 10  # tensors like latents that a restoration keeps, one for each row at most


@dataclass(frozen=True, slots=True)
class GraphSize:
    """What a graph weighs, and what flows through it by picture size."""

    name: str
    values: int  # of the weights that it reads
    matrices: int  # of these, in weights of two axes or more
    lora: int  # values that make the previewer's weights from the main network's
    layer: int  # values of its largest layer
    itemsize: int  # bytes of a value
    flows: Mapping[Picture, Flow]

    def weight_bytes(self, option: str = "resident") -> int:
        """Bytes of its weights under an option."""
        single = at_least(option, "fp8") and self.name in STEP_GRAPHS
        full = self.values * self.itemsize - (self.matrices * (self.itemsize - 1) if single else 0)
        if self.lora and at_least(option, "difference"):
            return min(full, self.lora * self.itemsize)
        return full

    def made_bytes(self, option: str) -> int:
        """What the largest weight takes at most while it is made of what is kept of it."""
        beside = self.lora and at_least(option, "difference")
        single = at_least(option, "fp8") and self.name in STEP_GRAPHS
        # In float32 what is added and the sum; what it is added to, and the weight.
        return self.layer * (2 * 4 + 2 * self.itemsize) if beside or single else 0


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """All graphs of a model, and what belongs to none."""

    graphs: Mapping[str, GraphSize]
    parameters: Mapping[str, int]  # of each network; the UNet without and with its adapter
    other_bytes: int


@dataclass(frozen=True, slots=True)
class Work:
    """What a GPU is planned for."""

    picture: Picture = (1024, 1024)
    rows: int = 2  # of a restoration: 2 with guidance
    steps: int = 30
    reserve_bytes: int = GIB


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a batch needs."""

    weights: int
    state: int
    working: int
    phase: str  # which needs `working`
    reserve: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.state + self.working + self.reserve


@dataclass(frozen=True, slots=True)
class Fit:
    """An option on a GPU: the largest batch (0: none), and what that batch, or one, needs."""

    option: str
    batch: int
    need: Need


@dataclass(frozen=True, slots=True)
class Plan:
    """The option to take on a GPU: the first that fits; with none, the one that misses least."""

    gpu_bytes: int
    best: Fit
    fits: tuple[Fit, ...]  # every option, in order of cost

    @property
    def short_bytes(self) -> int:
        """What is missing for a single restoration; 0 where one fits."""
        return max(0, self.best.need.total - self.gpu_bytes)


def at_least(option: str, other: str) -> bool:
    """Whether an option does what another one does."""
    return _LEVEL[option] >= _LEVEL[other]


def plan(sizes: ModelSizes, gpu_bytes: int, work: Work | None = None) -> Plan:
    """The cheapest option that fits, with the largest batch that it takes."""
    work = work or Work()
    fits = tuple(_fit(sizes, option, gpu_bytes, work) for option in OPTIONS)
    best = next((fit for fit in fits if fit.batch), None)
    return Plan(gpu_bytes, best or min(fits, key=lambda fit: fit.need.total), fits)


def need(sizes: ModelSizes, option: str, batch: int, work: Work) -> Need:
    """What `batch` restorations of one size need that are in progress together."""
    graphs, away = sizes.graphs, _BEGIN if at_least(option, "begin") else ()
    weights = sum(g.weight_bytes(option) for name, g in graphs.items() if name not in away)
    phases = dict(_phases(sizes, option, batch, work))
    phase = max(phases, key=lambda name: phases[name])
    state = batch * _state(sizes, work)
    return Need(weights + sizes.other_bytes, state, phases[phase], phase, work.reserve_bytes)


def measure(
    model: str | Path, pictures: tuple[Picture, ...] = ((1024, 1024),), codec_itemsize: int = 4
) -> ModelSizes:
    """Sizes of "sdxl", of a shipped model or of a folder, with all but the codec in float16.

    codec_itemsize: 4 for an encoder and decoder in float32, 2 in bfloat16.
    """
    folder, rank = description(model)
    with torch.device("meta"):
        networks = build_networks(folder)
    for network in networks.modules():
        network.requires_grad_(False).eval()
    denoiser, factor = networks.denoiser, networks.codec.factor
    lora = _lora_values(denoiser, rank)
    measured: dict[str, GraphSize] = {}
    for name, graph in all_graphs(networks, denoiser).items():
        dtype, sides = torch.float16, set(pictures)
        if name in _CODEC:
            dtype = torch.bfloat16 if codec_itemsize == 2 else torch.float32
            sides |= {_tile(picture) for picture in pictures}
        traces = traced(graph, sides, factor, dtype)
        trace = next(iter(traces.values()))
        weights = trace.weights
        measured[name] = GraphSize(
            name=name,
            values=sum(weight.numel() for weight in weights),
            matrices=sum(weight.numel() for weight in weights if weight.ndim > 1),
            lora=sum(lora.get(w, 0) for w in weights) if name.startswith("previewer") else 0,
            layer=trace.layer,
            itemsize=dtype.itemsize,
            flows={picture: own.flow for picture, own in traces.items()},
        )
    tone = 0 if networks.tone is None else _count(networks.tone)
    return ModelSizes(measured, _parameters(networks), torch.float16.itemsize * tone)


def _fit(sizes: ModelSizes, option: str, gpu_bytes: int, work: Work) -> Fit:
    for batch in range(BATCH_LIMIT, 0, -1):
        own = need(sizes, option, batch, work)
        if own.total <= gpu_bytes:
            return Fit(option, batch, own)
    return Fit(option, 0, need(sizes, option, 1, work))


def _state(sizes: ModelSizes, work: Work) -> int:
    """Bytes that a restoration keeps between two steps."""

    def handed(name: str) -> int:
        return sizes.graphs[name].flows[work.picture].outputs

    memory = handed("unet_conditioning") + handed("previewer_conditioning")
    embedded = handed("unet_embed") + handed("previewer_embed") + handed("aggregator_embed")
    kept = memory + work.steps * embedded + handed("aggregator") + _LATENTS * handed("encode")
    return work.rows * kept + handed("decode")


def _phases(sizes: ModelSizes, option: str, batch: int, work: Work) -> Iterator[tuple[str, int]]:
    """Working memory of everything that may run; one thing runs at a time."""
    rows, whole = work.rows * batch, work.picture
    residuals = sizes.graphs["aggregator"].flows[whole].outputs
    for name in STEP_GRAPHS:
        graph = sizes.graphs[name]
        held = 2 * residuals if name == "unet" else 0  # as the aggregator gave them, and scaled
        yield name, rows * (graph.flows[whole].bytes + held) + graph.made_bytes(option)
    for name in ("decode", *_BEGIN):
        graph = sizes.graphs[name]
        size = _tile(whole) if at_least(option, "tiles") and name in _CODEC else whole
        needed = graph.flows[size].bytes
        if size != whole:  # the tiles so far, their sum and its weights
            needed += 3 * max(graph.flows[whole].inputs, graph.flows[whole].outputs)
        needed *= 1 if name in (*_CODEC, "text") else work.rows
        if name in _BEGIN and at_least(option, "begin"):
            needed += graph.layer * graph.itemsize
        yield name, needed + graph.made_bytes(option)


def _tile(picture: Picture) -> Picture:
    layout = plan_tiles(picture, CODEC_TILING)
    return layout.width, layout.height


def description(model: str | Path) -> tuple[ModelFolder, int]:
    """A model's description and the rank of its LoRA."""
    tokenizers = SHIPPED / "nano"  # of any model: they only have to be there
    if model != PUBLISHED:
        path = model_path(model)
        return replace(read_folder(path), path=tokenizers), _rank(path)
    said = json.loads((Path(__file__).parent / "sizes_sdxl.json").read_text(encoding="utf-8"))
    folder = ModelFolder(
        path=tokenizers,
        unet=said["unet"],
        codec=said["codec"],
        scheduler=said["scheduler"],
        text=(said["text"][0], said["text"][1]),
        vision=said["vision"],
        preprocessing=said["preprocessing"],
        resampler=ResamplerConfig(),
        sft_width=SFT_WIDTH,
        tone_hidden=None,
        restorer={},
    )
    return folder, PUBLISHED_RANK


def _rank(folder: Path) -> int:
    """Rank of the LoRA in a folder; the published one where there is none to look into."""
    path = folder / LORA[0]
    if not path.is_file():
        return PUBLISHED_RANK
    opened: Any = safe_open(str(path), "pt")
    with opened as file:
        down = next(key for key in file.keys() if ".lora.down." in key or ".lora_A." in key)  # noqa: SIM118
        return int(file.get_slice(down).get_shape()[0])


def _lora_values(denoiser: Denoiser, rank: int) -> dict[Tensor, int]:
    """Weight -> values of its LoRA pair."""
    network: Any = denoiser  # its type is only partly known
    targets = lora_targets(network.named_modules())
    weights = [denoiser.get_parameter(f"{name}.weight") for name in targets]
    return {weight: rank * (len(weight) + weight[0].numel()) for weight in weights}


def _parameters(networks: Networks) -> dict[str, int]:
    unet = networks.denoiser.unet
    processors = list(unet.attn_processors.values())
    adapter = sum(_count(own) for own in processors if isinstance(own, DecoupledCrossAttention))
    return {
        "unet": _count(unet) - adapter,
        "unet with adapter": _count(unet),
        "resampler": _count(networks.denoiser.resampler),
        "aggregator": _count(networks.aggregator),
        "vision": _count(networks.vision),
        "text": _count(networks.text),
        "codec": _count(networks.codec),
    }


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
