from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.errors import WeightsError
from engines.models.denoiser import Denoiser
from engines.models.lora import (
    LoraPair,
    fuse_lora,
    lora_delta,
    lora_pairs,
    lora_targets,
    module_name,
    official_key,
    with_lora_beside,
)
from engines.one_byte import store_in_one_byte

Make = Callable[..., Tensor]
LORA_KEY_PARTS = (".lora.down.weight", ".lora.up.weight", ".lora_A.weight", ".lora_B.weight")


def _module_of(key: str) -> str:
    for part in LORA_KEY_PARTS:
        key = key.removesuffix(part)
    return key


def test_the_previewer_of_the_released_size_has_the_official_file(
    full_size_denoiser: Denoiser, published: dict[str, Any]
) -> None:
    rank = published["lora_rank"]
    modules = dict(full_size_denoiser.named_modules())
    ours: dict[str, list[int]] = {}
    for name in lora_targets(modules.items()):
        outputs, *inputs = modules[name].get_parameter("weight").shape
        ours[official_key(name, "down")] = [rank, *inputs]
        ours[official_key(name, "up")] = [outputs, rank, *(1 for _ in inputs[1:])]
    assert ours == published["previewer_lora_file"]


@pytest.mark.parametrize("listing", ["previewer_lora_file", "previewer_lora_peft_names"])
def test_both_official_spellings_lead_to_the_modules_that_are_adapted(
    full_size_denoiser: Denoiser, published: dict[str, Any], listing: str
) -> None:
    named = {module_name(_module_of(key)) for key in published[listing]}
    assert named == set(lora_targets(full_size_denoiser.named_modules()))
    assert len(named) == 942


def test_text_keys_and_values_and_the_embeddings_are_not_adapted(
    full_size_denoiser: Denoiser,
) -> None:
    targets = lora_targets(full_size_denoiser.named_modules())
    for suffix in ("attn2.to_k", "attn2.to_v", "conv_in", "conv_out", "linear_1", "linear_2"):
        assert not [name for name in targets if name.endswith(suffix)]
    for suffix in ("attn1.to_k", "attn2.to_q", "processor.to_k_ip", "ln_v_ip.linear", "to_kv"):
        assert [name for name in targets if name.endswith(suffix)]


@pytest.mark.parametrize(("down", "up"), [("lora.down", "lora.up"), ("lora_A", "lora_B")])
def test_either_spelling_of_the_halves_is_read(down: str, up: str, random_tensor: Make) -> None:
    halves = random_tensor(4, 6), random_tensor(8, 4)
    where = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    pairs = lora_pairs({f"{where}.{down}.weight": halves[0], f"{where}.{up}.weight": halves[1]})
    (pair,) = pairs.values()
    assert list(pairs) == [where]
    assert torch.equal(pair.down, halves[0])
    assert torch.equal(pair.up, halves[1])


def test_the_scale_is_one_over_the_rank_unless_the_file_carries_an_alpha(
    random_tensor: Make,
) -> None:
    state = {
        "unet.conv1.lora_A.weight": random_tensor(4, 6),
        "unet.conv1.lora_B.weight": random_tensor(8, 4),
    }
    assert lora_pairs(state)["unet.conv1"].scale == 0.25
    state["unet.conv1.alpha"] = torch.tensor(2.0)
    assert lora_pairs(state)["unet.conv1"].scale == 0.5


def test_a_pair_with_one_half_is_refused_by_name(random_tensor: Make) -> None:
    with pytest.raises(WeightsError, match=r"1 unexpected or incomplete key\(s\): unet\.conv1"):
        lora_pairs({"unet.conv1.lora_A.weight": random_tensor(4, 6)})


def test_a_key_that_is_no_lora_key_is_refused_by_name(random_tensor: Make) -> None:
    with pytest.raises(WeightsError, match=r"unet\.conv1\.weight"):
        lora_pairs({"unet.conv1.weight": random_tensor(4, 6)})


class Small(nn.Module):
    """A linear layer, two convolutions and one layer that no LoRA adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Module()
        self.block.proj_in = nn.Linear(6, 8)
        self.block.conv1 = nn.Conv2d(3, 5, 3, padding=1)
        self.block.conv2 = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.block.other = nn.Linear(6, 8)


@pytest.fixture
def pairs(random_tensor: Make) -> dict[str, LoraPair]:
    return {
        "block.proj_in": LoraPair(random_tensor(2, 6), random_tensor(8, 2), 0.3),
        "block.conv1": LoraPair(random_tensor(2, 3, 3, 3), random_tensor(5, 2, 1, 1), 0.7),
        "block.conv2": LoraPair(random_tensor(2, 3, 3, 3), random_tensor(5, 2, 1, 1), 1.1),
    }


def test_a_fused_linear_layer_equals_the_layer_and_its_low_rank_branch(
    pairs: dict[str, LoraPair], random_tensor: Make
) -> None:
    network, x, pair = Small(), random_tensor(4, 6), pairs["block.proj_in"]
    plain = network.block.get_submodule("proj_in")(x)
    branch = F.linear(F.linear(x, pair.down), pair.up)
    fuse_lora(network, pairs)
    fused = network.block.get_submodule("proj_in")(x)
    torch.testing.assert_close(fused, plain + 0.3 * branch)


@pytest.mark.parametrize(("name", "scale", "stride"), [("conv1", 0.7, 1), ("conv2", 1.1, 2)])
def test_a_fused_convolution_equals_the_layer_and_its_low_rank_branch(
    pairs: dict[str, LoraPair], random_tensor: Make, name: str, scale: float, stride: int
) -> None:
    network, x, pair = Small(), random_tensor(2, 3, 7, 6), pairs[f"block.{name}"]
    plain = network.block.get_submodule(name)(x)
    low = F.conv2d(x, pair.down, stride=stride, padding=1)
    fuse_lora(network, pairs)
    fused = network.block.get_submodule(name)(x)
    torch.testing.assert_close(fused, plain + scale * F.conv2d(low, pair.up), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 0.0), (torch.float16, 2e-3)])
def test_weights_with_their_lora_beside_are_those_of_a_fused_network(
    pairs: dict[str, LoraPair], dtype: torch.dtype, slack: float
) -> None:
    network = Small().to(dtype)
    beside = with_lora_beside(cast("Any", network), pairs)
    fused = copy.deepcopy(network)
    fuse_lora(fused, pairs)
    for name in pairs:
        read, held = (own.get_submodule(name).weight for own in (beside, fused))
        assert read.dtype == dtype
        torch.testing.assert_close(read, held, rtol=slack, atol=slack)


def test_a_lora_beside_shares_all_weights_and_changes_none(pairs: dict[str, LoraPair]) -> None:
    network = Small()
    before = {name: own.clone() for name, own in network.named_parameters()}
    beside = with_lora_beside(cast("Any", network), pairs)
    assert {id(own) for own in beside.parameters()} == {id(own) for own in network.parameters()}
    halves = sum(own.numel() for own in beside.buffers())
    assert halves == sum(pair.down.numel() + pair.up.numel() for pair in pairs.values())
    assert all(torch.equal(own, before[name]) for name, own in network.named_parameters())


def test_a_lora_is_beside_weights_in_one_byte_as_well(pairs: dict[str, LoraPair]) -> None:
    network: Any = Small().requires_grad_(False)
    store_in_one_byte(network)
    expected = {
        name: network.get_submodule(name).weight + lora_delta(pair) for name, pair in pairs.items()
    }
    beside: Any = with_lora_beside(network, pairs)
    assert {id(own) for own in beside.parameters()} == {id(own) for own in network.parameters()}
    for name, weight in expected.items():
        assert torch.equal(beside.get_submodule(name).weight, weight)


def test_fusing_touches_the_named_weights_alone(pairs: dict[str, LoraPair]) -> None:
    network = Small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fuse_lora(network, pairs)
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"{name}.weight" for name in pairs}


def test_a_delta_has_the_rank_and_the_shape_of_its_pair(random_tensor: Make) -> None:
    delta = lora_delta(LoraPair(random_tensor(2, 6), random_tensor(8, 2), 1.0))
    assert delta.shape == (8, 6)
    assert int(torch.linalg.matrix_rank(delta)) == 2


@pytest.mark.parametrize("apply", [fuse_lora, with_lora_beside])
def test_a_target_without_a_pair_is_refused_by_name(
    pairs: dict[str, LoraPair], apply: Callable[..., Any]
) -> None:
    del pairs["block.conv2"]
    with pytest.raises(WeightsError, match=r"1 missing key\(s\): block\.conv2"):
        apply(Small(), pairs)


@pytest.mark.parametrize("apply", [fuse_lora, with_lora_beside])
def test_a_pair_without_a_module_is_refused_by_name(
    pairs: dict[str, LoraPair], random_tensor: Make, apply: Callable[..., Any]
) -> None:
    pairs["block.conv9"] = LoraPair(random_tensor(2, 6), random_tensor(8, 2), 1.0)
    with pytest.raises(WeightsError, match=r"block\.conv9 \(8, 6\)"):
        apply(Small(), pairs)


@pytest.mark.parametrize("apply", [fuse_lora, with_lora_beside])
def test_a_pair_of_another_shape_is_refused_by_name(
    pairs: dict[str, LoraPair], random_tensor: Make, apply: Callable[..., Any]
) -> None:
    pairs["block.proj_in"] = LoraPair(random_tensor(2, 5), random_tensor(8, 2), 1.0)
    with pytest.raises(WeightsError, match=r"block\.proj_in \(8, 5\)"):
        apply(Small(), pairs)
