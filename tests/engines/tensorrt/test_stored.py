from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines.cache import EngineCache
from engines.graphs import HEIGHT, ROWS, WIDTH, step_graphs
from engines.restorer import Restorer
from engines.tensorrt.builder import Flavour, profile_of
from engines.tensorrt.stored import Target, stored

pytestmark = [
    pytest.mark.skipif(not Flavour.RTX.installed, reason="needs tensorrt-rtx"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.mark.slow
def test_an_engine_is_built_once_for_its_target_and_anew_when_damaged(
    nano_like: Restorer, tmp_path: Path
) -> None:
    graph = step_graphs(nano_like.networks, nano_like.previewer)["aggregator"]
    cache, sizes = EngineCache(tmp_path), {ROWS: 2, HEIGHT: 32, WIDTH: 32}
    target = Target(Flavour.RTX, 89, profile_of(graph, sizes, sizes, sizes))
    path, facts = stored(graph, "weights", cache, target)
    assert path.stat().st_size == facts.plan_bytes > 0
    assert facts.layers > 0
    again, same = stored(graph, "weights", cache, target)
    assert (again, same) == (path, facts)
    path.write_bytes(path.read_bytes()[:100])
    rebuilt, facts = stored(graph, "weights", cache, target)
    assert rebuilt == path
    assert path.stat().st_size == facts.plan_bytes
    other, _ = stored(graph, "weights", cache, replace(target, capability=80))
    assert other != path
