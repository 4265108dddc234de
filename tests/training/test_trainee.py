import pytest
import torch

from engines.folder import ModelFolder
from engines.weights import adapter_keys
from training.trainee import Part, Trainee, part_of

MERGE = "controlnet_mid_block.1.weight"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("lora.up.3", Part.PREVIEWER),
        ("denoiser.resampler.proj_in.weight", Part.DCP),
        ("denoiser.unet.down_blocks.1.attn2.processor.to_k_ip.weight", Part.DCP),
        ("denoiser.unet.conv_out.bias", Part.HEAD),
        ("denoiser.unet.conv_in.bias", Part.UNET),
        ("aggregator.conv_in.weight", Part.AGGREGATOR),
        ("vision.dino.layernorm.weight", Part.VISION),
        ("text.first.embeddings.weight", Part.TEXT),
        ("tone.speak.bias", Part.TONE),
        ("codec.vae.encoder.conv_in.weight", Part.CODEC),
    ],
)
def test_a_name_tells_the_part(name: str, part: Part) -> None:
    assert part_of(name) is part


def test_every_parameter_belongs_to_one_part(trainee: Trainee) -> None:
    names = [name for part in Part for name in trainee.parameters_of(part)]
    assert sorted(names) == sorted(name for name, _ in trainee.named_parameters())


def test_dcp_is_what_the_adapter_file_holds(trainee: Trainee) -> None:
    names = {name.removeprefix("denoiser.") for name in trainee.parameters_of(Part.DCP)}
    held = set(adapter_keys(trainee.denoiser))
    assert names == held & dict(trainee.denoiser.named_parameters()).keys()
    assert names


def test_a_model_of_residuals_starts_as_the_identity(tiny_folder: ModelFolder) -> None:
    fresh = Trainee(tiny_folder, rank=2, alpha=2.0)
    head = fresh.parameters_of(Part.HEAD)
    assert len(head) == 2
    assert not any(parameter.any() for parameter in head.values())


def test_the_aggregator_begins_as_the_encoder_of_the_unet(trainee: Trainee) -> None:
    trainee.copy_unet_to_aggregator()
    unet, aggregator = trainee.denoiser.unet.state_dict(), trainee.aggregator.state_dict()
    for name in (
        "conv_in.weight",
        "time_embedding.linear_1.weight",
        "mid_block.resnets.0.conv1.weight",
    ):
        assert torch.equal(aggregator[name], unet[name])
    assert torch.equal(aggregator["ref_conv_in.weight"], unet["conv_in.weight"])
    assert not aggregator["controlnet_mid_block.1.weight"].any()


def test_closed_merges_are_opened_and_open_ones_stay(trainee: Trainee) -> None:
    trainee.open_merges()
    before = trainee.aggregator.get_parameter(MERGE).clone()
    assert before.any()
    trainee.open_merges()
    assert torch.equal(trainee.aggregator.get_parameter(MERGE), before)
