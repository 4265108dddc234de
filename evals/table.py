"""The results of a comparison as a table, as JSON and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from evals.compare import Outcome, groups, mean_scores, mean_seconds, method_means
from evals.panel import LOW_IS_GOOD, Scores

ORIGINAL = "original"
DIGITS = {"psnr": 2, "mbv2_distance": 3, "piqe": 1, "brisque": 1}
OTHER_DIGITS = 4
SHEET_COLUMNS = 2  # cases side by side
SHEET_CELL_PX = 256
SHEET_LABEL_PX = 14


@dataclass(frozen=True, slots=True)
class Run:
    """A comparison with all that its reports say about how it was made."""

    model: str
    fingerprint: str
    params: Mapping[str, Any]
    how: Mapping[str, str]  # by method
    missing: Mapping[str, str]  # why a metric or a method is not there, by name
    metrics: Sequence[str]
    outcomes: Sequence[Outcome]


def to_markdown(run: Run) -> str:
    """Return the table of means, for all pictures and for each severity, and notes below it."""
    arrows = [f"{name} {'↓' if name in LOW_IS_GOOD else '↑'}" for name in run.metrics]
    lines = [
        "| pictures | method | " + " | ".join(arrows) + " | seconds |",
        "|---|---|" + "---:|" * (len(arrows) + 1),
    ]
    for group, members in groups(run.outcomes).items():
        label = f"{group} ({len(members)})"
        for method, means in method_means(members).items():
            lines.append(_row(label, method, means, run, f"{mean_seconds(members, method):.2f}"))
        lines.append(_row(label, ORIGINAL, _original_means(members), run, ""))
    lines += [
        "",
        "Means; ↓ low is good, ↑ high is good; seconds are wall time for one picture.",
        "",
    ]
    lines += [f"- `{name}`: {how}" for name, how in run.how.items()]
    lines += [f"- `{ORIGINAL}`: the clean picture, where a metric needs no reference"]
    lines += [f"- not present: {names}: {reason}" for reason, names in _by_reason(run.missing)]
    return "\n".join(lines) + "\n"


def to_json(run: Run) -> dict[str, Any]:
    """Return the JSON report; infinite values are null, which JSON has no other word for."""
    outcomes = run.outcomes
    means = {
        group: {method: _finite(scores) for method, scores in method_means(members).items()}
        for group, members in groups(outcomes).items()
    }
    return {
        "model": run.model,
        "fingerprint": run.fingerprint,
        "params": dict(run.params),
        "images": len(outcomes),
        "seconds_per_image": round(mean_seconds(outcomes, run.model), 3),
        "methods": means["all"] | {ORIGINAL: _finite(_original_means(outcomes))},
        "seconds": {name: round(mean_seconds(outcomes, name), 3) for name in run.how},
        "how": dict(run.how),
        "low_is_good": [name for name in run.metrics if name in LOW_IS_GOOD],
        "not_present": dict(run.missing),
        "mean": means,
        "pictures": [_picture(outcome) for outcome in outcomes],
    }


def contact_sheet(outcomes: Sequence[Outcome], methods: Sequence[str]) -> Image.Image:
    """Draw the results of these methods, then the original, of every case; two cases a row."""
    rows = math.ceil(len(outcomes) / SHEET_COLUMNS)
    width, height = (len(methods) + 1) * SHEET_CELL_PX, SHEET_CELL_PX + SHEET_LABEL_PX
    sheet = Image.new("RGB", (SHEET_COLUMNS * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, outcome in enumerate(outcomes):
        row, column = divmod(index, SHEET_COLUMNS)
        results = [outcome.results[method] for method in methods]
        labels = [
            f"{method} {result.scores['psnr']:.2f} dB"
            for method, result in zip(methods, results, strict=True)
        ]
        title = f"{outcome.case.name} {outcome.case.severity}".strip()
        labels = [f"{title}: {labels[0]}", *labels[1:], ORIGINAL]
        pictures = [*(result.picture for result in results), outcome.case.hq]
        for place, (label, picture) in enumerate(zip(labels, pictures, strict=True)):
            left, top = column * width + place * SHEET_CELL_PX, row * height
            draw.text((left + 2, top + 1), label, fill="black")
            cell = picture.copy()
            cell.thumbnail((SHEET_CELL_PX, SHEET_CELL_PX))
            sheet.paste(cell, (left, top + SHEET_LABEL_PX))
    return sheet


def worst(outcomes: Sequence[Outcome], method: str, than: str, count: int) -> list[Outcome]:
    """Return the cases in which a method has the least PSNR over another's, the worst first."""

    def gain(outcome: Outcome) -> float:
        return outcome.results[method].scores["psnr"] - outcome.results[than].scores["psnr"]

    return sorted(outcomes, key=gain)[:count]


def _by_reason(missing: Mapping[str, str]) -> list[tuple[str, str]]:
    names: dict[str, list[str]] = {}
    for name, reason in missing.items():
        names.setdefault(reason, []).append(f"`{name}`")
    return [(reason, ", ".join(found)) for reason, found in names.items()]


def _original_means(outcomes: Sequence[Outcome]) -> Scores:
    return mean_scores(outcome.original for outcome in outcomes)


def _row(label: str, method: str, scores: Scores, run: Run, seconds: str) -> str:
    values = (
        f"{scores[name]:.{DIGITS.get(name, OTHER_DIGITS)}f}" if name in scores else "–"
        for name in run.metrics
    )
    return f"| {label} | {method} | " + " | ".join(values) + f" | {seconds} |"


def _picture(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.case.name,
        "severity": outcome.case.severity,
        "methods": {name: _finite(result.scores) for name, result in outcome.results.items()},
        "seconds": {name: round(result.seconds, 3) for name, result in outcome.results.items()},
    }


def _finite(scores: Scores) -> dict[str, float | None]:
    return {k: round(v, 5) if math.isfinite(v) else None for k, v in scores.items()}
