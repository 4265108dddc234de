"""Step graphs on a CUDA device: numbers against float32 on the processor, and speed.

`python -m benchmarks.gpu`. For nano and for SDXL's width: every step graph in float16 with the
fused cross-attention and with the plain one, as ratios of runs in turn. For nano: whole
restorations by torch and, where one of its flavours is installed, by TensorRT, with engines built
for this device, and by torch with the plans that need less memory. Without a CUDA device it says
so and measures nothing.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import engines
from engines.backends import tensorrt
from engines.graphs import STEP_GRAPHS, Graph
from engines.kernels import cross_attention
from engines.memory import OPTIONS
from engines.restorer import Restorer
from engines.verify.compiled import nano_graphs, wide_graphs

_ROWS, _SIDE = 2, 128
_PICTURE_PX = 256


def apart(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    """The worst relative L2 distance of any output."""
    return max(
        float((a.cpu().float() - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True)
    )


def milliseconds(run: Callable[[], object]) -> float:
    """Of one run, by the device's own clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def measure(graph: Graph, runs: int) -> dict[str, Any]:
    """One graph: distance from float32, and how much faster the fused attention makes it."""
    given = graph.example(_ROWS, _SIDE, _SIDE, torch.float32)
    with torch.inference_mode():
        expected = graph.module(*given)
        module = graph.module.to("cuda", torch.float16)
        inputs = tuple(value.to("cuda", torch.float16) for value in given)
        forms = {"fused": cross_attention.best_for, "plain": lambda *_: cross_attention.plain}
        taken: dict[str, list[float]] = {name: [] for name in forms}
        found: dict[str, Any] = {}
        for turn in range(runs + 1):
            for name, chosen in forms.items():
                own, cross_attention.best_for = cross_attention.best_for, chosen
                try:
                    if turn == 0:
                        found[f"{name}_relative"] = apart(module(*inputs), expected)
                    else:
                        taken[name].append(milliseconds(lambda: module(*inputs)))
                finally:
                    cross_attention.best_for = own
    pairs = [a / b for a, b in zip(taken["plain"], taken["fused"], strict=True)]
    found["fused_ms"] = statistics.median(taken["fused"])
    found["fused_faster"] = statistics.median(pairs)
    found["fused_faster_spread"] = [min(pairs), max(pairs)]
    module.to("cpu", torch.float32)
    return found


def restored(restorer: Restorer, preset: str = "balanced") -> tuple[np.ndarray, float]:
    """A picture restored from begin to finish, and the seconds that it took."""
    noise = np.random.default_rng(0).integers(0, 256, (_PICTURE_PX, _PICTURE_PX, 3), np.uint8)
    began = time.perf_counter()
    restoration = restorer.begin(Image.fromarray(noise), restorer.params(preset))
    while not restoration.done:
        restorer.step([restoration])
    picture = restorer.finish(restoration)  # on the processor: the device is done
    return np.asarray(picture).astype(int), time.perf_counter() - began


def whole(restorers: dict[str, Restorer], reference: Restorer, runs: int) -> dict[str, Any]:
    """Restorations by each in turn: seconds, how much faster than the first, grey levels off."""
    expected, _ = restored(reference)
    off = {name: int(abs(restored(one)[0] - expected).max()) for name, one in restorers.items()}
    taken = {name: list[float]() for name in restorers}
    for _ in range(runs):
        for name, one in restorers.items():
            taken[name].append(restored(one)[1])
    first = next(iter(taken.values()))
    return {
        name: {
            "seconds": statistics.median(own),
            "faster": statistics.median(a / b for a, b in zip(first, own, strict=True)),
            "grey_levels_off": off[name],
        }
        for name, own in taken.items()
    }


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--report", type=Path, default=Path("reports/gpu.json"))
    options = parser.parse_args()
    report: dict[str, Any] = {"device": None}
    if torch.cuda.is_available():
        report["device"] = torch.cuda.get_device_name()
        for title, table in (("nano", nano_graphs), ("sdxl_width", wide_graphs)):
            graphs = table()
            for name in STEP_GRAPHS:
                report[f"{title}.{name}"] = found = measure(graphs[name], options.runs)
                sys.stdout.write(f"{title}.{name}: {json.dumps(found)}\n")
        backends = ("torch", "tensorrt") if tensorrt.flavour() else ("torch",)
        with TemporaryDirectory() as folder:
            on_device = {
                name: engines.load("nano", device="cuda", backend=name, cache=Path(folder))
                for name in backends
            }
            for plan in list(OPTIONS)[1:]:
                on_device[plan] = engines.load("nano", device="cuda", memory=plan)
            report["nano"] = whole(on_device, engines.load("nano"), options.runs)
        sys.stdout.write(f"nano: {json.dumps(report['nano'])}\n")
    else:
        sys.stdout.write("no CUDA device: nothing was measured\n")
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
