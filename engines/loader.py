"""From a name or folder to a Restorer: the only place where names become classes."""

import copy
import dataclasses
from pathlib import Path

import torch

from engines.errors import WeightsError
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


def load(model: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Restorer:
    """Load a packaged model by name ("nano") or any folder in the official layout.

    Raises WeightsError where the folder is missing or does not fit.
    """
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
    return Restorer(placed, previewer, alphas, _settings(folder, str(model)))


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
        tiling=Tiling(own.get("tile_px", tiles.tile_px), own.get("overlap_px", tiles.overlap_px)),
    )
