"""Train a model in the paper's stages: `python -m training.train --preset nano --photos FOLDER`.

Resumable: the state is written every few minutes and read back from `--state` when present.
`accelerate launch -m training.train ...` runs it on several GPUs.
"""

import argparse
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from engines.folder import read_folder
from training.data import Batch, PatchSource
from training.objectives import Outcome
from training.run import Run
from training.stages import RECIPES

VALIDATION_EVERY = 12  # photographs, of which one is never trained on
VALIDATION_BATCHES = 4
VALIDATION_ROWS = 16
PRINT_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Places:
    """What a run reads and writes, and how often it saves."""

    photos: Path
    out: Path
    save_every_s: float


def split(photos: Path) -> tuple[frozenset[str], frozenset[str]]:
    """Photographs to train on and, one in every twelve, to validate on: their file names."""
    names = sorted(path.name for path in photos.iterdir())
    validation = frozenset(names[VALIDATION_EVERY // 2 :: VALIDATION_EVERY])
    return frozenset(names) - validation, validation


def train(run: Run, places: Places) -> None:
    """Train every stage that is left, printing what it gains once a minute."""
    run.begin()
    while not run.done:
        train_stage(run, places)
        run.next_stage()
        run.save()
    run.export(places.out)


def train_stage(run: Run, places: Places) -> None:
    """Train the rest of the current stage."""
    stage, recipe = run.stage, run.recipe
    trained_on, validated_on = split(places.photos)
    unseen = PatchSource(
        places.photos,
        seed=2,
        crop_px=stage.crop_px,
        config=recipe.degradation,
        held_out=trained_on,
        edit_share=stage.edit_share,
    )
    validation = [
        unseen.batch(i, min(VALIDATION_ROWS, stage.batch)) for i in range(VALIDATION_BATCHES)
    ]
    source = PatchSource(
        places.photos,
        seed=1 + run.accelerator.process_index,
        crop_px=stage.crop_px,
        config=recipe.degradation,
        held_out=validated_on,
        edit_share=stage.edit_share,
    )
    batches = source.batches(run.iteration, stage.batch)
    reporter = _Reporter(run, validation)
    saved = time.monotonic()
    for batch in itertools.islice(batches, stage.iterations - run.iteration):
        reporter.add(run.step(batch))
        if time.monotonic() - saved > places.save_every_s:
            run.save()
            run.export(places.out)
            reporter.validate()
            saved = time.monotonic()
    batches.close()
    reporter.validate()


class _Reporter:
    """Prints and logs means of what the steps of a stage gave."""

    def __init__(self, run: Run, validation: list[Batch]) -> None:
        self.run, self.validation = run, validation
        self.rows: list[tuple[float, float, float]] = []
        self.printed = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Take in one step."""
        self.rows.append((float(outcome.loss.detach()), outcome.preview_db, outcome.main_db))
        if time.monotonic() - self.printed > PRINT_EVERY_S:
            loss, preview, main = torch.tensor(self.rows).nanmean(0).tolist()
            self._tell("training", loss, preview, main)
            self.rows, self.printed = [], time.monotonic()

    def validate(self) -> None:
        """Measure the averaged weights."""
        self._tell("validation", *self.run.validate(self.validation))

    def _tell(self, what: str, loss: float, preview: float, main: float) -> None:
        run = self.run
        if not run.accelerator.is_main_process:
            return
        sys.stdout.write(
            f"{run.stage.name:12s} {run.iteration:6d}/{run.stage.iterations}  {what:10s}"
            f"  loss {loss:.5f}  preview {preview:+.3f} dB  main {main:+.3f} dB\n"
        )
        sys.stdout.flush()
        figures = {"loss": loss, "preview_db": preview, "main_db": main}
        values = {f"{run.stage.name}/{what}/{name}": value for name, value in figures.items()}
        run.accelerator.log(values, step=run.iteration)


def native_precision(*, cpu: bool) -> str:
    """bf16 where the device has instructions for it: emulated, it takes 20 times as long."""
    if not cpu and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    instructions = torch.cpu.get_capabilities()
    return "bf16" if instructions.get("amx_bf16") or instructions.get("avx512_bf16") else "no"


def main() -> None:
    """Command line."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    recipe = RECIPES[options.preset]
    if options.first_stage is not None:
        recipe = recipe.beginning_with(options.first_stage)
    accelerator = Accelerator(
        cpu=options.cpu,
        mixed_precision=options.mixed_precision or native_precision(cpu=options.cpu),
        log_with="tensorboard" if options.log_dir else None,
        project_dir=options.log_dir,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if options.log_dir:
        accelerator.init_trackers(options.preset)
    if recipe.configure is not None and accelerator.is_main_process:
        recipe.configure(options.out)
    accelerator.wait_for_everyone()
    folder = read_folder(options.model or options.out)
    run = Run(recipe, folder, options.state, accelerator)
    if options.model is not None:
        run.start_from(options.model)
    if options.gradient_checkpointing:
        run.trainee.checkpoint_gradients()
    train(run, Places(options.photos, options.out, options.save_every_s))
    accelerator.end_training()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--preset", choices=sorted(RECIPES), default="nano")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--state", type=Path, required=True, help="where the run is kept")
    parser.add_argument("--model", type=Path, help="model folder whose weights to begin with")
    parser.add_argument("--first-stage", help="leave out the stages before this one")
    parser.add_argument(
        "--mixed-precision", choices=("no", "bf16", "fp16"), help="the device's own without"
    )
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--log-dir", type=Path, help="write TensorBoard logs there")
    parser.add_argument("--save-every-s", type=float, default=300.0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--cpu", action="store_true", help="use no GPU")
    return parser


if __name__ == "__main__":
    main()
