"""The step networks compiled by OpenVINO: the default on processors.

In float32, or in bfloat16 where the processor multiplies it in hardware (AMX, AVX-512 BF16).
"""

import importlib
import io
import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from engines import onnx_files
from engines.backends.compiled import GraphBackend
from engines.cache import EngineCache, EngineKey
from engines.errors import EngineError
from engines.graphs import STEP_GRAPHS, Graph

_BLOB: Final = "model.blob"
_DEVICE: Final = "CPU"


def available() -> bool:
    """Whether the libraries that compile and run are installed."""
    return all(find_spec(name) is not None for name in ("openvino", "onnx"))


def precisions() -> tuple[str, ...]:
    """Those that this processor has in hardware, the fastest last."""
    able = _core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
    return ("f32", "bf16") if "BF16" in able else ("f32",)


def _core() -> Any:
    library: Any = importlib.import_module("openvino")
    return library.Core()


class OpenVinoBackend(GraphBackend):
    """Runs the graphs of a step on the processor; see `engines.backends.eager.Backend`.

    Raises EngineError for a precision that is none of `precisions()`.
    """

    def __init__(
        self,
        table: dict[str, Graph],
        fingerprint: str,
        engine_cache: EngineCache,
        precision: str = "f32",
    ) -> None:
        able = precisions()
        if precision not in able:
            raise EngineError(f"precision is {precision!r}, this processor has: {', '.join(able)}")
        super().__init__(table, f"openvino {version('openvino')} cpu {precision}")
        self._core = _core()
        self.precision = precision
        self._threads = torch.get_num_threads()
        self._requests = {
            name: self._compiled(table[name], fingerprint, engine_cache) for name in STEP_GRAPHS
        }

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """See `GraphBackend`."""
        request = self._requests[name]
        given = [tensor.contiguous().numpy() for tensor in inputs]
        results = request.infer(given, share_inputs=True, share_outputs=False)
        return [torch.from_numpy(results[index]) for index in range(len(results))]

    def _compiled(self, graph: Graph, fingerprint: str, engine_cache: EngineCache) -> Any:
        key = EngineKey(
            graph=graph.name,
            source=onnx_files.source(fingerprint),
            backend="openvino",
            version=version("openvino"),
            target=f"{platform.machine()} {self._core.get_property(_DEVICE, 'FULL_DEVICE_NAME')} "
            f"{' '.join(self._core.get_property(_DEVICE, 'OPTIMIZATION_CAPABILITIES'))}",
            precision=self.precision,
            profile=onnx_files.DYNAMIC,
        )
        settings = {
            "INFERENCE_NUM_THREADS": self._threads,
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
        }

        def make(folder: Path) -> None:
            file = onnx_files.exported(graph, fingerprint, engine_cache)
            model = self._core.compile_model(self._core.read_model(file), _DEVICE, settings)
            (folder / _BLOB).write_bytes(_bytes(model.export_model()))

        blob = (engine_cache.built(key, make) / _BLOB).read_bytes()
        model = self._core.import_model(io.BytesIO(blob), _DEVICE, settings)
        return model.create_infer_request()


def _bytes(exported: Any) -> bytes:
    return exported if isinstance(exported, bytes) else exported.getvalue()
