"""Endless batches of (clean, degraded, caption) from a folder of photographs.

Batch ``i`` is a pure function of (folder, seed, i): every batch has its own generator, so that a
resumed run continues with exactly the pictures an uninterrupted one would have seen.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from training.captions import caption
from training.degrade import DegradationConfig, Degraded, FloatArray, degrade
from training.edits import Edited, edit, unedited

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
CACHE_SHORT_SIDE_PX = 384
CACHE_LIMIT_BYTES = 1_500_000_000
SCALES = (1.0, 0.75, 0.5)  # of the cached picture; chosen at random for each crop
CROP_CANDIDATES = 6
CROP_POWER = 1.5  # of a candidate's detail is its chance; 0 would prefer none
PICTURE_POWER = 0.75  # of a picture's

Uint8Array = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Batch:
    """Float32 tensors (B, 3, H, W) in [-1, 1], one caption and one severity (0..1) per row."""

    clean: Tensor
    degraded: Tensor
    captions: list[str]
    severities: list[float]


def held_out_names(meta: Path) -> frozenset[str]:
    """Return the training file names of the pictures a test set's meta.json was made from."""
    rows = json.loads(meta.read_text(encoding="utf-8"))
    return frozenset(str(row["source"]).replace("/", "__") for row in rows)


def load_picture(path: Path, short_side_px: int = CACHE_SHORT_SIDE_PX) -> Uint8Array:
    """Decode upright as (H, W, 3) uint8 and reduce the short side to the limit at most."""
    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    factor = short_side_px / min(picture.size)
    if factor < 1.0:
        size = (round(picture.width * factor), round(picture.height * factor))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8)


class PatchSource:
    """Random crops with flips from pictures cached in memory, detailed ones preferred of both.

    ``held_out`` are file names never to be used. With an ``edit_share`` above 0 nothing is damaged:
    that share of the pictures is edited as its caption says, the others have one that asks for
    nothing. Raises ValueError where no picture is left,
    where one is smaller than the crop, or where the cache would pass its limit.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        crop_px: int,
        *,
        config: DegradationConfig | None = None,
        held_out: Collection[str] = (),
        edit_share: float = 0.0,
    ) -> None:
        self.seed = seed
        self.crop_px = crop_px
        self.config = config or DegradationConfig()
        self.edit_share = edit_share
        self.names: list[str] = []
        self._pictures: list[Uint8Array] = []
        cached_bytes = 0
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() not in SUFFIXES or path.name in held_out:
                continue
            picture = load_picture(path)
            cached_bytes += picture.nbytes
            if min(picture.shape[:2]) < crop_px:
                raise ValueError(f"{path.name}: short side under the crop of {crop_px} px")
            if cached_bytes > CACHE_LIMIT_BYTES:
                raise ValueError(f"pictures of {folder} need over {CACHE_LIMIT_BYTES} bytes")
            self.names.append(path.name)
            self._pictures.append(picture)
        if not self._pictures:
            raise ValueError(f"no picture ({', '.join(sorted(SUFFIXES))}) in {folder}")
        chances = np.array([detail(picture) for picture in self._pictures]) ** PICTURE_POWER
        self._chances = chances / chances.sum()

    def batch(self, iteration: int, batch_size: int) -> Batch:
        """Return the batch of one iteration; equal arguments give equal batches."""
        rng = np.random.default_rng([self.seed, iteration])
        clean: list[FloatArray] = []
        degraded: list[FloatArray] = []
        severities: list[float] = []
        captions: list[str] = []
        for _ in range(batch_size):
            patch = self._patch(rng)
            if self.edit_share > 0:
                target = (
                    edit(patch, rng) if rng.random() < self.edit_share else unedited(patch, rng)
                )
                damaged = Degraded(patch, severity=0.0)
            else:
                target = Edited(patch, caption(patch))
                damaged = degrade(patch, rng, self.config)
            clean.append(target.image)
            captions.append(target.caption)
            degraded.append(damaged.image)
            severities.append(damaged.severity)
        return Batch(_to_tensor(clean), _to_tensor(degraded), captions, severities)

    def batches(
        self, start: int, batch_size: int, *, ahead: int = 2
    ) -> Generator[Batch, None, None]:
        """Yield batches from an iteration on without end; a thread prepares ``ahead`` of them.

        One CPU thread at a time: a second team of threads would fight with the training step's.
        """
        with ThreadPoolExecutor(1, "patches", torch.set_num_threads, (1,)) as pool:
            pending = [pool.submit(self.batch, start + i, batch_size) for i in range(ahead)]
            upcoming = start + ahead
            try:
                while True:
                    pending.append(pool.submit(self.batch, upcoming, batch_size))
                    upcoming += 1
                    yield pending.pop(0).result()
            finally:
                for future in pending:
                    future.cancel()

    def _patch(self, rng: np.random.Generator) -> FloatArray:
        """Cut one crop (crop, crop, 3) float32 in [0, 1]."""
        picture = self._pictures[int(rng.choice(len(self._pictures), p=self._chances))]
        height, width = picture.shape[:2]
        scale = max(float(rng.choice(SCALES)), self.crop_px / min(height, width))
        side = min(round(self.crop_px / scale), height, width)
        tops = rng.integers(0, height - side + 1, CROP_CANDIDATES)
        lefts = rng.integers(0, width - side + 1, CROP_CANDIDATES)
        cuts = [picture[t : t + side, u : u + side] for t, u in zip(tops, lefts, strict=True)]
        energy = np.array([detail(cut) for cut in cuts]) ** CROP_POWER
        cut = cuts[int(rng.choice(CROP_CANDIDATES, p=energy / energy.sum()))]
        if side != self.crop_px:
            size = (self.crop_px, self.crop_px)
            cut = np.asarray(Image.fromarray(cut).resize(size, Image.Resampling.BICUBIC))
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        return np.divide(cut, 255.0, dtype=np.float32)


def detail(cut: Uint8Array) -> float:
    """Return the mean absolute gradient of the green channel on every second pixel, above 0."""
    green = cut[::2, ::2, 1].astype(np.int16)
    across, down = np.abs(np.diff(green, axis=1)), np.abs(np.diff(green, axis=0))
    return float(across.mean() + down.mean()) + 0.5


def _to_tensor(patches: list[FloatArray]) -> Tensor:
    stacked = np.stack(patches).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(stacked)).mul_(2.0).sub_(1.0)
