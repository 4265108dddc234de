"""One restoration gets the process killed, as the out-of-memory killer would."""

import os
import signal
from collections.abc import Sequence

from tests.faults.fake import FAULT, FakeRestorer, Restoration, StepInfo


class KilledInStep(FakeRestorer):
    def step(self, restorations: Sequence[Restoration]) -> list[StepInfo]:
        if any(r.params.prompt == FAULT and r.step == 1 for r in restorations):
            self.note("fault", batch=len(restorations))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(restorations)


def load(model: str) -> FakeRestorer:
    return KilledInStep(model)
