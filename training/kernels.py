"""Blur kernels of the degradation pipeline, as pure functions of their parameters.

All are (K, K) float32 with K odd and sum 1. The Gaussian family follows Real-ESRGAN
(Wang et al. 2021, arXiv:2107.10833, section 3.2): with the squared Mahalanobis radius
``q = d^T S^-1 d`` of a pixel offset ``d``

* ``gaussian``     exp(-q / 2)
* ``generalized``  exp(-(q^beta) / 2)      beta < 1: heavy tails, beta > 1: flat top
* ``plateau``      1 / (1 + q^beta)

``sinc`` is the circular low-pass filter with cut-off ``w`` (radians per pixel), which rings:
``w * J1(w r) / (2 pi r)``.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Family = Literal["gaussian", "generalized", "plateau"]
FloatArray = NDArray[np.float32]


def gaussian_kernel(
    family: Family, sigmas_px: tuple[float, float], angle_rad: float, beta: float, radius_px: int
) -> FloatArray:
    """Return the kernel whose axes have the two standard deviations, turned by the angle."""
    axis = np.arange(-radius_px, radius_px + 1, dtype=np.float64)
    x, y = axis[None, :], axis[:, None]
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    along, across = (cos * x + sin * y) / sigmas_px[0], (cos * y - sin * x) / sigmas_px[1]
    q = along * along + across * across
    if family == "gaussian":
        weights = np.exp(-0.5 * q)
    elif family == "generalized":
        weights = np.exp(-0.5 * q**beta)
    else:
        weights = 1.0 / (1.0 + q**beta)
    return (weights / weights.sum()).astype(np.float32)


def sinc_kernel(cutoff: float, radius_px: int) -> FloatArray:
    """Return the circular low-pass kernel with a cut-off in radians per pixel (0 < w <= pi)."""
    axis = np.arange(-radius_px, radius_px + 1, dtype=np.float64)
    r = np.hypot(axis[None, :], axis[:, None])
    r[radius_px, radius_px] = 1.0
    bessel = torch.special.bessel_j1(torch.from_numpy(cutoff * r)).numpy()
    weights = cutoff * bessel / (2.0 * math.pi * r)
    weights[radius_px, radius_px] = cutoff * cutoff / (4.0 * math.pi)
    return (weights / weights.sum()).astype(np.float32)
