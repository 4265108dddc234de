"""Quality against cost: which ways are worth their evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evals.studies.quality import Quality

CLOSE_DB = 0.05  # PSNR that nobody would pay for
CLOSE_SSIM = 0.002


@dataclass(frozen=True, slots=True)
class Point:
    """A way's mean quality and cost."""

    way: str
    evaluations: float
    seconds: float
    quality: Quality


def choice(ways: Sequence[Point]) -> Point:
    """The cheapest way that is close to the best PSNR and the best SSIM of all ways.

    Where no single way is close to both, the one with the best PSNR.
    """
    psnr = max(point.quality.psnr for point in ways)
    ssim = max(point.quality.ssim for point in ways)
    close = [
        point
        for point in ways
        if point.quality.psnr >= psnr - CLOSE_DB and point.quality.ssim >= ssim - CLOSE_SSIM
    ]
    if not close:
        return max(ways, key=lambda point: point.quality.psnr)
    return min(close, key=lambda point: point.evaluations)


def frontier(ways: Sequence[Point]) -> list[Point]:
    """The ways that no cheaper or equally dear one beats in PSNR, cheapest first."""
    ordered = sorted(ways, key=lambda point: (point.evaluations, -point.quality.psnr))
    best: list[Point] = []
    for point in ordered:
        if not best or point.quality.psnr > best[-1].quality.psnr:
            best.append(point)
    return best
