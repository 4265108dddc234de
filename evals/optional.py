"""Packages that an evaluation uses where they are installed and does without otherwise."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType


class NotPresentError(Exception):
    """A package or its data is not there; the message says which, and what installs it."""


def need(module: str, install: str) -> ModuleType:
    """Import a module; NotPresentError, naming the pip command `install`, where that fails."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise NotPresentError(f"not installed: {install}") from error
        raise NotPresentError(f"does not load ({error}): {install}") from error


def data_file(package: str, name: str, install: str) -> Path:
    """Return a file inside a package without importing the package; else NotPresentError."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise NotPresentError(f"not installed: {install}")
    for folder in spec.submodule_search_locations or ():
        path = Path(folder) / name
        if path.is_file():
            return path
    raise NotPresentError(f"{package} has no {name}: {install}")
