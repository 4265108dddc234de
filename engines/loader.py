"""From a name or folder to a Restorer: the only place where names become classes."""

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from engines.backends.tensorrt import TensorRtBackend
from engines.choice import BACKENDS, Choice
from engines.errors import EngineError
from engines.folder import ModelFolder, model_path, read_folder
from engines.memory import EXACT, GIB, OPTIONS, Work, at_least, measure, plan
from engines.models.autoencoder import CODEC_TILING, KLCodec
from engines.models.denoiser import Denoiser
from engines.models.lora import LoraPair, fuse_lora, with_lora_beside
from engines.networks import Networks, build_networks
from engines.one_byte import store_in_one_byte
from engines.parameterization import Prediction
from engines.presets import PRESETS
from engines.residency import guests, host
from engines.restorer import ModelSettings, Restorer
from engines.schedule import alphas_cumprod
from engines.sizes import WorkLimits
from engines.step import BATCH_LIMIT
from engines.tensorrt.runtime import Cuda
from engines.tiling import Tiling
from engines.weights import fingerprint, load_lora, load_networks

_SHARED = "difference"  # from here on torch alone: engines hold weights of their own
_log = logging.getLogger(__name__)


def load(
    model: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    backend: str = "torch",
    cache: Path | None = None,
    precision: str | None = None,
    memory: str = "auto",
) -> Restorer:
    """Load a packaged model by name ("nano") or any folder in the official layout.

    device: of torch; "auto" is a GPU where there is one. dtype: None is float16 on a GPU and
    float32 elsewhere; the codec never has less than float32.
    backend: what runs the networks of a step, one of BACKENDS. "auto" is the fastest that this
    machine has for the device; engines are kept in the folder `cache` (None: built each time).
    precision: of engines for processors, "f32" or "bf16"; None is "bf16" where the model's folder
    says that it is as good in it and the processor has it in hardware.
    memory: what is given up to need less of it, one of OPTIONS. "auto" is the first that fits into
    what is free of a GPU, and "resident" elsewhere.
    Raises WeightsError where the folder is missing or does not fit, EngineError where the backend
    is not there or the device has too little memory for it.
    """
    if backend not in BACKENDS:
        raise EngineError(f"backend is {backend!r}, known: {', '.join(BACKENDS)}")
    place = torch.device(_device(device))
    if device.startswith("cuda:"):  # TensorRT and Triton work on the current device
        torch.cuda.set_device(place)
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.float16)
    path = model_path(model)
    folder = read_folder(path)
    kept, batch = _planned(memory, backend, path, place)
    networks = build_networks(folder)
    load_networks(networks, path)
    for network in networks.modules():
        network.requires_grad_(False).eval()
    previewer = _in_precision(networks, load_lora(path), kept, dtype)
    settings = _settings(folder, str(model))
    choice = Choice(networks, previewer, settings, cache)
    alone = at_least(kept, _SHARED)
    runs = choice.backend("torch" if alone else backend, place, dtype, precision)
    away = guests(networks, previewer) if at_least(kept, "begin") else []
    choice.move(place, whole=not isinstance(runs, TensorRtBackend), guests=away)
    host(away, place)
    alphas = alphas_cumprod(folder.scheduler).to(place)
    restorer = Restorer(networks, previewer, alphas, settings)
    restorer.loop.batch_limit = batch
    if runs is not None:
        restorer.loop.backend = runs
    return restorer


def _in_precision(
    networks: Networks, pairs: Mapping[str, LoraPair], memory: str, dtype: torch.dtype
) -> Denoiser:
    """Bring the networks to their precision (in place), and make the previewer, by the plan."""
    if at_least(memory, "tiles") and isinstance(networks.codec, KLCodec):
        networks.codec.tiling = CODEC_TILING
    fused = None if at_least(memory, _SHARED) else copy.deepcopy(networks.denoiser)
    if fused is not None:
        fuse_lora(fused, pairs)  # in float32
        fused.to(dtype)
    precise = torch.promote_types(dtype, torch.float32)
    for network in networks.modules():
        network.to(precise if network is networks.codec else dtype)
    if at_least(memory, "fp8"):
        for network in (networks.denoiser, networks.aggregator):
            store_in_one_byte(network, kept=network.hoisted_parts())
    return fused or with_lora_beside(networks.denoiser, pairs)


def _planned(memory: str, backend: str, path: Path, place: torch.device) -> tuple[str, int]:
    """The plan of memory to run with, and how many pictures take a step at once.

    Raises EngineError for a plan that does not run, or not with the backend.
    """
    if memory not in ("auto", *OPTIONS):
        raise EngineError(f"memory is {memory!r}, known: auto, {', '.join(OPTIONS)}")
    compiled = backend not in ("auto", "torch")
    if compiled and memory != "auto" and at_least(memory, _SHARED):
        raise EngineError(f"memory is {memory!r}: it runs with the backend torch, not {backend}")
    able = [option for option in OPTIONS if not (compiled and at_least(option, _SHARED))]
    options = able if memory == "auto" else [memory]
    if place.type != "cuda":
        return options[0], BATCH_LIMIT
    chosen, batch = _fitting(path, Cuda(place).free_bytes(), options)
    if memory == "auto" and chosen not in EXACT:
        _log.warning("memory is %r for want of room: results differ a little", chosen)
    return chosen, batch


def _fitting(path: Path, gpu_bytes: int, options: Sequence[str]) -> tuple[str, int]:
    """The first of the options that fits by estimate; the last, with a warning, where none does."""
    work = Work()
    fits = {fit.option: fit for fit in plan(measure(path, (work.picture,)), gpu_bytes, work).fits}
    for option in options:
        if fits[option].batch:
            return option, fits[option].batch
    last = fits[options[-1]]
    _log.warning(
        "a picture of %dx%d px needs %.2f GB of the GPU by estimate, %.2f GB are free",
        *work.picture,
        last.need.total / GIB,
        gpu_bytes / GIB,
    )
    return last.option, 1


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _settings(folder: ModelFolder, name: str) -> ModelSettings:
    published, tiles = WorkLimits(), Tiling()
    own = folder.restorer
    return ModelSettings(
        name=name,
        fingerprint=fingerprint(folder.path),
        prediction=Prediction(folder.scheduler.get("prediction_type", Prediction.EPSILON)),
        presets=own.get("presets", PRESETS),
        limits=WorkLimits(
            own.get("min_side_px", published.min_side_px),
            own.get("max_side_px", published.max_side_px),
        ),
        bf16=bool(own.get("bf16", False)),
        tiling=Tiling(own.get("tile_px", tiles.tile_px), own.get("overlap_px", tiles.overlap_px)),
    )
