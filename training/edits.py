"""Tone edits of a picture that a word names: what teaches a model to follow a prompt.

A restoration has the brightness and the colors of its input, so captions of ordinary pairs say
nothing that the input does not. Pairs whose original was edited, with the edit's word as caption,
do: the word is all that tells the edited original from the plain one.

Everything is a pure function of (picture, strength) or (picture, generator).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Edit = Callable[[FloatArray, float], FloatArray]
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Edited:
    """An edited picture (H, W, 3) float32 in [0, 1] and the word of `captions.ATTRIBUTES`."""

    image: FloatArray
    word: str


def _gamma(weakest: float, strongest: float) -> Edit:
    def edit(image: FloatArray, strength: float) -> FloatArray:
        return np.power(image, np.float32(_between(weakest, strongest, strength)), dtype=np.float32)

    return edit


def _balance(weakest: float, strongest: float) -> Edit:
    """Scale red up and blue down by the same share, or the other way round."""

    def edit(image: FloatArray, strength: float) -> FloatArray:
        share = _between(weakest, strongest, strength)
        return image * np.array([1.0 + share, 1.0, 1.0 - share], dtype=np.float32)

    return edit


def _saturation(weakest: float, strongest: float) -> Edit:
    """Scale the distance of every pixel to its luma."""

    def edit(image: FloatArray, strength: float) -> FloatArray:
        luma = (image @ _LUMA)[..., None]
        share = np.float32(_between(weakest, strongest, strength))
        return np.add(luma, share * (image - luma), dtype=np.float32)

    return edit


def _contrast(weakest: float, strongest: float) -> Edit:
    """Scale the distance of every value to the mean luma."""

    def edit(image: FloatArray, strength: float) -> FloatArray:
        middle = (image @ _LUMA).mean(dtype=np.float32)
        return middle + np.float32(_between(weakest, strongest, strength)) * (image - middle)

    return edit


EDITS: Mapping[str, Edit] = {
    "bright": _gamma(0.75, 0.45),
    "dark": _gamma(1.4, 2.2),
    "warm": _balance(0.1, 0.25),
    "cool": _balance(-0.1, -0.25),
    "colorful": _saturation(1.4, 2.0),
    "monochrome": _saturation(0.1, 0.0),
    "high contrast": _contrast(1.3, 1.7),
    "low contrast": _contrast(0.7, 0.4),
}


def edit(image: FloatArray, rng: np.random.Generator) -> Edited:
    """Give an (H, W, 3) float32 picture in [0, 1] one of the edits, at a random strength."""
    word = list(EDITS)[int(rng.integers(len(EDITS)))]
    changed = EDITS[word](image, float(rng.random()))
    return Edited(changed.clip(0.0, 1.0).astype(np.float32), word)


def _between(weakest: float, strongest: float, strength: float) -> float:
    return weakest + (strongest - weakest) * strength
