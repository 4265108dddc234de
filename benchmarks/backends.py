"""What runs the networks on this processor: whole restorations, and single step graphs.

`make bench-backends`, or `python -m benchmarks.backends`. Everything that is compared runs in turn
in one process, so that what else the machine does falls on all alike; ratios are medians of
paired runs with the middle 80 % beside them.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

import engines
from engines.backends import openvino
from engines.export import export
from engines.graphs import STEP_GRAPHS, Graph
from engines.restorer import Restorer
from engines.verify.compiled import nano_graphs, on_onnxruntime, on_openvino, wide_graphs

_SIDE_PX = 256
_REFERENCE = "torch"
_ROWS, _SIDE = 2, 64


def in_turn(what: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each, run after run in the same order, after one run that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in what}
    for turn in range(runs + 1):
        for name, run in what.items():
            start = time.perf_counter()
            run()
            if turn:
                taken[name].append(time.perf_counter() - start)
    return taken


def ratios(taken: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """How many times faster than torch each is, with the 10th and the 90th percentile."""
    found: dict[str, dict[str, float]] = {}
    for name, seconds in taken.items():
        pairs = [a / b for a, b in zip(taken[_REFERENCE], seconds, strict=True)]
        low, high = np.percentile(pairs, [10, 90])
        found[name] = {
            "seconds": round(statistics.median(seconds), 4),
            "faster": round(statistics.median(pairs), 2),
            "from": round(float(low), 2),
            "to": round(float(high), 2),
        }
    return found


def restorations(runs: int, folder: Path) -> dict[str, dict[str, float]]:
    """A whole restoration of one 256x256 picture (noise) by nano, preset `balanced`."""
    made = {_REFERENCE: engines.load("nano")}
    for plan in ("difference", "fp8"):  # that make weights of what is kept whenever they are read
        made[f"{_REFERENCE} {plan}"] = engines.load("nano", memory=plan)
    for precision in openvino.precisions():
        name = f"openvino {precision}"
        made[name] = engines.load("nano", backend="openvino", precision=precision, cache=folder)
    values = np.random.default_rng(0).integers(0, 256, (_SIDE_PX, _SIDE_PX, 3), dtype=np.uint8)
    photo = Image.fromarray(values)

    def restore(restorer: Restorer) -> None:
        begun = restorer.begin(photo, restorer.params("balanced"))
        while not begun.done:
            restorer.step([begun])
        restorer.finish(begun)

    what = {name: lambda restorer=restorer: restore(restorer) for name, restorer in made.items()}
    return ratios(in_turn(what, runs))


def steps(table: Mapping[str, Graph], runs: int, folder: Path) -> dict[str, dict[str, float]]:
    """The three graphs of a step, two rows of 64x64 latents each."""
    feeds: dict[str, tuple[torch.Tensor, ...]] = {}
    compiled: dict[str, dict[str, Callable[[dict[str, np.ndarray]], object]]] = {}
    for name in STEP_GRAPHS:
        path = folder / f"{name}.onnx"
        export(table[name], path)
        feeds[name] = table[name].example(_ROWS, _SIDE, _SIDE, torch.float32)
        compiled.setdefault("onnxruntime f32", {})[name] = on_onnxruntime(path)
        for precision in openvino.precisions():
            own = compiled.setdefault(f"openvino {precision}", {})
            own[name] = on_openvino(path, precision)

    def eager() -> None:
        with torch.inference_mode():
            for name in STEP_GRAPHS:
                table[name].module(*feeds[name])

    def run(own: Mapping[str, Callable[[dict[str, np.ndarray]], object]]) -> None:
        for name in STEP_GRAPHS:
            ports = table[name].inputs
            own[name]({p.name: v.numpy() for p, v in zip(ports, feeds[name], strict=True)})

    what: dict[str, Callable[[], object]] = {_REFERENCE: eager}
    for name, own in compiled.items():
        what[name] = lambda own=own: run(own)
    return ratios(in_turn(what, runs))


def main() -> None:
    """Measure, print a table, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backends", description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="that count, of each")
    parser.add_argument("--threads", type=int, help="of all (default: as many as cores)")
    parser.add_argument("--report", type=Path, default=Path("reports/backends.json"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with TemporaryDirectory() as kept:
        folder = Path(kept)
        found = {
            "nano, a whole restoration": restorations(options.runs, folder / "engines"),
            "nano, one step": steps(nano_graphs(), options.runs, folder),
            "SDXL's width, one step": steps(wide_graphs(), options.runs, folder),
        }
    for title, rows in found.items():
        sys.stdout.write(f"{title}, {torch.get_num_threads()} threads\n")
        for name, row in rows.items():
            said = f"{row['faster']:5.2f} times torch ({row['from']:.2f} to {row['to']:.2f})"
            sys.stdout.write(f"  {name:16} {row['seconds']:8.3f} s  {said}\n")
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
