"""What a recipe needs, without weights: `python -m training.dry_run [--preset paper]`.

Every stage runs one forward pass on the meta device, which checks every shape, and what it keeps
for the backward pass is counted.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.weak import WeakIdKeyDictionary

from engines.folder import read_folder
from training import sdxl
from training.data import Batch
from training.run import Step
from training.stages import RECIPES, Recipe, Stage
from training.trainee import Part, Trainee

FROZEN_BYTES = 4  # float32, as the trainer keeps them; autocast makes the copies it needs
TRAINED_BYTES = 4 * 5  # float32: weight, gradient, two moments, running average
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Need:
    """What one stage needs on each GPU."""

    stage: str
    trained: int  # parameters
    frozen: int
    saved_bytes: int  # activations kept for the backward pass of one batch, 16 bits each

    @property
    def memory_bytes(self) -> int:
        """Weights, optimizer and activations; temporary buffers come on top."""
        return self.trained * TRAINED_BYTES + self.frozen * FROZEN_BYTES + self.saved_bytes


def needs(recipe: Recipe, *, checkpointing: bool) -> list[Need]:
    """The needs of every stage of a recipe."""
    configure = recipe.configure or sdxl.write_configs
    with tempfile.TemporaryDirectory() as place, torch.device("meta"):
        configure(Path(place))
        trainee = Trainee(read_folder(Path(place)), recipe.rank, recipe.alpha)
    if checkpointing:
        trainee.checkpoint_gradients()
    return [_need(trainee, recipe, stage) for stage in recipe.stages]


def _need(trainee: Trainee, recipe: Recipe, stage: Stage) -> Need:
    counts = {True: 0, False: 0}
    for part in Part:
        trains = stage.trains.get(part, 0.0) > 0
        for parameter in trainee.parameters_of(part).values():
            parameter.requires_grad_(trains)
            counts[trains] += parameter.numel()
    kept, pack = _counter(trainee)
    pixels = torch.empty(stage.batch, 3, stage.crop_px, stage.crop_px, device="meta")
    rows = stage.batch
    batch = Batch(pixels, pixels, [""] * rows, [0.0] * rows)
    setting = stage.setting(recipe.size_px)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        outcome = Step(trainee)(stage, setting, batch, (0,))
    if outcome.loss.shape != ():
        raise ValueError(f"stage {stage.name}: loss of shape {tuple(outcome.loss.shape)}")
    return Need(stage.name, counts[True], counts[False], sum(kept.values()))


def _counter(trainee: Trainee) -> tuple[WeakIdKeyDictionary, Callable[[Tensor], Tensor]]:
    """Sizes of the storages that the backward pass keeps, other than parameters."""
    own = {parameter.untyped_storage()._cdata for parameter in trainee.parameters()}
    kept = WeakIdKeyDictionary()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor] = 2 * tensor.numel()
        return tensor

    return kept, pack


def table(found: list[Need]) -> str:
    """Markdown table of needs."""
    lines = [
        "| stage | trained | frozen | activations | weights, optimizer and activations |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {need.stage} | {need.trained / 1e6:,.1f} M | {need.frozen / 1e6:,.1f} M"
        f" | {need.saved_bytes / GIB:,.1f} GiB | {need.memory_bytes / GIB:,.1f} GiB |"
        for need in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.dry_run", description=__doc__)
    parser.add_argument("--preset", choices=sorted(RECIPES), default="paper")
    parser.add_argument("--no-gradient-checkpointing", action="store_true")
    options = parser.parse_args()
    found = needs(RECIPES[options.preset], checkpointing=not options.no_gradient_checkpointing)
    sys.stdout.write(table(found) + "\n")


if __name__ == "__main__":
    main()
