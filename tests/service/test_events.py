from __future__ import annotations

import json

import pytest

from service.events import (
    ErrorEvent,
    Event,
    OutputEvent,
    PreviewEvent,
    ProgressEvent,
    StatusEvent,
    to_json,
)
from service.jobs import JobStatus

EVENTS: list[tuple[Event, dict[str, object]]] = [
    (StatusEvent(JobStatus.RUNNING, 2), {"type": "status", "status": "running", "attempt": 2}),
    (
        ProgressEvent(3, 4, "restoring", 249, 0.5, None),
        {
            "type": "progress",
            "value": 0.75,
            "step": 3,
            "steps": 4,
            "stage": "restoring",
            "timestep": 249,
            "reference_variance": 0.5,
            "adaptive_factor": None,
        },
    ),
    (
        PreviewEvent(3, 4, 64, 48, "image/jpeg"),
        {
            "type": "preview",
            "step": 3,
            "steps": 4,
            "width": 64,
            "height": 48,
            "content_type": "image/jpeg",
        },
    ),
    (
        OutputEvent(64, 48, "image/png", 9, "ab"),
        {
            "type": "output",
            "width": 64,
            "height": 48,
            "content_type": "image/png",
            "bytes": 9,
            "sha256": "ab",
        },
    ),
    (
        ErrorEvent("engine_failed", "no memory", True),
        {"type": "error", "code": "engine_failed", "message": "no memory", "retryable": True},
    ),
]


@pytest.mark.parametrize(("event", "fields"), EVENTS)
def test_each_event_has_one_json_form(event: Event, fields: dict[str, object]) -> None:
    form = to_json(event, seq=5, job_id="job", at=12.5)
    assert form == {"seq": 5, "job_id": "job", "at": 12.5, **fields}
    assert json.loads(json.dumps(form)) == form


@pytest.mark.parametrize(
    ("step", "steps", "value"),
    [(0, 10, 0.0), (5, 10, 0.5), (10, 10, 1.0), (0, 0, 0.0), (3, 2, 1.0)],
)
def test_progress_runs_from_zero_to_one(step: int, steps: int, value: float) -> None:
    assert ProgressEvent(step, steps, "encoding").value == value
