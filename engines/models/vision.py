"""DINOv2 image features for DCP (paper section 3.1)."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model

_OFFSET = 0.1


def shrink_and_crop(image: Image.Image, shortest_edge: int, crop: int) -> Image.Image:
    """Resize the shorter side to `shortest_edge`, then cut `crop` x `crop` from the middle."""
    width, height = image.size
    short, long = min(width, height), max(width, height)
    scaled = int(shortest_edge * long / short)
    size = (shortest_edge, scaled) if width <= height else (scaled, shortest_edge)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - crop) // 2, (size[1] - crop) // 2
    return image.crop((left, top, left + crop, top + crop))


class VisionEncoder(nn.Module):
    """DINOv2 with the preprocessing of its folder; features are the last hidden state."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: dict[str, Any], preprocessing: dict[str, Any]) -> None:
        super().__init__()
        self.dino: Any = Dinov2Model(Dinov2Config.from_dict(config))
        # As the released weights were trained with: see `_positions`.
        self.dino.embeddings.interpolate_pos_encoding = self._positions
        self.shortest_edge = int(preprocessing["size"]["shortest_edge"])
        self.crop = int(preprocessing["crop_size"]["height"])
        self.register_buffer("mean", _channels(preprocessing["image_mean"]), persistent=False)
        self.register_buffer("std", _channels(preprocessing["image_std"]), persistent=False)

    def crop_of(self, image: Image.Image) -> Image.Image:
        """The part of an RGB image that the encoder sees, at the size it sees it."""
        return shrink_and_crop(image, self.shortest_edge, self.crop)

    def normalize(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, H, W) in [0, 1] -> the encoder's input."""
        return (pixels - self.mean) / self.std

    def pixels_of(self, image: Image.Image) -> Tensor:
        """Encoder input (1, 3, crop, crop) of an RGB image."""
        pixels = torch.from_numpy(np.array(self.crop_of(image))).permute(2, 0, 1)[None]
        return self.normalize(pixels.to(self.mean) / 255)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, H, W) as `normalize` gives them -> features (B, 1 + patches, D)."""
        return self.dino(pixel_values=pixels).last_hidden_state

    def _positions(self, embeddings: Tensor, height: int, width: int) -> Tensor:
        """Position table resized to the patch grid, bicubic.

        The released adapter was trained on features whose table was resized by a scale factor of
        (patches + 0.1) / table, not to a target size; the two differ visibly.
        """
        del embeddings
        table = self.dino.embeddings.position_embeddings
        patch, side = self.dino.config.patch_size, int((table.shape[1] - 1) ** 0.5)
        rows, columns = int(height) // patch, int(width) // patch  # traced graphs have one size
        if rows == columns == side:
            return table
        grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        scale = ((rows + _OFFSET) / side, (columns + _OFFSET) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _channels(values: list[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
