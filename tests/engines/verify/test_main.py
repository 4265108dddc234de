from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engines.errors import WeightsError
from engines.restorer import Restorer
from engines.verify.__main__ import line, main, verify
from engines.verify.recorded import Case, Tolerance

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(
    tmp_path: Path,
    sdxl_like: Restorer,
    sdxl_like_folder: Path,
    random_tensor: Callable[..., Tensor],
) -> Path:
    """A model and one right recording of its resampler."""
    (tmp_path / "models").symlink_to(sdxl_like_folder)
    (tmp_path / "components").mkdir()
    features = random_tensor(2, 17, 16)
    with torch.inference_mode():
        off = sdxl_like.networks.denoiser.resampler(features).clone()
        on = sdxl_like.previewer.resampler(features).clone()
    record(tmp_path, {"in": features, "out_lora_off": off, "out_lora_on": on})
    return tmp_path


def record(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "components" / "resampler.safetensors")
    (folder / "components" / "resampler.json").write_text("{}", encoding="utf-8")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["verify", *arguments])
    return main()


def test_the_exit_status_is_zero_when_every_case_holds(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, str(folder)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("ok    components/resampler")
    assert printed[-1] == "1 cases, 0 failed, 0 differ on purpose"


def test_the_exit_status_is_one_when_a_case_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {"in": torch.zeros(1, 17, 16), "out_lora_on": torch.zeros(1, 4, 40)}
    record(folder, tensors)
    assert run(monkeypatch, str(folder)) == 1
    printed = capsys.readouterr().out
    assert "FAIL  components/resampler" in printed
    assert "FAIL out_lora_on" in printed
    assert "1 cases, 1 failed" in printed


def test_nothing_to_replay_is_a_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (folder / "components").iterdir():
        path.unlink()
    assert run(monkeypatch, str(folder)) == 1


def test_the_report_is_written_where_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = tmp_path / "reports" / "replay.json"
    assert run(monkeypatch, str(folder), "--report", str(report)) == 0
    written = json.loads(report.read_text(encoding="utf-8"))
    assert written == {"cases": 1, "failed": [], "differ_on_purpose": 0}


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="neither a folder"):
        list(verify(tmp_path))


def a_case() -> Case:
    case = Case("pipeline/x", {}, {"a": torch.ones(2), "b": torch.ones(2), "left": torch.ones(1)})
    case.compare("a", torch.ones(2), Tolerance(1e-3))
    return case


def test_a_line_shows_the_field_closest_to_its_tolerance() -> None:
    case = a_case()
    case.compare("b", torch.full((2,), 1.0004), Tolerance(1e-3))
    case.given("left")
    text = line(case)
    assert text.startswith("ok    pipeline/x ")
    assert "2 fields  worst b: rel 4.0e-04 abs 4.0e-04  (allowed rel 1e-03)" in text
    assert "FAIL" not in text


def test_a_line_names_what_failed_what_was_left_out_and_what_differs() -> None:
    case = a_case()
    case.compare("b", torch.zeros(2), Tolerance(1e-3))
    case.differs = "officially it raises"
    case.notes.append("a note")
    text = line(case)
    assert text.startswith("FAIL  pipeline/x ")
    assert "differs on purpose: officially it raises" in text
    assert "\n      a note" in text
    assert "\n      FAIL b: rel 1.0e+00 abs 1.0e+00 (allowed rel 1e-03)" in text
    assert "\n      FAIL not compared: left" in text


def test_a_line_of_a_case_that_compared_nothing_is_a_failure() -> None:
    assert line(Case("pipeline/empty", {}, {})).startswith("FAIL  pipeline/empty")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_recording_of_the_official_pipeline_is_met(golden_dir: Path) -> None:
    command = [sys.executable, "-m", "engines.verify", str(golden_dir)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed, " in done.stdout.splitlines()[-1]
    assert "FAIL" not in done.stdout
    assert done.stdout.count("\nok ") >= 50
