"""InstantIR: blind restoration of photographs (arXiv 2410.06551). Imports nothing else of ours."""

from engines.errors import EngineError, WeightsError
from engines.loader import load
from engines.params import ColorMatch, MicroConditioning, RestoreParams, Sampler
from engines.restoration import Restoration, StepInfo
from engines.restorer import Restorer

__all__ = [
    "ColorMatch",
    "EngineError",
    "MicroConditioning",
    "Restoration",
    "RestoreParams",
    "Restorer",
    "Sampler",
    "StepInfo",
    "WeightsError",
    "load",
]
