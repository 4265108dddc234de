"""Restorations of a study: many pictures through the engine, and what each step told."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

import engines
from engines.restoration import Restoration

GROUP_SIZE = 8  # pictures that step together


@dataclass(frozen=True, slots=True)
class Run:
    """One restoration: its result, the way there, and what it cost."""

    result: Image.Image
    timesteps: tuple[int, ...]
    changes: tuple[float, ...]  # StepInfo.reference_variance, wherever a step had one
    references: tuple[Image.Image, ...]  # after each step; empty unless they were asked for
    evaluations: int  # forward passes of previewer, aggregator and main network
    seconds: float  # processor time, its share of the group's


@dataclass(slots=True)
class _Log:
    timesteps: list[int] = field(default_factory=list[int])
    changes: list[float] = field(default_factory=list[float])
    references: list[Image.Image] = field(default_factory=list[Image.Image])
    evaluations: int = 0


def restore_all(
    restorer: engines.Restorer,
    pictures: Sequence[Image.Image],
    params: engines.RestoreParams,
    *,
    references: bool = False,
) -> list[Run]:
    """Restore every picture with the same parameters, a few at a time."""
    runs: list[Run] = []
    for start in range(0, len(pictures), GROUP_SIZE):
        runs += _restore_group(restorer, pictures[start : start + GROUP_SIZE], params, references)
    return runs


def _restore_group(
    restorer: engines.Restorer,
    pictures: Sequence[Image.Image],
    params: engines.RestoreParams,
    references: bool,
) -> list[Run]:
    began = time.process_time()
    restorations = [begin(restorer, picture, params) for picture in pictures]
    logs = [_Log() for _ in pictures]
    aside = 0.0  # decoding references is the study's wish, no cost of the restoration
    while not restorations[0].done:
        infos = restorer.step(restorations)
        noted = time.process_time()
        for info, restoration, log in zip(infos, restorations, logs, strict=True):
            _note(log, info, restoration)
            preview = restorer.preview(restoration) if references else None
            if preview is not None:
                log.references.append(preview)
        aside += time.process_time() - noted
    results = [restorer.finish(restoration) for restoration in restorations]
    seconds = (time.process_time() - began - aside) / len(pictures)
    return [
        Run(
            result=result,
            timesteps=tuple(log.timesteps),
            changes=tuple(log.changes),
            references=tuple(log.references),
            evaluations=log.evaluations,
            seconds=seconds,
        )
        for result, log in zip(results, logs, strict=True)
    ]


def begin(
    restorer: engines.Restorer, picture: Image.Image, params: engines.RestoreParams
) -> Restoration:
    """Begin a restoration. ValueError for pictures that the engine would restore in tiles."""
    restoration = restorer.begin(picture, params)
    if not isinstance(restoration, Restoration):
        raise ValueError(f"picture of {picture.size} px is restored in tiles; studies need one")
    return restoration


def _note(log: _Log, info: engines.StepInfo, restoration: Restoration) -> None:
    trace = restoration.trace
    assert trace is not None, "every step leaves a trace"
    log.timesteps.append(info.timestep)
    if info.reference_variance is not None:
        log.changes.append(info.reference_variance)
    passes = 1 + trace.previewed + trace.aggregated
    log.evaluations += passes * restoration.condition.rows
