"""Work sizes: what a picture is brought to before the networks see it. Pure functions, pixels."""

import math
from dataclasses import dataclass

MULTIPLE_PX = 64
PUBLISHED_MAX_SIDE_PX = 1024
PUBLISHED_MIN_SIDE_PX = 768


@dataclass(frozen=True, slots=True)
class WorkLimits:
    """Sides between which a model works best; None means as the picture comes."""

    min_side_px: int | None = PUBLISHED_MIN_SIDE_PX
    max_side_px: int | None = PUBLISHED_MAX_SIDE_PX


def official_work_size(
    size: tuple[int, int],
    limits: tuple[int, int] = (PUBLISHED_MIN_SIDE_PX, PUBLISHED_MAX_SIDE_PX),
    *,
    width: int | None = None,
    height: int | None = None,
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The official `resize_img`: work size (floored to multiples of 64) and output size, (w, h).

    limits: (shortest side at least, longest side at most).
    Raises ValueError where a side becomes 0.
    """
    w, h = size
    if width is not None and height is not None:
        out = (width, height)
    elif width is not None:
        out = (width, round(h * width / w))
    elif height is not None:
        out = (round(w * height / h), height)
    else:
        out = size
    low, high = limits
    w, h = out
    if min(w, h) < low:
        ratio = low / min(w, h)
        w, h = round(ratio * w), round(ratio * h)
    if max(w, h) > high:
        ratio = high / max(w, h)
        w, h = round(ratio * w), round(ratio * h)
    work = (w // MULTIPLE_PX * MULTIPLE_PX, h // MULTIPLE_PX * MULTIPLE_PX)
    if 0 in work:
        raise ValueError(f"picture of {size[0]}x{size[1]} px is too elongated: work size {work}")
    return work, out


def scaled_size(size: tuple[int, int], limits: WorkLimits) -> tuple[int, int]:
    """Size (w, h) within the limits at the same aspect; the longest side wins."""
    w, h = size
    scale = 1.0
    if limits.min_side_px is not None:
        scale = max(scale, limits.min_side_px / min(w, h))
    if limits.max_side_px is not None:
        scale = min(scale, limits.max_side_px / max(w, h))
    return max(1, round(w * scale)), max(1, round(h * scale))


def padded_size(size: tuple[int, int]) -> tuple[int, int]:
    """Size (w, h) rounded up to multiples of 64."""
    w, h = (math.ceil(side / MULTIPLE_PX) * MULTIPLE_PX for side in size)
    return w, h
