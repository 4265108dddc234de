"""The command line that every study shares."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import engines
from engines.presets import DEFAULT_PRESET
from evals.studies.pictures import load_tiles
from evals.studies.report import Setup, read, settled, write
from evals.studies.study import Bench, Study

DEFAULT_PHOTOS = Path("../shared/photos/test")
DEFAULT_OUT = Path("docs/studies")


def run(studies: Sequence[Study[Any]], argv: Sequence[str] | None = None) -> None:
    """Do studies one after the other as the command line says; the model is loaded once."""
    options = parser().parse_args(argv)
    restorer = None if options.redraw else engines.load(options.model)
    for study in studies:
        if restorer is None:
            setup, samples = read(study, options.out)
        else:
            count = options.pictures or study.pictures
            bench = Bench(restorer, load_tiles(options.photos, count), options.preset)
            setup, samples = measure(study, bench)
        write(study, setup, samples, options.out)
        sys.stdout.write(f"{study.title} ({setup.seconds:.0f} s)\n")
        sys.stdout.write(study.table(samples).to_markdown() + "\n")
        sys.stdout.write("".join(f"- {line}\n" for line in study.findings(samples)) + "\n")
        sys.stdout.flush()


def measure(study: Study[Any], bench: Bench) -> tuple[Setup, list[Any]]:
    """Take a study's samples, and note with what."""
    began = time.process_time()
    samples = settled(study, study.measure(bench))
    setup = Setup(
        model=Path(bench.restorer.name).name,  # a folder's place is nobody's business
        fingerprint=bench.restorer.fingerprint,
        preset=bench.preset or DEFAULT_PRESET,
        pictures=len(bench.tiles),
        seconds=time.process_time() - began,
    )
    return setup, samples


def parser() -> argparse.ArgumentParser:
    """The options of every study."""
    made = argparse.ArgumentParser(description="Studies of a model, with plots.")
    made.add_argument("--model", default="nano", help="name of a packaged model, or a folder")
    made.add_argument("--photos", type=Path, default=DEFAULT_PHOTOS, help="folder with hq/*.png")
    made.add_argument("--out", type=Path, default=DEFAULT_OUT, help="where JSON and plots go")
    made.add_argument("--preset", help="preset of the model; its default without")
    made.add_argument("--pictures", type=int, help="number of pictures; the study's own without")
    made.add_argument(
        "--redraw", action="store_true", help="plots and text anew from the JSON, no measurement"
    )
    return made
