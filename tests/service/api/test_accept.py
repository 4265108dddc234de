"""The `Accept` and `Prefer` headers."""

import pytest

from service.api.accept import acceptable, preferred_wait_s, prefers_async

OFFERS = ["application/json", "image/png", "image/webp"]


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", OFFERS),
        ("*/*", OFFERS),
        ("image/*", ["image/png", "image/webp"]),
        ("image/webp, image/*;q=0.5", ["image/webp", "image/png"]),
        ("image/png;q=0.2, image/webp;q=0.9", ["image/webp", "image/png"]),
        ("*/*;q=0.1, image/png;q=0", ["application/json", "image/webp"]),
        ("IMAGE/PNG", ["image/png"]),
        ("text/html", []),
        ("image/png;q=nan, image/webp;q=x", []),
        ("image/png;level=1", ["image/png"]),
    ],
)
def test_what_is_accepted_comes_in_the_order_of_its_quality(header: str, wanted: list) -> None:
    assert acceptable(header, OFFERS) == wanted


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=10", 10.0),
        ('respond-async, WAIT="10"', 10.0),
        ("wait=999999999999", 60.0),
        ("wait=0", None),
        ("wait", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=٣", None),
        ("", None),
    ],
)
def test_the_wait_is_a_whole_number_of_seconds_up_to_the_limit(
    header: str, seconds: float | None
) -> None:
    assert preferred_wait_s(header, 60.0) == seconds


@pytest.mark.parametrize(
    ("header", "does"), [("respond-async", True), ("a, Respond-Async;x=1", True), ("wait=3", False)]
)
def test_respond_async_is_heard(header: str, does: bool) -> None:
    assert prefers_async(header) is does
