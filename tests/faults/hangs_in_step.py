"""One restoration makes a step that never returns."""

import threading
from collections.abc import Sequence

from tests.faults.fake import FAULT, FakeRestorer, Restoration, StepInfo


class HangsInStep(FakeRestorer):
    def step(self, restorations: Sequence[Restoration]) -> list[StepInfo]:
        if any(r.params.prompt == FAULT for r in restorations):
            self.note("fault", batch=len(restorations))
            threading.Event().wait()
        return super().step(restorations)


def load(model: str) -> FakeRestorer:
    return HangsInStep(model)
