"""From a name or folder to a Restorer: the only place where names become classes."""

import copy
import dataclasses
import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from engines.backends import openvino
from engines.backends.eager import Backend
from engines.cache import EngineCache
from engines.errors import EngineError, WeightsError
from engines.folder import ModelFolder, read_folder
from engines.graphs import step_graphs
from engines.models.lora import fuse_lora
from engines.networks import build_networks
from engines.parameterization import Prediction
from engines.presets import PRESETS
from engines.restorer import ModelSettings, Restorer
from engines.schedule import alphas_cumprod
from engines.sizes import WorkLimits
from engines.tiling import Tiling
from engines.weights import fingerprint, load_lora, load_networks

_log = logging.getLogger(__name__)

BACKENDS = ("auto", "torch", "openvino")
SHIPPED = Path(__file__).parent / "shipped"


def load(
    model: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str = "torch",
    cache: Path | None = None,
    precision: str | None = None,
) -> Restorer:
    """Load a packaged model by name ("nano") or any folder in the official layout.

    backend: what runs the networks of a step, one of BACKENDS. "auto" is the fastest that this
    machine has for the device; engines are kept in the folder `cache` (None: built each time).
    precision: of compiled engines, "f32" or "bf16"; None is "bf16" where the model's folder says
    that it is as good in it and the processor has it in hardware.
    Raises WeightsError where the folder is missing or does not fit, EngineError where the backend
    is not there.
    """
    if backend not in BACKENDS:
        raise EngineError(f"backend is {backend!r}, known: {', '.join(BACKENDS)}")
    path = model_path(model)
    folder = read_folder(path)
    networks = build_networks(folder)
    load_networks(networks, path)
    for network in networks.modules():
        network.requires_grad_(False).eval()
    previewer = copy.deepcopy(networks.denoiser)
    fuse_lora(previewer, load_lora(path))
    placed = dataclasses.replace(networks)
    for network in (*placed.modules(), previewer):
        network.to(device, dtype)
    alphas = alphas_cumprod(folder.scheduler).to(device)
    restorer = Restorer(placed, previewer, alphas, _settings(folder, str(model)))
    if backend == "auto":
        fits = device == "cpu" and dtype is torch.float32 and openvino.available()
        backend = "openvino" if fits else "torch"
    if backend == "openvino":
        restorer.loop.backend = _openvino(restorer, cache, precision)
    return restorer


def _openvino(restorer: Restorer, folder: Path | None, precision: str | None) -> Backend:
    if not openvino.available():
        raise EngineError("backend is 'openvino': install the packages openvino and onnx")
    if (restorer.device.type, restorer.dtype) != ("cpu", torch.float32):
        said = f"{restorer.device.type} {restorer.dtype}"
        raise EngineError(f"backend is 'openvino': it runs on cpu torch.float32, not {said}")
    table = step_graphs(restorer.networks, restorer.previewer)
    with TemporaryDirectory() as passing:
        kept = folder if folder is not None and _writable(folder) else Path(passing)
        made = EngineCache(kept)
        chosen = precision or processor_precision(restorer)
        return openvino.OpenVinoBackend(table, restorer.fingerprint, made, chosen)


def processor_precision(restorer: Restorer) -> str:
    """The fastest precision of compiled engines in which the model is as good on this processor."""
    return openvino.precisions()[-1] if restorer.settings.bf16 else "f32"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("engines are not kept: %s", error)
        return False
    if not os.access(folder, os.W_OK):
        _log.warning("engines are not kept: %s cannot be written", folder)
        return False
    return True


def model_path(model: str | Path) -> Path:
    """Folder of a shipped model's name, or the folder itself. Raises WeightsError."""
    shipped = SHIPPED / str(model)
    if str(model) == Path(str(model)).name and shipped.is_dir():
        return shipped
    if Path(model).is_dir():
        return Path(model)
    names = ", ".join(sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()))
    raise WeightsError(f"model is {str(model)!r}, neither a folder nor one of: {names}")


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
