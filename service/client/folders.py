"""Whole folders: which pictures are to be done, and what became of them the last time.

A file in the output folder remembers the job of every picture, by its content and options, so that
the same command again goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

STATE: Final = ".instantir-jobs.json"
PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True, slots=True)
class Task:
    """One picture to be restored."""

    source: Path
    target: Path


def tasks(sources: Iterable[Path], out: Path | None, ending: str) -> list[Task]:
    """The pictures that are named, those of folders included, with where their results go.

    Results lie beside one another in `out`, or beside their source with `-restored` in the name.
    Raises ValueError for a source that is not there, and for two results of one name.
    """
    found: list[Task] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(p for p in source.rglob("*") if p.suffix.lower() in PICTURES)
            found += [
                Task(p, (out or source) / _named(p.relative_to(source), ending, out))
                for p in inside
                if out is None or not p.is_relative_to(out)
            ]
        elif not source.is_file():
            raise ValueError(f"no such file: {source}")
        elif out is not None and out.suffix.lower() in {*PICTURES, ".avif"}:
            found.append(Task(source, out))
        else:
            name = _named(Path(source.name), ending, out)
            found.append(Task(source, (out or source.parent) / name))
    made = [task.target for task in found]
    if twice := {target for target in made if made.count(target) > 1}:
        raise ValueError(f"two pictures would be written to {sorted(twice)[0]}")
    return [task for task in found if not task.source.stem.endswith("-restored")]


def _named(path: Path, ending: str, out: Path | None) -> Path:
    stem = path.stem if out is not None else f"{path.stem}-restored"
    return path.with_name(f"{stem}.{ending}")


@dataclass(slots=True)
class Memory:
    """The jobs of earlier runs, in a file of the output folder."""

    path: Path
    jobs: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, folder: Path) -> Memory:
        """What the folder remembers."""
        path = folder / STATE
        try:
            return cls(path, json.loads(path.read_text()))
        except (OSError, ValueError):
            return cls(path)

    def job_of(self, image: bytes, options: Mapping[str, Any]) -> str:
        """The id of the job for a picture with options: an earlier one, else a new one, kept."""
        asked = json.dumps(options, sort_keys=True).encode()
        digest = hashlib.sha256(asked + b"\0" + image).hexdigest()
        if digest not in self.jobs:
            self.jobs[digest] = str(uuid4())
            self._write()
        return self.jobs[digest]

    def forget(self, job_id: str) -> None:
        """A job that the service knows no more, or that failed: the next run makes another."""
        self.jobs = {digest: job for digest, job in self.jobs.items() if job != job_id}
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(self.jobs, indent=1))
        unfinished.replace(self.path)
