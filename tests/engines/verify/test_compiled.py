"""The checks themselves: what passes today in full, and that each of them can fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engines.export import export
from engines.graphs import HEIGHT, ROWS, STEP_GRAPHS, WIDTH, Axis, Graph, Port
from engines.tensorrt.builder import Flavour
from engines.verify import compiled
from engines.verify.compiled import CAPABILITIES, Report, check_parity, check_tensorrt

needs_rtx = pytest.mark.skipif(not Flavour.RTX.installed, reason="needs tensorrt-rtx")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Scores(nn.Module):
    """Softmax weights that are given out, so that no compiler can keep them inside one kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        weights = (tokens @ tokens.transpose(1, 2) / 8.0).softmax(dim=-1)
        return (weights @ tokens).transpose(1, 2).reshape(x.shape), weights.sum(dim=-1)


@pytest.fixture
def unfused() -> Graph:
    sides = (Axis(ROWS), 64, Axis(HEIGHT), Axis(WIDTH))
    return Graph("unfused", Scores(), (Port("x", sides),), (Port("y", sides),))


@needs_rtx
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("table", [compiled.nano_graphs, compiled.wide_graphs])
def test_step_graphs_compute_the_same_and_their_attention_is_fused(
    table: Callable[[], dict[str, Graph]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "SIZES", compiled.SIZES[:2])
    report = Report()
    for name, graph in table().items():
        if name in STEP_GRAPHS:
            check_parity(report, name, graph, tmp_path)
            path = tmp_path / f"{name}.float16.onnx"
            for capability in CAPABILITIES:
                check_tensorrt(report, name, graph, path, capability)
    assert report.failed == []
    assert set(report.tensorrt_rtx) == set(STEP_GRAPHS)
    for builds in report.tensorrt_rtx.values():
        assert list(builds) == [f"sm_{capability}" for capability in CAPABILITIES]
        assert all(b["fused_attention"] == b["attentions"] > 0 for b in builds.values())


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_recorded_runs_of_the_official_pipeline_are_met_by_compiled_engines(
    golden_dir: Path,
) -> None:
    report = Report()
    compiled.check_golden(report, golden_dir)
    assert report.golden["cases"] > 0
    assert report.failed == []


@needs_rtx
def test_attention_that_is_not_fused_fails(
    unfused: Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    with torch.no_grad():
        torch.onnx.export(
            unfused.module.half(),
            (torch.zeros(2, 64, 8, 8, dtype=torch.float16),),
            str(path),
            input_names=["x"],
            dynamic_axes={"x": {0: ROWS, 2: HEIGHT, 3: WIDTH}},
            opset_version=17,
            dynamo=False,
        )
    report = Report()
    check_tensorrt(report, "unfused", unfused, path, 89)
    assert len(report.failed) == 1
    assert "FAIL  unfused" in capsys.readouterr().out


def test_numbers_that_are_apart_fail(
    unfused: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (2 * x,)

    twice = Graph("twice", Twice(), unfused.inputs, unfused.outputs)

    def export_another(graph: Graph, path: Path, dtype: torch.dtype) -> None:
        export(graph, path, dtype)
        graph.module.forward = lambda x: (2.1 * x,)

    report = Report()
    check_parity(report, "twice", twice, tmp_path)
    assert report.failed == []
    monkeypatch.setattr(compiled, "export", export_another)
    check_parity(report, "twice", twice, tmp_path)
    assert report.failed
    assert report.parity["onnxruntime"]["twice"]["relative"] == pytest.approx(0.1 / 2.1, rel=1e-3)


def test_the_report_is_written_and_failures_are_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "nano_graphs", dict)
    monkeypatch.setattr(compiled, "wide_graphs", dict)
    path = tmp_path / "reports" / "engines.json"
    monkeypatch.setattr("sys.argv", ["compiled", "--report", str(path)])
    assert compiled.main() == 0
    said = json.loads(path.read_text(encoding="utf-8"))
    assert said == {"parity": {}, "tensorrt_rtx": {}, "golden": {}, "failed": []}
    monkeypatch.setattr(
        compiled, "check_golden", lambda report, _: report.says(False, "1 recorded case")
    )
    monkeypatch.setattr("sys.argv", ["x", "--report", str(path), "--golden", str(tmp_path)])
    assert compiled.main() == 1
    assert json.loads(path.read_text(encoding="utf-8"))["failed"] == ["1 recorded case"]
