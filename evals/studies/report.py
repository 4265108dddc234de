"""Files of a study: figures and words in one JSON, and the README made of all of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evals.studies.plots import save
from evals.studies.study import SampleT, Study, Table

ORDER = (
    "dcp_robustness",
    "reference_variance",
    "aggregator_reference",
    "previewer_timestep",
    "content_complexity",
    "adaptive_sampling",
    "semantic_editing",
)
DIGITS = 5

_HEAD = """# Studies

What the InstantIR paper (arXiv 2410.06551) claims or leaves open, measured on a model of this
repository. `python -m evals.studies` measures everything anew and writes this page;
`python -m evals.studies.NAME` refreshes one study. All figures and the sentences about them are
computed from the samples in the JSON file beside each plot.

Pictures are squares of 128 px cut out of held-out photographs. Damage of one kind at level 0 to 1
covers the range that training draws from: Gaussian blur to 2.4 px, downscaling to 4x, noise to 20
of 255, JPEG quality down to 25; "all" is the four in the order of a camera. One seed. Figures of a
small model trained for hours say how that model behaves, not how the published one does.
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the samples of a report were measured with."""

    model: str
    fingerprint: str
    preset: str
    pictures: int
    seconds: float  # processor time of the measurement


def to_report(study: Study[Any], setup: Setup, samples: Sequence[Any]) -> dict[str, Any]:
    """Everything a study has to say, JSON-able; figures are rounded to five digits."""
    table = study.table(samples)
    return {
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "method": study.method,
        **_rounded(dataclasses.asdict(setup)),
        "table": {"columns": list(table.columns), "rows": [list(row) for row in table.rows]},
        "findings": study.findings(samples),
        "samples": [_rounded(dataclasses.asdict(sample)) for sample in samples],
    }


def settled(study: Study[SampleT], samples: Sequence[SampleT]) -> list[SampleT]:
    """The samples as they will be read again, so that words and figures never differ from them."""
    rows = [_rounded(dataclasses.asdict(cast(Any, sample))) for sample in samples]
    return [study.sample(**row) for row in rows]


def write(study: Study[Any], setup: Setup, samples: Sequence[Any], folder: Path) -> None:
    """Write a study's JSON and plot, and the README of all that lie in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    report = to_report(study, setup, samples)
    rows = ",\n  ".join(json.dumps(row, allow_nan=False) for row in report.pop("samples"))
    head = json.dumps(report, indent=1, allow_nan=False).removesuffix("\n}")
    text = f'{head},\n "samples": [\n  {rows}\n ]\n}}\n'
    _json_of(folder, study.name).write_text(text, encoding="utf-8")
    save(study.draw(samples), folder / f"{study.name}.png")
    (folder / "README.md").write_text(readme(folder), encoding="utf-8")


def read(study: Study[Any], folder: Path) -> tuple[Setup, list[Any]]:
    """Read what was measured earlier."""
    report = json.loads(_json_of(folder, study.name).read_text(encoding="utf-8"))
    setup = Setup(**{field.name: report[field.name] for field in dataclasses.fields(Setup)})
    return setup, [study.sample(**row) for row in report["samples"]]


def readme(folder: Path) -> str:
    """The page about all studies whose JSON lies in the folder."""
    paths = [_json_of(folder, name) for name in ORDER]
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    return "\n".join([_HEAD, *(_section(report) for report in reports)])


def _section(report: dict[str, Any]) -> str:
    name, findings = report["study"], cast(list[str], report["findings"])
    setup = (
        f"Measured on {report['model']} `{report['fingerprint'][:12]}`, preset {report['preset']}, "
        f"{report['pictures']} pictures, in {report['seconds']:.0f} s of processor time."
    )
    parts = [
        f"## {report['title']}",
        f"**Question.** {report['question']}",
        f"**How.** {report['method']} {setup}",
        Table(**report["table"]).to_markdown(),
        f"![{report['title']}]({name}.png)",
        "**Found.**",
        "\n".join(f"- {finding}" for finding in findings),
    ]
    return "\n\n".join(parts) + "\n"


def _json_of(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _rounded(value: Any) -> Any:
    """Floats to a few digits, all the way down; tuples become lists, as in JSON."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in cast(Sequence[Any], value)]
    return value
