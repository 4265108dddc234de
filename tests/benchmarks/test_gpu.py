from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import engines
from benchmarks import gpu


def test_without_a_device_nothing_is_measured_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu", "--report", str(tmp_path / "reports" / "gpu.json")])
    gpu.main()
    assert capsys.readouterr().out == "no CUDA device: nothing was measured\n"
    assert json.loads((tmp_path / "reports" / "gpu.json").read_text()) == {"device": None}


def test_the_distance_is_that_of_the_worst_output() -> None:
    one, two = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])
    assert gpu.apart((one, two * 1.5), (one, two)) == pytest.approx(0.5)


@pytest.mark.slow
def test_restorations_are_compared_with_the_reference_and_the_first() -> None:
    nano = engines.load("nano")
    found = gpu.whole({"one": nano, "two": nano}, nano, runs=1)
    assert found["one"]["faster"] == 1.0
    assert [own["grey_levels_off"] for own in found.values()] == [0, 0]
    assert all(own["seconds"] > 0 for own in found.values())
