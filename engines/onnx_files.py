"""From a graph of the table to an ONNX file in the cache, which all compilers start from.

What an engine was made from is in its key: weights, the code that makes graphs, and the libraries.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from engines.cache import Canceled, EngineCache, EngineKey
from engines.graphs import Graph

MODEL_FILE = "model.onnx"
DYNAMIC = "any rows, height and width"


def exported(
    graph: Graph,
    fingerprint: str,
    engine_cache: EngineCache,
    dtype: torch.dtype = torch.float32,
    canceled: Canceled = lambda: False,
) -> Path:
    """The ONNX file of a graph, made where it is not in the cache."""
    # What only exports needs the package that they are written with.
    from engines.export import export

    key = EngineKey(
        graph=graph.name,
        source=source(fingerprint),
        backend="onnx",
        version=version("onnx"),
        target="any",
        precision=str(graph.precision(dtype)).removeprefix("torch."),
        profile=DYNAMIC,
    )
    folder = engine_cache.built(key, lambda part: export(graph, part / MODEL_FILE, dtype), canceled)
    return folder / MODEL_FILE


def source(fingerprint: str) -> str:
    """A model's weights, and the code and libraries that make graphs of them."""
    return f"{fingerprint} {_code()} torch {torch.__version__} onnx {version('onnx')}"


@cache
def _code() -> str:
    digest = hashlib.sha256()
    for path in sorted(_sources()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    here = Path(__file__).parent
    yield from (here / name for name in ("graphs.py", "export.py", "attention.py"))
    for part in ("models", "kernels"):
        yield from (here / part).glob("*.py")
