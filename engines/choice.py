"""Which backend runs the networks of a step, and where their weights are kept for it."""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from engines.backends import openvino, tensorrt
from engines.backends.eager import Backend
from engines.cache import EngineCache
from engines.errors import EngineError
from engines.graphs import step_graphs
from engines.models.denoiser import Denoiser
from engines.networks import Networks
from engines.residency import tensors
from engines.restorer import ModelSettings
from engines.sizes import MULTIPLE_PX
from engines.tiling import Tiling

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Compiler:
    """What a compiled backend needs."""

    packages: str
    place: str  # type of the device
    dtype: torch.dtype
    installed: Callable[[], bool]

    def fits(self, place: torch.device, dtype: torch.dtype) -> bool:
        return (place.type, dtype) == (self.place, self.dtype)


_COMPILERS = {
    "openvino": _Compiler("openvino and onnx", "cpu", torch.float32, openvino.available),
    "tensorrt": _Compiler(
        "tensorrt-rtx-cu12 and onnx", "cuda", torch.float16, lambda: tensorrt.flavour() is not None
    ),
}
BACKENDS = ("auto", "torch", *_COMPILERS)


@dataclass(frozen=True, slots=True)
class Choice:
    """A loaded model in the processor's memory, and the folder of its engines."""

    networks: Networks
    previewer: Denoiser
    settings: ModelSettings
    cache: Path | None  # None: engines are built each time

    def backend(
        self, name: str, place: torch.device, dtype: torch.dtype, precision: str | None
    ) -> Backend | None:
        """The backend of that name, one of BACKENDS; None for torch itself.

        Raises EngineError where it is not there, or cannot run on the place in this precision.
        """
        if name == "auto":
            return self._fastest(place, dtype, precision)
        if name == "torch":
            return None
        compiler = _COMPILERS[name]
        if not compiler.installed():
            raise EngineError(f"backend is {name!r}: install the packages {compiler.packages}")
        if not compiler.fits(place, dtype):
            runs = f"{compiler.place} {compiler.dtype}"
            raise EngineError(f"backend is {name!r}: it runs on {runs}, not {place.type} {dtype}")
        return self._openvino(precision) if name == "openvino" else self._tensorrt(place)

    def move(self, place: torch.device, *, whole: bool, guests: Iterable[nn.Module] = ()) -> None:
        """Bring weights to the device; not `whole`: of the step's networks only what engines lack.

        What engines hold is given up. Guests stay where they are (engines.residency).
        """
        step = (self.networks.denoiser, self.previewer, self.networks.aggregator)
        others = [own for own in self.networks.modules() if own not in step]
        hoisted = [part for network in step for part in network.hoisted_parts()]
        lasting = (*step, *others) if whole else (*others, *hoisted)
        kept, staying = ({id(own) for own in tensors(some)} for some in (lasting, guests))
        for tensor in tensors((*step, *others)):
            if id(tensor) not in kept:
                tensor.data = tensor.data.new_empty(0)
            elif id(tensor) not in staying:
                tensor.data = tensor.data.to(place)

    def _fastest(
        self, place: torch.device, dtype: torch.dtype, precision: str | None
    ) -> Backend | None:
        able = {
            name
            for name, compiler in _COMPILERS.items()
            if compiler.fits(place, dtype) and compiler.installed()
        }
        if "openvino" in able:
            return self._openvino(precision)
        if "tensorrt" in able:
            try:
                return self._tensorrt(place)
            except EngineError as error:
                _log.warning("torch runs the networks, TensorRT does not: %s", error)
        return None

    def _openvino(self, precision: str | None) -> Backend:
        table = step_graphs(self.networks, self.previewer)
        chosen = precision or processor_precision(self.settings)
        with TemporaryDirectory() as passing:
            made = EngineCache(self._folder(Path(passing)))
            return openvino.OpenVinoBackend(table, self.settings.fingerprint, made, chosen)

    def _tensorrt(self, place: torch.device) -> Backend:
        table = step_graphs(self.networks, self.previewer)
        sides = sides_of(self.settings.tiling, self.networks.codec.factor)
        with TemporaryDirectory() as passing:
            made = EngineCache(self._folder(Path(passing)))
            return tensorrt.open_engines(table, self.settings.fingerprint, made, sides, place)

    def _folder(self, passing: Path) -> Path:
        folder = self.cache
        return folder if folder is not None and _writable(folder) else passing


def sides_of(tiling: Tiling, factor: int) -> tuple[int, int]:
    """The least and the most latent pixels of a side, from the smallest picture to a tile."""
    return MULTIPLE_PX // factor, tiling.tile_px // factor


def processor_precision(settings: ModelSettings) -> str:
    """The fastest precision of compiled engines in which the model is as good on this processor."""
    return openvino.precisions()[-1] if settings.bf16 else "f32"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("engines are not kept: %s", error)
        return False
    if not os.access(folder, os.W_OK):
        _log.warning("engines are not kept: %s cannot be written", folder)
        return False
    return True
