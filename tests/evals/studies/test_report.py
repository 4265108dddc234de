"""Files of the studies: what is written is what is read, and the page says what the JSON says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from evals.studies.__main__ import STUDIES
from evals.studies.plots import panels
from evals.studies.report import ORDER, Setup, read, readme, settled, write
from evals.studies.study import Bench, Study, Table

DOCS = Path(__file__).resolve().parents[3] / "docs" / "studies"
SETUP = Setup("nano", "0123456789abcdef", "balanced", 2, 1.25)


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    values: Sequence[float]


def measure(bench: Bench) -> list[Sample]:
    return [Sample(tile.name, [1 / 3]) for tile in bench.tiles]


def table(samples: Sequence[Sample]) -> Table:
    return Table(["name", "values"], [[s.name, str(list(s.values))] for s in samples])


def findings(samples: Sequence[Sample]) -> list[str]:
    return [f"{len(samples)} samples, the last one {samples[-1].values[-1]}."]


def draw(samples: Sequence[Sample]) -> Figure:
    figure, [axes] = panels(1)
    axes.plot([value for s in samples for value in s.values])
    return figure


STUDY = Study(
    name=ORDER[1],
    title="A title",
    question="Is it so?",
    method="By measuring.",
    pictures=2,
    sample=Sample,
    measure=measure,
    table=table,
    findings=findings,
    draw=draw,
)
SAMPLES = [Sample("a", (1.23456789, 2.0)), Sample("b", (3.14159265,))]


def test_what_is_written_is_read_again_without_a_difference(tmp_path: Path) -> None:
    samples = settled(STUDY, SAMPLES)
    write(STUDY, SETUP, samples, tmp_path)
    assert read(STUDY, tmp_path) == (SETUP, samples)
    assert samples[1].values == [3.1416]
    before = (tmp_path / f"{STUDY.name}.json").read_bytes()
    write(STUDY, SETUP, samples, tmp_path)
    assert (tmp_path / f"{STUDY.name}.json").read_bytes() == before


def test_the_page_tells_question_method_figures_and_findings(tmp_path: Path) -> None:
    write(STUDY, SETUP, settled(STUDY, SAMPLES), tmp_path)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    for part in (
        "## A title",
        "Is it so?",
        "By measuring.",
        "`0123456789ab`",
        "| a | [1.2346, 2.0] |",
    ):
        assert part in page
    assert "- 2 samples, the last one 3.1416." in page
    assert f"({STUDY.name}.png)" in page
    assert (tmp_path / f"{STUDY.name}.png").stat().st_size > 1000


def test_every_study_is_on_the_page_in_order() -> None:
    assert tuple(study.name for study in STUDIES) == ORDER


def test_an_infinite_figure_is_an_error_not_broken_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(STUDY, SETUP, [Sample("a", [float("inf")])], tmp_path)


def test_the_committed_page_says_what_the_committed_figures_say() -> None:
    page = (DOCS / "README.md").read_text(encoding="utf-8")
    assert page == readme(DOCS)
    for study in STUDIES:
        report = json.loads((DOCS / f"{study.name}.json").read_text(encoding="utf-8"))
        _, samples = read(study, DOCS)
        assert report["findings"] == study.findings(samples), f"run {study.name} with --redraw"
        assert report["table"]["rows"] == study.table(samples).rows
        assert (DOCS / f"{study.name}.png").stat().st_size < 150_000
    plots = re.findall(r"\((\w+\.png)\)", page)
    assert plots == [f"{name}.png" for name in ORDER]
