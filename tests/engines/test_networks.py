from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

from engines.folder import read_folder
from engines.models.autoencoder import KLCodec, PatchCodec
from engines.models.denoiser import Denoiser
from engines.models.resampler import ResamplerConfig
from engines.networks import build_denoiser, build_networks
from engines.restorer import Restorer


def test_the_unet_of_the_released_size_has_the_official_keys_and_shapes(
    full_size_denoiser: Denoiser, published: dict[str, Any]
) -> None:
    ours = {
        key.removeprefix("unet."): list(value.shape)
        for key, value in full_size_denoiser.state_dict().items()
        if key.startswith("unet.") and ".processor." not in key
    }
    assert ours == published["unet"]
    assert sum(math.prod(shape) for shape in ours.values()) == 2_567_463_684


def test_a_folder_decides_the_size_of_its_denoiser(
    nano_like_folder: Path, full_size_denoiser: Denoiser, published: dict[str, Any]
) -> None:
    folder = dataclasses.replace(
        read_folder(nano_like_folder),
        unet=published["sdxl_unet_config"],
        resampler=ResamplerConfig(),
    )
    with torch.device("meta"):
        built = build_denoiser(folder)
    shapes = {key: value.shape for key, value in built.state_dict().items()}
    assert shapes == {key: value.shape for key, value in full_size_denoiser.state_dict().items()}


def test_the_vae_config_names_the_codec(nano_like: Restorer, sdxl_like: Restorer) -> None:
    assert isinstance(nano_like.networks.codec, PatchCodec)
    assert isinstance(sdxl_like.networks.codec, KLCodec)


def test_modules_lists_every_network_once(either: Restorer) -> None:
    networks = either.networks
    fields = [getattr(networks, field.name) for field in dataclasses.fields(networks)]
    there = sorted(id(field) for field in fields if field is not None)
    assert sorted(id(module) for module in networks.modules()) == there


def test_a_model_has_a_tone_network_where_its_folder_says_so(
    nano_like: Restorer, sdxl_like: Restorer
) -> None:
    tone = nano_like.networks.tone
    assert tone is not None
    assert (tone.listen.in_features, tone.channels) == (32, 12)
    assert sdxl_like.networks.tone is None


def test_two_builds_do_not_share_weights(nano_like_folder: Path) -> None:
    folder = read_folder(nano_like_folder)
    first, second = build_networks(folder), build_networks(folder)
    ours = {id(p) for module in first.modules() for p in module.parameters()}
    theirs = {id(p) for module in second.modules() for p in module.parameters()}
    assert ours
    assert not ours & theirs
