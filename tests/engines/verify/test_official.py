from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engines.restorer import Restorer
from engines.verify.official import Row, floored, resized, rows_of
from engines.verify.recorded import Case

Make = Callable[..., Tensor]
SIZES: dict[str, Any] = {
    "original_size": [512, 640],
    "target_size": [1024, 1024],
    "crops_coords_top_left": [16, 8],
    "negative_original_size": [256, 256],
    "negative_target_size": [128, 96],
}
POSITIVE_IDS = (512, 640, 16, 8, 1024, 1024)
NEGATIVE_IDS = (256, 256, 0, 0, 128, 96)


@pytest.fixture
def rows(sdxl_like: Restorer) -> Callable[..., list[Row]]:
    """Translate a call on pictures of the given (width, height)s, each of a gray of its own."""

    def translate(
        call: dict[str, Any],
        sizes: tuple[tuple[int, int], ...] = ((64, 64),),
        kind: str = "pil",
        **tensors: Tensor,
    ) -> list[Row]:
        for i, (width, height) in enumerate(sizes):
            gray = torch.full((height, width, 3), 40 * (i + 1), dtype=torch.uint8)
            tensors[f"in.image{i}_uint8"] = gray
        case = Case(
            "case", {"call": {"prompt": "p", **call}, "case": {"image_kind": kind}}, tensors
        )
        found = rows_of(case, sdxl_like)
        assert case.untouched() == []
        return found

    return translate


def time_ids(row: Row) -> tuple[Any, Any]:
    micro, negative = row.params.micro, row.params.negative_micro
    return negative and negative.time_ids(), micro and micro.time_ids()


def test_arguments_are_translated_one_by_one(rows: Callable[..., list[Row]]) -> None:
    call = {
        "num_inference_steps": 4,
        "guidance_scale": 2.5,
        "guidance_rescale": 0.3,
        "preview_start": 0.1,
        "preview_end": 0.9,
        "control_guidance_start": 0.2,
        "control_guidance_end": 0.8,
        "controlnet_conditioning_scale": [1.0, 0.5, 0.1, 0.0],
        "adastep_restore": True,
        "multistep_restore": True,
        "denoising_end": 0.7,
        "clip_skip": 1,
        "init_latents_with_lq": False,
        "negative_prompt": "n",
    }
    (row,) = rows(call)
    given = row.params.as_dict()
    expected = {
        "prompt": "p",
        "negative_prompt": "n",
        "steps": 4,
        "guidance_scale": 2.5,
        "guidance_rescale": 0.3,
        "preview_start": 0.1,
        "preview_end": 0.9,
        "aggregator_start": 0.2,
        "creative_start": 0.8,
        "conditioning_scale": (1.0, 0.5, 0.1, 0.0),
        "adaptive": "official",
        "multistep": True,
        "denoising_end": 0.7,
        "clip_skip": 1,
        "start_from_noise": True,
    }
    assert {name: given[name] for name in expected} == expected


def test_an_argument_that_is_not_known_is_refused_by_name(rows: Callable[..., list[Row]]) -> None:
    with pytest.raises(ValueError, match="not known: cross_attention_kwargs, eta"):
        rows({"eta": 0.5, "cross_attention_kwargs": {}})


def test_arguments_left_out_keep_the_official_defaults(rows: Callable[..., list[Row]]) -> None:
    (row,) = rows({})
    params = row.params
    assert (params.steps, params.guidance_scale, params.creative_start) == (30, 7.0, 1.0)
    assert (params.start_from_noise, params.negative_prompt) == (False, None)


@pytest.mark.parametrize("steps", [[900, 500, 7], "tensor [900, 500, 7]"])
def test_custom_time_steps_replace_the_number_of_steps(
    rows: Callable[..., list[Row]], steps: Any
) -> None:
    (row,) = rows({"timesteps": steps, "num_inference_steps": 50})
    assert row.params.timesteps == (900, 500, 7)


def test_pictures_become_pixels_of_the_first_ones_size_floored_to_multiples_of_8(
    rows: Callable[..., list[Row]],
) -> None:
    first, second = rows({}, ((100, 70), (64, 64)))
    for row, gray in ((first, 40), (second, 80)):
        assert row.inputs.pixels is not None
        expected = torch.full((1, 3, 64, 96), gray / 255 * 2 - 1)
        torch.testing.assert_close(row.inputs.pixels, expected)
    assert time_ids(first)[1] == (64, 96, 0, 0, 64, 96)


def test_height_and_width_override_the_size(rows: Callable[..., list[Row]]) -> None:
    (row,) = rows({"height": 40, "width": 90}, ((64, 64),))
    assert row.inputs.pixels is not None
    assert row.inputs.pixels.shape == (1, 3, 40, 88)


def test_one_picture_with_many_prompts_is_many_rows(rows: Callable[..., list[Row]]) -> None:
    found = rows({"prompt": ["a", "b"], "negative_prompt": ["m", "n"]})
    texts = [(row.params.prompt, row.params.negative_prompt) for row in found]
    assert texts == [("a", "m"), ("b", "n")]


def test_copies_of_several_pictures_see_the_vision_features_in_another_order(
    rows: Callable[..., list[Row]], sdxl_like: Restorer
) -> None:
    found = rows({"num_images_per_prompt": 2, "prompt": ["a", "b"]}, ((64, 64), (64, 64)))
    assert [row.params.prompt for row in found] == ["a", "a", "b", "b"]
    grays = [float(row.inputs.pixels.mean()) for row in found if row.inputs.pixels is not None]
    assert grays[0] == grays[1] < grays[2] == grays[3]
    seen = [
        sdxl_like.networks.vision.pixels_of(Image.new("RGB", (64, 64), (g,) * 3)) for g in (40, 80)
    ]
    for row, expected in zip(found, [*seen, *seen], strict=True):
        torch.testing.assert_close(row.inputs.vision, expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sizes_of_a_batch_are_repeated_as_if_halves_took_turns(
    rows: Callable[..., list[Row]], count: int
) -> None:
    found = rows({**SIZES, "prompt": ["p"] * count}, ((64, 64),) * count)
    # Officially [negative, positive] repeated, read as all negatives, then all positives.
    repeated = [NEGATIVE_IDS, POSITIVE_IDS] * count
    assert [time_ids(row)[0] for row in found] == repeated[:count]
    assert [time_ids(row)[1] for row in found] == repeated[count:]


def test_without_guidance_there_are_no_negative_sizes(rows: Callable[..., list[Row]]) -> None:
    (row,) = rows({**SIZES, "guidance_scale": 1.0})
    assert time_ids(row) == (None, POSITIVE_IDS)


def test_negative_sizes_count_only_when_both_are_given(rows: Callable[..., list[Row]]) -> None:
    (row,) = rows({**SIZES, "negative_target_size": None})
    assert time_ids(row) == (POSITIVE_IDS, POSITIVE_IDS)


def test_latents_are_taken_as_they_are_and_a_picture_of_its_own_is_seen(
    rows: Callable[..., list[Row]], random_tensor: Make, sdxl_like: Restorer
) -> None:
    latents = random_tensor(1, 4, 8, 12)
    other = torch.full((32, 32, 3), 200, dtype=torch.uint8)
    given = {"in.image_latents": latents, "in.ip_image_uint8": other}
    (row,) = rows({}, ((64, 64),), kind="latent", **given)
    assert row.inputs.pixels is None
    assert row.inputs.latents is not None
    assert torch.equal(row.inputs.latents, latents)
    expected = sdxl_like.networks.vision.pixels_of(Image.new("RGB", (32, 32), (200,) * 3))
    torch.testing.assert_close(row.inputs.vision, expected)
    assert time_ids(row)[1] == (32, 48, 0, 0, 32, 48)


def test_a_tensor_reaches_the_vision_encoder_raw(rows: Callable[..., list[Row]]) -> None:
    (row,) = rows({}, ((64, 48),), kind="tensor")
    torch.testing.assert_close(row.inputs.vision, torch.full((1, 3, 48, 64), 40 / 255))


def test_given_embeddings_and_references_are_handed_on(
    rows: Callable[..., list[Row]], random_tensor: Make
) -> None:
    names = ("prompt", "pooled_prompt", "negative_prompt", "negative_pooled_prompt")
    tensors = {f"in.{name}_embeds": random_tensor(1, 2, 3) for name in names}
    tensors["in.reference_latents"] = random_tensor(1, 4, 16, 16)
    (row,) = rows({"prompt": None, "prompt_embeds": "given"}, **tensors)
    assert row.inputs.prompt is not None
    assert row.inputs.negative is not None
    handed = (
        row.inputs.prompt.hidden,
        row.inputs.prompt.pooled,
        row.inputs.negative.hidden,
        row.inputs.negative.pooled,
    )
    for ours, name in zip(handed, names, strict=True):
        assert torch.equal(ours, tensors[f"in.{name}_embeds"])
    assert row.inputs.reference is tensors["in.reference_latents"]


def test_sizes_are_floored_to_multiples_of_8() -> None:
    assert floored((64, 71)) == (64, 64)
    assert floored((100, 7)) == (96, 0)


def test_pixels_are_resized_by_lanczos_and_centered() -> None:
    picture = Image.fromarray(np.arange(48 * 3, dtype=np.uint8).reshape(6, 8, 3))
    expected = np.array(picture.resize((16, 24), Image.Resampling.LANCZOS)) / 127.5 - 1
    ours = resized(picture, (16, 24))
    assert ours.shape == (1, 3, 24, 16)
    np.testing.assert_allclose(ours[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)
