"""The model folder is damaged: loading it raises."""

from tests.faults.fake import FakeRestorer


def load(model: str) -> FakeRestorer:
    raise OSError(f"{model}/unet: the weights are damaged")
