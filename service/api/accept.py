"""What a client would like to get: the `Accept` header (RFC 9110 section 12.5.1) and `Prefer`."""

from __future__ import annotations

import math
from collections.abc import Sequence


def acceptable(header: str, offers: Sequence[str]) -> list[str]:
    """The media types among `offers` that a header accepts, the most wanted first.

    Of equally wanted ones the earlier offer comes first; no header accepts everything.
    """
    ranges = [_range(part) for part in header.split(",") if part.strip()]
    if not ranges:
        return list(offers)
    wanted = {offer: _quality(offer, ranges) for offer in offers}
    return sorted((o for o in offers if wanted[o] > 0), key=lambda offer: -wanted[offer])


def preferred_wait_s(header: str, limit_s: float) -> float | None:
    """Seconds of `Prefer: wait=N` (RFC 7240), at most `limit_s`; None where it is not asked for."""
    for preference in header.split(","):
        name, _, value = preference.split(";")[0].partition("=")
        seconds = value.strip().strip('"')
        if name.strip().lower() == "wait" and seconds.isascii() and seconds.isdecimal():
            return min(float(seconds[:9]), limit_s) or None
    return None


def prefers_async(header: str) -> bool:
    """Whether the header says `respond-async`."""
    return any(p.split(";")[0].strip().lower() == "respond-async" for p in header.split(","))


def _range(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return media, min(1.0, quality) if math.isfinite(quality) else 0.0


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """The quality of the most specific range that an offer falls into."""
    for media in (offer, f"{offer.split('/')[0]}/*", "*/*"):
        found = [quality for name, quality in ranges if name == media]
        if found:
            return max(found)
    return 0.0
