"""Everything with a gradient as one module, its parameters sorted into the parts stages train."""

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from engines.folder import ModelFolder
from engines.networks import Networks, build_networks
from engines.parameterization import Prediction
from engines.schedule import alphas_cumprod
from training.lora import PreviewerLora

_CHECKPOINTING = "gradient_checkpointing"


class Part(StrEnum):
    """A group of parameters that a stage trains or leaves alone."""

    TEXT = "text"
    VISION = "vision"
    UNET = "unet"
    HEAD = "head"  # the UNet's last convolution
    DCP = "dcp"  # resampler and decoupled cross-attention (paper section 3.1)
    PREVIEWER = "previewer"  # LoRA (section 3.2)
    AGGREGATOR = "aggregator"  # section 3.3
    TONE = "tone"  # what a prompt says of tones
    CODEC = "codec"


def part_of(name: str) -> Part:
    """The part that a parameter of a `Trainee` belongs to, by its name."""
    first, _, rest = name.partition(".")
    if first == "lora":
        return Part.PREVIEWER
    if first != "denoiser":
        return Part(first)
    if rest.startswith("resampler.") or ".processor." in rest:
        return Part.DCP
    return Part.HEAD if rest.startswith("unet.conv_out.") else Part.UNET


class Trainee(nn.Module):
    """All networks of a model folder with fresh weights, and the previewer's LoRA.

    Where the model predicts residuals, it starts as the identity: estimates equal their reference.
    """

    alphas: Tensor

    def __init__(self, folder: ModelFolder, rank: int, alpha: float) -> None:
        super().__init__()
        networks = build_networks(folder)
        self.denoiser, self.aggregator = networks.denoiser, networks.aggregator
        self.vision, self.text, self.codec = networks.vision, networks.text, networks.codec
        self.tone = networks.tone
        self.prediction = Prediction(folder.scheduler["prediction_type"])
        self.register_buffer("alphas", alphas_cumprod(folder.scheduler), persistent=False)
        if self.prediction is Prediction.RESIDUAL:
            nn.init.zeros_(self.denoiser.unet.conv_out.weight)
            nn.init.zeros_(self.denoiser.unet.conv_out.bias)
        self.lora = PreviewerLora(self.denoiser, rank, alpha)

    @property
    def networks(self) -> Networks:
        """The networks as loading and saving know them."""
        return Networks(
            self.denoiser, self.aggregator, self.vision, self.text, self.codec, self.tone
        )

    @torch.no_grad()
    def copy_unet_to_aggregator(self) -> None:
        """Begin the aggregator as the UNet's encoder half; both latents enter alike.

        What the UNet's encoder does not have stays as it is: the merges, whose outputs are zero.
        """
        given = self.denoiser.unet.state_dict()
        for name, value in self.aggregator.state_dict().items():
            source = given.get(name.removeprefix("ref_"))
            if source is not None and source.shape == value.shape:
                value.copy_(source)

    def open_merges(self) -> None:
        """Let the aggregator speak at once: output convolutions that are zero get random values."""
        for name, module in self.aggregator.named_modules():
            if not name.startswith("controlnet_") or not isinstance(module, nn.Conv2d):
                continue
            if not module.weight.any():
                module.reset_parameters()

    def parameters_of(self, part: Part) -> dict[str, nn.Parameter]:
        """Parameters of one part by name."""
        return {name: p for name, p in self.named_parameters() if part_of(name) is part}

    def checkpoint_gradients(self) -> None:
        """Trade time for memory: blocks keep their inputs and are computed again backward."""
        for network in (self.denoiser.unet, self.aggregator):
            blocks: list[Any] = [m for m in network.modules() if hasattr(m, _CHECKPOINTING)]
            for block in blocks:
                block.gradient_checkpointing = True
                block._gradient_checkpointing_func = self.lora.checkpointed  # diffusers' own seam
        self.train()

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.alphas.device
