"""The torch-free engine with steps that take time: jobs last while processes come and go."""

import threading
from collections.abc import Sequence

from tests.faults.fake import FakeRestorer, Restoration, StepInfo

_STEP_S = 0.04


class Paced(FakeRestorer):
    def step(self, restorations: Sequence[Restoration]) -> list[StepInfo]:
        threading.Event().wait(_STEP_S)
        return super().step(restorations)


def load(model: str) -> FakeRestorer:
    return Paced(model)
