"""Errors of this package beside ValueError.

EngineError
`-- WeightsError    a model folder whose files, keys or shapes are not what the model needs
"""

from collections.abc import Sequence
from typing import Self

SHOWN = 5


class EngineError(Exception):
    """Base of the errors raised by `engines`."""


class WeightsError(EngineError):
    """Weights that do not fit the model they are loaded into."""

    @classmethod
    def of_keys(cls, where: str, what: str, keys: Sequence[str]) -> Self:
        """Say how many keys are wrong and name the first five."""
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        return cls(f"{where}: {len(keys)} {what} key(s): {', '.join(keys[:SHOWN])}{more}")
