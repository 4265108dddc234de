"""Decoding needs more memory than there is."""

from PIL import Image

from tests.faults.fake import FAULT, FakeRestorer, Restoration


class OutOfMemoryInFinish(FakeRestorer):
    def finish(self, restoration: Restoration) -> Image.Image:
        if restoration.params.prompt == FAULT:
            raise MemoryError("cannot allocate the picture")
        return super().finish(restoration)


def load(model: str) -> FakeRestorer:
    return OutOfMemoryInFinish(model)
