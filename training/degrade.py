"""Random degradations of a clean picture, of the Real-ESRGAN / BSRGAN kind.

One strength in 0..1 is drawn per picture; blur, resizing, noise and JPEG each get a strength near
it and are applied in random order. Often a second, milder round follows (second-order
degradation). The result is brought back to the input's size and to 8-bit levels.

Everything is a pure function of (picture, generator, configuration).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.kernels import Family, gaussian_kernel, sinc_kernel

FloatArray = NDArray[np.float32]
Operation = Literal["blur", "resize", "noise", "jpeg"]
OPERATIONS: tuple[Operation, ...] = ("blur", "resize", "noise", "jpeg")
SEVERITY_WEIGHTS: dict[Operation, float] = {"blur": 0.3, "resize": 0.25, "noise": 0.25, "jpeg": 0.2}
RESIZE_MODES = ("area", "bilinear", "bicubic")
MAX_KERNEL_RADIUS_PX = 10
MIN_SIDE_PX = 8


@dataclass(frozen=True, slots=True)
class DegradationConfig:
    """Ranges of the mix; each pair is (at strength 0, at strength 1)."""

    strength: tuple[float, float] = (0.0, 1.0)
    strength_shape: tuple[float, float] = (1.1, 1.6)  # Beta(a, b): mean 0.41, a third below 0.25
    blur_sigma_px: tuple[float, float] = (0.2, 2.4)
    downscale: tuple[float, float] = (1.0, 4.0)
    upscale_max: float = 1.3
    noise_sigma_255: tuple[float, float] = (0.0, 20.0)
    jpeg_quality: tuple[int, int] = (95, 25)
    sinc_share: float = 0.1
    upscale_share: float = 0.1
    gray_noise_share: float = 0.35
    poisson_share: float = 0.3
    shuffle_share: float = 0.5  # otherwise the order of a camera: blur, resize, noise, jpeg
    skip_share: float = 0.1
    second_round_share: float = 0.5
    second_round_factor: float = 0.35


@dataclass(frozen=True, slots=True)
class Degraded:
    """A degraded picture (H, W, 3) float32 in [0, 1], how bad it is (0..1), and what was done."""

    image: FloatArray
    severity: float
    record: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class _Step:
    """What one operation works with: its strength, the original size, ranges and randomness."""

    strength: float
    size: tuple[int, int]
    config: DegradationConfig
    rng: np.random.Generator


_Apply = Callable[[Tensor, _Step], tuple[Tensor, dict[str, Any]]]


def degrade(
    image: FloatArray, rng: np.random.Generator, config: DegradationConfig | None = None
) -> Degraded:
    """Degrade an (H, W, 3) float32 picture in [0, 1]; sides must be at least 16 px."""
    config = config or DegradationConfig()
    height, width = image.shape[:2]
    if image.ndim != 3 or image.shape[2] != 3 or min(height, width) < 16:
        raise ValueError(f"picture must be (H, W, 3) with sides >= 16 px, not {image.shape}")
    low, high = config.strength
    strength = low + (high - low) * float(rng.beta(*config.strength_shape))
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    kept = dict.fromkeys(OPERATIONS, 1.0)
    done: list[dict[str, Any]] = []
    rounds = 2 if rng.random() < config.second_round_share else 1
    for factor in (1.0, config.second_round_factor)[:rounds]:
        for name, step in _plan(strength * factor, (height, width), config, rng):
            x, facts = _APPLY[name](x, step)
            done.append({"op": name, **facts})
            kept[name] *= 1.0 - step.strength
    x = _resize(x, (height, width), "bicubic" if rng.random() < 0.8 else "bilinear")
    x = x.clamp(0.0, 1.0).mul(255.0).round().div(255.0)
    severity = sum(weight * (1.0 - kept[name]) for name, weight in SEVERITY_WEIGHTS.items())
    output = np.ascontiguousarray(x[0].numpy().transpose(1, 2, 0))
    return Degraded(output, severity, {"strength": round(strength, 4), "operations": done})


def _plan(
    strength: float, size: tuple[int, int], config: DegradationConfig, rng: np.random.Generator
) -> list[tuple[Operation, _Step]]:
    """Choose order, presence and strength of the operations of one round."""
    order = list(OPERATIONS)
    if rng.random() < config.shuffle_share:
        rng.shuffle(order)
    steps: list[tuple[Operation, _Step]] = []
    for name in order:
        own = float(np.clip(strength * (1.0 + 0.25 * rng.standard_normal()), 0.0, 1.0))
        if rng.random() >= config.skip_share:
            steps.append((name, _Step(own, size, config, rng)))
    return steps


def _between(pair: tuple[float, float], strength: float) -> float:
    return pair[0] + (pair[1] - pair[0]) * strength


def _blur(x: Tensor, step: _Step) -> tuple[Tensor, dict[str, Any]]:
    """Convolve (1, 3, H, W) with a random kernel; widths are in pixels of the original size."""
    rng, config = step.rng, step.config
    sigma = _between(config.blur_sigma_px, step.strength)
    here = max(sigma * x.shape[2] / step.size[0], 0.1)
    limit = min(MAX_KERNEL_RADIUS_PX, x.shape[2] - 1, x.shape[3] - 1)
    if rng.random() < config.sinc_share:
        # A low-pass of cut-off w blurs about as much as a Gaussian of sigma 1.2 / w.
        cutoff = float(np.clip(1.2 / here, np.pi / 3, np.pi))
        kernel = sinc_kernel(cutoff, limit)
        facts: dict[str, Any] = {"kernel": "sinc", "cutoff": round(cutoff, 3)}
    else:
        family, beta = _draw_family(rng)
        ratio = 1.0 if rng.random() < 0.6 else float(rng.uniform(0.4, 1.0))
        angle = float(rng.uniform(0.0, np.pi))
        radius = max(1, min(int(np.ceil(3.0 * here)), limit))
        kernel = gaussian_kernel(family, (here, max(here * ratio, 0.1)), angle, beta, radius)
        facts = {"kernel": family, "sigma_px": round(sigma, 3), "ratio": round(ratio, 3)}
    pad = kernel.shape[0] // 2
    weight = torch.from_numpy(kernel).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(x, (pad,) * 4, mode="reflect"), weight, groups=3), facts


def _draw_family(rng: np.random.Generator) -> tuple[Family, float]:
    draw = rng.random()
    if draw < 0.7:
        return "gaussian", 1.0
    if draw < 0.85:
        return "generalized", float(rng.uniform(0.6, 2.5))
    return "plateau", float(rng.uniform(1.2, 2.0))


def _resize_step(x: Tensor, step: _Step) -> tuple[Tensor, dict[str, Any]]:
    """Change the working size, mostly down; never below the configured share of the original."""
    rng, config = step.rng, step.config
    if rng.random() < config.upscale_share:
        factor = 1.0 + (config.upscale_max - 1.0) * step.strength
    else:
        factor = 1.0 / _between(config.downscale, step.strength)
    smallest = 1.0 / max(config.downscale)
    height, width = (
        max(round(now * factor), round(original * smallest), MIN_SIDE_PX)
        for now, original in zip(x.shape[2:], step.size, strict=True)
    )
    mode = RESIZE_MODES[int(rng.integers(len(RESIZE_MODES)))]
    return _resize(x, (height, width), mode), {"mode": mode, "factor": round(factor, 3)}


def _resize(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if tuple(x.shape[2:]) == size:
        return x
    if mode == "area":
        return F.interpolate(x, size, mode="area")
    # Antialiasing off would alias at 4x like nearest-neighbor, which no resizer in use does.
    return F.interpolate(x, size, mode=mode, align_corners=False, antialias=True)


def _noise(x: Tensor, step: _Step) -> tuple[Tensor, dict[str, Any]]:
    """Add Gaussian noise, or Poisson noise of the same deviation at mid-gray."""
    rng, config = step.rng, step.config
    sigma = _between(config.noise_sigma_255, step.strength) / 255.0
    gray = bool(rng.random() < config.gray_noise_share)
    poisson = bool(rng.random() < config.poisson_share) and sigma > 1e-3
    if poisson:
        level = (x.mean(dim=1, keepdim=True) if gray else x).clamp(0.0, 1.0).numpy()
        photons = 0.5 / sigma**2
        noise = (rng.poisson(level * photons) / photons - level).astype(np.float32)
    else:
        shape = (1, 1 if gray else 3, x.shape[2], x.shape[3])
        noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(sigma)
    kind = "poisson" if poisson else "gaussian"
    facts = {"kind": kind, "gray": gray, "sigma_255": round(sigma * 255.0, 2)}
    return x + torch.from_numpy(noise), facts


def _jpeg(x: Tensor, step: _Step) -> tuple[Tensor, dict[str, Any]]:
    """Write and read the picture as JPEG, with 4:2:0 chroma more often than not."""
    quality = round(_between(step.config.jpeg_quality, step.strength))
    subsampling = 2 if step.rng.random() < 0.7 else 0
    pixels = x[0].clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    decoded = np.asarray(Image.open(buffer).convert("RGB"), dtype=np.float32) / np.float32(255.0)
    back = torch.from_numpy(np.ascontiguousarray(decoded.transpose(2, 0, 1)))[None]
    return back, {"quality": quality, "subsampling": subsampling}


_APPLY: dict[Operation, _Apply] = {
    "blur": _blur,
    "resize": _resize_step,
    "noise": _noise,
    "jpeg": _jpeg,
}
