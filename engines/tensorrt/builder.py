"""From an ONNX file to a TensorRT engine.

`tensorrt` (data-centre GPUs) builds on the GPU that it builds for. `tensorrt-rtx` builds ahead of
time for any of its GPUs, with none in the machine. Networks are strongly typed in both: the file
decides every precision.
"""

import importlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from engines.cache import BuildCanceledError, Canceled
from engines.errors import EngineError
from engines.graphs import Graph
from engines.tensorrt.layers import Layer, fused_attention, parse

_log = logging.getLogger(__name__)

_BYTES: Final = re.compile(r"(\d+) bytes")
_TOLD: Final = 5  # errors of a build that are shown

Shape = tuple[int, ...]
Progress = Callable[[float, str], None]


class Flavour(StrEnum):
    """Which TensorRT."""

    TENSORRT = "tensorrt"
    RTX = "tensorrt-rtx"

    @property
    def installed(self) -> bool:
        """Whether its Python package is here."""
        return find_spec(self._package) is not None

    def module(self) -> Any:
        """Its Python package. Raises EngineError where it is not installed."""
        if not self.installed:
            raise EngineError(f"{self} is not installed: pip install {self}")
        try:
            return importlib.import_module(self._package)
        except ImportError as error:  # a library that it stands on is missing
            raise EngineError(f"{self} cannot be loaded: {error}") from error

    @property
    def _package(self) -> str:
        return self.value.replace("-", "_")


@dataclass(frozen=True, slots=True)
class Profile:
    """Shapes an engine is made for: input -> least, best and most; all equal for a static one."""

    shapes: Mapping[str, tuple[Shape, Shape, Shape]]

    def __str__(self) -> str:
        return " ".join(
            f"{name}=" + "..".join("x".join(map(str, shape)) for shape in dict.fromkeys(three))
            for name, three in self.shapes.items()
        )


def profile_of(
    graph: Graph, least: Mapping[str, int], best: Mapping[str, int], most: Mapping[str, int]
) -> Profile:
    """A profile from rows, height and width (of latents). Raises ValueError for illegal sizes."""
    return Profile(
        {port.name: tuple(map(port.shape, (least, best, most))) for port in graph.inputs}  # pyright: ignore[reportArgumentType]  (three of them)
    )


@dataclass(frozen=True, slots=True)
class Built:
    """An engine and what is known of it."""

    plan: bytes = field(repr=False)
    layers: tuple[Layer, ...] = field(repr=False)
    activation_bytes: int  # at the largest shapes
    weight_bytes: int
    seconds: float

    @property
    def fused_attention(self) -> int:
        """How many attentions were compiled to one kernel."""
        return fused_attention(self.layers)


def build(
    onnx: Path,
    profile: Profile,
    *,
    flavour: Flavour = Flavour.RTX,
    capability: int | None = None,
    timing_cache: Path | None = None,
    on_progress: Progress | None = None,
    canceled: Canceled = lambda: False,
) -> Built:
    """Build one engine.

    capability: of the GPU it is for, as 89; None is this machine's GPU for `tensorrt`, and all
    that are supported for `tensorrt-rtx`. timing_cache: measured kernels that `tensorrt` reuses,
    read and written. on_progress gets a share of 1 and the name of the phase.

    Raises EngineError: the file cannot be parsed, the profile does not fit, the capability is not
    supported, or the build fails; with TensorRT's own words. BuildCanceledError as soon as
    `canceled` is seen to be true, which TensorRT asks between its phases: a long one ends first.
    """
    trt, began = flavour.module(), time.monotonic()
    log = logger(trt)
    builder: Any = trt.Builder(log)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network: Any = builder.create_network(typed)
    parser: Any = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        said = [str(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError(f"{onnx.name} cannot be parsed: {'; '.join(said[:_TOLD])}")
    config: Any = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or layers would have no names
    config.progress_monitor = _monitor(trt, on_progress, canceled)
    _aim(trt, config, flavour, capability)
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    config.add_optimization_profile(_profile(builder, profile, inputs, onnx.name))
    cache = _load_timings(config, flavour, timing_cache)
    plan: Any = builder.build_serialized_network(network, config)
    if canceled():
        raise BuildCanceledError(f"{onnx.name} was not built: canceled")
    if plan is None:
        raise EngineError(f"{onnx.name} cannot be built: {'; '.join(log.errors[:_TOLD])}")
    timings = config.get_timing_cache() if cache else None
    if timings is not None and timing_cache is not None:
        _save(timing_cache, bytes(timings.serialize()))
    if on_progress is not None:
        on_progress(1.0, "built")
    return Built(
        plan=bytes(plan),
        layers=parse(log.messages),
        activation_bytes=_told(log.messages, "Total Activation Memory"),
        weight_bytes=_told(log.messages, "Total Weights Memory"),
        seconds=round(time.monotonic() - began, 3),
    )


def capabilities(flavour: Flavour) -> list[int]:
    """Compute capabilities that it builds for with no GPU: [75, 80, ...]; `tensorrt` has none."""
    names = dir(getattr(flavour.module(), "ComputeCapability", object))
    return sorted(int(name[2:]) for name in names if re.fullmatch(r"SM\d+", name))


def _aim(trt: Any, config: Any, flavour: Flavour, capability: int | None) -> None:
    if capability is None:
        return
    supported = capabilities(flavour)
    if capability not in supported:
        known = ", ".join(map(str, supported)) or "that of this machine's GPU alone"
        raise EngineError(f"compute capability is {capability}, {flavour} builds for: {known}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), 0)


def _profile(builder: Any, profile: Profile, inputs: set[str], file: str) -> Any:
    if unknown := sorted(set(profile.shapes) - inputs):
        there = ", ".join(sorted(inputs))
        raise EngineError(f"profile of {file}: no input {', '.join(unknown)}, there is {there}")
    made: Any = builder.create_optimization_profile()
    for name, (least, best, most) in profile.shapes.items():
        fits = len(least) == len(best) == len(most) and all(
            0 < a <= b <= c for a, b, c in zip(least, best, most, strict=True)
        )
        if not fits:
            told = f"{least}, {best}, {most}"
            raise EngineError(f"profile of {file}: {name} is {told}, allowed: 1 or more, rising")
        made.set_shape(name, least, best, most)
    return made


def _load_timings(config: Any, flavour: Flavour, path: Path | None) -> Any:
    """`tensorrt-rtx` keeps no timings: its kernels are chosen on the GPU of the user."""
    if path is None or flavour is Flavour.RTX:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if config.set_timing_cache(cache, ignore_mismatch=False):
        return cache
    _log.warning("%s was measured on another GPU or by another version: it is left alone", path)
    return None


def _save(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)


def _told(messages: list[str], about: str) -> int:
    found = [_BYTES.search(text) for text in messages if text.startswith(about)]
    return max((int(match[1]) for match in found if match), default=0)


def logger(trt: Any) -> Any:
    """Keeps everything that is said; warnings and errors are logged as well."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append(message)
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
                _log.debug("%s", message)

    return Log()


def _monitor(trt: Any, on_progress: Progress | None, canceled: Canceled) -> Any:
    class Monitor(trt.IProgressMonitor):
        """TensorRT nests phases; the outermost one's steps are the progress."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = steps
            self._tell(name, 0)

        def step_complete(self, name: str, step: int) -> bool:
            self._tell(name, step + 1)
            return not canceled()

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)  # also where it failed

        def _tell(self, name: str, done: int) -> None:
            outermost = next(iter(self.phases), name)
            if on_progress is not None and name == outermost and not canceled():
                on_progress(min(1.0, done / max(1, self.phases.get(name, 1))), name)

    return Monitor()
