"""A torch-free engine for service tests. Its model name is a folder: there it keeps a diary of
what it did, and there a test closes the gate that stops it in an encoding or in a step, or puts up
a turnstile that lets it take a number of them.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

FAULT = "fault"  # the prompt that makes an engine of this folder show its fault

PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {"steps": 8},
    "balanced": {"steps": 4},
    "fast": {"steps": 2},
}


@dataclass(frozen=True, slots=True)
class Params:
    prompt: str = ""
    steps: int = 4
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Restoration:
    image: Image.Image
    params: Params
    step: int = 0

    @property
    def steps(self) -> int:
        return self.params.steps

    @property
    def done(self) -> bool:
        return self.step == self.steps


@dataclass(frozen=True, slots=True)
class StepInfo:
    step: int
    steps: int
    timestep: int
    reference_variance: float | None
    adaptive_factor: float


class FakeRestorer:
    """Inverts pictures, slowly or not at all; subclasses add one fault each."""

    name = "fake"
    fingerprint = "0123456789abcdef"
    backend = "fake 1"
    presets = PRESETS

    def __init__(self, model: str) -> None:
        self._folder = Path(model)
        self.note("load")

    def note(self, what: str, **more: Any) -> None:
        line = json.dumps({"what": what, "pid": os.getpid(), **more}) + "\n"
        with (self._folder / "diary").open("a") as diary:
            diary.write(line)

    def pass_gate(self, at: str) -> None:
        with (self._folder / f"gate-{at}").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            turnstile = os.open(self._folder / f"turnstile-{at}", os.O_RDWR)
            os.read(turnstile, 1)
            os.close(turnstile)

    def params(self, preset: str | None, overrides: dict[str, Any]) -> Params:
        try:
            return Params(**{**PRESETS[preset or "balanced"], **overrides})
        except TypeError as error:
            raise ValueError(f"unknown parameter: {error}") from error

    def begin(self, image: Image.Image, params: Params) -> Restoration:
        self.note("begin", prompt=params.prompt)
        self.pass_gate("begin")
        return Restoration(image, params)

    def step(self, restorations: Sequence[Restoration]) -> list[StepInfo]:
        self.note("step", batch=[restoration.params.prompt for restoration in restorations])
        self.pass_gate("step")
        for restoration in restorations:
            restoration.step += 1
        return [StepInfo(r.step, r.steps, 1000 // r.step, 0.25, 1.0) for r in restorations]

    def preview(self, restoration: Restoration) -> Image.Image | None:
        return ImageOps.grayscale(restoration.image).convert("RGB") if restoration.step else None

    def finish(self, restoration: Restoration) -> Image.Image:
        self.note("finish", prompt=restoration.params.prompt)
        return ImageOps.invert(restoration.image)


def load(model: str) -> FakeRestorer:
    return FakeRestorer(model)


def diary(folder: Path, what: str) -> list[dict[str, Any]]:
    """What the engine of `folder` did, of one kind, in order."""
    path = folder / "diary"
    lines = path.read_text().splitlines() if path.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["what"] == what]


@contextmanager
def closed_gate(folder: Path, at: str) -> Generator[None]:
    """Engines of `folder` stop in their next "begin" or "step" until the block ends."""
    with (folder / f"gate-{at}").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield


@contextmanager
def turnstile(folder: Path, at: str) -> Generator[Callable[[int], object]]:
    """Engines of `folder` take as many "begin" or "step" as are let pass, until the block ends."""
    path = folder / f"turnstile-{at}"
    os.mkfifo(path)
    passes = os.open(path, os.O_RDWR)
    try:
        yield lambda count: os.write(passes, bytes(count))
    finally:
        path.unlink()
        os.write(passes, bytes(1000))  # for those that stand before it
        os.close(passes)
