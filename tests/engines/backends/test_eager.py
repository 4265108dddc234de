from __future__ import annotations

import torch

from engines.restorer import Restorer


def test_the_backend_names_library_device_and_precision(nano_like: Restorer) -> None:
    assert nano_like.backend == f"torch {torch.__version__} cpu torch.float32"
    assert nano_like.loop.backend.name == nano_like.backend
