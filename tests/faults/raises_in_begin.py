"""The engine refuses a parameter or a picture when it encodes."""

from PIL import Image

from tests.faults.fake import FAULT, FakeRestorer, Params, Restoration


class RaisesInBegin(FakeRestorer):
    def begin(self, image: Image.Image, params: Params) -> Restoration:
        if params.prompt == FAULT:
            raise ValueError("prompt is 'fault'; the limit is none of these")
        return super().begin(image, params)


def load(model: str) -> FakeRestorer:
    return RaisesInBegin(model)
