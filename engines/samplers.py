"""Solver steps: x_t and an estimate of x0 to the next, less noisy latent. Pure functions.

Every signal share alpha-bar is a tensor that broadcasts against (B, C, h, w), so that each row of
a batch can stand at its own time step.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from engines.params import Sampler

LCM_SIGMA = 0.5
LCM_TIMESTEP_SCALE = 10.0
_MIN_VARIANCE = 1e-20


def ddpm_step(x0: Tensor, noisy: Tensor, now: Tensor, after: Tensor, noise: Tensor) -> Tensor:
    """Ancestral step (DDPM, arXiv 2006.11239 eq. 6-7, small variance); at after = 1 returns x0."""
    share = now / after
    mean = after.sqrt() * (1 - share) / (1 - now) * x0
    mean = mean + share.sqrt() * (1 - after) / (1 - now) * noisy
    variance = ((1 - after) / (1 - now) * (1 - share)).clamp(min=_MIN_VARIANCE)
    return mean + variance.sqrt() * noise


def ddim_step(x0: Tensor, noisy: Tensor, now: Tensor, after: Tensor, noise: Tensor) -> Tensor:
    """Deterministic step (DDIM, arXiv 2010.02502 eq. 12 with sigma 0); `noise` is not used."""
    del noise
    direction = (noisy - now.sqrt() * x0) / (1 - now).sqrt()
    return after.sqrt() * x0 + (1 - after).sqrt() * direction


SAMPLERS: Mapping[Sampler, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    Sampler.DDPM: ddpm_step,
    Sampler.DDIM: ddim_step,
}


def consistency_x0(x0: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """One-step LCM estimate with its boundary condition: at t = 0 the input itself.

    timesteps (B,); arXiv 2310.04378, discrete scalings with sigma_data 0.5.
    """
    scaled = (timesteps.to(torch.float32) * LCM_TIMESTEP_SCALE).view(-1, 1, 1, 1)
    total = scaled**2 + LCM_SIGMA**2
    skip, out = LCM_SIGMA**2 / total, scaled / total.sqrt()
    return out * x0 + skip * noisy
