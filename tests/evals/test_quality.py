import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageFilter

from evals import quality
from evals.compare import load_cases
from evals.metrics import METRICS
from evals.optional import NotPresentError
from evals.panel import Panel
from evals.peers import Peer
from evals.table import SHEET_CELL_PX

PANEL = Panel({"psnr": METRICS["psnr"]}, {}, {"lpips": "not installed"})


@dataclass
class Progress:
    image: Image.Image
    steps: int
    step: int = 0

    @property
    def done(self) -> bool:
        return self.step >= self.steps


@dataclass
class Sharpener:
    """Stands in for an engine: every step is one unsharp mask; later pictures take more steps."""

    name: str = "nano"
    fingerprint: str = "0123"
    groups: list[int] = field(default_factory=list[int])
    begun: int = 0

    def params(self, preset: str | None, overrides: dict[str, Any]) -> Any:
        return SimpleNamespace(as_dict=lambda: {"preset": preset, **overrides})

    def begin(self, image: Image.Image, params: Any) -> Progress:
        self.begun += 1
        return Progress(image, steps=self.begun)

    def step(self, restorations: list[Progress]) -> list[Any]:
        self.groups.append(len(restorations))
        for progress in restorations:
            assert not progress.done
            progress.image = progress.image.filter(ImageFilter.UnsharpMask(1.0, 60, 0))
            progress.step += 1
        return [None] * len(restorations)

    def finish(self, restoration: Progress) -> Image.Image:
        return restoration.image


def test_pictures_are_stepped_together_until_each_is_done(photos: Path) -> None:
    engine = Sharpener()
    pictures = [case.lq for case in load_cases(photos)]
    restored = quality.restore_together(engine, pictures, None)
    assert engine.groups == [3, 2, 1]
    assert restored[0] == pictures[0].filter(ImageFilter.UnsharpMask(1.0, 60, 0))


def test_the_input_the_model_and_the_peers_are_compared(photos: Path) -> None:
    engine = Sharpener()
    params = engine.params("fast", {"seed": 3})
    run = quality.evaluate(engine, params, load_cases(photos), PANEL, ["bicubic"])
    assert list(run.how) == ["input", "nano", "bicubic"]
    assert engine.groups == [2, 1, 1, 1, 1]  # two pictures, one of them twice; then the third
    assert run.params == {"preset": "fast", "seed": 3}
    for outcome in run.outcomes:
        scores = {name: result.scores["psnr"] for name, result in outcome.results.items()}
        assert scores["bicubic"] < scores["input"] < scores["nano"]
        assert outcome.results["input"].picture is outcome.case.lq


def test_a_missing_peer_is_left_out_and_explained(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise NotPresentError("not installed: pip install '.[peers]'")

    monkeypatch.setattr(quality, "PEERS", {"real_esrgan": Peer("a network", missing)})
    engine = Sharpener()
    cases = load_cases(photos, 1)
    run = quality.evaluate(engine, engine.params(None, {}), cases, PANEL, ["real_esrgan"])
    assert list(run.how) == ["input", "nano"]
    assert run.missing == {
        "lpips": "not installed",
        "real_esrgan": "not installed: pip install '.[peers]'",
    }
    assert quality.sheet_of(run).width == 2 * 3 * SHEET_CELL_PX


@pytest.mark.parametrize("name", ["input", "nlm"])
def test_a_model_with_the_name_of_another_method_is_refused(photos: Path, name: str) -> None:
    engine = Sharpener(name=name)
    with pytest.raises(ValueError, match=f"cannot be called '{name}'"):
        quality.evaluate(engine, engine.params(None, {}), load_cases(photos), PANEL, [])


def test_the_command_writes_table_report_and_sheet(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[tuple[str, str]] = []

    def load(model: str, memory: str) -> Sharpener:
        loaded.append((model, memory))
        return Sharpener()

    monkeypatch.setitem(sys.modules, "engines", SimpleNamespace(load=load))
    monkeypatch.setattr(quality, "load_panel", lambda: PANEL)
    reports = photos / "reports"
    files = {kind: reports / f"eval.{kind}" for kind in ("json", "md", "png", "jpg")}
    quality.main(
        ["--model", "nano", "--photos", str(photos), "--preset", "fast", "--limit", "2"]
        + ["--memory", "fp8"]
        + ["--peers", "bicubic,nlm", "--json", str(files["json"])]
        + ["--markdown", str(files["md"]), "--sheet", str(files["png"])]
        + ["--failures", str(files["jpg"])]
    )
    written = json.loads(files["json"].read_text(encoding="utf-8"))
    assert loaded == [("nano", "fp8")]
    assert written["params"] == {"preset": "fast", "seed": 0}
    assert list(written["methods"]) == ["input", "nano", "bicubic", "nlm", "original"]
    assert [p["name"] for p in written["pictures"]] == ["0", "1"]
    shown = capsys.readouterr().out
    assert "| all (2) | nano |" in shown
    assert files["md"].read_text(encoding="utf-8") == f"# Quality of nano\n\n{shown}"
    with Image.open(files["png"]) as drawn:
        assert drawn.width == 2 * 3 * SHEET_CELL_PX
    with Image.open(files["jpg"]) as drawn:
        assert drawn.width == 2 * 3 * SHEET_CELL_PX


def test_an_unknown_peer_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality.main(["--model", "nano", "--peers", "bicubic,magic"])
    assert "no peer 'magic'; there are bicubic, nlm" in capsys.readouterr().err
