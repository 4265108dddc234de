"""What a measurement must show, and how it says so: by its lines and its exit status."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

Limits = Mapping[str, tuple[float, float]]  # each figure's least and most


def broken(figures: Mapping[str, Any], limits: Limits) -> list[str]:
    """A line for each figure that is below its least or above its most."""
    lines: list[str] = []
    for name, (least, most) in limits.items():
        value = figures[name]
        if not least <= value <= most:
            bound = f"{least:g} or more" if value < least else f"{most:g} or less"
            lines.append(f"{name} is {value:.4g}, it must be {bound}")
    return lines


def verdict(figures: Mapping[str, Any], limits: Limits) -> int:
    """Tells what is broken; the exit status."""
    lines = broken(figures, limits)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 1 if lines else 0
