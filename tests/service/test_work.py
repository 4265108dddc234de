"""Digests of submissions: what repeats, what may share a result, what costs alike."""

from typing import Any

import pytest

from service.jobs import RestoreOptions, SourceInfo
from service.work import Submission


@pytest.fixture
def asked(source_info: SourceInfo) -> Any:
    def make(caller: str = "", sha256: str | None = None, **options: Any) -> Submission:
        source = source_info.model_copy(update={"sha256": sha256} if sha256 else {})
        return Submission(RestoreOptions(**options), source, b"", caller)

    return make


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"steps": 3}, False),
        ({"seed": 3}, False),
        ({"output_format": "webp"}, False),
        ({"sha256": "f" * 64}, False),
        ({"caller": "somebody"}, False),
        ({"priority": "low"}, True),
        ({"previews": False}, True),
        ({"metadata": {"a": "b"}}, True),
        ({"finish_by": 9}, True),
    ],
)
def test_what_decides_the_result_decides_the_cache(asked, changed: dict, same: bool) -> None:
    assert (asked(**changed).cache_key == asked().cache_key) is same


def test_without_the_cache_there_is_no_key(asked) -> None:
    assert asked(cache=False).cache_key == ""


@pytest.mark.parametrize("changed", [{"priority": "low"}, {"seed": 3}, {"sha256": "f" * 64}])
def test_any_change_is_another_request(asked, changed: dict) -> None:
    assert asked(**changed).payload != asked().payload
    assert asked().payload == asked().payload


def test_jobs_that_cost_alike_share_a_pace(asked) -> None:
    assert asked(seed=1, prompt="a").pace_key == asked(seed=2).pace_key
    kinds = [{}, {"preset": "fast"}, {"steps": 9}, {"guidance_scale": 3}, {"previews": False}]
    assert len({asked(**kind).pace_key for kind in kinds}) == len(kinds)
