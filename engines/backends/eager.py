"""The step networks as PyTorch runs them, on any device: the reference for all other backends."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from engines.models.adapter import Hoisted
from engines.models.aggregator import Aggregator
from engines.models.denoiser import Denoiser


class Backend(Protocol):
    """Runs the three networks of a step on a batch of rows.

    sample, degraded and reference (B, C, h, w); emb (B, E) of `Denoiser.embed`; hoisted of
    `Denoiser.remember` and `modulate`.
    """

    @property
    def name(self) -> str:
        """Library, version, device and precision: results are the same where it is."""
        ...

    def preview(self, sample: Tensor, emb: Tensor, hoisted: Hoisted) -> Tensor:
        """Raw prediction of the previewer, (B, C, h, w)."""
        ...

    def aggregate(self, degraded: Tensor, reference: Tensor, emb: Tensor) -> list[Tensor]:
        """Residuals for each skip connection, and the middle last."""
        ...

    def predict(
        self,
        sample: Tensor,
        emb: Tensor,
        hoisted: Hoisted,
        residuals: Sequence[Tensor] | None,
    ) -> Tensor:
        """Raw prediction of the main network, (B, C, h, w)."""
        ...


class EagerBackend:
    """Calls the modules."""

    def __init__(self, denoiser: Denoiser, previewer: Denoiser, aggregator: Aggregator) -> None:
        self._denoiser = denoiser
        self._previewer = previewer
        self._aggregator = aggregator
        parameter = next(denoiser.parameters())
        # Only where the main network's are made, too, results change: engines.one_byte.
        made = ", weights in one byte" if any(map(is_parametrized, denoiser.modules())) else ""
        beside = ", LoRA beside" if any(map(is_parametrized, previewer.modules())) else ""
        kind = f"{parameter.device.type} {parameter.dtype}"
        self.name = f"torch {torch.__version__} {kind}{made}{beside}"

    def preview(self, sample: Tensor, emb: Tensor, hoisted: Hoisted) -> Tensor:
        """See `Backend`."""
        return self._previewer.step(sample, emb, hoisted)

    def aggregate(self, degraded: Tensor, reference: Tensor, emb: Tensor) -> list[Tensor]:
        """See `Backend`."""
        return self._aggregator(degraded, reference, emb)

    def predict(
        self,
        sample: Tensor,
        emb: Tensor,
        hoisted: Hoisted,
        residuals: Sequence[Tensor] | None,
    ) -> Tensor:
        """See `Backend`."""
        return self._denoiser.step(sample, emb, hoisted, residuals)
