"""Classifier-free guidance and the aggregator's schedule. Pure functions."""

import torch
from torch import Tensor

AGGREGATOR_THRESHOLD = 0.1
SETTLED_SHARE = 0.1  # of what parts estimate and reference: less movement is standing still
_TINY = 1e-12


def inside(step: int, steps: int, start: float, end: float) -> bool:
    """Whether step (0-based) of steps lies within the shares [start, end] of the run."""
    return step / steps >= start and (step + 1) / steps <= end


def guide(negative: Tensor, positive: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): extrapolate away from the negative half."""
    return negative + scale * (positive - negative)


def rescale(guided: Tensor, positive: Tensor, share: float) -> Tensor:
    """Pull the guided prediction's spread back to the positive half's (arXiv 2305.08891, 3.4)."""
    axes = tuple(range(1, guided.ndim))
    ratio = positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True).clamp(
        min=_TINY
    )
    return share * (guided * ratio) + (1 - share) * guided


def aggregator_scale(factor: Tensor, ceiling: float, on: bool) -> Tensor:
    """Scale of the aggregator's residuals: the adaptive factor between 0 and `ceiling`, or 0."""
    return factor.clamp(0.0, ceiling) * float(on)


def runs_aggregator(scale: Tensor) -> Tensor:
    """Rows whose aggregator (and previewer) run; (B,) bool.

    Decided for each restoration alone: the official pipeline decides for a whole batch at once,
    which makes results depend on who else is in the batch.
    """
    return scale.flatten() > AGGREGATOR_THRESHOLD


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Sum of squares over everything but the batch, (B,)."""
    return (a.float() - b.float()).pow(2).flatten(1).sum(dim=1)


def settled(moved: float, apart: float) -> bool:
    """Whether a reference that moved so far needs no renewal: what it lacks, the estimate adds.

    Both are mean squares: of the reference's last movement, and of what parts estimate and
    reference. The official factor is `apart / moved`: a settled reference has one of 10 or more.
    """
    return moved <= SETTLED_SHARE * apart


def adaptive_factor(reference: Tensor, last_reference: Tensor, x0: Tensor) -> Tensor:
    """Official adaptive factor, (B, 1, 1, 1): how far x0 is from the reference over its step.

    A reference that stands still means "no information": the factor is infinite and the next
    step's ceiling decides.
    """
    moved = squared_distance(reference, last_reference)
    ratio = squared_distance(reference, x0) / moved
    ratio = torch.where(moved > 0, ratio, torch.full_like(ratio, torch.inf))
    return ratio.view(-1, 1, 1, 1)
