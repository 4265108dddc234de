"""Networks stored in ncnn's format, run by torch.

A network is two files: ``.param`` lists its layers in order, one a line (type, name, numbers of
inputs and outputs, their names, then ``key=value`` settings; a key of -23300 - n marks the list n),
and ``.bin`` holds the weights of those layers back to back. Only what the super-resolution
networks of Real-ESRGAN use is understood; anything else raises ValueError at load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAGIC = "7767517"
HALF_PRECISION = 0x01306B47  # the tag before weights stored as float16; 0 before float32
LIST_KEY = -23300
LEAKY_RELU = 2

Operation = Callable[[Sequence[Tensor]], Tensor]
Settings = Mapping[int, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation; a Split gives the same tensor to all its outputs."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operation: Operation


@dataclass(frozen=True, slots=True)
class NcnnGraph:
    """Layers in the order of execution, from the blob ``data`` to the blob ``output``."""

    layers: tuple[Layer, ...]

    def __call__(self, picture: Tensor) -> Tensor:
        """Run a (B, 3, H, W) picture with values in 0..1; the result may exceed that range."""
        uses: dict[str, int] = {}
        for layer in self.layers:
            for name in layer.inputs:
                uses[name] = uses.get(name, 0) + 1
        blobs = {"data": picture}
        for layer in self.layers:
            result = layer.operation([blobs[name] for name in layer.inputs])
            for name in layer.inputs:
                uses[name] -= 1
                if not uses[name]:
                    del blobs[name]  # a dense network keeps hundreds of them otherwise
            blobs.update(dict.fromkeys(layer.outputs, result))
        return blobs["output"]


class WeightReader:
    """Reads arrays one after the other from the bytes of a ``.bin``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int, kind: type[np.generic] = np.float32) -> Tensor:
        """Return the next `count` numbers as float32; ValueError where the file ends before."""
        length = count * np.dtype(kind).itemsize
        if self._at + length > len(self._data):
            raise ValueError(f"weights end at {len(self._data)} bytes, {self._at + length} needed")
        values = np.frombuffer(self._data, kind, count, self._at)
        self._at += length + -length % 4
        return torch.from_numpy(values.astype(np.float32))

    def take_tagged(self, count: int) -> Tensor:
        """Return the next `count` numbers, stored in the precision that a tag before them says."""
        tag = int(np.frombuffer(self._data, np.uint32, 1, self._at)[0])
        if tag not in (0, HALF_PRECISION):
            raise ValueError(f"weights stored as {tag:#010x} are not understood")
        self._at += 4
        return self.take(count, np.float16 if tag else np.float32)

    def finish(self) -> None:
        """Raise ValueError if bytes are left: layers and weights do not belong together."""
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes of weights left over")


def load_graph(param: Path, weights: Path) -> NcnnGraph:
    """Read a network; FileNotFoundError or ValueError where that is not possible."""
    lines = param.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].strip() != MAGIC:
        raise ValueError(f"{param.name} is not an ncnn text graph")
    reader = WeightReader(weights.read_bytes())
    layers = [_layer(line.split(), reader) for line in lines[2:] if not line.startswith("Input")]
    reader.finish()
    return NcnnGraph(tuple(layers))


def _layer(words: Sequence[str], reader: WeightReader) -> Layer:
    kind, name = words[:2]
    inputs, outputs = int(words[2]), int(words[3])
    names, rest = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
    pairs = (word.partition("=") for word in rest)
    settings = dict(_setting(int(key), value) for key, _, value in pairs)
    if kind not in _MAKERS:
        raise ValueError(f"layer {name}: {kind} is not understood")
    operation = _MAKERS[kind](settings, reader)
    return Layer(tuple(names[:inputs]), tuple(names[inputs:]), operation)


def _setting(key: int, value: str) -> tuple[int, tuple[float, ...]]:
    numbers = tuple(float(word) for word in value.split(","))
    return (LIST_KEY - key, numbers[1:]) if key <= LIST_KEY else (key, numbers)


def _convolution(settings: Settings, reader: WeightReader) -> Operation:
    """Settings: 0 channels out, 1 kernel, 4 padding, 5 has a bias, 6 weights, 9 and 10 ReLU."""
    channels, kernel, count = (int(settings[key][0]) for key in (0, 1, 6))
    weight = reader.take_tagged(count).reshape(channels, -1, kernel, kernel)
    bias = reader.take(channels) if settings[5][0] else None
    padding = int(settings[4][0])
    activation = int(settings.get(9, (0,))[0])
    if activation not in (0, LEAKY_RELU):
        raise ValueError(f"activation {activation} is not understood")
    slope = settings[10][0] if activation else 1.0

    def convolve(inputs: Sequence[Tensor]) -> Tensor:
        x = inputs[0]
        out = F.conv2d(x, weight, bias, padding=padding)
        return F.leaky_relu_(out, slope) if activation else out

    return convolve


def _prelu(settings: Settings, reader: WeightReader) -> Operation:
    slopes = reader.take(int(settings[0][0]))
    return lambda inputs: F.prelu(inputs[0], slopes)


def _interp(settings: Settings, reader: WeightReader) -> Operation:
    """Settings: 0 kind (1 is nearest), 1 factor of the height, 2 of the width."""
    if settings[0][0] != 1:
        raise ValueError(f"interpolation {settings[0][0]:g} is not understood")
    factors = [settings[1][0], settings[2][0]]
    return lambda inputs: F.interpolate(inputs[0], scale_factor=factors, mode="nearest")


def _eltwise(settings: Settings, reader: WeightReader) -> Operation:
    """Settings: 0 kind (1 is a sum), list 1 the weights of the summands."""
    if settings[0][0] != 1:
        raise ValueError(f"element-wise operation {settings[0][0]:g} is not understood")
    first, second = settings[1]
    return lambda inputs: inputs[0] * first + inputs[1] * second


def _pixel_shuffle(settings: Settings, reader: WeightReader) -> Operation:
    factor = int(settings[0][0])
    return lambda inputs: F.pixel_shuffle(inputs[0], factor)


_MAKERS: Mapping[str, Callable[[Settings, WeightReader], Operation]] = {
    "Convolution": _convolution,
    "PReLU": _prelu,
    "Interp": _interp,
    "Eltwise": _eltwise,
    "PixelShuffle": _pixel_shuffle,
    "BinaryOp": lambda settings, reader: lambda inputs: inputs[0] + inputs[1],
    "Concat": lambda settings, reader: lambda inputs: torch.cat(list(inputs), dim=1),
    "Split": lambda settings, reader: lambda inputs: inputs[0],
}
