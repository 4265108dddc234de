from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from engines import onnx_files
from engines.cache import EngineCache
from engines.graphs import all_graphs
from engines.restorer import Restorer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_graph_is_exported_once_for_a_model(nano_like: Restorer, tmp_path: Path) -> None:
    graph = all_graphs(nano_like.networks, nano_like.previewer)["aggregator_embed"]
    cache = EngineCache(tmp_path)
    path = onnx_files.exported(graph, "weights", cache)
    onnx.checker.check_model(str(path), full_check=True)
    before = path.stat().st_mtime_ns
    assert onnx_files.exported(graph, "weights", cache) == path
    assert path.stat().st_mtime_ns == before
    assert onnx_files.exported(graph, "other weights", cache) != path


def test_the_code_that_makes_graphs_is_part_of_what_they_are_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code.py"
    monkeypatch.setattr(onnx_files, "_sources", lambda: iter([code]))
    told: list[str] = []
    for text in ("a = 1", "a = 2", "a = 1"):
        code.write_text(text, encoding="utf-8")
        onnx_files._code.cache_clear()
        told.append(onnx_files.source("weights"))
    onnx_files._code.cache_clear()
    assert told[0] == told[2] != told[1]
    assert all(text.startswith("weights ") for text in told)
