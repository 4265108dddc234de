"""Do the DCP's image tokens survive damage? `python -m evals.studies.dcp_robustness`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import engines
from evals.studies.command import run
from evals.studies.pictures import KINDS, LEVELS, MIX, grid
from evals.studies.plots import COLORS, label, panels
from evals.studies.runs import begin
from evals.studies.study import Bench, Study, Table

LATENTS, VISION, TOKENS, PREVIEW_TOKENS = (
    "latents",
    "vision features",
    "DCP tokens",
    "previewer's tokens",
)
MUTE_SPREAD = 0.1  # below that, a space says next to nothing about a picture
SPACES = (LATENTS, VISION, TOKENS, PREVIEW_TOKENS)


@dataclass(frozen=True, slots=True)
class Sample:
    """How far damage moves pictures in one space, mean over the pictures."""

    space: str
    kind: str
    level: float
    relative: float  # distance to the own clean picture over that one's length
    cosine: float  # 1 minus the cosine between the two
    separation: float  # distance to the own clean picture over that between two clean pictures
    spread: float  # distance between two clean pictures over their length
    found: float  # share of the pictures whose nearest clean picture is their own


def measure(bench: Bench) -> list[Sample]:
    """Place clean and damaged pictures in every space, and compare."""
    params = bench.params()
    clean = spaces(bench.restorer, [tile.clean for tile in bench.tiles], params)
    samples: list[Sample] = []
    for kind in KINDS:
        for level in LEVELS:
            cases = grid(bench.tiles, [kind], [level])
            damaged = spaces(bench.restorer, [case.damaged for case in cases], params)
            samples += [
                displacement(space, kind, level, damaged[space], clean[space]) for space in SPACES
            ]
    return samples


@torch.inference_mode()
def spaces(
    restorer: engines.Restorer, pictures: Sequence[Image.Image], params: engines.RestoreParams
) -> Mapping[str, Tensor]:
    """Every picture as one row of each space, (pictures, width)."""
    rows: dict[str, list[Tensor]] = {space: [] for space in SPACES}
    vision = restorer.networks.vision
    for picture in pictures:
        begun = begin(restorer, picture, params)
        rows[LATENTS].append(begun.degraded)
        rows[VISION].append(vision(vision.pixels_of(picture).to(begun.degraded)))
        rows[TOKENS].append(begun.condition.tokens[-1:])
        rows[PREVIEW_TOKENS].append(begun.condition.preview_tokens[-1:])
    return {space: torch.cat(own).flatten(1).float() for space, own in rows.items()}


def displacement(space: str, kind: str, level: float, damaged: Tensor, clean: Tensor) -> Sample:
    """Compare rows (pictures, width) of damaged pictures with those of their clean twins."""
    moved = (damaged - clean).norm(dim=1)
    between = torch.cdist(clean, clean)
    count = len(clean)
    typical = between.sum() / (count * (count - 1))
    cosine = torch.nn.functional.cosine_similarity(damaged, clean)
    nearest = torch.cdist(damaged, clean).argmin(dim=1)
    return Sample(
        space=space,
        kind=kind,
        level=level,
        relative=float((moved / clean.norm(dim=1)).mean()),
        cosine=float(1 - cosine.mean()),
        separation=float(moved.mean() / typical),
        spread=float(typical / clean.norm(dim=1).mean()),
        found=float((nearest == torch.arange(count)).float().mean()),
    )


def table(samples: Sequence[Sample]) -> Table:
    """A row for each space and kind at the worst level."""
    worst = LEVELS[-1]
    rows = [
        [f"{s.space}, {s.kind}", f"{s.spread:.2g}", f"{s.relative:.2g}", f"{s.cosine:.1e}"]
        + [f"{moved_by(samples, s.space, s.kind):.2f}", f"{s.separation:.2f}", f"{s.found:.0%}"]
        for space in SPACES
        for s in samples
        if s.level == worst and s.space == space
    ]
    columns = ["space, kind", "spread", f"rel. L2 at {worst}", f"cosine at {worst}"]
    return Table([*columns, "moved, mean", f"moved at {worst}", f"own found at {worst}"], rows)


def findings(samples: Sequence[Sample]) -> list[str]:
    """What the figures say about the claim."""
    moved = {space: moved_by(samples, space, MIX) for space in SPACES}
    lines = [
        "Under the mix, averaged over the levels, a picture moves by this share of the distance "
        "between two different clean pictures: "
        + ", ".join(f"{space} {share:.2f}" for space, share in moved.items())
        + "."
    ]
    steadier = moved[TOKENS] < moved[LATENTS]
    spread = next(s.spread for s in samples if s.space == TOKENS)
    lines.append(
        "The DCP tokens are "
        + ("steadier than" if steadier else "less steady than")
        + " the latents that the aggregator reads: the paper's reason for conditioning on compact "
        + ("features holds here." if steadier else "features does not hold here.")
    )
    ratio = moved[TOKENS] / moved[VISION]
    verb = "adds to" if ratio > 1.05 else "takes away from" if ratio < 0.95 else "hardly changes"
    lines.append(f"The resampler {verb} the movement of the vision features (factor {ratio:.2f}).")
    if spread < MUTE_SPREAD:
        lines.append(
            f"The tokens of two different pictures lie only {spread:.2g} of their length apart: "
            "nearly all of a token is the same for every picture, so that its steadiness says "
            "little about what it carries."
        )
    by_kind = {kind: moved_by(samples, TOKENS, kind) for kind in KINDS if kind != MIX}
    worst, best = max(by_kind, key=by_kind.__getitem__), min(by_kind, key=by_kind.__getitem__)
    lines.append(
        f"Of the single kinds, {worst} moves the tokens most ({by_kind[worst]:.2f}) and {best} "
        f"least ({by_kind[best]:.2f})."
    )
    found = [s.found for s in samples if s.space == TOKENS and s.kind == MIX]
    lines.append(
        f"Damaged pictures are nearest to their own clean tokens in {found[0]:.0%} of the cases at "
        f"level {LEVELS[0]} and in {found[-1]:.0%} at level {LEVELS[-1]}."
    )
    return lines


def moved_by(samples: Sequence[Sample], space: str, kind: str) -> float:
    """Mean separation over the levels."""
    return fmean(s.separation for s in samples if s.space == space and s.kind == kind)


def draw(samples: Sequence[Sample]) -> Figure:
    """Movement over the level, a panel for each kind."""
    figure, axes = panels(len(KINDS), shared=True)
    for panel, kind in zip(axes, KINDS, strict=True):
        for space, color in zip(SPACES, COLORS, strict=False):
            own = [s for s in samples if s.space == space and s.kind == kind]
            levels = [s.level for s in own]
            panel.plot(levels, [s.separation for s in own], "o-", color=color, label=space, ms=3)
        up = "moved (1 = to another picture)" if panel is axes[0] else ""
        label(panel, kind, "level of damage", up)
    axes[0].set_ylim(bottom=0)
    axes[0].legend(fontsize=8, frameon=False)
    return figure


STUDY = Study(
    name="dcp_robustness",
    title="DCP robustness",
    question="Do vision features and the DCP tokens made of them change less under damage than "
    "what the aggregator reads?",
    method="Each picture is damaged and placed in four spaces: latents, features of the vision "
    "encoder, tokens of the main network's resampler and of the previewer's. Given are the "
    "distance between two different clean pictures relative to their length (spread), the distance "
    "to the own clean picture relative to its length, 1 minus the cosine, the same distance "
    "relative to that between two different clean pictures (moved), which is comparable between "
    "spaces, and how often the nearest clean picture is the own one. Where "
    "the latent codec is a lossless rearrangement, as in nano, distances of latents are those of "
    "pixels. Different pictures differ mostly by coarse light and dark, which damage leaves "
    "alone: this comparison is kind to pixels.",
    pictures=24,
    sample=Sample,
    measure=measure,
    table=table,
    findings=findings,
    draw=draw,
)

if __name__ == "__main__":
    run([STUDY])
