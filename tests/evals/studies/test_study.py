"""What every study is made of."""

from __future__ import annotations

import engines
from evals.studies.pictures import Tile
from evals.studies.study import Bench, Table


def test_a_table_is_markdown_with_figures_to_the_right() -> None:
    table = Table(["way", "PSNR"], [["plain", "20.00"], ["best", "25.00"]])
    assert table.to_markdown().splitlines() == [
        "| way | PSNR |",
        "| --- | ---: |",
        "| plain | 20.00 |",
        "| best | 25.00 |",
    ]


def test_a_bench_has_one_seed_and_its_own_preset(
    restorer: engines.Restorer, tiles: list[Tile]
) -> None:
    bench = Bench(restorer, tiles, "fast")
    assert bench.params() == restorer.params("fast", {"seed": 0})
    assert bench.params("faithful", steps=2) == restorer.params("faithful", {"steps": 2})
    assert Bench(restorer, tiles).params() == restorer.params(None, {"mirror": False})
