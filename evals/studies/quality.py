"""Quality of restorations against the clean pictures, and means of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from PIL import Image

from evals.metrics import fsim, psnr, ssim
from evals.studies.pictures import MIX, MIXED_LEVELS, Case, Tile, grid


@dataclass(frozen=True, slots=True)
class Quality:
    """Fidelity to the clean picture; PSNR in dB."""

    psnr: float
    ssim: float
    fsim: float

    def in_words(self) -> list[str]:
        """The figures as a table shows them."""
        return [f"{self.psnr:.2f}", f"{self.ssim:.4f}", f"{self.fsim:.4f}"]


def score(picture: Image.Image, clean: Image.Image) -> Quality:
    """Compare a picture with the clean one of the same size."""
    return Quality(psnr(picture, clean), ssim(picture, clean), fsim(picture, clean))


def mean_quality(scores: Iterable[Quality]) -> Quality:
    """Mean of every metric."""
    rows = list(scores)
    return Quality(
        fmean(row.psnr for row in rows),
        fmean(row.ssim for row in rows),
        fmean(row.fsim for row in rows),
    )


def mixed_cases(tiles: Iterable[Tile]) -> list[Case]:
    """Every tile under the mix at a light, a medium and a heavy level."""
    return grid(list(tiles), [MIX], MIXED_LEVELS)
