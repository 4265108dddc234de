"""Full-reference quality metrics of two pictures of the same size.

All but GMSD are higher for better pictures; equal pictures give PSNR infinity and, for the others,
1 (GMSD 0). PSNR and SSIM (7x7 uniform window, mean over the color channels) come from
scikit-image, FSIM, HaarPSI, GMSD and VIFp from piq.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor

from evals.piq_import import load_piq

Uint8Array = NDArray[np.uint8]
Picture = Image.Image | Uint8Array
Metric = Callable[[Picture, Picture], float]

MIN_SIDE_PX = 41  # VIFp's pyramid and FSIM's windows need that much


def pixels(picture: Picture) -> Uint8Array:
    """Return (H, W, 3) uint8 of a PIL picture or of such an array; ValueError for another array."""
    if isinstance(picture, Image.Image):
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"need (H, W, 3) uint8, not {picture.shape} {picture.dtype}")
    return picture


def psnr(result: Picture, target: Picture) -> float:
    """Return the peak signal-to-noise ratio in dB; infinity for equal pictures."""
    a, b = _pair(result, target)
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0.0 else 10.0 * float(np.log10(255.0**2 / error))


def ssim(result: Picture, target: Picture) -> float:
    """Return the mean structural similarity (Wang et al. 2004)."""
    a, b = _pair(result, target)
    measure = cast(Callable[..., Any], structural_similarity)
    return float(measure(a, b, channel_axis=2, data_range=255))


def fsim(result: Picture, target: Picture) -> float:
    """Return the color feature similarity FSIMc (Zhang et al. 2011)."""
    return _with_piq("fsim", result, target)


def haarpsi(result: Picture, target: Picture) -> float:
    """Return the Haar wavelet perceptual similarity (Reisenhofer et al. 2018)."""
    return _with_piq("haarpsi", result, target)


def gmsd(result: Picture, target: Picture) -> float:
    """Return the gradient magnitude similarity deviation (Xue et al. 2014); low is good."""
    return _with_piq("gmsd", result, target)


def vifp(result: Picture, target: Picture) -> float:
    """Return the pixel-domain visual information fidelity (Sheikh and Bovik 2006)."""
    return _with_piq("vif_p", result, target)


METRICS: Mapping[str, Metric] = {
    "psnr": psnr,
    "ssim": ssim,
    "fsim": fsim,
    "haarpsi": haarpsi,
    "gmsd": gmsd,
    "vifp": vifp,
}
LOW_IS_GOOD = frozenset({"gmsd"})


def measure_all(result: Picture, target: Picture) -> dict[str, float]:
    """Return every metric of the table by name."""
    return {name: metric(result, target) for name, metric in METRICS.items()}


def _pair(result: Picture, target: Picture) -> tuple[Uint8Array, Uint8Array]:
    a, b = pixels(result), pixels(target)
    if a.shape != b.shape:
        raise ValueError(f"sizes differ: {a.shape[:2]} and {b.shape[:2]} (height, width)")
    if min(a.shape[:2]) < MIN_SIDE_PX:
        raise ValueError(f"sides must be at least {MIN_SIDE_PX} px, not {a.shape[:2]}")
    return a, b


def _with_piq(name: str, result: Picture, target: Picture) -> float:
    a, b = (
        torch.from_numpy(side.transpose(2, 0, 1)[None].astype(np.float32) / 255.0)
        for side in _pair(result, target)
    )
    measure = cast(Callable[..., Tensor], getattr(load_piq(), name))
    with torch.inference_mode():
        return float(measure(a, b, data_range=1.0))
