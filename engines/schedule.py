"""Noise schedule and time steps (SDXL's, as diffusers' schedulers compute them); pure functions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

TRAIN_STEPS = 1000


def alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """Signal share alpha-bar of every training step, float32 (1000,); "scaled_linear" betas.

    Raises ValueError on another beta schedule.
    """
    if config["beta_schedule"] != "scaled_linear":
        raise ValueError(f"beta_schedule is {config['beta_schedule']!r}, known: 'scaled_linear'")
    start, end = config["beta_start"] ** 0.5, config["beta_end"] ** 0.5
    steps = config.get("num_train_timesteps", TRAIN_STEPS)
    betas = torch.linspace(start, end, steps, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def leading_timesteps(steps: int, offset: int = 1, start: int = TRAIN_STEPS) -> tuple[int, ...]:
    """`steps` time steps, largest first, "leading" spacing: 30 steps start at 958, not 999.

    `start` shortens the schedule to its first time steps (the official command line's
    `--denoising_start`). As published, 1000 steps begin one past the end of the schedule.
    """
    if not 1 <= steps <= start:
        raise ValueError(f"steps is {steps}, allowed: 1 to {start}")
    ratio = start // steps
    return tuple(i * ratio + offset for i in reversed(range(steps)))


def previous_timesteps(
    timesteps: tuple[int, ...], *, custom: bool, start: int = TRAIN_STEPS
) -> tuple[int, ...]:
    """Where each step lands; negative means "clean".

    Custom lists step from entry to entry; a regular schedule always strides by start // steps.
    """
    if custom:
        return (*timesteps[1:], -1)
    stride = start // len(timesteps)
    return tuple(t - stride for t in timesteps)


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Forward process q(x_t | x_0); alpha_bar broadcasts against (B, C, h, w)."""
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
