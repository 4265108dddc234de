import json
import math
import re
from typing import Any

import pytest

from engines.params import (
    MAX_SEED,
    MAX_STEPS,
    Adaptive,
    ColorMatch,
    MicroConditioning,
    RestoreParams,
    Sampler,
)

# Field, least and greatest value, and the first values outside.
RANGES: list[tuple[str, float, float, float, float]] = [
    ("steps", 1, MAX_STEPS, 0, MAX_STEPS + 1),
    ("seed", 0, MAX_SEED, -1, MAX_SEED + 1),
    ("clip_skip", 0, 10, -1, 11),
    *(
        (name, 0.0, high, math.nextafter(0.0, -1.0), math.nextafter(high, math.inf))
        for name, high in (
            ("guidance_scale", 100.0),
            ("preview_start", 1.0),
            ("preview_end", 1.0),
            ("creative_start", 1.0),
            ("aggregator_start", 1.0),
            ("guidance_rescale", 1.0),
            ("denoising_end", 1.0),
            ("conditioning_scale", 10.0),
        )
    ),
]
FIELDS = [row[0] for row in RANGES]
FLOATS = [name for name in FIELDS if name not in {"steps", "seed", "clip_skip"}]


def make(**values: Any) -> RestoreParams:
    """Build without `of`, which would check names first."""
    return RestoreParams(**values)


@pytest.mark.parametrize(("name", "low", "high", "below", "above"), RANGES, ids=FIELDS)
def test_the_edges_of_a_range_are_accepted(
    name: str, low: float, high: float, below: float, above: float
) -> None:
    assert getattr(make(**{name: low}), name) == low
    assert getattr(make(**{name: high}), name) == high


@pytest.mark.parametrize("side", ["below", "above"])
@pytest.mark.parametrize(("name", "low", "high", "below", "above"), RANGES, ids=FIELDS)
def test_just_outside_a_range_the_message_names_field_value_and_limits(
    name: str, low: float, high: float, below: float, above: float, side: str
) -> None:
    value = below if side == "below" else above
    expected = f"{name} is {value}, allowed: {low} to {high}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        make(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", FLOATS)
def test_numbers_that_are_not_finite_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} is {value}"):
        make(**{name: value})


def test_the_defaults_are_those_of_the_published_pipeline() -> None:
    params = RestoreParams()
    assert (params.steps, params.guidance_scale, params.sampler) == (30, 7.0, Sampler.DDPM)
    assert (params.preview_start, params.creative_start) == (0.0, 1.0)
    assert params.adaptive is Adaptive.OFF
    assert (params.multistep, params.start_from_noise) == (False, False)


def test_the_default_prompts_say_what_is_wanted_and_what_is_not() -> None:
    params = RestoreParams()
    assert params.prompt.startswith("Photorealistic, highly detailed")
    assert (params.negative_prompt or "").startswith("blurry, out of focus")


def test_parameters_cannot_be_changed_after_their_check() -> None:
    with pytest.raises(AttributeError):
        RestoreParams().steps = 101  # pyright: ignore[reportAttributeAccessIssue]


def test_unknown_names_are_refused_and_all_named_in_order() -> None:
    with pytest.raises(ValueError, match=r"unknown parameter\(s\): a_third, strength$"):
        RestoreParams.of({"strength": 0.5, "steps": 4, "a_third": 1})


def test_names_are_case_sensitive() -> None:
    with pytest.raises(ValueError, match="Steps"):
        RestoreParams.of({"Steps": 4})


@pytest.mark.parametrize("how", list(ColorMatch))
def test_color_matches_are_read_from_their_plain_names(how: ColorMatch) -> None:
    assert RestoreParams.of({"color_match": str(how)}).color_match is how


@pytest.mark.parametrize("sampler", list(Sampler))
def test_samplers_are_read_from_their_plain_names(sampler: Sampler) -> None:
    assert RestoreParams.of({"sampler": str(sampler)}).sampler is sampler


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, Adaptive.OFFICIAL),
        (False, Adaptive.OFF),
        ("off", Adaptive.OFF),
        ("official", Adaptive.OFFICIAL),
        ("reuse", Adaptive.REUSE),
    ],
)
def test_adaptive_is_a_name_or_a_plain_yes_to_the_published_way(
    value: bool | str, kind: Adaptive
) -> None:
    assert RestoreParams.of({"adaptive": value}).adaptive is kind


@pytest.mark.parametrize("name", ["color_match", "sampler", "adaptive"])
def test_an_unknown_choice_is_refused_by_its_value(name: str) -> None:
    with pytest.raises(ValueError, match="'sepia'"):
        RestoreParams.of({name: "sepia"})


ROUND_TRIPS: list[dict[str, Any]] = [
    {},
    {"steps": 7, "seed": MAX_SEED, "color_match": "adain", "adaptive": True},
    {"negative_prompt": None, "prompt": "Größe, 写真", "sampler": "ddim"},
    {"timesteps": [900, 500, 1], "conditioning_scale": [1.0, 0.5, 0.0]},
    {"denoising_end": 0.8, "guidance_rescale": 0.7, "multistep": True, "clip_skip": 1},
]


@pytest.mark.parametrize("values", ROUND_TRIPS)
def test_a_round_trip_through_json_returns_equal_parameters(values: dict[str, Any]) -> None:
    params = RestoreParams.of(values)
    assert RestoreParams.of(json.loads(json.dumps(params.as_dict()))) == params


def test_as_dict_holds_every_value_that_was_set() -> None:
    values = {"steps": 9, "prompt": "sky", "color_match": "wavelet", "creative_start": 0.5}
    assert values.items() <= RestoreParams.of(values).as_dict().items()


def test_lists_become_tuples_so_that_parameters_stay_hashable() -> None:
    params = RestoreParams.of({"timesteps": [9, 3], "conditioning_scale": [1.0, 2.0]})
    assert (params.timesteps, params.conditioning_scale) == ((9, 3), (1.0, 2.0))
    assert hash(params) == hash(RestoreParams.of(params.as_dict()))


def test_one_conditioning_scale_per_step_is_accepted() -> None:
    assert make(steps=3, conditioning_scale=(0.0, 5.0, 10.0)).conditioning_scale == (0, 5, 10)


@pytest.mark.parametrize("scales", [(), (1.0, 1.0), (1.0, 1.0, 1.0, 1.0)])
def test_another_number_of_conditioning_scales_than_steps_is_refused(
    scales: tuple[float, ...],
) -> None:
    expected = f"conditioning_scale has {len(scales)} values for 3 steps"
    with pytest.raises(ValueError, match=expected):
        make(steps=3, conditioning_scale=scales)


@pytest.mark.parametrize("bad", [-0.1, 10.5, math.nan])
def test_each_conditioning_scale_of_a_list_is_checked(bad: float) -> None:
    with pytest.raises(ValueError, match=rf"conditioning_scale is {bad}, allowed: 0\.0 to 10\.0"):
        make(steps=2, conditioning_scale=(1.0, bad))


def test_conditioning_scales_are_counted_against_custom_timesteps_not_steps() -> None:
    make(timesteps=(9, 3), steps=30, conditioning_scale=(1.0, 0.5))
    with pytest.raises(ValueError, match="30 values for 2 steps"):
        make(timesteps=(9, 3), steps=30, conditioning_scale=(1.0,) * 30)


@pytest.mark.parametrize("steps", [(999, 0), (0,), (999,), tuple(range(999, -1, -1))])
def test_falling_timesteps_between_999_and_0_are_accepted(steps: tuple[int, ...]) -> None:
    assert make(timesteps=steps).timesteps == steps


@pytest.mark.parametrize(
    "steps",
    [(), (1000, 1), (5, -1), (3, 9), (9, 9), (9, 5, 7)],
    ids=["none", "over 999", "under 0", "rising", "standing", "rising at the end"],
)
def test_other_timesteps_are_refused_and_shown(steps: tuple[int, ...]) -> None:
    expected = f"timesteps are {list(steps)}, allowed: falling, 999 to 0"
    with pytest.raises(ValueError, match=re.escape(expected)):
        make(timesteps=steps)


def test_micro_conditioning_lists_original_size_crop_and_target_size() -> None:
    micro = MicroConditioning(original_size=(1, 2), target_size=(5, 6), crop=(3, 4))
    assert micro.time_ids() == (1, 2, 3, 4, 5, 6)


def test_micro_conditioning_crops_nothing_by_default() -> None:
    assert MicroConditioning(original_size=(8, 9), target_size=(8, 9)).crop == (0, 0)
