"""The tiny recipe's model, a batch for it, and runs of single stages."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from engines.folder import ModelFolder, read_folder
from training.data import Batch, PatchSource
from training.nano import write_tiny_configs
from training.run import Run
from training.stages import TINY, Stage
from training.train import VALIDATION_EVERY
from training.trainee import Trainee

SIDE_PX = 32

MakeRun = Callable[..., Run]


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _same_random_numbers_afterwards() -> Iterator[None]:
    """A run seeds torch's global generator."""
    with torch.random.fork_rng():
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pictures, just enough for one to validate on."""
    photos = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for index in range(VALIDATION_EVERY):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((128, 128), Image.Resampling.BICUBIC).save(photos / f"{index:02}.png")
    return photos


@pytest.fixture(scope="session")
def batch(photos: Path) -> Batch:
    """Two crops."""
    return PatchSource(photos, seed=1, crop_px=SIDE_PX).batch(0, 2)


@pytest.fixture(scope="session")
def edits(photos: Path) -> Batch:
    """Two crops edited as their captions say."""
    return PatchSource(photos, seed=1, crop_px=SIDE_PX, edit_share=1.0).batch(0, 2)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """Configuration of the tiny model."""
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_configs(path)
    return read_folder(path)


@pytest.fixture
def trainee(tiny_folder: ModelFolder) -> Trainee:
    """The tiny model with weights of its own, the previewer's update included."""
    torch.manual_seed(0)
    trainee = Trainee(tiny_folder, rank=4, alpha=4.0)
    shake(trainee)
    return trainee


@pytest.fixture
def make_run(tiny_folder: ModelFolder, tmp_path: Path) -> MakeRun:
    """A function (stages, state folder) -> Run on the tiny model."""

    def make(*stages: Stage, state: Path | None = None) -> Run:
        recipe = replace(TINY, stages=stages or TINY.stages)
        return Run(recipe, tiny_folder, state or tmp_path / "state", Accelerator(cpu=True))

    return make


@torch.no_grad()
def shake(trainee: Trainee) -> None:
    """Give values to what training starts at zero."""
    head = trainee.denoiser.unet.conv_out.weight
    head.copy_(0.05 * normal(*head.shape))
    for index, up in enumerate(trainee.lora.up):
        up.copy_(0.1 * normal(*up.shape, seed=index))
