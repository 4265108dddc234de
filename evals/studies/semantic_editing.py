"""Does a prompt change the result as it says? `python -m evals.studies.semantic_editing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from evals.metrics import ssim
from evals.studies.command import run
from evals.studies.pictures import MIX, grid
from evals.studies.plots import COLORS, label, panels
from evals.studies.runs import restore_all
from evals.studies.study import Bench, Study, Table
from training.captions import DIRECTIONS, Measures, measure, movement

LEVEL = 0.4
WANTED_SHARE = 0.8  # of the pictures that should follow a word
WANTED_SSIM = 0.7  # to the result without a prompt
VISIBLE = 0.01  # movement of a measure, all of which lie in [0, 1]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one word did to the result of one picture."""

    picture: str
    word: str
    moved: float  # of the measure that the word speaks of, the way it asks for
    ssim: float  # to the result without a prompt


def measures_of(picture: Image.Image) -> Measures:
    """The measures that captions are made of."""
    return measure(np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255.0))


def measure_words(bench: Bench) -> list[Sample]:
    """Restore every picture without a prompt and with each word."""
    cases = grid(bench.tiles, [MIX], [LEVEL])
    damaged = [case.damaged for case in cases]
    plain = [done.result for done in restore_all(bench.restorer, damaged, bench.params())]
    found: list[Sample] = []
    for word in DIRECTIONS:
        prompted = restore_all(bench.restorer, damaged, bench.params(prompt=word))
        found += [
            Sample(
                picture=case.picture,
                word=word,
                moved=movement(word, measures_of(before), measures_of(done.result)),
                ssim=ssim(done.result, before),
            )
            for case, before, done in zip(cases, plain, prompted, strict=True)
        ]
    return found


def by_word(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples of each word."""
    return {word: [s for s in samples if s.word == word] for word in DIRECTIONS}


def followed(samples: Sequence[Sample]) -> float:
    """Share of the pictures that went the way the word asks for."""
    return fmean(s.moved > 0 for s in samples)


def table(samples: Sequence[Sample]) -> Table:
    """How each word is followed."""
    rows = [
        [word, f"{followed(own):.0%}", f"{fmean(s.moved > VISIBLE for s in own):.0%}"]
        + [f"{fmean(s.moved for s in own):+.4f}"]
        + [f"{fmean(s.ssim for s in own):.3f}", f"{min(s.ssim for s in own):.3f}"]
        for word, own in by_word(samples).items()
    ]
    heads = ["prompt", "followed", "visibly", "mean movement", "mean SSIM", "least SSIM"]
    return Table(heads, rows)


def findings(samples: Sequence[Sample]) -> list[str]:
    """What the figures say."""
    shares = {word: followed(own) for word, own in by_word(samples).items()}
    good = [word for word, share in shares.items() if share >= WANTED_SHARE]
    visible = fmean(s.moved > VISIBLE for s in samples)
    means = {word: fmean(s.ssim for s in own) for word, own in by_word(samples).items()}
    least = min(means, key=lambda word: means[word])
    kept = "Structure stays" if means[least] >= WANTED_SSIM else "Structure does not stay"
    below = [s for s in samples if s.ssim < WANTED_SSIM]
    return [
        f"{len(good)} of {len(shares)} words are followed on at least {WANTED_SHARE:.0%} of the "
        f"pictures{': ' + ', '.join(good) if good else ''}; all words together on "
        f"{followed(samples):.0%}.",
        f"The change is larger than {VISIBLE} of the measure's range on {visible:.0%}"
        + (": prompts are heard and hardly seen." if visible < WANTED_SHARE else "."),
        f"{kept}: the SSIM to the result without a prompt is {means[least]:.3f} on average for "
        f"the word that costs most ({least}; {WANTED_SSIM} is asked for). It is below on "
        f"{len(below)} of {len(samples)} results, of {len({s.picture for s in below})} pictures.",
    ]


def draw(samples: Sequence[Sample]) -> Figure:
    """Movement of every picture, by word."""
    figure, (panel,) = panels(1)
    for index, own in enumerate(by_word(samples).values()):
        across = np.linspace(index - 0.3, index + 0.3, max(2, len(own)))[: len(own)]
        panel.scatter(across, [s.moved for s in own], s=14, color=COLORS[0], alpha=0.8)
    panel.set_xticks(range(len(DIRECTIONS)), list(DIRECTIONS), rotation=30, ha="right")
    panel.axhline(0, color="black", linewidth=0.8)
    label(panel, "each point a picture", "prompt", "movement the way the word asks for")
    return figure


STUDY = Study(
    name="semantic_editing",
    title="Semantic editing",
    question="Does a prompt steer the result the way it says, and does structure stay?",
    method=f"Every picture is damaged by the mix at level {LEVEL} and restored without a prompt "
    "and with each word as prompt. Movement is the change of the measure that the word speaks of "
    "(mean luma, chroma, red minus blue, spread of the luma), counted the way it asks for.",
    pictures=24,
    sample=Sample,
    measure=measure_words,
    table=table,
    findings=findings,
    draw=draw,
)

if __name__ == "__main__":
    run([STUDY])
