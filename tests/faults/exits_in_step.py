"""A library ends the process, as a broken device context makes some do."""

import os
from collections.abc import Sequence

from tests.faults.fake import FAULT, FakeRestorer, Restoration, StepInfo


class ExitsInStep(FakeRestorer):
    def step(self, restorations: Sequence[Restoration]) -> list[StepInfo]:
        if any(r.params.prompt == FAULT for r in restorations):
            self.note("fault", batch=len(restorations))
            os._exit(7)
        return super().step(restorations)


def load(model: str) -> FakeRestorer:
    return ExitsInStep(model)
