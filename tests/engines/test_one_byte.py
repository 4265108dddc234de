"""Weights in one byte: what is stored, what is made of it, and which are left as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from engines.one_byte import FORMAT, store_in_one_byte


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = {
        "conv_in": nn.Conv2d(3, 8, 3),
        "conv": nn.Conv2d(8, 8, 3),
        "norm": nn.GroupNorm(2, 8),
        "linear": nn.Linear(6, 4),
        "conv_out": nn.Conv2d(8, 3, 3),
    }
    return nn.ModuleDict(layers).requires_grad_(False)


def layer(network: nn.Module, name: str) -> Any:
    return network.get_submodule(name)


def weight(network: nn.Module, name: str) -> torch.Tensor:
    return layer(network, name).weight.clone()


def test_each_value_is_near_what_it_was_by_its_own_size(network: nn.Module) -> None:
    before = {name: weight(network, name) for name in ("conv", "linear")}
    store_in_one_byte(network)
    for name, expected in before.items():
        # Half a step of three bits of mantissa, and of the smallest steps near zero.
        near = 2**-4 * expected.abs() + 2**-10 * expected.flatten(1).abs().amax() / 448
        assert ((weight(network, name) - expected).abs() <= near).all()
        assert not torch.equal(weight(network, name), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_has_the_precision_that_it_had(network: nn.Module, dtype: torch.dtype) -> None:
    store_in_one_byte(network.to(dtype))
    assert weight(network, "conv").dtype == dtype
    linear = layer(network, "linear")
    assert linear(torch.ones(1, 6, dtype=dtype)).dtype == dtype


def test_outputs_of_unlike_size_are_stored_as_well_as_each_other(network: nn.Module) -> None:
    linear = layer(network, "linear").half()
    sizes = torch.tensor([1.0, 1e-2, 1e-4, 100.0]).half()[:, None]
    linear.weight = nn.Parameter(torch.rand(4, 6).half().add(0.5) * sizes, requires_grad=False)
    expected = weight(network, "linear").float()
    store_in_one_byte(network)
    made = weight(network, "linear").float()
    assert ((made - expected).abs() <= 0.07 * expected.abs()).all()


def test_an_output_of_zeros_stays_one(network: nn.Module) -> None:
    layer(network, "linear").weight.zero_()
    store_in_one_byte(network)
    assert not weight(network, "linear").any()


def test_matrices_alone_are_stored_so_and_not_the_first_and_the_last(network: nn.Module) -> None:
    store_in_one_byte(network)
    single = {name for name, own in network.named_parameters() if own.dtype == FORMAT}
    assert single == {f"{name}.parametrizations.weight.original" for name in ("conv", "linear")}


def test_parts_that_are_kept_are_left_as_they_are(network: nn.Module) -> None:
    expected = weight(network, "linear")
    store_in_one_byte(network, kept=[layer(network, "linear")])
    assert torch.equal(weight(network, "linear"), expected)
    assert layer(network, "conv").parametrizations.weight.original.itemsize == 1
