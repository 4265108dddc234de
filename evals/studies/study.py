"""What a study is: a question, a measurement, and what is read off it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from matplotlib.figure import Figure

import engines
from evals.studies.pictures import Tile

SampleT = TypeVar("SampleT")


@dataclass(frozen=True, slots=True)
class Bench:
    """What a study measures on."""

    restorer: engines.Restorer
    tiles: Sequence[Tile]
    preset: str | None = None  # the model's default

    def params(self, preset: str | None = None, **overrides: Any) -> engines.RestoreParams:
        """Parameters of a preset (the bench's own without one) at seed 0, without a mirror image.

        A study looks into one restoration; the mirror image would be a second.
        """
        fixed = {"seed": 0, "mirror": False}
        return self.restorer.params(preset or self.preset, {**fixed, **overrides})


@dataclass(frozen=True, slots=True)
class Table:
    """Figures ready to read; the first column says what a row is."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=list[Sequence[str]])

    def to_markdown(self) -> str:
        """The table in Markdown, figures to the right."""
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study(Generic[SampleT]):
    """One question. All but `measure` is computed from its samples, at any later time."""

    name: str  # of its module and its files
    title: str
    question: str
    method: str
    pictures: int  # tiles that it takes unless told otherwise
    sample: type[SampleT]  # a dataclass of JSON-able fields
    measure: Callable[[Bench], list[SampleT]]
    table: Callable[[Sequence[SampleT]], Table]
    findings: Callable[[Sequence[SampleT]], list[str]]
    draw: Callable[[Sequence[SampleT]], Figure]
