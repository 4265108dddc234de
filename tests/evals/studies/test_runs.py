"""Restorations of a study: what is noted and what it costs."""

from __future__ import annotations

import pytest
from PIL import Image

import engines
from evals.studies.pictures import Tile
from evals.studies.runs import restore_all


@pytest.mark.slow
def test_every_step_is_noted_with_its_reference(
    restorer: engines.Restorer, tiles: list[Tile]
) -> None:
    params = restorer.params("fast", {"steps": 3})
    runs = restore_all(restorer, [tile.clean for tile in tiles], params, references=True)
    assert len(runs) == len(tiles)
    for run in runs:
        assert len(run.timesteps) == len(run.references) == 3
        assert list(run.timesteps) == sorted(run.timesteps, reverse=True)
        assert len(run.changes) == 2  # the first reference has none before it
        assert all(change > 0 for change in run.changes)
        assert run.result.size == run.references[0].size == tiles[0].clean.size
        assert run.seconds > 0
    assert runs[0].result.tobytes() != runs[1].result.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "passes"),
    [({}, 6), ({"preview_start": 1.0}, 4), ({"creative_start": 0.0}, 2)],
)
def test_evaluations_count_what_ran(
    overrides: dict[str, float], passes: int, restorer: engines.Restorer, tiles: list[Tile]
) -> None:
    params = restorer.params("fast", {"steps": 2, "guidance_scale": 1.0, **overrides})
    [run] = restore_all(restorer, [tiles[0].clean], params)
    assert run.evaluations == passes
    guided = restorer.params("fast", {"steps": 2, "guidance_scale": 2.0, **overrides})
    [run] = restore_all(restorer, [tiles[0].clean], guided)
    assert run.evaluations == 2 * passes
    assert run.references == ()


def test_a_picture_that_needs_tiles_is_refused(restorer: engines.Restorer) -> None:
    side = restorer.settings.tiling.tile_px + 64
    with pytest.raises(ValueError, match="studies need one"):
        restore_all(restorer, [Image.new("RGB", (side, side))], restorer.params("fast"))
