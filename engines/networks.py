"""All networks of a model, built from its folder's description."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from engines.errors import WeightsError
from engines.folder import ModelFolder
from engines.models.aggregator import Aggregator
from engines.models.autoencoder import KLCodec, PatchCodec
from engines.models.denoiser import Denoiser
from engines.models.text import TextEncoder
from engines.models.tone import Tone
from engines.models.vision import VisionEncoder


@dataclass(frozen=True, slots=True)
class Networks:
    """The trained parts. `denoiser` is the main network; the previewer is a second, fused copy."""

    denoiser: Denoiser
    aggregator: Aggregator
    vision: VisionEncoder
    text: TextEncoder
    codec: KLCodec | PatchCodec
    tone: Tone | None = None  # of models that were trained with one

    def modules(self) -> tuple[nn.Module, ...]:
        """All networks, in a fixed order."""
        tone = () if self.tone is None else (self.tone,)
        return self.denoiser, self.aggregator, self.vision, self.text, *tone, self.codec


_CODECS = "AutoencoderKL, PatchCodec"


def build_networks(folder: ModelFolder) -> Networks:
    """Networks with fresh weights, on torch's current default device."""
    return Networks(
        denoiser=build_denoiser(folder),
        aggregator=Aggregator(folder.unet, folder.sft_width),
        vision=VisionEncoder(dict(folder.vision), dict(folder.preprocessing)),
        text=TextEncoder([dict(config) for config in folder.text], folder.tokenizers),
        codec=build_codec(folder.codec),
        tone=build_tone(folder),
    )


def build_denoiser(folder: ModelFolder) -> Denoiser:
    """The conditional UNet with its resampler."""
    return Denoiser(folder.unet, folder.resampler)


def build_tone(folder: ModelFolder) -> Tone | None:
    """The tone network, for a model that has one."""
    if folder.tone_hidden is None:
        return None
    unet = folder.unet
    return Tone(unet["cross_attention_dim"], unet["in_channels"], folder.tone_hidden)


def build_codec(config: Mapping[str, Any]) -> KLCodec | PatchCodec:
    """The latent codec that the folder's `vae/config.json` names. Raises WeightsError."""
    match config.get("_class_name"):
        case "PatchCodec":
            return PatchCodec(config["patch"], config["scaling_factor"])
        case "AutoencoderKL":
            return KLCodec(dict(config))
        case other:
            raise WeightsError(f"vae/config.json: _class_name is {other!r}, known: {_CODECS}")
