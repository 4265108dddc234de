"""Quality metrics that look at a picture alone; both are lower for better pictures.

They judge how natural a picture looks and know nothing of what it should show: a network that
invents plausible texture does well. Measured at 256x256 they vary much from picture to picture,
so only means over many say something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from evals.metrics import Picture, pixels
from evals.optional import need

INSTALL_PIQE = "pip install '.[peers]'"
INSTALL_BRISQUE = (
    "pip install --no-deps brisque==0.2.0 libsvm-official==3.37.0 opencv-python-headless"
    " (needs a C++ compiler)"
)
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

Blind = Callable[[Picture], float]


def load_piqe() -> Blind:
    """Return PIQE (Venkatanath et al. 2015), 0..100; NotPresentError without pypiqe and OpenCV."""
    measure = cast(Callable[..., tuple[Any, ...]], need("pypiqe", INSTALL_PIQE).piqe)

    def piqe(picture: Picture) -> float:
        gray = np.rint(pixels(picture) @ LUMA).astype(np.uint8)
        if gray.max() == 0:
            return 100.0  # the value of a uniform picture, which pypiqe divides by its maximum
        return float(measure(gray)[0])

    return piqe


def load_brisque() -> Blind:
    """Return BRISQUE (Mittal et al. 2012), mostly 0..100; NotPresentError without its packages."""
    base = cast(type[Any], need("brisque", INSTALL_BRISQUE).BRISQUE)

    class Brisque(base):
        """The package's own measure, with features that NumPy 2 can convert."""

        def scale_features(self, features: Sequence[Any]) -> Any:
            """Unpack what the package leaves as arrays of one element."""
            return super().scale_features([np.asarray(value).item() for value in features])

    model = Brisque(url=False)
    return lambda picture: float(model.score(pixels(picture)))
