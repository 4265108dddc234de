"""Tone edits of a picture that a word names: what teaches a model to follow a prompt.

A restoration has the brightness and the colors of its input, so captions of ordinary pairs say
nothing that the input does not. Pairs of a picture and its edit, with the edit's word in the
caption, do. Around the word stand others, and some captions have none: what a prompt says beside
tones must not change them.

Everything is a pure function of (picture, strength) or (picture, generator).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.captions import DIRECTIONS

FloatArray = NDArray[np.float32]
Edit = Callable[[FloatArray, float], FloatArray]
PAIR_SHARE = 0.3  # of the edits that are two at once
MAX_FILLERS = 4
COMMA_SHARE = 0.3
INVENTED_SHARE = 0.4  # of the fillers: stands for all words that are not in the list
FILLERS = (
    *("a", "an", "the", "photo", "photograph", "picture", "portrait", "of", "with", "and", "in"),
    *("sky", "water", "house", "face", "people", "street", "tree", "old", "make", "it", "more"),
    *("very", "highly", "detailed", "realistic", "sharp", "soft", "quality", "best", "worst"),
    *("blurry", "noisy", "night", "sunset", "day", "restore", "clean"),
)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Edited:
    """A picture (H, W, 3) float32 in [0, 1] and what was asked for."""

    image: FloatArray
    caption: str


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
    "bright": _gamma(0.8, 0.55),
    "dark": _gamma(1.2, 1.6),
    "warm": _balance(0.1, 0.25),
    "cool": _balance(-0.1, -0.25),
    "colorful": _saturation(1.4, 2.0),
    "monochrome": _saturation(0.1, 0.0),
    "high contrast": _contrast(1.3, 1.7),
    "low contrast": _contrast(0.7, 0.4),
}


def edit(image: FloatArray, rng: np.random.Generator) -> Edited:
    """Give an (H, W, 3) float32 picture in [0, 1] an edit or two, each at a random strength."""
    first, second = (list(EDITS)[i] for i in rng.choice(len(EDITS), 2, replace=False))
    one_measure = DIRECTIONS[first][0] == DIRECTIONS[second][0]
    words = [first] if one_measure or rng.random() > PAIR_SHARE else [first, second]
    for word in words:
        image = EDITS[word](image, float(rng.random())).clip(0.0, 1.0)
    return Edited(image.astype(np.float32), sentence(rng, words))


def unedited(image: FloatArray, rng: np.random.Generator) -> Edited:
    """The picture as it is, with a caption that asks for nothing."""
    return Edited(image, sentence(rng, []))


def sentence(rng: np.random.Generator, words: list[str]) -> str:
    """Words in their order among others that ask for nothing, with commas here and there."""
    said = ["colourful" if word == "colorful" and rng.random() < 0.5 else word for word in words]
    for _ in range(int(rng.integers(MAX_FILLERS + 1))):
        said.insert(int(rng.integers(len(said) + 1)), _filler(rng))
    return "".join(word + (", " if rng.random() < COMMA_SHARE else " ") for word in said).rstrip(
        ", "
    )


def _filler(rng: np.random.Generator) -> str:
    if rng.random() < INVENTED_SHARE:
        letters = rng.integers(ord("a"), ord("z") + 1, int(rng.integers(2, 9)))
        return "".join(map(chr, letters))
    return FILLERS[int(rng.integers(len(FILLERS)))]


def _between(weakest: float, strongest: float, strength: float) -> float:
    return weakest + (strongest - weakest) * strength
