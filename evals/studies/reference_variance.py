"""Does the references' variance tell the damage? `python -m evals.studies.reference_variance`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.figure import Figure

from evals.metrics import psnr
from evals.studies.command import run
from evals.studies.pictures import KINDS, LEVELS, MIX, grid
from evals.studies.plots import COLORS, label, panels
from evals.studies.ranks import in_words, mean_within, rank_correlation
from evals.studies.runs import restore_all
from evals.studies.study import Bench, Study, Table

TELLING_RANKS = 0.4
TELLING_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Sample:
    """The references of one restoration: mean squared change from each step to the next."""

    picture: str
    kind: str
    level: float
    input_psnr: float
    changes: Sequence[float]

    @property
    def variance(self) -> float:
        """Mean over the steps."""
        return fmean(self.changes)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank correlation of the variance with the damage, 1 where more damage is more variance."""

    pooled: float  # with the level, over pictures and levels
    within: float  # with the level, within each picture and kind, averaged
    loss: float  # with the error of the input (minus its PSNR)


def measure(bench: Bench) -> list[Sample]:
    """Restore every picture with every kind of damage at every level."""
    cases = grid(bench.tiles, KINDS, LEVELS)
    # References get room to move, and each one is made anew.
    params = bench.params(adaptive="off", denoising_start=100)
    runs = restore_all(bench.restorer, [case.damaged for case in cases], params)
    return [
        Sample(case.picture, case.kind, case.level, psnr(case.damaged, case.clean), run.changes)
        for case, run in zip(cases, runs, strict=True)
    ]


def ranks(samples: Sequence[Sample]) -> Ranks:
    """How well the variance orders the samples."""
    levels, variances = [s.level for s in samples], [s.variance for s in samples]
    return Ranks(
        pooled=rank_correlation(levels, variances),
        within=mean_within([(s.picture, s.kind) for s in samples], levels, variances),
        loss=rank_correlation([-s.input_psnr for s in samples], variances),
    )


def of_kind(samples: Sequence[Sample], kind: str) -> list[Sample]:
    """The samples of one kind of damage."""
    return [s for s in samples if s.kind == kind]


def growth(samples: Sequence[Sample]) -> float:
    """Mean variance at the worst level over that at the least."""
    ends = [fmean(s.variance for s in samples if s.level == level) for level in LEVELS]
    return ends[-1] / ends[0]


def tells(samples: Sequence[Sample]) -> bool:
    """Whether the variance follows the level, and by enough to be seen between pictures."""
    return ranks(samples).within >= TELLING_RANKS and growth(samples) >= TELLING_GROWTH


def table(samples: Sequence[Sample]) -> Table:
    """Mean variance at each level and the correlations, a row for each kind."""
    columns = ["kind", *(f"at {level}" for level in LEVELS)]
    rows: list[list[str]] = []
    for name in (*KINDS, "overall"):
        own = list(samples) if name == "overall" else of_kind(samples, name)
        means = [fmean(s.variance for s in own if s.level == level) for level in LEVELS]
        found = ranks(own)
        figures = [f"{mean:.2e}" for mean in means]
        rows.append(
            [name, *figures, *(f"{r:.2f}" for r in (found.pooled, found.within, found.loss))]
        )
    return Table([*columns, "rho, level", "rho within a picture", "rho, input error"], rows)


def findings(samples: Sequence[Sample]) -> list[str]:
    """What the figures say about the claim."""
    overall, mix = ranks(samples), ranks(of_kind(samples, MIX))
    lines = [
        f"Over all kinds there is {in_words(overall.pooled)} rank correlation between level and "
        f"variance ({overall.pooled:.2f}), and {in_words(overall.loss)} rank correlation with the "
        f"error of the input ({overall.loss:.2f}); for the mix alone {mix.pooled:.2f} and "
        f"{mix.loss:.2f}.",
        f"Within one picture and kind, where content cannot interfere, it is {overall.within:.2f} "
        "on average.",
    ]
    told = [kind for kind in KINDS if tells(of_kind(samples, kind))]
    untold = [kind for kind in KINDS if kind not in told]
    for kind in KINDS:
        own = of_kind(samples, kind)
        lines.append(
            f"{kind}: the worst level has {growth(own):.2f} times the variance of the least "
            f"(rank correlation within a picture {ranks(own).within:.2f})."
        )
    if not untold:
        lines.append("The variance tells every kind of damage, as the paper observes.")
    elif told:
        lines.append(
            f"The variance tells the level of {', '.join(told)}, but not of {', '.join(untold)}: "
            "the paper's observation holds here in part, and the variance alone does not measure "
            "how damaged a picture is."
        )
    else:
        lines.append("The variance tells no kind of damage: the paper's observation fails here.")
    return lines


def draw(samples: Sequence[Sample]) -> Figure:
    """Variance over the level, then over the steps for the mix."""
    figure, (left, right) = panels(2)
    for kind, color in zip(KINDS, COLORS, strict=False):
        own = of_kind(samples, kind)
        means = [fmean(s.variance for s in own if s.level == level) for level in LEVELS]
        style = "s--" if kind == "jpeg" else "o-"  # lies upon noise where neither is told
        left.plot(LEVELS, means, style, color=color, label=kind, ms=4)
    left.set_yscale("log")
    left.legend(fontsize=8, frameon=False)
    label(left, "mean over steps and pictures", "level of damage", "reference variance")
    for index, level in enumerate(LEVELS):
        own = [s.changes for s in of_kind(samples, MIX) if s.level == level]
        means = [fmean(values) for values in zip(*own, strict=True)]
        shade = 0.25 + 0.75 * index / (len(LEVELS) - 1)
        steps = range(2, len(means) + 2)
        right.plot(steps, means, "o-", color=COLORS[0], alpha=shade, label=f"level {level}", ms=3)
    right.set_yscale("log")
    right.legend(fontsize=8, frameon=False)
    label(right, f"{MIX}, step by step", "step", "reference variance")
    return figure


STUDY = Study(
    name="reference_variance",
    title="Reference variance",
    question="Does the variance of the generative references over the steps tell how, and how "
    "badly, a picture is damaged?",
    method="The mean squared change of the reference from one step to the next (latent units), "
    "averaged over the steps of a restoration from time step 100 on, each with a reference of its "
    "own; Spearman's rank correlation with the level of "
    "damage over all pictures, within each picture, and with the error of the damaged picture.",
    pictures=8,
    sample=Sample,
    measure=measure,
    table=table,
    findings=findings,
    draw=draw,
)

if __name__ == "__main__":
    run([STUDY])
