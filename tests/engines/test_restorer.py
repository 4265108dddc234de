from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engines.params import MicroConditioning, RestoreParams, Sampler
from engines.restoration import Inputs, Restoration, SeededNoise, TextCondition
from engines.restorer import Restorer, make_plan
from engines.schedule import add_noise

Photo = Callable[..., Image.Image]
Make = Callable[..., Tensor]
QUICK = {"prompt": "bright photo", "negative_prompt": "blurry", "steps": 2, "guidance_scale": 1.0}


def quick(**changes: Any) -> RestoreParams:
    return RestoreParams.of({**QUICK, **changes})


def begun(restorer: Restorer, picture: Image.Image, params: RestoreParams) -> Restoration:
    restoration = restorer.begin(picture, params)
    assert isinstance(restoration, Restoration)
    return restoration


def run(restorer: Restorer, restoration: Restoration) -> Restoration:
    while not restoration.done:
        restorer.step([restoration])
    return restoration


def pixels_of(restorer: Restorer, make: Make, height: int, width: int, **more: Any) -> Inputs:
    vision = make(1, 3, restorer.networks.vision.crop, restorer.networks.vision.crop)
    return Inputs(vision=vision, pixels=make(1, 3, height, width), **more)


@pytest.mark.parametrize("size", [(15, 64), (64, 15), (1, 1)])
def test_a_picture_with_a_side_below_sixteen_pixels_is_refused_by_its_size(
    nano_like: Restorer, photo: Photo, size: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match=rf"image is {size[0]}x{size[1]} px, sides of 16 px"):
        begun(nano_like, photo(size), quick())


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (100, 70), (64, 200), (130, 129), (300, 17)])
def test_every_picture_comes_back_at_its_own_size(
    either: Restorer, photo: Photo, size: tuple[int, int]
) -> None:
    restoration = run(either, begun(either, photo(size), quick()))
    result = either.finish(restoration)
    assert result.size == size
    assert result.mode == "RGB"
    assert np.array(result).std() > 0


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_a_picture_of_another_mode_is_taken_as_rgb(
    nano_like: Restorer, photo: Photo, mode: str
) -> None:
    given = photo((20, 20)).convert(mode)
    ours, expected = (begun(nano_like, i, quick()) for i in (given, given.convert("RGB")))
    assert torch.equal(ours.degraded, expected.degraded)


def test_there_is_no_preview_before_the_first_step_and_one_after_each(
    either: Restorer, photo: Photo
) -> None:
    restoration = begun(either, photo((100, 70)), quick())
    assert either.preview(restoration) is None
    assert (restoration.step, restoration.steps, restoration.done) == (0, 2, False)
    pictures = []
    while not restoration.done:
        either.step([restoration])
        preview = either.preview(restoration)
        assert preview is not None
        assert (preview.size, preview.mode) == ((100, 70), "RGB")
        pictures.append(np.array(preview))
    assert not np.array_equal(*pictures)


def test_pictures_are_scaled_to_the_sides_of_the_model(sdxl_like: Restorer, photo: Photo) -> None:
    small = begun(sdxl_like, photo((16, 24)), quick())
    assert small.frame.content == (32, 48)
    large = run(sdxl_like, begun(sdxl_like, photo((256, 128)), quick()))
    assert large.frame.content == (128, 64)
    preview = sdxl_like.preview(large)
    assert preview is not None
    assert preview.size == (128, 64)
    assert sdxl_like.finish(large).size == (256, 128)


def test_pictures_are_padded_by_mirroring_to_multiples_of_64(
    nano_like: Restorer, photo: Photo
) -> None:
    picture = photo((48, 70))
    work = nano_like.networks.codec.decode(begun(nano_like, picture, quick()).degraded)
    assert work.shape == (1, 3, 128, 64)
    ours = ((work[0] / 2 + 0.5) * 255).round().permute(1, 2, 0).numpy()
    given = np.array(picture)
    assert np.array_equal(ours[:70, :48], given)
    assert np.array_equal(ours[:70, 48:64], given[:, :31:-1])
    assert np.array_equal(ours[70:128, :48], given[:11:-1])


def test_presets_are_the_starting_point_of_parameters(
    nano_like: Restorer, sdxl_like: Restorer
) -> None:
    balanced = nano_like.params("balanced", {"seed": 7, "steps": 3})
    assert (balanced.seed, balanced.steps, balanced.guidance_scale) == (7, 3, 1.0)
    assert nano_like.params() == nano_like.params("balanced")
    assert sdxl_like.params("faithful") == RestoreParams()


def test_more_steps_than_a_preset_has_time_steps_begin_higher_up(
    nano_like: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nano_like, "presets", {"short": {**QUICK, "denoising_start": 8}})
    assert nano_like.params("short").denoising_start == 8
    assert nano_like.params("short", {"steps": 20}).denoising_start == 20
    with pytest.raises(ValueError, match="denoising_start is 8, allowed: 20 to 1000"):
        nano_like.params("short", {"steps": 20, "denoising_start": 8})


def test_an_unknown_preset_is_refused_with_those_that_are_known(nano_like: Restorer) -> None:
    known = "preset is 'finest', known: faithful, balanced, fast"
    with pytest.raises(ValueError, match=known):
        nano_like.params("finest")


def test_an_unknown_parameter_is_refused_by_name(nano_like: Restorer) -> None:
    with pytest.raises(ValueError, match="sharpness"):
        nano_like.params("fast", {"sharpness": 3})


def test_a_seed_decides_everything_bit_by_bit(either: Restorer, photo: Photo) -> None:
    first, again, other = (
        run(either, begun(either, photo((40, 40)), quick(seed=seed))) for seed in (5, 5, 6)
    )
    assert torch.equal(first.latents, again.latents)
    assert not torch.allclose(first.latents, other.latents, atol=1e-2)


def test_a_finished_restoration_takes_no_further_step(nano_like: Restorer, photo: Photo) -> None:
    restoration = run(nano_like, begun(nano_like, photo((16, 16)), quick()))
    latents = restoration.latents.clone()
    with pytest.raises(ValueError, match="all 2 steps of the restoration are done"):
        nano_like.step([restoration])
    assert torch.equal(restoration.latents, latents)


def test_one_finished_restoration_keeps_the_others_where_they_are(
    nano_like: Restorer, photo: Photo
) -> None:
    done = run(nano_like, begun(nano_like, photo((16, 16)), quick()))
    waiting = begun(nano_like, photo((16, 16)), quick())
    with pytest.raises(ValueError, match="are done"):
        nano_like.step([waiting, done])
    assert waiting.step == 0


def test_a_work_height_that_the_aggregator_cannot_take_is_refused(
    either: Restorer, random_tensor: Make
) -> None:
    factor, levels = either.networks.codec.factor, len(either.networks.aggregator.down_blocks)
    multiple = factor * 2 ** (levels - 1)
    inputs = pixels_of(either, random_tensor, multiple + factor, 64)
    words = f"work height is {multiple + factor} px, .* multiple of {multiple} px"
    with pytest.raises(ValueError, match=words):
        either.start(inputs, quick(), SeededNoise(0))


def test_a_work_width_need_not_halve_evenly(either: Restorer, random_tensor: Make) -> None:
    restoration = either.start(pixels_of(either, random_tensor, 32, 36), quick(), SeededNoise(0))
    assert either.decode(run(either, restoration)).shape == (1, 3, 32, 36)


def test_a_work_size_that_the_codec_cannot_take_is_refused(
    either: Restorer, random_tensor: Make
) -> None:
    inputs = pixels_of(either, random_tensor, 32, 33)
    words = f"work size is 33x32 px, .* multiples of {either.networks.codec.factor} px"
    with pytest.raises(ValueError, match=words):
        either.start(inputs, quick(), SeededNoise(0))


def test_a_start_needs_something_to_restore(nano_like: Restorer, random_tensor: Make) -> None:
    inputs = Inputs(vision=random_tensor(1, 3, 32, 32))
    with pytest.raises(ValueError, match="needs pixels or latents, got neither"):
        nano_like.start(inputs, quick(), SeededNoise(0))


def test_a_restoration_starts_from_the_noised_input_or_from_noise(
    either: Restorer, random_tensor: Make
) -> None:
    latents = random_tensor(1, either.networks.codec.channels, 8, 8)
    inputs = Inputs(vision=random_tensor(1, 3, 32, 32), latents=latents)
    noise = SeededNoise(3).draw(tuple(latents.shape))
    started = either.start(inputs, quick(), SeededNoise(3))
    assert torch.equal(started.degraded, latents)
    expected = add_noise(latents, noise, either.alphas[501])
    torch.testing.assert_close(started.latents, expected)
    alone = either.start(inputs, quick(start_from_noise=True), SeededNoise(3))
    assert torch.equal(alone.latents, noise)


def test_guidance_adds_a_negative_row_that_sees_an_empty_picture(
    either: Restorer, random_tensor: Make
) -> None:
    inputs = pixels_of(either, random_tensor, 32, 48)
    one = either.start(inputs, quick(), SeededNoise(0)).condition
    two = either.start(inputs, quick(guidance_scale=3.0), SeededNoise(0)).condition
    assert (one.rows, two.rows) == (1, 2)
    with torch.inference_mode():
        empty = either.networks.vision(torch.zeros_like(inputs.vision))
        tokens = either.networks.denoiser.resampler(empty)
        preview_tokens = either.previewer.resampler(empty)
    torch.testing.assert_close(two.tokens[:1], tokens)
    torch.testing.assert_close(two.preview_tokens[:1], preview_tokens)
    torch.testing.assert_close(two.tokens[1:], one.tokens)
    torch.testing.assert_close(two.text[:1], either.text("blurry").hidden)
    torch.testing.assert_close(two.pooled[1:], either.text("bright photo").pooled)
    assert two.time_ids.tolist() == [[32, 48, 0, 0, 32, 48]] * 2


def test_no_negative_prompt_is_an_embedding_of_zeros(either: Restorer, random_tensor: Make) -> None:
    params = quick(guidance_scale=3.0, negative_prompt=None)
    inputs = pixels_of(either, random_tensor, 32, 32)
    condition = either.start(inputs, params, SeededNoise(0)).condition
    assert not condition.text[0].any()
    assert not condition.pooled[0].any()
    assert condition.text[1].any()


def test_references_are_drawn_on_the_input_in_the_tones_that_each_prompt_asks_for(
    nano_like: Restorer, photo: Photo
) -> None:
    tone = nano_like.networks.tone
    assert tone is not None
    restoration = begun(nano_like, photo((64, 64)), quick(guidance_scale=3.0))
    texts = restoration.condition.text
    expected = torch.cat([tone(restoration.degraded, text[None]) for text in texts])
    torch.testing.assert_close(restoration.base, expected)
    assert not torch.allclose(restoration.base[:1], restoration.base[1:])


def test_without_a_tone_network_references_are_drawn_on_the_input(
    sdxl_like: Restorer, photo: Photo
) -> None:
    restoration = begun(sdxl_like, photo((64, 64)), quick(guidance_scale=3.0))
    assert torch.equal(restoration.base, restoration.degraded.expand(2, -1, -1, -1))


def test_clip_skip_is_for_the_prompt_alone(either: Restorer, random_tensor: Make) -> None:
    inputs = pixels_of(either, random_tensor, 32, 32)
    params = quick(guidance_scale=3.0, clip_skip=1)
    text = either.start(inputs, params, SeededNoise(0)).condition.text
    assert torch.equal(text[:1], either.text("blurry").hidden)
    assert torch.equal(text[1:], either.text("bright photo", 1).hidden)


def test_embeddings_can_be_given_instead_of_prompts(either: Restorer, random_tensor: Make) -> None:
    tokens, width, pooled = either.networks.text.widths
    prompt, negative = (
        TextCondition(random_tensor(1, tokens, width), random_tensor(1, pooled)) for _ in range(2)
    )
    inputs = pixels_of(either, random_tensor, 32, 32, prompt=prompt, negative=negative)
    condition = either.start(inputs, quick(guidance_scale=3.0), SeededNoise(0)).condition
    assert torch.equal(condition.text, torch.cat([negative.hidden, prompt.hidden]))
    assert torch.equal(condition.pooled, torch.cat([negative.pooled, prompt.pooled]))


def test_size_conditioning_can_be_given_for_each_half(
    nano_like: Restorer, random_tensor: Make
) -> None:
    params = RestoreParams(
        steps=1,
        micro=MicroConditioning(original_size=(1, 2), target_size=(3, 4), crop=(5, 6)),
        negative_micro=MicroConditioning(original_size=(7, 8), target_size=(9, 10)),
    )
    inputs = pixels_of(nano_like, random_tensor, 32, 32)
    ids = nano_like.start(inputs, params, SeededNoise(0)).condition.time_ids
    assert ids.tolist() == [[7, 8, 0, 0, 9, 10], [1, 2, 5, 6, 3, 4]]


@pytest.mark.parametrize("how", ["wavelet", "adain"])
def test_color_match_brings_the_colors_of_the_input_back(
    either: Restorer, photo: Photo, how: str
) -> None:
    picture = photo((64, 64))
    wanted = np.array(picture).mean(axis=(0, 1))
    distances = []
    for match in ("none", how):
        params = quick(color_match=match)
        result = either.finish(run(either, begun(either, picture, params)))
        distances.append(np.abs(np.array(result).mean(axis=(0, 1)) - wanted).max())
    assert distances[1] < distances[0]
    assert distances[1] < 15  # gray levels; what is left is clipping


def test_decode_gives_the_work_picture_within_zero_and_one(either: Restorer, photo: Photo) -> None:
    decoded = either.decode(run(either, begun(either, photo((48, 70)), quick())))
    assert decoded.shape == (1, 3, 128, 64)
    assert float(decoded.min()) >= 0
    assert float(decoded.max()) <= 1


def test_a_plan_says_for_each_step_where_it_lands_and_who_runs() -> None:
    plan = make_plan(quick(steps=4, preview_start=0.5, creative_start=0.75))
    assert plan.timesteps == (751, 501, 251, 1)
    assert plan.after == (501, 251, 1, -249)
    assert plan.previews == (False, False, True, True)
    assert plan.aggregates == (True, True, True, False)
    assert plan.ceilings == (1.0,) * 4


def test_custom_time_steps_are_walked_from_entry_to_entry() -> None:
    plan = make_plan(quick(timesteps=[880, 433, 12], conditioning_scale=[1.0, 0.5, 0.0]))
    assert plan.timesteps == (880, 433, 12)
    assert plan.after == (433, 12, -1)
    assert plan.ceilings == (1.0, 0.5, 0.0)


def test_an_early_end_cuts_the_plan_but_not_its_shares() -> None:
    plan = make_plan(quick(steps=8, denoising_end=0.5, preview_start=0.25, creative_start=0.375))
    assert plan.timesteps == (876, 751, 626, 501)
    assert plan.previews == (False, False, True, True)
    assert plan.aggregates == (True, True, True, False)


def test_an_end_before_the_first_step_is_refused() -> None:
    with pytest.raises(ValueError, match="denoising_end is 0.01, which leaves no step"):
        make_plan(quick(steps=4, denoising_end=0.01))


@pytest.mark.parametrize("sampler", list(Sampler))
def test_the_last_step_of_either_sampler_lands_on_the_estimate_of_the_clean_picture(
    either: Restorer, photo: Photo, sampler: Sampler
) -> None:
    restoration = run(either, begun(either, photo((32, 32)), quick(sampler=sampler)))
    assert restoration.trace is not None
    torch.testing.assert_close(restoration.latents, restoration.trace.x0, rtol=1e-4, atol=1e-4)


def test_the_deterministic_sampler_draws_nothing_that_matters(
    nano_like: Restorer, photo: Photo
) -> None:
    class Counting(SeededNoise):
        drawn = 0

        def draw(self, shape: tuple[int, ...]) -> Tensor:
            self.drawn += 1
            return super().draw(shape) if self.drawn == 1 else torch.full(shape, 1e6)

    picture = begun(nano_like, photo((32, 32)), quick())
    inputs = Inputs(vision=torch.zeros(1, 3, 32, 32), latents=picture.degraded)
    params = quick(sampler="ddim", steps=3)
    ends = [
        run(nano_like, nano_like.start(inputs, params, noise(1)))
        for noise in (Counting, SeededNoise)
    ]
    assert torch.equal(ends[0].latents, ends[1].latents)


def test_with_its_mirror_image_a_picture_is_restored_alike_whichever_way_it_faces(
    nano_like: Restorer, photo: Photo
) -> None:
    picture = photo((128, 64))
    turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    params = quick(mirror=True)
    results: list[np.ndarray] = []
    for given in (picture, turned):
        restoration = nano_like.begin(given, params)
        while not restoration.done:
            nano_like.step([restoration])
        results.append(np.array(nano_like.finish(restoration), np.int16))
    assert np.abs(results[0] - results[1][:, ::-1]).max() <= 1
    plain = np.array(nano_like.finish(run(nano_like, begun(nano_like, picture, quick()))), np.int16)
    assert np.abs(results[0] - plain).max() > 1
