from collections.abc import Callable

import numpy as np
import pytest

from evals import panel
from evals.metrics import METRICS, Picture
from evals.optional import NotPresentError
from evals.panel import LOW_IS_GOOD, Panel, load_panel

A, B = (np.full((48, 48, 3), value, np.uint8) for value in (10, 30))


def missing() -> Callable[..., float]:
    raise NotPresentError("not installed: pip install it")


def brightness() -> Callable[[Picture], float]:
    return lambda picture: float(np.mean(np.asarray(picture)))


def difference() -> Callable[[Picture, Picture], float]:
    return lambda a, b: float(np.mean(np.asarray(a, float) - np.asarray(b, float)))


def test_what_loads_is_measured_and_what_does_not_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(panel, "OPTIONAL_WITH_REFERENCE", {"x": missing, "difference": difference})
    monkeypatch.setattr(panel, "OPTIONAL_WITHOUT_REFERENCE", {"light": brightness, "y": missing})
    found = load_panel()
    assert found.names == (*METRICS, "difference", "light")
    assert found.missing == dict.fromkeys("xy", "not installed: pip install it")
    scores = found.score(A, B)
    assert tuple(scores) == found.names
    assert (scores["difference"], scores["light"]) == (-20.0, 10.0)


def test_a_picture_alone_is_measured_by_what_needs_no_original() -> None:
    mixed = Panel({"difference": difference()}, {"light": brightness()})
    assert mixed.score_alone(B) == {"light": 30.0}


def test_everything_optional_is_either_present_or_explained() -> None:
    found = load_panel()
    optional = {*panel.OPTIONAL_WITH_REFERENCE, *panel.OPTIONAL_WITHOUT_REFERENCE}
    assert {*found.names, *found.missing} == {*METRICS, *optional}
    assert not {*found.names} & {*found.missing}
    assert {"mbv2_distance", "lpips", "dists", "piqe", "musiq"} <= optional


def test_the_direction_of_every_distance_is_known() -> None:
    assert {"gmsd", "mbv2_distance", "lpips", "dists", "piqe", "brisque"} == LOW_IS_GOOD
