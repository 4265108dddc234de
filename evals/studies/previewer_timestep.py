"""Time step and distillation of the previewer: `python -m evals.studies.previewer_timestep`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean

from matplotlib.figure import Figure
from PIL import Image

from engines.restorer import make_plan
from evals.metrics import psnr, ssim
from evals.studies.command import run
from evals.studies.plots import COLORS, GRAY, label, panels
from evals.studies.quality import mixed_cases
from evals.studies.runs import Run, restore_all
from evals.studies.study import Bench, Study, Table
from evals.studies.variants import fixed_timestep, without_distillation

OWN = "previewer"
MIDDLE = "previewer, time step fixed to the middle"
FIRST = "previewer, time step fixed to the first"
PLAIN = "main network instead of the previewer"
VARIANTS = (OWN, MIDDLE, FIRST, PLAIN)
EQUAL_DB = 0.02  # differences of means below that are called none


@dataclass(frozen=True, slots=True)
class Sample:
    """References and result of one restoration."""

    picture: str
    level: float
    variant: str
    input_psnr: float
    references_psnr: Sequence[float]  # of every step
    changes: Sequence[float]  # mean squared change of the reference, from the second step on
    result_psnr: float
    result_ssim: float


@dataclass(frozen=True, slots=True)
class Means:
    """A variant over all pictures and steps."""

    first: float  # PSNR of the first reference
    references: float  # PSNR of all references
    change: float
    psnr: float
    ssim: float


def measure(bench: Bench) -> list[Sample]:
    """Restore the same pictures with every variant, looking at every reference."""
    cases = mixed_cases(bench.tiles)
    damaged = [case.damaged for case in cases]
    samples: list[Sample] = []
    for variant in VARIANTS:
        for case, own in zip(cases, _restored(bench, variant, damaged), strict=True):
            samples.append(
                Sample(
                    picture=case.picture,
                    level=case.level,
                    variant=variant,
                    input_psnr=psnr(case.damaged, case.clean),
                    references_psnr=[psnr(picture, case.clean) for picture in own.references],
                    changes=own.changes,
                    result_psnr=psnr(own.result, case.clean),
                    result_ssim=ssim(own.result, case.clean),
                )
            )
    return samples


def _restored(bench: Bench, variant: str, damaged: Sequence[Image.Image]) -> list[Run]:
    params = bench.params(adaptive="off", denoising_start=100)
    restorer = bench.restorer
    if variant == PLAIN:
        return restore_all(without_distillation(restorer), damaged, params, references=True)
    timesteps = make_plan(params).timesteps
    fixed = {FIRST: timesteps[0], MIDDLE: timesteps[len(timesteps) // 2]}
    change = fixed_timestep(restorer, fixed[variant]) if variant in fixed else nullcontext()
    with change:
        return restore_all(restorer, damaged, params, references=True)


def means(samples: Sequence[Sample]) -> dict[str, Means]:
    """Every variant's means."""
    found: dict[str, Means] = {}
    for variant in VARIANTS:
        own = [s for s in samples if s.variant == variant]
        found[variant] = Means(
            first=fmean(s.references_psnr[0] for s in own),
            references=fmean(value for s in own for value in s.references_psnr),
            change=fmean(value for s in own for value in s.changes),
            psnr=fmean(s.result_psnr for s in own),
            ssim=fmean(s.result_ssim for s in own),
        )
    return found


def table(samples: Sequence[Sample]) -> Table:
    """The means."""
    columns = [
        "references from",
        "PSNR, first",
        "PSNR, all",
        "change a step",
        "result PSNR",
        "SSIM",
    ]
    rows = [
        [name, f"{m.first:.2f}", f"{m.references:.2f}", f"{m.change:.2e}", f"{m.psnr:.2f}"]
        + [f"{m.ssim:.4f}"]
        for name, m in means(samples).items()
    ]
    return Table(columns, rows)


def findings(samples: Sequence[Sample]) -> list[str]:
    """What the figures say about the claims."""
    found = means(samples)
    own, plain = found[OWN], found[PLAIN]
    worst = min((FIRST, MIDDLE), key=lambda variant: found[variant].references)
    loss = own.references - found[worst].references
    before = fmean(s.input_psnr for s in samples if s.variant == OWN)
    return [
        f"Without its time step ({worst.partition(', ')[2]}) the previewer's references "
        + (f"lose {loss:.2f} dB" if loss > EQUAL_DB else f"lose nothing ({-loss:+.2f} dB)")
        + f" and the result changes by {found[worst].psnr - own.psnr:+.2f} dB; references move "
        f"{found[worst].change / own.change:.2f} times as much from step to step.",
        f"Distillation: the previewer's references have {own.references:.2f} dB, those of the main "
        f"network in one step {plain.references:.2f} dB, and these move "
        f"{plain.change / own.change:.2f} times as much from step to step: the claim that "
        "distillation gives better references "
        + ("holds" if own.references > plain.references + EQUAL_DB else "does not hold")
        + ", that it gives steadier ones "
        + ("holds." if own.change < plain.change else "does not hold."),
        f"Results with the previewer have {own.psnr:.2f} dB, without {plain.psnr:.2f} dB.",
        f"The first reference has {own.first:.2f} dB where the damaged picture has {before:.2f} dB "
        f"and the result {own.psnr:.2f} dB.",
    ]


def draw(samples: Sequence[Sample]) -> Figure:
    """Quality and movement of the references, step by step."""
    figure, (left, right) = panels(2)
    for variant, color in zip(VARIANTS, COLORS, strict=False):
        own = [s for s in samples if s.variant == variant]
        quality = [fmean(values) for values in zip(*(s.references_psnr for s in own), strict=True)]
        moved = [fmean(values) for values in zip(*(s.changes for s in own), strict=True)]
        left.plot(range(1, len(quality) + 1), quality, "o-", color=color, label=variant, ms=3)
        right.plot(range(2, len(moved) + 2), moved, "o-", color=color, ms=3)
    before = fmean(s.input_psnr for s in samples)
    left.axhline(before, color=GRAY, linestyle="--", linewidth=1, label="damaged picture")
    right.set_yscale("log")
    label(left, "quality of the references", "step", "PSNR, dB")
    label(right, "movement of the references", "step", "mean squared change")
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        fontsize=8,
        ncols=2,
        frameon=False,
    )
    return figure


STUDY = Study(
    name="previewer_timestep",
    title="The previewer's time step and distillation",
    question="Does the previewer need the time step, and does its distillation give references "
    "that are better, and steadier from step to step, than one-step estimates of the main network?",
    method="Every variant makes the references of whole restorations of the same pictures, damaged "
    "by the mix at a light, a medium and a heavy level: the "
    "previewer; the previewer whose time embedding is fixed to the first or the middle step of the "
    "schedule, by a hook on that layer; and the main network in its place, without the LoRA and "
    "without an aggregator, as the undistilled model. Where the main network predicts a correction "
    "to a reference, as in nano, it was hardly trained for that last role, so that nano says "
    "little about distillation alone. Steadiness by itself is no merit: the damaged picture would "
    "be the steadiest reference of all.",
    pictures=8,
    sample=Sample,
    measure=measure,
    table=table,
    findings=findings,
    draw=draw,
)

if __name__ == "__main__":
    run([STUDY])
