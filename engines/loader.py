"""From a name or folder to a Restorer: the only place where names become classes."""

import copy
from pathlib import Path

import torch

from engines.backends.tensorrt import TensorRtBackend
from engines.choice import BACKENDS, Choice
from engines.errors import EngineError, WeightsError
from engines.folder import ModelFolder, read_folder
from engines.models.lora import fuse_lora
from engines.networks import build_networks
from engines.parameterization import Prediction
from engines.presets import PRESETS
from engines.restorer import ModelSettings, Restorer
from engines.schedule import alphas_cumprod
from engines.sizes import WorkLimits
from engines.tiling import Tiling
from engines.weights import fingerprint, load_lora, load_networks

SHIPPED = Path(__file__).parent / "shipped"


def load(
    model: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    backend: str = "torch",
    cache: Path | None = None,
    precision: str | None = None,
) -> Restorer:
    """Load a packaged model by name ("nano") or any folder in the official layout.

    device: of torch; "auto" is a GPU where there is one. dtype: None is float16 on a GPU and
    float32 elsewhere; the codec never has less than float32.
    backend: what runs the networks of a step, one of BACKENDS. "auto" is the fastest that this
    machine has for the device; engines are kept in the folder `cache` (None: built each time).
    precision: of engines for processors, "f32" or "bf16"; None is "bf16" where the model's folder
    says that it is as good in it and the processor has it in hardware.
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
    networks = build_networks(folder)
    load_networks(networks, path)
    for network in networks.modules():
        network.requires_grad_(False).eval()
    previewer = copy.deepcopy(networks.denoiser)
    fuse_lora(previewer, load_lora(path))
    precise = torch.promote_types(dtype, torch.float32)
    for network in (*networks.modules(), previewer):
        network.to(precise if network is networks.codec else dtype)
    settings = _settings(folder, str(model))
    choice = Choice(networks, previewer, settings, cache)
    runs = choice.backend(backend, place, dtype, precision)
    choice.move(place, whole=not isinstance(runs, TensorRtBackend))
    restorer = Restorer(networks, previewer, alphas_cumprod(folder.scheduler).to(place), settings)
    if runs is not None:
        restorer.loop.backend = runs
    return restorer


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


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
