"""Plots of the studies."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from evals.studies.plots import DPI, PANEL_IN, label, panels, save


def test_a_plot_is_a_small_picture_and_comes_out_the_same_again(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        figure, axes = panels(2)
        for panel in axes:
            panel.plot([1, 2], [3, 4])
            label(panel, "title", "across", "up")
        save(figure, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as drawn:
        assert drawn.size == (round(2 * PANEL_IN[0] * DPI), round(PANEL_IN[1] * DPI))
    assert axes[1].get_xlabel() == "across"
