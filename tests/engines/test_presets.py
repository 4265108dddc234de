import dataclasses
from typing import Any

import pytest

from engines.params import RestoreParams
from engines.presets import DEFAULT_PRESET, PRESETS

USER_FIELDS = {
    *("prompt", "negative_prompt", "steps", "guidance_scale", "preview_start", "creative_start"),
    *("adaptive", "seed", "color_match"),
}


def test_the_three_promised_presets_exist() -> None:
    assert set(PRESETS) == {"faithful", "balanced", "fast"}


def test_the_default_is_one_of_them() -> None:
    assert DEFAULT_PRESET in PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_makes_valid_parameters(name: str) -> None:
    made = RestoreParams.of(PRESETS[name]).as_dict()
    assert {key: made[key] for key in PRESETS[name]} == dict(PRESETS[name])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_nothing_that_a_user_could_not_override(name: str) -> None:
    assert set(PRESETS[name]) <= USER_FIELDS


def test_faithful_is_the_published_pipeline_unchanged() -> None:
    assert RestoreParams.of(PRESETS["faithful"]) == RestoreParams()


def test_faster_presets_take_fewer_steps() -> None:
    fast, balanced, faithful = (
        RestoreParams.of(PRESETS[name]).steps for name in ("fast", "balanced", "faithful")
    )
    assert fast < balanced < faithful


def test_every_field_a_user_may_set_exists() -> None:
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(RestoreParams)
    assert {field.name for field in fields} >= USER_FIELDS
