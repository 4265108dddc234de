from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines.errors import WeightsError
from engines.folder import read_folder
from engines.models.denoiser import Denoiser
from engines.networks import Networks, build_networks
from engines.restorer import Restorer
from engines.weights import (
    adapter_keys,
    adapter_state,
    fingerprint,
    load_denoiser,
    load_lora,
    load_networks,
    save_networks,
)

ADAPTER = "instantir/adapter.safetensors"
AGGREGATOR = "instantir/aggregator.safetensors"
LORA = "instantir/previewer_lora_weights.safetensors"
TONE = "instantir/tone.safetensors"
UNET = "sdxl/unet/diffusion_pytorch_model.safetensors"
Folder = Callable[[], Path]


@pytest.fixture
def own_folder(nano_like_folder: Path, tmp_path: Path) -> Path:
    """A copy of the first model that a test may spoil."""
    return Path(shutil.copytree(nano_like_folder, tmp_path / "model"))


def fresh(folder: Path) -> Networks:
    return build_networks(read_folder(folder))


def change(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(path)
    edit(state)
    save_file(state, path)


def states(networks: Networks) -> list[dict[str, Tensor]]:
    return [module.state_dict() for module in networks.modules()]


def assert_equal(ours: Networks, theirs: Networks) -> None:
    for one, other in zip(states(ours), states(theirs), strict=True):
        assert list(one) == list(other)
        assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_the_adapter_of_the_released_size_has_the_official_keys_and_shapes(
    full_size_denoiser: Denoiser, published: dict[str, Any]
) -> None:
    state = full_size_denoiser.state_dict()
    ours = {name: list(state[key].shape) for key, name in adapter_keys(full_size_denoiser).items()}
    theirs = {
        f"{part}.{key}": shape
        for part, shapes in published["adapter_pt"].items()
        for key, shape in shapes.items()
    }
    assert ours == theirs


def test_adapter_state_is_the_inverse_of_adapter_keys(full_size_denoiser: Denoiser) -> None:
    keys = adapter_keys(full_size_denoiser)
    own = full_size_denoiser.state_dict()
    back = adapter_state(full_size_denoiser, {name: own[key] for key, name in keys.items()})
    assert set(back) == set(keys)


@pytest.mark.parametrize("name", ["nano_like", "sdxl_like"])
def test_what_was_saved_comes_back_bit_by_bit(
    request: pytest.FixtureRequest, name: str, tmp_path: Path
) -> None:
    source = request.getfixturevalue(f"{name}_folder")
    loaded = request.getfixturevalue(name).networks
    lora = load_lora(source)
    save_networks(loaded, lora, tmp_path, torch.float32)
    again = fresh(source)
    load_networks(again, tmp_path)
    assert_equal(again, loaded)
    reread = load_lora(tmp_path)
    assert list(reread) == list(lora)
    for key, pair in lora.items():
        assert torch.equal(reread[key].down, pair.down)
        assert torch.equal(reread[key].up, pair.up)
        assert reread[key].scale == pytest.approx(pair.scale, rel=1e-6)


def test_half_precision_files_are_read_into_the_networks_own_dtype(
    nano_like: Restorer, nano_like_folder: Path, tmp_path: Path
) -> None:
    lora = load_lora(nano_like_folder)
    save_networks(nano_like.networks, lora, tmp_path, torch.float16)
    assert load_file(tmp_path / UNET)["conv_in.weight"].dtype == torch.float16
    again = fresh(nano_like_folder)
    load_networks(again, tmp_path)
    for one, other in zip(states(again), states(nano_like.networks), strict=True):
        for key, value in one.items():
            assert value.dtype == torch.float32
            assert torch.equal(value, other[key].half().float())


def test_files_are_spelled_as_the_official_ones(nano_like_folder: Path) -> None:
    unet, vision = load_file(nano_like_folder / UNET), nano_like_folder / "dinov2/model.safetensors"
    assert not [key for key in unet if "processor" in key or "resampler" in key]
    assert "encoder.layer.0.attention.attention.query.weight" in load_file(vision)
    parts = {key.partition(".")[0] for key in load_file(nano_like_folder / ADAPTER)}
    assert parts == {"image_proj", "ip_adapter"}
    first = load_file(nano_like_folder / "sdxl/text_encoder/model.safetensors")
    assert all(key.startswith("text_model.") for key in first)


def test_the_published_pickles_are_read_where_their_twins_are_missing(
    own_folder: Path, nano_like: Restorer
) -> None:
    flat = load_file(own_folder / ADAPTER)
    nested: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in flat.items():
        part, _, name = key.partition(".")
        nested[part][name] = value
    torch.save(nested, own_folder / "instantir/adapter.pt")
    torch.save(load_file(own_folder / AGGREGATOR), own_folder / "instantir/aggregator.pt")
    lora = load_lora(own_folder)
    torch.save(load_file(own_folder / LORA), own_folder / "instantir/previewer_lora_weights.bin")
    for name in (ADAPTER, AGGREGATOR, LORA):
        (own_folder / name).unlink()
    again = fresh(own_folder)
    load_networks(again, own_folder)
    assert_equal(again, nano_like.networks)
    assert load_lora(own_folder).keys() == lora.keys()


def test_the_safetensors_twin_is_preferred(own_folder: Path, nano_like: Restorer) -> None:
    torch.save({"nothing": torch.zeros(1)}, own_folder / "instantir/aggregator.pt")
    again = fresh(own_folder)
    load_networks(again, own_folder)
    assert_equal(again, nano_like.networks)


def test_position_ids_and_the_bare_spelling_of_older_text_files_are_taken(
    own_folder: Path, nano_like: Restorer
) -> None:
    path = own_folder / "sdxl/text_encoder/model.safetensors"
    bare = {key.removeprefix("text_model."): value for key, value in load_file(path).items()}
    save_file({**bare, "embeddings.position_ids": torch.arange(32)[None]}, path)
    again = fresh(own_folder)
    load_networks(again, own_folder)
    assert_equal(again, nano_like.networks)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "owned")


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    own_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "written"
    torch.save({"conv_in.weight": Malicious(target)}, own_folder / "instantir/aggregator.pt")
    (own_folder / AGGREGATOR).unlink()
    with pytest.raises((UnpicklingError, WeightsError)):
        load_networks(fresh(own_folder), own_folder)
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        (UNET, "unet and adapter"),
        (ADAPTER, "unet and adapter"),
        (AGGREGATOR, "aggregator"),
        (TONE, "tone"),
        ("dinov2/model.safetensors", "dinov2"),
        ("sdxl/text_encoder/model.safetensors", "text_encoder"),
        ("sdxl/text_encoder_2/model.safetensors", "text_encoder_2"),
    ],
)
def test_a_missing_key_is_named(own_folder: Path, name: str, where: str) -> None:
    change(own_folder / name, lambda state: state.pop(sorted(state)[0]))
    with pytest.raises(WeightsError, match=rf"^{where}: 1 missing key\(s\): \S+$"):
        load_networks(fresh(own_folder), own_folder)


def test_of_many_missing_keys_the_first_five_are_named(own_folder: Path) -> None:
    def empty(state: dict[str, Tensor]) -> None:
        for key in sorted(state)[:9]:
            del state[key]

    change(own_folder / AGGREGATOR, empty)
    with pytest.raises(WeightsError, match="9 missing") as caught:
        load_networks(fresh(own_folder), own_folder)
    message = str(caught.value)
    assert message.endswith("and 4 more")
    assert len(message.partition("key(s): ")[2].split(", ")) == 5


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (AGGREGATOR, "conv_out.weight"),
        (UNET, "conv_up.weight"),
        (ADAPTER, "image_proj.more"),
        (ADAPTER, "ip_adapter.0.to_k_ip.weight"),  # even places are self-attentions
        (ADAPTER, "ip_adapter.99.to_k_ip.weight"),
        (ADAPTER, "more.weight"),
    ],
)
def test_an_unexpected_key_is_named(own_folder: Path, name: str, key: str) -> None:
    change(own_folder / name, lambda state: state.update({key: torch.zeros(1)}))
    with pytest.raises(WeightsError, match=r"1 unexpected key\(s\): ") as caught:
        load_networks(fresh(own_folder), own_folder)
    assert key.rpartition(".")[2] in str(caught.value)


def test_a_misshapen_key_is_named_with_both_shapes(own_folder: Path) -> None:
    change(own_folder / UNET, lambda state: state.update({"conv_out.bias": torch.zeros(3)}))
    message = r"misshapen key\(s\): unet\.conv_out\.bias \(file \(3,\), model \(12,\)\)"
    with pytest.raises(WeightsError, match=message):
        load_denoiser(fresh(own_folder).denoiser, own_folder)


def test_nothing_is_filled_when_a_file_does_not_fit(own_folder: Path) -> None:
    change(own_folder / UNET, lambda state: state.update({"conv_out.bias": torch.zeros(3)}))
    networks = fresh(own_folder)
    before = {key: value.clone() for key, value in networks.denoiser.state_dict().items()}
    with pytest.raises(WeightsError):
        load_denoiser(networks.denoiser, own_folder)
    after = networks.denoiser.state_dict()
    assert [key for key in after if not torch.equal(after[key], before[key])] == []


@pytest.mark.parametrize("name", [UNET, ADAPTER, AGGREGATOR, "dinov2/model.safetensors"])
def test_a_missing_file_is_named(own_folder: Path, name: str) -> None:
    (own_folder / name).unlink()
    with pytest.raises(WeightsError, match=name):
        load_networks(fresh(own_folder), own_folder)


def test_a_missing_lora_is_named(own_folder: Path) -> None:
    (own_folder / LORA).unlink()
    with pytest.raises(WeightsError, match="previewer_lora_weights"):
        load_lora(own_folder)


def test_the_fingerprint_follows_every_weight(own_folder: Path) -> None:
    seen = {fingerprint(own_folder)}
    for name in (UNET, ADAPTER, AGGREGATOR, LORA):
        change(own_folder / name, lambda state: next(iter(state.values())).view(-1)[:1].add_(1e-3))
        seen.add(fingerprint(own_folder))
    assert len(seen) == 5
    assert all(len(mark) == 16 and int(mark, 16) >= 0 for mark in seen)


def test_the_fingerprint_is_the_same_for_a_copy_and_for_other_settings(
    own_folder: Path, nano_like_folder: Path
) -> None:
    path = own_folder / "instantir/restorer.json"
    path.write_text(json.dumps({"presets": {"only": {}}}), encoding="utf-8")
    assert fingerprint(own_folder) == fingerprint(nano_like_folder)
