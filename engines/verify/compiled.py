"""Every check of compiled engines that needs no GPU, and its report.

`make verify-engines`, or `python -m engines.verify.compiled`: graphs exported in both precisions,
compared with torch through two libraries at several sizes; recorded runs of the official pipeline
through the compiled backend; and engines of TensorRT-RTX built ahead of time, whose attention must
have been fused. For nano, and for one block of SDXL's width with random weights.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

import engines
from engines.backends import openvino
from engines.export import export
from engines.graph_checks import operators
from engines.graphs import HEIGHT, ROWS, STEP_GRAPHS, WIDTH, Graph, all_graphs
from engines.random_weights import published_step_graphs
from engines.tensorrt.builder import Flavour, build, profile_of
from engines.tensorrt.layers import float32_layers
from engines.verify.__main__ import verify

CAPABILITIES: Final = (80, 89, 120)
SIZES: Final = ((1, 32, 32), (2, 64, 32), (3, 32, 96))  # rows, height and width of latents
# Relative L2 against torch in float32. Half precision computes on rounded weights and inputs.
TOLERANCES: Final = {torch.float32: 1e-5, torch.float16: 5e-3}
FLOAT32_PARTS: Final = ("norm", "ln_")
# One block on each of two levels, as wide as SDXL's first two, with the published adapter.
WIDE: Final[Mapping[str, Any]] = {
    "block_out_channels": [320, 640],
    "attention_head_dim": [5, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 1],
}

Run = Callable[[dict[str, np.ndarray]], list[np.ndarray]]


@dataclass(slots=True)
class Report:
    """What was found; `failed` names what is not as it must be."""

    parity: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    tensorrt_rtx: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    golden: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def says(self, good: bool, text: str) -> None:
        """Tell one finding."""
        sys.stdout.write(f"{'ok' if good else 'FAIL':4}  {text}\n")
        sys.stdout.flush()
        if not good:
            self.failed.append(text)


def nano_graphs() -> dict[str, Graph]:
    """Every graph of the embedded model."""
    restorer = engines.load("nano")
    return all_graphs(restorer.networks, restorer.previewer)


def wide_graphs() -> dict[str, Graph]:
    """The step graphs of WIDE with random weights."""
    return published_step_graphs(WIDE)


def check_parity(report: Report, name: str, graph: Graph, folder: Path) -> None:
    """Export in both precisions, and compare with torch through each library."""
    for dtype in TOLERANCES:
        own = graph.precision(dtype)
        path = folder / f"{graph.name}.{str(dtype).removeprefix('torch.')}.onnx"
        export(graph, path, dtype)
        libraries: dict[str, Run] = {"onnxruntime": on_onnxruntime(path)}
        if own is torch.float32 and openvino.available():
            libraries["openvino"] = on_openvino(path)
        for library, run in libraries.items():
            relative, absolute = apart(graph, run, own)
            backend = library if dtype is torch.float32 else f"{library}_fp16"
            report.parity.setdefault(backend, {})[name] = {
                "max_abs": absolute,
                "relative": relative,
                "tolerance": TOLERANCES[dtype],
            }
            good = relative <= TOLERANCES[dtype]
            report.says(good, f"{name:28} {backend:18} relative {relative:.1e} abs {absolute:.1e}")


def check_tensorrt(report: Report, name: str, graph: Graph, path: Path, capability: int) -> None:
    """Build for a GPU that is not there; every attention must have become one kernel."""
    library: Any = import_module("onnx")
    wanted = operators(library.load(str(path), load_external_data=False))["Softmax"]
    most = {ROWS: 8, HEIGHT: 128, WIDTH: 128}
    least, best = {ROWS: 1, HEIGHT: 32, WIDTH: 32}, {ROWS: 2, HEIGHT: 64, WIDTH: 64}
    built = build(path, profile_of(graph, least, best, most), capability=capability)
    stray = float32_layers(built.layers, FLOAT32_PARTS)
    report.tensorrt_rtx.setdefault(name, {})[f"sm_{capability}"] = {
        "built": bool(built.plan),
        "fused_attention": built.fused_attention,
        "attentions": wanted,
        "float32_layers": len(stray),
        "seconds": built.seconds,
        "bytes": len(built.plan),
        "activation_bytes": built.activation_bytes,
    }
    good = bool(built.plan) and built.fused_attention == wanted and not stray
    text = f"{name:28} sm_{capability:<4} {built.fused_attention}/{wanted} attentions fused"
    more = f", float32 in {', '.join(stray[:3])}" if stray else ""
    report.says(good, f"{text}, {built.seconds:.1f} s, {len(built.plan) / 1e6:.1f} MB{more}")


def check_golden(report: Report, folder: Path) -> None:
    """Recorded runs of the official pipeline, with the step networks compiled, in float32."""
    cases = [case for case in verify(folder, "openvino", "f32") if case.compared]
    bad = [case.name for case in cases if not case.ok]
    report.golden = {"cases": len(cases), "failed": len(bad)}
    good = bool(cases) and not bad
    report.says(good, f"{len(cases)} recorded cases, {len(bad)} failed {' '.join(bad[:5])}")


def main() -> int:
    """Run all checks; 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m engines.verify.compiled", description=__doc__)
    parser.add_argument("--report", type=Path, default=Path("reports/engines.json"))
    parser.add_argument("--golden", type=Path, help="recorded cases, with the model that made them")
    parser.add_argument("--sm", type=int, nargs="*", default=CAPABILITIES, metavar="N")
    args = parser.parse_args()
    report = Report()
    with TemporaryDirectory() as folder:
        for prefix, table in (("", nano_graphs), ("sdxl_width.", wide_graphs)):
            for graph in table().values():
                check_parity(report, prefix + graph.name, graph, Path(folder))
                if graph.name in STEP_GRAPHS and Flavour.RTX.installed:
                    path = Path(folder) / f"{graph.name}.float16.onnx"
                    for capability in args.sm:
                        check_tensorrt(report, prefix + graph.name, graph, path, capability)
    if args.golden and args.golden.is_dir():
        check_golden(report, args.golden)
    else:
        sys.stdout.write(f"no recorded cases in {args.golden}: none was replayed\n")
    if not Flavour.RTX.installed:
        sys.stdout.write("tensorrt-rtx is not installed: no engine was built\n")
    args.report.parent.mkdir(parents=True, exist_ok=True)
    said = {
        "parity": report.parity,
        "tensorrt_rtx": report.tensorrt_rtx,
        "golden": report.golden,
        "failed": report.failed,
    }
    args.report.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(report.failed)} failed; the report is {args.report}\n")
    return 1 if report.failed else 0


def apart(graph: Graph, run: Run, dtype: torch.dtype) -> tuple[float, float]:
    """The worst relative L2 and absolute distance from torch of any output at any size."""
    relative = absolute = 0.0
    for seed, (rows, height, width) in enumerate(SIZES):
        given = graph.example(rows, height, width, torch.float32, seed)
        with torch.inference_mode():
            expected: tuple[Tensor, ...] = graph.module(*given)
        feeds = {
            port.name: (value if port.dtype else value.to(dtype)).numpy()
            for port, value in zip(graph.inputs, given, strict=True)
        }
        for ours, theirs in zip(run(feeds), expected, strict=True):
            off = ours.astype(np.float32) - theirs.numpy()
            relative = max(relative, float(np.linalg.norm(off) / np.linalg.norm(theirs.numpy())))
            absolute = max(absolute, float(np.abs(off).max()))
    return relative, absolute


def on_onnxruntime(path: Path) -> Run:
    """Runs an ONNX file by ONNX Runtime on the processor."""
    library: Any = import_module("onnxruntime")
    options = library.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = library.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def on_openvino(path: Path, precision: str = "f32") -> Run:
    """Runs an ONNX file by OpenVINO on the processor."""
    library: Any = import_module("openvino")
    core = library.Core()
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(core.read_model(path), "CPU", hints).create_infer_request()

    def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        results = request.infer(feeds)
        return [results[index] for index in range(len(results))]

    return run


if __name__ == "__main__":
    sys.exit(main())
