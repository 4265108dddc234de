"""The random part of a training step, drawn from a seeded generator."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from engines.schedule import TRAIN_STEPS


@dataclass(frozen=True, slots=True)
class Chances:
    """Shares of the rows of a batch to which something happens; each 0 to 1."""

    drop_text: float = 0.0
    drop_vision: float = 0.0
    drop_both: float = 0.0  # exclusive of the two above, as in the official trainers
    drop_residuals: float = 0.0  # the main network does without the aggregator
    degraded_start: float = 0.0  # the degraded latent is noised instead of the clean one
    rollout: float = 0.0  # an own earlier estimate is noised, as in later steps of sampling
    small_share: float = 0.0  # time steps drawn from 1 to `small_steps`
    small_steps: int = 1
    steps: int = TRAIN_STEPS - 1  # the other time steps are drawn from 1 to this


@dataclass(frozen=True, slots=True)
class Draw:
    """What was drawn for the rows of a batch; masks are bool (B,)."""

    timesteps: Tensor  # (B,) int64, 1 to 999
    noise: Tensor  # (B, C, h, w)
    guidance: Tensor  # (B,) in [0, 1), where between its bounds the teacher's scale lies
    drop_text: Tensor
    drop_vision: Tensor
    drop_residuals: Tensor
    degraded_start: Tensor
    rollout: Tensor


def draw(generator: torch.Generator, shape: torch.Size, chances: Chances) -> Draw:
    """Draw a step's randomness for latents of `shape`, on the CPU."""
    rows = shape[0]

    def uniform() -> Tensor:
        return torch.rand(rows, generator=generator)

    limit = torch.where(uniform() < chances.small_share, chances.small_steps, chances.steps)
    timesteps = 1 + (uniform() * limit).long()
    # One number decides what is dropped, so that the three cases exclude each other.
    dropped = uniform()
    vision = dropped < chances.drop_vision
    text = ~vision & (dropped < chances.drop_vision + chances.drop_text)
    both = ~(vision | text) & (
        dropped < chances.drop_vision + chances.drop_text + chances.drop_both
    )
    return Draw(
        timesteps=timesteps,
        noise=torch.randn(shape, generator=generator),
        guidance=uniform(),
        drop_text=text | both,
        drop_vision=vision | both,
        drop_residuals=uniform() < chances.drop_residuals,
        degraded_start=uniform() < chances.degraded_start,
        rollout=uniform() < chances.rollout,
    )


def on_device(chance: Draw, device: torch.device) -> Draw:
    """The draw moved to a device, but for the text's, whose prompts are chosen on the CPU."""
    moved = {field.name: getattr(chance, field.name).to(device) for field in fields(chance)}
    return Draw(**{**moved, "drop_text": chance.drop_text})


def per_row(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Rows of `yes` where the mask (B,) holds, of `no` elsewhere."""
    return torch.where(mask.view(-1, *(1,) * (yes.ndim - 1)), yes, no)
