"""Short captions from what can be measured on a picture, in place of a captioning model.

`caption` joins one to four attributes with ", " in the order of `ATTRIBUTES`. With luma
``Y = 0.299 R + 0.587 G + 0.114 B`` and chroma ``C = max(R, G, B) - min(R, G, B)``, all in [0, 1]:

==============  ====================================================================
night           mean Y < 0.22 and more than 0.2 % of the pixels have Y > 0.6
sunset          warmth > 0.16, mean C > 0.25 and 0.12 < mean Y < 0.6
bright          mean Y > 0.62
dark            mean Y < 0.28, unless night
monochrome      mean C < 0.04
colorful        mean C > 0.30, unless sunset
warm            warmth = mean(R - B) > 0.08, unless sunset
cool            warmth < -0.08
high contrast   standard deviation of Y > 0.25
low contrast    standard deviation of Y < 0.08
detailed        mean gradient of Y > 0.06 per pixel
soft            mean gradient of Y < 0.012 per pixel
==============  ====================================================================

The table's order is the order of the words; a picture nothing is said of is "photograph".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ATTRIBUTES = (
    "night",
    "sunset",
    "bright",
    "dark",
    "monochrome",
    "colorful",
    "warm",
    "cool",
    "high contrast",
    "low contrast",
    "detailed",
    "soft",
)
MAX_ATTRIBUTES = 4
FALLBACK = "photograph"
# The measure that a word speaks of, and the sign of the change it asks for.
DIRECTIONS: Mapping[str, tuple[str, int]] = {
    "bright": ("brightness", 1),
    "dark": ("brightness", -1),
    "warm": ("warmth", 1),
    "cool": ("warmth", -1),
    "colorful": ("chroma", 1),
    "monochrome": ("chroma", -1),
    "high contrast": ("contrast", 1),
    "low contrast": ("contrast", -1),
}
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Measures:
    """The numbers a caption is made from; see the module's table."""

    brightness: float
    contrast: float
    chroma: float
    warmth: float
    gradient: float
    lights: float


def measure(image: NDArray[np.float32]) -> Measures:
    """Measure an (H, W, 3) float32 picture in [0, 1] with sides of at least 2 px."""
    luma = image @ _LUMA
    chroma = image.max(axis=2) - image.min(axis=2)
    gradient = 0.5 * (np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean())
    return Measures(
        brightness=float(luma.mean()),
        contrast=float(luma.std()),
        chroma=float(chroma.mean()),
        warmth=float((image[..., 0] - image[..., 2]).mean()),
        gradient=float(gradient),
        lights=float((luma > 0.6).mean()),
    )


def movement(word: str, before: Measures, after: Measures) -> float:
    """How far a picture went the way that a word of `DIRECTIONS` asks for; negative: against it."""
    name, sign = DIRECTIONS[word]
    return sign * float(getattr(after, name) - getattr(before, name))


def describe(m: Measures) -> str:
    """Turn measures into the caption."""
    night = m.brightness < 0.22 and m.lights > 0.002
    sunset = m.warmth > 0.16 and m.chroma > 0.25 and 0.12 < m.brightness < 0.6
    holds = {
        "night": night,
        "sunset": sunset,
        "bright": m.brightness > 0.62,
        "dark": m.brightness < 0.28 and not night,
        "monochrome": m.chroma < 0.04,
        "colorful": m.chroma > 0.30 and not sunset,
        "warm": m.warmth > 0.08 and not sunset,
        "cool": m.warmth < -0.08,
        "high contrast": m.contrast > 0.25,
        "low contrast": m.contrast < 0.08,
        "detailed": m.gradient > 0.06,
        "soft": m.gradient < 0.012,
    }
    words = [word for word in ATTRIBUTES if holds[word]]
    return ", ".join(words[:MAX_ATTRIBUTES]) or FALLBACK


def caption(image: NDArray[np.float32]) -> str:
    """Caption an (H, W, 3) float32 picture in [0, 1]."""
    return describe(measure(image))
