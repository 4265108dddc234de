"""Rank correlation (Spearman) and the words for it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import fmean

import numpy as np
from scipy.stats import rankdata


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's rank correlation, -1 to 1; NaN where one side has a single value only."""
    if len(xs) != len(ys) or len(xs) < 2:
        raise ValueError(f"need two or more pairs, got {len(xs)} and {len(ys)} values")
    if len(set(xs)) == 1 or len(set(ys)) == 1:
        return math.nan
    return float(np.corrcoef(rankdata(xs), rankdata(ys))[0, 1])


def mean_within(groups: Sequence[Hashable], xs: Sequence[float], ys: Sequence[float]) -> float:
    """Mean rank correlation within each group, so that differences between groups do not count."""
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    each = [
        rank_correlation([xs[i] for i in own], [ys[i] for i in own]) for own in members.values()
    ]
    return fmean(each)


def in_words(correlation: float) -> str:
    """How strongly two things go together, for a sentence."""
    if math.isnan(correlation):
        return "undefined"
    size = abs(correlation)
    if size < 0.2:
        return "no"
    strength = "a strong" if size >= 0.7 else "a moderate" if size >= 0.4 else "a weak"
    return f"{strength} {'positive' if correlation > 0 else 'negative'}"
