"""Recorded cases on disk, and the comparison of our numbers with theirs.

Every tensor of a case must be used as an input or compared; one that is neither fails the case.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

_ROWS: dict[Path, dict[str, Tensor]] = {}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a field may be off; None leaves that measure out. Integers must be equal."""

    relative: float | None
    absolute: float | None = None

    def __str__(self) -> str:
        parts = [("rel", self.relative), ("abs", self.absolute)]
        return " ".join(f"{name} {value:.0e}" for name, value in parts if value is not None)


@dataclass(frozen=True, slots=True)
class Compared:
    """One field: relative L2 and maximum absolute error against the recording."""

    field: str
    relative: float
    absolute: float
    tolerance: Tolerance
    ok: bool
    message: str = ""

    @property
    def badness(self) -> float:
        """Error as a share of the tolerance."""
        shares = [
            error / limit
            for error, limit in (
                (self.relative, self.tolerance.relative),
                (self.absolute, self.tolerance.absolute),
            )
            if limit
        ]
        return max(shares, default=0.0 if self.ok else float("inf"))


@dataclass(slots=True)
class Case:
    """A recorded case being replayed."""

    name: str
    info: dict[str, Any]
    tensors: dict[str, Tensor]
    compared: list[Compared] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    differs: str | None = None  # why our behaviour is another one on purpose
    _touched: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        """Whether the case holds a tensor of that name."""
        return name in self.tensors

    def given(self, name: str) -> Tensor:
        """A recorded tensor used as an input; half-precision storage becomes float32."""
        self._touched.add(name)
        tensor = self.tensors[name]
        return tensor.float() if tensor.is_floating_point() else tensor

    def skip(self, name: str, why: str) -> None:
        """Leave a tensor out, saying why."""
        self._touched.add(name)
        self.notes.append(f"{name}: {why}")

    def compare(self, name: str, ours: Tensor, tolerance: Tolerance) -> None:
        """Compare with a recorded tensor, where the case holds one of that name."""
        if name in self.tensors:
            self._touched.add(name)
            self.compared.append(compare(name, ours, self.tensors[name], tolerance))

    def check(self, name: str, ours: object, theirs: object) -> None:
        """Compare values that must be equal."""
        same = ours == theirs
        message = "" if same else f"ours {ours}, recorded {theirs}"
        exact = Tolerance(0.0, 0.0)
        self.compared.append(Compared(name, 0.0, 0.0 if same else 1.0, exact, same, message))

    def untouched(self) -> list[str]:
        """Tensors that were neither used nor compared."""
        return sorted(set(self.tensors) - self._touched)

    @property
    def ok(self) -> bool:
        """Whether every comparison held and nothing was left out silently."""
        complete = not self.untouched()
        return complete and bool(self.compared or self.differs) and all(c.ok for c in self.compared)


def compare(name: str, ours: Tensor, theirs: Tensor, tolerance: Tolerance) -> Compared:
    """Relative L2 and maximum absolute error; places where both are the same infinity are equal."""
    if ours.shape != theirs.shape:
        message = f"shape {tuple(ours.shape)}, recorded {tuple(theirs.shape)}"
        return Compared(name, float("inf"), float("inf"), tolerance, False, message)
    if not theirs.is_floating_point():
        off = float((ours.to(torch.int64) - theirs.to(torch.int64)).abs().max())
        return Compared(name, 0.0, off, Tolerance(0.0, 0.0), off == 0.0)
    a, b = ours.double(), theirs.double()
    same = torch.isinf(b) & (a == b)
    a, b = a.masked_fill(same, 0.0), b.masked_fill(same, 0.0)
    absolute = float((a - b).abs().max()) if a.numel() else 0.0
    relative = float((a - b).norm() / b.norm().clamp(min=1e-30)) if absolute else 0.0
    ok = (tolerance.relative is None or relative <= tolerance.relative) and (
        tolerance.absolute is None or absolute <= tolerance.absolute
    )
    return Compared(name, relative, absolute, tolerance, ok)


def component(folder: Path, name: str) -> Case:
    """A component file and its description."""
    info = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    info["folder"] = str(folder)
    return Case(f"components/{name}", info, load_file(folder / f"{name}.safetensors"))


def run(folder: Path) -> Case:
    """A recorded run; conditioning rows that many runs share are put back in."""
    info = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    path = folder / "tensors.safetensors"
    tensors = load_file(path) if path.exists() else {}
    shared = folder.parent / "shared_rows.safetensors"
    for name, entry in info.get("shared_rows", {}).items():
        if shared not in _ROWS:
            _ROWS[shared] = load_file(shared)
        rows = [_ROWS[shared][key] for key in entry["rows"]]
        tensors[name] = torch.stack(rows).reshape(entry["shape"])
    return Case(f"{folder.parent.name}/{folder.name}", info, tensors)


class RecordedNoise:
    """One row of the recorded noise, in draw order.

    Recordings of runs that ended in an error stop early; what follows is drawn from a fixed seed.
    """

    def __init__(self, tensors: list[Tensor], row: int) -> None:
        self._recorded: Iterator[Tensor] = iter([tensor[row : row + 1] for tensor in tensors])
        self._generator = torch.Generator().manual_seed(row)

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """The next recorded tensor. Raises ValueError where its shape is not the one asked for."""
        tensor = next(self._recorded, None)
        if tensor is None:
            return torch.randn(shape, generator=self._generator)
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"recorded noise is {tuple(tensor.shape)}, asked for {tuple(shape)}")
        return tensor.float()
