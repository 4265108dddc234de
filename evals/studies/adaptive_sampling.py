"""Quality against cost of ways to sample: `python -m evals.studies.adaptive_sampling`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from matplotlib.figure import Figure

from evals.studies.command import run
from evals.studies.plots import COLORS, GRAY, label, panels
from evals.studies.quality import Quality, mean_quality, mixed_cases, score
from evals.studies.runs import restore_all
from evals.studies.study import Bench, Study, Table
from evals.studies.tradeoff import CLOSE_DB, CLOSE_SSIM, Point, choice, frontier

INPUT = "(input)"
BASE = "faithful"
PUBLISHED, ADAPTIVE, REUSE, STEPS = "published", "official adaptive", "reuse", "steps only"
FAMILIES = (PUBLISHED, ADAPTIVE, REUSE, STEPS)
PLACES: Mapping[str, tuple[tuple[int, int], Literal["left", "right"], Literal["top", "bottom"]]] = {
    PUBLISHED: ((-4, 4), "right", "bottom"),  # of a label beside its point
    ADAPTIVE: ((-4, -5), "right", "top"),
    REUSE: ((4, -5), "left", "top"),
    STEPS: ((4, 4), "left", "bottom"),
}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to sample: a preset and what differs from it."""

    name: str
    family: str
    preset: str
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])


def _counted(steps: int) -> str:
    return f"{steps} step{'s' if steps > 1 else ''}"


REUSING = f"{BASE}, reuse"
WAYS = (
    Way(BASE, PUBLISHED, "faithful", {"adaptive": "off"}),
    Way("faithful, official adaptive", ADAPTIVE, "faithful", {"adaptive": "official"}),
    Way(REUSING, REUSE, "faithful", {"adaptive": "reuse"}),
    Way("8 steps, official adaptive", ADAPTIVE, "balanced", {"adaptive": "official", "steps": 8}),
    Way("8 steps, reuse", REUSE, "balanced", {"adaptive": "reuse", "steps": 8}),
    *(
        Way(_counted(steps), STEPS, "balanced", {"adaptive": "off", "steps": steps})
        for steps in (1, 2, 3, 4, 8, 16)
    ),
)
# A plain way and what an adaptive rule makes of it.
PAIRS = (
    (BASE, "faithful, official adaptive"),
    ("8 steps", "8 steps, official adaptive"),
    (BASE, REUSING),
    ("8 steps", "8 steps, reuse"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One result and its cost; the input costs nothing."""

    picture: str
    level: float
    way: str
    evaluations: int
    seconds: float
    psnr: float
    ssim: float
    fsim: float

    @property
    def quality(self) -> Quality:
        """The three metrics."""
        return Quality(self.psnr, self.ssim, self.fsim)


def measure(bench: Bench) -> list[Sample]:
    """Restore the same pictures in every way."""
    cases = mixed_cases(bench.tiles)
    damaged = [case.damaged for case in cases]
    samples = [
        Sample(c.picture, c.level, INPUT, 0, 0.0, q.psnr, q.ssim, q.fsim)
        for c in cases
        for q in [score(c.damaged, c.clean)]
    ]
    for way in WAYS:
        runs = restore_all(bench.restorer, damaged, bench.params(way.preset, **way.overrides))
        for case, own in zip(cases, runs, strict=True):
            q = score(own.result, case.clean)
            cost = (own.evaluations, own.seconds)
            samples.append(
                Sample(case.picture, case.level, way.name, *cost, q.psnr, q.ssim, q.fsim)
            )
    return samples


def points(samples: Sequence[Sample]) -> list[Point]:
    """Means of the input and of every way, in their order."""
    found: list[Point] = []
    for name in dict.fromkeys(s.way for s in samples):
        own = [s for s in samples if s.way == name]
        evaluations, seconds = fmean(s.evaluations for s in own), fmean(s.seconds for s in own)
        found.append(Point(name, evaluations, seconds, mean_quality(s.quality for s in own)))
    return found


def table(samples: Sequence[Sample]) -> Table:
    """Quality and cost of every way; cost in seconds relative to the faithful one."""
    found = points(samples)
    whole = next(point.seconds for point in found if point.way == BASE)
    rows = [
        [p.way, *p.quality.in_words(), f"{p.evaluations:.1f}", f"{p.seconds / whole:.3f}"]
        for p in found
    ]
    return Table(["way", "PSNR", "SSIM", "FSIM", "evaluations", f"time / {BASE}"], rows)


def findings(samples: Sequence[Sample]) -> list[str]:
    """What the figures say, and the way they would choose."""
    by_name = {point.way: point for point in points(samples)}
    ways = [point for name, point in by_name.items() if name != INPUT]
    lines: list[str] = []
    for plain, adaptive in PAIRS:
        a, b = by_name[plain], by_name[adaptive]
        gain = b.quality.psnr - a.quality.psnr
        worth = "helps" if gain > CLOSE_DB else "harms" if gain < -CLOSE_DB else "changes little"
        rule = "Reusing settled references" if adaptive.endswith(REUSE) else "The official rule"
        lines.append(
            f"{rule} {worth} with {plain}: {gain:+.2f} dB PSNR, "
            f"{b.quality.ssim - a.quality.ssim:+.4f} SSIM, for {b.evaluations / a.evaluations:.0%} "
            "of the evaluations."
        )
    spent = [
        f"{fmean(own):.1f} at level {level}"
        for level, own in sorted(_cost_by_level(samples).items())
    ]
    lines.append(f"With reuse in {BASE} a picture costs {', '.join(spent)} evaluations.")
    chosen, whole = choice(ways), by_name[BASE]
    names = ", ".join(point.way for point in frontier(ways))
    lines += [
        f"On the curve of PSNR against evaluations lie: {names}.",
        f"As default these figures would choose **{chosen.way}**: the cheapest within "
        f"{CLOSE_DB} dB and {CLOSE_SSIM} SSIM of the best, "
        f"{chosen.quality.psnr - whole.quality.psnr:+.2f} dB against {BASE} for "
        f"{chosen.evaluations / whole.evaluations:.0%} of its evaluations.",
    ]
    return lines


def _cost_by_level(samples: Sequence[Sample]) -> dict[float, list[int]]:
    """Evaluations of the published steps with reuse, by the level of damage."""
    found: dict[float, list[int]] = {}
    for sample in samples:
        if sample.way == REUSING:
            found.setdefault(sample.level, []).append(sample.evaluations)
    return found


def draw(samples: Sequence[Sample]) -> Figure:
    """PSNR and SSIM over evaluations."""
    found = points(samples)
    figure, axes = panels(2)
    family = {way.name: way.family for way in WAYS}
    colors = dict(zip(FAMILIES, COLORS, strict=False))
    for panel, metric in zip(axes, ("psnr", "ssim"), strict=True):
        for name, color in colors.items():
            own = sorted(
                (p for p in found if family.get(p.way) == name), key=lambda p: p.evaluations
            )
            heights = [getattr(p.quality, metric) for p in own]
            style = "o-" if name == STEPS else "o"
            panel.plot([p.evaluations for p in own], heights, style, color=color, label=name, ms=5)
        for point in found[1:]:
            at = (point.evaluations, getattr(point.quality, metric))
            offset, side, edge = PLACES[family.get(point.way, STEPS)]
            panel.annotate(
                point.way,
                at,
                offset,
                textcoords="offset points",
                fontsize=6.5,
                horizontalalignment=side,
                verticalalignment=edge,
            )
        before = getattr(found[0].quality, metric)
        panel.axhline(before, color=GRAY, linestyle="--", linewidth=1, label="damaged picture")
        panel.set_xscale("log")
        panel.margins(0.12)
        label(panel, "mean over the pictures", "network evaluations", metric.upper())
    axes[0].legend(fontsize=8, frameon=False)
    return figure


STUDY = Study(
    name="adaptive_sampling",
    title="Adaptive sampling",
    question="What does quality cost: the published sampler, two adaptive rules, or fewer steps?",
    method="The same pictures, damaged by the mix at a light, a medium and a heavy level, are "
    "restored in every way. Evaluations count the forward passes of "
    "previewer, aggregator and main network for one picture, where guidance doubles each; time is "
    "processor time of the whole restoration in one run. The published steps are the preset "
    "`faithful` as the model folder defines it. Official adaptive sampling scales the aggregator "
    "by how far the estimate is from the reference over how far the reference moved, and leaves "
    "previewer and aggregator out where that falls below 0.1. Reuse, the engine's own rule, leaves "
    "them out for up to two steps where the reference moved by at most a tenth of what parts it "
    "from the estimate (mean squares); the last reference and residuals serve again.",
    pictures=8,
    sample=Sample,
    measure=measure,
    table=table,
    findings=findings,
    draw=draw,
)

if __name__ == "__main__":
    run([STUDY])
