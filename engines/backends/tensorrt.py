"""The step networks as TensorRT engines in half precision, on a GPU.

One engine of each graph for all sizes (docs/decisions/0014): rows from one to `MOST_ROWS`, sides up
to a tile. Built on this machine where the cache has none, which takes minutes at the full size.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from engines.backends.compiled import GraphBackend
from engines.cache import EngineCache
from engines.errors import EngineError
from engines.graphs import HEIGHT, ROWS, STEP_GRAPHS, WIDTH, Graph
from engines.tensorrt.builder import Flavour, Profile, logger, profile_of
from engines.tensorrt.runtime import Cuda, Loaded, Runtime, load
from engines.tensorrt.stored import Target, stored

MOST_ROWS: Final = 8  # more are run in turns
_BEST_ROWS: Final = 2  # one restoration with guidance


def flavour() -> Flavour | None:
    """The TensorRT that is installed, the one for data centres first."""
    return next((one for one in Flavour if one.installed), None)


def capability(chosen: Flavour) -> int | None:
    """What engines for this machine's GPU are aimed at, as 89; None where they always are.

    Raises EngineError where it must be known and there is no GPU.
    """
    if chosen is Flavour.TENSORRT:
        return None
    if not torch.cuda.is_available():
        raise EngineError("this machine has no GPU: name a compute capability, as --sm 89")
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def range_of(graph: Graph, least: int, most: int) -> Profile:
    """Sizes an engine serves: sides from `least` to `most` latent pixels, at best the most."""
    return profile_of(
        graph,
        {ROWS: 1, HEIGHT: least, WIDTH: least},
        {ROWS: _BEST_ROWS, HEIGHT: most, WIDTH: most},
        {ROWS: MOST_ROWS, HEIGHT: most, WIDTH: most},
    )


def open_engines(
    table: dict[str, Graph],
    fingerprint: str,
    engine_cache: EngineCache,
    sides: tuple[int, int],
    place: torch.device,
) -> "TensorRtBackend":
    """Load the engines of a step, and build those that are missing.

    sides: the least and the most latent pixels of a side. Raises EngineError where no TensorRT is
    installed, a build fails, or the GPU has too little memory.
    """
    chosen = flavour()
    if chosen is None:
        raise EngineError(f"no TensorRT is installed: pip install {' or '.join(Flavour)}")
    trt, device = chosen.module(), Cuda(place)
    log, aimed, loaded = logger(trt), capability(chosen), dict[str, Loaded]()
    for name in STEP_GRAPHS:
        graph = table[name]
        target = Target(chosen, aimed, range_of(graph, *sides))
        path, facts = stored(graph, fingerprint, engine_cache, target)
        loaded[name] = load(path.read_bytes(), graph, facts.weight_bytes, trt, device, log)
    most = {ROWS: MOST_ROWS, HEIGHT: sides[1], WIDTH: sides[1]}
    runtime = Runtime(loaded, most, torch.float16, trt, device)
    name = f"{chosen} {trt.__version__} {torch.cuda.get_device_name(place)} float16"
    return TensorRtBackend(table, runtime, name)


class TensorRtBackend(GraphBackend):
    """Runs the graphs of a step in half precision."""

    def __init__(self, table: dict[str, Graph], runtime: Runtime, name: str) -> None:
        super().__init__(table, name)
        self._runtime = runtime

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """See `GraphBackend`; at most MOST_ROWS rows at a time."""
        height, width = inputs[0].shape[-2:]
        turns: list[list[Tensor]] = []
        for rows in zip(*(tensor.split(MOST_ROWS) for tensor in inputs), strict=True):
            sizes = {ROWS: len(rows[0]), HEIGHT: height, WIDTH: width}
            turns.append(self._runtime.run(name, rows, sizes))
        return [torch.cat(parts) for parts in zip(*turns, strict=True)] if turns[1:] else turns[0]
