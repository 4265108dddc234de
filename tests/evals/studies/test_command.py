"""The command line of the studies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.studies import content_complexity, dcp_robustness
from evals.studies.command import run

pytestmark = pytest.mark.slow


@pytest.mark.timeout(180)
def test_a_study_runs_from_photographs_to_page_and_is_redrawn_without_measuring(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    studies = [content_complexity.STUDY, dcp_robustness.STUDY]
    run(
        studies,
        ["--model", "nano", "--photos", str(photos), "--out", str(out)]
        + ["--preset", "fast", "--pictures", "2"],
    )
    said = capsys.readouterr().out
    report = json.loads((out / "content_complexity.json").read_text(encoding="utf-8"))
    assert (report["model"], report["preset"], report["pictures"]) == ("nano", "fast", 2)
    assert len(report["samples"]) == 2
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(written) == {
        "README.md",
        "dcp_robustness.json",
        "dcp_robustness.png",
        "content_complexity.json",
        "content_complexity.png",
    }
    (out / "content_complexity.png").unlink()
    run(studies, ["--out", str(out), "--redraw"])
    assert capsys.readouterr().out == said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == written
