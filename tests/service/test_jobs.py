from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from service.jobs import MOVES, TERMINAL, JobStatus, RestoreOptions


def test_every_status_has_its_row_of_moves() -> None:
    assert set(MOVES) == set(JobStatus)


def test_nothing_leaves_a_terminal_status() -> None:
    assert {"succeeded", "failed", "canceled", "expired"} == TERMINAL
    assert all(not MOVES[status] for status in TERMINAL)


def test_every_status_can_be_reached_and_ended() -> None:
    reached = {JobStatus.QUEUED}.union(*MOVES.values())
    assert reached == set(JobStatus)
    assert all(MOVES[status] & (TERMINAL | {JobStatus.RUNNING}) for status in set(MOVES) - TERMINAL)


def test_a_canceling_job_can_only_become_canceled() -> None:
    assert MOVES[JobStatus.CANCELING] == {JobStatus.CANCELED}


def test_only_what_was_set_overrides_the_preset() -> None:
    options = RestoreOptions(preset="fast", steps=5, adaptive=False, output_format="webp")
    assert options.overrides() == {"steps": 5, "adaptive": False}
    assert RestoreOptions().overrides() == {}


def test_every_engine_parameter_can_be_overridden() -> None:
    everything: dict[str, Any] = {
        "prompt": "a face",
        "negative_prompt": "",
        "steps": 10,
        "guidance_scale": 3.0,
        "preview_start": 0.0,
        "creative_start": 1.0,
        "adaptive": True,
        "seed": 0,
        "color_match": "none",
    }
    assert RestoreOptions(**everything).overrides() == everything


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 101),
        ("guidance_scale", 0.5),
        ("guidance_scale", 20.5),
        ("guidance_scale", float("nan")),
        ("preview_start", -0.1),
        ("creative_start", 1.1),
        ("creative_start", float("nan")),
        ("seed", -1),
        ("seed", 2**32),
        ("color_match", "histogram"),
        ("preset", "best"),
        ("output_format", "gif"),
        ("output_quality", 0),
        ("output_quality", 101),
        ("priority", "urgent"),
        ("prompt", "x" * 2001),
        ("setps", 3),
    ],
)
def test_an_option_out_of_range_or_unknown_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        RestoreOptions.model_validate({name: value})
