"""Plots of the studies: one look, drawn without a display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PANEL_IN = (4.4, 3.5)
SHARED_WIDTH = 0.55
DPI = 100
COLORS = ("#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#64473a", "#6940a5")
GRAY = "#777777"


def panels(count: int, *, shared: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of that many panels side by side; narrow ones where they share the upward axis."""
    width = PANEL_IN[0] * (SHARED_WIDTH if shared else 1)
    figure = Figure(figsize=(width * count, PANEL_IN[1]), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False, sharey=shared)[0])
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(visible=True, color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    return figure, axes


def label(axes: Axes, title: str, across: str, up: str) -> None:
    """Say what a panel shows."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.tick_params(labelsize=8)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; equal figures give equal bytes."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
