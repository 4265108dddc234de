"""Several methods of restoration on the same degraded pictures, measured in the same way."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from evals.panel import Panel, Scores

GROUP_SIZE = 2  # given to a method together: enough to exercise batching, little memory


@dataclass(frozen=True, slots=True)
class Case:
    """A degraded picture and its original."""

    name: str
    severity: str
    lq: Image.Image
    hq: Image.Image


@dataclass(frozen=True, slots=True)
class Method:
    """A way to restore a group of pictures, and one line that says what it does."""

    how: str
    restore: Callable[[Sequence[Image.Image]], Sequence[Image.Image]]


@dataclass(frozen=True, slots=True)
class Result:
    """What a method made of a case; seconds are its share of the group's wall time."""

    picture: Image.Image
    scores: Scores
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of every method on a case, by name, and what the original itself scores."""

    case: Case
    results: Mapping[str, Result]
    original: Scores


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


def compare(
    methods: Mapping[str, Method], cases: Sequence[Case], panel: Panel, show_progress: bool = False
) -> list[Outcome]:
    """Restore every case by every method and measure the results."""
    by_method = {
        name: _run(name, method, cases, panel, show_progress) for name, method in methods.items()
    }
    return [
        Outcome(
            case,
            {name: results[index] for name, results in by_method.items()},
            panel.score_alone(case.hq),
        )
        for index, case in enumerate(cases)
    ]


def _run(
    name: str, method: Method, cases: Sequence[Case], panel: Panel, show_progress: bool
) -> list[Result]:
    results: list[Result] = []
    with tqdm(total=len(cases), desc=name, unit="picture", disable=not show_progress) as bar:
        for start in range(0, len(cases), GROUP_SIZE):
            group = cases[start : start + GROUP_SIZE]
            began = time.perf_counter()
            pictures = method.restore([case.lq for case in group])
            seconds = (time.perf_counter() - began) / len(group)
            results += [
                Result(picture, panel.score(picture, case.hq), seconds)
                for case, picture in zip(group, pictures, strict=True)
            ]
            bar.update(len(group))
    return results


def groups(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Return "all" outcomes and those of each severity, in order of appearance."""
    found = {"all": list(outcomes)}
    for outcome in outcomes:
        if outcome.case.severity:
            found.setdefault(outcome.case.severity, []).append(outcome)
    return found


def mean_scores(rows: Iterable[Scores]) -> Scores:
    """Average each metric; an infinite PSNR makes the mean infinite."""
    listed = list(rows)
    return {name: math.fsum(row[name] for row in listed) / len(listed) for name in listed[0]}


def method_means(outcomes: Sequence[Outcome]) -> dict[str, Scores]:
    """Return the mean scores of every method, by name."""
    return {
        name: mean_scores(outcome.results[name].scores for outcome in outcomes)
        for name in outcomes[0].results
    }


def mean_seconds(outcomes: Sequence[Outcome], method: str) -> float:
    """Return the mean wall time of a method for one picture."""
    return math.fsum(o.results[method].seconds for o in outcomes) / len(outcomes)


def _rgb(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")
