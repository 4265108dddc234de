"""All metrics that can be computed on this machine, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from evals import learned, metrics
from evals.metrics import Metric, Picture
from evals.mobilenet import load_mbv2_distance
from evals.no_reference import Blind, load_brisque, load_piqe
from evals.optional import NotPresentError

Scores = dict[str, float]

# In the order of the table; a loader raises NotPresentError.
OPTIONAL_WITH_REFERENCE: Mapping[str, Callable[[], Metric]] = {
    "mbv2_distance": load_mbv2_distance,
    **{name: partial(learned.load_learned, name) for name in learned.WITH_REFERENCE},
}
OPTIONAL_WITHOUT_REFERENCE: Mapping[str, Callable[[], Blind]] = {
    "piqe": load_piqe,
    "brisque": load_brisque,
    **{name: partial(learned.load_learned, name) for name in learned.WITHOUT_REFERENCE},
}
LOW_IS_GOOD = metrics.LOW_IS_GOOD | {"mbv2_distance", "piqe", "brisque"} | learned.LOW_IS_GOOD


@dataclass(frozen=True, slots=True)
class Panel:
    """Metrics by name: `full` compare with the original, `blind` look at the picture alone."""

    full: Mapping[str, Metric]
    blind: Mapping[str, Blind]
    missing: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all metrics in the order of the table."""
        return (*self.full, *self.blind)

    def score(self, picture: Picture, original: Picture) -> Scores:
        """Measure a result against its original."""
        with_reference = {name: metric(picture, original) for name, metric in self.full.items()}
        return with_reference | self.score_alone(picture)

    def score_alone(self, picture: Picture) -> Scores:
        """Measure what needs no original."""
        return {name: metric(picture) for name, metric in self.blind.items()}


def load_panel() -> Panel:
    """Load every metric that is present; the others are in `missing` with the reason."""
    full: dict[str, Metric] = dict(metrics.METRICS)
    blind: dict[str, Blind] = {}
    missing: dict[str, str] = {}
    for name, load in OPTIONAL_WITH_REFERENCE.items():
        try:
            full[name] = load()
        except NotPresentError as error:
            missing[name] = str(error)
    for name, load in OPTIONAL_WITHOUT_REFERENCE.items():
        try:
            blind[name] = load()
        except NotPresentError as error:
            missing[name] = str(error)
    return Panel(full, blind, missing)
