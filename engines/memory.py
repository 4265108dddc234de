"""How much GPU memory a model needs, and what to give up where there is less. Needs no weights.

Everything is computed from a folder's configuration. Each graph of the table runs once on torch's
meta device, which knows shapes and holds no values: weights that an operation reads are the
graph's own, and the largest sum of tensors alive at a time is its working memory. So

    needed   = reserve + weights of the resident graphs + batch * state + largest phase
    state    = memory of both denoisers + steps * embeddings + last residuals + latents + picture
    step     = rows * batch * max(previewer, aggregator, unet + 2 * residuals), each with its inputs
    decode   = one picture's latents and the widest maps of the decoder
    begin    = the largest of text, vision, encode, conditioning; with its weights if loaded for it

Attention counts as one operation where heads are at most 256 wide; wider ones keep their scores.

How far it is off: builds of SDXL's UNet by TensorRT-RTX for 8 x 128 x 128 latents stated 1.27 GB
(compute capability 8.9) and 1.90 GB (all that it knows) of working memory; this gives 1.32 GB, so
4 % more and 30 % less. Nothing was compared on a GPU. Workspaces of convolutions, contexts and what
an allocator loses are not counted; `Work.reserve_bytes` is an assumption that stands for them.
"""

import json
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from engines.folder import SHIPPED, ModelFolder, model_path, read_folder
from engines.graphs import HEIGHT, ROWS, STEP_GRAPHS, WIDTH, Axis, Graph, all_graphs
from engines.models.adapter import DecoupledCrossAttention
from engines.models.aggregator import SFT_WIDTH
from engines.models.denoiser import Denoiser
from engines.models.lora import lora_targets
from engines.models.resampler import ResamplerConfig
from engines.networks import Networks, build_networks
from engines.step import BATCH_LIMIT
from engines.weights import LORA

GIB: Final = 2**30
PUBLISHED: Final = "sdxl"  # the name of the full size, which needs no folder
PUBLISHED_RANK: Final = 64
CODEC_TILE_PX: Final = 512
Picture = tuple[int, int]  # width, height in pixels, multiples of 64

# In order of what they cost; each does what those before it do.
OPTIONS: Final = {
    "resident": "everything stays on the GPU",
    "begin": "text, vision, encoder and conditioning are loaded when a restoration begins",
    "difference": "and the previewer is kept as its LoRA beside the main network, where smaller",
    "tiles": "and pictures are encoded and decoded in tiles, whose norms see one tile each",
    "fp8": "and matrices of the step graphs take one byte a value",
}
RUNNABLE: Final = ("resident", "begin", "difference")  # what `engines.load` can do
_LEVEL: Final = {name: level for level, name in enumerate(OPTIONS)}
_BEGIN: Final = ("text", "vision", "encode", "unet_conditioning", "previewer_conditioning")
_CODEC: Final = ("encode", "decode")
_FUSED_WIDTH: Final = 256  # widest head that fused attention takes
_LATENTS: Final = 10  # tensors like latents that a restoration keeps, one for each row at most


@dataclass(frozen=True, slots=True)
class Flow:
    """Bytes of one row of a graph at one picture size."""

    inputs: int
    outputs: int
    working: int  # most that is alive at a time beside weights and inputs

    @property
    def bytes(self) -> int:
        """All that a row takes while the graph runs."""
        return self.inputs + self.working


@dataclass(frozen=True, slots=True)
class GraphSize:
    """What a graph weighs, and what flows through it by picture size."""

    name: str
    values: int  # of the weights that it reads
    matrices: int  # of these, in weights of two axes or more
    lora: int  # values that make the previewer's weights from the main network's
    itemsize: int  # bytes of a value
    flows: Mapping[Picture, Flow]

    def weight_bytes(self, option: str = "resident") -> int:
        """Bytes of its weights under an option."""
        single = _LEVEL[option] >= _LEVEL["fp8"] and self.name in STEP_GRAPHS
        full = self.values * self.itemsize - (self.matrices * (self.itemsize - 1) if single else 0)
        if self.lora and _LEVEL[option] >= _LEVEL["difference"]:
            return min(full, self.lora * self.itemsize)
        return full


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


def plan(sizes: ModelSizes, gpu_bytes: int, work: Work | None = None) -> Plan:
    """The cheapest option that fits, with the largest batch that it takes."""
    work = work or Work()
    fits = tuple(_fit(sizes, option, gpu_bytes, work) for option in OPTIONS)
    best = next((fit for fit in fits if fit.batch), None)
    return Plan(gpu_bytes, best or min(fits, key=lambda fit: fit.need.total), fits)


def need(sizes: ModelSizes, option: str, batch: int, work: Work) -> Need:
    """What `batch` restorations of one size need that are in progress together."""
    graphs, away = sizes.graphs, _BEGIN if _LEVEL[option] >= _LEVEL["begin"] else ()
    weights = sum(g.weight_bytes(option) for name, g in graphs.items() if name not in away)
    phases = dict(_phases(sizes, option, batch, work))
    phase = max(phases, key=lambda name: phases[name])
    state = batch * _state(sizes, work)
    return Need(weights + sizes.other_bytes, state, phases[phase], phase, work.reserve_bytes)


def measure(
    model: str | Path, pictures: tuple[Picture, ...] = ((1024, 1024),), codec_itemsize: int = 4
) -> ModelSizes:
    """Sizes of "sdxl", of a shipped model or of a folder, with step graphs in float16.

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
        dtype, sides = graph.precision(torch.float16), set(pictures)
        if name in _CODEC:
            dtype = torch.bfloat16 if codec_itemsize == 2 else dtype
            sides |= {_tile(picture) for picture in pictures}
        traces = _traced(graph, sides, factor, dtype)
        weights = next(iter(traces.values())).weights
        measured[name] = GraphSize(
            name=name,
            values=sum(weight.numel() for weight in weights),
            matrices=sum(weight.numel() for weight in weights if weight.ndim > 1),
            lora=sum(lora.get(w, 0) for w in weights) if name.startswith("previewer") else 0,
            itemsize=dtype.itemsize,
            flows={picture: trace.flow for picture, trace in traces.items()},
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
        held = 2 * residuals if name == "unet" else 0  # as the aggregator gave them, and scaled
        yield name, rows * (sizes.graphs[name].flows[whole].bytes + held)
    tiled = _LEVEL[option] >= _LEVEL["tiles"]
    for name in ("decode", *_BEGIN):
        graph = sizes.graphs[name]
        size = _tile(whole) if tiled and name in _CODEC else whole
        needed = graph.flows[size].bytes
        if size != whole:  # the tiles so far, their sum and its weights
            needed += 3 * max(graph.flows[whole].inputs, graph.flows[whole].outputs)
        needed *= 1 if name in (*_CODEC, "text") else work.rows
        if name in _BEGIN and _LEVEL[option] >= _LEVEL["begin"]:
            needed += graph.weight_bytes(option)
            if graph.lora and _LEVEL[option] >= _LEVEL["difference"]:
                needed += sizes.graphs["unet_conditioning"].weight_bytes(option)
        yield name, needed


def _tile(picture: Picture) -> Picture:
    width, height = picture
    return min(width, CODEC_TILE_PX), min(height, CODEC_TILE_PX)


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


@dataclass(frozen=True, slots=True)
class _Trace:
    flow: Flow
    weights: list[Tensor]


def _traced(
    graph: Graph, pictures: set[Picture], factor: int, dtype: torch.dtype
) -> dict[Picture, _Trace]:
    """One run of a graph at each size on the meta device; one for all where no size matters."""
    ports = (*graph.inputs, *graph.outputs)
    sizeless = not any(
        isinstance(axis, Axis) and axis.name in (HEIGHT, WIDTH)
        for port in ports
        for axis in port.axes
    )
    module, traces = graph.module.to(dtype), dict[Picture, _Trace]()
    for picture in sorted(pictures):
        if sizeless and traces:
            traces[picture] = next(iter(traces.values()))
            continue
        sizes = {ROWS: 1, WIDTH: picture[0] // factor, HEIGHT: picture[1] // factor}
        given = [
            torch.empty(port.shape(sizes), dtype=port.dtype or dtype, device="meta")
            for port in graph.inputs
        ]
        weights = [*module.parameters(), *module.buffers()]
        with torch.inference_mode(), _Live(weights, given) as live, _Fused(), torch.device("meta"):
            outputs = module(*given)
        flow = Flow(_bytes(given), _bytes(outputs), live.most)
        traces[picture] = _Trace(flow, [w for w in weights if _storage(w) in live.read])
    return traces


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _storage(tensor: Tensor) -> int:
    storage: Any = tensor.untyped_storage()
    return storage._cdata


class _Fused(TorchFunctionMode):
    """Attention that keeps no scores where heads are narrow enough; its shapes alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.scaled_dot_product_attention or len(args) < 3:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        if query.shape[-1] > _FUSED_WIDTH:
            query.new_empty((*query.shape[:-1], key.shape[-2])).softmax(dim=-1)
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


class _Live(TorchDispatchMode):
    """Watches which of the weights are read, and how many bytes are alive that were not given."""

    def __init__(self, weights: list[Tensor], given: list[Tensor]) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]  (partly typed)
        self._theirs = {_storage(tensor) for tensor in (*weights, *given)}
        self._alive: dict[int, int] = {}
        self.read: set[int] = set()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        self.read.update(_storage(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        made = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(made):
            key = _storage(leaf) if isinstance(leaf, Tensor) else 0
            if key and key not in self._theirs and key not in self._alive:
                storage = leaf.untyped_storage()
                self._alive[key] = storage.nbytes()
                weakref.finalize(storage, self._alive.pop, key)
        self.most = max(self.most, sum(self._alive.values()))
        return made
