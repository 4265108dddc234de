"""The previewer's LoRA while it is trained: low-rank side paths that can be switched on and off."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from engines.models.lora import LoraPair, lora_targets


class PreviewerLora(nn.Module):
    """Trainable updates of every previewer target of a denoiser; they start at zero.

    Inside `active()` each target's output gains `scale * up(down(input))`, which equals a fused
    weight without a second copy of the network.
    """

    def __init__(self, denoiser: nn.Module, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.on = False
        self.names = lora_targets(denoiser.named_modules())
        self.down = nn.ParameterList()
        self.up = nn.ParameterList()
        for index, name in enumerate(self.names):
            target = denoiser.get_submodule(name)
            weight: Tensor = target.get_parameter("weight")
            ones = (1,) * (weight.ndim - 2)
            spread = weight[0].numel() ** -0.5
            self.down.append(torch.randn(rank, *weight.shape[1:], device=weight.device) * spread)
            self.up.append(torch.zeros(weight.shape[0], rank, *ones, device=weight.device))
            target.register_forward_hook(partial(self._add, index))

    def pairs(self) -> dict[str, LoraPair]:
        """The updates as the loader reads them."""
        return {
            name: LoraPair(down, up, self.scale)
            for name, down, up in zip(self.names, self.down, self.up, strict=True)
        }

    @torch.no_grad()
    def fill(self, pairs: Mapping[str, LoraPair]) -> None:
        """Take over updates that were read from a file."""
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            down.copy_(pairs[name].down)
            up.copy_(pairs[name].up * (pairs[name].scale / self.scale))

    @contextmanager
    def active(self, on: bool = True) -> Generator[None]:
        """Switch the side paths for a while."""
        before, self.on = self.on, on
        try:
            yield
        finally:
            self.on = before

    def checkpointed(self, module: Callable[..., Any], *args: Any) -> Any:
        """Gradient checkpointing that computes again with the side paths as they were."""
        again = self.active(self.on)
        return checkpoint(
            module, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again)
        )

    def _add(self, index: int, target: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        if not self.on:
            return output
        down, up, x = self.down[index], self.up[index], inputs[0]
        if isinstance(target, nn.Conv2d):
            hidden = F.conv2d(x, down, stride=target.stride, padding=target.padding)
            return output + self.scale * F.conv2d(hidden, up)
        return output + self.scale * F.linear(F.linear(x, down), up)
