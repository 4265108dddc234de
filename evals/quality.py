"""Quality of a model on a folder of photographs: ``python -m evals.quality --model nano``.

The folder holds ``lq/*.png`` (degraded) and ``hq/*.png`` (clean) of the same names and sizes, and
optionally ``meta.json``, a list of {"file", "severity", ...}. Every metric is given for the input
and for the model's result, per picture, as the mean, and as the mean of each severity.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image, ImageDraw

from evals.metrics import LOW_IS_GOOD, METRICS, measure_all

GROUP_SIZE = 2  # restored together: enough to exercise batching, little memory
SHEET_COLUMNS = 2  # triples side by side
SHEET_CELL_PX = 256
SHEET_LABEL_PX = 14
DEFAULT_PHOTOS = Path("../shared/photos/test")

Scores = dict[str, float]


class Restorer(Protocol):
    """The part of engines.Restorer that is used here."""

    name: str
    fingerprint: str

    def params(self, preset: str | None, overrides: dict[str, Any]) -> Any:
        """Resolve a preset and what overrides it."""
        ...

    def begin(self, image: Image.Image, params: Any) -> Any:
        """Start a restoration, which has a `done`."""
        ...

    def step(self, restorations: list[Any]) -> Sequence[Any]:
        """Do one denoising step for each."""
        ...

    def finish(self, restoration: Any) -> Image.Image:
        """Return the result, of the input's size."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """A degraded picture and its original."""

    name: str
    severity: str
    lq: Image.Image
    hq: Image.Image


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model made of a case; seconds are its share of the group's wall time."""

    case: Case
    restored: Image.Image
    input_scores: Scores
    model_scores: Scores
    seconds: float


def load_cases(photos: Path, limit: int | None = None) -> list[Case]:
    """Read the pictures in the order of their names; FileNotFoundError where there are none."""
    meta = photos / "meta.json"
    rows = json.loads(meta.read_text(encoding="utf-8")) if meta.exists() else []
    severities = {str(row["file"]): str(row.get("severity", "")) for row in rows}
    paths = sorted((photos / "lq").glob("*.png"))[:limit]
    if not paths:
        raise FileNotFoundError(f"no lq/*.png in {photos}")
    return [
        Case(path.stem, severities.get(path.name, ""), _rgb(path), _rgb(photos / "hq" / path.name))
        for path in paths
    ]


def evaluate(restorer: Restorer, cases: Sequence[Case], params: Any) -> list[Outcome]:
    """Restore and score every case."""
    outcomes: list[Outcome] = []
    for start in range(0, len(cases), GROUP_SIZE):
        group = cases[start : start + GROUP_SIZE]
        began = time.perf_counter()
        restored = restore_together(restorer, [case.lq for case in group], params)
        seconds = (time.perf_counter() - began) / len(group)
        outcomes += [
            Outcome(case, out, measure_all(case.lq, case.hq), measure_all(out, case.hq), seconds)
            for case, out in zip(group, restored, strict=True)
        ]
    return outcomes


def restore_together(
    restorer: Restorer, pictures: Sequence[Image.Image], params: Any
) -> list[Image.Image]:
    """Step all the pictures together until each is done."""
    restorations = [restorer.begin(picture, params) for picture in pictures]
    while waiting := [r for r in restorations if not r.done]:
        restorer.step(waiting)
    return [restorer.finish(r) for r in restorations]


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Average each metric; an infinite PSNR makes the mean infinite."""
    rows = list(scores)
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in METRICS}


def summarize(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Scores]]:
    """Return mean scores of input and model for "all" and for each severity by name."""
    groups = {"all": list(outcomes)}
    for outcome in outcomes:
        if outcome.case.severity:
            groups.setdefault(outcome.case.severity, []).append(outcome)
    return {
        name: {
            "input": mean_scores(o.input_scores for o in members),
            "model": mean_scores(o.model_scores for o in members),
        }
        for name, members in groups.items()
    }


def to_markdown(outcomes: Sequence[Outcome]) -> str:
    """Return one table: a pair of rows (input, model) per group of the summary and per picture."""
    arrows = [f"{name} {'↓' if name in LOW_IS_GOOD else '↑'}" for name in METRICS]
    lines = ["| pictures | | " + " | ".join(arrows) + " |", "|---|---|" + "---:|" * len(METRICS)]
    counts = {"all": len(outcomes)}
    for outcome in outcomes:
        counts[outcome.case.severity] = counts.get(outcome.case.severity, 0) + 1
    for name, means in summarize(outcomes).items():
        label = f"**mean of {name} ({counts[name]})**"
        lines += [_row(label, "input", means["input"]), _row(label, "model", means["model"])]
    for o in outcomes:
        label = f"{o.case.name} {o.case.severity}".strip()
        lines += [_row(label, "input", o.input_scores), _row(label, "model", o.model_scores)]
    return "\n".join(lines)


def to_report(restorer: Restorer, params: Any, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the JSON report; infinite values are null, which JSON has no other word for."""
    return {
        "model": restorer.name,
        "fingerprint": restorer.fingerprint,
        "params": params.as_dict(),
        "images": len(outcomes),
        "seconds_per_image": round(math.fsum(o.seconds for o in outcomes) / len(outcomes), 3),
        "methods": {
            "input": _finite(mean_scores(o.input_scores for o in outcomes)),
            restorer.name: _finite(mean_scores(o.model_scores for o in outcomes)),
        },
        "mean": {
            group: {side: _finite(scores) for side, scores in means.items()}
            for group, means in summarize(outcomes).items()
        },
        "pictures": [
            {
                "name": o.case.name,
                "severity": o.case.severity,
                "input": _finite(o.input_scores),
                "model": _finite(o.model_scores),
                "seconds": round(o.seconds, 3),
            }
            for o in outcomes
        ],
    }


def contact_sheet(outcomes: Sequence[Outcome]) -> Image.Image:
    """Draw degraded | restored | original of every case, two cases a row."""
    rows = math.ceil(len(outcomes) / SHEET_COLUMNS)
    width, height = 3 * SHEET_CELL_PX, SHEET_CELL_PX + SHEET_LABEL_PX
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, o in enumerate(outcomes):
        row, column = divmod(index, SHEET_COLUMNS)
        before, after = o.input_scores["psnr"], o.model_scores["psnr"]
        label = f"{o.case.name} {o.case.severity}  PSNR {before:.2f} -> {after:.2f} dB"
        draw.text((column * width + 2, row * height + 1), label, fill="black")
        for place, picture in enumerate((o.case.lq, o.restored, o.case.hq)):
            cell = picture.copy()
            cell.thumbnail((SHEET_CELL_PX, SHEET_CELL_PX))
            left = column * width + place * SHEET_CELL_PX
            sheet.paste(cell, (left, row * height + SHEET_LABEL_PX))
    return sheet


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate the model named on the command line."""
    options = _parser().parse_args(argv)
    import engines  # only a run needs the engine: tables and sheets are usable without one

    restorer: Restorer = engines.load(options.model)
    params = restorer.params(options.preset, {"seed": options.seed})
    outcomes = evaluate(restorer, load_cases(options.photos, options.limit), params)
    sys.stdout.write(to_markdown(outcomes) + "\n")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = json.dumps(to_report(restorer, params, outcomes), indent=1, allow_nan=False)
        options.json.write_text(report + "\n", encoding="utf-8")
    if options.sheet:
        contact_sheet(outcomes).save(options.sheet)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evals.quality", description=__doc__)
    parser.add_argument("--model", required=True, help="name of a packaged model, or a folder")
    parser.add_argument("--photos", type=Path, default=DEFAULT_PHOTOS, help="with lq/ and hq/")
    parser.add_argument("--preset", help="preset of the model; its default without")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="only the first N pictures")
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--sheet", type=Path, help="write a picture of all results there")
    return parser


def _rgb(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")


def _row(label: str, side: str, scores: Scores) -> str:
    values = (f"{scores[name]:.{2 if name == 'psnr' else 4}f}" for name in METRICS)
    return f"| {label} | {side} | " + " | ".join(values) + " |"


def _finite(scores: Scores) -> dict[str, float | None]:
    return {k: round(v, 5) if math.isfinite(v) else None for k, v in scores.items()}


if __name__ == "__main__":
    main()
