"""Does busy content gain less? `python -m evals.studies.content_complexity`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from evals.metrics import psnr, ssim
from evals.studies.command import run
from evals.studies.pictures import MIX, grid
from evals.studies.plots import COLORS, label, panels
from evals.studies.ranks import in_words, rank_correlation
from evals.studies.runs import restore_all
from evals.studies.study import Bench, Study, Table

LEVEL = 0.5
JPEG_QUALITY = 90
PARTS = ("plain", "medium", "busy")


@dataclass(frozen=True, slots=True)
class Sample:
    """How busy a clean picture is, and what restoring its damaged twin gave."""

    picture: str
    gradient: float  # mean squared gradient of the luma, 8-bit levels per pixel
    bits: float  # of JPEG at quality 90, per pixel
    input_psnr: float
    input_ssim: float
    result_psnr: float
    result_ssim: float

    @property
    def psnr_gain(self) -> float:
        """Of the result over the input, in dB."""
        return self.result_psnr - self.input_psnr

    @property
    def ssim_gain(self) -> float:
        """Of the result over the input."""
        return self.result_ssim - self.input_ssim


def gradient_energy(picture: Image.Image) -> float:
    """Mean squared gradient of the luma."""
    luma = np.asarray(picture.convert("L"), dtype=np.float64)
    down, across = np.gradient(luma)
    return float(np.mean(down**2 + across**2))


def jpeg_bits(picture: Image.Image) -> float:
    """Bits per pixel of the picture as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return 8 * buffer.tell() / (picture.width * picture.height)


def measure(bench: Bench) -> list[Sample]:
    """Restore every picture under the mix at the medium level."""
    cases = grid(bench.tiles, [MIX], [LEVEL])
    runs = restore_all(bench.restorer, [case.damaged for case in cases], bench.params())
    return [
        Sample(
            picture=case.picture,
            gradient=gradient_energy(case.clean),
            bits=jpeg_bits(case.clean),
            input_psnr=psnr(case.damaged, case.clean),
            input_ssim=ssim(case.damaged, case.clean),
            result_psnr=psnr(done.result, case.clean),
            result_ssim=ssim(done.result, case.clean),
        )
        for case, done in zip(cases, runs, strict=True)
    ]


def thirds(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples in three parts of equal size by gradient energy."""
    ordered = sorted(samples, key=lambda s: s.gradient)
    count = len(ordered)
    return {
        part: ordered[count * index // len(PARTS) : count * (index + 1) // len(PARTS)]
        for index, part in enumerate(PARTS)
    }


def table(samples: Sequence[Sample]) -> Table:
    """Input and gain of plain, medium and busy pictures."""
    rows = [
        [part, str(len(own)), f"{fmean(s.gradient for s in own):.0f}"]
        + [f"{fmean(s.bits for s in own):.2f}", f"{fmean(s.input_psnr for s in own):.2f}"]
        + [f"{fmean(s.psnr_gain for s in own):+.2f}", f"{fmean(s.ssim_gain for s in own):+.4f}"]
        for part, own in thirds(samples).items()
        if own
    ]
    columns = ["content", "pictures", "gradient energy", "JPEG bits", "input PSNR"]
    return Table([*columns, "PSNR gain", "SSIM gain"], rows)


def findings(samples: Sequence[Sample]) -> list[str]:
    """What the figures say."""
    gains = {"PSNR": [s.psnr_gain for s in samples], "SSIM": [s.ssim_gain for s in samples]}
    measures = {
        "gradient energy": [s.gradient for s in samples],
        "JPEG size": [s.bits for s in samples],
    }
    lines: list[str] = []
    for name, values in measures.items():
        found = {metric: rank_correlation(values, own) for metric, own in gains.items()}
        lines.append(
            f"Between the {name} of the clean picture and the gain in PSNR there is "
            f"{in_words(found['PSNR'])} rank correlation ({found['PSNR']:.2f}); for the gain in "
            f"SSIM {in_words(found['SSIM'])} rank correlation ({found['SSIM']:.2f})."
        )
    before = rank_correlation(measures["gradient energy"], [s.input_psnr for s in samples])
    lines.append(
        f"The same damage costs busy pictures more to begin with: gradient energy against the "
        f"input's PSNR {before:.2f}."
        if before < 0
        else f"Busy pictures do not start from a lower PSNR (rank correlation {before:.2f})."
    )
    better = sum(s.psnr_gain > 0 for s in samples) / len(samples)
    lines.append(
        f"PSNR rises on {better:.0%} of the pictures, by {fmean(gains['PSNR']):+.2f} dB on average."
    )
    return lines


def draw(samples: Sequence[Sample]) -> Figure:
    """Gain over both measures of complexity."""
    figure, (left, right) = panels(2)
    gains = [s.psnr_gain for s in samples]
    left.scatter([s.gradient for s in samples], gains, s=14, color=COLORS[0], alpha=0.8)
    left.set_xscale("log")
    right.scatter([s.bits for s in samples], gains, s=14, color=COLORS[1], alpha=0.8)
    for panel, across in (
        (left, "gradient energy of the clean picture"),
        (right, "bits a pixel of the clean picture as JPEG"),
    ):
        panel.axhline(0, color="black", linewidth=0.8)
        label(panel, "each point a picture", across, "PSNR gain, dB")
    return figure


STUDY = Study(
    name="content_complexity",
    title="Content complexity",
    question="Does fidelity gain less, or more, where the content is busy?",
    method=f"Every picture is damaged by the mix at level {LEVEL} and restored; the gain over the "
    "damaged picture is set against two measures of the clean one: gradient energy, and its size "
    f"as JPEG of quality {JPEG_QUALITY}. The table has three equal parts by gradient energy.",
    pictures=96,
    sample=Sample,
    measure=measure,
    table=table,
    findings=findings,
    draw=draw,
)

if __name__ == "__main__":
    run([STUDY])
