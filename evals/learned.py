"""Learned metrics of pyiqa, where both the package and the weights of a metric are present.

pyiqa fetches weights when a metric is made. Nothing is ever fetched here: while a metric is made
and tried, no socket of this process can be connected and no name be resolved, so a metric whose
weights are missing fails at once and is reported as not present.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Never, cast

import numpy as np
import torch
from torch import Tensor

from evals.metrics import Picture, pixels
from evals.optional import NotPresentError, need

INSTALL = "pyiqa, which needs torchvision, and the metric's weights in its cache"
WITH_REFERENCE = ("lpips", "dists")
WITHOUT_REFERENCE = ("clipiqa", "maniqa", "musiq")
LOW_IS_GOOD = frozenset({"lpips", "dists"})
TRIAL_SIDE_PX = 224

Measure = Callable[..., float]


@contextmanager
def no_network() -> Iterator[None]:
    """Make every attempt to connect or to resolve a name fail with OSError."""
    saved = socket.socket.connect, socket.getaddrinfo

    def refuse(*_: object, **__: object) -> Never:
        raise OSError("the network is not used here")

    socket.socket.connect, socket.getaddrinfo = refuse, refuse
    try:
        yield
    finally:
        socket.socket.connect, socket.getaddrinfo = saved


def load_learned(name: str) -> Measure:
    """Return pyiqa's metric of one or two pictures; NotPresentError without package or weights."""
    trial = np.zeros((TRIAL_SIDE_PX, TRIAL_SIDE_PX, 3), np.uint8)
    with no_network():
        create = cast(Callable[..., Any], need("pyiqa", INSTALL).create_metric)
        try:
            metric = create(name, device="cpu")
            measure = _measure(metric)
            # Some metrics fetch their weights at the first call only.
            measure(*[trial] * (2 if name in WITH_REFERENCE else 1))
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise NotPresentError(f"weights are missing ({error}): {INSTALL}") from error
    return measure


def _measure(metric: Callable[..., Tensor]) -> Measure:
    def measure(*pictures: Picture) -> float:
        with torch.inference_mode():
            return float(metric(*[_tensor(picture) for picture in pictures]))

    return measure


def _tensor(picture: Picture) -> Tensor:
    values = pixels(picture).transpose(2, 0, 1)[None].astype(np.float32) / 255.0
    return torch.from_numpy(np.ascontiguousarray(values))
