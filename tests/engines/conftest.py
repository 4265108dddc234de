"""Two tiny models of random weights, made once a session: what they restore is noise, exactly."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import engines
from engines.folder import read_folder, resampler_json
from engines.models.denoiser import Denoiser
from engines.models.lora import LoraPair, lora_targets
from engines.models.resampler import ResamplerConfig
from engines.networks import Networks, build_networks
from engines.restorer import Restorer
from engines.weights import save_networks
from training.nano import write_configs

PUBLISHED = Path(__file__).parent / "data" / "keys_full.json.gz"
RANK = 2
LORA_SCALE = 0.5
UNET = {
    "block_out_channels": [16, 24, 32],
    "norm_num_groups": 8,
    "attention_head_dim": [1, 1, 2],
    "addition_time_embed_dim": 8,
}
TEXT = {"num_attention_heads": 1, "num_hidden_layers": 3}
# The vision crop is 32 px: a 4 x 4 grid, which is the first model's table and not the second's.
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "patch_size": 8,
}
PREPROCESSING = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
NANO_LIKE: dict[str, dict[str, Any]] = {
    "sdxl/unet/config.json": {
        **UNET,
        "cross_attention_dim": 32,
        "projection_class_embeddings_input_dim": 16 + 6 * 8,
    },
    "sdxl/text_encoder/config.json": {**TEXT, "hidden_size": 16, "projection_dim": 16},
    "sdxl/text_encoder_2/config.json": {**TEXT, "hidden_size": 16, "projection_dim": 16},
    "dinov2/config.json": {**VISION, "image_size": 32},
    "dinov2/preprocessor_config.json": PREPROCESSING,
}
SDXL_LIKE: dict[str, dict[str, Any]] = {
    "sdxl/unet/config.json": {
        **UNET,
        "cross_attention_dim": 40,
        "in_channels": 4,
        "layers_per_block": 2,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": 20 + 6 * 8,
        "transformer_layers_per_block": [1, 1, 2],
    },
    "sdxl/scheduler/scheduler_config.json": {"prediction_type": "epsilon"},
    "sdxl/text_encoder/config.json": {**TEXT, "hidden_size": 16, "projection_dim": 16},
    "sdxl/text_encoder_2/config.json": {**TEXT, "hidden_size": 24, "projection_dim": 20},
    "sdxl/vae/config.json": {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [8, 8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "scaling_factor": 0.13025,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
    },
    "dinov2/config.json": {**VISION, "image_size": 56},
    "dinov2/preprocessor_config.json": PREPROCESSING,
    "instantir/restorer.json": {"min_side_px": 32, "max_side_px": 128},
}
REPLACED = {"sdxl/vae/config.json", "instantir/restorer.json"}


def _write(folder: Path, changes: Mapping[str, Mapping[str, Any]], context_dim: int) -> None:
    write_configs(folder)
    for name, values in changes.items():
        path = folder / name
        before = {} if name in REPLACED else json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**before, **values}), encoding="utf-8")
    resampler = ResamplerConfig(
        width=16, depth=1, heads=2, head_dim=8, queries=4, feature_dim=16, output_dim=context_dim
    )
    path = folder / "instantir" / "resampler_config.json"
    path.write_text(json.dumps(resampler_json(resampler)), encoding="utf-8")


@torch.no_grad()
def _randomize(network: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter its own random values: also those that training starts at zero."""
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))


def _lora(networks: Networks, generator: torch.Generator) -> dict[str, LoraPair]:
    pairs: dict[str, LoraPair] = {}
    modules = dict(networks.denoiser.named_modules())
    for name in lora_targets(modules.items()):
        weight = modules[name].get_parameter("weight")
        outputs, *inputs = weight.shape
        down = torch.randn(RANK, *inputs, generator=generator) / weight[0].numel() ** 0.5
        up = torch.randn(outputs, RANK, *(1 for _ in inputs[1:]), generator=generator)
        pairs[name] = LoraPair(down, up, LORA_SCALE)
    return pairs


def _make(folder: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    networks = build_networks(read_folder(folder))
    for network in networks.modules():
        _randomize(network, generator)
    save_networks(networks, _lora(networks, generator), folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def nano_like_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patch codec, residual prediction, a tone network, the vision crop's own position table."""
    folder = tmp_path_factory.mktemp("nano_like")
    _write(folder, NANO_LIKE, context_dim=32)
    return _make(folder, seed=1)


@pytest.fixture(scope="session")
def sdxl_like_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KL codec, noise prediction, no tone network, text encoders of two widths."""
    folder = tmp_path_factory.mktemp("sdxl_like")
    _write(folder, SDXL_LIKE, context_dim=40)
    (folder / "instantir" / "tone_config.json").unlink()
    return _make(folder, seed=2)


@pytest.fixture(scope="session")
def nano_like(nano_like_folder: Path) -> Restorer:
    return engines.load(nano_like_folder)


@pytest.fixture(scope="session")
def sdxl_like(sdxl_like_folder: Path) -> Restorer:
    return engines.load(sdxl_like_folder)


@pytest.fixture(params=["nano_like", "sdxl_like"])
def either(request: pytest.FixtureRequest) -> Restorer:
    """One restorer after the other: for what must hold whatever the model."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def photo() -> Callable[..., Image.Image]:
    """Make a picture of a (width, height) in px: a color gradient with a little noise."""

    def make(size: tuple[int, int], seed: int = 0) -> Image.Image:
        width, height = size
        x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        smooth = np.stack([x, y, 1 - (x + y) / 2], axis=-1) * 200 + 20
        noise = np.random.default_rng(seed).normal(0, 8, smooth.shape)
        return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def published() -> dict[str, Any]:
    """Configuration, keys and shapes of the released size, from the official classes."""
    return json.loads(gzip.decompress(PUBLISHED.read_bytes()))


@pytest.fixture(scope="session")
def full_size_denoiser(published: dict[str, Any]) -> Denoiser:
    """The released size without its memory."""
    with torch.device("meta"):
        return Denoiser(published["sdxl_unet_config"], ResamplerConfig())


@pytest.fixture
def random_tensor() -> Callable[..., Tensor]:
    """Standard normal tensors, the same sequence in every test."""
    generator = torch.Generator().manual_seed(11)
    return lambda *shape: torch.randn(shape, generator=generator)
