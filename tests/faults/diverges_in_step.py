"""The figures of a step are no numbers any more."""

from collections.abc import Sequence
from dataclasses import replace

from tests.faults.fake import FakeRestorer, Restoration, StepInfo


class DivergesInStep(FakeRestorer):
    def step(self, restorations: Sequence[Restoration]) -> list[StepInfo]:
        wild = {"reference_variance": float("nan"), "adaptive_factor": float("inf")}
        return [replace(info, **wild) for info in super().step(restorations)]


def load(model: str) -> FakeRestorer:
    return DivergesInStep(model)
