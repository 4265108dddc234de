"""What does the reference give? `python -m evals.studies.aggregator_reference`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

import engines
from evals.studies.command import run
from evals.studies.pictures import MIXED_LEVELS
from evals.studies.plots import COLORS, label, panels
from evals.studies.quality import Quality, mean_quality, mixed_cases, score
from evals.studies.runs import restore_all
from evals.studies.study import Bench, Study, Table
from evals.studies.variants import reference_unseen, silent_aggregator

Change = Callable[[engines.Restorer], AbstractContextManager[Any]]

INPUT = "(input)"
ALONE = "no aggregator, no preview"
DEGRADED = "degraded picture as reference"
PREVIEW = "preview as reference"
UNSEEN = "preview, aggregator sees the degraded picture only"
SILENT = "preview, aggregator silent"
VARIANTS: Mapping[str, tuple[Mapping[str, Any], Change]] = {
    ALONE: ({"creative_start": 0.0}, nullcontext),
    DEGRADED: ({"preview_start": 1.0}, nullcontext),
    PREVIEW: ({}, nullcontext),
    UNSEEN: ({}, reference_unseen),
    SILENT: ({}, silent_aggregator),
}
EQUAL_DB = 0.02  # differences of means below that are called none


@dataclass(frozen=True, slots=True)
class Sample:
    """Quality of one result, or of the damaged input."""

    picture: str
    level: float
    variant: str
    psnr: float
    ssim: float
    fsim: float

    @property
    def quality(self) -> Quality:
        """The three metrics."""
        return Quality(self.psnr, self.ssim, self.fsim)


def measure(bench: Bench) -> list[Sample]:
    """Restore the same pictures with every variant."""
    cases = mixed_cases(bench.tiles)
    damaged = [case.damaged for case in cases]
    results = {INPUT: damaged}
    for variant, (overrides, change) in VARIANTS.items():
        with change(bench.restorer):
            runs = restore_all(bench.restorer, damaged, bench.params(**overrides))
        results[variant] = [run.result for run in runs]
    samples: list[Sample] = []
    for variant, pictures in results.items():
        for case, picture in zip(cases, pictures, strict=True):
            q = score(picture, case.clean)
            samples.append(Sample(case.picture, case.level, variant, q.psnr, q.ssim, q.fsim))
    return samples


def means(samples: Sequence[Sample]) -> dict[str, Quality]:
    """Mean quality of the input and of every variant."""
    return {
        variant: mean_quality(s.quality for s in samples if s.variant == variant)
        for variant in (INPUT, *VARIANTS)
    }


def wins(samples: Sequence[Sample], variant: str, other: str) -> float:
    """Share of the pictures whose PSNR is higher with `variant` than with `other`."""
    theirs = {(s.picture, s.level): s.psnr for s in samples if s.variant == other}
    own = [s for s in samples if s.variant == variant]
    return sum(s.psnr > theirs[s.picture, s.level] for s in own) / len(own)


def table(samples: Sequence[Sample]) -> Table:
    """Means, and the gain over the input."""
    found = means(samples)
    rows = [
        [variant, *quality.in_words(), f"{quality.psnr - found[INPUT].psnr:+.2f}"]
        for variant, quality in found.items()
    ]
    return Table(["variant", "PSNR", "SSIM", "FSIM", "PSNR over the input"], rows)


def findings(samples: Sequence[Sample]) -> list[str]:
    """What the figures say about the claim."""
    found = means(samples)
    lines: list[str] = []
    for other, claim in (
        (DEGRADED, "the paper's claim that a generated reference beats the degraded picture"),
        (ALONE, "the claim that the aggregator and its reference help at all"),
    ):
        lead = found[PREVIEW].psnr - found[other].psnr
        verdict = (
            "holds"
            if lead > EQUAL_DB
            else "makes no difference"
            if lead > -EQUAL_DB
            else ("does not hold")
        )
        lines.append(
            f"{PREVIEW.capitalize()} against {other}: {lead:+.2f} dB, better on "
            f"{wins(samples, PREVIEW, other):.0%} of the pictures: {claim} {verdict} in PSNR "
            f"(SSIM {found[PREVIEW].ssim - found[other].ssim:+.4f}, "
            f"FSIM {found[PREVIEW].fsim - found[other].fsim:+.4f})."
        )
    ahead = {
        level: gain(samples, PREVIEW, "psnr", level) - gain(samples, DEGRADED, "psnr", level)
        for level in MIXED_LEVELS
    }
    by_level = ", ".join(f"{level}: {by:+.2f} dB" for level, by in ahead.items())
    lines.append(f"{PREVIEW.capitalize()} against {DEGRADED} by level: {by_level}.")
    unseen = found[PREVIEW].psnr - found[UNSEEN].psnr
    silent = found[PREVIEW].psnr - found[SILENT].psnr
    lines.append(
        f"With the preview kept as what the prediction is added to, the aggregator's view of it is "
        f"worth {unseen:+.2f} dB, and all the aggregator says {silent:+.2f} dB."
    )
    best = max(VARIANTS, key=lambda variant: found[variant].psnr)
    lines.append(f"Best PSNR: {best} ({found[best].psnr:.2f} dB).")
    return lines


def draw(samples: Sequence[Sample]) -> Figure:
    """PSNR gain over the input at each level, and SSIM gain."""
    figure, axes = panels(2)
    panel_metrics = (("psnr", "PSNR over the input, dB"), ("ssim", "SSIM over the input"))
    for panel, (metric, title) in zip(axes, panel_metrics, strict=True):
        width = 0.8 / len(VARIANTS)
        for index, (variant, color) in enumerate(zip(VARIANTS, COLORS, strict=False)):
            places = [place + (index - 2) * width for place in range(len(MIXED_LEVELS))]
            heights = [gain(samples, variant, metric, level) for level in MIXED_LEVELS]
            panel.bar(places, heights, width * 0.9, color=color, label=variant)
        panel.axhline(0, color="black", linewidth=0.8)
        panel.set_xticks(range(len(MIXED_LEVELS)), [str(level) for level in MIXED_LEVELS])
        label(panel, "mean over the pictures", "level of damage", title)
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        fontsize=8,
        ncols=3,
        frameon=False,
    )
    return figure


def gain(samples: Sequence[Sample], variant: str, metric: str, level: float) -> float:
    """Mean of a metric over that of the input at a level."""
    of_level = [s for s in samples if s.level == level]
    result = mean_quality(s.quality for s in of_level if s.variant == variant)
    before = mean_quality(s.quality for s in of_level if s.variant == INPUT)
    return getattr(result, metric) - getattr(before, metric)


STUDY = Study(
    name="aggregator_reference",
    title="The aggregator and its reference",
    question="How much better are results when the aggregator is given a generated preview, the "
    "degraded picture in its place, or does not run at all?",
    method="The same pictures, damaged by the mix at a light, a medium and a heavy level, are "
    "restored with the engine's own switches (`creative_start` 0: "
    "neither; `preview_start` 1: the degraded picture is the reference) and as usual. A model that "
    "predicts the residual to its reference, as nano does, has two uses for a preview: the "
    "aggregator reads it, and the prediction is added to it. The last two variants keep the second "
    "use and take away the first, by hooks on the network. All variants have the weights of a "
    "model that was trained with previews, which favours the usual way.",
    pictures=8,
    sample=Sample,
    measure=measure,
    table=table,
    findings=findings,
    draw=draw,
)

if __name__ == "__main__":
    run([STUDY])
