"""One restoration makes every step raise that holds it."""

from collections.abc import Sequence

from tests.faults.fake import FAULT, FakeRestorer, Restoration, StepInfo


class RaisesInStep(FakeRestorer):
    def step(self, restorations: Sequence[Restoration]) -> list[StepInfo]:
        if any(r.params.prompt == FAULT and r.step == 1 for r in restorations):
            self.note("fault", batch=len(restorations))
            raise ArithmeticError("the latents are not finite")
        return super().step(restorations)


def load(model: str) -> FakeRestorer:
    return RaisesInStep(model)
