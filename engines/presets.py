"""Named points on the quality and speed curve, as data; a model folder may bring its own."""

from collections.abc import Mapping
from typing import Any

DEFAULT_PRESET = "balanced"
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "faithful": {},
    "balanced": {"steps": 20, "adaptive": "official", "color_match": "wavelet"},
    "fast": {"steps": 12, "creative_start": 0.75, "color_match": "wavelet"},
}
