"""TensorRT engines in the cache, with what is known of them beside the plan."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from engines import onnx_files
from engines.cache import Canceled, EngineCache, EngineKey
from engines.graphs import Graph
from engines.tensorrt.builder import Flavour, Profile, Progress, build
from engines.tensorrt.layers import digest

PLAN: Final = "model.plan"
_FACTS: Final = "facts.json"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the build of an engine said."""

    fused_attention: int
    layers: int
    layers_digest: str
    activation_bytes: int
    weight_bytes: int
    plan_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Target:
    """What an engine is made for: a flavour's GPUs of one compute capability, and shapes."""

    flavour: Flavour
    capability: int | None  # None: `tensorrt` this machine's, `tensorrt-rtx` all that it supports
    profile: Profile


def stored(
    graph: Graph,
    fingerprint: str,
    cache: EngineCache,
    target: Target,
    *,
    on_progress: Progress | None = None,
    canceled: Canceled = lambda: False,
) -> tuple[Path, Facts]:
    """File and facts of a graph's engine in half precision, built where it is not in the cache.

    Raises EngineError and BuildCanceledError as `engines.tensorrt.builder.build` does.
    """
    trt = target.flavour.module()
    capability = target.capability
    if capability is None and target.flavour is Flavour.TENSORRT:
        major, minor = torch.cuda.get_device_capability()
        told = f"sm_{major}{minor} {torch.cuda.get_device_name()}"
    else:
        told = "all" if capability is None else f"sm_{capability}"
    key = EngineKey(
        graph=graph.name,
        source=onnx_files.source(fingerprint),
        backend=str(target.flavour),
        version=str(trt.__version__),
        target=told,
        precision=str(graph.precision(torch.float16)).removeprefix("torch."),
        profile=str(target.profile),
    )

    def make(folder: Path) -> None:
        onnx = onnx_files.exported(graph, fingerprint, cache, torch.float16, canceled)
        built = build(
            onnx,
            target.profile,
            flavour=target.flavour,
            capability=capability,
            timing_cache=cache.folder / f"timings-{trt.__version__}-{told.replace(' ', '-')}.cache",
            on_progress=on_progress,
            canceled=canceled,
        )
        facts = Facts(
            fused_attention=built.fused_attention,
            layers=len(built.layers),
            layers_digest=digest(built.layers),
            activation_bytes=built.activation_bytes,
            weight_bytes=built.weight_bytes,
            plan_bytes=len(built.plan),
            seconds=built.seconds,
        )
        (folder / PLAN).write_bytes(built.plan)
        (folder / _FACTS).write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")

    folder = cache.built(key, make, canceled)
    said: dict[str, Any] = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    return folder / PLAN, Facts(**said)
